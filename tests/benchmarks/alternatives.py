"""The other ways to find the same bugs, beside ours: gdb and raw RSP on a QEMU in L1, and the
kernel's own selftest.

About eleven minutes on two free CPUs, all kernels being built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.by_debugger import DRIVERS, Walk, walk
from benchmarks.by_selftest import UPSTREAM_ITERATIONS, SelftestBench
from benchmarks.cells import Done, Ready, ready
from benchmarks.conditions import conditions
from benchmarks.known_bad import OURS, SELFTEST, WAYS, Matrix, known_bad
from benchmarks.measured import Claim, Measured, Plot, Series, Table
from benchmarks.pages import ROOT

from qemu_diff.config import load_campaign
from qemu_diff.drive.peer import TICK_ONLY
from qemu_diff.kernels.selftest import Selftest
from qemu_diff.model import (
    SELFTEST_PAYLOAD,
    Cell,
    CellVerdict,
    Driver,
    ExceptionOrder,
    FloodSource,
    FloodSpec,
    MachineSpec,
    Method,
    Placement,
    ScenarioSpec,
)

QUICKSTART = ROOT / "configs" / "quickstart.toml"
BAD, RIGHT = "unpatched", "patched"

ROUNDS = 3
WALKED = "hvc_classes"
"""What is stepped for its pace: nothing in it branches."""

PASSES = 400
DEBUGGER_STEPS = 150
PACE_ITERATIONS = 200

SEEDS = range(1, 21)
WAKE_NS = 50_000
"""As configs/origin.toml floods the selftest."""

BUDGET_S = 600.0
TICK_BUDGET_S = 60.0

VHE = MachineSpec()
ASYNC_FIRST = MachineSpec(exception_order=ExceptionOrder.ASYNC_FIRST)
TIMER = (FloodSource.HOST_TIMER,)
SWEEP = FloodSpec(TIMER, Placement.SWEEP, first_ns=1200, last_ns=5000, step_ns=32)
RANDOM = FloodSpec(TIMER, Placement.RANDOM, first_ns=1200, last_ns=5000, count=100)
FULL_GRID = FloodSpec(TIMER, Placement.SWEEP, first_ns=1200)

DETECTING = (
    ScenarioSpec(("hvc",), (VHE,), FloodSpec(count=20), Driver.IN_GUEST),
    ScenarioSpec(("trapped_sysreg",), (VHE,), RANDOM, Driver.IN_GUEST),
    ScenarioSpec(("trapped_sysreg",), (VHE,), SWEEP, Driver.IN_GUEST),
    ScenarioSpec(("straightline",), (ASYNC_FIRST,), FloodSpec(count=20), Driver.IN_GUEST),
)
"""Cells that a user would run to see whether the bug is there."""

FASTER, SHARE = 100, 1 / 20


def measure() -> Measured:
    """See the module."""
    with _bench() as bench:
        paces = _paces(bench)
        detections = _detections(bench)
        clean = _clean(bench)
        qemu = bench.made.prepared.tools.qemu
    matrix = known_bad()
    return Measured(
        name="alternatives",
        command="scripts/measure alternatives",
        conditions=conditions(qemu, f"{len(SEEDS)} seeds"),
        claims=(
            _pace_claim(paces),
            *_detection_claims(detections),
            *_clean_claims(clean),
            _matrix_claim(matrix),
        ),
        tables=(
            _pace_table(paces),
            _detection_table(detections),
            _clean_table(clean),
            matrix.table(),
        ),
        plots=(_detection_plot(detections),),
    )


@dataclass(frozen=True)
class _Bench:
    """:param per_iteration: steps of one iteration of the selftest."""

    made: Ready
    selftest: SelftestBench
    per_iteration: float

    def cells(self, driver: Driver, kernel: str, flood: FloodSpec | None = None) -> list[Cell]:
        return [
            cell
            for cell in self.made.cells
            if (cell.driver, cell.kernel) == (driver, kernel) and flood in (None, cell.flood)
        ]

    def walk(self, cell: Cell, name: str, steps: int, seed: int = 1) -> Walk:
        task = self.made.tasks[cell.id]
        task = replace(task, cell=replace(cell, seed=seed))
        return walk(task, self.made.places.cells / f"{cell.id}-{name}", steps)


@contextmanager
def _bench() -> Iterator[_Bench]:
    pace = FloodSpec(count=PASSES)
    campaign = replace(
        load_campaign(QUICKSTART),
        budget_s=BUDGET_S,
        findings=False,
        pairs=(),
        scenarios=(
            *DETECTING,
            ScenarioSpec((WALKED,), (VHE,), pace, Driver.IN_GUEST, kernels=(RIGHT,)),
            ScenarioSpec(
                ("selftest_loop", "trapped_classes"), (VHE,), FULL_GRID, Driver.IN_GUEST,
                kernels=(RIGHT,),
            ),
            *(
                ScenarioSpec((payload,), (VHE,), FloodSpec(), driver, kernels=(kernel,))
                for driver in DRIVERS
                for payload, kernel in ((WALKED, RIGHT), ("hvc", BAD))
            ),
            ScenarioSpec((SELFTEST_PAYLOAD,), (VHE,), FloodSpec(), Driver.SELFTEST),
        ),
    )  # fmt: skip
    with ready(campaign) as made:
        program = made.prepared.kernels.selftests[RIGHT]
        assert isinstance(program, Selftest)
        directory = made.places.cells / SELFTEST
        selftest = SelftestBench(made.prepared.peer, program, directory, VHE)
        each = selftest.steps_per_iteration(made.prepared.kernels.builds[RIGHT])
        print(f"  the selftest steps {each:g} instructions in an iteration", flush=True)
        yield _Bench(made, selftest, each)


# --- pace ----------------------------------------------------------------------------------------


def _paces(bench: _Bench) -> dict[str, list[float]]:
    """Way → steps/s of each round; one round after the other."""
    build = bench.made.prepared.kernels.builds[RIGHT]
    ours = bench.cells(Driver.IN_GUEST, RIGHT, FloodSpec(count=PASSES))[0]
    paces: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(ROUNDS):
        for driver, way in DRIVERS.items():
            (cell,) = (one for one in bench.cells(driver, RIGHT) if one.payload == WALKED)
            done = bench.walk(cell, f"pace-{number}", DEBUGGER_STEPS)
            paces[way].append(done.steps_per_s)
        said = bench.selftest.run(
            build, PACE_ITERATIONS, seed=1, wake_ns=TICK_ONLY, budget_s=BUDGET_S
        )
        paces[SELFTEST].append(bench.per_iteration * PACE_ITERATIONS / said.running_s)
        paces[OURS].append(_pace(bench.made.run(ours)))
        latest = ", ".join(f"{way} {pace[-1]:,.0f}" for way, pace in paces.items())
        print(f"  steps/s, round {number + 1}: {latest}", flush=True)
    return paces


def _pace(done: Done) -> float:
    """From the first report that was seen to the last."""
    (samples,) = done.samples.values()
    first = next(one for one in samples if one.reports)
    last = next(one for one in samples if one.reports == samples[-1].reports)
    return (last.reports - first.reports) / (last.at - first.at)


def _pace_claim(paces: Mapping[str, Sequence[float]]) -> Claim:
    gdb = DRIVERS[Driver.GDB]
    ratio = median(ours / theirs for ours, theirs in zip(paces[OURS], paces[gdb], strict=True))
    return Claim(
        f"steps/s, ours against {gdb}", f"{ratio:,.0f} times", f"at least {FASTER} times",
        ratio >= FASTER, f"the median of {ROUNDS} rounds",
    )  # fmt: skip


def _pace_table(paces: Mapping[str, Sequence[float]]) -> Table:
    slowest = median(paces[DRIVERS[Driver.GDB]])
    rows = tuple(
        (way, f"{min(pace):,.0f}", f"{median(pace):,.0f}", f"{max(pace):,.0f}",
         f"{median(pace) / slowest:,.1f}")
        for way, pace in paces.items()
    )  # fmt: skip
    return Table(
        f"Steps/s on `{RIGHT}`",
        ("way", "min", "median", "max", "times gdb's"),
        rows,
        f"Ours and the debuggers step `{WALKED}`, the selftest its own loop; ours with the truth "
        "plugin and the records, the others with nothing beside them. Booting does not count.",
    )


# --- first detection -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Detection:
    """:param seconds: from power-on to the first sign of the bug, for each seed that showed it.

    :param verdicts: to the whole cell's verdict; of ours only.
    :param seeds: how many were tried.
    """

    way: str
    seconds: tuple[float, ...]
    verdicts: tuple[float, ...] = ()
    seeds: int = len(SEEDS)


def _detections(bench: _Bench) -> list[_Detection]:
    seconds: dict[str, list[float]] = {}
    verdicts: dict[str, list[float]] = {}
    ways = _ways_to_detect(bench)
    for seed in SEEDS:
        for way, detect in ways.items():
            found, verdict = detect(seed)
            if found is not None:
                seconds.setdefault(way, []).append(found)
            if verdict is not None:
                verdicts.setdefault(way, []).append(verdict)
        latest = ", ".join(f"{one[-1]:.2f}" for one in seconds.values())
        print(f"  first detection, seed {seed} of {SEEDS[-1]}: {latest} s", flush=True)
    return [
        *(
            _Detection(way, tuple(seconds.get(way, ())), tuple(verdicts.get(way, ())))
            for way in ways
        ),
        _with_the_tick_alone(bench),
    ]


def _with_the_tick_alone(bench: _Bench) -> _Detection:
    """As upstream runs the selftest: every run is the same, so one is enough."""
    said = bench.selftest.run(
        bench.made.prepared.kernels.builds[BAD], UPSTREAM_ITERATIONS, seed=1, wake_ns=TICK_ONLY,
        budget_s=TICK_BUDGET_S,
    )  # fmt: skip
    found = () if said.detected_s is None else (said.detected_s,)
    print(f"  first detection, the selftest with L1's tick alone: {found}", flush=True)
    way = f"{SELFTEST}, with L1's tick alone, for at most {TICK_BUDGET_S:g} s"
    return _Detection(way, found, seeds=1)


_Detect = Callable[[int], tuple[float | None, float | None]]


def _ways_to_detect(bench: _Bench) -> dict[str, _Detect]:
    """Way → seed → seconds to the first sign, and to a verdict."""
    ways: dict[str, _Detect] = {}

    def ours(cell: Cell) -> _Detect:
        def detect(seed: int) -> tuple[float | None, float | None]:
            done = bench.made.run(cell, seed)
            return done.detected_s, done.verdict_s

        return detect

    def debugger(cell: Cell) -> _Detect:
        def detect(seed: int) -> tuple[float | None, float | None]:
            return bench.walk(cell, f"seed-{seed}", DEBUGGER_STEPS, seed).detected_s, None

        return detect

    def selftest(seed: int) -> tuple[float | None, float | None]:
        said = bench.selftest.run(
            bench.made.prepared.kernels.builds[BAD], UPSTREAM_ITERATIONS, seed=seed,
            wake_ns=WAKE_NS, budget_s=BUDGET_S,
        )  # fmt: skip
        return said.detected_s, None

    for cell in bench.cells(Driver.IN_GUEST, BAD):
        ways[f"{OURS}: {cell.id.removeprefix(f'{BAD}.')}"] = ours(cell)
    ways[SELFTEST] = selftest
    for driver, way in DRIVERS.items():
        ways[f"{way}: hvc"] = debugger(bench.cells(driver, BAD)[0])
    return ways


def _detection_claims(detections: Sequence[_Detection]) -> tuple[Claim, ...]:
    (theirs,) = (one for one in detections if one.way == SELFTEST)
    ours = [one for one in detections if one.way.startswith(OURS)]
    slowest = max(ours, key=lambda one: _middle(one.seconds))
    everywhere = all(len(one.seconds) == len(SEEDS) for one in ours)
    sooner = everywhere and _middle(slowest.seconds) < _middle(theirs.seconds)
    verdicts = max(_middle(one.verdicts) for one in ours)
    return (
        Claim(
            f"power-on to the first detection on `{BAD}`, the slowest of our {len(ours)} cells "
            "against the selftest",
            f"{_middle(slowest.seconds):.2f} s against {_middle(theirs.seconds):.2f} s",
            "sooner",
            sooner,
            "medians; of ours, when the record that convicts was there"
            + ("" if everywhere else "; a cell of ours did not detect it with every seed"),
        ),
        Claim(
            "power-on to the verdict of the whole cell, the slowest of these",
            f"{verdicts:.2f} s",
            why="every step judged, and QEMU gone",
        ),
    )


def _middle(seconds: Sequence[float]) -> float:
    """The median; no seed showed anything: never."""
    return median(seconds) if seconds else float("inf")


def _detection_table(detections: Sequence[_Detection]) -> Table:
    def cells(seconds: Sequence[float]) -> tuple[str, str, str]:
        if not seconds:
            return "", "", ""
        return tuple(f"{one(seconds):.2f}" for one in (min, median, max))  # type: ignore[return-value]

    rows = tuple(
        (one.way, f"{len(one.seconds)} of {one.seeds}", *cells(one.seconds), *cells(one.verdicts))
        for one in detections
    )
    return Table(
        f"Seconds from power-on to the first detection on `{BAD}`",
        ("way", "seeds that showed it", "min", "median", "max", "verdict: min", "median", "max"),
        rows,
        "One seed after the other, all ways in turn. Ours: when the record was in the shared "
        "region; the selftest, woken up at random as in configs/origin.toml: when it complained; a "
        "debugger: when it had shown a PC that is not the next one.",
    )


def _detection_plot(detections: Sequence[_Detection]) -> Plot:
    found = [one for one in detections if len(one.seconds) > 1]

    def bars(name: str, of: Callable[[Sequence[float]], float]) -> Series:
        return Series(name, tuple((x, of(one.seconds)) for x, one in enumerate(found)))

    return Plot(
        "detection",
        f"Power-on to the first detection on {BAD}",
        "",
        "s",
        (bars("min", min), bars("median", median), bars("max", max)),
        bars=True,
        ticks=tuple(_short(one.way) for one in found),
    )


def _short(way: str) -> str:
    """A tick's name, a few words below each other."""
    parts = way.replace("`", "").replace(OURS, "ours").replace(": ", ".").split(".")
    told = [one for one in parts if not one.startswith(("x", "1200")) and one != "vhe"]
    return "\n".join(one.replace("-", "\n").replace("_", "\n") for one in told)


