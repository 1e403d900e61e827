"""The truth stream cut at the marks, and its slices joined into what is judged as one step."""

from __future__ import annotations

from dataclasses import dataclass
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
    """Joined slices. Arrays have shape (g,), but ``of_run`` and ``afresh``: one entry per RUN.

    :param closed: a debug exception closes the group.
    :param stepping: stepping was on, all the time.
    :param previous_pc: see :class:`Steps`.
    :param pc_written: the job wrote it.
    :param after_report: the group begins because the one before was closed.
    :param unfinished: an instruction before the group is completed in it.
    :param afresh: between the RUN before and this one, what KVM knew of a step was taken from it:
        stepping was turned off, or on, or the vCPU was initialised again.
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
    """Where each truth record belongs. Shape (t,).

    :param run: number of the RUN record whose slice it lies in; after the last mark there is none,
        and the number is that of all RUN records.
    :param group: the group, or -1 after the last mark.
    :param served: its slice ends with MMIO that user space serves: the last instruction there is
        completed by that.
    """

    run: NDArray[np.int64]
    group: NDArray[np.int64]
    served: NDArray[np.bool_]


def group_slices(records: StepRecords) -> Groups:
    """Join each slice that no debug exception closes with the next one.

    A group also ends where the job writes PC, turns stepping off or on, or initialises the vCPU
    again: what was executed since the last report is then nobody's step. What follows is a new one,
    from where user space last saw L2.
    """
    is_run = records["kind"] == RecordKind.RUN
    runs = records[is_run]
    pc, written = _pcs_before_runs(records, is_run)
    closes = (runs["exit_reason"] == KVM_EXIT_DEBUG) & (runs["error"] == 0)
    on = (runs["flags"] & RecordFlag.STEPPING) != 0
    initialised = _last_before_runs(records["kind"] == RecordKind.VCPU_INIT, is_run) >= 0
    afresh = initialised | (_last_before_runs(stops_stepping(records), is_run) >= 0)
    afresh[1:] |= on[1:] != on[:-1]
    starts = written | afresh
    starts[:1] = True
    starts[1:] |= closes[:-1]
    first = np.flatnonzero(starts)
    last = np.append(first[1:], len(runs)) - 1 if len(first) else first
    # KVM_EXIT_MMIO: "the corresponding operations are complete (and guest state is consistent) only
    # after userspace has re-entered the kernel with KVM_RUN" (KVM API, 5).
    unfinished = _ends_with_mmio(runs)
    return Groups(
        first_run=first,
        run=last,
        of_run=np.cumsum(starts) - 1,
        closed=closes[last],
        stepping=on[first],
        previous_pc=pc[first],
        pc_written=written[first],
        after_report=_before(closes)[first],
        unfinished=_before(unfinished)[first] & ~initialised[first],
        afresh=afresh,
    )


def slice_truth(records: StepRecords, truth: TruthRecords, groups: Groups) -> Slices:
    """Cut the truth at the marks.

    :raises CorruptDataError: see :func:`judge`.
    """
    run = run_of_truth(records, truth)
    served = np.append(_ends_with_mmio(records[records["kind"] == RecordKind.RUN]), False)
    return Slices(run, np.append(groups.of_run, -1)[run].astype(np.int64), served[run])


def _ends_with_mmio(runs: StepRecords) -> NDArray[np.bool_]:
    return np.asarray((runs["exit_reason"] == KVM_EXIT_MMIO) & (runs["error"] == 0))


def run_of_truth(records: StepRecords, truth: TruthRecords) -> NDArray[np.int64]:
    """See :class:`Slices`.

    :raises CorruptDataError: see :func:`judge`.
    """
    runs = int(np.sum(records["kind"] == RecordKind.RUN))
    marks = np.flatnonzero((truth["kind"] == TruthKind.MARK) & (truth["detail"] == Mark.RETURNED))
    if len(marks) != runs:
        raise CorruptDataError(
            f"the truth holds {len(marks)} marks for {runs} returns from KVM_RUN"
        )
    return np.searchsorted(marks, np.arange(len(truth)), side="left").astype(np.int64)


def executions(
    truth: TruthRecords, phantom: NDArray[np.bool_], slices: Slices, program: Program
) -> Executions:
    """What each group executed; of repeats that count once, the last."""
    shown = np.flatnonzero((truth["kind"] == TruthKind.INSTRUCTION) & (slices.group >= 0))
    faults = exits_through(truth, VectorSlot.SYNCHRONOUS) & ~redirected(truth)
    exits = np.cumsum(faults).astype(np.int64)
    pc, group = truth["pc"].astype(np.int64), slices.group
    left = np.zeros(len(truth), dtype=bool)
    left[shown] = _exits_before_next(exits, slices, shown) > exits[shown]
    # "The MMIO instruction is emulated and should not be re-executed" (Linux arch/arm64/kvm/mmio.c)
    last_of_run = np.ones(len(shown), dtype=bool)
    last_of_run[:-1] = slices.run[shown[1:]] != slices.run[shown[:-1]]
    left[shown[last_of_run & slices.served[shown]]] = False
    row = shown[~phantom[shown]]
    faulted = left[row] & ~program.executes_once(pc[row])
    again = np.zeros(len(row), dtype=bool)
    again[:-1] = (pc[row[1:]] == pc[row[:-1]]) & (group[row[1:]] == group[row[:-1]])
    last = ~(again & faulted)
    row = row[last]
    return Executions(pc[row], group[row], slices.run[row], faulted[last])


def _exits_before_next(
    exits: NDArray[np.int64], slices: Slices, shown: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Of the running number of exits: its value at the next instruction of the same group; at the
    group's end less the one that is reported, where there is none. Shape (shown,)."""
    order = np.where(slices.group < 0, len(slices.group), slices.group)
    found = exits[np.searchsorted(order, slices.group[shown], side="right") - 1] - 1
    same = slices.group[shown[1:]] == slices.group[shown[:-1]]
    found[:-1][same] = exits[shown[1:]][same]
    return found


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


