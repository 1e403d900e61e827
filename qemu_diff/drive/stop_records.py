"""What a debugger's user was shown of L2, in the format in which the step VMM writes its own.

So one oracle judges both: a stop is a return from KVM_RUN with a Software Step exception, and how
many records the truth held at it takes the place of the mark.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qemu_diff.abi import (
    KVM_EXIT_DEBUG,
    STEP_RECORD,
    DebugControl,
    ExceptionClass,
    RecordFlag,
    RecordKind,
    StepRecords,
)
from qemu_diff.drive.debugger import SIGINT, Position, Stop
from qemu_diff.errors import DebuggerError

KVM_EXIT_INTR = 10
"""``kvm_run.exit_reason`` (Linux include/uapi/linux/kvm.h)."""

EINTR = 4

EC_SHIFT = 26

STEPPING = int(DebugControl.ENABLE | DebugControl.SINGLESTEP)

_IRQ_SLOTS = (0x280, 0x480)
"""Offsets of an IRQ's vectors from VBAR_EL1: from EL1 with SP_EL1, from EL0 (DDI 0487, D1.4.2)."""

_VECTOR_OFFSET = 0x7FF


class StopRecords:
    """Grows by one record at a time."""

    def __init__(self, truth_count: Callable[[], int]) -> None:
        """
        :param truth_count: how many records the truth holds now.
        """
        self._truth_count = truth_count
        self._rows: list[np.void] = []
        self.returns: list[int] = []
        """Records of the truth at each stop."""
        self._disagreements: list[str] = []
        self.pass_number = 0

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
        self._add(RecordKind.DEBUG_CONTROL, detail=(STEPPING if wanted else 0, 0, 0, 0))

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
        if shown != witness:
            at = f"at stop {len(self.returns):,}"
            said = f"the gdbstub shows {_words(shown)}, the monitor {_words(witness)}"
            self._disagreements.append(f"{at} {said}")
        flags = RecordFlag.STEPPING
        if branch_register is not None:
            flags |= RecordFlag.BRANCH_REGISTER
        if at_vector is not None:
            flags |= RecordFlag.AT_VECTOR
        self._return(
            shown,
            flags,
            interrupted=stop.signal == SIGINT,
            exception=ExceptionClass.SOFTWARE_STEP,
            branch_register=branch_register or 0,
            detail=(*(at_vector or (0, 0)), 0, 0),
        )

    def ran_to(self, stop: Stop) -> None:
        """L2 ran, unstepped, to a breakpoint."""
        self._return(
            stop.position,
            RecordFlag(0),
            interrupted=False,
            exception=ExceptionClass.BREAKPOINT,
        )

    def check_agreement(self) -> None:
        """Both read what L1's QEMU knows of the vCPU: if they differ, a client is wrong, or QEMU.

        :raises DebuggerError: the gdbstub and the monitor showed a user different things.
        """
        if self._disagreements:
            number = len(self._disagreements)
            others = f" (and at {number - 1:,} more)" if number > 1 else ""
            raise DebuggerError(self._disagreements[0] + others)

    def _return(
        self,
        shown: Position,
        flags: RecordFlag,
        *,
        interrupted: bool,
        exception: ExceptionClass,
        branch_register: int = 0,
        detail: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> None:
        self.returns.append(self._truth_count())
        row = self._add(RecordKind.RUN, detail=detail)
        row["pc"], row["pstate"] = shown.pc, shown.pstate
        row["branch_register"] = branch_register
        if interrupted:
            flags |= RecordFlag.EINTR
            row["exit_reason"], row["error"] = KVM_EXIT_INTR, -EINTR
        else:
            row["exit_reason"], row["esr"] = KVM_EXIT_DEBUG, exception << EC_SHIFT
        row["flags"] = flags | RecordFlag.UNTIMED

    def _add(self, kind: RecordKind, detail: tuple[int, int, int, int]) -> np.void:
        row: np.void = np.zeros(1, STEP_RECORD)[0]
        row["kind"], row["iteration"], row["detail"] = kind, self.pass_number, detail
        self._rows.append(row)
        return row


def _words(position: Position) -> str:
    return f"PC {position.pc:#x} and PSTATE {position.pstate:#x}"


def at_irq_vector(pc: int) -> bool:
    """Whether an interrupt's vector may be there: the payload's lie at a multiple of 2 KiB."""
    return pc & _VECTOR_OFFSET in _IRQ_SLOTS
