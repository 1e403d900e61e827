"""The result for people: a table, then sentences, then one broken step in full."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qemu_diff.model import CampaignResult, Cell, CellResult, CellVerdict, PairOutcome, PairResult
from qemu_diff.report.costs import CostTable, cost_table
from qemu_diff.report.matrix import NOTHING, Entry, Matrix, matrix
from qemu_diff.report.picture import Picture, pictures
from qemu_diff.report.printable import printable
from qemu_diff.report.strip import GLYPHS, strips
from qemu_diff.report.words import (
    cell_sentences,
    closing_sentence,
    expectation_sentence,
    finding_lines,
    side_by_side_lines,
)

VERDICT_STYLE = {
    CellVerdict.PASS: "green",
    CellVerdict.FAIL: "red",
    CellVerdict.HANG: "red",
    CellVerdict.KERNEL_OOPS: "red",
    CellVerdict.LOST: "yellow",
    CellVerdict.SKIPPED: "dim",
}
OUTCOME_STYLE = {
    PairOutcome.SAME: "green",
    PairOutcome.FIXED: "bold green",
    PairOutcome.REGRESSED: "bold red",
    PairOutcome.BOTH_FAIL: "red",
    PairOutcome.DIFFERENT: "bold red",
    PairOutcome.ONE_FAILS: "yellow",
    PairOutcome.INCONCLUSIVE: "yellow",
}


DETAILED_CELLS = 40
"""A result of more cells is a table first: sentences about all of them nobody reads."""


def print_result(result: CampaignResult, console: Console, *, details: bool = False) -> None:
    """Print the result: all of it, or where it is large the table, and what is not as expected.

    :param details: all of it, however large.
    """
    if details or len(result.cells) <= DETAILED_CELLS:
        _print_details(result, console, details)
    else:
        print_matrix(matrix(result), result.name, console)
        for one in result.cells:
            if one.verdict is not CellVerdict.SKIPPED and not one.as_expected:
                console.print(Text(one.cell.id, style="bold"))
                _print_sentences(one, console)
    _print_costs(cost_table(result), console)
    for cell in result.cells:
        if sentence := expectation_sentence(cell):
            console.print(Text(f"✗ {printable(sentence)}", style="bold red"))
    for kernel in result.provenance.kernels:
        if kernel.source:
            words = f"kernel {kernel.name}: {kernel.release}, {kernel.source}"
            console.print(Text(printable(words), style="dim"))
    console.print()
    console.print(Text(closing_sentence(result), style=f"bold {_closing_colour(result)}"))


def print_matrix(table: Matrix, name: str, console: Console) -> None:
    """Print the table of scenario, order and kernel."""
    shown = Table(title=Text(name), title_justify="left", show_lines=True)
    shown.add_column("scenario, machine, order", overflow="fold")
    for kernel in table.kernels:
        shown.add_column(Text(kernel), overflow="fold")
    for row in table.rows:
        where = Text.assemble((row.scenario, "bold"), f"\n{row.machine}, {row.order}")
        shown.add_row(where, *(_entry_text(entry) for entry in row.entries))
    console.print(shown)


def _entry_text(entry: Entry | None) -> Text:
    if entry is None:
        return Text(NOTHING, style="dim")
    first, *others = entry.lines
    style = "bold red" if not entry.as_expected else "green" if first == "pass" else "yellow"
    return Text.assemble((first, style), *(f"\n{line}" for line in others))


def _print_costs(table: CostTable, console: Console) -> None:
    """What steps cost, where several kernels can be compared."""
    if len(table.kernels) < 2 or not table.rows:
        return
    title = Text("L1 instructions per step, without a flood")
    shown = Table(title=title, title_justify="left")
    shown.add_column("class", overflow="fold")
    for kernel in table.kernels:
        shown.add_column(Text(kernel), justify="right")
    for row in table.rows:
        costs = (NOTHING if one is None else f"{one:,}" for one in row.costs)
        shown.add_row(f"{row.kvm_mode}: {', '.join(row.classes)}", *costs)
    console.print(shown)


def _print_details(result: CampaignResult, console: Console, details: bool) -> None:
    console.print(_table(result))
    drawn = {picture.name: picture for picture in pictures(result)}
    for pair in result.pairs:
        _print_pair(pair, result, console)
        if pair.baseline.kernel != pair.candidate.kernel:
            kernels = pair.baseline.kernel, pair.candidate.kernel
            _print_strips(drawn.get(_point(pair.candidate)), kernels, console, details)
    paired = {cell.id for pair in result.pairs for cell in (pair.baseline, pair.candidate)}
    for cell in result.cells:
        if cell.cell.id not in paired:
            _print_sentences(cell, console)
            picture = drawn.get(_point(cell.cell))
            _print_strips(picture, (cell.cell.kernel,), console, details)


def _closing_colour(result: CampaignResult) -> str:
    alarming = any(pair.alarming for pair in result.pairs)
    if alarming or any(expectation_sentence(cell) for cell in result.cells):
        return "red"
    return "green" if result.complete else "yellow"


def _table(result: CampaignResult) -> Table:
    number = len(result.cells)
    title = Text(f"{result.name}: {number} {'cell' if number == 1 else 'cells'}")
    table = Table(title=title, title_justify="left")
    table.add_column("cell", overflow="fold")
    table.add_column("verdict")
    table.add_column("as expected")
    for name in ("steps", "count", "violations", "s"):
        table.add_column(name, justify="right")
    for cell in result.cells:
        table.add_row(
            Text(cell.cell.id),
            Text(cell.verdict.value, style=VERDICT_STYLE[cell.verdict]),
            _as_expected(cell),
            f"{cell.steps:,}",
            f"{cell.counted_steps:,}",
            f"{sum(number for _, number in cell.violations):,}",
            f"{cell.duration_s:.1f}",
        )
    return table


def _as_expected(cell: CellResult) -> Text:
    if cell.verdict is CellVerdict.SKIPPED:
        return Text("-", style="dim")
    return Text("yes", style="green") if cell.as_expected else Text("NO", style="bold red")


def _print_pair(pair: PairResult, result: CampaignResult, console: Console) -> None:
    console.print()
    console.print(
        Text.assemble(
            (_point(pair.candidate), "bold"), ": ",
            (pair.outcome.value, OUTCOME_STYLE[pair.outcome]),
            f"   ({' → '.join(pair.sides)})",
        )
    )  # fmt: skip
    by_id = {cell.cell.id: cell for cell in result.cells}
    sides = [by_id[one.id] for one in (pair.baseline, pair.candidate)]
    for side in sides:
        _print_sentences(side, console)
    if found := [finding for side in sides for finding in side.findings]:
        # The clearest first: one that an interrupt of ours made.
        clearest = min(found, key=lambda finding: finding.attributed_to != "placement")
        console.print()
        for line in finding_lines(clearest):
            console.print(Text(f"    {line}"))
    if pair.side_by_side:
        console.print()
        for line in side_by_side_lines(pair.side_by_side, *pair.sides):
            console.print(Text(f"    {line}"))


def _print_sentences(cell: CellResult, console: Console) -> None:
    for sentence in cell_sentences(cell):
        console.print(Text(f"  • {printable(sentence)}"))


def _point(cell: Cell) -> str:
    return cell.id.removeprefix(f"{cell.kernel}.")


def _print_strips(
    picture: Picture | None, kernels: tuple[str, ...], console: Console, details: bool
) -> None:
    """The picture of these kernels, the baseline above the candidate; nothing if there is none."""
    if picture is None:
        return
    sides = tuple(side for kernel in kernels for side in picture.sides if side.kernel == kernel)
    shown = Picture(picture.name, sides)
    lines = strips(shown, console.width - 4, ascii_only=_ascii_only(console), details=details)
    for number, line in enumerate(lines):
        if not number:
            console.print()
        console.print(Text("    ").append_text(line), no_wrap=True, crop=False, overflow="ignore")


def _ascii_only(console: Console) -> bool:
    """Whether the terminal lacks a character that bars are made of."""
    try:
        "".join(glyph for glyph, _, _ in GLYPHS.values()).encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return True
    return False
