#!/usr/bin/env python3
"""What guests feel of a job on their disk, with and without `volumes.yield`.

The disk is a file in memory that qemu-storage-daemon serves at a rate that is known, behind a loop device with ext4: a
device of one queue, the same for every contender, whatever else the machine does. On it are the volumes, the cache and
the guest's file. The guest is fio at a rhythm, in a control group machine.slice of its own. In each round fio
first runs alone, then beside a job of one kind, then beside one of the other; then a job of each kind runs alone.

    bench/yielding.py target/debug/libvirt-volume-provisioner [--rounds 3] [--rate 150] [--directory /dev/shm]

Needs root, loop devices, /dev/fuse, qemu-storage-daemon, fio and rclone. Writes bench/results/yielding.json and
docs/yielding.svg.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request

from measure import output, progress, run
from service import Daemon, S3Server, wait_for

MIB = 1 << 20
# A small database's rhythm: seven of ten requests read.
GUEST = ["--rw=randrw", "--rwmixread=70", "--bs=4k", "--iodepth=4", "--rate_iops=140,60"]
ALONE_S = 10
BESIDE_S = 12
# The device and the guest do not wait for whatever else this machine computes.
AHEAD = ["nice", "-n", "-15"]
SLICES = [pathlib.Path("/sys/fs/cgroup"), pathlib.Path("/sys/fs/cgroup/unified")]
BOARD = pathlib.Path(__file__).resolve().parent


class SlowDisk:
    """A file system on a device that moves so many MiB per second, in both directions together."""

    def __init__(self, directory, mib, mib_per_s):
        self.directory = directory
        disk, served = directory / "disk", directory / "served"
        with open(disk, "wb") as file:
            file.truncate(mib * MIB)
        served.touch()
        self.mounted = directory / "mounted"
        self.mounted.mkdir()
        self.server = subprocess.Popen([
            *AHEAD, "qemu-storage-daemon", "--object", f"throttle-group,id=slow,x-bps-total={mib_per_s * MIB}",
            "--blockdev", f"driver=file,node-name=file,filename={disk}",
            "--blockdev", "driver=throttle,throttle-group=slow,node-name=throttled,file=file",
            "--export", f"fuse,id=export,node-name=throttled,mountpoint={served},writable=on,allow-other=off"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: served.stat().st_size == mib * MIB, "the served file")
        self.served = served
        self.loop = output("losetup", "--find", "--show", str(served)).strip()
        run(["mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", self.loop])
        run(["mount", self.loop, str(self.mounted)])

    def close(self):
        """Takes it apart."""
        run(["umount", str(self.mounted)])
        run(["losetup", "--detach", self.loop])
        subprocess.run(["umount", "--lazy", str(self.served)], check=False)
        self.server.terminate()
        self.server.wait()


class Slice:
    """The guests' control group, where there is none yet."""

    def __init__(self):
        roots = [root for root in SLICES if (root / "cgroup.procs").exists() and (root / "cgroup.controllers").exists()]
        self.path = roots[0] / "machine.slice" if roots else None
        self.made = self.path is not None and not self.path.exists()
        if self.made:
            self.path.mkdir()

    def enter(self):
        """Of a child, before it becomes fio."""
        if self.path:
            (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def close(self):
        """Removes it."""
        if self.made:
            self.path.rmdir()


def fio(slice_, place, seconds):
    """The guest; its percentiles in milliseconds."""
    command = [*AHEAD, "fio", "--name=guest", f"--filename={place}", "--size=512M", "--direct=1", "--ioengine=libaio",
               "--time_based", f"--runtime={seconds}", "--output-format=json", "--percentile_list=50:99:99.9", *GUEST]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, preexec_fn=slice_.enter)
    job = json.loads(done.stdout)["jobs"][0]
    found = {}
    for way in ("read", "write"):
        points = job[way]["clat_ns"]["percentile"]
        found[way] = {"p50": points["50.000000"] / 1e6, "p99": points["99.000000"] / 1e6,
                      "p99.9": points["99.900000"] / 1e6, "count": job[way]["total_ios"]}
    return found


