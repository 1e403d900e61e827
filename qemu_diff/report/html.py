"""The whole result as one HTML page: no other file, no network, small enough to be mailed.

A page has bounds: what is not as expected comes first into each of its parts, and what finds no
room is counted, with the command that shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qemu_diff.model import (
    CampaignResult,
    CellResult,
    CellVerdict,
    Finding,
    PairOutcome,
    PairResult,
)
from qemu_diff.report.matrix import matrix
from qemu_diff.report.picture import (
    DARK_STYLE,
    Picture,
    broken_spans,
    is_sparse,
    pictures,
    style,
    svg,
    textures,
)
from qemu_diff.report.printable import printable
from qemu_diff.report.words import (
    cell_sentences,
    closing_sentence,
    expectation_sentence,
    finding_lines,
    side_by_side_lines,
)

PICTURE_BYTES = 1_100_000
FINDING_BYTES = 250_000
WINDOW_ROWS = 300
MISSES = 5
UNMET_ROWS = 200
"""Bounds of the page's parts. With the table, a page of 500 cells stays below 2 MB."""


@dataclass(frozen=True)
class DrawnPicture:
    """A picture on the page.

    :param outcomes: kernel → what its placements came to, in words.
    """

    name: str
    outcomes: tuple[tuple[str, str], ...]
    broken: bool
    drawing: Markup


@dataclass(frozen=True)
class WindowRow:
    """What one row of the table of windows says; times in ns from the entry into KVM_RUN."""

    kernel: str
    scenario: str
    instruction: str
    outcome: str
    first_ns: int
    last_ns: int
    placements: int
    sparse: bool


@dataclass(frozen=True)
class ShownFinding:
    """One broken step in full.

    :param replay: ids of the cell's directories in ``findings/``.
    """

    cell: str
    expected: bool
    lines: tuple[str, ...]
    replay: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """A pair, or a cell that is in none, with its sentences."""

    name: str
    outcome: str
    kernels: str
    good: bool
    sentences: tuple[str, ...]
    side_by_side: tuple[str, ...]


