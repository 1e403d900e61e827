"""How a run begins: from nothing, or with what a run before it has left behind."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from qemu_diff.errors import ResultsError
from qemu_diff.model import CampaignResult, Cell, CellResult
from qemu_diff.report.results import CELLS, FINDINGS


@dataclass(frozen=True)
class Start:
    """What a run begins with.

    :param run: see :class:`CampaignResult`; so are ``started`` and ``only``.
    :param identities: cell id → identity.
    :param finished: cell id → a result that stays.
    """

    run: str = ""
    started: str = ""
    only: tuple[str, ...] = ()
    identities: Mapping[str, str] = field(default_factory=dict)
    finished: Mapping[str, CellResult] = field(default_factory=dict)


NOTHING_DONE = Start()


def new_start(only: Sequence[str], identities: Mapping[str, str]) -> Start:
    """A run that begins now, with nothing."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Start(uuid.uuid4().hex, now, tuple(only), identities)


def resumed_start(
    earlier: CampaignResult,
    cells: Sequence[Cell],
    only: Sequence[str],
    identities: Mapping[str, str],
    directory: Path,
) -> Start:
    """A run that goes on where ``earlier`` was cut off.

    What was judged stays judged where nothing has changed that it depends on, and all that it left
    is there; it is held against what the campaign expects today.

    :param directory: the earlier run's results.
    """
    results = {one.cell.id: one for one in earlier.cells}
    finished = {
        cell.id: replace(results[cell.id], cell=cell)
        for cell in cells
        if cell.id in results
        and results[cell.id].verdict.judged
        and results[cell.id].identity == identities.get(cell.id)
        and _left_all(results[cell.id], directory)
    }
    return Start(earlier.run, earlier.started, tuple(only), identities, finished)


def finding_ids(results: Collection[CellResult]) -> set[str]:
    """The finding directories that results tell of."""
    return {group.finding_id for one in results for group in one.signatures if group.finding_id}


def _left_all(result: CellResult, directory: Path) -> bool:
    """Whether a pair can be laid side by side, and a finding replayed."""
    findings = (directory / FINDINGS / one for one in finding_ids([result]))
    return (directory / CELLS / result.cell.id).is_dir() and all(one.is_dir() for one in findings)


def check_resumable(
    earlier: CampaignResult,
    name: str,
    cells: Sequence[Cell],
    planned: Collection[str],
    directory: Path,
) -> None:
    """See that a run may go on from these results.

    :param name: of the campaign.
    :param cells: that are to be run.
    :param planned: ids of all cells of the campaign.
    :raises ResultsError: they are another campaign's, or would lose cells that were measured.
    """
    if earlier.name != name:
        raise ResultsError(
            f"{directory}: results of campaign {earlier.name!r}, and this is {name!r}: "
            "--resume goes on with a campaign's own; name another directory with --out"
        )
    chosen = {cell.id for cell in cells}
    measured = {one.cell.id for one in earlier.cells if one.verdict.judged}
    if left_out := (measured & set(planned)) - chosen:
        raise ResultsError(
            f"{directory} has results of {min(left_out)}{_others(len(left_out) - 1)}, which --only "
            "leaves out; go on with all, or name another directory with --out"
        )


def _others(number: int) -> str:
    return f" and {number} more" if number else ""