class Curve:
    """Twice a second, what the daemon moves and decides, and what the kernel counted of reads and of the guests."""

    def __init__(self, daemon, disk, slice_):
        self.daemon, self.rows, self.over = daemon, [], threading.Event()
        self.stat = pathlib.Path("/sys/block") / pathlib.Path(disk.loop).name / "stat"
        self.pressure = slice_.path / "io.pressure" if slice_.path else None
        self.begin = time.monotonic()
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def counted(self):
        """Reads, their wait in ms, and how long tasks of the guests have stood still in us."""
        words = self.stat.read_text().split()
        stalled = re.search(r"some .*total=(\d+)", self.pressure.read_text()) if self.pressure else None
        return int(words[0]), int(words[3]), int(stalled.group(1)) if stalled else 0

    def read(self):
        last, before = None, self.counted()
        while not self.over.wait(0.5):
            with urllib.request.urlopen(self.daemon.url + "/metrics") as answer:
                text = answer.read().decode()
            value = {name: float(number) for name, number in
                     re.findall(r"^libvirt_volume_provisioner_(\S+) (\S+)$", text, re.MULTILINE)}
            now = time.monotonic()
            moved = (sum(value[f'transferred_bytes_total{{direction="{way}"}}'] for way in ("read", "written"))
                     if 'transferred_bytes_total{direction="read"}' in value else 0)
            after = self.counted()
            reads, wait_ms, stalled_us = (new - old for new, old in zip(after, before))
            passed = now - (last[0] if last else self.begin)
            before = after
            self.rows.append({
                "t": now - self.begin, "rate": value["yield_rate_bytes_per_second"],
                # As the daemon does it: of a job that reads nothing from its disk, and so the guest's alone.
                "wait": wait_ms / 1e3 / reads if reads >= 4 else 0.0, "bearable": value["yield_bearable_wait_seconds"],
                "pressure": min(1.0, stalled_us / 1e6 / passed),
                "moved": (moved - last[1]) / (now - last[0]) if last else 0.0})
            last = (now, moved)

    def close(self):
        """The rows."""
        self.over.set()
        self.thread.join()
        return self.rows


def submit(daemon, image_mib):
    """The job's id."""
    body = {"image_url": "s3://images/disk.raw", "image_type": "raw", "volume_name": "vm",
            "volume_size_bytes": image_mib * MIB}
    return daemon.call("/api/v1/jobs", body)["job_id"]


def beside(program, disk, server, slice_, yields, image_mib):
    """One job beside fio, after fio alone."""
    log = disk.directory / "daemon.log"
    log.unlink(missing_ok=True)
    daemon = Daemon(program, disk.mounted / "daemon", server.endpoint, f"volumes.yield={yields}",
                    "logging.level=debug", f"logging.file={log}")
    guest = disk.mounted / "guest.raw"
    curve = Curve(daemon, disk, slice_)
    try:
        alone = fio(slice_, guest, ALONE_S)
        begin = time.monotonic()
        marks = {"job": begin - curve.begin}
        job = submit(daemon, image_mib)
        together = fio(slice_, guest, BESIDE_S)
        marks["gone"] = time.monotonic() - curve.begin
        still_runs = daemon.status(job)["status"] == "running"
        daemon.finish([job])
        took = time.monotonic() - begin
        marks["end"] = time.monotonic() - curve.begin
        bound = daemon.status(job)["bound"]
    finally:
        rows = curve.close()
        daemon.close()
        shutil.rmtree(disk.mounted / "daemon")
    return {"alone": alone, "beside": together, "took_s": took, "still_ran": still_runs, "bound": bound,
            "marks": marks, "curve": rows, "steps": steps(log)}


def steps(log):
    """What the controller was told and what it decided: passed us, L in us, P, own bytes per second, rate."""
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return [[line.get(name) for name in ("passed_us", "wait_us", "pressure", "own_bytes_per_sec", "rate")]
            for line in lines if line["message"] == "Measured"]