# --- a clean verdict -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Clean:
    """:param seconds: of each run.

    :param said: what the verdict says.
    :param complete: it is clean, and all placements were tried.
    """

    way: str
    seconds: tuple[float, ...]
    said: str
    steps: int
    complete: bool

    @property
    def per_s(self) -> float:
        """Steps for each second from power-on to the verdict."""
        return self.steps / median(self.seconds)


def _clean(bench: _Bench) -> list[_Clean]:
    """The selftest's run stands between two of ours."""
    build = bench.made.prepared.kernels.builds[RIGHT]
    cells = bench.cells(Driver.IN_GUEST, RIGHT, FULL_GRID)
    before = [bench.made.run(cell) for cell in cells]
    said = bench.selftest.run(
        build, UPSTREAM_ITERATIONS, seed=1, wake_ns=TICK_ONLY, budget_s=BUDGET_S
    )
    after = [bench.made.run(cell) for cell in cells]
    steps = round(bench.per_iteration * UPSTREAM_ITERATIONS)
    words = f"{said.run.verdict}: {said.run.iterations:,} iterations, {steps:,} steps"
    found = [_Clean(SELFTEST, (said.run.wall_s,), words, steps, complete=False)]
    for one, again in zip(before, after, strict=True):
        found.append(_clean_of(one.result.cell.payload, one, again))
    for each in found:
        print(f"  clean verdict: {each.way}: {each.seconds}, {each.said}", flush=True)
    return found


