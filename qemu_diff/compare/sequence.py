"""What happened in a stretch of one boot, in order, with the software step state at every border.

The truth shows what L2 executed and through which vector it left, the records what user space did
and saw. The software step state (DDI 0487, D2.12.3) is inferred:

- at an entry: a phantom shows Active-pending; an instruction that executes, Active-not-pending; an
  exit at once shows nothing, and the state is taken to be what the exit before had left, or the
  emulation of the instruction that trapped;
- at an exit: after an instruction that completed, Active-pending; after one that trapped or
  faulted, Active-not-pending. HVC has completed when its exception is taken; a trapped SMC, MRS or
  WFI, or a load that aborts, has not: its preferred return address is its own (DDI 0487, D1.3).

Without stepping it is Inactive. Where QEMU lets the plugin read registers, the truth itself says
what it is at an instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum, auto

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import (
    EC_SHIFT,
    KVM_EXIT_DEBUG,
    PSTATE_SS,
    REGISTER_PC,
    REGISTER_PSTATE,
    DebugControl,
    ExceptionClass,
    RecordFlag,
    RecordKind,
    StepState,
    TruthKind,
    TruthRecords,
    VectorSlot,
)
from qemu_diff.compare.decode import BRK, HVC, Program
from qemu_diff.compare.returns import return_name
from qemu_diff.compare.slices import (
    SLOT_TYPE_MASK,
    forgets_step,
    group_slices,
    pass_of_run,
    run_of_truth,
)
from qemu_diff.compare.state import REGISTERS
from qemu_diff.model import Instruction
from qemu_diff.trace.listing import Listing
from qemu_diff.trace.trace import Trace


class Event(StrEnum):
    """What a row of the sequence is."""

    JOB = "job"
    """User space does something."""
    ENTRY = "entry"
    """L2 is entered."""
    EXECUTE = "execute"
    """L2 executes an instruction."""
    EXIT = "exit"
    """L2 is left through one of EL2's vectors."""
    REDIRECT = "redirect"
    """A Software Step exception is turned into an interrupt."""
    RETURN = "return"
    """KVM_RUN returns."""


@dataclass(frozen=True)
class SequenceRow:
    """One event.

    :param report: number of the return from KVM_RUN that it belongs to, or that comes after it.
    :param instruction: where L2 stands, as far as that is known.
    :param state: ``UNKNOWN`` where the event has none.
    :param certain: whether the truth shows the state.
    :param pstate_ss: of a return: PSTATE.SS as user space reads it.
    :param note: what else there is to say.
    """

    report: int
    event: Event
    instruction: Instruction | None = None
    state: StepState = StepState.UNKNOWN
    certain: bool = True
    pstate_ss: int | None = None
    note: str = ""


NEVER_TRAPS = frozenset({"alu", "nop", "barrier"})
"""Classes that complete whenever they execute. So does what executes once, but for BRK."""

SYNCHRONOUS = VectorSlot.SYNCHRONOUS & SLOT_TYPE_MASK
EXIT_NAMES = {
    SYNCHRONOUS: "synchronous",
    VectorSlot.IRQ & SLOT_TYPE_MASK: "IRQ",
    VectorSlot.FIQ & SLOT_TYPE_MASK: "FIQ",
    VectorSlot.SERROR & SLOT_TYPE_MASK: "SError",
}


def sequence(
    trace: Trace, program: Program, listing: Listing, first: int, last: int
) -> tuple[SequenceRow, ...]:
    """What happened from the return before report ``first`` to report ``last``.

    :param first: number of a return from KVM_RUN, from 0; ``last`` likewise, and included.
    :raises CorruptDataError: reports and truth don't belong together.
    """
    groups = group_slices(trace.records)
    if not 0 <= first <= last < len(groups.of_run):
        return ()
    begin = int(groups.first_run[groups.of_run[first]])
    found = _Sequencer(trace, program, listing).rows(begin, last)
    return tuple(row for row in found if row.report >= first)


