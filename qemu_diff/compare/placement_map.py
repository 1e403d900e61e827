"""What came of each placement: one map per instruction, and the windows and grids read off it.

All is indexed by delivered virtual time, in ns from the entry into KVM_RUN, and made of *clean*
placements: an interrupt of L1's own in the same step makes it somebody else's result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import RecordFlag, RecordKind, StepRecords
from qemu_diff.compare.contract import Judged, Steps
from qemu_diff.compare.placements import Placements
from qemu_diff.compare.slices import pass_of_run
from qemu_diff.model import MIXED, Grid, Instruction, PlacementMap, Span, ViolationKind, Window

LARGEST_GAP = 16
"""In steps of the grid: up to this, an interrupt of L1's own has left a gap; no delay reaches what
lies before a larger one."""

FEW_DELAYS = 4
"""One ns of virtual time is reached by so many requested delays at most."""

COMMON_PATHS = 2

OK = "ok"
"""In :class:`Span`: the step was right."""


@dataclass(frozen=True)
class Points:
    """Distinct delivered times of one instruction's clean placements, ascending; shape (n,).

    :param time_ns: int64.
    :param outcome: int64: the worst :class:`Judged` at that time.
    :param mixed: bool: it came out both ways: L1's path to the entry into L2 is not always of the
        same length to the ns.
    :param delays: int64: how many distinct requested delays came at that time.
    """

    time_ns: NDArray[np.int64]
    outcome: NDArray[np.int64]
    mixed: NDArray[np.bool_]
    delays: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.time_ns)

    @property
    def first_reachable(self) -> int:
        """Index of the first time that a delay can reach; ``len()`` if there is none.

        A delay below the timer's own programming time expires while it is being armed: all of these
        come at one early time, and nothing comes before it but by accident.
        """
        crowded = np.flatnonzero(self.delays[: len(self) // 2] > FEW_DELAYS)
        first = int(crowded[-1]) + 1 if len(crowded) else 0
        gaps = np.diff(self.time_ns[first:])
        if not len(gaps):
            return first
        large = np.flatnonzero(gaps[: len(gaps) // 2] > LARGEST_GAP * np.median(gaps))
        return first + int(large[-1]) + 1 if len(large) else first


def points(steps: Steps, placements: Placements) -> dict[int, Points]:
    """Instruction's PC → what was tried of it, in address order."""
    clean = placements.clean
    pc, outcome = steps.instruction[clean], steps.outcome[clean]
    time, requested = placements.delivered_ns[clean], placements.requested_ns[clean]
    by_delay = np.lexsort((requested, time, pc))
    new_delay = _changes(pc[by_delay], time[by_delay], requested[by_delay])
    order = np.lexsort((outcome, time, pc))
    pc, time, outcome = pc[order], time[order], outcome[order]
    first = np.flatnonzero(_changes(pc, time))
    last = np.append(first[1:], len(pc))[: len(first)] - 1
    delays = np.add.reduceat(new_delay.astype(np.int64), first) if len(first) else first
    mixed = outcome[first] != outcome[last]
    pc, time, outcome = pc[first], time[first], outcome[last]
    bounds = [*np.flatnonzero(_changes(pc)).tolist(), len(pc)]
    return {
        int(pc[begin]): Points(
            time[begin:end], outcome[begin:end], np.asarray(mixed[begin:end]), delays[begin:end]
        )
        for begin, end in pairwise(bounds)
    }


