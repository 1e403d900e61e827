"""The whole result as one HTML page: no other file, no network, small enough to be mailed.

A page has bounds: what is not as expected comes first into each of its parts, and what finds no
room is counted, with the command that shows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qemu_diff.model import (
    CampaignResult,
    CellResult,
    CellVerdict,
    CostChange,
    Finding,
    Nights,
    PairOutcome,
    PairResult,
)
from qemu_diff.report.cases import FIRST_NIGHT
from qemu_diff.report.costs import cost_table
from qemu_diff.report.history import change_sentence, flaky_sentence, minute, since_sentence
from qemu_diff.report.matrix import Entry, Row, matrix
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
    cost_sentences,
    expectation_sentence,
    finding_lines,
    ratio_words,
    side_by_side_lines,
)

PICTURE_BYTES = 700_000
FINDING_BYTES = 200_000
CELL_BYTES = 300_000
SIDE_BY_SIDE_BYTES = 100_000
LIST_ROWS = 200
WINDOW_ROWS = 300
MISSES = 5
"""Bounds of the page's parts. With the grid and the pairs, a page of 500 cells stays below 2 MB."""

_One = TypeVar("_One")


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
class Tags:
    """What the page's filters know a part by.

    :param kernels: names.
    :param verdicts: of its cells; ``UNEXPECTED`` as well, where one is not as expected.
    """

    kernels: tuple[str, ...]
    verdicts: tuple[str, ...]


UNEXPECTED = "unexpected"
"""No verdict has that name."""


@dataclass(frozen=True)
class GridCell:
    """An entry of the grid.

    :param looks: ``good``, ``control``: a bug that must be seen, and was; ``bad``, or ``none``:
        nothing was judged.
    :param mark: says the same without a colour.
    """

    entry: Entry
    number: int
    looks: str
    mark: str
    tags: Tags


@dataclass(frozen=True)
class ShownCell:
    """A cell in sentences.

    :param number: the page's; links go there.
    :param shortened: not all of the sentences found room.
    """

    grid: GridCell
    name: str
    facts: tuple[tuple[str, str], ...]
    sentences: tuple[str, ...]
    shortened: bool


@dataclass(frozen=True)
class ShownFinding:
    """One broken step in full.

    :param number: of its cell.
    :param replay: ids of the cell's directories in ``findings/``.
    """

    cell: str
    number: int
    expected: bool
    lines: tuple[str, ...]
    replay: tuple[str, ...]
    tags: Tags


@dataclass(frozen=True)
class Compared:
    """A pair.

    :param numbers: of the two cells; None: not on this page.
    """

    name: str
    outcome: str
    sides: tuple[str, str]
    numbers: tuple[int | None, int | None]
    good: bool
    message: str
    side_by_side: tuple[str, ...]
    tags: Tags


@dataclass(frozen=True)
class CostRow:
    """What a pair's step of one class costs, in instructions of L1."""

    pair: str
    sides: tuple[str, str]
    change: CostChange
    words: str
    tags: Tags


def html(result: CampaignResult, findings: Sequence[str] = (), nights: Nights = FIRST_NIGHT) -> str:
    """The page.

    :param findings: names of the directories in ``findings/`` that can be replayed.
    """
    page = _Page(result, findings, nights)
    return _environment().get_template("report.html").render(page.context())


