#!/usr/bin/env python3
"""How many bytes a store sends for a fleet that wants one image, with caches in between (deploy/mirror/nginx.conf).

    bench/mirrors.py PROGRAM [--size MIB] [--daemons N] [--hosts N] [--dir DIR]     (needs nginx)

The store is nginx over a directory, without credentials; its own log says what it sent. Layouts: daemons without
a mirror; daemons behind one; and racks behind a site, where each rack has a real daemon, and light clients that make
the requests that it makes, for the rest of the hosts. All begin at the same time, with empty caches.
"""

import argparse
import concurrent.futures
import hashlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

from service import wait_for

CONFIGURATION = pathlib.Path(__file__).parent.parent / "deploy/mirror/nginx.conf"
RACKS = 8
RANGE = 4 << 20  # what daemons begin with
AT_ONCE = 32  # light clients of a rack that are served at a time by one process

STORE = """
log_format sent '$request_method $uri $status $body_bytes_sent';
server {{
    listen 127.0.0.1:{port};
    access_log {directory}/sent.log sent;
    root {root};
}}
"""


class Nginx:
    """One nginx, with its files in a directory."""

    def __init__(self, directory, text):
        self.directory = directory
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        # Its workers may run as another user.
        directory.chmod(0o777)
        file = directory / "nginx.conf"
        paths = "".join(f"{what}_temp_path {directory}/{what};" for what in
                        ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        file.write_text(f"daemon off; worker_processes 1; user root; pid {directory}/pid; error_log {directory}/error.log;\n"
                        f"events {{ worker_connections 4096; }}\nhttp {{ access_log off; {paths}\n{text}\n}}\n")
        self.process = subprocess.Popen(["nginx", "-c", str(file)], stderr=subprocess.DEVNULL)
        wait_for((directory / "pid").exists, "nginx")

    def close(self):
        """Stops it."""
        self.process.terminate()
        self.process.wait()


def mirror(directory, port, upstream):
    """The shipped configuration on this port, in front of this server."""
    text = CONFIGURATION.read_text()
    for before, after in (("/var/cache/nginx/lvp", f"{directory}/cache"), ("min_free=10g", "min_free=1m"),
                          ("minio.example.com:9000", f"127.0.0.1:{upstream}"),
                          ("listen 8081;", f"listen 127.0.0.1:{port};")):
        if before not in text:
            raise SystemExit(f"mirrors.py: {CONFIGURATION} has no {before}")
        text = text.replace(before, after)
    return Nginx(directory, text)


class Daemon:
    """A daemon of its own port."""

    def __init__(self, program, directory, port, store, mirrors, more=None):
        shutil.rmtree(directory, ignore_errors=True)
        for name in ("cache", "volumes"):
            (directory / name).mkdir(parents=True)
        values = {
            "server.port": port, "server.db_path": directory / "jobs.db", "minio.endpoint": store,
            "minio.mirrors": mirrors, "libvirt.enabled": "false", "volumes.backend": "dir",
            "volumes.dir": directory / "volumes", "cache.dir": directory / "cache", "logging.level": "warn",
            **(more or {}),
        }
        command = [str(program), "serve", "--config", "/dev/null"]
        for key, value in values.items():
            command += ["--set", f"{key}={value}"]
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def call(self, path, body=None):
        """A call of the API; its answer."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def is_up(self):
        """Whether it answers."""
        try:
            urllib.request.urlopen(self.url + "/livez").close()
        except OSError:
            return False
        return True

    def ended(self, job):
        """Whether its job has ended, well."""
        state = self.call(f"/api/v1/jobs/{job}")
        if state["status"] in ("failed", "cancelled"):
            raise SystemExit(f"mirrors.py: a job {state['status']}: {state['error']}")
        return state["status"] == "completed"

    def metric(self, name):
        """The sum of a counter's series."""
        text = urllib.request.urlopen(self.url + "/metrics").read().decode()
        found = re.findall(rf"^libvirt_volume_provisioner_{name}(?:{{[^}}]*}})? (\S+)$", text, re.M)
        return sum(map(float, found))

    def close(self):
        """Stops it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def light(port, store, tag, size, digest, count):
    """So many hosts' requests for the image, on a rack's mirror; how many got it right."""
    def host(_):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        content = hashlib.sha256()
        for start in range(0, size, RANGE):
            last = min(start + RANGE, size) - 1
            connection.request("GET", "/images/disk.raw", headers={
                "Host": store, "If-Match": tag, "Range": f"bytes={start}-{last}"})
            answer = connection.getresponse()
            if answer.status != 206:
                return False
            while block := answer.read(1 << 18):
                content.update(block)
        return content.hexdigest() == digest

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return sum(pool.map(host, range(count)))


def sent_bytes(store):
    """What the store says that it has sent of the image."""
    lines = (store.directory / "sent.log").read_text().splitlines()
    return sum(int(line.split()[3]) for line in lines if line.startswith("GET /images/disk.raw "))


def provision(daemons):
    """The same image on all of them at once; seconds."""
    begin = time.monotonic()
    jobs = [(daemon, daemon.call("/api/v1/jobs", {
        "image_url": "s3://images/disk.raw", "volume_name": "vm", "volume_size_gb": 1, "image_type": "raw"})["job_id"])
        for daemon in daemons]
    for daemon, job in jobs:
        wait_for(lambda daemon=daemon, job=job: daemon.ended(job), "a job", 1800)
    return time.monotonic() - begin


def main():
    """Runs the layouts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=64, help="MiB")
    parser.add_argument("--daemons", type=int, default=40)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--dir", type=pathlib.Path, default=pathlib.Path("."))
    if sys.argv[1:2] == ["--light"]:
        port, store, tag, size, digest, count = sys.argv[2:]
        print(light(int(port), store, tag, int(size), digest, int(count)))
        return
    options = parser.parse_args()
    work = options.dir.resolve() / "mirrors"
    shutil.rmtree(work, ignore_errors=True)
    images = work / "objects/images"
    images.mkdir(parents=True)
    content = os.urandom(options.size << 20)
    digest = hashlib.sha256(content).hexdigest()
    (images / "disk.raw").write_bytes(content)
    (images / "disk.raw.sha256").write_text(f"{digest}  disk.raw\n")
    size = len(content)
    print(f"an image of {options.size} MiB; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")

    def layout(name, hosts, racks, tiers):
        """`racks` is the number of mirrors, or 0; of a site's, `tiers` is 2."""
        first = 21000
        store = Nginx(work / "store", STORE.format(port=first, directory=work / "store", root=work / "objects"))
        servers, daemons, clients = [store], [], []
        try:
            if tiers == 2:
                servers.append(mirror(work / "site", first + 1, first))
            upstream = first + tiers - 1 if tiers else first
            for rack in range(racks):
                servers.append(mirror(work / f"rack-{rack}", first + 10 + rack, upstream))
            real = racks if tiers == 2 else hosts
            for number in range(real):
                mirrors = f"http://127.0.0.1:{first + 10 + number % racks}" if racks else ""
                daemons.append(Daemon(options.program, work / f"host-{number}", first + 100 + number,
                                      f"http://127.0.0.1:{first}", mirrors))
            for daemon in daemons:
                wait_for(daemon.is_up, "a daemon", 60)
            asked = urllib.request.Request(f"http://127.0.0.1:{first}/images/disk.raw", method="HEAD")
            with urllib.request.urlopen(asked) as answer:
                tag = answer.headers["ETag"]
            (store.directory / "sent.log").write_text("")
            os.kill(store.process.pid, signal.SIGUSR1)
            begin = time.monotonic()
            rest = hosts - real
            for rack in range(racks if rest else 0):
                count = rest // racks + (rack < rest % racks)
                clients.append(subprocess.Popen(
                    [sys.executable, __file__, "--light", str(first + 10 + rack), f"127.0.0.1:{first}", tag, str(size),
                     digest, str(count)], stdout=subprocess.PIPE, text=True))
            jobs_s = provision(daemons)
            right = sum(int(client.communicate()[0]) for client in clients)
            if right != rest:
                raise SystemExit(f"mirrors.py: {rest - right} of {rest} light clients got something else")
            all_s = time.monotonic() - begin
            wait_for(lambda: sent_bytes(store) >= size, "the store's log")
            sent = sent_bytes(store)
            failures = sum(daemon.metric("mirror_failures_total") for daemon in daemons) if racks else 0
            print(f"{name}: {hosts} hosts ({real} daemons), the store sent {sent / (1 << 20):.1f} MiB, {sent / size:.3f} x the image, "
                  f"for {hosts * size / (1 << 20):.0f} MiB that were read; jobs {jobs_s:.1f} s, all {all_s:.1f} s; "
                  f"{failures:.0f} failures of mirrors", flush=True)
        finally:
            for one in daemons + servers[::-1]:
                one.close()

    layout("no mirror", 8, 0, 0)
    layout("one mirror", options.daemons, 1, 1)
    layout(f"{RACKS} racks, one site", options.hosts, RACKS, 2)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
