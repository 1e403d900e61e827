"""What changed from night to night, and what comes out now so, now otherwise. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from qemu_diff.model import (
    CampaignResult,
    Change,
    ChangeKind,
    Flakiness,
    History,
    KernelIdentity,
    Nights,
    PastCell,
    PastRun,
)
from qemu_diff.report.words import signature_name

_WORST_FIRST = {kind: rank for rank, kind in enumerate(ChangeKind)}


def past_run(result: CampaignResult) -> PastRun:
    """A run as the ledger keeps it."""
    kernels = {one.name: one for one in result.provenance.kernels}
    unknown = KernelIdentity("", release="", key="")
    cells = tuple(
        PastCell(
            run=result.run,
            started=result.started,
            id=one.cell.id,
            verdict=one.verdict,
            as_expected=one.as_expected,
            duration_s=one.duration_s,
            release=kernels.get(one.cell.kernel, unknown).release,
            kernel_key=kernels.get(one.cell.kernel, unknown).key,
            violations=tuple(sorted(kind for kind, number in one.violations if number)),
            signatures=tuple(sorted(signature_name(group.signature) for group in one.signatures)),
            tool=result.provenance.tool,
        )
        for one in sorted(result.cells, key=lambda one: one.cell.id)
    )
    return PastRun(result.run, result.started, result.complete and not result.only, cells)


def nights(earlier: Sequence[PastRun], result: CampaignResult, planned: Collection[str]) -> Nights:
    """What a run's report has to say of the runs before it.

    What changed is told against the last whole run; a cell that was not judged there is held
    against when it last was, so that a lost night hides nothing.

    :param earlier: in the order of time; the run itself may be among them.
    :param planned: ids of all cells of the campaign.
    """
    now = past_run(result)
    before = [one for one in earlier if one.run != now.run]
    last = next((one for one in reversed(before) if one.whole), None)
    if last is None:
        return Nights(flaky=flaky([*before, now]))
    then = {one.id: one for one in last.cells}
    judged = {one.id: one for run in before for one in run.cells if one.verdict.judged}
    changes = [
        change
        for one in now.cells
        if (change := _change(then.get(one.id), one, judged.get(one.id)))
    ]
    gone = (one for one in last.cells if one.id not in planned)
    changes += [Change(ChangeKind.GONE, one.id, one, None) for one in gone]
    changes.sort(key=lambda one: (_WORST_FIRST[one.kind], one.id))
    return Nights(last.started, tuple(changes), flaky([*before, now]))


def history(runs: Sequence[PastRun]) -> History:
    """What runs of one campaign came to.

    :param runs: in the order of time.
    """
    return History(tuple(runs), tuple(_changes_over(runs)), flaky(runs))


def _changes_over(runs: Iterable[PastRun]) -> Iterator[Change]:
    last: dict[str, PastCell] = {}
    judged: dict[str, PastCell] = {}
    for run in runs:
        for one in run.cells:
            change = _change(last.get(one.id), one, judged.get(one.id))
            if change and change.before:
                yield change
            last[one.id] = one
            if one.verdict.judged:
                judged[one.id] = one


def _change(before: PastCell | None, now: PastCell, judged: PastCell | None) -> Change | None:
    """
    :param before: the cell the last time; None where it is new.
    :param judged: when it was last judged.
    """
    if before is None:
        return Change(ChangeKind.NEW, now.id, None, now)
    if before.verdict.judged and now.verdict.judged:
        kind = _kind(before, now)
        return Change(kind, now.id, before, now) if kind else None
    if before.verdict.judged:
        return Change(ChangeKind.LOST, now.id, before, now)
    if not now.verdict.judged:
        return None
    if judged and (kind := _kind(judged, now)):
        return Change(kind, now.id, judged, now)
    return Change(ChangeKind.JUDGED, now.id, before, now)


def _kind(before: PastCell, now: PastCell) -> ChangeKind | None:
    """Of a cell that was judged both times."""
    if before.as_expected != now.as_expected:
        return ChangeKind.MENDED if now.as_expected else ChangeKind.BROKE
    if now.as_expected or _outcome(before) == _outcome(now):
        return None
    return ChangeKind.OTHERWISE


def _outcome(one: PastCell) -> tuple[object, ...]:
    return one.verdict, one.violations, one.signatures


def flaky(runs: Iterable[PastRun]) -> tuple[Flakiness, ...]:
    """Cells that came out both ways on one kernel with one tool.

    What came out the same, and was only expected otherwise, is not flaky.
    """
    groups: dict[tuple[str, str, str], list[PastCell]] = {}
    for run in runs:
        for one in run.cells:
            if one.verdict.judged and one.kernel_key:
                groups.setdefault((one.id, one.kernel_key, one.tool), []).append(one)
    found = (
        Flakiness(name, key, len(group), sum(not one.as_expected for one in group))
        for (name, key, _), group in sorted(groups.items())
        if len({(one.verdict, one.violations) for one in group}) > 1
    )
    return tuple(one for one in found if 0 < one.unexpected < one.runs)
