"""The sequence of a boot as plain text."""

from __future__ import annotations

from qemu_diff.abi import StepState
from qemu_diff.compare.sequence import Event, SequenceRow
from qemu_diff.model import Instruction
from qemu_diff.report.sequence import render

MRS = Instruction(0x5A5A_0004, "trapped_read", "mrs x0, id_aa64pfr0_el1")
NOP = Instruction(0x5A5A_0008, "trapped_read+0x4", "nop")

ROWS = (
    SequenceRow(9, Event.JOB, note="set pstate 0x2003c5"),
    SequenceRow(9, Event.ENTRY, MRS, StepState.ACTIVE_NOT_PENDING),
    SequenceRow(9, Event.EXIT, NOP, StepState.ACTIVE_PENDING, certain=False, note="IRQ"),
    SequenceRow(9, Event.ENTRY, NOP, StepState.INACTIVE),
    SequenceRow(10, Event.RETURN, NOP, pstate_ss=0, note="EINTR"),
)


def test_events_are_lines_in_columns() -> None:
    assert render(ROWS) == [
        "report  event   PC          instruction                            step state"
        "          PSTATE.SS  note",
        "9       job                                                                  "
        "                     set pstate 0x2003c5",
        "9       entry   0x5a5a0004  trapped_read: mrs x0, id_aa64pfr0_el1  Active-not-pending",
        "9       exit    0x5a5a0008  trapped_read+0x4: nop                  Active-pending?   "
        "             IRQ",
        "9       entry   0x5a5a0008  trapped_read+0x4: nop                  Inactive",
        "10      return  0x5a5a0008  trapped_read+0x4: nop                                    "
        "  0          EINTR",
    ]


def test_nothing_is_a_heading() -> None:
    assert len(render(())) == 1
