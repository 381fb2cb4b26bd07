"""Benchmarks with an S3 server and the daemon: cold starts, memory, load, many requests at once."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request

from measure import (Contender, Cost, Failed, alternate, best_setting, output, progress, run,
                     run_printing)
from targets import LoopDevice, check
from warm import QEMU_SETTINGS, qemu_img

ACCESS_KEY = "test-access"
SECRET_KEY = "test-secret-0123456789"
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
GIGABIT = "119.2M"  # 10^9 bits per second, in rclone's MiB per second


class S3Server:
    """rclone's S3 server over a directory."""

    def __init__(self, directory, port, limit=None):
        flags = ["--bwlimit", limit] if limit else []
        self.endpoint = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            ["rclone", "serve", "s3", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}",
             "--addr", f"127.0.0.1:{port}", *flags, str(directory)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: answers(self.endpoint), "the S3 server")

    def cpu_s(self):
        """CPU seconds so far."""
        return cpu_s(self.process.pid)

    def close(self):
        """Stops it."""
        self.process.terminate()
        self.process.wait()

    def curl(self, key, target):
        """Downloads an object with curl."""
        return ["curl", "-sSf", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user",
                f"{ACCESS_KEY}:{SECRET_KEY}", f"{self.endpoint}/images/{key}", "-o", str(target)]


class Daemon:
    """The daemon over a directory: volumes are files in it."""

    def __init__(self, program, directory, endpoint, *settings, token=None):
        self.token = token
        shutil.rmtree(directory, ignore_errors=True)
        for name in ("cache", "volumes"):
            (directory / name).mkdir(parents=True)
        self.volumes = directory / "volumes"
        self.cache = directory / "cache"
        port = 19880
        command = [str(program), "serve", "--config", "/dev/null"]
        values = {
            "server.port": port, "server.db_path": directory / "jobs.db",
            "minio.endpoint": endpoint, "minio.access_key": ACCESS_KEY,
            "minio.secret_key": SECRET_KEY, "libvirt.enabled": "false",
            "volumes.backend": "dir", "volumes.dir": self.volumes, "cache.dir": self.cache,
            # The store reads from the same disk, and would be taken for a guest.
            "logging.level": "warn", "volumes.yield": "off",
        }
        values.update(setting.split("=", 1) for setting in settings)
        for key, value in values.items():
            command += ["--set", f"{key}={value}"]
        self.url = f"http://127.0.0.1:{port}"
        # A separate control group shows which pages of the page cache are the daemon's.
        self.group = MemoryGroup.make()
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL,
                                        preexec_fn=self.group.enter)
        wait_for(lambda: answers(self.url + "/livez"), "the daemon")
        if self.process.poll() is not None:
            raise Failed(f"another daemon is at {self.url}: stop it first")

    def submit(self, image, volume, size_gb):
        """Asks for a volume; the job's id."""
        body = {"image_url": f"s3://images/{image}", "volume_name": volume,
                "volume_size_gb": size_gb}
        return self.call("/api/v1/jobs", body)["job_id"]

    def status(self, job):
        """A job's status object."""
        return self.call(f"/api/v1/jobs/{job}")

    def finish(self, jobs, meanwhile=lambda: None):
        """Waits until the jobs have completed: asks for one at a time, and not so often that it costs
        the daemon anything."""
        def completed(job):
            state = self.status(job)
            meanwhile()
            if state["status"] in ("failed", "cancelled"):
                raise Failed(f"the job {state['status']}: {state['error']}")
            return state["status"] == "completed"

        for job in jobs:
            wait_for(lambda job=job: completed(job), f"the job {job}", deadline_s=1800)

    def peak_rss_kib(self):
        """The greatest memory so far, VmHWM of proc_pid_status(5)."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status).group(1))

    def forget(self):
        """Removes volumes and cached images."""
        for image in self.call("/api/v1/cache/images")["images"]:
            request = urllib.request.Request(
                f"{self.url}/api/v1/cache/images/{image['checksum']}", method="DELETE", headers=self.headers())
            urllib.request.urlopen(request).close()
        for path in self.volumes.iterdir():
            if path.is_file():
                path.unlink()
        os.sync()

    def close(self):
        """Stops it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.group.close()

    def headers(self):
        """Of every call."""
        headers = {"Content-Type": "application/json"}
        return headers | {"Authorization": f"Bearer {self.token}"} if self.token else headers

    def call(self, path, body=None):
        """A call of the API; its answer."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, self.headers())
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Failed(f"{path}: {error.code} {error.read().decode()}") from error


class MemoryGroup:
    """A memory control group, version 1 or 2, if one can be created."""

    def __init__(self, path):
        self.path = path

    @classmethod
    def make(cls):
        """A new group, or one that does nothing."""
        for root in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup"):
            path = pathlib.Path(root) / "lvp-bench"
            try:
                path.mkdir(exist_ok=True)
            except OSError:
                continue
            if (path / "memory.stat").exists():
                return cls(path)
        return cls(None)

    def enter(self):
        """Runs in the child, before the program starts."""
        if self.path:
            (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def page_cache_mib(self):
        """Pages of files that this group brought in."""
        if not self.path:
            return None
        stat = (self.path / "memory.stat").read_text()
        return int(re.search(r"^(?:cache|file) (\d+)", stat, re.M).group(1)) / (1 << 20)

    def close(self):
        """Removes it."""
        if self.path:
            wait_for(self._remove, "the control group to be empty")

    def _remove(self):
        try:
            self.path.rmdir()
        except OSError:
            return False
        return True


def as_if_elsewhere():
    """Runs in the child: it stands for a client on another machine, so that its own waiting for a
    core is not what is measured."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def wait_for(condition, what, deadline_s=30):
    """Waits until a condition holds."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"waited {deadline_s} s for {what}")
        time.sleep(0.02)


def answers(url):
    """Whether a server answers, with any status."""
    try:
        urllib.request.urlopen(url).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def cpu_s(pid):
    """utime and stime of proc_pid_stat(5)."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def forget_pages():
    """Empties the page cache: a cold start."""
    os.sync()
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def bucket(directory, image, name):
    """A bucket with the image and its digest."""
    objects = directory / "s3" / "images"
    shutil.rmtree(objects, ignore_errors=True)
    objects.mkdir(parents=True)
    os.link(image, objects / name)
    digest = output("sha256sum", image).split()[0]
    (objects / f"{name}.sha256").write_text(f"{digest}  {name}\n")
    return objects.parent


