"""The step contract: from each report, one instruction.

The truth stream is cut at the marks: what lies between two marks is what L2 executed for one return
from KVM_RUN, a slice. Slices that end for another reason than a debug exception (a signal, MMIO)
join the next; the joined slices are a group, and a group is judged by the debug exception that
closes it (ESR_EL2.EC):

- Software Step (0x32): exactly one executed instruction, and the report's PC is one of its
  successors (DDI 0487, D2.12: Active-not-pending executes one instruction, Active-pending none);
- Breakpoint (0x30): taken before the instruction at the report's PC;
- Watchpoint (0x34), BRK (0x3c): taken by the instruction at the report's PC, which the truth
  records and which does not retire;
- while stepping, none of them excuses a second executed instruction.

And L2 must go on where the report says it is, unless the job wrote PC.

Repeats of one PC count once if a synchronous exit lies between them (a stage-2 fault or a first FP
use, after which the instruction executes again). The step exception itself can't be that exit: it
closes the group.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import (
    KVM_EXIT_DEBUG,
    REGISTER_PC,
    ExceptionClass,
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
from qemu_diff.model import ViolationKind

UNKNOWN_PC = -1
"""In :class:`Steps`: there is no such PC."""

SLOT_TYPE_MASK = 0x180
"""Bits of a vector's offset that tell synchronous, IRQ, FIQ and SError."""


class Judged(IntEnum):
    """Outcome of one step, as a number for arrays."""

    OK = 0
    LOST_STEP = 1
    SPURIOUS_STEP = 2
    WRONG_PC = 3

    @property
    def violation(self) -> ViolationKind:
        """:raises KeyError: for ``OK``."""
        return _VIOLATIONS[self]


_VIOLATIONS = {
    Judged.LOST_STEP: ViolationKind.LOST_STEP,
    Judged.SPURIOUS_STEP: ViolationKind.SPURIOUS_STEP,
    Judged.WRONG_PC: ViolationKind.WRONG_PC,
}


@dataclass(frozen=True)
class Steps:
    """Every judged step of one boot; all arrays have shape (g,), int64 unless said.

    :param first_run: index, among the RUN records, of the group's first.
    :param run: the same of the one that closes it: the report's number.
    :param previous_pc: where L2 stood before: the report before, or what the job wrote; or
        ``UNKNOWN_PC``.
    :param reported_pc: the report.
    :param executed: number of executed instructions, repeats collapsed.
    :param first_executed: PC of the first of them, or ``UNKNOWN_PC``.
    :param active_pending: bool: L2 was entered in Active-pending (a phantom was seen).
    :param irq_exits: exits through the IRQ vector.
    :param outcome: :class:`Judged`.
    """

    first_run: NDArray[np.int64]
    run: NDArray[np.int64]
    previous_pc: NDArray[np.int64]
    reported_pc: NDArray[np.int64]
    executed: NDArray[np.int64]
    first_executed: NDArray[np.int64]
    active_pending: NDArray[np.bool_]
    irq_exits: NDArray[np.int64]
    outcome: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.run)


@dataclass(frozen=True)
class Groups:
    """Joined slices. Arrays have shape (g,), but ``of_run``, which has one entry per RUN record."""

    first_run: NDArray[np.int64]
    run: NDArray[np.int64]
    of_run: NDArray[np.int64]
    judged: NDArray[np.bool_]
    previous_pc: NDArray[np.int64]
    pc_written: NDArray[np.bool_]


@dataclass(frozen=True)
class Executions:
    """Executed instructions, repeats collapsed: ascending in ``group``. Shape (e,)."""

    pc: NDArray[np.int64]
    group: NDArray[np.int64]
    row: NDArray[np.int64]


def judge(
    records: StepRecords, truth: TruthRecords, phantom: NDArray[np.bool_], program: Program
) -> Steps:
    """Hold every step report against what L2 executed.

    :param records: shape (r,), dtype ``STEP_RECORD``.
    :param truth: shape (t,), dtype ``TRUTH_RECORD``.
    :param phantom: shape (t,): truth records of instructions that did not execute.
    :raises CorruptDataError: the truth does not hold one mark for each return from KVM_RUN.
    """
    runs = records[records["kind"] == RecordKind.RUN]
    groups = group_slices(records)
    row_group = _groups_of_rows(runs, truth, groups)
    done = executions(truth, phantom, row_group)
    number = np.arange(len(groups.run))
    executed = np.bincount(done.group, minlength=len(number)).astype(np.int64)
    first = _first_of_group(done.pc, done.group, number)
    last = _last_of_group(done.pc, done.group, number)
    reported = runs["pc"][groups.run].astype(np.int64)
    follows = program.follows(last, reported, _branch_registers(runs, groups))
    outcome = _outcomes(runs, groups, executed, last == reported, follows)
    _check_continuity(outcome, groups, truth, row_group, number)
    keep = groups.judged
    return Steps(
        first_run=groups.first_run[keep],
        run=groups.run[keep],
        previous_pc=groups.previous_pc[keep],
        reported_pc=reported[keep],
        executed=executed[keep],
        first_executed=first[keep],
        active_pending=np.bincount(row_group[phantom & (row_group >= 0)], minlength=len(number))[
            keep
        ]
        > 0,
        irq_exits=_count_exits(truth, row_group, VectorSlot.IRQ, len(number))[keep],
        outcome=outcome[keep],
    )