def sequence_of_step(
    trace: Trace, program: Program, listing: Listing, report: int
) -> tuple[SequenceRow, ...]:
    """What happened for one report: of all the KVM_RUNs that are judged as one step.

    :raises CorruptDataError: reports and truth don't belong together.
    """
    groups = group_slices(trace.records)
    if not 0 <= report < len(groups.of_run):
        return ()
    first = int(groups.first_run[groups.of_run[report]])
    return sequence(trace, program, listing, first, report)


def sequence_of_pass(
    trace: Trace, program: Program, listing: Listing, number: int
) -> tuple[SequenceRow, ...]:
    """What happened in one pass over the payload; of a pass that the boot does not have, nothing.

    :raises CorruptDataError: reports and truth don't belong together.
    """
    inside = np.flatnonzero(pass_of_run(trace.records) == number)
    if not len(inside):
        return ()
    return sequence(trace, program, listing, int(inside[0]), int(inside[-1]))


# --- stays in L2 ---------------------------------------------------------------------------------


class _Left(Enum):
    """How a stay in L2 ended."""

    AT_ONCE = auto()
    """Nothing was executed, or would have been."""
    COMPLETE = auto()
    """By an interrupt, after an instruction."""
    STEP = auto()
    """By the Software Step exception."""
    CALL = auto()
    """By an HVC."""
    TRAP = auto()
    """By an instruction that did not complete."""


@dataclass(frozen=True)
class _Shown:
    """An instruction that the truth shows."""

    pc: int
    phantom: bool
    step_state: StepState


@dataclass
class _Stay:
    """L2 from an entry to an exit.

    :param slot: the exit's type, a key of ``EXIT_NAMES``; None if the truth shows no exit.
    :param redirected: the exit was a step exception, which a stub turned into an interrupt.
    :param redirected_to: the type of the exit that the stub made of it.
    :param stands_at: the next PC that is known after it.
    """

    shown: list[_Shown] = field(default_factory=list)
    slot: int | None = None
    redirected: bool = False
    redirected_to: int | None = None
    stands_at: int = 0

    @property
    def begins_at(self) -> int:
        return self.shown[0].pc if self.shown else self.stands_at


def _stays(truth: TruthRecords, phantom: NDArray[np.bool_], returned_pc: int) -> list[_Stay]:
    """The stays of one KVM_RUN.

    :param returned_pc: where user space sees L2 at last.
    """
    found = [_Stay()]
    for record, is_phantom in zip(truth, phantom.tolist(), strict=True):
        if record["kind"] == TruthKind.INSTRUCTION:
            if found[-1].slot is not None:
                found.append(_Stay())
            state = StepState(int(record["step_state"]))
            found[-1].shown.append(_Shown(int(record["pc"]), is_phantom, state))
        elif record["kind"] == TruthKind.REDIRECT:
            found[-1].redirected = found[-1].slot == SYNCHRONOUS
        elif record["kind"] == TruthKind.EXIT:
            _leave(found, int(record["detail"]) & SLOT_TYPE_MASK)
    stands_at = returned_pc
    for stay in reversed(found):
        stay.stands_at = stands_at
        stands_at = stay.begins_at
    return [stay for stay in found if stay.shown or stay.slot is not None]


def _leave(stays: list[_Stay], slot: int) -> None:
    """An exit: of the stay that goes on, of the step exception's stub, or at once."""
    if stays[-1].slot is None:
        stays[-1].slot = slot
    elif stays[-1].redirected and stays[-1].redirected_to is None:
        stays[-1].redirected_to = slot
    else:
        stays.append(_Stay(slot=slot))


