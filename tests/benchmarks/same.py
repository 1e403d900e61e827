"""The same answer everywhere: the golden campaign, run in every way. About 4 minutes, and 5 more
for a kernel that is built a second time."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.conditions import conditions
from benchmarks.measured import Claim, Measured, Table
from golden.blessed import CAMPAIGN, Run, complaint, digest, inputs_here, load, recorded
from integration.cli_run import CliRun, qemu_diff, run_campaign
from integration.test_dask import UNLIKE, scheduler

from qemu_diff.config import load_campaign
from qemu_diff.config.project import project_root
from qemu_diff.guest.image import build_stepvmm
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.kernels import build_kernel, cache_directory

BUSY_LOOPS = 8
BUILT_AGAIN = "patched"


@dataclass(frozen=True)
class Way:
    """One way of running the campaign.

    :param seconds: of wall time.
    :param cells: cell id → all of its result but times.
    """

    name: str
    seconds: float
    cells: dict[str, Any]


def measure() -> Measured:
    """Every way, the first twice; then the same Image from another directory."""
    with tempfile.TemporaryDirectory(prefix="qemu-diff-same-") as name:
        directory = Path(name)
        first, *others = _ways(directory)
        images = _images(directory / "another" / "cache" / "with-a-longer-path")
        programs = _step_vmms(directory)
    inputs = inputs_here()
    results = {
        cell: {"id": cell, "verdict": one["verdict"], "result": one["result"]}
        for cell, one in first.cells.items()
    }
    said = complaint(Run(inputs, recorded({"cells": list(results.values())})), load())
    return Measured(
        name="same",
        command="scripts/measure same",
        conditions=conditions(find_qemu(), f"{len(first.cells)} cells of tests/golden"),
        claims=(
            _all_alike(first, others),
            Claim("what was blessed", said if said else "the same", "the same", not said),
            _identical(f"Image of kernel {BUILT_AGAIN}, built in two directories", images),
            _identical("step VMM, compiled in two directories", programs),
        ),
        tables=(_table(first, others), _inputs_table(inputs)),
    )


def _ways(directory: Path) -> Iterator[Way]:
    yield _way("as many at a time as there are CPUs", directory, _run)
    yield _way("again", directory, _run)
    yield _way("one at a time", directory, lambda out: _run(out, "--jobs", "1"))
    yield _way("two at a time", directory, lambda out: _run(out, "--jobs", "2"))
    with _busy(BUSY_LOOPS):
        yield _way(f"beside {BUSY_LOOPS} busy loops", directory, _run)
    with scheduler(directory / "cluster") as cluster:
        cluster.add()
        cluster.add()
        yield _way(
            "on two Dask workers, each with a cache of its own",
            directory,
            lambda out: cluster.run(CAMPAIGN, out),
        )


def _run(out: Path, *more: str) -> CliRun:
    return run_campaign(CAMPAIGN, out, *more)


def _way(name: str, directory: Path, run: Callable[[Path], CliRun]) -> Way:
    begun = time.monotonic()
    done = run(directory / f"results-{name.replace(' ', '-')}")
    seconds = time.monotonic() - begun
    assert done.status == 0, done.said
    print(f"  {name}: {seconds:.0f} s", flush=True)
    return Way(name, seconds, {cell["id"]: _lasting(cell) for cell in done.verdicts["cells"]})


def _lasting(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell without what may differ from one run to the next."""
    kept = {name: value for name, value in cell.items() if name not in UNLIKE}
    kept["result"] = {name: value for name, value in cell["result"].items() if name not in UNLIKE}
    return kept


@contextmanager
def _busy(number: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for one in loops:
            one.kill()
        for one in loops:
            one.wait()


def _images(cache: Path) -> tuple[str, str]:
    """Digests of one kernel's Image, from the cache and from a build in another directory."""
    (spec,) = (one for one in load_campaign(CAMPAIGN).kernels if one.name == BUILT_AGAIN)
    here = build_kernel(spec)
    print(f"  building kernel {BUILT_AGAIN} a second time", flush=True)
    cache.mkdir(parents=True)
    done = qemu_diff("kernels", "build", CAMPAIGN, BUILT_AGAIN, QEMU_DIFF_CACHE=str(cache))
    assert done.status == 0, done.said
    (there,) = cache.glob("kernels/*/Image")
    return digest(here.image.read_bytes()), digest(there.read_bytes())


def _step_vmms(directory: Path) -> tuple[str, str]:
    here = project_root() / "guest_images"
    there = Path(shutil.copytree(here, directory / "moved" / "guest_images"))
    first = build_stepvmm(here, cache_directory("guest")).program
    second = build_stepvmm(there, directory / "moved").program
    return digest(first.read_bytes()), digest(second.read_bytes())


def _all_alike(first: Way, others: Sequence[Way]) -> Claim:
    alike = sum(_alike(first, other) for other in others)
    due = len(first.cells) * len(others)
    return Claim(
        "records, truth, timer logs (by fingerprint), reported PCs and verdicts, of each cell",
        f"{alike} of {due} as in the first run",
        "all",
        alike == due,
    )


def _alike(one: Way, other: Way) -> int:
    return sum(other.cells.get(cell) == result for cell, result in one.cells.items())


def _identical(what: str, digests: tuple[str, str]) -> Claim:
    same = digests[0] == digests[1]
    return Claim(what, "the same bytes" if same else "different bytes", "the same bytes", same)


def _table(first: Way, others: Sequence[Way]) -> Table:
    rows = tuple(
        (one.name, f"{_alike(first, one)} of {len(first.cells)}", f"{one.seconds:.0f}")
        for one in (first, *others)
    )
    return Table("Ways to run it", ("run", "cells as in the first run", "s"), rows)


def _inputs_table(inputs: dict[str, str]) -> Table:
    rows = tuple((name, value) for name, value in inputs.items())
    return Table("What a fingerprint hangs on, here", ("input", "version line or SHA-256"), rows)
