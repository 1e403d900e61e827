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

Repeats of one PC count once if a synchronous exit that is not the step exception follows the first
(a stage-2 fault or a first FP use, after which the instruction executes again). A branch, SVC, UDF
or ERET raises no exception to EL2 of its own, a BRK's is reported, PC is behind an HVC when its own
is taken, and an entry in Active-pending raises none but the step exception: after these, a
synchronous exit excuses nothing. Nor does one that was redirected to the interrupt vector, for that
is the step exception; nor that of a load or store that user space has served.

An IRQ that L2 takes is a stop of its own: taking the exception goes to Active-pending (D2.12.3),
so the report is the vector's address, with nothing executed there. Before it the step's instruction
was executed, or not at all, or it faulted and will be executed again; ELR_EL1, which is read while
L2 stands at the vector, says where the interrupt came, and SPSR_EL1 that IRQs were not masked.

SVC and UDF take their exception inside L2: the step is spent, and the Software Step exception due,
at the vector's first instruction (DDI 0487, D2.12.3: taking an exception to an Exception level at
which software step is enabled goes from Active-not-pending to Active-pending).

A job that interferes in mid-step has no claim on that step. A correct kernel reports a spent step
at once where PC was written to. It forgets it when stepping is turned off
(``kvm_arch_vcpu_ioctl_set_guest_debug()`` clears ``DBG_SS_ACTIVE_PENDING``), and when the vCPU is
initialised again; the report after that is judged: one instruction, from where user space last saw
L2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import (
    EC_SHIFT,
    ExceptionClass,
    RecordFlag,
    RecordKind,
    StepRecords,
    TruthKind,
    TruthRecords,
    VectorSlot,
)
from qemu_diff.compare.decode import UNKNOWN_MODE, Program
from qemu_diff.compare.slices import (
    UNKNOWN_PC,
    Executions,
    Groups,
    executions,
    exits_through,
    group_slices,
    last_of,
    modes_before_runs,
    moved,
    slice_truth,
)
from qemu_diff.model import ViolationKind


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
    :param active_pending: bool: L2 was entered in Active-pending (a phantom was seen, and not at
        once after an executed instruction: SVC comes to its vector without an entry; nor at an
        IRQ's vector before the step's instruction was completed: taking the IRQ spent the step).
    :param irq_exits: exits through the IRQ vector.
    :param redirects: Software Step exceptions that were turned into interrupts.
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
    redirects: NDArray[np.int64]
    outcome: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.run)

    @property
    def instruction(self) -> NDArray[np.int64]:
        """The stepped instruction's PC: the first executed, or where L2 stood if none was."""
        return np.where(self.first_executed == UNKNOWN_PC, self.previous_pc, self.first_executed)


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
    slices = slice_truth(records, truth, groups)
    done = executions(truth, phantom, slices, program)
    number = np.arange(len(groups.run))
    executed = np.bincount(done.group, minlength=len(number)).astype(np.int64)
    reported = runs["pc"][groups.run].astype(np.int64)
    last = _last_executions(runs, done, number, modes_before_runs(records))
    begins = _begins(truth, slices.group, number)
    took_irq = program.is_irq_vector(begins) & (begins != groups.previous_pc)
    outcome = _outcomes(runs, groups, executed, last, program)
    first = _first_of_group(done.pc, done.group, number)
    # The interrupt came first, and L2 went on without a stop at its vector.
    outcome[took_irq & (executed > 0)] = Judged.LOST_STEP
    _check_continuity(outcome, groups, np.where(took_irq, UNKNOWN_PC, begins), number)
    keep = groups.closed & groups.stepping & ~groups.unfinished
    keep &= ~_spent(records, groups, done, program)
    undone = (executed == 0) | _interrupted_before(runs, groups, last)
    entered = _entered_pending(truth, phantom)
    entered &= ~_spent_by_irq(truth, slices.group, undone, groups, program)
    redirects = truth["kind"] == TruthKind.REDIRECT
    return Steps(
        first_run=groups.first_run[keep],
        run=groups.run[keep],
        previous_pc=groups.previous_pc[keep],
        reported_pc=reported[keep],
        executed=executed[keep],
        first_executed=first[keep],
        active_pending=_count(entered, slices.group, number)[keep] > 0,
        irq_exits=_count(exits_through(truth, VectorSlot.IRQ), slices.group, number)[keep],
        redirects=_count(redirects, slices.group, number)[keep],
        outcome=outcome[keep],
    )


