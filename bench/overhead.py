#!/usr/bin/env python3
"""What a job costs besides moving bytes: an image of 1 MiB, from the request to the event that says `completed`.

    bench/overhead.py target/release/libvirt-volume-provisioner [--jobs 30] [--directory target/bench]

Volumes are files, the image comes from nginx on the same machine, and jobs run one after the other: from the network into the
cache and onto a volume (each an image of its own), and from the cache. Beside them, in the same directory and between the
jobs: how long a sync takes, and how long the requests to the web server take that a job cannot do without. With strace
it also prints which syncs there are; those jobs are not timed.

Needs nginx, qemu-img, and strace for the list.
"""

import argparse
import hashlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import time

from service import Daemon, wait_for

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
MIB = 1 << 20
PORT = 19884
NGINX = """
worker_processes 1; daemon off; pid {home}/nginx.pid; error_log {home}/nginx.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  server {{ listen 127.0.0.1:{port}; root {home}/www; }}
}}
"""


class Web:
    """nginx over a directory."""

    def __init__(self, home):
        self.directory = home / "www"
        self.directory.mkdir(parents=True)
        config = home / "nginx.conf"
        config.write_text(NGINX.format(home=home, port=PORT))
        self.process = subprocess.Popen(["nginx", "-c", str(config), "-e", str(home / "nginx.log")])
        wait_for(self.answers, "nginx")
        self.connection = http.client.HTTPConnection("127.0.0.1", PORT)

    @staticmethod
    def answers():
        """Whether it serves."""
        try:
            connection = http.client.HTTPConnection("127.0.0.1", PORT)
            connection.request("HEAD", "/")
            connection.getresponse().read()
        except OSError:
            return False
        return True

    def put(self, name, data):
        """An object, and its digest beside it. The object's URL."""
        (self.directory / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        (self.directory / f"{name}.sha256").write_text(f"{digest}  {name}\n")
        return f"http://127.0.0.1:{PORT}/{name}"

    def fetch_s(self, url):
        """What its size, its digest and its bytes take, one after the other on one connection."""
        path = url.split(str(PORT), 1)[1]
        begin = time.monotonic()
        for method, what in [("HEAD", path), ("GET", path + ".sha256"), ("GET", path)]:
            self.connection.request(method, what)
            self.connection.getresponse().read()
        return time.monotonic() - begin

    def close(self):
        """Stops it."""
        self.process.terminate()
        self.process.wait()


class Client:
    """A client of the daemon with connections that stay."""

    def __init__(self, daemon):
        address = daemon.url.removeprefix("http://")
        self.requests = http.client.HTTPConnection(address)
        self.events = http.client.HTTPConnection(address)

    def job_s(self, url, volume):
        """A job from the request to its end, in seconds; and the job's record."""
        body = json.dumps({"image_url": url, "volume_name": volume, "volume_size_gb": 1, "image_type": "auto"})
        begin = time.monotonic()
        self.requests.request("POST", "/api/v1/jobs", body, {"Content-Type": "application/json"})
        answer = self.requests.getresponse()
        accepted = json.load(answer)
        if answer.status != 202:
            raise SystemExit(f"overhead.py: {answer.status} {accepted}")
        self.events.request("GET", f"/api/v1/jobs/{accepted['job_id']}/events")
        stream = self.events.getresponse()
        text = b""
        while b"event: end" not in text:
            more = stream.read1(65536)
            if not more:
                break
            text += more
        took = time.monotonic() - begin
        self.events.close()
        self.requests.request("GET", f"/api/v1/jobs/{accepted['job_id']}")
        status = json.load(self.requests.getresponse())
        if status["status"] != "completed":
            raise SystemExit(f"overhead.py: the job {status['status']}: {status.get('error')}")
        return took, status


def sync_s(directory):
    """fdatasync of a page that is overwritten, and fsync of a new file and of its directory."""
    path = directory / "sync-probe"
    with open(path, "wb") as file:
        file.write(b"x" * 4096)
        os.fsync(file.fileno())
    with open(path, "r+b", buffering=0) as file:
        file.write(b"y" * 4096)
        begin = time.monotonic()
        os.fdatasync(file.fileno())
        over = time.monotonic() - begin
    new = directory / "sync-probe.new"
    with open(new, "wb", buffering=0) as file:
        file.write(b"x" * 512)
        begin = time.monotonic()
        os.fsync(file.fileno())
        created = time.monotonic() - begin
    new.unlink()
    path.unlink()
    return over, created


def images(directory):
    """The kinds of images: a name, and a function that makes the bytes of a new one of 1 MiB."""
    def qcow2(*options):
        raw, image = directory / "disk.raw", directory / "disk.qcow2"
        # Text of random numbers: it can be compressed, and no two are the same.
        raw.write_bytes(os.urandom(MIB // 2).hex().encode())
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", *options, str(raw), str(image)], check=True)
        return image.read_bytes()

    return {
        "raw": lambda: os.urandom(MIB),
        "qcow2": qcow2,
        "qcow2, zlib": lambda: qcow2("-c"),
        "qcow2, zstd": lambda: qcow2("-c", "-o", "compression_type=zstd"),
    }


def milliseconds(times):
    """Median, least and greatest."""
    return f"{1e3 * statistics.median(times):6.2f} ({1e3 * min(times):.2f}-{1e3 * max(times):.2f})"


def syncs(daemon, client, directory, url, name):
    """The syncs of one job, in their order, as strace sees them."""
    trace = directory / "trace"
    tracer = subprocess.Popen(
        ["strace", "-f", "-y", "-r", "-e", "trace=fsync,fdatasync,sync_file_range,msync,syncfs", "-o", str(trace),
         "-p", str(daemon.process.pid)], stderr=subprocess.DEVNULL)
    wait_for(trace.exists, "strace")
    time.sleep(0.5)
    client.job_s(url, name)
    time.sleep(0.3)
    tracer.send_signal(signal.SIGINT)
    tracer.wait()
    found = []
    text = trace.read_text()
    trace.unlink()
    for line in text.splitlines():
        call = re.search(r"(fsync|fdatasync|syncfs|msync)\(\d+<([^>]*)>", line)
        if call:
            path = call.group(2).replace(str(directory), "").replace(name, "NAME")
            found.append(f"{call.group(1)} {re.sub('[0-9a-f]{32,}', 'DIGEST', path)}")
    return found


def main():
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=30)
    parser.add_argument("--record", action="store_true", help="keep the figures in bench/results")
    parser.add_argument("--directory", type=pathlib.Path, default=pathlib.Path("target/bench"))
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    home = pathlib.Path(tempfile.mkdtemp(dir=given.directory.resolve()))
    os.chmod(home, 0o755)
    web = Web(home)
    daemon = Daemon(given.program.resolve(), home / "daemon", "http://127.0.0.1:1",
                    f"minio.allowed_hosts=127.0.0.1:{PORT}", "image.sandbox=auto")
    kinds = images(home)
    result = {"load": os.getloadavg()[0], "kernel": os.uname().release, "jobs": given.jobs, "kinds": {}}
    try:
        client = Client(daemon)
        over, created = [], []
        for kind, make in kinds.items():
            first, cold, warm, fetch = web.put(f"warm-{len(result['kinds'])}", make()), [], [], []
            client.job_s(first, f"first-{len(result['kinds'])}")
            for number in range(given.jobs):
                name = f"{len(result['kinds'])}-{number}"
                url = web.put(name, make())
                overwritten, new = sync_s(home)
                over.append(overwritten)
                created.append(new)
                fetch.append(web.fetch_s(url))
                cold.append(client.job_s(url, f"cold-{name}")[0])
                took, status = client.job_s(first, f"warm-{name}")
                if not status["cache_hit"]:
                    raise SystemExit("overhead.py: the second job has missed the cache")
                warm.append(took)
            result["kinds"][kind] = {"cold_s": cold, "warm_s": warm, "fetch_s": fetch}
            print(f"{kind:12} fetched {milliseconds(cold)}   cached {milliseconds(warm)}   "
                  f"HEAD, digest and GET by a plain client {milliseconds(fetch)}", flush=True)
        result["fdatasync_s"], result["fsync_s"] = over, created
        print(f"fdatasync of a page {milliseconds(over)}, fsync of a new file {milliseconds(created)} ms; "
              f"load {result['load']:.1f}, kernel {result['kernel']}")
        if shutil.which("strace"):
            url = web.put("synced", kinds["raw"]())
            for name in ("fetched", "cached"):
                print(f"syncs of a job, {name}:")
                for number, line in enumerate(syncs(daemon, client, home, url, name), 1):
                    print(f"  {number:2} {line}")
    finally:
        daemon.close()
        web.close()
        shutil.rmtree(home, ignore_errors=True)
    if given.record:
        kept = RESULTS / "overhead.json"
        kept.write_text(json.dumps({"runs": given.jobs, "found": result}, indent=1))


if __name__ == "__main__":
    main()