def html(result: CampaignResult, findings: Sequence[str] = ()) -> str:
    """The page.

    :param findings: names of the directories in ``findings/`` that can be replayed.
    """
    found = sorted(pictures(result), key=lambda one: not one.broken)
    drawn = tuple(_within(map(_drawn, found), PICTURE_BYTES, lambda one: len(one.drawing.encode())))
    windows = tuple(row for picture in found for row in _windows(picture))
    shown = tuple(
        _within(_findings(result, findings), FINDING_BYTES, lambda one: sum(map(len, one.lines)))
    )
    unmet = [sentence for one in result.cells if (sentence := expectation_sentence(one))]
    alarming = [
        f"{one.candidate.id}: {one.outcome} from {one.sides[0]}: {one.message}"
        for one in result.pairs
        if one.alarming
    ]
    surprises = [*unmet, *alarming]
    context: dict[str, Any] = {
        "result": result,
        "closing": closing_sentence(result),
        "state": "bad" if surprises else "good" if result.complete else "warn",
        "surprises": surprises[:UNMET_ROWS],
        "more_surprises": len(surprises[UNMET_ROWS:]),
        "tallies": _tallies(result),
        "compared": _compared(result),
        "windows": windows[:WINDOW_ROWS],
        "more_windows": len(windows[WINDOW_ROWS:]),
        "pictures": drawn,
        "more_pictures": len(found) - len(drawn),
        "matrix": matrix(result),
        "findings": shown,
        "more_findings": sum(len(one.findings) for one in result.cells) - len(shown),
        "style": Markup(style()),
        "dark_style": Markup(DARK_STYLE),
        "textures": Markup(textures()),
    }
    return _environment().get_template("report.html").render(context)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("qemu_diff.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    return environment


def _within(ones: Iterable[Any], most: int, size: Any) -> Iterator[Any]:
    """The first ones that together are no larger; a later, smaller one may still fit.

    Making them takes time: after ``MISSES`` that did not fit nobody looks for another.
    """
    left, misses = most, 0
    for one in ones:
        if size(one) <= left:
            left -= size(one)
            yield one
        else:
            misses += 1
            if misses == MISSES:
                return


def _drawn(picture: Picture) -> DrawnPicture:
    outcomes = tuple(
        (side.kernel, ", ".join(kinds) or "ok at every placement")
        for side in picture.sides
        for kinds in [sorted({span.outcome for one in side.maps for span in broken_spans(one)})]
    )
    drawing = Markup(svg(picture, alone=False))
    return DrawnPicture(picture.name, outcomes, picture.broken, drawing)


def _windows(picture: Picture) -> Iterator[WindowRow]:
    for side in picture.sides:
        for one in side.maps:
            for span in broken_spans(one):
                yield WindowRow(
                    kernel=side.kernel,
                    scenario=picture.name,
                    instruction=f"{one.instruction.label}: {one.instruction.text}",
                    outcome=span.outcome,
                    first_ns=span.first_ns,
                    last_ns=span.last_ns,
                    placements=span.placements,
                    sparse=is_sparse(span),
                )


def _findings(result: CampaignResult, stored: Sequence[str]) -> Iterator[ShownFinding]:
    """What no campaign expects comes first."""
    replay = _by_cell(result, stored)
    for one in sorted(result.cells, key=lambda one: one.as_expected):
        for finding in sorted(one.findings, key=_clearest):
            name = one.cell.id
            lines = tuple(finding_lines(finding))
            yield ShownFinding(name, one.as_expected, lines, replay.get(name, ()))


def _clearest(finding: Finding) -> bool:
    return finding.attributed_to != "placement"


def _by_cell(result: CampaignResult, stored: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Cell → its finding directories, whose names begin with its id."""
    ids = sorted((one.cell.id for one in result.cells), key=len, reverse=True)
    owned: dict[str, tuple[str, ...]] = {}
    for name in sorted(stored):
        owner = next((one for one in ids if name.startswith(one)), "")
        owned[owner] = (*owned.get(owner, ()), name)
    return owned


def _tallies(result: CampaignResult) -> tuple[tuple[str, str], ...]:
    judged = [one for one in result.cells if one.verdict.judged]
    return (
        ("cells judged", f"{len(judged):,} of {len(result.cells):,}"),
        ("as expected", f"{sum(one.as_expected for one in judged):,}"),
        ("steps judged", f"{sum(one.steps for one in judged):,}"),
        ("interrupts placed", f"{sum(one.placements for one in judged):,}"),
        ("pairs fixed", f"{sum(one.outcome is PairOutcome.FIXED for one in result.pairs):,}"),
    )


def _compared(result: CampaignResult) -> tuple[Compared, ...]:
    by_id = {one.cell.id: one for one in result.cells}
    paired = {cell.id for one in result.pairs for cell in (one.baseline, one.candidate)}
    return (
        *(_pair(one, by_id) for one in result.pairs),
        *(_alone(one) for one in result.cells if one.cell.id not in paired),
    )


def _pair(pair: PairResult, by_id: dict[str, CellResult]) -> Compared:
    sides = [by_id[one.id] for one in (pair.baseline, pair.candidate) if one.id in by_id]
    table = side_by_side_lines(pair.side_by_side, *pair.sides) if pair.side_by_side else ()
    return Compared(
        name=pair.candidate.id.removeprefix(f"{pair.candidate.kernel}."),
        outcome=pair.outcome.value,
        kernels=" → ".join(pair.sides),
        good=all(side.as_expected for side in sides) and not pair.alarming,
        sentences=tuple(sentence for side in sides for sentence in cell_sentences(side)),
        side_by_side=tuple(table),
    )


def _alone(one: CellResult) -> Compared:
    good = one.as_expected or one.verdict is CellVerdict.SKIPPED
    name = one.cell.id.removeprefix(f"{one.cell.kernel}.")
    sentences = tuple(cell_sentences(one))
    return Compared(name, one.verdict.value, one.cell.kernel, good, sentences, ())
