"""The truth stream cut at the marks, and its slices joined into what is judged as one step."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import (
    KVM_EXIT_DEBUG,
    PSTATE_EL1H_MASKED,
    REGISTER_PC,
    REGISTER_PSTATE,
    STEPPING_CONTROL,
    Mark,
    RecordFlag,
    RecordKind,
    StepRecords,
    TruthKind,
    TruthRecords,
    VectorSlot,
)
from qemu_diff.compare.decode import NO_SUCCESSOR, UNKNOWN_MODE, Program
from qemu_diff.errors import CorruptDataError

UNKNOWN_PC = NO_SUCCESSOR
"""There is no such PC."""

KVM_EXIT_MMIO = 6
"""``kvm_run.exit_reason`` (Linux include/uapi/linux/kvm.h)."""

PSTATE_MODE = 0x1F
"""PSTATE.nRW and PSTATE.M in the layout of SPSR_ELx (DDI 0487, SPSR_EL2)."""

SLOT_TYPE_MASK = 0x180
"""Bits of a vector's offset that tell synchronous, IRQ, FIQ and SError."""

NO_SLOT = 1
"""In place of these bits: no exit."""


@dataclass(frozen=True)
class Groups:
    """Joined slices. Arrays have shape (g,), but ``of_run``, ``afresh`` and ``pc_before``: these
    have one entry per RUN.

    :param closed: a debug exception closes the group.
    :param stepping: stepping was on, all the time.
    :param previous_pc: see :class:`Steps`.
    :param pc_written: the job wrote it.
    :param after_report: the group begins because the one before was closed.
    :param unfinished: an instruction before the group is completed in it.
    :param afresh: between the RUN before and this one, what KVM knew of a step was taken from it:
        stepping was turned off, or on, or the vCPU was initialised again.
    :param pc_before: where user space knows L2 to stand before each KVM_RUN, or ``UNKNOWN_PC``.
    """

    first_run: NDArray[np.int64]
    run: NDArray[np.int64]
    of_run: NDArray[np.int64]
    closed: NDArray[np.bool_]
    stepping: NDArray[np.bool_]
    previous_pc: NDArray[np.int64]
    pc_written: NDArray[np.bool_]
    after_report: NDArray[np.bool_]
    unfinished: NDArray[np.bool_]
    afresh: NDArray[np.bool_]
    pc_before: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.run)

    def first(self, number: int, runs: int) -> Groups:
        """The first so many, which are made of so many RUNs."""
        per_run = ("of_run", "afresh", "pc_before")
        return Groups(
            **{
                one.name: getattr(self, one.name)[: runs if one.name in per_run else number]
                for one in fields(self)
            }
        )


@dataclass(frozen=True)
class Executions:
    """Executed instructions, repeats collapsed: ascending in ``group``. Shape (e,).

    :param run: number of the RUN record of the slice that an instruction was executed in.
    :param faulted: a synchronous exit that is not the step exception followed, before anything else
        was executed: the instruction may have completed nothing. (A group's last such exit, with no
        instruction behind it, is the one that is reported.)
    """

    pc: NDArray[np.int64]
    group: NDArray[np.int64]
    run: NDArray[np.int64]
    faulted: NDArray[np.bool_]


@dataclass(frozen=True)
class Slices:
    """The truth, cut at the marks: one entry per RUN; what comes after the last is in none.

    :param end: index after the slice's last truth record: after its mark.
    :param group: the group, ascending.
    :param served: the slice ends with MMIO that user space serves: the last instruction there is
        completed by that.
    """

    end: NDArray[np.int64]
    group: NDArray[np.int64]
    served: NDArray[np.bool_]


@dataclass(frozen=True)
class Shown:
    """The instructions that the truth shows in slices, phantoms too. Shape (s,).

    :param row: index of the truth record.
    :param run: number of the slice's RUN record.
    :param each: how many each slice shows. Shape (runs,).
    """

    row: NDArray[np.int64]
    run: NDArray[np.int64]
    group: NDArray[np.int64]
    each: NDArray[np.int64]


