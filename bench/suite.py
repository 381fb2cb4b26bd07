#!/usr/bin/env python3
"""The benchmarks: makes the images, runs the comparisons in alternation, checks every output's
bytes, and writes docs/benchmarks.md.

    ./dev bench [SECTION...] [--size MIB] [--runs N] [--dir DIR] [--memory DIR] [--tree DIR] [--no-page]

Sections: warm memory-device double decoding empty cold gigabit large load viewers hundred scale limits. All of them
by default. The figures are kept in bench/results, one file a section; the page is made of those.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

import decoding
import page
import service
import viewers
import warm
from images import Images
from measure import median, output, progress, spread

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Bench:
    """What all sections need."""

    def __init__(self, arguments):
        self.directory = arguments.dir.resolve()
        self.memory = arguments.memory
        self.runs = arguments.runs
        self.images = Images(self.directory / "images", arguments.tree, arguments.size)
        self.times = arguments.times
        self.program = ROOT / "target/release/libvirt-volume-provisioner"

    @property
    def one_pass(self):
        """Runs one of the daemon's jobs onto a block device."""
        return newest_bench("one_pass")

    @property
    def status_load(self):
        """Asks for a job's status at a steady rate."""
        return newest_bench("status_load")

    @staticmethod
    def result(contender, costs):
        """A contender's figures, for the results file."""
        low, high = spread(costs)
        return {
            "name": contender.name, "note": contender.note, "runs": len(costs),
            "wall_s": median(costs), "wall_s_min": low, "wall_s_max": high,
            "cpu_s": median(costs, "cpu_s"), "rss_mib": max(c.rss_kib for c in costs) / 1024,
        }


def newest_bench(name):
    """The program that cargo made of a file in benches/."""
    found = [path for path in (ROOT / "target/release/deps").glob(f"{name}-*")
             if not path.suffix and os.access(path, os.X_OK)]
    if not found:
        sys.exit(f"suite.py: {name} is not built: ./dev bench builds it")
    return max(found, key=lambda path: path.stat().st_mtime)


def conditions(bench):
    """What the figures were measured on; nothing that changes from day to day."""
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())
    filesystem = output("stat", "-f", "-c", "%T", bench.directory).strip()
    nbd = subprocess.run(["nbdcopy", "--version"], stdout=subprocess.PIPE, text=True, check=False)
    return {
        "CPU": f"{cpu.group(1) if cpu else platform.machine()}, {os.cpu_count()} cores",
        "Memory": f"{int(memory.group(1)) / (1 << 20):.0f} GiB",
        "Kernel": platform.release(),
        "File system": filesystem,
        "Rust": output("rustc", "--version").strip(),
        "qemu-img": output("qemu-img", "--version").splitlines()[0].removeprefix("qemu-img version "),
        "nbdcopy": nbd.stdout.partition("\n")[0].removeprefix("nbdcopy "),
        "S3 server": output("rclone", "version").splitlines()[0],
    }


def sections(bench):
    """Every section by name."""
    return {
        "warm": lambda: warm.measure_all(bench, "disk", bench.directory),
        "memory-device": lambda: warm.measure_all(bench, "memory", bench.memory, only_main=True),
        "double": lambda: warm.double_decode(bench, bench.directory),
        "decoding": lambda: decoding.decoding(bench, bench.directory),
        "empty": lambda: warm.empty(bench, bench.directory),
        "cold": lambda: service.cold(bench, bench.directory),
        "gigabit": lambda: service.cold(bench, bench.directory, service.GIGABIT),
        "large": lambda: service.memory(bench, bench.directory, bench.times),
        "load": lambda: service.load(bench, bench.directory),
        "viewers": lambda: looked_at(bench),
        "hundred": lambda: service.hundred(bench, bench.directory),
        "scale": lambda: warm.scaling(bench, bench.directory),
        "limits": lambda: {"write": warm.rate_limit(bench, bench.directory),
                           "read": service.read_limit(bench, bench.directory)},
    }


def looked_at(bench):
    """The figures of the section 'viewers'."""
    image = bench.images.qcow2("files", "zlib")
    contenders, costs, seen = viewers.viewers(bench.program, image, bench.images.size_mib, bench.runs, bench.directory)
    return {"viewers": viewers.VIEWERS, "events": max(events for _, events in seen),
            "results": [bench.result(contender, costs[contender.name]) for contender in contenders]}


def main():
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", nargs="*")
    parser.add_argument("--size", type=int, default=4096, metavar="MIB",
                        help="size of the main disk")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="runs of each contender")
    parser.add_argument("--times", type=int, default=5, metavar="N",
                        help="the disk of the section 'large' is that many main disks")
    parser.add_argument("--dir", type=pathlib.Path, default=ROOT / "target/bench",
                        help="where images and targets are, on a disk")
    parser.add_argument("--memory", type=pathlib.Path, default=pathlib.Path("/dev/shm"),
                        help="where a block device in memory can be")
    parser.add_argument("--tree", default="/usr", help="the file tree that disks are made of")
    parser.add_argument("--no-page", action="store_true", help="print the page, and leave docs/benchmarks.md and bench/results alone")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    known = sections(bench)
    if unknown := set(arguments.section) - set(known):
        sys.exit(f"suite.py: no section {', '.join(unknown)}; there are: {' '.join(known)}")
    results = bench.directory / "results" if arguments.no_page else page.RESULTS
    results.mkdir(parents=True, exist_ok=True)
    for name in arguments.section or known:
        progress(f"== {name}")
        found = {"size_mib": bench.images.size_mib, "runs": bench.runs, "found": known[name]()}
        (results / f"{name}.json").write_text(json.dumps(found, indent=1))
    (results / "conditions.json").write_text(json.dumps(conditions(bench), indent=1))
    if arguments.no_page:
        print(page.render(results))
    else:
        page.PAGE.write_text(page.render(results))


if __name__ == "__main__":
    main()