def _changes(*columns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a row differs from the one before; the first does. Shape (n,)."""
    changed = np.ones(len(columns[0]), dtype=bool)
    if len(changed):
        changed[1:] = np.any([np.diff(column) != 0 for column in columns], axis=0)
    return changed


def quiet_windows(steps: Steps, placements: Placements) -> dict[int, int]:
    """Instruction's PC → its step window without a placed interrupt, in ns: from the entry into
    KVM_RUN to the return that reports the step.

    Of each instruction the shortest step counts: the first has stage-2 faults, others L1's tick.
    """
    quiet = ~placements.delivered
    pcs, index = np.unique(steps.instruction[quiet], return_inverse=True)
    shortest: NDArray[np.int64] = np.full(len(pcs), np.iinfo(np.int64).max)
    np.minimum.at(shortest, index, placements.length_ns[quiet])
    return dict(zip(pcs.tolist(), shortest.tolist(), strict=True))


# --- maps ---


def placement_maps(
    steps: Steps,
    placements: Placements,
    name: Mapping[int, Instruction],
    window_ns: Mapping[int, int],
) -> tuple[PlacementMap, ...]:
    """What came of each placement, per executed instruction, in address order.

    A span goes over times that were *tried* one after the other: times that were left out don't end
    it, they make its ``placements`` fewer than its ns. Times that no delay reaches but by accident
    have spans of their own.

    :param name: address → instruction, for every executed PC.
    :param window_ns: address → the step window of a quiet run; what is not there is not known.
    """
    return tuple(
        PlacementMap(name[pc], window_ns.get(pc, 0), tuple(_spans(tried)))
        for pc, tried in points(steps, placements).items()
    )


def _spans(tried: Points) -> Iterator[Span]:
    shown = np.where(tried.mixed, -1, tried.outcome)
    changes = _changes(shown)
    if tried.first_reachable < len(tried):
        changes[tried.first_reachable] = True
    for begin, end in pairwise([*np.flatnonzero(changes).tolist(), len(tried)]):
        first, last = int(tried.time_ns[begin]), int(tried.time_ns[end - 1])
        yield Span(first, last, _outcome(int(shown[begin])), placements=end - begin)


def _outcome(shown: int) -> str:
    if shown < 0:
        return MIXED
    return OK if shown == Judged.OK else violation_of(shown)


# --- windows ---


def windows(
    steps: Steps, placements: Placements, name: Mapping[int, Instruction]
) -> tuple[Window, ...]:
    """Contiguous placements that break a step, per executed instruction, in address order.

    A time that came out both ways belongs to the window.
    """
    return tuple(
        window
        for pc, tried in points(steps, placements).items()
        for window in _windows(name[pc], tried)
    )


def _windows(instruction: Instruction, tried: Points) -> Iterator[Window]:
    bounds = [*np.flatnonzero(_changes(tried.outcome)).tolist(), len(tried)]
    for begin, end in pairwise(bounds):
        if tried.outcome[begin] != Judged.OK:
            yield Window(
                instruction=instruction,
                kind=violation_of(int(tried.outcome[begin])),
                first_ns=int(tried.time_ns[begin]),
                last_ns=int(tried.time_ns[end - 1]),
                placements=end - begin,
                complete=_is_complete(tried.time_ns, begin, end),
                mixed=int(np.sum(tried.mixed[max(0, begin - 1) : end + 1])),
                sharp=_is_sharp(tried.time_ns, begin, end),
            )


def _is_complete(times: NDArray[np.int64], begin: int, end: int) -> bool:
    """Whether every ns of the window was tried, and so were the ns before and after."""
    if begin == 0 or end == len(times):
        return False
    return bool(np.all(np.diff(times[begin - 1 : end + 1]) == 1))


def _is_sharp(times: NDArray[np.int64], begin: int, end: int) -> bool:
    """Whether the ns before and after the window were tried."""
    if begin == 0 or end == len(times):
        return False
    return bool(times[begin] - times[begin - 1] == 1 == times[end] - times[end - 1])


def violation_of(outcome: int) -> ViolationKind:
    """The violation behind a :class:`Judged` number."""
    return Judged(outcome).violation


# --- what was tried, and what was left out ---


def grids(
    steps: Steps, placements: Placements, name: Mapping[int, Instruction]
) -> tuple[Grid, ...]:
    """What was tried of what a delay can reach, per executed instruction, in address order."""
    found = []
    for pc, tried in points(steps, placements).items():
        times = tried.time_ns[tried.first_reachable :]
        if len(times):
            first, last = int(times[0]), int(times[-1])
            found.append(Grid(name[pc], first, last, len(times), last - first + 1 - len(times)))
    return tuple(found)


def missed_delays(steps: Steps, placements: Placements, spread_ns: int = 0) -> tuple[int, ...]:
    """Requested delays that should hit the ns which an interrupt of L1's own left out.

    :param spread_ns: how far around them to try as well: in a boot of its own a delay may be
        delivered some ns off.
    :returns: ns, ascending, without repeats.
    """
    near = range(-spread_ns, spread_ns + 1)
    common = common_offsets(steps, placements)
    delays: set[int] = set()
    for pc, tried in points(steps, placements).items():
        for before, after in pairwise(tried.time_ns[tried.first_reachable :].tolist()):
            # A wide gap is no accident: the step before this one was lost, and took it along.
            missing = range(before + 1, after) if after - before <= LARGEST_GAP else ()
            delays.update(
                time + offset + apart for time in missing for offset in common[pc] for apart in near
            )
    return tuple(sorted(delay for delay in delays if delay > 0))


def missing_times(
    steps: Steps, placements: Placements, window_ns: Mapping[int, int]
) -> dict[int, tuple[int, ...]]:
    """Instruction's PC → what was not tried between its first reachable placement and the end of
    its step window, in ns.

    A step that was lost takes the next one along: where each step of a pass has a placement, none
    that breaks the first can tell of the second.
    """
    missing = {}
    for pc, tried in points(steps, placements).items():
        times = tried.time_ns[tried.first_reachable :]
        if len(times):
            whole = np.arange(int(times[0]), window_ns.get(pc, 0) + 1)
            missing[pc] = tuple(np.setdiff1d(whole, times).tolist())
    return {pc: times for pc, times in missing.items() if times}


def turns(records: StepRecords, steps: Steps) -> dict[int, int]:
    """Instruction's PC → how many placements of a quiet pass come before that of its first step."""
    runs, of_pass = records[records["kind"] == RecordKind.RUN], pass_of_run(records)
    armed = (runs["flags"] & RecordFlag.TIMER_ARMED) != 0
    before = np.cumsum(armed) - armed
    begin = np.searchsorted(of_pass, of_pass)
    turn = before - before[begin]
    last = of_pass[steps.run] == of_pass[-1:]
    pcs, first = np.unique(steps.instruction[last], return_index=True)
    entry = steps.first_run[last][first]
    return dict(zip(pcs.tolist(), turn[entry].tolist(), strict=True))


def common_offsets(steps: Steps, placements: Placements) -> dict[int, tuple[int, ...]]:
    """Instruction's PC → requested minus delivered ns of its clean placements, the most common
    first. From arming to delivery two paths are common, with L1's tick near or not."""
    clean = placements.clean
    pc = steps.instruction[clean]
    offset = placements.requested_ns[clean] - placements.delivered_ns[clean]
    found = {}
    for one in np.unique(pc).tolist():
        offsets, counts = np.unique(offset[pc == one], return_counts=True)
        most = np.argsort(-counts, kind="stable")[:COMMON_PATHS]
        found[one] = tuple(offsets[most].tolist())
    return found
