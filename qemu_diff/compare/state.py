"""State rules: what user space reads of PSTATE.SS and of the debug registers is the guest's own.

KVM steps a guest with the guest's own PSTATE.SS and MDSCR_EL1, and gives it hardware breakpoints in
the guest's own DBGB*/DBGW*. What the guest holds there has to survive that. Linux kernel commit
34fbdee086cf ("KVM: arm64: Preserve PSTATE.SS for the guest while single-step is enabled") (in v6.1)
saves PSTATE.SS at every entry and restores it at every exit; MDSCR_EL1 is kept the same way, and
host breakpoints have registers of their own (``external_debug_state``).

A register's own value is what the job wrote last; before any write, what it read first, if nothing
had run by then. It is unknown after whatever may change it by right: ``EXEMPTIONS``. Each time that
user space reads a register whose own value is known, the two are compared. Beside that, a job may
say of any register what it must show (``expect``).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import (
    EC_SHIFT,
    KVM_EXIT_DEBUG,
    PSTATE_SS,
    REGISTER_MDSCR_EL1,
    REGISTER_PSTATE,
    ExceptionClass,
    ReadKind,
    RecordFlag,
    RecordKind,
    StepRecords,
    TruthKind,
    TruthRecords,
    system_register,
)
from qemu_diff.compare.decode import BRK, ERET, SVC, UNDEFINED, Program
from qemu_diff.compare.slices import (
    last_of,
    pcs,
    reads_of,
    run_of_truth,
    stops_stepping,
    writes_of,
)
from qemu_diff.model import ViolationKind

BREAKPOINTS = 16
"""The most that ID_AA64DFR0_EL1.BRPs and .WRPs can say (DDI 0487, ID_AA64DFR0_EL1)."""


def _debug_registers() -> dict[int, str]:
    names = {4: "DBGBVR", 5: "DBGBCR", 6: "DBGWVR", 7: "DBGWCR"}
    return {
        system_register(2, 0, 0, number, op2): f"{name}{number}_EL1"
        for op2, name in names.items()
        for number in range(BREAKPOINTS)
    }


REGISTERS = {
    REGISTER_PSTATE: "PSTATE.SS",
    REGISTER_MDSCR_EL1: "MDSCR_EL1",
    **_debug_registers(),
}
"""KVM register id → what is held against its own value. Of PSTATE, it is SS alone."""

RESET = {REGISTER_PSTATE: 0, REGISTER_MDSCR_EL1: 0}
"""What KVM_ARM_VCPU_INIT makes of them (Linux arch/arm64/kvm/reset.c, VCPU_RESET_PSTATE_EL1;
sys_regs.c, MDSCR_EL1); the others are architecturally UNKNOWN at reset."""


@dataclass(frozen=True)
class Exemption:
    """A class of instructions whose execution may change PSTATE.SS by right.

    :param name: of the class.
    :param unless_reported: exception class; a KVM_RUN that ends with it took that exception out of
        L2, so that L2's PSTATE did not change.
    :param source: why.
    """

    name: str
    source: str
    unless_reported: int | None = None


EXEMPTIONS = (
    Exemption(
        ERET,
        "PSTATE.SS comes from SPSR_EL1.SS or is cleared "
        "(DDI 0487, pseudocode of SetPSTATEFromPSR() and DebugExceptionReturnSS())",
    ),
    Exemption(SVC, "an exception clears it (DDI 0487, pseudocode of AArch64.TakeException())"),
    Exemption(UNDEFINED, "likewise"),
    Exemption(
        BRK,
        "likewise, where MDCR_EL2.TDE does not take it to EL2",
        unless_reported=ExceptionClass.BRK,
    ),
)
"""What is not here is no excuse: ``kvm_skip_instr()`` clears PSTATE.SS when an instruction was
emulated (Linux arch/arm64/kvm/hyp/include/hyp/adjust_pc.h, "advance the singlestep state machine"),
but while the host steps, that state machine is the host's, and 34fbdee086cf keeps the guest's own
PSTATE.SS out of it.

