"""What 500 small cells cost beside their boots: plan, list, estimate, verdicts.json, ledger.

Not a test: times are this machine's. Ratios say whether a cost stays flat::

    PYTHONPATH=.:tests/unit python tests/benchmarks/nights.py
"""

from __future__ import annotations

import contextlib
import io
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from campaign.past import outcome, run_of

from qemu_diff.campaign.estimate import estimate
from qemu_diff.campaign.ledger import REMEMBERED, Ledger, RunLog
from qemu_diff.campaign.nights import nights
from qemu_diff.campaign.plan import plan
from qemu_diff.cli.selection import print_cells
from qemu_diff.config import load_campaign
from qemu_diff.model import CampaignResult, CellResult, CellVerdict
from qemu_diff.report.results import VerdictsFile

CELLS = 500

CAMPAIGN = """
[campaign]
name = "c"
[kernels.one]
source = "debian:linux-source-6.1"
[kernels.two]
source = "debian:linux-source-6.1"
patches = ["unpatched.patch"]
""" + "".join(
    f'[[scenario]]\npayload = "hvc"\nflood = {{ count = {number} }}\n'
    for number in range(2, CELLS // 2 + 2)
)


def timed(what: Callable[[], object]) -> float:
    """Process time in seconds: other processes may have the machine besides."""
    before = time.process_time()
    what()
    return time.process_time() - before


def planning(directory: Path, past: list[CampaignResult]) -> None:
    path = directory / "c.toml"
    path.write_text(CAMPAIGN)
    (directory / "unpatched.patch").write_bytes(
        Path("guest_images/patches/unpatched.patch").read_bytes()
    )
    ledger = Ledger(directory / "ledger.sqlite3")
    cells = plan(load_campaign(path))
    assert len(cells) == CELLS
    for one in past:
        named = tuple(
            replace(result, cell=cell) for result, cell in zip(one.cells, cells, strict=True)
        )
        run = replace(one, cells=named, pairs=())
        ledger.record(run, named, (), directory)

    def listed() -> None:
        campaign = load_campaign(path)
        cells = plan(campaign)
        estimated = estimate(cells, ledger.durations(campaign.name), 2)
        assert not estimated.unknown
        with contextlib.redirect_stdout(io.StringIO()):
            print_cells(campaign, cells, estimated)

    print(f"plan, list, estimate of {CELLS} cells, {len(past)} past runs: {timed(listed):.2f} s")
    now = replace(past[-1], run="f" * 32)
    told = timed(lambda: nights(ledger.past_runs("c"), now, {cell.id for cell in cells}))
    print(f"what changed since the last of {len(past)} runs: {told:.2f} s")


def publishing(directory: Path, results: tuple[CellResult, ...]) -> None:
    """Early and late cells of one run."""
    directory.mkdir()
    verdicts = VerdictsFile(directory)
    log = RunLog(Ledger(directory / "ledger.sqlite3"), directory)
    run = replace(run_of(1), complete=False)
    spent: dict[str, list[float]] = {"verdicts.json": [], "ledger": []}
    memory: list[int] = []
    for number in range(1, CELLS + 1):
        run = replace(run, cells=results[:number])
        spent["verdicts.json"].append(timed(partial(verdicts.write, run)))
        spent["ledger"].append(timed(partial(log.publish, run)))
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    tenth = CELLS // 10
    for what, each in spent.items():
        early, late = median(each[tenth : 2 * tenth]), median(each[-tenth:])
        print(
            f"{what}: {early * 1e3:.2f} ms for each cell early, {late * 1e3:.2f} ms late: "
            f"ratio {late / early:.1f}; {sum(each):.2f} s for all"
        )
    size = (directory / "verdicts.json").stat().st_size
    print(f"verdicts.json: {size >> 10} KiB; memory {memory[0] >> 10} to {memory[-1] >> 10} MiB")


def main() -> None:
    results = tuple(
        outcome(f"cell-{number}", CellVerdict.FAIL if number % 10 == 0 else CellVerdict.PASS)
        for number in range(CELLS)
    )
    past = [
        replace(run_of(night % 28 + 1, *results), run=f"{night:032x}")
        for night in range(REMEMBERED)
    ]
    with tempfile.TemporaryDirectory() as name:
        publishing(Path(name) / "out", results)
        planning(Path(name), past)


if __name__ == "__main__":
    main()
