"""Which interrupt came when: placed interrupts and L1's own, by delivered virtual time.

A placed interrupt is delivered later than it was asked for: the timer's compare value is written
some hundred ns after the expiry was computed (``clockevents_program_event``). So nothing here is
indexed by the requested delay. The first timer interrupt at or after the requested expiry is the
placed one, if the step VMM saw its timerfd expired; every other is L1's own, its tick above all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import RecordFlag, RecordKind, StepRecords
from qemu_diff.compare.contract import Judged, Steps
from qemu_diff.errors import CorruptDataError
from qemu_diff.model import Grid, Instruction, ViolationKind, Window

NOT_DELIVERED = -1
"""In :class:`Placements`: no placed interrupt inside the step window."""

LARGEST_GAP = 16
"""In steps of the grid: up to this, an interrupt of L1's own has left a gap; no delay reaches what
lies before a larger one."""

FEW_DELAYS = 4
"""One ns of virtual time is reached by so many requested delays at most."""

COMMON_PATHS = 2

PERIODIC_LATENESS_NS = 3000
"""From a timer's expiry to its compare value: programming it takes some hundred ns, or it is late
because L1 had its interrupts masked."""


@dataclass(frozen=True)
class Placements:
    """Interrupts of each judged step; all arrays have shape (g,), int64 unless said.

    :param requested_ns: the requested delay from arming, or ``NOT_DELIVERED`` without a flood.
    :param delivered_ns: when the placed interrupt came, from the entry into KVM_RUN.
    :param ticks: L1's own timer interrupts inside the step window.
    """

    requested_ns: NDArray[np.int64]
    delivered_ns: NDArray[np.int64]
    ticks: NDArray[np.int64]

    @property
    def delivered(self) -> NDArray[np.bool_]:
        """Whether the placed interrupt came inside the step window. Shape (g,)."""
        return np.asarray(self.delivered_ns != NOT_DELIVERED)

    @property
    def clean(self) -> NDArray[np.bool_]:
        """Whether it was the only one there. Shape (g,)."""
        return np.asarray(self.delivered & (self.ticks == 0))


def place(records: StepRecords, deliveries: NDArray[np.uint64], steps: Steps) -> Placements:
    """Attribute the timer interrupts of one boot to its steps.

    A step window is the time from the entry into the step's first KVM_RUN to the return from its
    last.

    :param deliveries: shape (i,), ascending: counter values (ns) at which L1's timer fired.
    :raises CorruptDataError: a timer had fired after the last of them: the log was cut off.
    """
    runs = records[records["kind"] == RecordKind.RUN]
    fired = deliveries.astype(np.int64)
    entered = runs["entered_at"][steps.first_run].astype(np.int64)
    returned = runs["returned_at"][steps.run].astype(np.int64)
    inside = np.searchsorted(fired, returned, side="right") - np.searchsorted(fired, entered)
    step, run = _runs_of_steps(steps)
    own_time = _own_deliveries(runs, fired)[run]
    own = (own_time >= entered[step]) & (own_time <= returned[step])
    armed = (runs["flags"][steps.first_run] & RecordFlag.TIMER_ARMED) != 0
    other_cpu = bool(np.any(runs["flags"] & RecordFlag.OTHER_CPU))
    requested = np.where(armed, runs["delay_ns"][steps.first_run].astype(np.int64), NOT_DELIVERED)
    delivered = np.full(len(steps), NOT_DELIVERED, dtype=np.int64)
    # Backwards: of several placed interrupts in one window the first stays.
    step, run, own_time = step[own][::-1], run[own][::-1], own_time[own][::-1]
    delivered[step] = own_time - entered[step]
    requested[step] = runs["delay_ns"][run].astype(np.int64)
    return Placements(
        requested_ns=requested,
        delivered_ns=delivered,
        ticks=(
            # Which of two CPUs' timers fired is not in QEMU's log; what made L2 leave is in truth.
            np.maximum(steps.irq_exits - np.bincount(step, minlength=len(steps)), 0)
            if other_cpu
            else inside - np.bincount(step, minlength=len(steps))
        ),
    )


def _runs_of_steps(steps: Steps) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(step, RUN record) for every KVM_RUN of every step, ascending."""
    number = steps.run - steps.first_run + 1
    step = np.repeat(np.arange(len(steps)), number)
    begin = np.repeat(np.cumsum(number) - number, number)
    return step, steps.first_run[step] + np.arange(len(step)) - begin


