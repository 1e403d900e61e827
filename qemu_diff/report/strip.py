"""The picture for a terminal: a line of characters for each kernel of each broken instruction."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from qemu_diff.compare.landmarks import GUEST_ENTRY
from qemu_diff.model import MIXED, Instruction, PlacementMap, ViolationKind
from qemu_diff.report.picture import OK, UNTRIED, Picture, broken_spans, ns_range
from qemu_diff.report.printable import printable

GLYPHS: dict[str, tuple[str, str, str]] = {
    UNTRIED: ("·", " ", "dim"),
    OK: ("░", ".", "green"),
    MIXED: ("▒", "?", "yellow"),
    ViolationKind.LOST_STEP: ("█", "#", "red"),
    ViolationKind.SPURIOUS_STEP: ("▓", "S", "magenta"),
    ViolationKind.WRONG_PC: ("▚", "W", "blue"),
    ViolationKind.SS_LEAK: ("▄", "L", "cyan"),
    ViolationKind.STATE_MISMATCH: ("▌", "M", "bright_red"),
}
"""Outcome → character, the same in ASCII, style. Of what falls into one column the last shows."""

COLUMNS = range(30, 101)
"""Columns of a line that stand for time."""

EDGES_SHOWN = 2
_RANK = {outcome: rank for rank, outcome in enumerate(GLYPHS)}
_KERNEL_WIDTH, _EDGES_WIDTH = 14, 40


def strips(picture: Picture, width: int, *, ascii_only: bool, details: bool) -> Iterator[Text]:
    """Lines for a terminal.

    :param width: its columns.
    :param details: every instruction, and not those alone that some kernel breaks.
    """
    shown = [one for one in picture.instructions if details or _is_broken(picture, one)]
    if not shown:
        return
    kernels = max(len(printable(side.kernel)[:_KERNEL_WIDTH]) for side in picture.sides)
    columns = width - kernels - _EDGES_WIDTH
    columns = min(max(columns, COLUMNS.start), COLUMNS.stop - 1)
    for instruction in shown:
        yield Text(printable(f"{instruction.label}: {instruction.text}"), style="bold")
        yield from _lines(picture, instruction, kernels, columns, ascii_only)
    end = f"{picture.last_ns:,} ns"
    yield Text(f"{'':{kernels + 2}}0{end:>{columns - 1}}", style="dim")
    if left := len(picture.instructions) - len(shown):
        others = "1 other instruction" if left == 1 else f"{left} other instructions"
        yield Text(f"{others}: ok wherever an interrupt came", style="dim")


def _is_broken(picture: Picture, instruction: Instruction) -> bool:
    maps = (side.of(instruction.address) for side in picture.sides)
    return any(one is not None and broken_spans(one) for one in maps)


def _lines(
    picture: Picture, instruction: Instruction, kernels: int, columns: int, ascii_only: bool
) -> Iterator[Text]:
    maps = [(side.kernel, side.of(instruction.address)) for side in picture.sides]
    for kernel, one in maps:
        name = printable(kernel)[:_KERNEL_WIDTH]
        line = Text(f"{name:<{kernels}} |")
        if one is None:
            yield line.append("nothing was placed here", "dim")
            continue
        for outcome in cells(one, picture.last_ns, columns):
            glyph, plain, style = GLYPHS[outcome]
            line.append(plain if ascii_only else glyph, style)
        yield line.append("| ").append(_edges(one))
    landmarks = next((one.landmarks for _, one in maps if one and one.landmarks), ())
    entries = [one.at_ns for one in landmarks if one.name == GUEST_ENTRY]
    if entries:
        yield _pointers(entries, picture.last_ns, kernels, columns)


def cells(one: PlacementMap, last_ns: int, columns: int) -> tuple[str, ...]:
    """The outcome that each column shows: the worst of all ns in it."""
    shown: list[str] = [UNTRIED] * columns
    for span in one.spans:
        first = min(span.first_ns * columns // last_ns, columns - 1)
        last = min(span.last_ns * columns // last_ns, columns - 1)
        for column in range(max(first, 0), last + 1):
            shown[column] = max(shown[column], span.outcome, key=_RANK.__getitem__)
    return tuple(shown)


def _edges(one: PlacementMap) -> str:
    broken = broken_spans(one)
    words = [f"{span.outcome} {ns_range(span)}" for span in broken[:EDGES_SHOWN]]
    more = len(broken) - EDGES_SHOWN
    return ", ".join(words) + (f", and {more} more" if more > 0 else "") or "ok"


def _pointers(entries: list[int], last_ns: int, kernels: int, columns: int) -> Text:
    """Where the guest is entered, under the bars."""
    line = [" "] * columns
    for at_ns in entries:
        line[min(at_ns * columns // last_ns, columns - 1)] = "^"
    moments = ", ".join(f"{at_ns:,}" for at_ns in entries)
    return Text(f"{'':{kernels + 2}}{''.join(line)}  guest entered at {moments}", style="dim")