class _Page:
    """The parts of the page, from a result."""

    def __init__(self, result: CampaignResult, findings: Sequence[str], nights: Nights) -> None:
        self._result = result
        self._nights = nights
        self._by_id = {one.cell.id: one for one in result.cells}
        self._numbers = {one.cell.id: number for number, one in enumerate(result.cells, 1)}
        self._stored = _by_cell(result, findings)
        self._matrix = matrix(result)

    def context(self) -> dict[str, Any]:
        """What the template is filled with."""
        result, nights = self._result, self._nights
        found = sorted(pictures(result), key=lambda one: not one.broken)
        drawn = tuple(_within(map(_drawn, found), PICTURE_BYTES, _drawing_bytes))
        windows = [row for picture in found for row in _windows(picture)]
        shown = tuple(_within(self._findings(), FINDING_BYTES, _finding_bytes))
        surprises = self._surprises()
        costs = sorted(self._costs(), key=_cost_order)
        return {
            "result": result,
            "nights": nights,
            "since": since_sentence(nights).replace("since", "Since", 1),
            "started": minute(result.started) or "not known when",
            "changes": _listed([change_sentence(one) for one in nights.changes]),
            "flaky": _listed([flaky_sentence(one) for one in nights.flaky]),
            "closing": closing_sentence(result),
            "state": "bad" if surprises else "good" if result.complete else "warn",
            "surprises": _listed(surprises),
            "tallies": _tallies(result),
            "filters": self._filters(),
            "kernels": self._matrix.kernels,
            "grid": [(row, self._grid_row(row)) for row in self._matrix.rows],
            "compared": tuple(self._compared()),
            "cost_table": cost_table(result),
            "costs": costs[:LIST_ROWS],
            "more_costs": len(costs[LIST_ROWS:]),
            "windows": windows[:WINDOW_ROWS],
            "more_windows": len(windows[WINDOW_ROWS:]),
            "pictures": drawn,
            "more_pictures": len(found) - len(drawn),
            "cells": self._cells(),
            "findings": shown,
            "more_findings": sum(len(one.findings) for one in result.cells) - len(shown),
            "style": Markup(style()),
            "dark_style": Markup(DARK_STYLE),
            "textures": Markup(textures()),
        }

    def _surprises(self) -> list[tuple[str, int | None]]:
        """Sentences, and the numbers of the cells that they are about."""
        cells = [
            (sentence, self._numbers[one.cell.id])
            for one in self._result.cells
            if (sentence := expectation_sentence(one))
        ]
        pairs = [
            (
                f"{one.candidate.id}: {_against(one)}: {one.message}",
                self._numbers.get(one.candidate.id),
            )
            for one in self._result.pairs
            if one.alarming
        ]
        return [*cells, *pairs]

    def _filters(self) -> dict[str, dict[str, int]]:
        """What can be filtered by, and how many cells each leaves."""
        tags = [self._tags(one.cell.id) for one in self._result.cells]
        verdicts = Counter(verdict for one in tags for verdict in one.verdicts)
        order = [UNEXPECTED, *CellVerdict]
        return {
            "kernel": dict(Counter(kernel for one in tags for kernel in one.kernels)),
            "verdict": {name: verdicts[name] for name in order if verdicts[name]},
        }

    def _tags(self, *ids: str) -> Tags:
        cells = [self._by_id[one] for one in ids if one in self._by_id]
        verdicts = [one.verdict.value for one in cells]
        unexpected = [UNEXPECTED] if any(map(expectation_sentence, cells)) else []
        kernels = dict.fromkeys(one.cell.kernel for one in cells)
        return Tags(tuple(kernels), (*dict.fromkeys(verdicts), *unexpected))

    # --- cells ---

    def _grid_row(self, row: Row) -> list[GridCell | None]:
        return [None if one is None else self._grid_cell(one) for one in row.entries]

    def _grid_cell(self, entry: Entry) -> GridCell:
        one = self._by_id[entry.id]
        looks, mark = _looks(one)
        return GridCell(entry, self._numbers[entry.id], looks, mark, self._tags(entry.id))

    def _cells(self) -> list[ShownCell]:
        """Of each cell at least the first sentence; what is not as expected has room first."""
        room, shown = CELL_BYTES, {}
        entries = {one.id: one for row in self._matrix.rows for one in row.entries if one}
        for one in sorted(self._result.cells, key=lambda one: one.as_expected):
            sentences = (*cell_sentences(one), *cost_sentences(one))
            size = sum(map(_bytes, sentences))
            fits = size <= room
            room -= size if fits else 0
            shown[one.cell.id] = ShownCell(
                grid=self._grid_cell(entries[one.cell.id]),
                name=one.cell.id,
                facts=tuple(_facts(one)),
                sentences=sentences if fits else sentences[:1],
                shortened=not fits,
            )
        return [shown[one.cell.id] for one in self._result.cells]

    def _findings(self) -> Iterator[ShownFinding]:
        """What no campaign expects comes first."""
        for one in sorted(self._result.cells, key=lambda one: one.as_expected):
            name = one.cell.id
            for finding in sorted(one.findings, key=_clearest):
                yield ShownFinding(
                    cell=name,
                    number=self._numbers[name],
                    expected=one.as_expected,
                    lines=tuple(finding_lines(finding)),
                    replay=self._stored.get(name, ()),
                    tags=self._tags(name),
                )

    # --- pairs ---

    def _compared(self) -> Iterator[Compared]:
        """What is not as expected comes first."""
        room = SIDE_BY_SIDE_BYTES
        for pair in sorted(self._result.pairs, key=self._is_good):
            lines = side_by_side_lines(pair.side_by_side, *pair.sides) if pair.side_by_side else []
            size = sum(map(_bytes, lines))
            fits = size <= room
            room -= size if fits else 0
            one, other = pair.baseline.id, pair.candidate.id
            yield Compared(
                name=_point(pair),
                outcome=pair.outcome.value,
                sides=pair.sides,
                numbers=(self._numbers.get(one), self._numbers.get(other)),
                good=self._is_good(pair),
                message=pair.message,
                side_by_side=tuple(lines) if fits else (),
                tags=self._pair_tags(pair),
            )

    def _is_good(self, pair: PairResult) -> bool:
        sides = (self._by_id.get(one.id) for one in (pair.baseline, pair.candidate))
        return not pair.alarming and not any(one and expectation_sentence(one) for one in sides)

    def _pair_tags(self, pair: PairResult) -> Tags:
        tags = self._tags(pair.baseline.id, pair.candidate.id)
        if not pair.alarming or UNEXPECTED in tags.verdicts:
            return tags
        return Tags(tags.kernels, (*tags.verdicts, UNEXPECTED))

    def _costs(self) -> Iterator[CostRow]:
        for pair in self._result.pairs:
            tags = self._pair_tags(pair)
            for one in pair.costs:
                yield CostRow(_point(pair), pair.sides, one, ratio_words(one), tags)