class _Sequencer:
    def __init__(self, trace: Trace, program: Program, listing: Listing) -> None:
        self._trace = trace
        self._program = program
        self._listing = listing
        self._run_of_truth = run_of_truth(trace.records, trace.truth)
        self._runs = np.flatnonzero(trace.records["kind"] == RecordKind.RUN)
        self._left = StepState.ACTIVE_NOT_PENDING
        """What the last exit left; where a step begins, what KVM makes of it."""

    def rows(self, first: int, last: int) -> Iterator[SequenceRow]:
        """Of all KVM_RUNs from ``first`` to ``last``, and what the job did before each."""
        begin = int(self._runs[first - 1]) + 1 if first else 0
        number = first
        for record in self._trace.records[begin : int(self._runs[last]) + 1]:
            if record["kind"] == RecordKind.RUN:
                yield from self._kvm_run(number, record)
                number += 1
            else:
                yield self._job(number, record)

    def _job(self, number: int, record: np.void) -> SequenceRow:
        if forgets_step(record):
            self._left = StepState.ACTIVE_NOT_PENDING
        register, value = (int(one) for one in record["detail"][:2])
        moves = record["kind"] == RecordKind.SET_REGISTER and register == REGISTER_PC
        at = self._listing.instruction(value) if moves else None
        return SequenceRow(number, Event.JOB, at, note=job_words(record))

    def _kvm_run(self, number: int, run: np.void) -> Iterator[SequenceRow]:
        begin, end = np.searchsorted(self._run_of_truth, [number, number + 1])
        stays = _stays(self._trace.truth[begin:end], self._trace.phantom[begin:end], int(run["pc"]))
        for stay in stays:
            yield from self._stay(number, stay, run, is_last=stay is stays[-1])
        if run["exit_reason"] == KVM_EXIT_DEBUG and run["error"] == 0:
            self._left = StepState.ACTIVE_NOT_PENDING
        yield SequenceRow(
            number,
            Event.RETURN,
            self._listing.instruction(int(run["pc"])),
            pstate_ss=int(bool(int(run["pstate"]) & PSTATE_SS)),
            note=_return_words(run),
        )

    def _stay(
        self, number: int, stay: _Stay, run: np.void, *, is_last: bool
    ) -> Iterator[SequenceRow]:
        stepping = bool(run["flags"] & RecordFlag.STEPPING)
        how = self._how_left(stay, _reported(run) if is_last else None)
        state, certain = self._entered_in(stay, stepping, how)
        begins_at = self._listing.instruction(stay.begins_at)
        yield SequenceRow(number, Event.ENTRY, begins_at, state, certain)
        for one in stay.shown:
            if not one.phantom:
                at = self._listing.instruction(one.pc)
                yield SequenceRow(number, Event.EXECUTE, at, _executed_in(one, stepping))
        if stay.slot is None:
            return
        if how is not _Left.AT_ONCE:
            state, certain = _STATE_LEFT[how] if stepping else StepState.INACTIVE, True
        if stepping:
            self._left = StepState.ACTIVE_PENDING if _is_emulated(stay, how) else state
        at = self._listing.instruction(stay.shown[-1].pc if how is _Left.TRAP else stay.stands_at)
        left = SequenceRow(number, Event.EXIT, at, state, certain)
        # Without stepping no exception is a step's: a breakpoint's, say, which the return names.
        named = how if stepping or how is not _Left.STEP else _Left.COMPLETE
        yield replace(left, note=_exit_words(stay.slot, named))
        if stay.redirected:
            yield replace(left, event=Event.REDIRECT, note="to the IRQ vector")
        if stay.redirected_to is not None:
            yield replace(left, note=EXIT_NAMES[stay.redirected_to])

    def _how_left(self, stay: _Stay, reported: int | None) -> _Left:
        """:param reported: the exception class that KVM_RUN then reports, if it does."""
        reports = reported == ExceptionClass.SOFTWARE_STEP
        if stay.redirected or (stay.shown and stay.shown[-1].phantom):
            return _Left.STEP
        if stay.slot != SYNCHRONOUS:
            return _Left.COMPLETE if stay.shown else _Left.AT_ONCE
        if not stay.shown:
            return _Left.STEP if reports else _Left.AT_ONCE
        if reported in (ExceptionClass.BRK, ExceptionClass.WATCHPOINT):
            return _Left.TRAP
        return self._how_executed(stay.shown[-1].pc, reports=reports)

    def _how_executed(self, pc: int, *, reports: bool) -> _Left:
        """A synchronous exit after the instruction at ``pc``."""
        here = np.array([pc], dtype=np.uint64).astype(np.int64)
        if self._program.is_of(here, HVC)[0]:
            return _Left.CALL
        if self._program.is_of(here, BRK)[0]:
            return _Left.TRAP
        completes = any(self._program.is_of(here, name)[0] for name in NEVER_TRAPS)
        return _Left.STEP if completes or reports or self._once(here) else _Left.TRAP

    def _once(self, here: NDArray[np.int64]) -> bool:
        return bool(self._program.executes_once(here)[0])

    def _entered_in(self, stay: _Stay, stepping: bool, how: _Left) -> tuple[StepState, bool]:
        """The state at the entry, and whether the truth shows it."""
        if stay.shown and stay.shown[0].step_state is not StepState.UNKNOWN:
            return stay.shown[0].step_state, True
        if stay.shown and stay.shown[0].phantom:
            return StepState.ACTIVE_PENDING, True
        if not stepping:
            return StepState.INACTIVE, True
        if stay.shown:
            return StepState.ACTIVE_NOT_PENDING, True
        if how is _Left.STEP:
            return StepState.ACTIVE_PENDING, True
        return self._left, False


