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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import (
    EC_SHIFT,
    ExceptionClass,
    RecordFlag,
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
    Shown,
    TruthColumns,
    count_by,
    executions_of,
    last_of,
    modes_before_runs,
    shown_in,
)
from qemu_diff.compare.windows import WINDOW, Cut, Window, keep_freed_memory, window_at
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
    return join_steps(list(judge_windows(records, truth, phantom.__getitem__, program)))


def judge_windows(
    records: StepRecords,
    truth: TruthRecords,
    phantoms_in: Callable[[slice], NDArray[np.bool_]],
    program: Program,
    size: int = WINDOW,
) -> Iterator[Steps]:
    """As :func:`judge`, a part of the boot at a time, for streams that are larger than memory.

    :param phantoms_in: which truth records of a slice did not execute.
    :param size: see :func:`~qemu_diff.compare.windows.window_at`.
    """
    keep_freed_memory()
    cut = Cut()
    while True:
        window = window_at(records, truth, cut, size)
        rows = slice(cut.truth, cut.truth + len(window.truth))
        steps, spent = _judge_window(window, phantoms_in(rows), program)
        yield steps
        if window.last:
            return
        cut = window.next(spent=spent)


def join_steps(parts: Sequence[Steps]) -> Steps:
    """Several parts as one, in their order; at least one."""
    return Steps(
        **{
            one.name: np.concatenate([getattr(part, one.name) for part in parts])
            for one in fields(Steps)
        }
    )


def _judge_window(
    window: Window, phantom: NDArray[np.bool_], program: Program
) -> tuple[Steps, bool]:
    """The window's steps; and whether a step was spent where its last group begins."""
    groups, truth = window.groups, TruthColumns(window.truth)
    shown = shown_in(truth, window.slices)
    done = executions_of(shown, truth, phantom, window.slices, program)
    executed = np.bincount(done.group, minlength=len(groups))
    closing = _closing(window)
    begins = _first_of_groups(
        window.truth["pc"], np.bincount(shown.group, minlength=len(groups)), shown.row
    )
    took_irq = program.is_irq_vector(begins) & (begins != groups.previous_pc)
    last = _last_executions(window, done, executed, program)
    outcome = _outcomes(closing, groups, executed, last, program)
    # The interrupt came first, and L2 went on without a stop at its vector.
    outcome[took_irq & (executed > 0)] = Judged.LOST_STEP
    _check_continuity(outcome, groups, np.where(took_irq, UNKNOWN_PC, begins))
    spent = _spent(window, done, program)
    keep = groups.closed & groups.stepping & ~groups.unfinished & ~spent
    keep[window.judged :] = False
    entered = _made_by_entry(shown, truth, phantom)
    if program.irq_vectors:
        undone = (executed == 0) | _interrupted_before(closing, last)
        entered[_spent_by_irq(window, shown, undone, program)] = False
    end = window.slices.end[groups.run]
    steps = Steps(
        first_run=groups.first_run + window.cut.run,
        run=groups.run + window.cut.run,
        previous_pc=groups.previous_pc,
        reported_pc=closing.pc,
        executed=executed,
        first_executed=_first_of_groups(done.pc, executed),
        active_pending=np.bincount(shown.group[entered], minlength=len(groups)) > 0,
        irq_exits=count_by(truth.exits_through(VectorSlot.IRQ), end),
        redirects=count_by(truth.redirect, end),
        outcome=outcome,
    )
    return _kept(steps, keep), bool(spent[-1:].any())


def _kept(steps: Steps, keep: NDArray[np.bool_]) -> Steps:
    kept = int(np.sum(keep))
    some = slice(kept) if keep[:kept].all() else keep
    return Steps(**{one.name: getattr(steps, one.name)[some] for one in fields(Steps)})


@dataclass(frozen=True)
class _Closing:
    """The RUN record that ends each group. Shape (g,).

    :param ec: ESR_EL2.EC.
    :param at_vector: indexes of the groups that end with L2 at an IRQ's vector. Shape (v,).
    :param elr: ELR_EL1 there. Shape (v,).
    :param spsr: SPSR_EL1 there. Shape (v,).
    :param stood_at: where the return before, of the same group, showed L2, or ``UNKNOWN_PC``.
        Shape (v,).
    """

    pc: NDArray[np.int64]
    ec: NDArray[np.int64]
    at_vector: NDArray[np.int64]
    elr: NDArray[np.int64]
    spsr: NDArray[np.int64]
    stood_at: NDArray[np.int64]