def group_slices(records: StepRecords) -> Groups:
    """Join each slice that no debug exception closes with the next one.

    A group also ends where the job writes PC: what was executed since the last report is then
    nobody's step.
    """
    is_run = records["kind"] == RecordKind.RUN
    runs = records[is_run]
    written = _written_pcs(records, is_run)
    closes = (runs["exit_reason"] == KVM_EXIT_DEBUG) & (runs["error"] == 0)
    starts = np.ones(len(runs), dtype=bool)
    starts[1:] = closes[:-1] | (written[1:] != UNKNOWN_PC)
    first = np.flatnonzero(starts)
    last = np.append(first[1:], len(runs)) - 1 if len(first) else first
    stepping = (runs["flags"] & RecordFlag.STEPPING) != 0
    all_stepping = np.logical_and.reduceat(stepping, first) if len(first) else stepping
    previous = written[first]
    inherits = np.flatnonzero((previous == UNKNOWN_PC) & (first > 0))
    inherits = inherits[closes[first[inherits] - 1]]
    previous[inherits] = runs["pc"][first[inherits] - 1].astype(np.int64)
    return Groups(
        first_run=first,
        run=last,
        of_run=np.cumsum(starts) - 1,
        judged=closes[last] & all_stepping,
        previous_pc=previous,
        pc_written=written[first] != UNKNOWN_PC,
    )


def executions(
    truth: TruthRecords, phantom: NDArray[np.bool_], row_group: NDArray[np.int64]
) -> Executions:
    """What each group executed.

    :param row_group: shape (t,): the group of each truth record, or -1.
    """
    row = np.flatnonzero((truth["kind"] == TruthKind.INSTRUCTION) & ~phantom & (row_group >= 0))
    pc, group = truth["pc"][row].astype(np.int64), row_group[row]
    synchronous = np.cumsum(_exits(truth, VectorSlot.SYNCHRONOUS))[row]
    repeat = np.zeros(len(row), dtype=bool)
    repeat[1:] = (
        (pc[1:] == pc[:-1]) & (group[1:] == group[:-1]) & (synchronous[1:] > synchronous[:-1])
    )
    return Executions(pc[~repeat], group[~repeat], row[~repeat])


def executed_in(done: Executions, group: int) -> tuple[int, ...]:
    """The PCs that one group executed, in order."""
    begin, end = np.searchsorted(done.group, [group, group + 1])
    return tuple(int(pc) for pc in done.pc[begin:end])


def pass_of_run(records: StepRecords) -> NDArray[np.int64]:
    """The pass over the payload that each RUN record belongs to, from 0. Shape (runs,)."""
    passes = np.cumsum(records["kind"] == RecordKind.PASS)
    return np.asarray(passes[records["kind"] == RecordKind.RUN] - 1, dtype=np.int64)


def rows_of_groups(records: StepRecords, truth: TruthRecords) -> NDArray[np.int64]:
    """The group of each truth record, or -1 after the last mark. Shape (t,).

    :raises CorruptDataError: see :func:`judge`.
    """
    runs = records[records["kind"] == RecordKind.RUN]
    return _groups_of_rows(runs, truth, group_slices(records))


def _groups_of_rows(runs: StepRecords, truth: TruthRecords, groups: Groups) -> NDArray[np.int64]:
    marks = np.flatnonzero((truth["kind"] == TruthKind.MARK) & (truth["detail"] == Mark.RETURNED))
    if len(marks) != len(runs):
        raise CorruptDataError(
            f"the truth holds {len(marks)} marks for {len(runs)} returns from KVM_RUN"
        )
    run = np.searchsorted(marks, np.arange(len(truth)), side="left")
    return np.append(groups.of_run, -1)[run].astype(np.int64)


