"""Which cells of a campaign are meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch, fnmatchcase
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from qemu_diff.campaign.plan import plan
from qemu_diff.campaign.prepare import build_name
from qemu_diff.cli.terminal import complaints_here, console_here
from qemu_diff.config import load_campaign
from qemu_diff.config.paths import is_url
from qemu_diff.config.tree_option import read_tree_option
from qemu_diff.errors import UserError
from qemu_diff.kernels import kernel_is_ready, uncommitted
from qemu_diff.kernels.pages import with_pages
from qemu_diff.model import Campaign, Cell, Estimate
from qemu_diff.report.history import estimate_sentence


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

    :raises UserError: a glob matches nothing, or an exclusion's: it is misspelt.
    """
    loaded = loaded_with_trees(campaign, overrides, trees)
    cells = plan(loaded)
    _check_exclusions(loaded, cells)
    globs = only or ["*"]
    for glob in globs:
        if not any(fnmatch(cell.id, glob) for cell in cells):
            raise UserError(f"--only {glob}: no cell of {campaign} matches; see qemu-diff list")
    chosen = (cell for cell in cells if any(fnmatch(cell.id, glob) for glob in globs))
    return loaded, tuple(chosen)


def _check_exclusions(campaign: Campaign, cells: tuple[Cell, ...]) -> None:
    for one in campaign.exclusions:
        if not any(fnmatchcase(cell.id, one.cells) for cell in cells):
            raise UserError(
                f"{one.written_at}: exclude: no cell matches {one.cells!r}; see qemu-diff list"
            )


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
    sentences = (*counted(cells), estimate_sentence(estimated), *_kernel_sentences(campaign, cells))
    for line in sentences:
        console.print(line, markup=False, soft_wrap=True)


def _kernel_sentences(campaign: Campaign, cells: tuple[Cell, ...]) -> Iterator[str]:
    """Which kernels have to be built first."""
    needed = {(cell.kernel, cell.machine.page_kib) for cell in cells if not cell.excluded}
    specs = {one.name: one for one in campaign.kernels}
    ready = {
        build_name(name, page_kib): kernel_is_ready(with_pages(specs[name], page_kib))
        for name, page_kib in sorted(needed)
    }
    if build := [name for name, there in ready.items() if there is False]:
        yield f"Kernels to be built: {', '.join(build)}"
    if unknown := [name for name, there in ready.items() if there is None]:
        yield f"Kernels of which only their source will tell: {', '.join(unknown)}"


def counted(cells: Sequence[Cell]) -> Iterator[str]:
    """How many cells there are, of which kernels, and why some are left out."""
    kernels = Counter(cell.kernel for cell in cells)
    points = len({cell.id.removeprefix(f"{cell.kernel}.") for cell in cells})
    each = ", ".join(f"{kernel} {number}" for kernel, number in kernels.items())
    yield f"{_number(len(cells), 'cell')} of {_number(points, 'point')}: {each}"
    reasons = Counter(cell.excluded for cell in cells if cell.excluded)
    for reason, number in reasons.items():
        yield f"{_number(number, 'cell')} excluded: {reason}"


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