def one_pass(bench, server, key, target, directory):
    """The daemon's job, in a process of its own, onto a block device. Its wall time is the job's."""
    command = [bench.one_pass, server.endpoint, f"images/{key}", target.path]

    def work():
        cost, printed = run_printing(command, cwd=directory)
        return dataclasses.replace(cost, wall_s=json.loads(printed)["wall_s"])

    return work


def cold(bench, directory, limit=None):
    """From an S3 server to a block device: our single pass, and the separate steps of other tools."""
    image = bench.images.qcow2("files", "zlib")
    raw = bench.images.raw("files")
    root = bucket(directory, image, "disk.qcow2")
    server = S3Server(root, 19876, limit)
    target = LoopDevice(directory, os.path.getsize(raw))
    download = directory / "download"
    build = qemu_img(image, "qcow2", target, raw)
    try:
        # The settings are chosen on the image in the page cache, as the download leaves it there.
        qemu = None
        if not limit:
            run(["cat", image])
            qemu, _ = best_setting(QEMU_SETTINGS, build)

        def sequence():
            convert = ["qemu-img", "convert", *qemu.note.split(), "-f", "qcow2", "-O", "raw",
                       download, target.path]
            return run(server.curl("disk.qcow2", download), ["sha256sum", download], convert,
                       ["sync", "-d", target.path])

        server_cpu = []

        def download_alone():
            before = server.cpu_s()
            cost = run(server.curl("disk.qcow2", "/dev/null"))
            server_cpu.append(server.cpu_s() - before)
            return cost

        def forgotten():
            download.unlink(missing_ok=True)
            forget_pages()

        def reads(path):
            """Only what is read is in the page cache."""
            def prepare():
                forgotten()
                run(["cat", path])
            return prepare

        contenders = [
            Contender("one pass", one_pass(bench, server, "disk.qcow2", target, directory),
                      before=forgotten, after=lambda: check(raw, target)),
            Contender("download alone", download_alone, before=forgotten),
        ]
        if not limit:
            dense = bench.images.dense("files")
            contenders += [
                Contender("device write alone", lambda: run(
                    ["dd", f"if={dense}", f"of={target.path}", "bs=4M", "oflag=direct",
                     "conv=fsync,nocreat", "status=none"]), before=reads(dense)),
                # With an implementation that uses the CPU's instructions, which sha256sum may not do.
                Contender("digest alone", lambda: run(["openssl", "dgst", "-sha256", image]),
                          before=reads(image)),
                Contender("decode and write alone", lambda: run(
                    [bench.program, "image", "convert", "--one-pass", image, target.path]),
                    before=reads(image)),
                Contender("download, sha256sum, qemu-img convert", sequence, before=forgotten,
                          after=lambda: check(raw, target), note=qemu.note),
            ]
        costs = alternate(contenders, bench.runs)
    finally:
        target.close()
        server.close()
        download.unlink(missing_ok=True)
    return {
        "image_bytes": os.path.getsize(image), "data_bytes": os.stat(raw).st_blocks * 512,
        "cores": os.cpu_count() or 1, "limit": limit, "server_cpu_s": statistics.median(server_cpu),
        "results": [bench.result(contender, costs[contender.name]) for contender in contenders],
    }


