"""Garbage: every reader fuzzed, the binary ones by coverage. About 10 minutes in all."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random

from benchmarks.conditions import conditions
from benchmarks.measured import Claim, Measured, Table
from fuzz.hostile import HUGE, KINDS, MOST_CHANGES, MOST_NOISE, WORDS, Change, tampered
from fuzz.limits import MOST_MIB, SLOWEST_S
from fuzz.targets import TARGETS, Target, fault_of

MINUTES = 9.0
"""Of all targets together; setting up takes the rest."""

SEED = 1

STARTING_S = 300
"""Counting branches takes some seconds to begin with; on a busy machine, many."""

_CRASH = re.compile(r"^(?:==\d+== ERROR: libFuzzer: (?P<kind>.+)| === Uncaught.*)$", re.MULTILINE)
_UNITS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_EDGES = re.compile(r"cov: (\d+)")
_MEMORY = re.compile(r"stat::peak_rss_mb:\s*(\d+)")
_LAST_WORDS = 200


@dataclass(frozen=True)
class Fuzzed:
    """What came of one target.

    :param edges: branches of our code that were taken; 0 where nobody counts them.
    :param memory_mib: most that the process had; 0 likewise.
    """

    executions: int
    faults: tuple[str, ...] = ()
    edges: int = 0
    memory_mib: int = 0


def by_coverage(name: str, seconds: int) -> Fuzzed:
    """libFuzzer, in a process of its own: python -m fuzz."""
    with tempfile.TemporaryDirectory() as findings:
        command = [sys.executable, "-m", "fuzz", name, str(seconds), findings]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False,
                env=os.environ, timeout=seconds + STARTING_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Fuzzed(0, (f"no end after {seconds + STARTING_S} s",))
        said = done.stdout + done.stderr
        inputs = [path.read_bytes() for path in Path(findings).iterdir()]
    faults = tuple(f"{_last_words(said)} on {one[:40]!r}" for one in inputs)
    if done.returncode and not faults:
        faults = (_last_words(said),)
    return Fuzzed(
        sum(map(int, _UNITS.findall(said))) or _pulses(said),
        faults,
        max(map(int, _EDGES.findall(said)), default=0),
        max(map(int, _MEMORY.findall(said)), default=0),
    )


def _pulses(said: str) -> int:
    """Executions of a run that was cut short by what it found."""
    return max(map(int, re.findall(r"^#(\d+)\s", said, re.MULTILINE)), default=0)


def _last_words(said: str) -> str:
    if found := _CRASH.search(said):
        return (found["kind"] or "an exception")[:_LAST_WORDS]
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1][:_LAST_WORDS] if lines else "it said nothing"


def by_tampering(target: Target, seconds: float) -> Fuzzed:
    """Valid inputs, tampered with at random, in a process of its own for each thousand."""
    executions, faults, batch = 0, [], 0
    until = time.monotonic() + seconds
    while time.monotonic() < until and len(faults) < 3:
        command = [sys.executable, "-m", "benchmarks.garbage", target.name, str(batch)]
        left_s = max(1.0, until - time.monotonic())
        done = subprocess.run(
            [*command, f"{left_s:.1f}"], capture_output=True, text=True, errors="replace",
            check=False, timeout=left_s + STARTING_S,
        )  # fmt: skip
        executions += int(done.stdout.split()[0]) if done.stdout else 0
        if done.returncode:
            faults.append(_last_words(done.stderr) if done.returncode > 0 else "too slow")
        batch += 1
    return Fuzzed(executions, tuple(faults))


BATCH = 20_000


def tamper(name: str, batch: int, seconds: float) -> int:
    """Some thousand executions; how many.

    :raises AssertionError: a fault.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MIB << 20, MOST_MIB << 20))
    target, until = TARGETS[name], time.monotonic() + seconds
    seeds = target.seeds()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["QEMU_DIFF_CACHE"] = f"{scratch}/cache"
        for number in range(BATCH):
            if time.monotonic() > until:
                return number
            data = _hostile(Random(f"{SEED} {name} {batch} {number}"), seeds)
            # Nobody handles it: the process ends, and that is the fault.
            signal.alarm(SLOWEST_S)
            with tempfile.TemporaryDirectory(dir=scratch) as directory:
                fault = fault_of(target, data, Path(directory))
            signal.alarm(0)
            assert not fault, f"{fault.strip()} on {data[:40]!r}"
    return BATCH


def _hostile(draws: Random, seeds: tuple[bytes, ...]) -> bytes:
    if not draws.randrange(10):
        return draws.randbytes(draws.randrange(MOST_NOISE))
    changes = [
        Change(
            draws.choice(KINDS),
            draws.random(),
            draws.choice((*HUGE, *WORDS)) if draws.randrange(2) else draws.randbytes(8),
        )
        for _ in range(draws.randrange(MOST_CHANGES + 1))
    ]
    return tampered(draws.choice(seeds), changes)


def measure() -> Measured:
    """See the module."""
    coverage = find_spec("atheris") is not None
    seconds = int(MINUTES * 60 / len(TARGETS))
    found: dict[str, Fuzzed] = {}
    for number, (name, target) in enumerate(TARGETS.items(), 1):
        guided = coverage and target.binary
        found[name] = by_coverage(name, seconds) if guided else by_tampering(target, seconds)
        how = "by coverage" if guided else "by tampering"
        done = f"{found[name].executions:,} executions, {len(found[name].faults)} faults"
        print(f"garbage: {number} of {len(TARGETS)}: {name} {how}: {done}", flush=True)
    executions = sum(one.executions for one in found.values())
    faults = sum(len(one.faults) for one in found.values())
    return Measured(
        name="garbage",
        command="scripts/measure garbage",
        conditions=conditions(None, f"{seconds} s for each reader"),
        claims=(
            Claim(
                "inputs that were neither read nor refused in a reader's own words",
                f"{faults} of {executions:,}",
                "none",
                not faults,
                f"{len(TARGETS)} readers",
            ),
        ),
        tables=(
            Table(
                "Readers, and what was tried on them",
                ("reader", "how", "executions", "edges", "most memory", "faults"),
                tuple(_row(name, one) for name, one in found.items()),
                "Edges: branches that coverage-guided fuzzing (atheris) has reached in our code "
                "and in the libraries that parse for it. An input is a fault if it raises "
                "anything but the reader's documented error, or takes more than "
                f"{SLOWEST_S} s or {MOST_MIB} MiB.",
            ),
        ),
    )


def _row(name: str, one: Fuzzed) -> tuple[str, ...]:
    return (
        name,
        "coverage" if one.edges else "tampering",
        f"{one.executions:,}",
        f"{one.edges:,}" if one.edges else "-",
        f"{one.memory_mib} MiB" if one.memory_mib else "-",
        "; ".join(one.faults) or "none",
    )


if __name__ == "__main__":
    print(tamper(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
