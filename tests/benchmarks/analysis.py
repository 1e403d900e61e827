"""The step contract over 10^8 truth records, and how cost grows. About 4 minutes, and 4 GB of disk
for a while."""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from benchmarks.conditions import conditions
from benchmarks.measured import Claim, Measured, Plot, Series, Table
from benchmarks.planned_cells import costs_of_cells, process_s
from integration.cli_run import run_campaign

from qemu_diff.abi import STEP_RECORD, TRUTH_RECORD, RecordKind, StepRecords, TruthRecords
from qemu_diff.campaign.cell import read_boot
from qemu_diff.campaign.plan import plan
from qemu_diff.compare.contract import Steps, join_steps, judge_windows
from qemu_diff.compare.decode import Program, program_of
from qemu_diff.compare.observation import observe
from qemu_diff.compare.slices import ends_of_slices
from qemu_diff.compare.verdict import judged_cell
from qemu_diff.compare.windows import WINDOW
from qemu_diff.config import load_campaign
from qemu_diff.config.project import project_root
from qemu_diff.drive.in_guest import RECORDS, TRUTH, Tools
from qemu_diff.guest.image import build_payload, build_stepvmm
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.kernels import cache_directory
from qemu_diff.model import Cell, Payload
from qemu_diff.trace.listing import Listing
from qemu_diff.trace.records import read_records
from qemu_diff.trace.trace import Trace
from qemu_diff.truth.phantom import PhantomRule, phantoms
from qemu_diff.truth.plugin import prepare_plugin
from qemu_diff.truth.reader import read_truth

PLACED = "trapped_sysreg"
REDIRECTED = "hvc_classes"
MOST_PLACEMENTS = 10_000
PASSES = 2000
CAMPAIGN = f"""
[campaign]
name = "analysis"
seed = 1
findings = false
budget_s = 600
[kernels.unpatched]
source = "debian:linux-source-6.1"
patches = ["guest_images/patches/unpatched.patch"]
[[scenario]]
payload = "{PLACED}"
flood = {{ source = "host_timer", placement = "random", count = {MOST_PLACEMENTS} }}
expect = {{ unpatched = {{ {PLACED} = "lost-step" }} }}
[[scenario]]
payload = "{REDIRECTED}"
job = "shifted"
flood = {{ count = {PASSES} }}
machine = {{ exception_order = "async_first" }}
expect = {{ unpatched = {{ {REDIRECTED} = "lost-step" }} }}
"""
"""Every step redirected makes most truth records of each step, placements alone make few."""

RECORDS_AIM = 10**8
SPEED_AIM = 20e6
EXPONENT_AIM = 1.1
DISK_SHARE = 0.7
"""Of what is free on the disk, at most."""

COMPARED_RECORDS = 4_000_000
ROUNDS = 5
DECADES = (10**4, 10**5, 10**6, 10**7)
PLACEMENTS = (100, 300, 1000, 3000, MOST_PLACEMENTS)
CELLS = (8, 32, 128, 512)
IN_ONE_PIECE = 1 << 40
TIMES = ("armed_at", "entered_at", "returned_at", "acted_at")
SAMPLE_S = 0.02


@dataclass(frozen=True)
class Boot:
    """A real boot, to be judged again and again."""

    directory: Path
    trace: Trace
    cell: Cell
    payload: Payload
    program: Program
    rule: PhantomRule


@dataclass(frozen=True)
class Streams:
    """Both streams of many repetitions of a boot, mapped."""

    records: StepRecords
    truth: TruthRecords
    repetitions: int


@dataclass(frozen=True)
class Judgement:
    """What a pass over streams came to, and what it took.

    :param outcomes: steps of each outcome.
    :param anonymous_mib: most memory that no file lies behind, beyond what there was.
    """

    records: int
    process_s: float
    outcomes: tuple[int, ...]
    anonymous_mib: float

    @property
    def speed(self) -> float:
        """Truth records per second of one core."""
        return self.records / self.process_s


