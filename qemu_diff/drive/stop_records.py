"""What a debugger's user was shown of L2, in the format in which the step VMM writes its own.

So one oracle judges both: a stop is a return from KVM_RUN with a Software Step exception, and how
many records the truth held at it takes the place of the mark.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from qemu_diff.abi import (
    EC_SHIFT,
    IRQ_SLOTS,
    KVM_EXIT_DEBUG,
    STEP_RECORD,
    STEPPING_CONTROL,
    ExceptionClass,
    RecordFlag,
    RecordKind,
    StepRecords,
)
from qemu_diff.drive.debugger import SIGINT, Position, Stop
from qemu_diff.drive.lines import Raised
from qemu_diff.errors import DebuggerError

KVM_EXIT_INTR = 10
"""``kvm_run.exit_reason`` (Linux include/uapi/linux/kvm.h)."""

EINTR = 4

_VECTOR_OFFSET = 0x7FF

_Detail = tuple[int, ...]
"""Four values of 64 bits."""


class StopRecords:
    """Grows by one record at a time."""

    def __init__(self, truth_count: Callable[[], int], transcript: Sequence[str] = ()) -> None:
        """
        :param truth_count: how many records the truth holds now.
        :param transcript: what a user has been shown so far; it grows.
        """
        self._truth_count = truth_count
        self._transcript = transcript
        self._rows: list[np.void] = []
        self.returns: list[int] = []
        """Records of the truth at each stop."""
        self.shown: list[int] = []
        """Lines of the transcript before each stop."""
        self._disagreements: list[str] = []
        self.pass_number = 0
        self._first_at = self._last_at = 0.0
        self.witnessed = 0
        """Stops at which somebody else was asked where L2 stands."""
        self.stopped_on_the_way = 0
        """Steps that ended because somebody stopped L2."""

    @property
    def stepping_s(self) -> float:
        """Wall-clock seconds from the first stop to the last."""
        return self._last_at - self._first_at

    @property
    def records(self) -> StepRecords:
        """Shape (n,), dtype ``STEP_RECORD``, not numbered."""
        return np.array(self._rows, dtype=STEP_RECORD)

    def began_pass(self, number: int) -> None:
        """The next pass over the payload begins, from 0."""
        self.pass_number = number
        self._add(RecordKind.PASS, detail=(number, 0, 0, 0))

    def wrote(self, register: int, value: int) -> None:
        """A register was written.

        :param register: its KVM register id.
        """
        self._add(RecordKind.SET_REGISTER, detail=(register, value, 0, 0))

    def asked_for_steps(self, wanted: bool) -> None:
        """Stepping was turned on, or off."""
        self._add(RecordKind.DEBUG_CONTROL, detail=(STEPPING_CONTROL if wanted else 0, 0, 0, 0))

    def stopped(
        self,
        stop: Stop,
        witness: Position,
        *,
        branch_register: int | None = None,
        at_vector: tuple[int, int] | None = None,
    ) -> None:
        """A step's stop.

        :param witness: where the monitor says that L2 stands.
        :param branch_register: what a register branch, or an ERET, was about to branch to.
        :param at_vector: ELR_EL1 and SPSR_EL1, where L2 stands at an interrupt's vector.
        """
        shown = stop.position
        self.witnessed += 1
        self.stopped_on_the_way += stop.signal == SIGINT
        if shown != witness:
            at = f"at stop {len(self.returns):,}"
            said = f"the driver shows {_words(shown)}, its witness {_words(witness)}"
            self._disagreements.append(f"{at} {said}")
        flags = RecordFlag.STEPPING
        if branch_register is not None:
            flags |= RecordFlag.BRANCH_REGISTER
        if at_vector is not None:
            flags |= RecordFlag.AT_VECTOR
        row = self._return(shown, flags, (*(at_vector or (0, 0)), 0, 0))
        row["branch_register"] = branch_register or 0
        row["exit_reason"] = KVM_EXIT_DEBUG
        row["esr"] = ExceptionClass.SOFTWARE_STEP << EC_SHIFT

    def interrupted_step(self, stop: Stop) -> None:
        """A step that was stopped before its instruction.

        QEMU turns stepping off at every stop, and on again for the next step (gdbstub,
        ``gdb_vm_state_change()``): KVM forgets then what it knows of a step.
        """
        self.stopped_on_the_way += 1
        row = self._return(stop.position, RecordFlag.STEPPING | RecordFlag.EINTR)
        row["exit_reason"], row["error"] = KVM_EXIT_INTR, -EINTR
        self.asked_for_steps(wanted=False)
        self.asked_for_steps(wanted=True)

    def ran_to(self, stop: Stop) -> None:
        """L2 ran, unstepped, to a breakpoint."""
        row = self._return(stop.position, RecordFlag(0))
        row["exit_reason"] = KVM_EXIT_DEBUG
        row["esr"] = ExceptionClass.BREAKPOINT << EC_SHIFT

    def interrupted(self, raised: Iterable[Raised], counters: np.void) -> None:
        """What was sent into L2 over its lines, and what L2 counted.

        :param counters: dtype ``GUEST_COUNTERS``.
        """
        for one in raised:
            detail = (one.kind, one.sent, one.held_back, one.handled)
            self._add(RecordKind.SOURCE, detail=detail)
        names = ("sgis_sent", "sgis_handled", "spurious", "nested")
        self._add(RecordKind.GUEST, detail=tuple(int(counters[name]) for name in names))

    def check_agreement(self) -> None:
        """Both read what L1's QEMU knows of the vCPU: if they differ, a client is wrong, or QEMU.

        :raises DebuggerError: the gdbstub and the monitor showed a user different things.
        """
        if self._disagreements:
            number = len(self._disagreements)
            others = f" (and at {number - 1:,} more)" if number > 1 else ""
            raise DebuggerError(self._disagreements[0] + others)

    def _return(
        self, shown: Position, flags: RecordFlag, detail: _Detail = (0, 0, 0, 0)
    ) -> np.void:
        self._last_at = time.monotonic()
        self._first_at = self._first_at or self._last_at
        self.returns.append(self._truth_count())
        self.shown.append(len(self._transcript))
        row = self._add(RecordKind.RUN, detail=detail)
        row["pc"], row["pstate"], row["flags"] = shown.pc, shown.pstate, flags | RecordFlag.UNTIMED
        return row

    def _add(self, kind: RecordKind, detail: _Detail) -> np.void:
        row: np.void = np.zeros(1, STEP_RECORD)[0]
        row["kind"], row["iteration"], row["detail"] = kind, self.pass_number, detail
        self._rows.append(row)
        return row


def _words(position: Position) -> str:
    return f"PC {position.pc:#x} and PSTATE {position.pstate:#x}"


def at_irq_vector(pc: int) -> bool:
    """Whether an interrupt's vector may be there: the payload's lie at a multiple of 2 KiB."""
    return pc & _VECTOR_OFFSET in IRQ_SLOTS
