"""Which kernels that are known to be bad each way of testing catches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import chain
from pathlib import Path

from benchmarks.by_debugger import DRIVERS, walk
from benchmarks.by_selftest import SelftestBench
from benchmarks.cells import Ready, ready
from benchmarks.measured import Table
from benchmarks.pages import ROOT

from qemu_diff.campaign.capacity import usable_cpus
from qemu_diff.campaign.plan import plan
from qemu_diff.config import load_campaign
from qemu_diff.drive.peer import PeerVerdict
from qemu_diff.errors import InfrastructureError
from qemu_diff.kernels.selftest import Selftest
from qemu_diff.model import (
    SELFTEST_PAYLOAD,
    Campaign,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    Expectation,
    FloodSpec,
    MachineSpec,
    ScenarioSpec,
)

MUTANTS, ORIGIN = ROOT / "configs" / "mutants.toml", ROOT / "configs" / "origin.toml"
RIGHT = "patched"

PAYLOAD = "mixed"
"""What debuggers walk: an HVC, a trapped register, MMIO that user space serves, nothing that
branches."""

STEPS = 44
"""Four times over it."""

ITERATIONS, WAKE_NS = 200, 50_000
"""Of the selftest: several times what it takes on a kernel that it fails on."""

BUDGET_S = 45.0
"""Of a boot of an alternative: a multiple of what it takes on a right kernel."""

OURS, SELFTEST = "qemu-diff", "selftest"
WAYS = (OURS, SELFTEST, *DRIVERS.values())


class Outcome(StrEnum):
    """What a way of testing says of a kernel."""

    CAUGHT = "caught"
    MISSED = "missed"
    UNDECIDED = "can't say"


@dataclass(frozen=True)
class Said:
    """With the reason, in few words."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Matrix:
    """Kernel → way → what was said."""

    rows: Mapping[str, Mapping[str, Said]]

    @property
    def bad(self) -> dict[str, Mapping[str, Said]]:
        """The rows of kernels that are bad."""
        return {name: row for name, row in self.rows.items() if name != RIGHT}

    def caught_by(self, way: str) -> set[str]:
        """The kernels that it caught."""
        return {name for name, row in self.bad.items() if row[way].outcome is Outcome.CAUGHT}

    def table(self) -> Table:
        """Counts, and one row for each kernel."""
        rows = [
            (name, *(f"{row[way].outcome}: {row[way].reason}" for way in WAYS))
            for name, row in self.rows.items()
        ]
        total = f"{len(self.bad)} known-bad kernels, caught"
        rows.append((total, *(str(len(self.caught_by(way))) for way in WAYS)))
        return Table("Which known-bad kernels each way catches", ("kernel", *WAYS), tuple(rows))


def known_bad() -> Matrix:
    """Let each way of testing judge each kernel. About three minutes, the kernels being built."""
    campaigns = [
        replace(load_campaign(path), findings=False, pairs=()) for path in (ORIGIN, MUTANTS)
    ]
    rows: dict[str, dict[str, Said]] = {}
    for campaign in campaigns:
        for name, said in _ours(campaign):
            rows.setdefault(name, {OURS: said})
            print(f"  {name}: {OURS}: {said.outcome}: {said.reason}", flush=True)
    with _alternatives(campaigns) as made:
        selftest = _selftest(made)
        with ThreadPoolExecutor(usable_cpus()) as pool:
            asked = [
                (cell, pool.submit(partial(_ask, made, selftest), cell)) for cell in made.cells
            ]
            for cell, answer in asked:
                way, said = _way(cell), answer.result()
                rows[cell.kernel][way] = said
                print(f"  {cell.kernel}: {way}: {said.outcome}: {said.reason}", flush=True)
    return Matrix({name: rows[name] for name in sorted(rows)})


# --- ours ---