def measure() -> Measured:
    """One boot; the contract over prefixes of its repetitions; observe and the maps; cells."""
    with tempfile.TemporaryDirectory(prefix="qemu-diff-analysis-") as name:
        directory = Path(name)
        lean, boot = _boots(directory)
        streams = _repeated(boot, directory)
        single = _judged(boot, Streams(boot.trace.records, boot.trace.truth, 1))
        growth = [_judged(boot, _prefix(streams, number)) for number in DECADES]
        whole = _judged(boot, streams)
        print(f"  {whole.records:,} records: {whole.speed / 1e6:.1f} million/s", flush=True)
        steps = Series("step contract", tuple(_point(one) for one in (*growth, whole)))
        placed = _placements(lean)
        cells = _cells()
        claims = (
            _speed(whole),
            _lean_speed(lean),
            _same(boot, streams, single, whole),
            *_memory(boot, streams, whole),
            _beside_one_piece(boot, streams),
            *_reading(boot),
            *(_exponent(one, "steps") for one in (steps,)),
            *(_exponent(one, "placements") for one in placed),
            *(_exponent(one, "cells") for one in cells),
        )
        return Measured(
            name="analysis",
            command="scripts/measure analysis",
            conditions=conditions(find_qemu(), "process time of one core", _made_of(boot, streams)),
            claims=claims,
            tables=(_table("Cost", (steps, *placed, *cells)),),
            plots=(
                _plot("steps", "truth records", (steps,)),
                _plot("placements", "placed interrupts", placed),
                _plot("cells", "cells", cells),
            ),
        )


# --- what is judged ------------------------------------------------------------------------------


def _boots(directory: Path) -> tuple[Boot, Boot]:
    """Placements alone, and every step redirected."""
    path = directory / "campaign.toml"
    path.write_text(CAMPAIGN)
    print(f"  booting {MOST_PLACEMENTS:,} placements, and {PASSES:,} passes", flush=True)
    done = run_campaign(path, directory / "results")
    assert done.status == 0, done.said
    guest_images, cache = project_root() / "guest_images", cache_directory("guest")
    plugin = prepare_plugin(find_qemu(), guest_images, cache)
    stepvmm = build_stepvmm(guest_images, cache)
    tools = Tools(find_qemu(), plugin, stepvmm, guest_images, cache)
    placed, redirected = (
        _boot(cell, directory / "results" / "cells" / cell.id, tools)
        for cell in plan(load_campaign(path))
    )
    return placed, redirected


def _boot(cell: Cell, directory: Path, tools: Tools) -> Boot:
    """The cell's boot with most truth records."""
    largest = max(directory.glob(f"*/{TRUTH}"), key=lambda one: one.stat().st_size).parent
    payload = build_payload(cell.payload, tools.guest_images, tools.cache)
    trace = read_boot(largest, tools)
    return Boot(largest, trace, cell, payload, program_of(payload), tools.plugin.rule)


