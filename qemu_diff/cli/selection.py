"""Which cells of a campaign are meant."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from rich.table import Table

from qemu_diff.campaign.plan import plan
from qemu_diff.cli.terminal import console_here
from qemu_diff.config import load_campaign
from qemu_diff.errors import UserError
from qemu_diff.model import Campaign, Cell


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


def print_cells(cells: tuple[Cell, ...]) -> None:
    table = Table()
    table.add_column("cell", overflow="fold")
    table.add_column("expected", no_wrap=True)
    table.add_column("seed", no_wrap=True)
    for cell in cells:
        table.add_row(cell.id, ", ".join(cell.expected), str(cell.seed))
    console_here().print(table)