def memory(bench, directory, times):
    """Two jobs at once with large images: memory of the daemon, page cache of the host."""
    image = bench.images.repeated(times, "zstd")
    virtual_gb = (times * bench.images.size_mib + 1023) // 1024
    root = bucket(directory, image, "large.qcow2")
    # Two objects, so that both jobs download.
    os.link(root / "images/large.qcow2", root / "images/other.qcow2")
    digest = (root / "images/large.qcow2.sha256").read_text().split()[0]
    (root / "images/other.qcow2.sha256").write_text(digest + "  other.qcow2\n")
    server = S3Server(root, 19876)
    daemon = Daemon(bench.program, directory / "daemon", server.endpoint)
    peak = 0.0
    try:
        forget_pages()

        def look():
            nonlocal peak
            peak = max(peak, daemon.group.page_cache_mib() or 0.0)

        look()
        before = peak
        begin = time.monotonic()
        jobs = [daemon.submit("large.qcow2", "one", virtual_gb),
                daemon.submit("other.qcow2", "two", virtual_gb)]
        daemon.finish(jobs, look)
        wall_s = time.monotonic() - begin
        result = {
            "virtual_gib": virtual_gb, "image_bytes": os.path.getsize(image),
            "written_bytes": sum(path.stat().st_blocks * 512 for path in daemon.volumes.iterdir()),
            "wall_s": wall_s, "cpu_s": cpu_s(daemon.process.pid),
            "peak_rss_mib": daemon.peak_rss_kib() / 1024,
            "page_cache_growth_mib": peak - before if daemon.group.path else None,
        }
        progress(f"  {result}")
    finally:
        daemon.close()
        server.close()
        shutil.rmtree(directory / "daemon")
    return result