Beside these, by :func:`_forgets_ss`: L2 at one of its own vectors has taken an exception, and
without stepping all that L2 executes is its own affair."""

VECTOR_BYTES = 0x80
VECTORS_BYTES = 0x800


@dataclass(frozen=True)
class StateReads:
    """Every read of a register whose own value is known, of one boot or several; shape (n,).

    :param record: int64: the record that holds what was read.
    :param run: int64: RUN records up to it, itself included, less one: the last report's number.
    :param pc: int64: where L2 stood for user space, or ``UNKNOWN_PC``.
    :param register: int64: KVM register id: a key of ``REGISTERS``, or any that a job expects.
    :param read: uint64: what user space read.
    :param own: uint64: what it had to be.
    :param origin: int64: the record that the own value comes from.
    :param stepping: bool: stepping was on.
    """

    record: NDArray[np.int64]
    run: NDArray[np.int64]
    pc: NDArray[np.int64]
    register: NDArray[np.int64]
    read: NDArray[np.uint64]
    own: NDArray[np.uint64]
    origin: NDArray[np.int64]
    stepping: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.record)

    @property
    def broken(self) -> NDArray[np.bool_]:
        """Which showed something else than the register's own value. Shape (n,)."""
        return np.asarray(self.read != self.own)

    @property
    def as_job_expects(self) -> NDArray[np.bool_]:
        """Of which the job says what they must show: the whole register. Shape (n,)."""
        return np.asarray(self.origin == self.record)

    def kinds(self, some: NDArray[np.bool_] | slice) -> list[ViolationKind]:
        """What each of some reads is, if it is wrong: a leak, where no other bit of PSTATE is."""
        ss = np.where(self.as_job_expects[some], PSTATE_SS, 1).astype(np.uint64)
        alone = (self.read[some] ^ self.own[some]) & ~ss == 0
        return [
            ViolationKind.SS_LEAK if leak else ViolationKind.STATE_MISMATCH
            for leak in ((self.register[some] == REGISTER_PSTATE) & alone).tolist()
        ]


_NONE = np.zeros(0, dtype=np.int64)
_NO_VALUES = np.zeros(0, dtype=np.uint64)
NO_READS = StateReads(
    _NONE, _NONE, _NONE, _NONE, _NO_VALUES, _NO_VALUES, _NONE, np.zeros(0, dtype=bool)
)


def join_reads(parts: list[StateReads]) -> StateReads:
    """Several parts as one, in their order."""
    return StateReads(
        **{
            one.name: np.concatenate([getattr(part, one.name) for part in parts])
            for one in fields(StateReads)
        }
    )


def state_reads(
    records: StepRecords, truth: TruthRecords, phantom: NDArray[np.bool_], program: Program
) -> StateReads:
    """Hold every read of a register against the register's own value.

    :param records: shape (r,), dtype ``STEP_RECORD``.
    :param truth: shape (t,), dtype ``TRUTH_RECORD``.
    :param phantom: shape (t,): truth records of instructions that did not execute.
    :returns: in order of the records, of each register by itself.
    :raises CorruptDataError: the truth does not hold one mark for each return from KVM_RUN.
    """
    ran = _ran(records, truth, phantom)
    asked = records["detail"][records["kind"] == RecordKind.REGISTER, 0].tolist()
    read = [register for register in REGISTERS if register in {REGISTER_PSTATE, *asked}]
    return join_reads(
        [_reads_of(register, records, ran, program) for register in read]
        + [_expected_reads(records)]
    )


def _expected_reads(records: StepRecords) -> StateReads:
    """Reads of which the job itself says what they must show, whatever the register."""
    asked = records["kind"] == RecordKind.REGISTER
    record = np.flatnonzero(asked & (records["detail"][:, 2] == ReadKind.EXPECTED))
    detail = records["detail"][record]
    return StateReads(
        record=record,
        run=(np.cumsum(records["kind"] == RecordKind.RUN) - 1)[record],
        pc=pcs(records)[record],
        register=detail[:, 0].astype(np.int64),
        read=detail[:, 1],
        own=detail[:, 3],
        origin=record,
        stepping=_stepping(records)[record],
    )


@dataclass(frozen=True)
class _Ran:
    """Instructions that the truth shows. Shape (e,).

    :param run: number of the RUN record.
    :param executed: False for phantoms.
    """

    pc: NDArray[np.int64]
    run: NDArray[np.int64]
    executed: NDArray[np.bool_]


def _ran(records: StepRecords, truth: TruthRecords, phantom: NDArray[np.bool_]) -> _Ran:
    run = run_of_truth(records, truth)
    runs = int(np.sum(records["kind"] == RecordKind.RUN))
    rows = np.flatnonzero((truth["kind"] == TruthKind.INSTRUCTION) & (run < runs))
    return _Ran(truth["pc"][rows].astype(np.int64), run[rows], ~phantom[rows])


