#!/usr/bin/env python3
"""Stores that are far, slow for each connection, or dear for each request: a cold job against plain clients.

Between the store, which is `rclone serve s3`, and everybody is a proxy that delays each direction (a connection's
handshake included), limits each connection, holds each request for a time, as a store does that hashes the whole object for
it, or serves one connection and answers 503 to all others. The plain clients read the object by 1, 2, 4, 8 and 16 ranges at
once, each range a share of the object, and throw it away; the fastest is what the job, which also hashes, caches and
writes a volume, is compared with. Of a small image, the round trips of a cold job and of a hit are told.

    bench/far.py target/release/libvirt-volume-provisioner [--mib 256] [--runs 3] [--directory /dev/shm]
"""

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import select
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request

# name, delay each way in ms, bytes per second of a connection, seconds that each request costs, connections served
CASES = [
    ("near", 0, None, 0, None),
    ("20 ms each way", 20, None, 0, None),
    ("100 ms each way", 100, None, 0, None),
    ("30 MB/s a connection", 0, 30e6, 0, None),
    ("100 ms and 30 MB/s", 100, 30e6, 0, None),
    ("0.8 s for each request", 0, None, 0.8, None),
    ("one connection", 0, None, 0, 1),
]
# Delay each way, in ms, at which round trips of a small image are counted.
FAR_MS = 100
BLOCK = 256 << 10