def _ours(campaign: Campaign) -> Iterator[tuple[str, Said]]:
    """(kernel, what its first cell that must fail came to); of the right one, the first cell."""
    chosen: dict[str, Cell] = {}
    for cell in plan(campaign):
        bad = cell.expected != (Expectation.PASS,) or cell.kernel == RIGHT
        if bad and cell.driver is Driver.IN_GUEST:
            chosen.setdefault(cell.kernel, cell)
    with ready(campaign, made=set(chosen.values()).__contains__) as made:
        result, _, _ = made.run_all(usable_cpus())
        for one in result.cells:
            yield one.cell.kernel, _said(one)


def _said(result: CellResult) -> Said:
    what = f"{result.cell.payload}: "
    if result.verdict is CellVerdict.PASS:
        return Said(Outcome.MISSED, f"{what}{result.steps:,} steps are right")
    if result.verdict in (CellVerdict.FAIL, CellVerdict.HANG, CellVerdict.KERNEL_OOPS):
        kinds = ", ".join(kind for kind, number in result.violations if number)
        return Said(Outcome.CAUGHT, what + (kinds or result.verdict))
    return Said(Outcome.UNDECIDED, what + result.reason)


# --- the alternatives ---


@contextmanager
def _alternatives(campaigns: list[Campaign]) -> Iterator[Ready]:
    kernels = {one.name: one for one in chain(*(each.kernels for each in campaigns))}

    def scenario(payload: str, driver: Driver) -> ScenarioSpec:
        return ScenarioSpec((payload,), (MachineSpec(),), FloodSpec(), driver)

    campaign = replace(
        campaigns[0],
        budget_s=BUDGET_S,
        kernels=tuple(kernels.values()),
        scenarios=(
            scenario(SELFTEST_PAYLOAD, Driver.SELFTEST),
            *(scenario(PAYLOAD, driver) for driver in DRIVERS),
        ),
    )
    with ready(campaign) as made:
        yield made


def _selftest(made: Ready) -> SelftestBench:
    """Linux 6.1's, for all kernels: 5.10 has none, and its image comes without a source."""
    program = made.prepared.kernels.selftests[RIGHT]
    assert isinstance(program, Selftest)
    directory = made.places.cells / SELFTEST
    return SelftestBench(made.prepared.peer, program, directory, MachineSpec())


def _way(cell: Cell) -> str:
    return DRIVERS.get(cell.driver, SELFTEST)


def _ask(made: Ready, selftest: SelftestBench, cell: Cell) -> Said:
    if unjudged := made.prepared.unjudged(cell):
        return Said(Outcome.UNDECIDED, unjudged.reason)
    if cell.driver is Driver.SELFTEST:
        return _run_selftest(made, selftest, cell)
    return _walk(made, cell, made.places.cells / cell.id)


def _run_selftest(made: Ready, selftest: SelftestBench, cell: Cell) -> Said:
    try:
        done = selftest.run(
            made.prepared.build_of(cell), ITERATIONS, seed=1, wake_ns=WAKE_NS, budget_s=BUDGET_S
        ).run
    except InfrastructureError as error:
        return Said(Outcome.UNDECIDED, str(error))
    if done.verdict is PeerVerdict.PASS:
        return Said(Outcome.MISSED, f"{done.iterations} iterations are right")
    if done.verdict in (PeerVerdict.FAIL, PeerVerdict.KERNEL_OOPS):
        return Said(Outcome.CAUGHT, done.reason)
    return Said(Outcome.UNDECIDED, done.reason)


def _walk(made: Ready, cell: Cell, directory: Path) -> Said:
    done = walk(made.tasks[cell.id], directory, STEPS)
    if done.wrong is not None:
        before = (
            done.stops[done.wrong - 1][1] if done.wrong else made.prepared.payload_of(cell).entry
        )
        moved = done.stops[done.wrong][1] - before
        return Said(Outcome.CAUGHT, f"PC moved by {moved} at step {done.wrong + 1}")
    if done.trouble:
        return Said(Outcome.UNDECIDED, done.trouble)
    return Said(Outcome.MISSED, f"{len(done.stops)} steps are right")