def job_alone(program, disk, server, yields, image_mib):
    """Seconds of a job for which nobody has to wait."""
    daemon = Daemon(program, disk.mounted / "daemon", server.endpoint, f"volumes.yield={yields}")
    try:
        time.sleep(6)
        begin = time.monotonic()
        daemon.finish([submit(daemon, image_mib)])
        return time.monotonic() - begin
    finally:
        daemon.close()
        shutil.rmtree(disk.mounted / "daemon")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=150, help="of the disk, in MiB per second")
    parser.add_argument("--mib", type=int, default=1024, help="of the image")
    parser.add_argument("--directory", type=pathlib.Path, default="/dev/shm", help="of the disk's file")
    given = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="lvp-yield-", dir=given.directory))
    # The store is in memory: it must not be a user of any disk.
    store = pathlib.Path(tempfile.mkdtemp(prefix="lvp-yield-", dir="/dev/shm"))
    slice_, disk, server = Slice(), None, None
    rounds, load = [], []
    try:
        disk = SlowDisk(work, 3 * given.mib + 1024, given.rate)
        bucket = store / "images"
        bucket.mkdir()
        with open(bucket / "disk.raw", "wb") as file:
            for _ in range(given.mib):
                file.write(os.urandom(MIB))
        server = S3Server(store, 19877)
        fio(slice_, disk.mounted / "guest.raw", 1)
        for number in range(given.rounds):
            found = {}
            for yields in ("auto", "off") if number % 2 == 0 else ("off", "auto"):
                load.append(os.getloadavg()[0])
                found[yields] = beside(given.program, disk, server, slice_, yields, given.mib)
                show(number, yields, found[yields])
            for yields in ("auto", "off") if number % 2 == 0 else ("off", "auto"):
                found[yields]["job_alone_s"] = job_alone(given.program, disk, server, yields, given.mib)
                progress(f"  {number} {yields}: alone the job took {found[yields]['job_alone_s']:.1f} s")
            rounds.append(found)
    finally:
        if server:
            server.close()
        if disk:
            disk.close()
        slice_.close()
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(store, ignore_errors=True)
    result = {"disk_mib_per_s": given.rate, "image_mib": given.mib, "load": load, "rounds": rounds,
              "has_slice": slice_.path is not None}
    trace(rounds[0]["auto"].pop("steps"), BOARD.parent / "crates/daemon/src/guests/controller/trace.csv")
    for found in rounds:
        for one in found.values():
            one.pop("steps", None)
    (BOARD / "results" / "yielding.json").write_text(json.dumps(result, indent=1) + "\n")
    (BOARD.parent / "docs" / "yielding.svg").write_text(picture(rounds[0], given.rate))
    table(result)


def trace(found, path):
    """The first run with the controller, which its test replays."""
    text = "".join(",".join("" if value is None else str(value) for value in step) + "\n" for step in found)
    path.write_text("passed_us,wait_us,pressure,own_bytes_per_sec,rate\n" + text)


def show(number, yields, found):
    """One line for each run."""
    numbers = " ".join(f"{way} p99 {found['alone'][way]['p99']:.2f} -> {found['beside'][way]['p99']:.2f} ms"
                       for way in ("read", "write"))
    progress(f"  {number} {yields}: {numbers}; job {found['took_s']:.1f} s, ran to the end of fio: {found['still_ran']}")


def table(result):
    """The figures of the page, as Markdown."""
    median = statistics.median
    print("| | reads p50 / p99 | writes p50 / p99 | job beside the guest | job alone |\n|---|---|---|---|---|")
    rounds = result["rounds"]
    every = [found[yields]["alone"] for found in rounds for yields in found]

    def cell(all_, way):
        return " / ".join(f"{median(one[way][point] for one in all_):.2f} ms" for point in ("p50", "p99"))

    print(f"| nobody else | {cell(every, 'read')} | {cell(every, 'write')} | | |")
    for yields in ("auto", "off"):
        found = [one[yields] for one in rounds]
        together = [one["beside"] for one in found]
        print(f"| `volumes.yield: {yields}` | {cell(together, 'read')} | {cell(together, 'write')} "
              f"| {median(one['took_s'] for one in found):.1f} s | {median(one['job_alone_s'] for one in found):.1f} s |")
    ratio = median(one["off"]["job_alone_s"] / one["auto"]["job_alone_s"] for one in rounds)
    print(f"\nThroughput alone, auto of off, the median of pairs: {ratio:.2f}. Load of the machine: "
          f"{min(result['load']):.1f} to {max(result['load']):.1f}.")


