"""One cell, from its kernel to its verdict: the boots that it takes, and what becomes of them."""

from __future__ import annotations

import hashlib
import re
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import RecordFlag, RecordKind, SharedState, TruthKind
from qemu_diff.compare.contract import Steps, judge
from qemu_diff.compare.decode import Program, program_of
from qemu_diff.compare.landmarks import exit_function, landmarks_of_steps, with_landmarks
from qemu_diff.compare.observation import Observation, merge, observe
from qemu_diff.compare.pair import digest_of_passes, reported_passes
from qemu_diff.compare.placement_map import (
    common_offsets,
    missed_delays,
    missing_times,
    placement_maps,
    quiet_windows,
    turns,
)
from qemu_diff.compare.placements import place
from qemu_diff.compare.verdict import NOT_REDIRECTED, judged_cell, unjudged_cell
from qemu_diff.drive.in_guest import RECORDS, TIMER_LOG, TRUTH, Boot, Tools
from qemu_diff.drive.job import (
    Job,
    Routine,
    alone_job,
    fill_job,
    pairs_job,
    periodic_job,
    quiet_job,
    sweep_job,
    table_job,
)
from qemu_diff.drive.stepper import Errand, Stepper
from qemu_diff.errors import CorruptDataError, InfrastructureError, LostGuestError
from qemu_diff.events import Stage
from qemu_diff.flood import adaptive
from qemu_diff.flood.placement import Sweep, pair_grid, random_placements, sweep
from qemu_diff.guest.machine import came_up_protected
from qemu_diff.guest.process import CONSOLE, Ending, how_ended
from qemu_diff.guest.shared import RECORD_CAPACITY, SharedHeader
from qemu_diff.kernels.symbols import step_functions
from qemu_diff.model import (
    FROM_OUTSIDE,
    Build,
    Cell,
    CellResult,
    CellVerdict,
    Finding,
    FloodSource,
    KvmMode,
    Landmark,
    Payload,
    Placement,
    SourceCount,
)
from qemu_diff.trace.listing import Listing
from qemu_diff.trace.records import read_records
from qemu_diff.trace.trace import Trace, read_trace

ATTEMPTS = 2
"""Boots of one job before what went wrong is believed."""

LEARNING_PASSES = 5
LEARNING_DELAY_NS = 1_000_000
"""Longer than any step: the timer is armed and programmed, but never fires inside a window."""

MOST_WINDOW_NS = 100 * LEARNING_DELAY_NS
"""What L1 says of its clock may be anything; a grid over it is as large as it says."""

ASSUMED_RUNS, ASSUMED_INSTRUCTIONS, ASSUMED_RECORDS = 4, 16, 4
"""Where nothing is learnt: returns of each instruction of a payload with so many more, as loops,
handlers and signals make them; and records of each return, as blocks of a job make them."""

HANDLED_STEPS = 400
"""Steps that may come with one of the mainline where L2 handles interrupts in others' midst."""

HANDLED_SLACK = 1.5
"""So many more records a boot may have for each pass than the one before it."""

FILL_ROUNDS = 3
FILL_SPREAD_NS = 12
RANDOM_SLACK = 1.25
"""So many more delays than a quiet run has steps."""

OUR_PANICS = (
    "Attempted to kill init",
    "No working init",
    "Requested init",
    "Unable to mount root fs",
)
"""Kernel panics for want of a PID 1: ours died, or the kernel can't unpack an initramfs."""

KILLED_INIT = re.compile(r"Attempted to kill init! exitcode=0x(?P<code>[0-9a-f]+)")
"""Linux kernel/exit.c, ``do_exit()``; the code is wait(2)'s status."""

SIGNAL_MASK = 0x7F
"""Of wait(2)'s status; 0: it ended by itself."""

KVM = "KVM_"
"""How the step VMM begins to say that an ioctl failed, by its name (stepvmm/vm.c)."""

TOLD_TO_GO = "terminating on signal"
"""QEMU, when somebody ends it from outside (QEMU system/runstate.c, ``qemu_kill_report()``)."""

STARVED = 0.75
"""Of its budget: a boot that waited so long for a CPU tells nothing by being late."""