def _reads_of(register: int, records: StepRecords, ran: _Ran, program: Program) -> StateReads:
    is_run = records["kind"] == RecordKind.RUN
    is_ss = register == REGISTER_PSTATE
    value = _values(register, records)
    known = _known(register, records)
    forgets = (records["kind"] == RecordKind.VCPU_INIT) & (register not in RESET)
    forgotten = _forgets_ss if is_ss else _forgets_register
    forgets[is_run] |= forgotten(register, records[is_run], ran, program)
    known |= _first_read(register, records, known | forgets)
    origin = last_of(known | forgets)
    shown = (reads_of(records, register) & ~known) | (is_run & is_ss)
    told = shown & (origin >= 0) & known[origin]
    if is_ss:
        told &= ~((value[origin] != 0) & (last_of(_squashes(records)) > origin))
    record = np.flatnonzero(told)
    return StateReads(
        record=record,
        run=(np.cumsum(is_run) - 1)[record],
        pc=pcs(records)[record],
        register=np.full(len(record), register, dtype=np.int64),
        read=value[record],
        own=value[origin[record]],
        origin=origin[record],
        stepping=_stepping(records)[record],
    )


def _values(register: int, records: StepRecords) -> NDArray[np.uint64]:
    """What each record says about the register, if it says anything. Shape (r,)."""
    is_run = records["kind"] == RecordKind.RUN
    value = np.where(is_run, records["pstate"], records["detail"][:, 1])
    if register == REGISTER_PSTATE:
        value = (value & PSTATE_SS != 0).astype(np.uint64)
    value[records["kind"] == RecordKind.VCPU_INIT] = RESET.get(register, 0)
    return value


def _known(register: int, records: StepRecords) -> NDArray[np.bool_]:
    """Records that give the register its own value. Shape (r,)."""
    reset = (records["kind"] == RecordKind.VCPU_INIT) & (register in RESET)
    return np.asarray(writes_of(records, register) | reset)


def _first_read(register: int, records: StepRecords, told: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The read that tells the value that was there from the first, if there is one. Shape (r,)."""
    found = reads_of(records, register)
    later = told | (records["kind"] == RecordKind.RUN) | found
    found[np.flatnonzero(later)[1:]] = False
    return found


def _forgets_ss(_: int, runs: StepRecords, ran: _Ran, program: Program) -> NDArray[np.bool_]:
    """RUN records after which PSTATE.SS may be another by right. Shape (runs,)."""
    changes = ~_is_stepping(runs)[ran.run]
    for one in EXEMPTIONS:
        changes |= program.is_of(ran.pc, one.name) & ~_ends_with(runs, one.unless_reported)[ran.run]
    changes = ran.executed & (changes | ~program.holds(ran.pc))
    changes |= _at_vector(ran.pc, program)
    found = np.bincount(ran.run[changes], minlength=len(runs)) > 0
    return np.asarray(found | _at_vector(runs["pc"].astype(np.int64), program))


def _forgets_register(
    register: int, runs: StepRecords, ran: _Ran, program: Program
) -> NDArray[np.bool_]:
    """RUN records in which L2 may have written the register. Shape (runs,)."""
    written = program.writes_to(ran.pc, register) | ~program.holds(ran.pc)
    return np.bincount(ran.run[ran.executed & written], minlength=len(runs)) > 0


def _ends_with(runs: StepRecords, exception: int | None) -> NDArray[np.bool_]:
    """RUN records that report this exception class. Shape (runs,)."""
    debug = (runs["exit_reason"] == KVM_EXIT_DEBUG) & (runs["error"] == 0)
    return np.asarray(debug & (runs["esr"].astype(np.int64) >> EC_SHIFT == exception))


def _at_vector(pc: NDArray[np.int64], program: Program) -> NDArray[np.bool_]:
    """Which PCs are one of L2's own exception vectors. Shape (n,)."""
    found = np.zeros(len(pc), dtype=bool)
    for base in program.vector_bases:
        inside = (pc >= base) & (pc < base + VECTORS_BYTES)
        found |= inside & ((pc - base) % VECTOR_BYTES == 0)
    return found


def _squashes(records: StepRecords) -> NDArray[np.bool_]:
    """RUN records that may have entered L2 without stepping. Shape (r,).

    The exception return to L2 then clears PSTATE.SS, even if nothing is executed: software step is
    not active there (DDI 0487, pseudocode of DebugExceptionReturnSS()). Only a 1 can get lost by
    this.
    """
    enters = (records["kind"] == RecordKind.RUN) & ~_is_stepping(records)
    return np.asarray(enters & ((records["flags"] & RecordFlag.KICKED) == 0))


def _is_stepping(runs: StepRecords) -> NDArray[np.bool_]:
    return np.asarray((runs["flags"] & RecordFlag.STEPPING) != 0)


def _stepping(records: StepRecords) -> NDArray[np.bool_]:
    """Whether stepping was on at each record. Shape (r,)."""
    asked = last_of(records["kind"] == RecordKind.DEBUG_CONTROL)
    on = np.append(~stops_stepping(records), False)[asked]
    return np.where(records["kind"] == RecordKind.RUN, _is_stepping(records), on)