def picture(found, disk_mib):
    """Rate, what was moved, L and P over time, with and without, as SVG."""
    width, height, left, gap = 760, 150, 62, 34
    longest = max(found[yields]["marks"]["end"] for yields in found) + 1
    rows = [("MiB/s", disk_mib * 1.15, [("moved", "#2f6fd0", MIB), ("rate", "#b3261e", MIB)]),
            ("L in ms", None, [("wait", "#1a7237", 1e-3), ("bearable", "#56606b", 1e-3)]),
            ("P in %", 100.0, [("pressure", "#8a5300", 0.01)])]
    # A few of the longest are cut off: they would hide all others.
    waits = sorted(row["wait"] * 1e3 for yields in found for row in found[yields]["curve"])
    top_wait = max(waits[int(len(waits) * 0.97)] if waits else 1.0, 1.0) * 1.1
    total = 2 * (3 * (height + gap) + 40)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" font-family="sans-serif" '
             f'font-size="12"><rect width="{width}" height="{total}" fill="#ffffff"/>']
    y = 24
    for yields, title in (("auto", "volumes.yield: auto"), ("off", "volumes.yield: off")):
        parts.append(f'<text x="{left}" y="{y}" font-weight="bold">{title}</text>')
        y += 12
        for label, top, series in rows:
            top = top or top_wait
            x_of = lambda t: left + t / longest * (width - left - 12)
            y_of = lambda v: y + height - min(v, top) / top * height
            parts.append(f'<rect x="{left}" y="{y}" width="{width - left - 12}" height="{height}" fill="#f6f7f9" stroke="#d9dde3"/>')
            for share in (0, 0.5, 1):
                parts.append(f'<text x="{left - 6}" y="{y_of(top * share) + 4:.0f}" text-anchor="end" fill="#5a636e">{top * share:.3g}</text>')
            parts.append(f'<text x="{left + 6}" y="{y + 15}" fill="#1b1f24">{label}: ' + ", ".join(
                f'<tspan fill="{color}">{name}</tspan>' for name, color, _ in series) + "</text>")
            for mark, word in (("job", "the job begins"), ("gone", "the guest is gone"), ("end", "the job has ended")):
                x = x_of(found[yields]["marks"][mark])
                parts.append(f'<line x1="{x:.1f}" y1="{y}" x2="{x:.1f}" y2="{y + height}" stroke="#9aa3ad" stroke-dasharray="3 3"/>')
                if label == "MiB/s":
                    low, anchor = (32, "end") if mark == "end" else (5, "start")
                    parts.append(f'<text x="{x + 3:.1f}" y="{y + height - low}" text-anchor="{anchor}" fill="#5a636e" font-size="10">{word}</text>')
            for name, color, unit in series:
                # No limit is no line.
                runs, run_ = [], []
                for row in found[yields]["curve"]:
                    if name == "rate" and row["rate"] == 0:
                        runs.append(run_)
                        run_ = []
                        continue
                    run_.append(f"{x_of(row['t']):.1f},{y_of(row[name] / unit):.1f}")
                for points in [*runs, run_]:
                    if points:
                        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{color}" stroke-width="1.5"/>')
            for second in range(0, int(longest) + 1, 10):
                parts.append(f'<text x="{x_of(second):.0f}" y="{y + height + 14}" text-anchor="middle" fill="#5a636e">{second} s</text>')
            y += height + gap
        y += 28
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    main()