def _written_pcs(records: StepRecords, is_run: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The PC that the job wrote before each RUN record, or ``UNKNOWN_PC``. Shape (runs,)."""
    written = np.full(int(is_run.sum()), UNKNOWN_PC, dtype=np.int64)
    writes = (records["kind"] == RecordKind.SET_REGISTER) & (records["detail"][:, 0] == REGISTER_PC)
    next_run = np.cumsum(is_run)[writes]
    inside = next_run < len(written)
    written[next_run[inside]] = records["detail"][writes, 1].astype(np.int64)[inside]
    return written


def _exits(truth: TruthRecords, slot: VectorSlot) -> NDArray[np.bool_]:
    exits = truth["kind"] == TruthKind.EXIT
    return np.asarray(exits & ((truth["detail"] & SLOT_TYPE_MASK) == slot & SLOT_TYPE_MASK))


def _count_exits(
    truth: TruthRecords, row_group: NDArray[np.int64], slot: VectorSlot, groups: int
) -> NDArray[np.int64]:
    rows = row_group[_exits(truth, slot) & (row_group >= 0)]
    return np.bincount(rows, minlength=groups).astype(np.int64)


def _first_of_group(
    values: NDArray[np.int64], group: NDArray[np.int64], number: NDArray[np.int64]
) -> NDArray[np.int64]:
    begin, end = np.searchsorted(group, number), np.searchsorted(group, number, side="right")
    return np.where(begin < end, np.append(values, UNKNOWN_PC)[begin], UNKNOWN_PC)


def _last_of_group(
    values: NDArray[np.int64], group: NDArray[np.int64], number: NDArray[np.int64]
) -> NDArray[np.int64]:
    begin, end = np.searchsorted(group, number), np.searchsorted(group, number, side="right")
    return np.where(begin < end, np.append(values, UNKNOWN_PC)[end - 1], UNKNOWN_PC)


def _outcomes(
    runs: StepRecords,
    groups: Groups,
    executed: NDArray[np.int64],
    reports_last: NDArray[np.bool_],
    follows: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """:class:`Judged` of each group by itself.

    :param reports_last: whether the report names the last executed instruction.
    :param follows: whether it names a successor of it.
    """
    ec = runs["esr"][groups.run].astype(np.int64) >> 26
    reported = runs["pc"][groups.run].astype(np.int64)
    itself = (ec == ExceptionClass.WATCHPOINT) | (ec == ExceptionClass.BRK)
    breakpoint_hit = ec == ExceptionClass.BREAKPOINT
    known = itself | breakpoint_hit | (ec == ExceptionClass.SOFTWARE_STEP)
    stands_still = (groups.previous_pc == reported) | (groups.previous_pc == UNKNOWN_PC)
    return np.select(
        [
            ~known,
            executed >= 2,
            (executed == 0) & breakpoint_hit & stands_still,
            (executed == 0) & breakpoint_hit,
            executed == 0,
            itself & reports_last,
            ~itself & follows,
        ],
        [
            Judged.SPURIOUS_STEP,
            Judged.LOST_STEP,
            Judged.OK,
            Judged.WRONG_PC,
            Judged.SPURIOUS_STEP,
            Judged.OK,
            Judged.OK,
        ],
        default=Judged.WRONG_PC,
    ).astype(np.int64)


def _branch_registers(runs: StepRecords, groups: Groups) -> NDArray[np.int64]:
    """Value of the branch register before each group's instruction, or ``NO_SUCCESSOR``."""
    recorded = (runs["flags"][groups.first_run] & RecordFlag.BRANCH_REGISTER) != 0
    value = runs["branch_register"][groups.first_run].astype(np.int64)
    return np.where(recorded, value, NO_SUCCESSOR)


def _check_continuity(
    outcome: NDArray[np.int64],
    groups: Groups,
    truth: TruthRecords,
    row_group: NDArray[np.int64],
    number: NDArray[np.int64],
) -> None:
    """L2 must go on at the PC before; if it does not, the report that named that PC is wrong.

    A phantom says where L2 stands just as an executed instruction does.
    """
    rows = np.flatnonzero((truth["kind"] == TruthKind.INSTRUCTION) & (row_group >= 0))
    begins = _first_of_group(truth["pc"][rows].astype(np.int64), row_group[rows], number)
    broken = (begins != UNKNOWN_PC) & (groups.previous_pc != UNKNOWN_PC)
    broken &= begins != groups.previous_pc
    blamed = np.where(groups.pc_written, number, number - 1)[broken]
    outcome[blamed] = np.where(outcome[blamed] == Judged.OK, Judged.WRONG_PC, outcome[blamed])
