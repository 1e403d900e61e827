"""Which cells of a campaign are meant."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from qemu_diff.campaign.plan import plan
from qemu_diff.cli.terminal import complaints_here, console_here
from qemu_diff.config import load_campaign
from qemu_diff.config.paths import is_url
from qemu_diff.config.tree_option import read_tree_option
from qemu_diff.errors import UserError
from qemu_diff.kernels import uncommitted
from qemu_diff.model import Campaign, Cell


@dataclass(frozen=True)
class TreeChoice:
    """Other sources for a campaign's kernels.

    Parameters
    ----------
    tree
        [NAME=]PATH_OR_URL[@REV]: a git repository, and the revision to build in place of what the
        campaign says of the kernel NAME; without NAME: of `candidate`, or the first pair's
        candidate, or the only kernel; without REV: HEAD. May be given several times.
    dirty
        Take the directories of --tree as they are, uncommitted changes and all.
    """

    tree: list[str] | None = None
    dirty: bool = False


TreeOptions = Annotated[TreeChoice, Parameter(name="*")]
AS_CAMPAIGN = TreeChoice()


def loaded_with_trees(campaign: Path, overrides: list[str] | None, trees: TreeChoice) -> Campaign:
    """A campaign; what of the trees is not tested is said on stderr.

    :raises UserError: the campaign or an option is wrong.
    """
    if trees.dirty and not trees.tree:
        raise UserError("--dirty: goes with --tree, the directory to be taken as it is")
    options = [read_tree_option(text, dirty=trees.dirty) for text in trees.tree or ()]
    loaded = load_campaign(campaign, overrides or (), trees=options)
    for option in options:
        if option.dirty or option.rev or is_url(option.repository):
            continue
        if uncommitted(Path(option.repository)):
            said = "has uncommitted changes, which are not tested; --dirty takes them"
            complaints_here().print(f"qemu-diff: {option.repository} {said}")
    return loaded


def selected(
    campaign: Path,
    only: list[str] | None,
    overrides: list[str] | None,
    trees: TreeChoice = AS_CAMPAIGN,
) -> tuple[Campaign, tuple[Cell, ...]]:
    """The cells that any of the globs matches; all where there is none.

    :raises UserError: a glob matches nothing: it is misspelt.
    """
    loaded = loaded_with_trees(campaign, overrides, trees)
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