@dataclass(frozen=True)
class Returns:
    """The RUN records, by column. Shape (runs,).

    :param row: index of the record.
    :param closes: a debug exception was reported.
    :param mmio: user space is to serve MMIO.
    :param stepping: stepping was on.
    """

    row: NDArray[np.int64]
    pc: NDArray[np.int64]
    flags: NDArray[np.uint32]
    closes: NDArray[np.bool_]
    mmio: NDArray[np.bool_]

    @property
    def stepping(self) -> NDArray[np.bool_]:
        return np.asarray((self.flags & RecordFlag.STEPPING) != 0)

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, part: slice) -> Returns:
        return Returns(**{one.name: getattr(self, one.name)[part] for one in fields(self)})


class TruthColumns:
    """Truth records by column, made when they are first asked for. Shape (t,)."""

    def __init__(self, truth: TruthRecords) -> None:
        self.truth = truth
        self.kind: NDArray[np.uint8] = np.ascontiguousarray(truth["kind"])

    def __len__(self) -> int:
        return len(self.kind)

    @cached_property
    def instruction(self) -> NDArray[np.bool_]:
        """Instructions, phantoms too."""
        return np.asarray(self.kind == TruthKind.INSTRUCTION)

    @cached_property
    def slot(self) -> NDArray[np.uint32]:
        """Of exits from L2 which of EL2's vectors they took; ``NO_SLOT`` of all else."""
        exits = self.kind == TruthKind.EXIT
        return np.where(exits, self.truth["detail"] & SLOT_TYPE_MASK, np.uint32(NO_SLOT))

    def exits_through(self, slot: VectorSlot) -> NDArray[np.bool_]:
        """Exits from L2 through one of EL2's vectors."""
        return np.asarray(self.slot == slot & SLOT_TYPE_MASK)

    @cached_property
    def redirect(self) -> NDArray[np.bool_]:
        """Redirects of a taken Software Step exception; the exit is the record before."""
        return np.asarray(self.kind == TruthKind.REDIRECT)

    @cached_property
    def faults(self) -> NDArray[np.bool_]:
        """Synchronous exits, but those that are a Software Step exception that was redirected."""
        found = self.exits_through(VectorSlot.SYNCHRONOUS)
        found[np.flatnonzero(self.redirect[1:])] = False
        return found


def group_slices(records: StepRecords, before: np.void | None = None) -> Groups:
    """Join each slice that no debug exception closes with the next one.

    A group also ends where the job writes PC, turns stepping off or on, or initialises the vCPU
    again: what was executed since the last report is then nobody's step. What follows is a new one,
    from where user space last saw L2.

    :param before: of a part of a boot, which begins with a group: the RUN record just before.
    """
    return group_returns(records, returns_in(records), before)


def group_returns(records: StepRecords, returns: Returns, before: np.void | None = None) -> Groups:
    """As :func:`group_slices`.

    :param returns: :func:`returns_in` these records.
    """
    run = returns.row
    kind = np.ascontiguousarray(records["kind"])
    pc, written = _pcs_before_runs(records, kind, returns, before)
    initialised = _before_runs(np.flatnonzero(kind == RecordKind.VCPU_INIT), run)
    afresh = initialised | _before_runs(np.flatnonzero(stops_stepping(records)), run)
    on, last_return = returns.stepping, None
    if before is not None:
        last_return = returns_in(np.array([before]))
    if len(run):
        afresh |= on != _before(on, on[0] if last_return is None else last_return.stepping[0])
    after_report = _before(returns.closes, last_return is not None and last_return.closes[0])
    # KVM_EXIT_MMIO: "the corresponding operations are complete (and guest state is consistent) only
    # after userspace has re-entered the kernel with KVM_RUN" (KVM API, 5).
    unfinished = _before(returns.mmio, last_return is not None and last_return.mmio[0])
    starts = written | afresh | after_report
    starts[:1] = True
    first = np.flatnonzero(starts)
    last = np.append(first[1:], len(run)) - 1 if len(first) else first
    return Groups(
        first_run=first,
        run=last,
        of_run=np.cumsum(starts) - 1,
        closed=returns.closes[last],
        stepping=on[first],
        previous_pc=pc[first],
        pc_written=written[first],
        after_report=after_report[first],
        unfinished=unfinished[first] & ~initialised[first],
        afresh=afresh,
        pc_before=pc,
    )


