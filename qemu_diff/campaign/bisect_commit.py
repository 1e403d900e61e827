"""One commit of a bisection, from its source to what its cells show."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from qemu_diff.campaign.bisect_verdict import Shown, shown_by
from qemu_diff.campaign.executor import local
from qemu_diff.campaign.prepare import Places, Prepared, prepare
from qemu_diff.campaign.runner import run_campaign
from qemu_diff.compare.signature import grouped
from qemu_diff.errors import InfrastructureError, UserError
from qemu_diff.kernels import OF_THE_COMMIT
from qemu_diff.model import Campaign, Cell, CellResult, GitSource, KernelSpec
from qemu_diff.report.results import CELLS, VerdictsFile
from qemu_diff.report.words import cell_sentences


@dataclass(frozen=True)
class TriedCommit:
    """What came of one commit.

    :param shown: of each cell; empty where no cell was run.
    :param trouble: the commit's own, for which no cell was run; empty: there is none.
    :param mendable: that trouble would be the user's to mend, if every commit had it.
    :param build_s: wall-clock seconds until its cells could be run.
    :param run_s: wall-clock seconds of its cells.
    """

    shown: tuple[Shown, ...] = ()
    trouble: str = ""
    mendable: bool = False
    build_s: float = 0.0
    run_s: float = 0.0

    @property
    def sentences(self) -> tuple[str, ...]:
        """What its cells showed, for people."""
        return tuple(line for one in self.shown for line in cell_sentences(one.result))


@dataclass(frozen=True)
class CommitBench:
    """What all commits of a bisection have in common.

    :param kernel: the campaign's kernel, whose source each commit takes the place of.
    :param repository: as :class:`GitSource` has it.
    :param cells: the campaign's, of that kernel.
    :param places: ``cells`` of it is not used: each commit has its own.
    :param jobs: boots side by side.
    """

    campaign: Campaign
    kernel: KernelSpec
    repository: str
    cells: tuple[Cell, ...]
    places: Places
    jobs: int

    def try_commit(self, sha: str, cells: tuple[str, ...], directory: Path) -> TriedCommit:
        """Build a commit and run its cells.

        :param cells: ids; empty: all.
        :param directory: gets its results; what is there goes.
        :raises KeyboardInterrupt: the user called it off.
        :raises QemuDiffError: it is not this commit's matter.
        """
        _clear(directory)
        # What can't be had is the commit's matter, even of a kernel that other runs may lack.
        source = GitSource(self.repository, sha)
        spec = replace(self.kernel, source=source, optional=False)
        campaign = replace(self.campaign, kernels=(spec,), pairs=())
        chosen = [cell for cell in self.cells if not cells or cell.id in cells]
        places = replace(self.places, cells=directory / CELLS)
        began = time.monotonic()
        try:
            prepared = prepare(campaign, chosen, places)
        except OF_THE_COMMIT as error:
            took_s = time.monotonic() - began
            return TriedCommit((), str(error), isinstance(error, UserError), took_s)
        built = time.monotonic()
        if spec.name in prepared.kernels.broken:
            trouble = prepared.kernels.broken[spec.name]
            return TriedCommit(trouble=trouble, build_s=built - began)
        publish = VerdictsFile(directory).write
        result = run_campaign(
            campaign, chosen, places, prepared, executor=local(self.jobs), publish=publish
        )
        if not result.complete:
            raise KeyboardInterrupt
        shown = tuple(_shown(one, prepared) for one in result.cells)
        run_s = time.monotonic() - built
        return TriedCommit(shown, build_s=built - began, run_s=run_s)


def _clear(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise InfrastructureError(f"{directory}: {error.strerror}") from error


def _shown(result: CellResult, prepared: Prepared) -> Shown:
    """Signatures are part of a result where findings are confirmed, and made here where not."""
    if result.signatures or not result.breakdown:
        return shown_by(result, result.signatures)
    return shown_by(result, grouped(result, prepared.payload_of(result.cell)))