def _closing(window: Window) -> _Closing:
    run, first = window.groups.run, window.groups.first_run
    row = window.returns.row[run]
    at_vector = np.flatnonzero(window.returns.flags[run] & RecordFlag.AT_VECTOR)
    detail = window.records["detail"][row[at_vector], :2].astype(np.int64)
    return _Closing(
        pc=window.returns.pc[run],
        ec=window.records["esr"][row].astype(np.int64) >> EC_SHIFT,
        at_vector=at_vector,
        elr=detail[:, 0],
        spsr=detail[:, 1],
        stood_at=np.where(run > first, window.groups.pc_before[run], UNKNOWN_PC)[at_vector],
    )


def _spent(window: Window, done: Executions, program: Program) -> NDArray[np.bool_]:
    """Groups that begin while a step is spent, but not reported: PC was written. Shape (g,).

    Taking an interrupt spends it as well; a return that shows L2 at the vector tells.
    """
    groups = window.groups
    found = np.zeros(len(groups), dtype=bool)
    knows = np.flatnonzero(~(groups.after_report | groups.afresh[groups.first_run]))
    if not len(knows):
        return found
    pc = window.returns.pc
    came = program.is_irq_vector(pc) & (pc != groups.pc_before)
    ran = np.bincount(done.run, minlength=len(pc)) > 0
    before = np.append(0, np.cumsum(window.returns.stepping & (came | ran)))
    forgets = groups.afresh.copy()
    forgets[groups.first_run[groups.after_report]] = True
    first = groups.first_run[knows]
    since = last_of(forgets)[first]
    found[knows] = before[first] > before[np.maximum(since, 0)]
    found[knows] |= (since < 0) & window.cut.spent
    return found


