"""The truth stream cut at the marks, and its slices joined into what is judged as one step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import (
    KVM_EXIT_DEBUG,
    REGISTER_PC,
    Mark,
    RecordFlag,
    RecordKind,
    StepRecords,
    TruthKind,
    TruthRecords,
    VectorSlot,
)
from qemu_diff.compare.decode import NO_SUCCESSOR, Program
from qemu_diff.errors import CorruptDataError

UNKNOWN_PC = NO_SUCCESSOR
"""There is no such PC."""

STEPPING_CONTROL = 0b11
"""KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP (Linux include/uapi/linux/kvm.h)."""


SLOT_TYPE_MASK = 0x180
"""Bits of a vector's offset that tell synchronous, IRQ, FIQ and SError."""


@dataclass(frozen=True)
class Groups:
    """Joined slices. Arrays have shape (g,), but ``of_run`` and ``stopped``: one entry per RUN.

    :param closed: a debug exception closes the group.
    :param stepping: stepping was on, and was not turned off, all the time.
    :param previous_pc: see :class:`Steps`.
    :param pc_written: the job wrote it.
    :param stopped: stepping was turned off between the RUN before and this one.
    """

    first_run: NDArray[np.int64]
    run: NDArray[np.int64]
    of_run: NDArray[np.int64]
    closed: NDArray[np.bool_]
    stepping: NDArray[np.bool_]
    previous_pc: NDArray[np.int64]
    pc_written: NDArray[np.bool_]
    stopped: NDArray[np.bool_]


@dataclass(frozen=True)
class Executions:
    """Executed instructions, repeats collapsed: ascending in ``group``. Shape (e,).

    :param run: number of the RUN record of the slice that an instruction was executed in.
    """

    pc: NDArray[np.int64]
    group: NDArray[np.int64]
    run: NDArray[np.int64]


@dataclass(frozen=True)
class Slices:
    """Where each truth record belongs. Shape (t,).

    :param run: number of the RUN record whose slice it lies in; after the last mark there is none,
        and the number is that of all RUN records.
    :param group: the group, or -1 after the last mark.
    """

    run: NDArray[np.int64]
    group: NDArray[np.int64]


def group_slices(records: StepRecords) -> Groups:
    """Join each slice that no debug exception closes with the next one.

    A group also ends where the job writes PC: what was executed since the last report is then
    nobody's step.
    """
    is_run = records["kind"] == RecordKind.RUN
    runs = records[is_run]
    written, has_written = _written_pcs(records, is_run)
    closes = (runs["exit_reason"] == KVM_EXIT_DEBUG) & (runs["error"] == 0)
    starts = np.ones(len(runs), dtype=bool)
    starts[1:] = closes[:-1] | has_written[1:]
    first = np.flatnonzero(starts)
    last = np.append(first[1:], len(runs)) - 1 if len(first) else first
    after_report = (first > 0) & np.append(False, closes)[first]
    report = np.append(np.int64(UNKNOWN_PC), runs["pc"].astype(np.int64))[first]
    stopped = _stops(records, is_run)
    on = (runs["flags"] & RecordFlag.STEPPING) != 0
    undisturbed = on & (~stopped | starts)
    return Groups(
        first_run=first,
        run=last,
        of_run=np.cumsum(starts) - 1,
        closed=closes[last],
        stepping=np.logical_and.reduceat(undisturbed, first) if len(first) else on,
        previous_pc=np.where(
            has_written[first], written[first], np.where(after_report, report, UNKNOWN_PC)
        ),
        pc_written=has_written[first],
        stopped=stopped,
    )


def slice_truth(records: StepRecords, truth: TruthRecords, groups: Groups) -> Slices:
    """Cut the truth at the marks.

    :raises CorruptDataError: see :func:`judge`.
    """
    runs = int(np.sum(records["kind"] == RecordKind.RUN))
    marks = np.flatnonzero((truth["kind"] == TruthKind.MARK) & (truth["detail"] == Mark.RETURNED))
    if len(marks) != runs:
        raise CorruptDataError(
            f"the truth holds {len(marks)} marks for {runs} returns from KVM_RUN"
        )
    run = np.searchsorted(marks, np.arange(len(truth)), side="left").astype(np.int64)
    return Slices(run, np.append(groups.of_run, -1)[run].astype(np.int64))


def executions(
    truth: TruthRecords, phantom: NDArray[np.bool_], slices: Slices, program: Program
) -> Executions:
    """What each group executed; of repeats that count once, the last."""
    shown = np.flatnonzero((truth["kind"] == TruthKind.INSTRUCTION) & (slices.group >= 0))
    exits = np.cumsum(exits_through(truth, VectorSlot.SYNCHRONOUS))
    pc, group = truth["pc"].astype(np.int64), slices.group
    left = np.zeros(len(truth), dtype=bool)
    left[shown[:-1]] = exits[shown[1:]] > exits[shown[:-1]]
    row = shown[~phantom[shown]]
    faulted = left[row] & ~program.is_branch(pc[row])
    again = np.zeros(len(row), dtype=bool)
    again[:-1] = (pc[row[1:]] == pc[row[:-1]]) & (group[row[1:]] == group[row[:-1]])
    row = row[~(again & faulted)]
    return Executions(pc[row], group[row], slices.run[row])


def executed_in(done: Executions, group: int) -> tuple[int, ...]:
    """The PCs that one group executed, in order."""
    begin, end = np.searchsorted(done.group, [group, group + 1])
    return tuple(int(pc) for pc in done.pc[begin:end])


def pass_of_run(records: StepRecords) -> NDArray[np.int64]:
    """The pass over the payload that each RUN record belongs to, from 0. Shape (runs,)."""
    passes = np.cumsum(records["kind"] == RecordKind.PASS)
    return np.asarray(passes[records["kind"] == RecordKind.RUN] - 1, dtype=np.int64)


def _written_pcs(
    records: StepRecords, is_run: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The PC that the job wrote before each RUN record, and whether it wrote one. Shape (runs,)."""
    writes = (records["kind"] == RecordKind.SET_REGISTER) & (records["detail"][:, 0] == REGISTER_PC)
    value = np.zeros(int(is_run.sum()) + 1, dtype=np.int64)
    value[np.cumsum(is_run)[writes]] = records["detail"][writes, 1].astype(np.int64)
    return value[:-1], _before_runs(writes, is_run)


def _stops(records: StepRecords, is_run: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the job turned stepping off before each RUN record. Shape (runs,)."""
    control = records["detail"][:, 0] & STEPPING_CONTROL
    turns_off = (records["kind"] == RecordKind.DEBUG_CONTROL) & (control != STEPPING_CONTROL)
    return _before_runs(np.asarray(turns_off), is_run)


def _before_runs(chosen: NDArray[np.bool_], is_run: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a chosen record lies between the RUN record before and each one. Shape (runs,)."""
    found = np.zeros(int(is_run.sum()) + 1, dtype=bool)
    found[np.cumsum(is_run)[chosen]] = True
    return found[:-1]


def exits_through(truth: TruthRecords, slot: VectorSlot) -> NDArray[np.bool_]:
    exits = truth["kind"] == TruthKind.EXIT
    return np.asarray(exits & ((truth["detail"] & SLOT_TYPE_MASK) == slot & SLOT_TYPE_MASK))