class Proxy:
    """Delays bytes by a time, and lets each connection have a rate."""

    def __init__(self, upstream, delay_s, rate, cost_s, most=None):
        self.upstream, self.delay_s, self.rate, self.cost_s = upstream, delay_s, rate, cost_s
        self.most, self.open, self.lock = most, 0, threading.Lock()
        self.requests = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                is_served = self.most is None or self.open < self.most
                self.open += is_served
            if not is_served:
                threading.Thread(target=self.refuse, args=(client,), daemon=True).start()
                continue
            server = socket.create_connection(self.upstream)
            for a, b, rate, count in ((client, server, None, True), (server, client, self.rate, False)):
                a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.pump, args=(a, b, rate, count), daemon=True).start()

    def refuse(self, client):
        with client:
            client.recv(BLOCK)
            self.requests += 1
            client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def pump(self, source, target, rate, count):
        try:
            self.move(source, target, rate, count)
        finally:
            if count:
                with self.lock:
                    self.open -= 1

    def move(self, source, target, rate, count):
        """Bytes are sent when they are due; what waits is bounded by what the delay holds at 1 GB/s."""
        queue, closed, handshake_s = [], False, 2 * self.delay_s if count else 0
        free_at = 0.0
        waiting = 0
        try:
            while True:
                now = time.monotonic()
                while queue and queue[0][0] <= now:
                    _, data = queue.pop(0)
                    waiting -= len(data)
                    target.sendall(data)
                if closed and not queue:
                    break
                limit = BLOCK * 4 + int(self.delay_s * (rate or 1e9))
                timeout = max(0.0, queue[0][0] - time.monotonic()) if queue else None
                if closed or waiting > limit:
                    time.sleep(timeout or 0)
                    continue
                if not select.select([source], [], [], timeout)[0]:
                    continue
                data = source.recv(BLOCK)
                if not data:
                    closed = True
                    continue
                now = time.monotonic()
                if count and (asked := data.count(b" HTTP/1.1\r\n")):
                    self.requests += asked
                    now += self.cost_s
                now, handshake_s = now + handshake_s, 0
                free_at = max(free_at, now) + (len(data) / rate if rate else 0)
                queue.append((free_at + self.delay_s, data))
                waiting += len(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, target):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self):
        self.listener.close()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def until(what, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {seconds} s")
        time.sleep(0.05)
    return result


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def read_part(port, path, begin, end):
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("GET", path, headers={"Range": f"bytes={begin}-{end - 1}"})
        answer = connection.getresponse()
        if answer.status != 503:
            break
        connection.close()
        time.sleep(0.05)
    left = end - begin
    buffer = bytearray(1 << 20)
    while left and (got := answer.readinto(buffer)):
        left -= got
    assert left == 0, (answer.status, left)
    connection.close()


def plain(port, path, size, ranges):
    share = -(-size // ranges)
    parts = [(at, min(size, at + share)) for at in range(0, size, share)]
    begin = time.monotonic()
    threads = [threading.Thread(target=read_part, args=(port, path, *part)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - begin


def call(port, method, path, body=None):
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data, method=method)
    request.add_header("Content-Type", "application/json")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return json.load(answer)


def ended(port, size, key, volume):
    """Seconds from the order to the end of a job, and its record."""
    request = {
        "image_url": f"s3://images/{key}",
        "image_type": "raw",
        "volume_name": volume,
        "volume_size_bytes": size,
        "clone": "never",
    }
    begin = time.monotonic()
    made = call(port, "POST", "/api/v1/jobs", request)
    path = f"/api/v1/jobs/{made['job_id']}"
    while (status := call(port, "GET", path))["status"] in ("pending", "running"):
        time.sleep(0.005)
    took = time.monotonic() - begin
    if status["status"] != "completed":
        raise SystemExit(status)
    return took, status


def job(program, proxy_port, size, directory, more, key="disk.raw", hits=0):
    """Seconds of a cold job, its requests, the memory of the daemon, and the same of as many hits after it."""
    with tempfile.TemporaryDirectory(dir=directory) as home:
        for name in ("cache", "volumes", "state"):
            os.mkdir(f"{home}/{name}")
        port = free_port()
        environment = {
            "PATH": os.environ["PATH"],
            "MINIO_ENDPOINT": f"http://127.0.0.1:{proxy_port}",
            "LIBVIRT_ENABLED": "false",
            "CACHE_DIR": f"{home}/cache",
            "CACHE_MIN_FREE_BYTES": "0",
            "VOLUME_BACKEND": "dir",
            "VOLUME_DIR": f"{home}/volumes",
            "DB_PATH": f"{home}/state/state.db",
            "PORT": str(port),
            "HOST": "127.0.0.1",
            **more,
        }
        daemon = subprocess.Popen(
            [program, "serve", "--config", "/dev/null"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until("the daemon", lambda: is_open(port))
            took, status = ended(port, size, key, "vm")
            after = [ended(port, size, key, f"vm-{number}") for number in range(hits)]
            memory = pathlib.Path(f"/proc/{daemon.pid}/status").read_text()
            peak = next(line for line in memory.splitlines() if line.startswith("VmHWM"))
            return took, status.get("requests", 0), int(peak.split()[1]) // 1024, after
        finally:
            daemon.terminate()
            daemon.wait()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("program")
    arguments.add_argument("--rclone", default=".venv/bin/rclone")
    arguments.add_argument("--mib", type=int, default=256)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--directory", default="/dev/shm")
    arguments.add_argument("--only", default="")
    arguments.add_argument("--set", action="append", default=[], help="NAME=VALUE for the daemon")
    options = arguments.parse_args()
    more = dict(pair.split("=", 1) for pair in options.set)
    size = options.mib << 20
    with tempfile.TemporaryDirectory(dir=options.directory) as store:
        bucket = pathlib.Path(store) / "images"
        bucket.mkdir()
        digest = hashlib.sha256()
        with open(bucket / "disk.raw", "wb") as file:
            for _ in range(options.mib):
                block = os.urandom(1 << 20)
                digest.update(block)
                file.write(block)
        (bucket / "disk.raw.sha256").write_text(f"{digest.hexdigest()}  disk.raw\n")
        print(f"{options.mib} MiB, {options.runs} runs, medians; load {os.getloadavg()[0]:.1f}")
        print("| store | 1 | 2 | 4 | 8 | 16 ranges, s | the job | ratio | requests of the job | peak MiB |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for case in CASES:
            if options.only in case[0]:
                with served(options, store, case) as proxy:
                    compare(options, proxy, case[0], size, more)
        small = 1 << 20
        (bucket / "small.raw").write_bytes(os.urandom(small))
        digest = hashlib.sha256((bucket / "small.raw").read_bytes()).hexdigest()
        (bucket / "small.raw.sha256").write_text(f"{digest}  small.raw\n")
        if options.only in "round trips":
            with served(options, store, ("round trips", FAR_MS, None, 0, None)) as proxy:
                count_round_trips(options, proxy, small, more)


@contextlib.contextmanager
def served(options, store, case):
    _, delay_ms, rate, cost_s, most = case
    port = free_port()
    command = [options.rclone, "serve", "s3", store, "--addr", f"127.0.0.1:{port}"]
    command += ["--etag-hash", ""]
    rclone = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until("rclone", lambda: is_open(port))
        proxy = Proxy(("127.0.0.1", port), delay_ms / 1000, rate, cost_s, most)
        yield proxy
        proxy.close()
    finally:
        rclone.terminate()
        rclone.wait()


def compare(options, proxy, name, size, more):
    clients = {ranges: [] for ranges in (1, 2, 4, 8, 16)}
    jobs, memory, requests = [], [], []
    for _ in range(options.runs):
        for ranges, found in clients.items():
            found.append(plain(proxy.port, "/images/disk.raw", size, ranges))
        took, asked, peak, _ = job(options.program, proxy.port, size, options.directory, more)
        jobs.append(took)
        memory.append(peak)
        requests.append(asked)
    medians = [statistics.median(found) for found in clients.values()]
    took = statistics.median(jobs)
    times = " | ".join(f"{median:.2f}" for median in medians)
    print(
        f"| {name} | {times} | {took:.2f} | {took / min(medians):.2f} "
        f"| {statistics.median(requests):.0f} | {max(memory)} |",
        flush=True,
    )


def count_round_trips(options, proxy, size, more):
    trip = 2 * FAR_MS / 1000
    cold, hits, asked = [], [], []
    for _ in range(options.runs):
        took, requests, _, after = job(
            options.program, proxy.port, size, options.directory, more, "small.raw", 3
        )
        cold.append(took / trip)
        hits += [took / trip for took, _ in after]
        asked += [(requests, status.get("requests", 0)) for _, status in after]
    print(f"1 MiB at {FAR_MS} ms each way, in round trips from the order to the end:")
    print(f"cold {statistics.median(cold):.2f} ({asked[0][0]} requests), ", end="")
    print(f"a hit {statistics.median(hits):.2f} ({asked[0][1]} requests)")


if __name__ == "__main__":
    main()