def _made_by_entry(
    shown: Shown, truth: TruthColumns, phantom: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Phantoms that an entry in Active-pending made. Shape (s,)."""
    found = phantom[shown.row]
    at = np.flatnonzero(found)
    found[at] = ~_follows_execution(shown.row[at], truth, phantom)
    return found


def _follows_execution(
    row: NDArray[np.int64], truth: TruthColumns, phantom: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which truth records come after an executed instruction, with no exit or mark between. Shape
    of ``row``."""
    before = row - 1
    silent = ~_tells(truth.kind[before]) & (before >= 0)
    if silent.any():
        telling = np.append(-1, np.flatnonzero(_tells(truth.kind)))
        before[silent] = telling[np.searchsorted(telling, row[silent]) - 1]
    executed = truth.instruction[before] & ~phantom[before]
    return np.asarray(executed & (before >= 0))


def _tells(kind: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Records that tell whether L2 has run since, or left."""
    left = (kind == TruthKind.EXIT) | (kind == TruthKind.MARK)
    return np.asarray(left | (kind == TruthKind.INSTRUCTION))


def _interrupted_before(closing: _Closing, last: _LastExecutions) -> NDArray[np.bool_]:
    """Groups whose last instruction faulted: after the interrupt it is executed. Shape (g,)."""
    found = np.zeros(len(closing.pc), dtype=bool)
    at = closing.at_vector
    found[at] = last.faulted[at] & (closing.elr == last.pc[at])
    return found


def _spent_by_irq(
    window: Window, shown: Shown, undone: NDArray[np.bool_], program: Program
) -> NDArray[np.int64]:
    """Indexes, of what is shown, of the phantoms with which L2 took an IRQ in Active-not-pending:
    the first that stands at an IRQ's vector, in each group that has not completed an instruction.
    """
    pc = window.truth["pc"][shown.row].astype(np.int64)
    at = np.flatnonzero(program.is_irq_vector(pc))
    group = shown.group[at]
    fits = undone[group] & (pc[at] != window.groups.previous_pc[group])
    at, group = at[fits], group[fits]
    return np.asarray(at[np.append(True, group[1:] != group[:-1])[: len(at)]])


def _first_of_groups(
    values: NDArray[Any], each: NDArray[np.int64], row: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The first value of each group, or ``UNKNOWN_PC``. Shape (g,).

    :param each: how many values each group has.
    :param row: where they are, group by group; None: they stand in order.
    """
    found = np.full(len(each), UNKNOWN_PC, dtype=np.int64)
    some = each > 0
    first = (np.cumsum(each) - each)[some]
    found[some] = values[first if row is None else row[first]].astype(np.int64)
    return found


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
    window: Window, done: Executions, executed: NDArray[np.int64], program: Program
) -> _LastExecutions:
    some = executed > 0
    at = (np.cumsum(executed) - 1)[some]
    run = done.run[at]
    recorded = (window.returns.flags[run] & RecordFlag.BRANCH_REGISTER) != 0
    register = np.zeros(len(run), dtype=np.int64)
    told = window.records["branch_register"][window.returns.row[run[recorded]]]
    register[recorded] = told.astype(np.int64)

    def of_groups(values: NDArray[Any], nothing: Any) -> NDArray[Any]:
        if len(values) == len(some):
            return values
        found = np.full(len(some), nothing, dtype=values.dtype)
        found[some] = values
        return found

    mode = np.broadcast_to(np.int64(UNKNOWN_MODE), some.shape)
    if program.vectors is not None:
        mode = of_groups(modes_before_runs(window.records, window.before)[run], UNKNOWN_MODE)
    return _LastExecutions(
        faulted=of_groups(done.faulted[at], False),
        pc=of_groups(done.pc[at], UNKNOWN_PC),
        register=of_groups(register, 0),
        recorded=of_groups(recorded, False),
        mode=mode,
    )


def _outcomes(
    closing: _Closing,
    groups: Groups,
    executed: NDArray[np.int64],
    last: _LastExecutions,
    program: Program,
) -> NDArray[np.int64]:
    """:class:`Judged` of each group by itself.

    After an executed instruction the Software Step exception is due, and has priority over a
    breakpoint (DDI 0487, D1.3.5.5 "Synchronous exception prioritization").
    """
    ec, reported = closing.ec, closing.pc
    stepped = ec == ExceptionClass.SOFTWARE_STEP
    itself = (ec == ExceptionClass.WATCHPOINT) | (ec == ExceptionClass.BRK)
    breakpoint_hit = ec == ExceptionClass.BREAKPOINT
    stands_still = (groups.previous_pc == reported) | (groups.previous_pc == UNKNOWN_PC)
    follows = program.follows(last.pc, reported, last.register, last.recorded, last.mode)
    irq = _takes_irq(closing, groups, executed, last, program) & stepped
    cases = [
        (breakpoint_hit & (executed > 0), Judged.LOST_STEP),
        (breakpoint_hit & stands_still, Judged.OK),
        (breakpoint_hit, Judged.WRONG_PC),
        (executed >= 2, Judged.LOST_STEP),
        (irq, Judged.OK),
        (executed == 0, Judged.SPURIOUS_STEP),
        (itself & (last.pc == reported), Judged.OK),
        (stepped & follows, Judged.OK),
    ]
    outcome = np.full(len(executed), Judged.WRONG_PC, dtype=np.int64)
    for condition, judged in reversed(cases):
        np.copyto(outcome, judged, where=condition)
    return outcome


def _takes_irq(
    closing: _Closing,
    groups: Groups,
    executed: NDArray[np.int64],
    last: _LastExecutions,
    program: Program,
) -> NDArray[np.bool_]:
    """Groups that end at the vector of an IRQ that L2 could take, after one instruction at most.

    It takes a second one at the vector of the first if user space sees it there, unmasks IRQs and
    enters it again.
    """
    found = np.zeros(len(executed), dtype=bool)
    at = closing.at_vector
    elr, pc, previous = closing.elr, last.pc[at], groups.previous_pc[at]
    from_previous = (elr == previous) | (previous == UNKNOWN_PC)
    after_one = program.follows(pc, elr, last.register[at], last.recorded[at], last.mode[at])
    again = last.faulted[at] & (elr == pc)
    second = (elr == closing.stood_at) & program.is_irq_vector(closing.stood_at)
    where = np.where(executed[at] == 0, from_previous, after_one | again) | second
    found[at] = program.takes_irq(closing.pc[at], closing.spsr) & where
    return found


def _check_continuity(
    outcome: NDArray[np.int64], groups: Groups, begins: NDArray[np.int64]
) -> None:
    """L2 must go on at the PC before; if it does not, the report that named that PC is wrong.

    Where no report named it, but the job or a return for a signal, the new step is.

    :param begins: where each group goes on, or ``UNKNOWN_PC``: a phantom says it just as an
        executed instruction does. Shape (g,).
    """
    known = (begins != UNKNOWN_PC) & (groups.previous_pc != UNKNOWN_PC)
    broken = np.flatnonzero(known & (begins != groups.previous_pc))
    blamed = broken - (groups.after_report & ~groups.pc_written)[broken]
    # A report before the window was judged in the window before.
    blamed = blamed[blamed >= 0]
    blamed = blamed[outcome[blamed] == Judged.OK]
    outcome[blamed] = Judged.WRONG_PC