def _own_deliveries(runs: StepRecords, fired: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counter value at which each KVM_RUN's placed interrupt came, or ``NOT_DELIVERED``.

    :raises CorruptDataError: see :func:`place`.
    """
    acted = runs["acted_at"].astype(np.int64)
    others = (runs["flags"] & RecordFlag.OTHER_CPU) != 0
    periodic = (runs["flags"] & RecordFlag.PERIODIC) != 0
    if np.any(periodic):
        return _periodic_deliveries(runs, fired)
    expired = ((runs["flags"] & RecordFlag.TIMER_FIRED) != 0) & ~others
    logged_until = fired[-1] if len(fired) else NOT_DELIVERED
    if np.any(runs["armed_at"][expired].astype(np.int64) > logged_until):
        raise CorruptDataError("the timer log ends before the run: a timer fired that it lacks")
    expiry = (runs["armed_at"] + runs["delay_ns"]).astype(np.int64)
    time = np.append(fired, NOT_DELIVERED)[np.searchsorted(fired, expiry)]
    return np.where(expired, time, np.where(others & (acted > 0), acted, NOT_DELIVERED))


def _periodic_deliveries(runs: StepRecords, fired: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first interrupt of a periodic timer in each KVM_RUN, or ``NOT_DELIVERED``.

    What comes a little after a multiple of the period is its own.
    """
    begin = runs["armed_at"].astype(np.int64)
    period = np.maximum(runs["delay_ns"].astype(np.int64), 1)
    entered, returned = (runs[name].astype(np.int64) for name in ("entered_at", "returned_at"))
    first = np.searchsorted(fired, entered)
    time = np.append(fired, NOT_DELIVERED)[first]
    own = (time - begin) % period <= PERIODIC_LATENESS_NS
    return np.where(own & (time >= entered) & (time <= returned), time, NOT_DELIVERED)


def grids(steps: Steps, placements: Placements, name: dict[int, Instruction]) -> tuple[Grid, ...]:
    """What was tried, per executed instruction, in address order.

    :param name: address → instruction, for every executed PC.
    """
    found = []
    for pc in _placed_instructions(steps, placements):
        times, requested = _samples(steps, placements, pc)
        distinct = _reachable(times, requested)
        if len(distinct):
            first, last = int(distinct[0]), int(distinct[-1])
            missing = last - first + 1 - len(distinct)
            found.append(Grid(name[pc], first, last, len(distinct), missing))
    return tuple(found)


def missed_delays(steps: Steps, placements: Placements, spread_ns: int = 0) -> tuple[int, ...]:
    """Requested delays that should hit the ns which an interrupt of L1's own left out.

    From arming to delivery two paths are common, with L1's tick near or not; both are tried.

    :param spread_ns: how far around them to try as well: in a boot of its own a delay may be
        delivered some ns off.
    :returns: ns, ascending, without repeats.
    """
    near = range(-spread_ns, spread_ns + 1)
    delays: set[int] = set()
    for pc in _placed_instructions(steps, placements):
        times, requested = _samples(steps, placements, pc)
        offsets, counts = np.unique(requested - times, return_counts=True)
        common = offsets[np.argsort(-counts, kind="stable")[:COMMON_PATHS]].tolist()
        for before, after in pairwise(_reachable(times, requested).tolist()):
            # A wide gap is no accident: the step before this one was lost, and took it along.
            missing = range(before + 1, after) if after - before <= LARGEST_GAP else ()
            delays.update(
                time + offset + apart for time in missing for offset in common for apart in near
            )
    return tuple(sorted(delay for delay in delays if delay > 0))


def windows(
    steps: Steps, placements: Placements, name: dict[int, Instruction]
) -> tuple[Window, ...]:
    """Contiguous placements that break a step, per executed instruction, in address order."""
    found = []
    clean = placements.clean
    for pc in _placed_instructions(steps, placements):
        here = clean & (steps.instruction == pc)
        worst = _worst_by_time(placements.delivered_ns[here], steps.outcome[here])
        found.extend(_runs_of_violations(name[pc], *worst))
    return tuple(found)


def _placed_instructions(steps: Steps, placements: Placements) -> list[int]:
    return [int(pc) for pc in np.unique(steps.instruction[placements.clean])]


def _samples(
    steps: Steps, placements: Placements, pc: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Delivered times and requested delays of an instruction's clean placements."""
    here = placements.clean & (steps.instruction == pc)
    return placements.delivered_ns[here], placements.requested_ns[here]


def _reachable(times: NDArray[np.int64], requested: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distinct delivered times that a delay can reach, ascending.

    A delay below the timer's own programming time expires while it is being armed: all of these
    come at one early time, and nothing comes before it but by accident.
    """
    distinct = np.unique(times)
    early = distinct[: len(distinct) // 2]
    crowded = [time for time in early if len(np.unique(requested[times == time])) > FEW_DELAYS]
    distinct = distinct[distinct > max(crowded, default=-1)]
    gaps = np.diff(distinct)
    if not len(gaps):
        return distinct
    large = np.flatnonzero(gaps[: len(gaps) // 2] > LARGEST_GAP * np.median(gaps))
    return distinct[large[-1] + 1 :] if len(large) else distinct


def _worst_by_time(
    times: NDArray[np.int64], outcome: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Per distinct time: the time, the worst outcome, and whether all outcomes agree."""
    order = np.lexsort((outcome, times))
    times, outcome = times[order], outcome[order]
    last = np.append(np.flatnonzero(np.diff(times)), len(times) - 1)
    first = np.append(0, last[:-1] + 1)
    return times[last], outcome[last], np.asarray(outcome[first] == outcome[last])


def _runs_of_violations(
    instruction: Instruction,
    times: NDArray[np.int64],
    outcome: NDArray[np.int64],
    agreed: NDArray[np.bool_],
) -> list[Window]:
    changes = np.flatnonzero(np.diff(outcome)) + 1
    bounds = [0, *changes.tolist(), len(outcome)]
    return [
        Window(
            instruction=instruction,
            kind=violation_of(int(outcome[begin])),
            first_ns=int(times[begin]),
            last_ns=int(times[end - 1]),
            placements=end - begin,
            complete=_is_complete(times, begin, end),
            mixed=int(np.sum(~agreed[max(0, begin - 1) : end + 1])),
        )
        for begin, end in pairwise(bounds)
        if outcome[begin] != Judged.OK
    ]


def _is_complete(times: NDArray[np.int64], begin: int, end: int) -> bool:
    """Whether every ns of the window was tried, and so were the ns before and after."""
    if begin == 0 or end == len(times):
        return False
    return bool(np.all(np.diff(times[begin - 1 : end + 1]) == 1))


def violation_of(outcome: int) -> ViolationKind:
    """The violation behind a :class:`Judged` number."""
    return Judged(outcome).violation