GAVE_UP = "stepvmm: "
"""Our program, before it has a header to say so in (guest_images/stepvmm/shared.c, ``end()``)."""

NO_HEADER = SharedHeader(SharedState.EMPTY, 0, 0, 0, 0, 0, "")

STEPS_SHOWN = 3

USABLE_CAPACITY = RECORD_CAPACITY * 9 // 10


@dataclass(frozen=True)
class CellContext:
    """What a cell needs besides its own description.

    :param routine: the cell's job, for its payload.
    :param directory: the cell's own, for everything its boots leave.
    :param budget_s: wall-clock seconds of one boot.
    :param stepper: the cell's driver.
    :param explain: whether a boot more may be spent on what L1 does in a step.
    """

    build: Build
    payload: Payload
    routine: Routine
    tools: Tools
    stepper: Stepper
    directory: Path
    budget_s: float
    cancel: threading.Event
    explain: bool = True


UNREADABLE = "unreadable.txt"
"""In a cell's directory: where our analysis stumbled over its records."""

_UNREADABLE = (ArithmeticError, AssertionError, LookupError, MemoryError, TypeError, ValueError)
"""What code may raise that works on numbers which a guest has chosen."""


class _Ended(Exception):  # noqa: N818 - a verdict, not an error
    """The cell's verdict is known without judging steps."""

    def __init__(self, verdict: CellVerdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason


def run_cell(cell: Cell, context: CellContext, stage: Stage) -> CellResult:
    """Run one cell to its verdict.

    :returns: never raises for what a guest or its QEMU does: that is a verdict, or ``lost``.
    :raises Cancelled: the user called it off.
    """
    runner = _CellRunner(cell, context, stage)
    try:
        result = runner.judge()
    except _Ended as ended:
        result = unjudged_cell(cell, ended.verdict, ended.reason)
    except (InfrastructureError, OSError) as error:
        result = unjudged_cell(cell, CellVerdict.LOST, str(error))
    except _UNREADABLE as error:
        # What a hostile kernel makes of its records must not cost the other cells theirs.
        report = context.directory / UNREADABLE
        report.write_text(traceback.format_exc(), encoding="utf-8", errors="replace")
        reason = f"a bug of ours: its records can't be judged: {error!r}; see {report.name}"
        result = unjudged_cell(cell, CellVerdict.LOST, reason)
    return replace(result, attempts=runner.attempts, warnings=tuple(runner.warnings))


class _CellRunner:
    def __init__(self, cell: Cell, context: CellContext, stage: Stage) -> None:
        self._cell = cell
        self._context = context
        self._stage = stage
        self._listing = Listing(context.payload)
        self._program: Program = program_of(context.payload)
        self._functions = step_functions(context.build.vmlinux)
        self.attempts = 1
        self.warnings: dict[str, None] = {}
        self._redirects = 0
        self._device_interrupts = 0
        self._device_held_back = 0
        self._stepping_s = 0.0
        self._witnessed = 0
        self._stopped_on_the_way = 0
        self._transcript: tuple[tuple[str, ...], tuple[int, ...]] = (), ()
        self._records_per_pass = 0.0
        self._windows: dict[int, int] = {}
        self._landmarks: dict[int, tuple[Landmark, ...]] = {}
        self._from_outside = cell.driver in FROM_OUTSIDE
        self._passes: set[tuple[int, ...]] = set()
        self._fingerprint = hashlib.blake2b(digest_size=16)

    def judge(self) -> CellResult:
        seen = merge(list(self._observations()))
        judged = judged_cell(self._cell, seen, self._listing, self._windows)
        shown = (judged.maps or judged.breakdown) and not self._from_outside
        if shown and self._functions and self._context.explain and not self._landmarks:
            self._look()
        served = {pc: exit_function(landmarks) for pc, landmarks in self._landmarks.items()}
        result = replace(
            judged,
            maps=with_landmarks(judged.maps, self._landmarks, self._windows),
            exit_functions=tuple((pc, name) for pc, name in sorted(served.items()) if name),
            fingerprint=self._fingerprint.hexdigest(),
            step_pcs=digest_of_passes(self._passes),
            stepping_s=round(self._stepping_s, 3),
            witnessed=self._witnessed,
            stopped_on_the_way=self._stopped_on_the_way,
            findings=with_transcript(judged.findings, *self._transcript),
        )
        if FloodSource.DEVICE in self._cell.flood.sources:
            sent = SourceCount(
                FloodSource.DEVICE, self._device_interrupts, self._device_held_back, None
            )
            result = replace(result, sources=(*result.sources, sent))
        if not self._cell.machine.redirect_at:
            return result
        if not self._redirects:
            return unjudged_cell(self._cell, CellVerdict.LOST, NOT_REDIRECTED)
        return replace(result, redirects=self._redirects)

    def _observations(self) -> Iterator[Observation]:
        placement = self._cell.flood.placement
        if placement is Placement.NONE or self._from_outside:
            passes = self._cell.flood.count
            yield self._observe("run", quiet_job(self._context.routine, passes))
            return
        if FloodSource.DEVICE in self._cell.flood.sources:
            yield self._observe("device", quiet_job(self._context.routine, self._cell.flood.count))
            return
        learnt = self._learn()
        if placement is Placement.PERIODIC:
            yield self._observe("periodic", self._periodic())
        elif placement in (Placement.RANDOM, Placement.BURST):
            yield from self._random(learnt)
        elif placement is Placement.PAIRS:
            yield self._observe("pairs", self._pairs(learnt))
        elif placement is Placement.ADAPTIVE:
            yield from self._adaptive(learnt)
        else:
            yield from self._sweep(learnt)

    # --- floods ---

    def _learn(self) -> Learnt:
        """What a flood has to know of a quiet pass; a campaign that names the interval knows."""
        last_ns = self._cell.flood.last_ns
        if last_ns is not None and not self._cell.flood.into_guest:
            return assumed(self._context.payload, last_ns)
        trace = self._boot("learn", self._learning_job(), self._landmark_addresses())
        order = turns(trace.records, self._note_quiet(trace))
        return replace(learnt_from(trace), windows_ns=self._windows, turns=order)

    def _learning_job(self) -> Job:
        flood = self._cell.flood
        if not flood.sources or FloodSource.DEVICE in flood.sources:
            return quiet_job(self._context.routine, LEARNING_PASSES)
        quiet = Sweep(LEARNING_DELAY_NS, 0, LEARNING_PASSES)
        return sweep_job(self._context.routine, flood.sources[0], quiet)

    def _look(self) -> None:
        """Landmarks and quiet windows of a cell that learns nothing: its campaign says how long.

        It tells nothing of the kernel: what goes wrong here costs the picture its landmarks only.
        """
        job, addresses = self._learning_job(), self._landmark_addresses()
        for _ in range(ATTEMPTS):
            with suppress(InfrastructureError):
                done = self._boot_once("landmarks", job, addresses)
                if _unjudged(done, self._context.budget_s) is None:
                    self._note_quiet(read_boot(done.directory, self._context.tools))
                    return

    def _note_quiet(self, trace: Trace) -> Steps:
        """Windows and landmarks of quiet passes; their steps."""
        steps = judge(trace.records, trace.truth, trace.phantom, self._program)
        placements = place(trace.records, trace.deliveries, steps)
        reads = self._context.tools.stepvmm.counter_reads
        self._windows = quiet_windows(steps, placements)
        self._landmarks = landmarks_of_steps(trace, steps, placements, reads, self._functions)
        return steps

    def _landmark_addresses(self) -> tuple[int, ...]:
        return (*self._context.tools.stepvmm.counter_reads, *self._functions)

    def _random(self, learnt: Learnt) -> Iterator[Observation]:
        flood = self._cell.flood
        for number, (_, passes) in enumerate(self._parts(flood.count, learnt)):
            steps = min(int(self._records_per_pass * passes * RANDOM_SLACK), USABLE_CAPACITY)
            job = table_job(
                self._context.routine,
                passes,
                random_placements(flood, learnt.longest_ns, steps, self._cell.seed + number),
                burst=flood.burst,
                spacing_ns=flood.period_ns,
            )
            yield self._observe(f"{flood.placement}-{number}", job)

    def _periodic(self) -> Job:
        flood = self._cell.flood
        return periodic_job(self._context.routine, flood.sources[0], flood.period_ns, flood.count)

    def _pairs(self, learnt: Learnt) -> Job:
        flood = self._cell.flood
        grid = pair_grid(flood, learnt.longest_ns)
        most = self._most_passes(learnt)
        if grid.passes > most:
            reason = (
                f"{grid.side} delays make {grid.passes:,} pairs, a boot has room for {most:,}: "
                "raise step_ns, or narrow first_ns to last_ns"
            )
            raise _Ended(CellVerdict.LOST, reason)
        return pairs_job(self._context.routine, flood.sources[0], grid)

    def _most_passes(self, learnt: Learnt) -> int:
        """How many a boot's records have room for, as far as a quiet run tells."""
        longer = HANDLED_STEPS if self._cell.flood.into_guest else 1
        self._records_per_pass = max(learnt.records_per_pass * longer, self._records_per_pass)
        return max(1, int(USABLE_CAPACITY / self._records_per_pass))

    def _parts(self, passes: int, learnt: Learnt, each: int = 1) -> Iterator[tuple[int, int]]:
        """(first, number of) passes of each boot; or of so many passes ``each``.

        How much longer L2's handler makes a pass, the boot before has shown; the first is short.
        """
        most, begin = max(1, self._most_passes(learnt) // each), 0
        while begin < passes:
            part = min(most, passes - begin)
            yield begin, part
            begin += part
            if self._cell.flood.into_guest:
                room = int(USABLE_CAPACITY / (self._records_per_pass * HANDLED_SLACK))
                most = max(1, room // each)

    def _sweep(self, learnt: Learnt) -> Iterator[Observation]:
        flood = self._cell.flood
        whole = sweep(flood, learnt.longest_ns)
        observed: list[Observation] = []
        # What is pending when a step begins would be its interrupt, not the one that is placed.
        each = learnt.placed_per_pass if flood.into_guest else 0
        for number, (begin, passes) in enumerate(self._parts(whole.passes, learnt, max(1, each))):
            part = replace(whole, first_ns=whole.first_ns + begin * whole.step_ns, passes=passes)
            job = sweep_job(self._context.routine, flood.sources[0], part, each)
            observed.append(self._observe(f"sweep-{number}", job))
            yield observed[-1]
        if whole.step_ns == 1 and not flood.into_guest:
            most = min(self._most_passes(learnt), self._context.routine.most_fills)
            yield from self._fill(observed, most)
            yield from self._alone(observed, learnt, most)

    def _adaptive(self, learnt: Learnt) -> Iterator[Observation]:
        """A coarse grid with probes between, and then boots that refine each change."""
        asked: Counter[int] = Counter()
        observed: list[Observation] = []
        delays = adaptive.first_delays(self._cell.flood, learnt.longest_ns, self._cell.seed)
        for number in range(adaptive.ROUNDS + 1):
            boots = f"refine-{number}" if number else "grid"
            for one in self._placed(boots, delays, learnt):
                observed.append(one)
                yield one
            asked.update(delays)
            whole = merge(observed)
            pcs = np.unique(whole.steps.instruction).tolist()
            name = {pc: self._listing.instruction(pc) for pc in pcs}
            maps = placement_maps(whole.steps, whole.placements, name, {})
            offsets = common_offsets(whole.steps, whole.placements)
            delays = adaptive.next_delays(maps, offsets, asked)
            if not delays:
                return

    def _placed(self, name: str, delays: tuple[int, ...], learnt: Learnt) -> Iterator[Observation]:
        """One pass for each delay, in as many boots as it takes."""
        flood, routine = self._cell.flood, self._context.routine
        room = min(self._most_passes(learnt), routine.most_fills)
        for begin in range(0, len(delays), room):
            part = delays[begin : begin + room]
            job = fill_job(routine, flood.sources[0], part)
            yield self._observe(f"{name}-{begin // room}", job)

    def _fill(self, observed: list[Observation], most: int) -> Iterator[Observation]:
        """Place again what an interrupt of L1's own had displaced.

        :param most: passes that one boot and one job have room for.
        """
        for number in range(FILL_ROUNDS):
            whole = merge(observed)
            spread_ns = number * FILL_SPREAD_NS
            delays = missed_delays(whole.steps, whole.placements, spread_ns)
            if not delays:
                return
            job = fill_job(
                self._context.routine,
                self._cell.flood.sources[0],
                delays[:most],
            )
            observed.append(self._observe(f"fill-{number}", job))
            yield observed[-1]

    def _alone(
        self, observed: list[Observation], learnt: Learnt, most: int
    ) -> Iterator[Observation]:
        """Place into what lost steps took along, one placement a pass; if that does not take more
        than all that was done before.

        :param most: see :meth:`_fill`.
        """
        asked: Counter[tuple[int, int]] = Counter()
        whole = latest = merge(observed)
        afford = len(whole.steps) / learnt.runs_per_pass
        for number in range(FILL_ROUNDS):
            offsets = {
                **common_offsets(whole.steps, whole.placements),
                **common_offsets(latest.steps, latest.placements),
            }
            missing = missing_times(whole.steps, whole.placements, learnt.windows_ns)
            chosen = adaptive.alone(missing, offsets, asked)
            if not chosen or len(chosen) > afford:
                return
            chosen = chosen[:most]
            asked.update(chosen)
            placements = [(learnt.turns[pc], delay) for pc, delay in chosen if pc in learnt.turns]
            flood = self._cell.flood
            job = alone_job(self._context.routine, flood.sources[0], placements)
            latest = self._observe(f"alone-{number}", job)
            observed.append(latest)
            yield latest
            whole = merge(observed)

    # --- boots ---

    def _observe(self, name: str, job: Job) -> Observation:
        trace = self._boot(name, job)
        if self._cell.flood.into_guest:
            self._records_per_pass = len(trace.records) / max(1, job.passes)
        return observe(trace, self._program, self._listing, name, self._cell.flood.burst)

    def _boot(self, name: str, job: Job, landmarks: tuple[int, ...] = ()) -> Trace:
        """Boot, and again if nothing could be judged; believe what repeats itself.

        :raises _Ended: the cell's verdict is known.
        """
        endings: list[_Unjudged] = []
        for attempt in range(1, ATTEMPTS + 1):
            self.attempts = max(self.attempts, attempt)
            done = self._boot_once(name, job, landmarks)
            self.warnings.update(dict.fromkeys(done.exit.warnings))
            unjudged = _unjudged(done, self._context.budget_s)
            trace = None
            if unjudged is None:
                trace, unjudged = self._read(done)
            if trace is not None:
                self._redirects += done.redirects
                self._device_interrupts += done.device_interrupts
                self._device_held_back += done.device_held_back
                self._stepping_s += done.stepping_s
                self._witnessed += done.witnessed
                self._stopped_on_the_way += done.stopped_on_the_way
                self._transcript = done.transcript, done.shown
                return trace
            assert unjudged is not None
            endings.append(unjudged)
            if not unjudged.worth_another_try:
                break
            self._stage.progress(f"{name}: {unjudged.reason}; trying again")
            if attempt < ATTEMPTS:
                done.directory.rename(done.directory.with_name(f"{name}.try-{attempt}"))
        raise _believed(endings)

    def _read(self, done: Boot) -> tuple[Trace | None, _Unjudged | None]:
        """A boot's trace; or why its records, which L1 alone writes, can't be one."""
        damage = "" if self._from_outside else _damage(done)
        if damage:
            return None, _overwritten(damage, done.header or NO_HEADER)
        trace = read_boot(done.directory, self._context.tools)
        self._passes |= reported_passes(trace.records)
        for name in (RECORDS, TRUTH, TIMER_LOG):
            self._fingerprint.update((done.directory / name).read_bytes())
        wanted = self._cell.machine.kvm_mode
        ran = kvm_mode(trace, (done.directory / CONSOLE).read_text(errors="replace"))
        if ran not in (None, wanted):
            raise InfrastructureError(
                f"asked for kvm_mode {wanted}, but on this CPU this kernel runs KVM in {ran} mode"
            )
        return trace, None

    def _boot_once(self, name: str, job: Job, landmarks: tuple[int, ...]) -> Boot:
        context = self._context
        errand = Errand(
            build=context.build,
            payload=context.payload,
            job=job,
            machine=self._cell.machine,
            flood=self._cell.flood,
            seed=self._cell.seed,
            directory=context.directory / name,
            budget_s=context.budget_s,
            cancel=context.cancel,
            progress=self._progress(name, job),
            landmarks=landmarks,
        )
        return context.stepper.boot(errand)

    def _progress(self, name: str, job: Job) -> Callable[[int], None]:
        expected = max(
            1, job.passes * (self._context.payload.end - self._context.payload.begin) // 4
        )

        def report(heartbeat: int) -> None:
            fraction = min(1.0, heartbeat / expected)
            self._stage.progress(f"{name}: {heartbeat} steps", fraction)

        return report


def _damage(done: Boot) -> str:
    """How sealed records contradict themselves, or nothing; that they found no room is our own
    fault, unless more are counted than there can be."""
    header = done.header
    if header is None or (header.dropped and header.count <= RECORD_CAPACITY):
        return ""
    try:
        read_records(done.directory / RECORDS)
    except CorruptDataError as error:
        return str(error)
    return ""


def read_boot(directory: Path, tools: Tools) -> Trace:
    """A boot's trace, from the directory that it was run in.

    :raises LostGuestError: it was never sealed, or is not there.
    :raises CorruptDataError: a file contradicts itself.
    """
    try:
        return read_trace(
            directory / RECORDS, directory / TRUTH, directory / TIMER_LOG, tools.plugin.rule
        )
    except FileNotFoundError as error:
        raise LostGuestError(f"{error.filename} is not there") from error


def with_transcript(
    findings: tuple[Finding, ...], transcript: Sequence[str], shown: Sequence[int]
) -> tuple[Finding, ...]:
    """What gdb's user saw of each broken step, and of the steps just before.

    :param shown: lines before each report.
    """
    if not transcript:
        return findings
    return tuple(
        replace(
            one,
            transcript=tuple(
                transcript[shown[max(0, one.report - STEPS_SHOWN)] : shown[one.report]]
            ),
        )
        for one in findings
    )


def kvm_mode(trace: Trace, console: str) -> KvmMode | None:
    """Where KVM's exception vector lay: only a VHE kernel's is in the kernel's half of the address
    space (Linux Documentation/arm64/memory.rst); None where L2 never ran. That the rest is kept out
    of EL2's memory L1's kernel says itself."""
    bases = trace.truth["pc"][trace.truth["kind"] == TruthKind.VECTOR]
    if not len(bases):
        return None
    if int(bases[0]) >> 63:
        return KvmMode.VHE
    return KvmMode.PROTECTED if came_up_protected(console) else KvmMode.NVHE


# --- what quiet passes teach ---


@dataclass(frozen=True)
class Learnt:
    """What a flood has to know of a pass without one.

    :param longest_ns: see :func:`longest_window`.
    :param runs_per_pass: returns from KVM_RUN.
    :param records_per_pass: records of any kind.
    :param windows_ns: instruction's PC → its step window; empty where nothing was learnt.
    :param turns: instruction's PC → how many placements of a pass come before its own; likewise.
    :param placed_per_pass: how many placements a pass has.
    """

    longest_ns: int
    runs_per_pass: float
    records_per_pass: float
    windows_ns: Mapping[int, int] = field(default_factory=dict)
    turns: Mapping[int, int] = field(default_factory=dict)
    placed_per_pass: int = 0


def learnt_from(trace: Trace) -> Learnt:
    """What ``LEARNING_PASSES`` quiet passes show.

    :raises CorruptDataError: see :func:`longest_window`.
    """
    runs = float(np.sum(trace.records["kind"] == RecordKind.RUN))
    armed = (trace.records["flags"] & RecordFlag.TIMER_ARMED) != 0
    placed = len(np.unique(trace.records["armed_at"][armed]))
    return Learnt(
        longest_window(trace),
        runs / LEARNING_PASSES,
        len(trace.records) / LEARNING_PASSES,
        placed_per_pass=placed // LEARNING_PASSES,
    )


def assumed(payload: Payload, longest_ns: int) -> Learnt:
    """More than any job of ours makes of a pass."""
    instructions = (payload.end - payload.begin) // 4
    runs = ASSUMED_RUNS * (instructions + ASSUMED_INSTRUCTIONS)
    return Learnt(longest_ns, runs, ASSUMED_RECORDS * runs)


def longest_window(trace: Trace) -> int:
    """From arming to the return from KVM_RUN, the longest step of the payload, in ns.

    A timer runs on through the exits of a step that user space serves.
    Of each instruction the shortest pass counts: the first has stage-2 faults, others L1's tick.

    :raises CorruptDataError: no timer was armed, or a step takes longer than one can.
    """
    armed = (trace.records["flags"] & RecordFlag.TIMER_ARMED) != 0
    runs = trace.records[(trace.records["kind"] == RecordKind.RUN) & armed]
    if not len(runs):
        raise CorruptDataError("no timer was armed in a pass that was to show the step windows")
    length = (runs["returned_at"] - runs["armed_at"]).astype(np.int64)
    _, instruction = np.unique(runs["pc"], return_inverse=True)
    shortest: NDArray[np.int64] = np.full(instruction.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(shortest, instruction, length)
    if shortest.min() < 0 or shortest.max() > MOST_WINDOW_NS:
        raise CorruptDataError(
            f"steps of {shortest.min():,} to {shortest.max():,} ns are none: L1's clock is wrong"
        )
    return int(shortest.max())


# --- boots that left nothing to judge ---


@dataclass(frozen=True)
class _Unjudged:
    """Why a boot can't be judged.

    :param evidence: what must repeat for a hang to be the kernel's: how far L2 came.
    """

    verdict: CellVerdict
    reason: str
    worth_another_try: bool
    evidence: int = 0


def _unjudged(done: Boot, budget_s: float) -> _Unjudged | None:
    """Why a boot can't be judged, or None if it can."""
    ended, header = done.exit, done.header or NO_HEADER
    if ended.death:
        return _death(ended.death, header, done.damage)
    if done.debugger:
        return _Unjudged(CellVerdict.LOST, done.debugger, worth_another_try=True)
    if header.state is SharedState.NO_KVM:
        return _Unjudged(CellVerdict.LOST, header.message, worth_another_try=False)
    if of_kernel := _no_progress(done, header, budget_s) or _deed(done, header, budget_s):
        return of_kernel
    if header.state is SharedState.DONE and ended.ending is Ending.EXITED:
        return _without_redirects(done)
    again = header.state is not SharedState.FAILED
    return _Unjudged(CellVerdict.LOST, _loss(done, header, budget_s), again)


def unjudged_reason(done: Boot, budget_s: float) -> tuple[CellVerdict, str] | None:
    """The verdict of a boot that left nothing to judge, and why; None where it left something."""
    found = _unjudged(done, budget_s)
    return None if found is None else (found.verdict, found.reason)


def _death(words: str, header: SharedHeader, damage: str) -> _Unjudged:
    """A kernel that died. Whoever kills our PID 1 in the midst of its job is the kernel."""
    killed = KILLED_INIT.search(words)
    by_signal = killed is not None and int(killed["code"], 16) & SIGNAL_MASK
    at_work = header.state is SharedState.RUNNING and header.heartbeat
    if by_signal and (at_work or damage):
        reason = f"the step VMM was killed by signal {by_signal}: {words}"
        return _Unjudged(CellVerdict.KERNEL_OOPS, reason, True, evidence=header.heartbeat)
    ours = any(one in words for one in OUR_PANICS)
    verdict = CellVerdict.LOST if ours else CellVerdict.KERNEL_OOPS
    return _Unjudged(verdict, words, worth_another_try=ours)


def _deed(done: Boot, header: SharedHeader, budget_s: float) -> _Unjudged | None:
    """What L1 has done to itself, or to us, if it does it again."""
    ended = done.exit
    if done.damage and ended.ending in (Ending.EXITED, Ending.OUT_OF_BUDGET):
        return _overwritten(done.damage, header)
    if header.state is SharedState.FAILED and header.heartbeat and header.message.startswith(KVM):
        reason = f"KVM refused after {header.heartbeat} steps: {header.message}"
        return _Unjudged(CellVerdict.FAIL, reason, True, evidence=header.heartbeat)
    running = header.state in (SharedState.EMPTY, SharedState.RUNNING)
    by_itself = ended.ending is Ending.EXITED and done.timed and running
    if by_itself and TOLD_TO_GO not in ended.last_line and GAVE_UP not in ended.last_line:
        reason = _loss(done, header, budget_s)
        return _Unjudged(CellVerdict.KERNEL_OOPS, reason, True, evidence=header.heartbeat)
    return None


def _overwritten(damage: str, header: SharedHeader) -> _Unjudged:
    reason = f"L1 wrote over what it had recorded: {damage}"
    return _Unjudged(CellVerdict.FAIL, reason, worth_another_try=True, evidence=header.heartbeat)


def _without_redirects(done: Boot) -> _Unjudged | None:
    """A machine that was not what it had to be for all of its run tells nothing of one."""
    if not done.redirector and not done.device:
        return None
    reason = done.device or f"async_first was not kept up: {done.redirector}"
    return _Unjudged(CellVerdict.LOST, reason, worth_another_try=True)


def _no_progress(done: Boot, header: SharedHeader, budget_s: float) -> _Unjudged | None:
    """What is the kernel's doing, if it happens again at the same point.

    A guest that was slow, but still stepped, is no evidence; nor is one that never began, unless
    its kernel was alive, and had a CPU, and did not even print.
    """
    cut_off = done.exit.ending is Ending.OUT_OF_BUDGET and done.idle_s > budget_s / 2
    starved_s = done.exit.starved_s
    began = header.heartbeat > 0
    alive = done.timed and starved_s is not None and starved_s < budget_s * STARVED
    stuck = alive and done.exit.silent_s > budget_s / 2
    if header.state is SharedState.STALLED:
        verdict, reason = CellVerdict.HANG, header.message
    elif header.state is SharedState.RUNNING and cut_off and (began or stuck):
        verdict = CellVerdict.HANG
        reason = f"no return from KVM_RUN for {budget_s / 2:g} s, after {header.heartbeat} steps"
    elif header.state is SharedState.EMPTY and not done.damage and cut_off and stuck:
        verdict, reason = CellVerdict.HANG, _loss(done, header, budget_s)
    elif header.state is SharedState.UNEXPECTED:
        verdict, reason = CellVerdict.FAIL, f"an exit that no job expects: {header.message}"
    else:
        return None
    return _Unjudged(verdict, reason, worth_another_try=True, evidence=header.heartbeat)


def _loss(done: Boot, header: SharedHeader, budget_s: float) -> str:
    ended = done.exit
    said = f"; its last line: {ended.last_line}" if ended.last_line else "; it printed nothing"
    if ended.ending is Ending.DIED:
        return f"QEMU died ({how_ended(ended.status)}){said}"
    if header.state is SharedState.FAILED:
        return f"the step VMM gave up: {header.message}"
    if header.state is SharedState.DONE:
        return f"QEMU did not end within {budget_s:g} s, although the job was done{said}"
    if ended.ending is Ending.OUT_OF_BUDGET and header.state is SharedState.RUNNING:
        return (
            f"not done within {budget_s:g} s, after {header.heartbeat} steps; raise "
            "campaign.budget_s"
        )
    if ended.ending is Ending.OUT_OF_BUDGET:
        return f"the kernel did not start the step VMM within {budget_s:g} s{said}"
    return f"L1 went down before the job was done{said}"


def _believed(endings: list[_Unjudged]) -> _Ended:
    """The verdict of several boots of one job, none of which could be judged.

    Under icount a kernel that hangs or gives an unexpected exit does so at the same point again;
    anything else was the machine.
    """
    last = endings[-1]
    if last.verdict is CellVerdict.LOST or not last.worth_another_try:
        return _Ended(last.verdict, last.reason)
    if len({(one.verdict, one.evidence) for one in endings}) == 1 < len(endings):
        return _Ended(last.verdict, f"{last.reason}; the same on every try")
    return _Ended(CellVerdict.LOST, f"{last.reason}; not the same on another try")
