"""What people who look at the page cost: 200 event streams of all jobs, while two jobs run.

As a program, by itself, with a daemon that need not be the release build:

    bench/viewers.py PROGRAM [--size MIB] [--runs N] [--dir DIR] [--viewers N]
"""

import argparse
import os
import pathlib
import secrets
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.parse

from measure import Contender, Cost, alternate, progress
from service import Daemon, S3Server, as_if_elsewhere, bucket, cpu_s

VIEWERS = 200
CALLERS = 4  # a caller may have 100 streams


class Viewers:
    """Follows all jobs over so many connections, in a process of its own, until its standard input ends."""

    def __init__(self, url, tokens, count):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--follow", url, str(count), *tokens],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=as_if_elsewhere)
        if self.process.stdout.readline().strip() != "open":
            raise SystemExit("viewers.py: the streams were not opened")

    def close(self):
        """Bytes and events that arrived."""
        told, _ = self.process.communicate()
        received, events = told.split()
        return int(received), int(events)


def follow(url, count, tokens):
    """The process of the viewers."""
    host, port = urllib.parse.urlsplit(url).netloc.split(":")
    selector = selectors.DefaultSelector()
    for number in range(count):
        token = tokens[number % len(tokens)]
        connection = socket.create_connection((host, int(port)))
        connection.sendall(f"GET /api/v1/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
                           "Accept: text/event-stream\r\n\r\n".encode())
        if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
            return
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    print("open", flush=True)
    received = events = 0
    room = bytearray(1 << 20)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                print(received, events)
                return
            length = key.fileobj.recv_into(room)
            if not length:
                selector.unregister(key.fileobj)
            received += length
            events += room.count(b"event: job\n", 0, length)


def viewers(program, image, size_mib, runs, directory, count=VIEWERS):
    """Two jobs with and without viewers, in alternation."""
    root = bucket(directory, image, "disk.qcow2")
    os.link(root / "images/disk.qcow2", root / "images/other.qcow2")
    server = S3Server(root, 19876)
    tokens = [secrets.token_hex(16) for _ in range(CALLERS)]
    file = directory / "tokens"
    file.write_text("".join(f"viewer-{number}:provision:{token}\n" for number, token in enumerate(tokens)))
    file.chmod(0o600)
    daemon = Daemon(program, directory / "daemon", server.endpoint, f"server.api_tokens_file={file}",
                    "server.max_connections_per_address=512", token=tokens[0])
    size_gb = (size_mib + 1023) // 1024
    seen = []

    def jobs_run(with_viewers):
        def work():
            looking = Viewers(daemon.url, tokens, count) if with_viewers else None
            before = cpu_s(daemon.process.pid)
            begin = time.monotonic()
            jobs = [daemon.submit("disk.qcow2", "one", size_gb), daemon.submit("other.qcow2", "two", size_gb)]
            while any(daemon.status(job)["status"] in ("pending", "running") for job in jobs):
                time.sleep(0.05)
            wall_s = time.monotonic() - begin
            if looking:
                seen.append(looking.close())
                progress(f"  {seen[-1][1]} events, {seen[-1][0] / (1 << 20):.1f} MiB")
            daemon.finish(jobs)
            return Cost(wall_s, cpu_s(daemon.process.pid) - before, daemon.peak_rss_kib())

        return work

    contenders = [Contender("two jobs", jobs_run(False), before=daemon.forget),
                  Contender(f"two jobs, {count} viewers", jobs_run(True), before=daemon.forget)]
    try:
        costs = alternate(contenders, runs)
    finally:
        daemon.close()
        server.close()
        shutil.rmtree(directory / "daemon")
    return contenders, costs, seen


def main():
    """The measurement by itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="size of the disk")
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    parser.add_argument("--viewers", type=int, default=VIEWERS, metavar="N")
    parser.add_argument("--tree", default="/usr", help="the file tree that the disk is made of")
    parser.add_argument("--dir", type=pathlib.Path, default=pathlib.Path("target/bench-viewers"))
    arguments = parser.parse_args()
    from images import Images  # needs tools that the viewers' process does not

    directory = arguments.dir.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    image = Images(directory / "images", arguments.tree, arguments.size).qcow2("files", "zlib")
    contenders, costs, seen = viewers(arguments.program.resolve(), image, arguments.size, arguments.runs, directory,
                                      arguments.viewers)
    walls = [statistics.median(cost.wall_s for cost in costs[contender.name]) for contender in contenders]
    cpus = [statistics.median(cost.cpu_s for cost in costs[contender.name]) for contender in contenders]
    for contender, wall, cpu in zip(contenders, walls, cpus):
        each = ", ".join(f"{cost.wall_s:.2f}" for cost in costs[contender.name])
        print(f"{contender.name}: {wall:.2f} s ({each}), {cpu:.2f} s of CPU")
    print(f"throughput lost: {100 * (1 - walls[0] / walls[1]):.1f} %; events: "
          f"{statistics.median(events for _, events in seen):.0f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--follow"]:
        follow(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
    else:
        main()
