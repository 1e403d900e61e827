"""Cells and pairs as test cases: what every format for CI systems says of them.

What was lost is an error, never a failure: nothing was learnt about the kernel. An expected failure
that was seen is a pass of that control.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from qemu_diff.model import (
    CampaignResult,
    CellResult,
    CellVerdict,
    Nights,
    PairOutcome,
    PairResult,
)
from qemu_diff.report.history import change_sentence, flaky_sentence
from qemu_diff.report.words import (
    cell_sentences,
    confirmation_words,
    cost_change_sentences,
    cost_sentences,
    expectation_sentence,
    finding_lines,
    side_by_side_lines,
    signature_name,
)

PAIRS = "pairs"

FIRST_NIGHT = Nights()
"""Nothing is known of earlier runs."""


class Outcome(StrEnum):
    """What CI systems tell apart."""

    PASS = "pass"
    FAILURE = "failure"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Case:
    """A cell or a pair.

    :param name: a cell's id; of a pair, what tells the baseline and the candidate's id.
    :param kind: the cell's verdict or the pair's outcome.
    :param message: one sentence; empty for what passes.
    :param lines: all there is to say.
    :param lost_boots: boots that were lost, and started again.
    :param flaky: broken steps that only some fresh boots show, one sentence each.
    :param duration_s: wall-clock seconds; 0 for a pair.
    """

    name: str
    outcome: Outcome
    kind: str
    message: str
    lines: tuple[str, ...]
    lost_boots: int = 0
    flaky: tuple[str, ...] = ()
    duration_s: float = 0.0


@dataclass(frozen=True)
class Group:
    """The cells of one kernel, or all pairs.

    :param name: the kernel's, or ``PAIRS``.
    :param kernel: empty for the pairs.
    """

    name: str
    kernel: str
    cases: tuple[Case, ...]


def grouped(result: CampaignResult, nights: Nights = FIRST_NIGHT) -> tuple[Group, ...]:
    """One group for each kernel, in the campaign's order; then the pairs, if there are any."""
    told: dict[str, tuple[str, ...]] = {}
    for change in nights.changes:
        told[change.id] = (change_sentence(change),)
    for one in nights.flaky:
        told[one.id] = (*told.get(one.id, ()), flaky_sentence(one))
    kernels: dict[str, list[Case]] = {}
    for cell in result.cells:
        of_kernel = kernels.setdefault(cell.cell.kernel, [])
        of_kernel.append(_cell(cell, told.get(cell.cell.id, ())))
    pairs = (Group(PAIRS, "", tuple(_pairs(result))),) if result.pairs else ()
    return (*(Group(name, name, tuple(cases)) for name, cases in kernels.items()), *pairs)


def started_at(result: CampaignResult) -> datetime | None:
    """When the run was started, UTC; None where that is not known."""
    if not result.started:
        return None
    started = datetime.fromisoformat(result.started)
    return started.replace(tzinfo=UTC) if started.tzinfo is None else started.astimezone(UTC)


def cell_outcome(result: CellResult) -> Outcome:
    """What a cell is to a CI system."""
    if result.verdict is CellVerdict.SKIPPED:
        return Outcome.SKIPPED
    if result.verdict is CellVerdict.LOST:
        return Outcome.ERROR
    return Outcome.PASS if result.as_expected else Outcome.FAILURE


def _cell(result: CellResult, told: tuple[str, ...]) -> Case:
    outcome = cell_outcome(result)
    skipped = outcome is Outcome.SKIPPED
    found = [line for finding in result.findings for line in ("", *finding_lines(finding))]
    return Case(
        name=result.cell.id,
        outcome=outcome,
        kind=result.verdict.value,
        message=result.reason if skipped else expectation_sentence(result),
        lines=(*told, *cell_sentences(result), *cost_sentences(result), *found),
        lost_boots=result.attempts - 1,
        flaky=tuple(_flaky_signatures(result)),
        duration_s=result.duration_s,
    )


def _flaky_signatures(result: CellResult) -> Iterator[str]:
    for group in result.signatures:
        if group.confirmation is not None and group.confirmation.flaky:
            yield f"{signature_name(group.signature)}: {confirmation_words(group.confirmation)}"


def _pairs(result: CampaignResult) -> Iterator[Case]:
    verdicts = {one.cell.id: one.verdict for one in result.cells}
    for pair in result.pairs:
        yield _pair(pair, pair_outcome(pair, verdicts))


def pair_outcome(pair: PairResult, verdicts: Mapping[str, CellVerdict]) -> Outcome:
    """What a pair is to a CI system.

    A pair has nothing to say, and nothing is wrong, where a kernel of it is left out here.

    :param verdicts: by cell id.
    """
    sides = {verdicts.get(pair.baseline.id), verdicts.get(pair.candidate.id)}
    if pair.alarming:
        return Outcome.FAILURE
    if CellVerdict.SKIPPED in sides and CellVerdict.LOST not in sides:
        return Outcome.SKIPPED
    return Outcome.ERROR if pair.outcome is PairOutcome.INCONCLUSIVE else Outcome.PASS


def _pair(pair: PairResult, outcome: Outcome) -> Case:
    sentence = f"{pair.outcome}: {pair.message}"
    table = side_by_side_lines(pair.side_by_side, *pair.sides) if pair.side_by_side else ()
    messages = {Outcome.PASS: "", Outcome.SKIPPED: pair.message}
    return Case(
        name=f"{_baseline_name(pair)}..{pair.candidate.id}",
        outcome=outcome,
        kind="cost" if pair.alarming and not pair.outcome.alarming else pair.outcome.value,
        message=messages.get(outcome, sentence),
        lines=(sentence, *cost_change_sentences(pair), *table),
    )


def _baseline_name(pair: PairResult) -> str:
    """Enough to tell the baseline, beside the candidate's id."""
    one, other = pair.baseline, pair.candidate
    if one.kernel != other.kernel:
        return one.kernel
    return one.driver if one.driver != other.driver else one.machine.qemu or "path"
