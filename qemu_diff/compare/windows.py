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
    Slices,
    check_marks,
    ends_of_slices,
    ends_with_mmio,
    group_slices,
    runs_of,
)

WINDOW = 1 << 16
"""Truth records of a window, if its groups have room there: what is made of them stays in a CPU's
caches."""


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
    :param run: indexes of the RUN records. Shape (runs,).
    :param before: the RUN record before the window; None at the boot's begin.
    :param last: nothing comes after it. Of every other window the last group is judged in the next.
    """

    cut: Cut
    records: StepRecords
    truth: TruthRecords
    run: NDArray[np.int64]
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
            record=self.cut.record + int(self.run[run - 1]) + 1,
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
        some, run = _with_runs(records, cut, len(end) + 1)
        last = len(run) <= len(end)
        # Of what is not looked at yet the truth must hold something, or neither stream a return.
        through = cut.truth + len(rows)
        ends_early = len(run) < len(end) if last else through == len(truth)
        if ends_early or (last and _total(truth[through:], ends_of_slices)):
            check_marks(_total(truth, ends_of_slices), _total(records, runs_of))
        before = records[cut.record - 1] if cut.record else None
        groups = group_slices(some, before)
        whole = len(groups) if last else len(groups) - 1
        if last or whole > 1:
            break
        size *= 2
    runs = len(run) if last else int(groups.first_run[whole])
    groups, run, end = groups.first(whole, runs), run[:runs], end[:runs]
    return Window(
        cut=cut,
        records=some[: int(run[-1]) + 1 if runs else 0],
        truth=rows[: int(end[-1]) if runs else 0],
        run=run,
        groups=groups,
        slices=Slices(end, groups.of_run, ends_with_mmio(some, run)),
        before=before,
        last=last,
    )


def _with_runs(records: StepRecords, cut: Cut, runs: int) -> tuple[StepRecords, NDArray[np.int64]]:
    """The records after a cut, up to so many RUNs, as far as there are; and the RUNs' indexes."""
    room = runs
    while True:
        some = records[cut.record : cut.record + room]
        run = runs_of(some)
        if len(run) >= runs:
            return some[: int(run[runs - 1]) + 1], run[:runs]
        if cut.record + room >= len(records):
            return some, run
        room += max(16, room // 4)


def _total(
    stream: NDArray[np.void], chosen: Callable[[NDArray[np.void]], NDArray[np.int64]]
) -> int:
    """How many records of a stream are chosen, a window at a time."""
    return sum(len(chosen(stream[at : at + WINDOW])) for at in range(0, len(stream), WINDOW))
