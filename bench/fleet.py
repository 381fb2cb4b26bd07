#!/usr/bin/env python3
"""One order to a thousand hosts: real daemons that fetch an image, and simulated ones beside them, around one broker.

    bench/fleet.py DIRECTORY-OF-PROGRAMS [--server PROGRAM] [--daemons N] [--hosts N] [--size MIB] [--dir DIR]

The directory has libvirt-volume-provisioner, lvpctl and examples/hosts (cargo build --release --workspace --examples); nginx
is the store. What is measured is what the broker says itself: when it stored the order and the last report, and how many
messages and bytes it had and gave meanwhile. Simulated hosts are of crates/bus/examples/hosts.rs: they report as daemons do, and
fetch nothing.
"""

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import resource
import shutil
import subprocess
import time
import urllib.request

from mirrors import STORE, Daemon, Nginx
from service import wait_for

PORT = 21500
MONITOR = PORT + 1
STORE_PORT = PORT + 2
QUIET_S = 8  # longer than between two reports of progress


class Broker:
    """A nats-server with its own count of everything."""

    def __init__(self, program, directory):
        directory.mkdir(parents=True)
        file = directory / "server.conf"
        file.write_text(f'listen: "127.0.0.1:{PORT}"\nhttp: "127.0.0.1:{MONITOR}"\nserver_name: bench\n'
                        f'jetstream {{ store_dir: "{directory}/store", max_mem: 64M, max_file: 4G }}\n')
        with (directory / "log").open("w") as log:
            self.process = subprocess.Popen([program, "-c", str(file)], stderr=log)
        wait_for(self.is_up, "nats-server")

    @staticmethod
    def ask(path):
        """An answer of its monitoring."""
        with urllib.request.urlopen(f"http://127.0.0.1:{MONITOR}/{path}") as answer:
            return json.load(answer)

    def is_up(self):
        """Whether it answers."""
        try:
            return bool(self.ask("varz"))
        except OSError:
            return False

    def streams(self):
        """The streams' states by name."""
        accounts = self.ask("jsz?streams=true&accounts=true").get("account_details", [])
        details = [stream for account in accounts for stream in account.get("stream_detail", [])]
        return {stream["name"]: stream["state"] for stream in details}

    def counts(self):
        """Messages and bytes so far, in and out."""
        now = self.ask("varz")
        return [now[name] for name in ("in_msgs", "out_msgs", "in_bytes", "out_bytes")]

    def close(self):
        """Stops it."""
        self.process.terminate()
        self.process.wait()


def moment(text):
    """A time of the broker, to the microsecond."""
    whole, _, rest = text.rstrip("Z").partition(".")
    return datetime.datetime.fromisoformat(f"{whole}.{(rest + '000000')[:6]}")


def memory(pid, which="VmRSS"):
    """A process's memory in MB."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) * 1024 / 1e6


def main():
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", type=pathlib.Path)
    parser.add_argument("--server", default="nats-server")
    parser.add_argument("--daemons", type=int, default=8)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--size", type=int, default=64, help="MiB")
    parser.add_argument("--dir", type=pathlib.Path, default=pathlib.Path("."))
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    work = options.dir.resolve() / "fleet"
    shutil.rmtree(work, ignore_errors=True)
    images = work / "objects/images"
    images.mkdir(parents=True)
    content = os.urandom(options.size << 20)
    digest = hashlib.sha256(content).hexdigest()
    (images / "disk.raw").write_bytes(content)
    programs = options.programs.resolve()
    version = subprocess.run([options.server, "--version"], capture_output=True, text=True, check=True)
    print(f"{version.stdout.strip()}; {options.daemons} daemons and {options.hosts - options.daemons} simulated hosts; an image of "
          f"{options.size} MiB; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    environment = {"PATH": os.environ["PATH"], "LVP_NATS_URL": f"nats://127.0.0.1:{PORT}", "LVP_FLEET_KEY": str(work / "ops.key")}

    def ctl(*arguments):
        command = [str(programs / "lvpctl"), "fleet", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"fleet.py: {' '.join(command)}: {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout

    broker = Broker(options.server, work / "broker")
    trust = ctl("keygen", str(work / "ops.key"), "--name", "ops").strip()
    ctl("init")
    store = Nginx(work / "store", STORE.format(port=STORE_PORT, directory=work / "store", root=work / "objects"))
    daemons, hosts = [], None
    try:
        begin = time.monotonic()
        hosts = subprocess.Popen(
            [str(programs / "examples/hosts"), environment["LVP_NATS_URL"], str(options.hosts - options.daemons), trust],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(options.daemons):
            daemons.append(Daemon(programs / "libvirt-volume-provisioner", work / f"host{number}", PORT + 10 + number,
                                  f"http://127.0.0.1:{STORE_PORT}", "", {
                                      "fleet.url": environment["LVP_NATS_URL"], "fleet.host": f"real{number}",
                                      "fleet.trust": trust}))
        hosts.stdout.readline()
        wait_for(lambda: broker.streams()["KV_lvp_hosts"]["num_subjects"] == options.hosts, "all hosts' records")
        connected = time.monotonic() - begin
        time.sleep(QUIET_S)  # what connecting leaves behind
        before, since = broker.counts(), time.monotonic()
        ctl("order", "prewarm", "s3://images/disk.raw", "--image-type", "raw", "--sha256", digest, "--id", "bench", "--all")

        def last():
            return moment(broker.streams()["KV_lvp_reports"]["last_ts"])

        def is_quiet():
            at = last()
            time.sleep(QUIET_S)
            return last() == at
        wait_for(is_quiet, "the reports' end", 1800)
        after, took = broker.counts(), time.monotonic() - since
        whole = (last() - moment(broker.streams()["LVP_ORDERS"]["last_ts"])).total_seconds()
        status = json.loads(ctl("status", "bench", "-o", "json"))
        if status["outcome"] != "done" or len(status["hosts"]) != options.hosts:
            raise SystemExit(f"fleet.py: {status['outcome']}: {status['counts']}")
        in_messages, out_messages, in_bytes, out_bytes = (now - then for now, then in zip(after, before))
        print(f"connected, with records, in {connected:.1f} s")
        print(f"from the order to the last report {whole:.2f} s: {status['counts']}")
        print(f"within {took:.0f} s the broker had {in_messages} messages ({in_bytes / 1e6:.2f} MB) and gave {out_messages} "
              f"({out_bytes / 1e6:.2f} MB), with heartbeats every 15 s of {options.hosts} hosts")
        print(f"memory: broker {memory(broker.process.pid):.0f} MB (most {memory(broker.process.pid, 'VmHWM'):.0f}), "
              f"simulated hosts {memory(hosts.pid):.0f} MB in all, a daemon "
              f"{max(memory(daemon.process.pid) for daemon in daemons):.0f} MB (most "
              f"{max(memory(daemon.process.pid, 'VmHWM') for daemon in daemons):.0f}); load {os.getloadavg()[0]:.1f}")
    finally:
        for daemon in daemons:
            daemon.close()
        if hosts:
            hosts.stdin.close()
            hosts.wait()
        store.close()
        broker.close()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
