"""Which cells of a campaign are meant."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from rich.table import Table
from rich.text import Text

from qemu_diff.campaign.estimate import Estimate
from qemu_diff.campaign.plan import plan
from qemu_diff.cli.terminal import console_here
from qemu_diff.config import load_campaign
from qemu_diff.errors import UserError
from qemu_diff.kernels import kernel_is_ready
from qemu_diff.model import Campaign, Cell
from qemu_diff.report.history import estimate_sentence


def selected(
    campaign: Path, only: list[str] | None, overrides: list[str] | None
) -> tuple[Campaign, tuple[Cell, ...]]:
    """The cells that any of the globs matches; all where there is none.

    :raises UserError: a glob matches nothing: it is misspelt.
    """
    loaded = load_campaign(campaign, overrides or ())
    cells = plan(loaded)
    globs = only or ["*"]
    for glob in globs:
        if not any(fnmatch(cell.id, glob) for cell in cells):
            raise UserError(f"--only {glob}: no cell of {campaign} matches; see qemu-diff list")
    chosen = (cell for cell in cells if any(fnmatch(cell.id, glob) for glob in globs))
    return loaded, tuple(chosen)


def print_cells(campaign: Campaign, cells: tuple[Cell, ...], estimated: Estimate) -> None:
    """The cells, what is expected of each, and how long all of it will take."""
    table = Table()
    table.add_column("cell", overflow="fold")
    table.add_column("expected", overflow="fold")
    table.add_column("seed", no_wrap=True)
    table.add_column("s", no_wrap=True, justify="right")
    for cell in cells:
        expected = f"excluded: {cell.excluded}" if cell.excluded else ", ".join(cell.expected)
        seconds = estimated.cells.get(cell.id)
        shown = "" if seconds is None else f"{seconds:.1f}"
        table.add_row(Text(cell.id), Text(expected), str(cell.seed), shown)
    console = console_here()
    console.print(table)
    for line in (estimate_sentence(estimated), *_kernel_sentences(campaign, cells)):
        console.print(line, markup=False, soft_wrap=True)


def _kernel_sentences(campaign: Campaign, cells: tuple[Cell, ...]) -> Iterator[str]:
    """Which kernels have to be built first."""
    needed = {cell.kernel for cell in cells if not cell.excluded}
    ready = {one.name: kernel_is_ready(one) for one in campaign.kernels if one.name in needed}
    if build := [name for name, there in ready.items() if there is False]:
        yield f"Kernels to be built: {', '.join(build)}"
    if unknown := [name for name, there in ready.items() if there is None]:
        yield f"Kernels of which only their source will tell: {', '.join(unknown)}"
