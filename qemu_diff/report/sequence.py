"""The sequence of a stretch of one boot as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from qemu_diff.abi import StepState
from qemu_diff.compare.sequence import SequenceRow
from qemu_diff.model import Instruction

STATE_NAMES = {
    StepState.UNKNOWN: "",
    StepState.INACTIVE: "Inactive",
    StepState.ACTIVE_NOT_PENDING: "Active-not-pending",
    StepState.ACTIVE_PENDING: "Active-pending",
}

HEADINGS = ("report", "event", "PC", "instruction", "step state", "PSTATE.SS", "note")


def render(rows: Sequence[SequenceRow]) -> list[str]:
    """A heading, then a line for each event, in columns.

    A state that ends in ``?`` is not shown by the truth, but what the exit before had left.
    """
    cells = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _cells(row: SequenceRow) -> tuple[str, ...]:
    state = STATE_NAMES[row.state]
    return (
        str(row.report),
        row.event.value,
        f"{row.instruction.address:#x}" if row.instruction else "",
        _named(row.instruction) if row.instruction else "",
        state if row.certain else f"{state}?",
        "" if row.pstate_ss is None else str(row.pstate_ss),
        row.note,
    )


def _named(instruction: Instruction) -> str:
    return f"{instruction.label}: {instruction.text}"