def _spent(
    records: StepRecords, groups: Groups, done: Executions, program: Program
) -> NDArray[np.bool_]:
    """Groups that begin while a step is spent, but not reported: PC was written. Shape (g,).

    Taking an interrupt spends it as well; a return that shows L2 at the vector tells.
    """
    is_run = records["kind"] == RecordKind.RUN
    runs = records[is_run]
    if not len(runs):
        return np.zeros(0, dtype=bool)
    came = program.is_irq_vector(runs["pc"].astype(np.int64)) & moved(records)
    stepped = ((runs["flags"] & RecordFlag.STEPPING) != 0) & (
        came | (np.bincount(done.run, minlength=len(runs)) > 0)
    )
    before = np.append(0, np.cumsum(stepped))
    forgets = groups.afresh.copy()
    forgets[groups.first_run[groups.after_report]] = True
    since = np.maximum(last_of(forgets), 0)[groups.first_run]
    return np.asarray(before[groups.first_run] > before[since])


def _entered_pending(truth: TruthRecords, phantom: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Phantoms that an entry in Active-pending made. Shape (t,)."""
    instruction = truth["kind"] == TruthKind.INSTRUCTION
    left = (truth["kind"] == TruthKind.EXIT) | (truth["kind"] == TruthKind.MARK)
    before = np.append(-1, last_of(instruction | left))[: len(truth)]
    after_execution = np.append(instruction & ~phantom, False)[before]
    return np.asarray(phantom & ~after_execution)


def _interrupted_before(
    runs: StepRecords, groups: Groups, last: _LastExecutions
) -> NDArray[np.bool_]:
    """Groups whose last instruction faulted: after the interrupt it is executed. Shape (g,)."""
    closing = runs[groups.run]
    at_vector = (closing["flags"] & RecordFlag.AT_VECTOR) != 0
    elr = closing["detail"][:, 0].astype(np.int64)
    return np.asarray(at_vector & last.faulted & (elr == last.pc))


def _spent_by_irq(
    truth: TruthRecords,
    row_group: NDArray[np.int64],
    undone: NDArray[np.bool_],
    groups: Groups,
    program: Program,
) -> NDArray[np.bool_]:
    """The phantom with which L2 took an IRQ in Active-not-pending: the first that stands at an
    IRQ's vector, in a group that has not completed an instruction. Shape (t,)."""
    pc = truth["pc"].astype(np.int64)
    at = (truth["kind"] == TruthKind.INSTRUCTION) & (row_group >= 0) & program.is_irq_vector(pc)
    rows = np.flatnonzero(at)
    rows = rows[undone[row_group[rows]] & (pc[rows] != groups.previous_pc[row_group[rows]])]
    _, first = np.unique(row_group[rows], return_index=True)
    found = np.zeros(len(truth), dtype=bool)
    found[rows[first]] = True
    return found


def _count(
    chosen: NDArray[np.bool_], row_group: NDArray[np.int64], number: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Chosen truth records of each group. Shape (g,)."""
    rows = row_group[chosen & (row_group >= 0)]
    return np.bincount(rows, minlength=len(number)).astype(np.int64)


def _first_of_group(
    values: NDArray[np.int64], group: NDArray[np.int64], number: NDArray[np.int64]
) -> NDArray[np.int64]:
    begin, end = np.searchsorted(group, number), np.searchsorted(group, number, side="right")
    return np.where(begin < end, np.append(values, UNKNOWN_PC)[begin], UNKNOWN_PC)


@dataclass(frozen=True)
class _LastExecutions:
    """The last executed instruction of each group. Shape (g,).

    :param pc: or ``UNKNOWN_PC``.
    :param register: the branch register before it, where ``recorded``.
    :param mode: PSTATE.M before it, or ``UNKNOWN_MODE``.
    :param faulted: see :class:`Executions`.
    """

    faulted: NDArray[np.bool_]
    pc: NDArray[np.int64]
    register: NDArray[np.int64]
    recorded: NDArray[np.bool_]
    mode: NDArray[np.int64]


def _last_executions(
    runs: StepRecords, done: Executions, number: NDArray[np.int64], modes: NDArray[np.int64]
) -> _LastExecutions:
    end = np.searchsorted(done.group, number, side="right")
    some = np.searchsorted(done.group, number) < end
    run = np.where(some, np.append(done.run, 0)[end - 1], 0)
    flags = runs["flags"][run] if len(runs) else np.zeros(0, dtype=np.uint32)
    register = runs["branch_register"][run] if len(runs) else np.zeros(0, dtype=np.uint64)
    return _LastExecutions(
        faulted=np.asarray(some & np.append(done.faulted, False)[end - 1]),
        pc=np.where(some, np.append(done.pc, UNKNOWN_PC)[end - 1], UNKNOWN_PC),
        register=register.astype(np.int64),
        recorded=np.asarray(some & ((flags & RecordFlag.BRANCH_REGISTER) != 0)),
        mode=np.where(some, modes[run], UNKNOWN_MODE) if len(runs) else modes,
    )


def _outcomes(
    runs: StepRecords,
    groups: Groups,
    executed: NDArray[np.int64],
    last: _LastExecutions,
    program: Program,
) -> NDArray[np.int64]:
    """:class:`Judged` of each group by itself.

    After an executed instruction the Software Step exception is due, and has priority over a
    breakpoint (DDI 0487, D1.3.5.5 "Synchronous exception prioritization").
    """
    ec = runs["esr"][groups.run].astype(np.int64) >> EC_SHIFT
    reported = runs["pc"][groups.run].astype(np.int64)
    itself = (ec == ExceptionClass.WATCHPOINT) | (ec == ExceptionClass.BRK)
    breakpoint_hit = ec == ExceptionClass.BREAKPOINT
    stands_still = (groups.previous_pc == reported) | (groups.previous_pc == UNKNOWN_PC)
    follows = program.follows(last.pc, reported, last.register, last.recorded, last.mode)
    irq = _takes_irq(runs, groups, executed, last, program) & (ec == ExceptionClass.SOFTWARE_STEP)
    cases = [
        (breakpoint_hit & (executed > 0), Judged.LOST_STEP),
        (breakpoint_hit & stands_still, Judged.OK),
        (breakpoint_hit, Judged.WRONG_PC),
        (executed >= 2, Judged.LOST_STEP),
        (irq, Judged.OK),
        (executed == 0, Judged.SPURIOUS_STEP),
        (itself & (last.pc == reported), Judged.OK),
        ((ec == ExceptionClass.SOFTWARE_STEP) & follows, Judged.OK),
    ]
    conditions = [condition for condition, _ in cases]
    outcomes = [outcome for _, outcome in cases]
    return np.select(conditions, outcomes, default=Judged.WRONG_PC).astype(np.int64)


def _takes_irq(
    runs: StepRecords,
    groups: Groups,
    executed: NDArray[np.int64],
    last: _LastExecutions,
    program: Program,
) -> NDArray[np.bool_]:
    """Groups that end at the vector of an IRQ that L2 could take, after one instruction at most."""
    closing = runs[groups.run]
    reported, elr, spsr = (
        values.astype(np.int64)
        for values in (closing["pc"], closing["detail"][:, 0], closing["detail"][:, 1])
    )
    seen = (closing["flags"] & RecordFlag.AT_VECTOR) != 0
    from_previous = (elr == groups.previous_pc) | (groups.previous_pc == UNKNOWN_PC)
    after_one = program.follows(last.pc, elr, last.register, last.recorded, last.mode)
    again = last.faulted & (elr == last.pc)
    where = np.where(executed == 0, from_previous, after_one | again)
    return np.asarray(seen & program.takes_irq(reported, spsr) & where)


def _begins(
    truth: TruthRecords, row_group: NDArray[np.int64], number: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Where each group goes on, or ``UNKNOWN_PC``: a phantom says it just as an executed
    instruction does. Shape (g,)."""
    rows = np.flatnonzero((truth["kind"] == TruthKind.INSTRUCTION) & (row_group >= 0))
    return _first_of_group(truth["pc"][rows].astype(np.int64), row_group[rows], number)


def _check_continuity(
    outcome: NDArray[np.int64],
    groups: Groups,
    begins: NDArray[np.int64],
    number: NDArray[np.int64],
) -> None:
    """L2 must go on at the PC before; if it does not, the report that named that PC is wrong.

    Where no report named it, but the job or a return for a signal, the new step is.
    """
    known = (begins != UNKNOWN_PC) & (groups.previous_pc != UNKNOWN_PC)
    broken = known & (begins != groups.previous_pc)
    blamed = np.where(groups.after_report & ~groups.pc_written, number - 1, number)[broken]
    outcome[blamed] = np.where(outcome[blamed] == Judged.OK, Judged.WRONG_PC, outcome[blamed])
