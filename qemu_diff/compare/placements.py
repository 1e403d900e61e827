"""Which interrupt came when: placed interrupts and L1's own, by delivered virtual time.

A placed interrupt is delivered later than it was asked for: the timer's compare value is written
some hundred ns after the expiry was computed (``clockevents_program_event``). So nothing here is
indexed by the requested delay. The first timer interrupt at or after the requested expiry is the
placed one, if the step VMM saw its timerfd expired; every other is L1's own, its tick above all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import RecordFlag, RecordKind, StepRecords, TimerKind
from qemu_diff.compare.contract import Steps
from qemu_diff.errors import CorruptDataError

NOT_DELIVERED = -1
"""In :class:`Placements`: no placed interrupt inside the step window."""

PERIODIC_LATENESS_NS = 3000
"""From a timer's expiry to its compare value: programming it takes some hundred ns, or it is late
because L1 had its interrupts masked."""


@dataclass(frozen=True)
class Placements:
    """Interrupts of each judged step; all arrays have shape (g,), int64 unless said.

    :param requested_ns: the requested delay from arming, or ``NOT_DELIVERED`` without a flood.
    :param delivered_ns: when the placed interrupt came, from the entry into KVM_RUN.
    :param ticks: L1's own timer interrupts inside the step window.
    :param length_ns: of the step window.
    """

    requested_ns: NDArray[np.int64]
    delivered_ns: NDArray[np.int64]
    ticks: NDArray[np.int64]
    length_ns: NDArray[np.int64]

    @property
    def delivered(self) -> NDArray[np.bool_]:
        """Whether the placed interrupt came inside the step window. Shape (g,)."""
        return np.asarray(self.delivered_ns != NOT_DELIVERED)

    @property
    def clean(self) -> NDArray[np.bool_]:
        """Whether it was the only one there. Shape (g,)."""
        return np.asarray(self.delivered & (self.ticks == 0))


def place(
    records: StepRecords, deliveries: NDArray[np.uint64], steps: Steps, burst: int = 1
) -> Placements:
    """Attribute the timer interrupts of one boot to its steps.

    A step window is the time from the entry into the step's first KVM_RUN that may enter L2 to the
    return from its last; a kick comes back before it does.

    :param deliveries: shape (i,), ascending: counter values (ns) at which L1's timer fired.
    :param burst: interrupts of each placement; two of a pair are none.
    :raises CorruptDataError: a timer had fired after the last of them: the log was cut off.
    """
    runs = records[records["kind"] == RecordKind.RUN]
    fired = deliveries.astype(np.int64)
    first = first_entries(runs, steps)
    entered = runs["entered_at"][first].astype(np.int64)
    returned = runs["returned_at"][steps.run].astype(np.int64)
    inside = np.searchsorted(fired, returned, side="right") - np.searchsorted(fired, entered)
    all_steps, all_runs = step, run = _runs_of_steps(steps)
    own_time = _own_deliveries(runs, fired)[run]
    delay = runs["delay_ns"].astype(np.int64)[run]
    for time, later in _further_deliveries(runs, fired, burst):
        step, run = np.append(step, all_steps), np.append(run, all_runs)
        own_time, delay = np.append(own_time, time[all_runs]), np.append(delay, later[all_runs])
    own = (own_time >= entered[step]) & (own_time <= returned[step])
    armed = (runs["flags"][first] & RecordFlag.TIMER_ARMED) != 0
    other_cpu = bool(np.any(runs["flags"] & RecordFlag.OTHER_CPU))
    untimed = bool(np.any(runs["flags"] & RecordFlag.UNTIMED))
    requested = np.where(armed, runs["delay_ns"][first].astype(np.int64), NOT_DELIVERED)
    delivered = np.full(len(steps), NOT_DELIVERED, dtype=np.int64)
    order = np.flatnonzero(own)[np.lexsort((own_time[own], step[own]))]
    step, own_time, delay = step[order], own_time[order], delay[order]
    # Two timers that had expired before one interrupt share it.
    new = np.ones(len(step), dtype=bool)
    new[1:] = (np.diff(step) != 0) | (np.diff(own_time) != 0)
    step, own_time, delay = step[new], own_time[new], delay[new]
    # Backwards: of several placed interrupts in one window the first stays.
    delivered[step[::-1]] = (own_time - entered[step])[::-1]
    requested[step[::-1]] = delay[::-1]
    return Placements(
        requested_ns=requested,
        delivered_ns=delivered,
        ticks=(
            # Which of two CPUs' timers fired is not in QEMU's log; what made L2 leave is in truth.
            # Nor does a debugger see when L2 was entered.
            np.maximum(steps.irq_exits - np.bincount(step, minlength=len(steps)), 0)
            if other_cpu or untimed
            else inside - np.bincount(step, minlength=len(steps))
        ),
        length_ns=returned - entered,
    )


def first_entries(runs: StepRecords, steps: Steps) -> NDArray[np.int64]:
    """The first KVM_RUN of each step that is no kick: the one that its placement was armed for.

    The last one never is a kick: a report closes it. Shape (g,).
    """
    enters = np.flatnonzero((runs["flags"] & RecordFlag.KICKED) == 0)
    return np.asarray(enters[np.searchsorted(enters, steps.first_run)])


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
    # L2's own timer may expire while L1 has it: then nothing fires.
    ours = expired & (runs["timer_kind"] != TimerKind.VTIMER)
    logged_until = fired[-1] if len(fired) else NOT_DELIVERED
    if np.any(runs["armed_at"][ours].astype(np.int64) > logged_until):
        raise CorruptDataError("the timer log ends before the run: a timer fired that it lacks")
    expiry = (runs["armed_at"] + runs["delay_ns"]).astype(np.int64)
    time = np.append(fired, NOT_DELIVERED)[np.searchsorted(fired, expiry)]
    return np.where(expired, time, np.where(others & (acted > 0), acted, NOT_DELIVERED))


def _further_deliveries(
    runs: StepRecords, fired: NDArray[np.int64], burst: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(when it came, or ``NOT_DELIVERED``; the requested delay) of each KVM_RUN's second placed
    interrupt, third, and so on: those of a burst are evenly spaced. Both have shape (runs,).

    Whether it came at all is seen from the next interrupt after its expiry: one that had not
    expired at the return was disarmed.
    """
    first, second = (runs[name].astype(np.int64) for name in ("delay_ns", "second_delay_ns"))
    several = (second > 0) & ((runs["flags"] & (RecordFlag.OTHER_CPU | RecordFlag.PERIODIC)) == 0)
    if not several.any():
        return
    for number in range(1, max(2, burst)):
        delay = first + number * (second - first)
        expiry = runs["armed_at"].astype(np.int64) + delay
        time = np.append(fired, NOT_DELIVERED)[np.searchsorted(fired, expiry)]
        yield np.where(several, time, NOT_DELIVERED), delay


def _periodic_deliveries(runs: StepRecords, fired: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first interrupt of a periodic timer in each KVM_RUN, or ``NOT_DELIVERED``.

    What comes a little after a multiple of the period is its own.
    """
    entered, returned = (runs[name].astype(np.int64) for name in ("entered_at", "returned_at"))
    found = np.full(len(runs), NOT_DELIVERED, dtype=np.int64)
    periodic = (runs["flags"] & RecordFlag.PERIODIC) != 0
    for begin, period in np.unique(runs[["armed_at", "delay_ns"]][periodic]).tolist():
        late = (fired - begin) % max(period, 1)
        own = fired[(fired >= begin + period) & (late <= PERIODIC_LATENESS_NS)]
        time = np.append(own, NOT_DELIVERED)[np.searchsorted(own, entered)]
        its = periodic & (runs["armed_at"] == begin) & (runs["delay_ns"] == period)
        inside = its & (time >= entered) & (time <= returned)
        found[inside] = time[inside]
    return found
