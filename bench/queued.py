#!/usr/bin/env python3
"""Ten thousand jobs in the queue: how fast they are accepted, what they cost in memory, and how soon a client that asks
about one for the first time has its answer.

    bench/queued.py target/release/libvirt-volume-provisioner [--jobs 10000] [--clients 8] [--directory target/bench]

The object store does not answer, so that every job waits: one in each slot, the others in the queue. Clients send requests one
after the other, each on a connection that stays. While the queue is full, the status of jobs is asked for that nobody has
asked for before, and the list of jobs. At the end the daemon is stopped and started again: the time until it serves with all
of them taken up is the last figure.
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time

from overhead import RESULTS, sync_s
from service import Daemon, answers, wait_for


class Silent:
    """A store that accepts connections and says nothing."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.kept = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        """Keeps them open."""
        while True:
            try:
                self.kept.append(self.listener.accept()[0])
            except OSError:
                return


def rss_mib(pid):
    """Memory now."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def call(connection, method, path, body=None):
    """One call; its status, its answer and the time it took."""
    begin = time.monotonic()
    connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    return answer.status, json.loads(data), time.monotonic() - begin


def fill(address, count, clients):
    """Sends the requests. The ids, and how long each took."""
    ids, times, lock = [], [], threading.Lock()

    def send(first):
        connection = http.client.HTTPConnection(address)
        for number in range(first, count, clients):
            body = {"image_url": f"s3://images/{number}.qcow2", "volume_name": f"vm-{number}", "volume_size_gb": 10}
            status, answer, took = call(connection, "POST", "/api/v1/jobs", body)
            if status != 202:
                raise SystemExit(f"queued.py: {status} {answer}")
            with lock:
                ids.append(answer["job_id"])
                times.append(took)

    threads = [threading.Thread(target=send, args=(first,)) for first in range(clients)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ids, times, time.monotonic() - begin


def percentile(times, part):
    """In milliseconds."""
    return 1e3 * sorted(times)[min(int(len(times) * part), len(times) - 1)]


def main():
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--asked", type=int, default=2_000, help="jobs whose status is asked for")
    parser.add_argument("--record", action="store_true", help="keep the figures in bench/results")
    parser.add_argument("--directory", type=pathlib.Path, default=pathlib.Path("target/bench"))
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    home = pathlib.Path(tempfile.mkdtemp(dir=given.directory.resolve()))
    store = Silent()
    daemon = Daemon(given.program.resolve(), home / "daemon", store.endpoint,
                    f"jobs.queue_limit={given.jobs + 16}", "minio.idle_timeout=24h", "server.shutdown_grace=1ms")
    address = daemon.url.removeprefix("http://")
    result = {"jobs": given.jobs, "clients": given.clients, "load": os.getloadavg()[0]}
    try:
        before = rss_mib(daemon.process.pid)
        ids, times, took = fill(address, given.jobs, given.clients)
        after = rss_mib(daemon.process.pid)
        result |= {"accepted_per_s": len(ids) / took, "accept_p50_ms": percentile(times, 0.5),
                   "accept_p99_ms": percentile(times, 0.99), "rss_before_mib": before, "rss_after_mib": after}
        print(f"{len(ids)} jobs accepted in {took:.1f} s: {len(ids) / took:.0f}/s by {given.clients} clients, "
              f"p50 {percentile(times, 0.5):.2f} ms, p99 {percentile(times, 0.99):.2f} ms")
        print(f"memory {before:.0f} MiB before, {after:.0f} MiB with them: {(after - before) * 1024 / len(ids):.2f} KiB each")
        connection = http.client.HTTPConnection(address)
        asked = [call(connection, "GET", f"/api/v1/jobs/{job}")[2] for job in random.sample(ids, min(given.asked, len(ids)))]
        listed = [call(connection, "GET", "/api/v1/jobs?limit=50")[2] for _ in range(50)]
        result |= {"status_p50_ms": percentile(asked, 0.5), "status_p99_ms": percentile(asked, 0.99),
                   "list_p50_ms": percentile(listed, 0.5)}
        print(f"first status of a job p50 {percentile(asked, 0.5):.2f} ms, p99 {percentile(asked, 0.99):.2f} ms; "
              f"list of 50 p50 {percentile(listed, 0.5):.2f} ms")
        over = statistics.median(sync_s(home)[0] for _ in range(30))
        result["fdatasync_ms"] = 1e3 * over
        print(f"fdatasync of a page {1e3 * over:.2f} ms; load {os.getloadavg()[0]:.1f}")
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait()
        begin = time.monotonic()
        daemon.process = subprocess.Popen(daemon.process.args, stdout=subprocess.DEVNULL)
        wait_for(lambda: answers(daemon.url + "/livez"), "the daemon")
        status, job, _ = call(http.client.HTTPConnection(address), "GET", f"/api/v1/jobs/{ids[-1]}")
        result["restart_s"] = time.monotonic() - begin
        print(f"killed and started again: {result['restart_s']:.2f} s until it serves ({status}, {job['status']})")
    finally:
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait()
        daemon.group.close()
        shutil.rmtree(home, ignore_errors=True)
    if given.record:
        kept = RESULTS / "queue.json"
        kept.write_text(json.dumps({"runs": 1, "found": result}, indent=1))


if __name__ == "__main__":
    main()
