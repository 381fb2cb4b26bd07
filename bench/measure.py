"""Runs programs and measures what they use: wall time, CPU time, memory."""

import dataclasses
import os
import statistics
import subprocess
import sys
import time


@dataclasses.dataclass
class Cost:
    """The cost of one run."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    rss_kib: int = 0

    def __add__(self, other):
        return Cost(
            self.wall_s + other.wall_s,
            self.cpu_s + other.cpu_s,
            max(self.rss_kib, other.rss_kib),
        )


class Failed(Exception):
    """A program that was being measured failed."""


def run(*commands, cwd=None):
    """Runs commands one after the other and adds up their costs, including their children's."""
    return run_printing(*commands, cwd=cwd, stdout=subprocess.DEVNULL)[0]


def run_printing(*commands, cwd=None, stdout=subprocess.PIPE):
    """The same, and the output of the last one, which must be short."""
    total = Cost()
    printed = None
    for command in commands:
        command = [str(part) for part in command]
        begin = time.monotonic()
        child = subprocess.Popen(
            command, stdout=stdout, stderr=subprocess.PIPE, cwd=cwd
        )
        # Read before the wait; otherwise a program with much output would block.
        stderr = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.monotonic() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            text = stderr.decode(errors="replace").strip()
            raise Failed(f"{' '.join(command)}: exit {child.returncode}: {text}")
        total += Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
        printed = child.stdout and child.stdout.read()
    return total, printed


def output(*command):
    """The output of a command."""
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


@dataclasses.dataclass
class Contender:
    """One way to do the work. `work` does it and returns its cost; `before` and `after` are not
    measured."""

    name: str
    work: object
    before: object = None
    after: object = None
    note: str = ""


def alternate(contenders, runs):
    """Every contender in turn, `runs` times over. Costs by name."""
    costs = {contender.name: [] for contender in contenders}
    for round_number in range(runs):
        for contender in contenders:
            cost = once(contender)
            costs[contender.name].append(cost)
            progress(
                f"  {round_number + 1}/{runs} {contender.name}: {cost.wall_s:.2f} s, "
                f"CPU {cost.cpu_s:.2f} s"
            )
    return costs


def once(contender):
    """One run of a contender."""
    if contender.before:
        contender.before()
    # Dirty pages of earlier runs must not count as a cost of this one.
    os.sync()
    cost = contender.work()
    if contender.after:
        contender.after()
    return cost


def best_setting(choices, build):
    """The cheapest setting by wall time, each dimension varied in turn from the first values.

    `choices` maps dimensions to their values, `build` makes a contender of a setting. Returns the
    contender, and every setting that was tried with its wall time.
    """
    setting = {dimension: values[0] for dimension, values in choices.items()}
    tried = {}

    def wall_s(candidate):
        key = tuple(candidate.values())
        if key not in tried:
            tried[key] = once(build(candidate)).wall_s
            progress(f"  trying {key}: {tried[key]:.2f} s")
        return tried[key]

    for dimension, values in choices.items():
        setting[dimension] = min(
            values, key=lambda value: wall_s({**setting, dimension: value})
        )
    return build(setting), tried


def median(costs, what="wall_s"):
    """Median of one figure over several runs."""
    return statistics.median(getattr(cost, what) for cost in costs)


def spread(costs, what="wall_s"):
    """Least and greatest of one figure over several runs."""
    values = [getattr(cost, what) for cost in costs]
    return min(values), max(values)


def progress(text):
    """Shows progress; results go to files."""
    print(text, file=sys.stderr, flush=True)