def _repeated(boot: Boot, directory: Path) -> Streams:
    """The boot's streams again and again, as one job's that went on: numbered and timed on."""
    truth, records = boot.trace.truth, boot.trace.records
    room = int(shutil.disk_usage(directory).free * DISK_SHARE)
    wanted = math.ceil(RECORDS_AIM / len(truth))
    repetitions = max(1, min(wanted, room // (truth.nbytes + records.nbytes)))
    print(f"  writing {repetitions:,} repetitions of {len(truth):,} truth records", flush=True)
    later = records.copy()
    period = int(records["returned_at"].max()) + 1
    with (directory / TRUTH).open("wb") as truths, (directory / RECORDS).open("wb") as reports:
        for number in range(repetitions):
            later["sequence"] = records["sequence"] + np.uint32(number * len(records))
            for name in TIMES:
                moves = records[name] != 0
                later[name] = np.where(moves, records[name] + np.uint64(number * period), 0)
            truths.write(truth.data)
            reports.write(later.data)
    return Streams(
        np.memmap(directory / RECORDS, STEP_RECORD, mode="r"),
        np.memmap(directory / TRUTH, TRUTH_RECORD, mode="r"),
        repetitions,
    )


def _prefix(streams: Streams, number: int) -> Streams:
    """About so many truth records, up to a mark, and the reports of these."""
    end = ends_of_slices(streams.truth[:number])
    runs = np.flatnonzero(streams.records[: 2 * len(end) + 100]["kind"] == RecordKind.RUN)
    return Streams(streams.records[: int(runs[len(end) - 1]) + 1], streams.truth[: int(end[-1])], 0)


def _made_of(boot: Boot, streams: Streams) -> str:
    return (
        f"{streams.repetitions:,} repetitions of a boot of {len(boot.trace.truth):,} truth "
        f"records, {_each(boot):.1f} for each return from KVM_RUN, mapped from files"
    )


def _each(boot: Boot) -> float:
    """Truth records for each return from KVM_RUN."""
    returns = int(np.sum(boot.trace.records["kind"] == RecordKind.RUN))
    return len(boot.trace.truth) / returns


# --- the contract --------------------------------------------------------------------------------


def _windows(boot: Boot, streams: Streams, size: int = WINDOW) -> Iterator[Steps]:
    def phantoms_in(rows: slice) -> np.ndarray:
        return phantoms(boot.rule, streams.truth[rows])

    return judge_windows(streams.records, streams.truth, phantoms_in, boot.program, size)


def _judged(boot: Boot, streams: Streams) -> Judgement:
    outcomes = np.zeros(4, dtype=np.int64)

    def tally() -> None:
        for steps in _windows(boot, streams):
            outcomes[:] += np.bincount(steps.outcome, minlength=len(outcomes))

    # A short pass is timed several times: the first finds nothing in the caches.
    rounds = ROUNDS if len(streams.truth) < COMPARED_RECORDS else 1
    with _anonymous_mib() as memory:
        seconds = median(process_s(tally) for _ in range(rounds))
    return Judgement(
        len(streams.truth), seconds, tuple((outcomes // rounds).tolist()), max(memory) - memory[0]
    )


@contextmanager
def _anonymous_mib() -> Iterator[list[float]]:
    """This process's memory that no file lies behind, sampled; the first is from before."""
    found, ended = [_rss_anon_mib()], threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_S):
            found.append(_rss_anon_mib())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield found
    finally:
        ended.set()
        sampler.join()


def _rss_anon_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def _speed(whole: Judgement) -> Claim:
    short = whole.records < RECORDS_AIM
    return Claim(
        f"the step contract over {whole.records:,} truth records, phantoms told apart",
        f"{whole.speed / 1e6:.1f} million records/s",
        f"at least {SPEED_AIM / 1e6:.0f} million on 10^8",
        whole.speed >= SPEED_AIM and not short,
        "the disk has no room for 10^8" if short else _steps(whole),
    )


def _steps(one: Judgement) -> str:
    return f"{sum(one.outcomes) / one.process_s / 1e6:.1f} million steps/s"


def _lean_speed(boot: Boot) -> Claim:
    """Of steps that leave few truth records the reports cost most."""
    repetitions = math.ceil(COMPARED_RECORDS / len(boot.trace.truth))
    records, truth = (
        np.tile(stream, repetitions) for stream in (boot.trace.records, boot.trace.truth)
    )
    judged = _judged(boot, Streams(records, truth, repetitions))
    return Claim(
        f"the same where a return has {_each(boot):.1f} truth records",
        f"{judged.speed / 1e6:.1f} million records/s",
        why=_steps(judged),
    )


def _same(boot: Boot, streams: Streams, single: Judgement, whole: Judgement) -> Claim:
    """Whether windows say what one piece says: all columns of a part, all outcomes of the whole."""
    part = _prefix(streams, COMPARED_RECORDS)
    windows, piece = (
        join_steps(list(_windows(boot, part, size))) for size in (WINDOW, IN_ONE_PIECE)
    )
    equal = all(
        np.array_equal(getattr(windows, one.name), getattr(piece, one.name))
        for one in fields(Steps)
    )
    expected = tuple(streams.repetitions * number for number in single.outcomes)
    return Claim(
        "the same findings as in one piece",
        f"{len(piece):,} steps: {'all' if equal else 'not all'} alike; of the whole "
        f"{sum(whole.outcomes[1:]):,} broken steps, due were {sum(expected[1:]):,}",
        "no difference",
        equal and whole.outcomes == expected,
    )


def _memory(boot: Boot, streams: Streams, whole: Judgement) -> Iterator[Claim]:
    for what, stream in (("4 million", _prefix(streams, COMPARED_RECORDS)), ("all", streams)):
        traced = stream if what != "all" else _prefix(streams, len(streams.truth) // 4)
        tracemalloc.start()
        for _ in _windows(boot, traced):
            pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        yield Claim(
            f"memory that {len(traced.truth):,} records take, at its peak",
            f"{peak / 2**20:.0f} MiB",
            "",
            None,
            f"a window of {WINDOW:,} truth records, or the longest two steps where they are longer",
        )
    yield Claim(
        "peak of resident memory that no file lies behind, over the whole",
        f"{whole.anonymous_mib:.0f} MiB more than before",
        "less than 1 byte for each record",
        whole.anonymous_mib * 2**20 < whole.records,
        "of both streams only the window is looked at: what is mapped of them is the page cache's",
    )


def _beside_one_piece(boot: Boot, streams: Streams) -> Claim:
    part = _prefix(streams, COMPARED_RECORDS)
    ratios = []
    for _ in range(ROUNDS):
        piece, windows = (
            process_s(partial(list, _windows(boot, part, size))) for size in (IN_ONE_PIECE, WINDOW)
        )
        ratios.append(piece / windows)
    return Claim(
        f"windows beside one piece, {len(part.truth):,} records",
        f"{median(ratios):.2f} times as fast",
    )


def _reading(boot: Boot) -> Iterator[Claim]:
    """Files are read whole: a boot's are bounded by the size of its shared region."""
    for name, read in ((TRUTH, read_truth), (RECORDS, read_records)):
        path = boot.directory / name
        seconds = median(process_s(partial(read, path)) for _ in range(ROUNDS))
        yield Claim(
            f"reading {name}, its checksum held against it",
            f"{len(boot.trace.truth) / seconds / 1e6:.0f} million truth records/s",
        )


# --- growth --------------------------------------------------------------------------------------


def _point(one: Judgement) -> tuple[float, float]:
    return float(one.records), one.process_s


def _placements(boot: Boot) -> tuple[Series, ...]:
    """A boot's analysis from its trace to its map."""
    listing = Listing(boot.payload)
    points = []
    for number in PLACEMENTS:
        part = _passes(boot.trace, number)

        def analysed(part: Trace = part) -> None:
            seen = observe(part, boot.program, listing, "boot")
            judged_cell(boot.cell, seen, listing)

        seconds = median(process_s(analysed) for _ in range(ROUNDS))
        points.append((float(number), seconds))
        print(f"  {number:,} placements: {seconds * 1e3:.1f} ms", flush=True)
    return (Series("observe, verdict, map", tuple(points)),)


def _passes(trace: Trace, number: int) -> Trace:
    """The first passes of a boot."""
    begins = np.flatnonzero(trace.records["kind"] == RecordKind.PASS)
    end = int(begins[number]) if number < len(begins) else len(trace.records)
    records = trace.records[:end]
    runs = int(np.sum(records["kind"] == RecordKind.RUN))
    rows = int(ends_of_slices(trace.truth)[runs - 1])
    return Trace(records, trace.truth[:rows], trace.phantom[:rows], trace.deliveries)


def _cells() -> tuple[Series, ...]:
    print(f"  {CELLS} cells", flush=True)
    costs = costs_of_cells(CELLS)
    return tuple(
        Series(what, tuple(zip(map(float, CELLS), seconds, strict=True)))
        for what, seconds in costs.items()
    )


def exponent(points: tuple[tuple[float, float], ...]) -> float:
    """Of the power law through the first point and the last: 1 is linear."""
    (x, y), (last_x, last_y) = points[0], points[-1]
    return math.log(last_y / y) / math.log(last_x / x)


def _exponent(series: Series, of: str) -> Claim:
    overall, at_last = exponent(series.points), exponent(series.points[-2:])
    (x, y), *_ = series.points
    constant = f"{y * 1e3:.1f} ms for {x:,.0f} are mostly what does not grow"
    return Claim(
        f"growth with {of}: {series.name}, exponent between the ends, and of the last two points",
        f"{overall:.2f}, {at_last:.2f}",
        f"at most {EXPONENT_AIM}",
        max(overall, at_last) <= EXPONENT_AIM,
        constant if overall < 2 - EXPONENT_AIM else "",
    )


def _table(title: str, lines: tuple[Series, ...]) -> Table:
    rows = tuple(
        (line.name, f"{int(x):,}", f"{y * 1e3:,.1f}", f"{y / x * 1e6:,.3f}")
        for line in lines
        for x, y in line.points
    )
    return Table(title, ("what", "of how many", "ms", "µs for each"), rows)


def _plot(name: str, x: str, lines: tuple[Series, ...]) -> Plot:
    return Plot(name, f"Cost against {x}", x, "process time, s", lines, log_x=True, log_y=True)


if __name__ == "__main__":
    begun = time.monotonic()
    for claim in measure().claims:
        print(claim)
    print(f"{time.monotonic() - begun:.0f} s")
