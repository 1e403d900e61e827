"""The three PC columns of one pass: what each kernel reported, and what L2 really executed."""

from __future__ import annotations

from dataclasses import dataclass

from qemu_diff.compare.pair import PassOfSteps, stops
from qemu_diff.model import Instruction
from qemu_diff.trace.listing import Listing

MOST_ROWS = 64
"""A pass may be a loop of thousands; what matters lies around the broken step."""


@dataclass(frozen=True)
class Column:
    """One kernel's reports: for each row, whether a stop was reported there."""

    kernel: str
    stops: tuple[bool, ...]


@dataclass(frozen=True)
class Columns:
    """One pass, in the order in which L2 executed.

    :param truth: what was executed, and where the pass ended.
    :param kernels: baseline and candidate; or the one kernel that there is.
    """

    truth: tuple[Instruction, ...]
    kernels: tuple[Column, ...]


def columns(
    truth: PassOfSteps, reports: list[tuple[str, PassOfSteps]], around: int, listing: Listing
) -> Columns:
    """The columns of a pass.

    :param truth: the pass of the boot that was found to be wrong.
    :param reports: (kernel, the same pass as it reported it).
    :param around: the PC to show where the pass is long.
    """
    reported = [stops(truth.executed, one.reported) for _, one in reports]
    here = [index for index, pc in enumerate(truth.executed) if pc == around]
    wrong = [index for index in here if not all(column[index] for column in reported)]
    centre = (wrong or here or [0])[0]
    first = max(0, min(centre - MOST_ROWS // 2, len(truth.executed) - MOST_ROWS))
    shown = slice(first, first + MOST_ROWS)
    return Columns(
        tuple(listing.instruction(pc) for pc in truth.executed[shown]),
        tuple(
            Column(kernel, tuple(column[shown]))
            for (kernel, _), column in zip(reports, reported, strict=True)
        ),
    )


def column_lines(shown: Columns) -> list[str]:
    """The columns as text: a dash where no stop was reported."""
    names = [column.kernel for column in shown.kernels]
    width = max(10, *map(len, names))
    lines = ["  ".join(f"{name:<{width}}" for name in names) + "  L2 executed"]
    for index, one in enumerate(shown.truth):
        stopped = [f"{one.address:#x}" if column.stops[index] else "-" for column in shown.kernels]
        text = f"{one.address:#x}  {one.label}: {one.text}"
        if index == len(shown.truth) - 1:
            text = f"{one.address:#x}  {one.label} (the pass ends here)"
        lines.append("  ".join(f"{stop:<{width}}" for stop in stopped) + f"  {text}")
    return lines