def modes_before_runs(records: StepRecords) -> NDArray[np.int64]:
    """PSTATE.M as user space knows it before each KVM_RUN, or ``UNKNOWN_MODE``. Shape (runs,)."""
    is_run = records["kind"] == RecordKind.RUN
    told = reads_of(records, REGISTER_PSTATE) | writes_of(records, REGISTER_PSTATE)
    known = is_run | told | (records["kind"] == RecordKind.VCPU_INIT)
    value = np.where(is_run, records["pstate"], records["detail"][:, 1])
    # VCPU_RESET_PSTATE_EL1 (Linux arch/arm64/kvm/reset.c)
    value[records["kind"] == RecordKind.VCPU_INIT] = PSTATE_EL1H_MASKED
    mode = np.append(value & PSTATE_MODE, 0).astype(np.int64)
    before = _before(last_of(known), -1)[is_run]
    return np.where(before < 0, UNKNOWN_MODE, mode[before])


def pcs(records: StepRecords) -> NDArray[np.int64]:
    """Where user space knows L2 to stand, after each record, or ``UNKNOWN_PC``. Shape (r,)."""
    is_run = records["kind"] == RecordKind.RUN
    initialised = records["kind"] == RecordKind.VCPU_INIT
    told = is_run | initialised | writes_of(records, REGISTER_PC)
    value = np.where(is_run, records["pc"], records["detail"][:, 1]).astype(np.int64)
    value[initialised] = UNKNOWN_PC
    return np.append(value, UNKNOWN_PC)[last_of(told)]


def moved(records: StepRecords) -> NDArray[np.bool_]:
    """RUN records that show L2 elsewhere than user space knew it before. Shape (runs,)."""
    is_run = records["kind"] == RecordKind.RUN
    pc, _ = _pcs_before_runs(records, is_run)
    return np.asarray(records["pc"][is_run].astype(np.int64) != pc)


def stops_stepping(records: StepRecords) -> NDArray[np.bool_]:
    """Records of the job's asking for no steps. Shape (r,)."""
    control = records["detail"][:, 0] & STEPPING_CONTROL
    stops = (records["kind"] == RecordKind.DEBUG_CONTROL) & (control != STEPPING_CONTROL)
    return np.asarray(stops)


def reads_of(records: StepRecords, register: int) -> NDArray[np.bool_]:
    """Records of the job's reading a register. Shape (r,)."""
    reads = records["kind"] == RecordKind.REGISTER
    return np.asarray(reads & (records["detail"][:, 0] == register))


def writes_of(records: StepRecords, register: int) -> NDArray[np.bool_]:
    """Records of the job's writing a register. Shape (r,)."""
    writes = records["kind"] == RecordKind.SET_REGISTER
    return np.asarray(writes & (records["detail"][:, 0] == register))


def forgets_step(record: np.void) -> bool:
    """Whether KVM forgets, at this record of the job's, a step that is spent."""
    one = np.array([record])
    return bool(record["kind"] == RecordKind.VCPU_INIT or stops_stepping(one)[0])


def last_of(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Index of the last chosen one up to each, itself included, or -1. Shape (n,)."""
    index = np.where(chosen, np.arange(len(chosen)), -1)
    return np.maximum.accumulate(index) if len(index) else index


def _pcs_before_runs(
    records: StepRecords, is_run: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where L2 stands before each RUN record, or ``UNKNOWN_PC``; whether the job wrote PC.

    Both have shape (runs,).
    """
    written = _last_before_runs(writes_of(records, REGISTER_PC), is_run) >= 0
    return _before(pcs(records), UNKNOWN_PC)[is_run], written


def _last_before_runs(chosen: NDArray[np.bool_], is_run: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Index of the last chosen record between the RUN before and each, or -1. Shape (runs,)."""
    last = _before(last_of(chosen), -1)[is_run]
    run_before = _before(np.flatnonzero(is_run), -1)
    return np.where(last > run_before, last, -1)


def _before(values: NDArray[Any], first: int = 0) -> NDArray[Any]:
    """Each one's predecessor. Shape (n,)."""
    return np.append(values.dtype.type(first), values[:-1]) if len(values) else values


def redirected(truth: TruthRecords) -> NDArray[np.bool_]:
    """Exits that are a taken Software Step exception, turned into an interrupt. Shape (t,)."""
    found = np.zeros(len(truth), dtype=bool)
    found[:-1] = truth["kind"][1:] == TruthKind.REDIRECT
    return np.asarray(found & exits_through(truth, VectorSlot.SYNCHRONOUS))


def exits_through(truth: TruthRecords, slot: VectorSlot) -> NDArray[np.bool_]:
    """Exits from L2 through one of EL2's vectors. Shape (t,)."""
    exits = truth["kind"] == TruthKind.EXIT
    return np.asarray(exits & ((truth["detail"] & SLOT_TYPE_MASK) == slot & SLOT_TYPE_MASK))
