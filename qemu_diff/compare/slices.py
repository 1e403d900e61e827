"""The truth stream cut at the marks, and its slices joined into what is judged as one step."""

from __future__ import annotations

from dataclasses import dataclass, fields
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
    """

    row: NDArray[np.int64]
    run: NDArray[np.int64]
    group: NDArray[np.int64]


def group_slices(records: StepRecords, before: np.void | None = None) -> Groups:
    """Join each slice that no debug exception closes with the next one.

    A group also ends where the job writes PC, turns stepping off or on, or initialises the vCPU
    again: what was executed since the last report is then nobody's step. What follows is a new one,
    from where user space last saw L2.

    :param before: of a part of a boot, which begins with a group: the RUN record just before.
    """
    kind = np.ascontiguousarray(records["kind"])
    run = np.flatnonzero(kind == RecordKind.RUN)
    pc, written = _pcs_before_runs(records, kind, run, before)
    closes, on = closes_group(records, run), is_stepping(records, run)
    initialised = _before_runs(np.flatnonzero(kind == RecordKind.VCPU_INIT), run)
    afresh = initialised | _before_runs(np.flatnonzero(stops_stepping(records)), run)
    if len(run):
        was_on = on[0] if before is None else is_stepping(before)
        afresh |= on != _before(on, was_on)
    after_report = _before(closes, before is not None and closes_group(before))
    starts = written | afresh | after_report
    starts[:1] = True
    first = np.flatnonzero(starts)
    last = np.append(first[1:], len(run)) - 1 if len(first) else first
    # KVM_EXIT_MMIO: "the corresponding operations are complete (and guest state is consistent) only
    # after userspace has re-entered the kernel with KVM_RUN" (KVM API, 5).
    unfinished = _before(
        ends_with_mmio(records, run), before is not None and ends_with_mmio(before)
    )
    return Groups(
        first_run=first,
        run=last,
        of_run=np.cumsum(starts) - 1,
        closed=closes[last],
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
    run, end = runs_of(records), ends_of_slices(truth)
    check_marks(len(end), len(run))
    return Slices(end, groups.of_run, ends_with_mmio(records, run))


def runs_of(records: StepRecords) -> NDArray[np.int64]:
    """Indexes of the RUN records. Shape (runs,)."""
    return np.flatnonzero(records["kind"] == RecordKind.RUN)


def ends_of_slices(truth: TruthRecords) -> NDArray[np.int64]:
    """Indexes after the marks of returns from KVM_RUN. Shape (marks,)."""
    marks = (truth["kind"] == TruthKind.MARK) & (truth["detail"] == Mark.RETURNED)
    return np.flatnonzero(marks) + 1


def check_marks(marks: int, runs: int) -> None:
    """:raises CorruptDataError: there is not one mark for each return from KVM_RUN."""
    if marks != runs:
        raise CorruptDataError(f"the truth holds {marks} marks for {runs} returns from KVM_RUN")


def closes_group(records: Any, run: Any = ...) -> Any:
    """Whether RUN records show a debug exception.

    :param records: shape (r,), or one record.
    :param run: indexes of the RUN records.
    """
    return (records["exit_reason"][run] == KVM_EXIT_DEBUG) & (records["error"][run] == 0)


def ends_with_mmio(records: Any, run: Any = ...) -> Any:
    """Whether RUN records show MMIO that user space is to serve; see :func:`closes_group`."""
    return (records["exit_reason"][run] == KVM_EXIT_MMIO) & (records["error"][run] == 0)


def is_stepping(records: Any, run: Any = ...) -> Any:
    """Whether stepping was on in RUN records; see :func:`closes_group`."""
    return (records["flags"][run] & RecordFlag.STEPPING) != 0


def run_of_truth(records: StepRecords, truth: TruthRecords) -> NDArray[np.int64]:
    """Number of the RUN record whose slice each truth record lies in; after the last mark there is
    none, and the number is that of all RUN records. Shape (t,).

    :raises CorruptDataError: see :func:`judge`.
    """
    end = ends_of_slices(truth)
    check_marks(len(end), len(runs_of(records)))
    lengths = np.diff(end, prepend=0, append=len(truth))
    return np.repeat(np.arange(len(end) + 1), lengths)


def shown_in(truth: TruthRecords, slices: Slices) -> Shown:
    """The instructions that the truth shows."""
    instruction = truth["kind"] == TruthKind.INSTRUCTION
    each = count_by(instruction, slices.end)
    run = np.repeat(np.arange(len(slices.end)), each)
    return Shown(np.flatnonzero(instruction)[: len(run)], run, slices.group[run])


def count_by(chosen: NDArray[np.bool_], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many are chosen before each end, and not before the one before it. Shape of ``end``.

    :param chosen: shape (t,).
    :param end: indexes, ascending.
    """
    if not len(end):
        return end
    begin = np.append(0, end[:-1])
    # reduceat gives an element, not 0, where there is none between two indexes.
    padded = np.append(chosen, False)
    counted = np.add.reduceat(padded, np.append(begin, end[-1]), dtype=np.int64)[:-1]
    return np.where(begin < end, counted, 0)


def executions(
    truth: TruthRecords, phantom: NDArray[np.bool_], slices: Slices, program: Program
) -> Executions:
    """What each group executed; of repeats that count once, the last."""
    return executions_of(shown_in(truth, slices), truth, phantom, slices, program)


def executions_of(
    shown: Shown,
    truth: TruthRecords,
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
    pc = truth["pc"][shown.row[executed]].astype(np.int64)
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


def _left_by_fault(shown: Shown, truth: TruthRecords, slices: Slices) -> NDArray[np.bool_]:
    """Instructions after which a synchronous exit that is not the step exception comes before the
    group's next; of those before the group's end the last is the one that is reported. Shape (s,).
    """
    if not len(shown.row):
        return np.zeros(0, dtype=bool)
    faults = exits_through(truth, VectorSlot.SYNCHRONOUS) & ~redirected(truth)
    end_of_group = slices.end[np.append(slices.group[1:] != slices.group[:-1], True)]
    last = np.append(shown.group[1:] != shown.group[:-1], True)
    until = np.append(shown.row[1:], 0)
    until[last] = end_of_group[shown.group[last]]
    counted = np.cumsum(faults, dtype=np.int32)
    return np.asarray(counted[until - 1] - counted[shown.row] > last)


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
    run: NDArray[np.int64],
    before: np.void | None,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where L2 stands before each RUN record, or ``UNKNOWN_PC``; whether the job wrote PC.

    Both have shape (runs,).
    """
    pc = records["pc"][run].astype(np.int64)
    pc = _before(pc, UNKNOWN_PC if before is None else before["pc"].astype(np.int64))
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


def redirected(truth: TruthRecords) -> NDArray[np.bool_]:
    """Exits that are a taken Software Step exception, turned into an interrupt. Shape (t,)."""
    found = np.zeros(len(truth), dtype=bool)
    exit_before = np.flatnonzero(truth["kind"][1:] == TruthKind.REDIRECT)
    found[exit_before] = exits_through(truth[exit_before], VectorSlot.SYNCHRONOUS)
    return found


def exits_through(truth: TruthRecords, slot: VectorSlot) -> NDArray[np.bool_]:
    """Exits from L2 through one of EL2's vectors. Shape (t,)."""
    exits = truth["kind"] == TruthKind.EXIT
    return np.asarray(exits & ((truth["detail"] & SLOT_TYPE_MASK) == slot & SLOT_TYPE_MASK))
