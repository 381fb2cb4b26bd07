"""What decoding in a process of its own costs: the same job with it and without, by turns."""

import os
import pathlib
import shutil
from datetime import datetime

from measure import Cost, output, progress
from service import CLOCK_TICKS, Daemon, S3Server, bucket

MODES = {"in a process of its own (`require`)": "require", "in the daemon (`off`)": "off"}


def cpu_s(pid):
    """User and system time of a process and of the children that it has waited for."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:15]) / CLOCK_TICKS


def ran_s(status):
    """How long a job ran, by its record."""
    begin, end = (datetime.fromisoformat(status[name]) for name in ("started_at", "finished_at"))
    return (end - begin).total_seconds()


def once(bench, directory, server, raw, mode):
    """A job from the cache, in a daemon of its own that has fetched the image before."""
    daemon = Daemon(bench.program, directory / "daemon", server.endpoint, f"image.sandbox={mode}", "cache.unpacked=never")
    try:
        size_gb = -(-os.path.getsize(raw) >> 30)
        daemon.finish([daemon.submit("disk.qcow2", "first", size_gb)])
        (daemon.volumes / "first").unlink()
        os.sync()
        before = cpu_s(daemon.process.pid)
        job = daemon.submit("disk.qcow2", "second", size_gb)
        daemon.finish([job])
        status = daemon.status(job)
        cost = Cost(ran_s(status), cpu_s(daemon.process.pid) - before, daemon.peak_rss_kib())
        output("cmp", "-n", str(os.path.getsize(raw)), raw, daemon.volumes / "second")
        return cost
    finally:
        daemon.close()
        shutil.rmtree(directory / "daemon", ignore_errors=True)


def decoding(bench, directory):
    """Rows of both, for each kind of compression."""
    raw, rows = bench.images.raw("files"), []
    for compression in ("zlib", "zstd"):
        root = bucket(directory, bench.images.qcow2("files", compression), "disk.qcow2")
        server = S3Server(root, 19876)
        costs = {name: [] for name in MODES}
        try:
            for _ in range(bench.runs):
                for name, mode in MODES.items():
                    costs[name].append(once(bench, directory, server, raw, mode))
                    progress(f"  {compression} {name}: {costs[name][-1]}")
        finally:
            server.close()
        for name, found in costs.items():
            walls, cpus = sorted(cost.wall_s for cost in found), sorted(cost.cpu_s for cost in found)
            rows.append({"name": f"{compression}, {name}", "note": "", "runs": len(found), "wall_s": walls[len(walls) // 2],
                         "wall_s_min": walls[0], "wall_s_max": walls[-1], "cpu_s": cpus[len(cpus) // 2],
                         "rss_mib": max(cost.rss_kib for cost in found) / 1024})
    return rows