_STATE_LEFT = {
    _Left.COMPLETE: StepState.ACTIVE_PENDING,
    _Left.STEP: StepState.ACTIVE_PENDING,
    _Left.CALL: StepState.ACTIVE_PENDING,
    _Left.TRAP: StepState.ACTIVE_NOT_PENDING,
}

_LEFT_WORDS = {
    _Left.STEP: "Software Step exception",
    _Left.CALL: "HVC, which has completed",
    _Left.TRAP: "a trap or fault, not completed",
}


def _is_emulated(stay: _Stay, how: _Left) -> bool:
    """Whether KVM skips the instruction that trapped; then it clears PSTATE.SS, too (Linux
    arch/arm64/kvm/hyp/include/hyp/adjust_pc.h, kvm_skip_instr())."""
    return how is _Left.TRAP and stay.stands_at != stay.shown[-1].pc


def _exit_words(slot: int, how: _Left) -> str:
    words = _LEFT_WORDS.get(how, "")
    return f"{EXIT_NAMES[slot]}: {words}" if words else EXIT_NAMES[slot]


def _executed_in(one: _Shown, stepping: bool) -> StepState:
    if one.step_state is not StepState.UNKNOWN:
        return one.step_state
    return StepState.ACTIVE_NOT_PENDING if stepping else StepState.INACTIVE


def _reported(run: np.void) -> int | None:
    """The exception class of a debug exit; None of any other return."""
    debug = run["exit_reason"] == KVM_EXIT_DEBUG and run["error"] == 0
    return int(run["esr"]) >> EC_SHIFT if debug else None


# --- words ---------------------------------------------------------------------------------------


def _return_words(run: np.void) -> str:
    kicked = " (immediate_exit)" if run["flags"] & RecordFlag.KICKED else ""
    unstepped = "" if run["flags"] & RecordFlag.STEPPING else ", not stepping"
    return f"{return_name(run)}{kicked}{unstepped}"


def job_words(record: np.void) -> str:
    """What the job did, in one phrase.

    :param record: dtype ``STEP_RECORD``, of any kind but RUN.
    """
    first, second, third = (int(one) for one in record["detail"][:3])
    words: dict[int, Callable[[], str]] = {
        RecordKind.SET_REGISTER: lambda: f"set {_register(first)} {second:#x}",
        RecordKind.REGISTER: lambda: f"read {_register(first)}: {second:#x}",
        RecordKind.DEBUG_CONTROL: lambda: _debug_words(first, second, third),
        RecordKind.PASS: lambda: f"pass {first}",
        RecordKind.VCPU_INIT: lambda: "KVM_ARM_VCPU_INIT",
        RecordKind.WRITE: lambda: f"write {first:#x}: {second:#010x} becomes {third:#010x}",
        RecordKind.UNMAP: lambda: "take the memory slot away and give it back",
    }
    kind = int(record["kind"])
    return words[kind]() if kind in words else f"record of kind {kind}"


def _register(register: int) -> str:
    names = {**REGISTERS, REGISTER_PC: "pc", REGISTER_PSTATE: "pstate"}
    return names.get(register, f"register {register:#x}")


def _debug_words(control: int, address: int, breakpoint_control: int) -> str:
    flags = [one.name or "" for one in DebugControl if control & one]
    beside = f", DBGBVR0 {address:#x}, DBGBCR0 {breakpoint_control:#x}"
    return f"debug {'|'.join(flags) or 'off'}{beside if control & DebugControl.USE_HW else ''}"