def _against(pair: PairResult) -> str:
    how = f"{pair.outcome} from" if pair.outcome.alarming else "held against"
    return f"{how} {pair.sides[0]}"


def _listed(ones: Sequence[_One]) -> tuple[Sequence[_One], int]:
    """The first ones, and how many others there are."""
    return ones[:LIST_ROWS], len(ones[LIST_ROWS:])


def _looks(one: CellResult) -> tuple[str, str]:
    if not one.verdict.judged:
        return ("none", "○") if one.verdict is CellVerdict.SKIPPED else ("none", "?")
    if not one.as_expected:
        return "bad", "✗"
    return ("good", "✓") if one.verdict is CellVerdict.PASS else ("control", "✓")


def _facts(one: CellResult) -> Iterator[tuple[str, str]]:
    cell = one.cell
    yield "verdict", one.verdict.value
    yield "expected", " and ".join(cell.expected)
    yield "seed", str(cell.seed)
    yield "steps", f"{one.steps:,}"
    yield "placements", f"{one.placements:,}"
    yield "took", f"{one.duration_s:.1f} s"
    if one.attempts > 1:
        yield "tries", str(one.attempts)


def _cost_order(row: CostRow) -> tuple[bool, float]:
    """What changed most comes first."""
    return not row.change.alarming, -abs(row.change.ratio - 1)


def _point(pair: PairResult) -> str:
    return pair.candidate.id.removeprefix(f"{pair.candidate.kernel}.")


def _drawing_bytes(picture: DrawnPicture) -> int:
    return len(picture.drawing.encode())


def _bytes(line: str) -> int:
    """What a line takes on the page, about."""
    return len(printable(line).encode()) + 10


def _finding_bytes(finding: ShownFinding) -> int:
    return sum(map(_bytes, finding.lines))


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


@cache
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


def _within(ones: Iterable[_One], most: int, size: Callable[[_One], int]) -> Iterator[_One]:
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
