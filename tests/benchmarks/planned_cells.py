"""What cells cost beside their boots: planning, verdicts.json, ledger, report."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from unit.campaign.past import outcome, run_of

from qemu_diff.campaign.estimate import estimate
from qemu_diff.campaign.ledger import Ledger, RunLog
from qemu_diff.campaign.plan import plan
from qemu_diff.config import load_campaign
from qemu_diff.model import CellResult, CellVerdict
from qemu_diff.report.html import html
from qemu_diff.report.results import VerdictsFile

HEAD = """
[campaign]
name = "c"
[kernels.one]
source = "debian:linux-source-6.1"
[kernels.two]
source = "debian:linux-source-6.1"
patches = ["guest_images/patches/unpatched.patch"]
"""
SCENARIO = '[[scenario]]\npayload = "hvc"\nflood = {{ count = {number} }}\n'
KERNELS = 2
REPEATS = 3

Costs = dict[str, tuple[float, ...]]
"""What is done → process seconds, for each number of cells."""


def costs_of_cells(numbers: tuple[int, ...]) -> Costs:
    """Process time: other processes may have the machine besides.

    :param numbers: of cells, even, ascending.
    """
    found: dict[str, list[float]] = {}
    # Whoever is first reads templates and makes caches.
    html(run_of(1, outcome("cell")))
    for number in numbers:
        results = tuple(
            outcome(f"cell-{at}", CellVerdict.FAIL if at % 10 == 0 else CellVerdict.PASS)
            for at in range(number)
        )
        for what, seconds in _least(number, results).items():
            found.setdefault(what, []).append(seconds)
    return {what: tuple(seconds) for what, seconds in found.items()}


def _least(number: int, results: tuple[CellResult, ...]) -> dict[str, float]:
    """Of several times: what else the machine does only adds to it (timeit, ``repeat()``)."""
    times = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory(prefix="qemu-diff-") as name:
            costs = {**_planning(Path(name), number), **_publishing(Path(name), results)}
        times.append(costs)
    return {what: min(one[what] for one in times) for what in times[0]}


def process_s(what: Callable[[], object]) -> float:
    """Process seconds that it takes, without Python's search for cycles: when that comes depends on
    what else the process holds (timeit leaves it out likewise)."""
    gc.disable()
    try:
        before = time.process_time()
        what()
        return time.process_time() - before
    finally:
        gc.enable()


def _planning(directory: Path, number: int) -> dict[str, float]:
    path = directory / "c.toml"
    scenarios = (SCENARIO.format(number=at) for at in range(2, number // KERNELS + 2))
    path.write_text(HEAD + "".join(scenarios))
    ledger = Ledger(directory / "past.sqlite3")

    def planned() -> None:
        cells = plan(load_campaign(path))
        assert len(cells) == number
        estimate(cells, ledger.durations("c"), 2)

    return {"plan and estimate": process_s(planned)}


def _publishing(directory: Path, results: tuple[CellResult, ...]) -> dict[str, float]:
    """All cells of a run, one after the other, each as it is finished."""
    verdicts = VerdictsFile(directory)
    log = RunLog(Ledger(directory / "ledger.sqlite3"), directory)
    begun = replace(run_of(1), complete=False)
    partial = [replace(begun, cells=results[:upto]) for upto in range(1, len(results) + 1)]

    def written() -> None:
        for run in partial:
            verdicts.write(run)

    def published() -> None:
        for run in partial:
            log.publish(run)

    return {
        "verdicts.json": process_s(written),
        "ledger": process_s(published),
        "report.html": process_s(lambda: html(run_of(1, *results))),
    }