def _clean_of(payload: str, one: Done, again: Done) -> _Clean:
    coverage = one.result.coverage
    complete = (
        one.result.verdict is CellVerdict.PASS
        and coverage is not None
        and coverage.method is Method.FULL
    )
    words = (
        f"{one.result.verdict}: {one.result.steps:,} steps, {one.result.placements:,} placements"
    )
    method = coverage.method if coverage else "none"
    seconds = one.verdict_s, again.verdict_s
    return _Clean(f"{OURS}: {payload}", seconds, f"{words}, {method}", one.result.steps, complete)


def _clean_claims(clean: Sequence[_Clean]) -> Iterator[Claim]:
    theirs, *ours = clean
    for one in ours:
        share = median(one.seconds) / theirs.seconds[0]
        yield Claim(
            f"clean verdict with complete placement, {one.way}, against the selftest's "
            f"{UPSTREAM_ITERATIONS:,} iterations",
            f"1/{1 / share:.1f} of its time",
            "at most 1/20",
            one.complete and share <= SHARE,
            f"{one.said}, {one.per_s:,.0f} steps/s with its boots",
        )


def _clean_table(clean: Sequence[_Clean]) -> Table:
    rows = tuple(
        (one.way, ", ".join(f"{each:.1f}" for each in one.seconds), one.said) for one in clean
    )
    return Table(
        f"Seconds from power-on to a clean verdict on `{RIGHT}`", ("way", "s", "verdict"), rows
    )


# --- what is missed ------------------------------------------------------------------------------


def _matrix_claim(matrix: Matrix) -> Claim:
    others = {way: matrix.caught_by(way) for way in WAYS if way != OURS}
    caught = matrix.caught_by(OURS)
    missed = sorted(set().union(*others.values()) - caught)
    most = max(len(one) for one in others.values())
    return Claim(
        "known-bad kernels that an alternative catches and ours misses",
        f"{len(missed)}" + (f": {', '.join(missed)}" if missed else ""),
        "none",
        not missed,
        f"of {len(matrix.bad)} ours catches {len(caught)}, the best alternative {most}",
    )