def load(bench, directory):
    """1,000 status requests a second while two jobs run."""
    image = bench.images.qcow2("files", "zlib")
    root = bucket(directory, image, "disk.qcow2")
    os.link(root / "images/disk.qcow2", root / "images/other.qcow2")
    server = S3Server(root, 19876)
    daemon = Daemon(bench.program, directory / "daemon", server.endpoint)
    size_gb = (bench.images.size_mib + 1023) // 1024
    latencies = []

    def jobs_run(with_load):
        def work():
            begin = time.monotonic()
            jobs = [daemon.submit("disk.qcow2", "one", size_gb),
                    daemon.submit("other.qcow2", "two", size_gb)]
            generator = None
            if with_load:
                generator = subprocess.Popen(
                    [bench.status_load, f"{daemon.url}/api/v1/jobs/{jobs[0]}", "1000"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                    preexec_fn=as_if_elsewhere)
            before = cpu_s(daemon.process.pid)
            while any(daemon.status(job)["status"] in ("pending", "running") for job in jobs):
                time.sleep(0.1)
            wall_s = time.monotonic() - begin
            if generator:
                # It stops when its standard input ends.
                found, _ = generator.communicate()
                latencies.append(json.loads(found))
                progress(f"  {found.strip()}")
            daemon.finish(jobs)
            return Cost(wall_s, cpu_s(daemon.process.pid) - before, daemon.peak_rss_kib())

        return work

    contenders = [
        Contender("two jobs", jobs_run(False), before=daemon.forget),
        Contender("two jobs, 1,000 requests/s", jobs_run(True), before=daemon.forget),
    ]
    try:
        costs = alternate(contenders, bench.runs)
    finally:
        daemon.close()
        server.close()
        shutil.rmtree(directory / "daemon")
    return {
        "requests": sum(found["requests"] for found in latencies),
        "errors": sum(found["errors"] for found in latencies),
        "rate": statistics.median(found["rate"] for found in latencies),
        "p50_ms": statistics.median(found["p50_ms"] for found in latencies),
        "p99_ms": statistics.median(found["p99_ms"] for found in latencies),
        "p99_ms_worst": max(found["p99_ms"] for found in latencies),
        "max_ms": max(found["max_ms"] for found in latencies),
        "results": [bench.result(contender, costs[contender.name]) for contender in contenders],
    }


HUNDRED_MODES = {"unpacked": "cache.unpacked=auto", "decoding": "cache.unpacked=never"}


def hundred(bench, directory):
    """100 requests for one image at once, with an unpacked copy in the cache and without, by turns."""
    image = bench.images.qcow2("files", "zlib", "64k", 256)
    raw = bench.images.raw("files", 256)
    root = bucket(directory, image, "disk.qcow2")
    server = S3Server(root, 19876)
    counter = ByteCounter(19877, 19876)
    # The device's own speed, in the same run: the same data in new files, written by dd.
    dense = directory / "dense"
    shutil.copy(raw, dense)
    probe = directory / "probe"
    probes = []

    def copies():
        command = ["dd", f"if={dense}", f"of={probe}", "bs=4M", "oflag=direct", "conv=fsync",
                   "status=none"]
        for _ in range(5):
            probe.unlink(missing_ok=True)
            os.sync()
            probes.append(run(command).wall_s)

    rounds = {mode: [] for mode in HUNDRED_MODES}
    try:
        for _ in range(max(bench.runs // 2, 1)):
            for mode, setting in HUNDRED_MODES.items():
                copies()
                rounds[mode].append(hundred_once(bench, directory, raw, counter, setting))
                progress(f"  {mode}: {rounds[mode][-1]}")
        copies()
    finally:
        counter.close()
        server.close()
        probe.unlink(missing_ok=True)
        dense.unlink()

    def middle(mode, what):
        return statistics.median(row[what] for row in rounds[mode])

    result = {
        "image_bytes": os.path.getsize(image), "data_bytes": os.stat(raw).st_blocks * 512,
        "wall_s": middle("unpacked", "wall_s"), "served_bytes": middle("unpacked", "served_bytes"),
        "written_bytes": middle("unpacked", "written_bytes"),
        "mib_per_s": middle("unpacked", "mib_per_s"), "cpu_s": middle("unpacked", "cpu_s"),
        "decoding_wall_s": middle("decoding", "wall_s"),
        "decoding_mib_per_s": middle("decoding", "mib_per_s"),
        "decoding_cpu_s": middle("decoding", "cpu_s"),
        "dd_mib_per_s": os.path.getsize(raw) / statistics.median(probes) / (1 << 20),
        "dd_mib_per_s_min": os.path.getsize(raw) / max(probes) / (1 << 20),
        "dd_mib_per_s_max": os.path.getsize(raw) / min(probes) / (1 << 20),
    }
    progress(f"  {result}")
    return result


def hundred_once(bench, directory, raw, counter, setting):
    """One daemon, and 100 requests."""
    counter.bytes = 0
    daemon = Daemon(bench.program, directory / "daemon", counter.endpoint, setting)
    try:
        begin = time.monotonic()
        jobs = [daemon.submit("disk.qcow2", f"volume-{number}", 1) for number in range(100)]
        daemon.finish(jobs)
        wall_s = time.monotonic() - begin
        found = [path for path in daemon.volumes.iterdir()
                 if path.is_file() and path.name.startswith("volume-")
                 and path.stat().st_size >= 1 << 20]
        written = sum(path.stat().st_blocks * 512 for path in found)
        spent_s = cpu_s(daemon.process.pid)
        for path in found:
            output("cmp", "-n", str(os.path.getsize(raw)), raw, path)
        return {"wall_s": wall_s, "served_bytes": counter.bytes, "written_bytes": written,
                "mib_per_s": written / wall_s / (1 << 20), "cpu_s": spent_s}
    finally:
        daemon.close()
        shutil.rmtree(directory / "daemon")


class ByteCounter:
    """Passes TCP on and counts the bytes that come back."""

    def __init__(self, port, upstream):
        self.bytes = 0
        self.endpoint = f"http://127.0.0.1:{port}"
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._upstream))
            for source, target, counted in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass, args=(source, target, counted),
                                 daemon=True).start()

    def _pass(self, source, target, counted):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                if counted:
                    self.bytes += len(data)
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self):
        """Stops taking connections."""
        self._listener.close()


def read_limit(bench, directory):
    """How well `minio.max_read_bytes_per_sec` holds."""
    image = bench.images.qcow2("files", "zlib", "64k", 2048)
    root = bucket(directory, image, "disk.qcow2")
    server = S3Server(root, 19876)
    rows = []
    try:
        for mib_per_s in (32, 64):
            daemon = Daemon(bench.program, directory / "daemon", server.endpoint,
                            f"minio.max_read_bytes_per_sec={mib_per_s << 20}")
            try:
                begin = time.monotonic()
                daemon.finish([daemon.submit("disk.qcow2", "one", 2)])
                wall_s = time.monotonic() - begin
            finally:
                daemon.close()
            found = os.path.getsize(image) / wall_s / (1 << 20)
            rows.append({"limit_mib_per_s": mib_per_s, "found_mib_per_s": found,
                         "off_percent": 100 * (found / mib_per_s - 1)})
            progress(f"  limit {mib_per_s} MiB/s: {found:.1f}")
    finally:
        server.close()
        shutil.rmtree(directory / "daemon", ignore_errors=True)
    return rows