def slice_truth(records: StepRecords, truth: TruthRecords, groups: Groups) -> Slices:
    """Cut the truth at the marks.

    :raises CorruptDataError: see :func:`judge`.
    """
    returns, end = returns_in(records), ends_of_slices(truth)
    check_marks(len(end), len(returns))
    return Slices(end, groups.of_run, returns.mmio)


def returns_in(records: StepRecords) -> Returns:
    """The RUN records, by column."""
    row = runs_of(records)
    reason, succeeded = records["exit_reason"][row], records["error"][row] == 0
    return Returns(
        row=row,
        pc=records["pc"][row].astype(np.int64),
        flags=records["flags"][row],
        closes=(reason == KVM_EXIT_DEBUG) & succeeded,
        mmio=(reason == KVM_EXIT_MMIO) & succeeded,
    )


def runs_of(records: StepRecords) -> NDArray[np.int64]:
    """Indexes of the RUN records. Shape (runs,)."""
    return np.flatnonzero(records["kind"] == RecordKind.RUN)


def ends_of_slices(truth: TruthRecords) -> NDArray[np.int64]:
    """Indexes after the marks of returns from KVM_RUN. Shape (marks,)."""
    marks = np.flatnonzero(truth["kind"] == TruthKind.MARK)
    return np.asarray(marks[truth["detail"][marks] == Mark.RETURNED] + 1)


def check_marks(marks: int, runs: int) -> None:
    """:raises CorruptDataError: there is not one mark for each return from KVM_RUN."""
    if marks != runs:
        raise CorruptDataError(f"the truth holds {marks} marks for {runs} returns from KVM_RUN")


def run_of_truth(records: StepRecords, truth: TruthRecords) -> NDArray[np.int64]:
    """Number of the RUN record whose slice each truth record lies in; after the last mark there is
    none, and the number is that of all RUN records. Shape (t,).

    :raises CorruptDataError: see :func:`judge`.
    """
    end = ends_of_slices(truth)
    check_marks(len(end), len(runs_of(records)))
    return _part_of(len(truth), end)


