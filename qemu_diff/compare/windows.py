"""A boot's two streams in windows of bounded size, each of whole groups.

A group is judged by what lies in it, by the RUN record just before it, and by where the next one
goes on. So a window may end after any group, if that group is judged again as the first of the next
window, where its report is: nothing else has to be carried on but :class:`Cut`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import StepRecords, TruthRecords
from qemu_diff.compare.slices import (
    Groups,
    Returns,
    Slices,
    check_marks,
    ends_of_slices,
    group_returns,
    returns_in,
    runs_of,
)

WINDOW = 1 << 18
"""Truth records of a window, if its groups have room there: what is made of them stays in a CPU's
caches."""

LARGEST_KEPT = 30 << 20
"""Bytes; just under glibc's DEFAULT_MMAP_THRESHOLD_MAX, where a block counts no more."""


@dataclass(frozen=True)
class Cut:
    """Where a window begins: before a group.

    :param record: index of the first record after the RUN before.
    :param truth: index of the first truth record after its mark.
    :param run: number of RUN records before.
    :param spent: a step was spent, but not reported.
    """

    record: int = 0
    truth: int = 0
    run: int = 0
    spent: bool = False


@dataclass(frozen=True)
class Window:
    """Some groups of a boot, whole; indexes are the window's own.

    :param records: up to its last RUN record.
    :param truth: up to its last mark.
    :param before: the RUN record before the window; None at the boot's begin.
    :param last: nothing comes after it. Of every other window the last group is judged in the next.
    """

    cut: Cut
    records: StepRecords
    truth: TruthRecords
    returns: Returns
    groups: Groups
    slices: Slices
    before: np.void | None
    last: bool

    @property
    def judged(self) -> int:
        """How many of its groups are judged here: the first so many."""
        return len(self.groups) if self.last else len(self.groups) - 1

    def next(self, *, spent: bool) -> Cut:
        """Where the window after this one begins.

        :param spent: when this window's last group begins; see :class:`Cut`.
        """
        run = int(self.groups.first_run[-1])
        return Cut(
            record=self.cut.record + int(self.returns.row[run - 1]) + 1,
            truth=self.cut.truth + int(self.slices.end[run - 1]),
            run=self.cut.run + run,
            spent=spent,
        )


def window_at(records: StepRecords, truth: TruthRecords, cut: Cut, size: int = WINDOW) -> Window:
    """The window at a cut.

    :param records: of a whole boot; they may be mapped: only the window is looked at.
    :param truth: likewise.
    :param size: truth records; more where they hold less than two whole groups.
    :raises CorruptDataError: the truth does not hold one mark for each return from KVM_RUN.
    """
    while True:
        rows = truth[cut.truth : cut.truth + size]
        end = ends_of_slices(rows)
        some, returns = _with_returns(records, cut, len(end) + 1)
        last = len(returns) <= len(end)
        # Of what is not looked at yet the truth must hold something, or neither stream a return.
        through = cut.truth + len(rows)
        ends_early = len(returns) < len(end) if last else through == len(truth)
        if ends_early or (last and _total(truth[through:], ends_of_slices)):
            check_marks(_total(truth, ends_of_slices), _total(records, runs_of))
        before = records[cut.record - 1] if cut.record else None
        groups = group_returns(some, returns, before)
        whole = len(groups) if last else len(groups) - 1
        if last or whole > 1:
            break
        size *= 2
    runs = len(returns) if last else int(groups.first_run[whole])
    groups, returns, end = groups.first(whole, runs), returns[:runs], end[:runs]
    return Window(
        cut=cut,
        records=some[: int(returns.row[-1]) + 1 if runs else 0],
        truth=rows[: int(end[-1]) if runs else 0],
        returns=returns,
        groups=groups,
        slices=Slices(end, groups.of_run, returns.mmio),
        before=before,
        last=last,
    )


def keep_freed_memory() -> None:
    """Make a window's arrays from memory that the one before has freed.

    glibc maps large blocks afresh, and each of their pages faults again, until a larger one was
    freed (mallopt(3), M_MMAP_THRESHOLD); with another C library nothing comes of it.
    """
    np.empty(LARGEST_KEPT, dtype=np.uint8)


def _with_returns(records: StepRecords, cut: Cut, number: int) -> tuple[StepRecords, Returns]:
    """The records after a cut, up to so many RUNs, as far as there are; and these."""
    room = number
    while True:
        some = records[cut.record : cut.record + room]
        run = runs_of(some)
        if len(run) >= number:
            some = some[: int(run[number - 1]) + 1]
        elif cut.record + room < len(records):
            # As many as it takes if the rest is like these, and some more.
            room += max(16, (number - len(run)) * (1 + room // (len(run) + 1)) * 9 // 8)
            continue
        return some, returns_in(some)


def _total(
    stream: NDArray[np.void], chosen: Callable[[NDArray[np.void]], NDArray[np.int64]]
) -> int:
    """How many records of a stream are chosen, a window at a time."""
    return sum(len(chosen(stream[at : at + WINDOW])) for at in range(0, len(stream), WINDOW))
