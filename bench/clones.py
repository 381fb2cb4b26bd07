#!/usr/bin/env python3
"""What a clone costs on a file system whose files share extents: from the request to `completed`.

    bench/clones.py PROGRAM xfs|btrfs [GIB]     (as root; needs rclone, qemu-img, mkfs)

One image is put on many volumes: the first job makes the golden volume, the others clone it, one by one and then a
hundred at once. Beside them stand `cp --reflink=always` of the golden file, and what was fetched and written in all.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from service import Daemon, S3Server

S3_PORT = 19879

GIB = 1 << 30
ONE_BY_ONE = 20
AT_ONCE = 100


def run(*command):
    """Runs a command that has to succeed."""
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def make_image(path, gib):
    """A qcow2 image of so many GiB, a hundredth of them data, in pieces all over the disk."""
    raw = path.with_suffix(".raw")
    with open(raw, "wb") as disk:
        disk.truncate(gib * GIB)
        piece = 1 << 20
        for index in range(gib * GIB // 100 // piece):
            disk.seek(index * 100 * piece)
            disk.write(os.urandom(piece))
    run("qemu-img", "convert", "-O", "qcow2", raw, path)
    raw.unlink()
    digest = subprocess.run(["sha256sum", path], check=True, capture_output=True, text=True)
    path.with_name(path.name + ".sha256").write_text(digest.stdout)


def metric(daemon, series):
    """A series of the daemon's own, by its name after the program's."""
    with urllib.request.urlopen(daemon.url + "/metrics") as answer:
        text = answer.read().decode()
    found = re.search(rf"^libvirt_volume_provisioner_{re.escape(series)} (\S+)$", text, re.M)
    return float(found.group(1)) if found else 0.0


def main():
    """Measures."""
    program, kind = sys.argv[1:3]
    gib = int(sys.argv[3]) if len(sys.argv) > 3 else 10
    with tempfile.TemporaryDirectory(prefix="lvp-clones-") as directory:
        home = pathlib.Path(directory)
        images = home / "s3" / "images"
        images.mkdir(parents=True)
        make_image(images / "a.qcow2", gib)
        disk, mounted = home / "disk", home / "mounted"
        with open(disk, "wb") as file:
            file.truncate((4 * gib + 8) * GIB)
        mounted.mkdir()
        run(f"mkfs.{kind}", "-q", disk)
        run("mount", "-o", "loop", disk, mounted)
        try:
            measure(program, kind, gib, home, mounted)
        finally:
            run("umount", mounted)


def measure(program, kind, gib, home, mounted):
    """On the mounted file system."""
    s3 = S3Server(home / "s3", S3_PORT)
    daemon = Daemon(program, mounted / "home", s3.endpoint, "libvirt.max_concurrent=8",
                    "cache.max_size_bytes=0")
    size = (gib + 2) * GIB

    def provision(volume):
        began = time.monotonic()
        body = {"image_url": "s3://images/a.qcow2", "volume_name": volume, "volume_size_bytes": size,
                "clone": "require"}
        job = daemon.call("/api/v1/jobs", body)["job_id"]
        while (status := daemon.status(job))["status"] in ("pending", "running"):
            time.sleep(0.002)
        assert status["status"] == "completed" and status["method"] == "clone", status
        return time.monotonic() - began

    try:
        first = provision("first")
        fetched = metric(daemon, 'transferred_bytes_total{direction="read"}')
        clones = [provision(f"one-{number}") for number in range(ONE_BY_ONE)]
        golden = next((mounted / "home" / "volumes" / ".lvp" / "golden").glob("*-qcow2"))
        copies = []
        for number in range(ONE_BY_ONE):
            began = time.monotonic()
            copy = mounted / f"copy-{number}"
            run("cp", "--reflink=always", golden, copy)
            run("truncate", "-s", size, copy)
            run("sync", copy)
            copies.append(time.monotonic() - began)
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(provision, [f"many-{number}" for number in range(AT_ONCE)]))
        many = time.monotonic() - began
        print(json.dumps({
            "file system": kind,
            "disk_gib": gib,
            "first_s": round(first, 2),
            "clone_ms": round(1000 * statistics.median(clones)),
            "clone_max_ms": round(1000 * max(clones)),
            "cp_reflink_truncate_sync_ms": round(1000 * statistics.median(copies)),
            "at_once": AT_ONCE,
            "at_once_s": round(many, 2),
            "fetched_bytes_first": int(fetched),
            "fetched_bytes_all": int(metric(daemon, 'transferred_bytes_total{direction="read"}')),
            "written_bytes_all": int(metric(daemon, 'transferred_bytes_total{direction="written"}')),
            "clones": int(metric(daemon, "clones_total")),
        }, indent=2))
    finally:
        daemon.close()
        s3.close()


if __name__ == "__main__":
    main()