def _part_of(length: int, end: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the ends are not after each index. Shape (length,).

    :param end: ascending.
    """
    return np.cumsum(np.bincount(end, minlength=length + 1)[:length])


def shown_in(truth: TruthColumns, slices: Slices) -> Shown:
    """The instructions that the truth shows."""
    each = count_by(truth.instruction, slices.end)
    upto = np.cumsum(each)
    shown = int(upto[-1]) if len(upto) else 0
    run = _part_of(shown, upto[:-1])
    return Shown(np.flatnonzero(truth.instruction)[:shown], run, slices.group[run], each)


def count_by(chosen: NDArray[np.bool_], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many are chosen before each end, and not before the one before it. Shape of ``end``.

    :param chosen: shape (t,).
    :param end: indexes, ascending.
    """
    if not chosen.any():
        return np.zeros(len(end), dtype=np.int64)
    counted = np.zeros(len(chosen) + 1, dtype=np.int32)
    np.cumsum(chosen, out=counted[1:])
    return np.diff(counted[end], prepend=np.int32(0)).astype(np.int64)


def executions(
    truth: TruthRecords, phantom: NDArray[np.bool_], slices: Slices, program: Program
) -> Executions:
    """What each group executed; of repeats that count once, the last."""
    columns = TruthColumns(truth)
    return executions_of(shown_in(columns, slices), columns, phantom, slices, program)


def executions_of(
    shown: Shown,
    truth: TruthColumns,
    phantom: NDArray[np.bool_],
    slices: Slices,
    program: Program,
) -> Executions:
    """As :func:`executions`.

    :param shown: :func:`shown_in` these slices.
    """
    left = _left_by_fault(shown, truth, slices)
    if slices.served.any():
        # "The MMIO instruction is emulated and should not be re-executed" (Linux
        # arch/arm64/kvm/mmio.c)
        last_of_run = np.append(shown.run[1:] != shown.run[:-1], True)[: len(shown.run)]
        left &= ~(last_of_run & slices.served[shown.run])
    executed = ~phantom[shown.row]
    pc = truth.truth["pc"][shown.row[executed]].astype(np.int64)
    group, run = shown.group[executed], shown.run[executed]
    faulted = left[executed]
    # Faults are few: everything else need not be looked up.
    at = np.flatnonzero(faulted)
    at = at[~program.executes_once(pc[at])]
    faulted[:] = False
    faulted[at] = True
    at = at[at < len(pc) - 1]
    again = at[(pc[at + 1] == pc[at]) & (group[at + 1] == group[at])]
    if not len(again):
        return Executions(pc, group, run, faulted)
    last = np.ones(len(pc), dtype=bool)
    last[again] = False
    return Executions(pc[last], group[last], run[last], faulted[last])


def _left_by_fault(shown: Shown, truth: TruthColumns, slices: Slices) -> NDArray[np.bool_]:
    """Instructions after which a synchronous exit that is not the step exception comes before the
    group's next; of those before the group's end the last is the one that is reported. Shape (s,).
    """
    if not len(shown.row):
        return np.zeros(0, dtype=bool)
    counted = np.cumsum(truth.faults, dtype=np.int32)
    before = counted[shown.row]
    through_next = np.append(before[1:], 0)
    last = np.append(shown.group[1:] != shown.group[:-1], True)
    end_of_group = slices.end[np.append(slices.group[1:] != slices.group[:-1], True)]
    through_next[last] = counted[end_of_group[shown.group[last]] - 1] - 1
    return np.asarray(through_next > before)


def executed_in(done: Executions, group: int) -> tuple[int, ...]:
    """The PCs that one group executed, in order."""
    begin, end = np.searchsorted(done.group, [group, group + 1])
    return tuple(int(pc) for pc in done.pc[begin:end])


def pass_of_run(records: StepRecords) -> NDArray[np.int64]:
    """The pass over the payload that each RUN record belongs to, from 0. Shape (runs,)."""
    return np.asarray(pass_of_record(records)[records["kind"] == RecordKind.RUN])


def pass_of_record(records: StepRecords) -> NDArray[np.int64]:
    """The pass that each record belongs to, from 0; -1 before the first. Shape (r,)."""
    return np.cumsum(records["kind"] == RecordKind.PASS).astype(np.int64) - 1


def modes_before_runs(records: StepRecords, before: np.void | None = None) -> NDArray[np.int64]:
    """PSTATE.M as user space knows it before each KVM_RUN, or ``UNKNOWN_MODE``. Shape (runs,).

    :param before: see :func:`group_slices`.
    """
    kind = np.ascontiguousarray(records["kind"])
    run = np.flatnonzero(kind == RecordKind.RUN)
    mode = (records["pstate"][run] & PSTATE_MODE).astype(np.int64)
    mode = _before(mode, UNKNOWN_MODE if before is None else int(before["pstate"]) & PSTATE_MODE)
    told = np.flatnonzero(
        (kind == RecordKind.REGISTER)
        | (kind == RecordKind.SET_REGISTER)
        | (kind == RecordKind.VCPU_INIT)
    )
    initialised = kind[told] == RecordKind.VCPU_INIT
    of_pstate = initialised | (records["detail"][told, 0] == REGISTER_PSTATE)
    value = (records["detail"][told, 1] & PSTATE_MODE).astype(np.int64)
    # VCPU_RESET_PSTATE_EL1 (Linux arch/arm64/kvm/reset.c)
    value[initialised] = PSTATE_EL1H_MASKED & PSTATE_MODE
    return _told_before_runs(mode, told[of_pstate], value[of_pstate], run)


def pcs(records: StepRecords) -> NDArray[np.int64]:
    """Where user space knows L2 to stand, after each record, or ``UNKNOWN_PC``. Shape (r,)."""
    is_run = records["kind"] == RecordKind.RUN
    initialised = records["kind"] == RecordKind.VCPU_INIT
    told = is_run | initialised | writes_of(records, REGISTER_PC)
    value = np.where(is_run, records["pc"], records["detail"][:, 1]).astype(np.int64)
    value[initialised] = UNKNOWN_PC
    return np.append(value, UNKNOWN_PC)[last_of(told)]


def stops_stepping(records: StepRecords) -> NDArray[np.bool_]:
    """Records of the job's asking for no steps. Shape (r,)."""
    found = np.asarray(records["kind"] == RecordKind.DEBUG_CONTROL)
    asked = np.flatnonzero(found)
    found[asked] = records["detail"][asked, 0] & STEPPING_CONTROL != STEPPING_CONTROL
    return found


def reads_of(records: StepRecords, register: int) -> NDArray[np.bool_]:
    """Records of the job's reading a register. Shape (r,)."""
    return _of_register(records, RecordKind.REGISTER, register)


def writes_of(records: StepRecords, register: int) -> NDArray[np.bool_]:
    """Records of the job's writing a register. Shape (r,)."""
    return _of_register(records, RecordKind.SET_REGISTER, register)


def _of_register(records: StepRecords, kind: RecordKind, register: int) -> NDArray[np.bool_]:
    found = np.asarray(records["kind"] == kind)
    some = np.flatnonzero(found)
    found[some] = records["detail"][some, 0] == register
    return found


def forgets_step(record: np.void) -> bool:
    """Whether KVM forgets, at this record of the job's, a step that is spent."""
    one = np.array([record])
    return bool(record["kind"] == RecordKind.VCPU_INIT or stops_stepping(one)[0])


def last_of(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Index of the last chosen one up to each, itself included, or -1. Shape (n,)."""
    index = np.where(chosen, np.arange(len(chosen)), -1)
    return np.maximum.accumulate(index) if len(index) else index


def _pcs_before_runs(
    records: StepRecords,
    kind: NDArray[np.uint16],
    returns: Returns,
    before: np.void | None,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where L2 stands before each RUN record, or ``UNKNOWN_PC``; whether the job wrote PC.

    Both have shape (runs,).
    """
    run = returns.row
    pc = _before(returns.pc, UNKNOWN_PC if before is None else before["pc"].astype(np.int64))
    writes = writes_of(records, REGISTER_PC)
    told = np.flatnonzero(writes | (kind == RecordKind.VCPU_INIT))
    value = np.where(writes[told], records["detail"][told, 1].astype(np.int64), UNKNOWN_PC)
    written = _before_runs(np.flatnonzero(writes), run)
    return _told_before_runs(pc, told, value, run), written


def _before_runs(rows: NDArray[np.int64], run: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether any of these records lies between the RUN before and each. Shape (runs,)."""
    found = np.zeros(len(run) + 1, dtype=bool)
    found[np.searchsorted(run, rows)] = True
    return found[:-1]


def _told_before_runs(
    known: NDArray[np.int64],
    rows: NDArray[np.int64],
    value: NDArray[np.int64],
    run: NDArray[np.int64],
) -> NDArray[np.int64]:
    """What is known before each KVM_RUN, if these records, ascending, tell something else after the
    RUN before: of several the last. Shape (runs,)."""
    found = np.append(known, 0)
    found[np.searchsorted(run, rows)] = value
    return found[:-1]


def _before(values: NDArray[Any], first: Any) -> NDArray[Any]:
    """Each one's predecessor. Shape (n,)."""
    return np.append(values.dtype.type(first), values[:-1]) if len(values) else values
