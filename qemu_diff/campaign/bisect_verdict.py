"""What a commit's cells say of it: good, bad, or nothing. Pure.

The bad end of a bisection shows *symptoms*. A commit is bad where any of them shows again, good
where its cells are as expected, and skipped where they can't tell: what is lost, does not build,
crashes, or fails in another way only is another trouble than the one that is looked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qemu_diff.model import (
    Cell,
    CellResult,
    CellVerdict,
    CommitVerdict,
    Signature,
    SignatureGroup,
    Symptom,
)
from qemu_diff.report.words import symptom_name

_ADDRESS = re.compile(r"\b(?:0x)?[0-9a-f]{8,}\b")
_LINE_NUMBER = re.compile(r":[0-9]+\b")


@dataclass(frozen=True)
class Shown:
    """A cell's result at one commit, and its symptoms: none where it is as expected, or was not
    judged."""

    result: CellResult
    symptoms: frozenset[Symptom]


@dataclass(frozen=True)
class Judgement:
    """
    :param reason: in one line.
    """

    verdict: CommitVerdict
    reason: str


# --- symptoms ------------------------------------------------------------------------------------


def shown_by(result: CellResult, groups: Sequence[SignatureGroup]) -> Shown:
    """A cell's result with its symptoms.

    :param groups: the signatures of what it broke.
    """
    return Shown(result, frozenset(_symptoms(result, groups)))


def _symptoms(result: CellResult, groups: Sequence[SignatureGroup]) -> Iterable[Symptom]:
    if not result.verdict.judged or result.as_expected:
        return ()
    if result.verdict is CellVerdict.KERNEL_OOPS:
        return (_of_cell(result.cell, result.verdict, _without_numbers(result.reason)),)
    if result.verdict is CellVerdict.HANG:
        return (_of_cell(result.cell, result.verdict),)
    expected = {one.value for one in result.cell.expected}
    seen = {kind.value for kind, number in result.violations if number}
    with_signature = {group.signature.kind.value for group in groups}
    found = [
        *(_of_signature(one.signature) for one in groups if one.signature.kind not in expected),
        *(_of_cell(result.cell, kind) for kind in sorted(seen - with_signature - expected)),
        *(_of_cell(result.cell, f"no {kind}") for kind in sorted(expected - seen - {"pass"})),
    ]
    return found or (_of_cell(result.cell, result.verdict),)


def _of_signature(signature: Signature) -> Symptom:
    return Symptom(
        signature.kind.value, signature.scenario, signature.instruction, signature.function
    )


def _of_cell(cell: Cell, kind: str, detail: str = "") -> Symptom:
    scenario = f"{cell.session or cell.job}/{cell.machine.exception_order}"
    return Symptom(str(kind), scenario, cell.payload, detail)


def _without_numbers(death: str) -> str:
    """What a dying kernel says, as it says it at each commit: addresses and lines move."""
    return _LINE_NUMBER.sub("", _ADDRESS.sub("…", death))


def same_symptom(one: Symptom, other: Symptom, *, any_function: bool) -> bool:
    """Whether two commits show the same trouble.

    A detail that one of them does not know can't tell them apart.

    :param any_function: nor can one that both know.
    """
    known = bool(one.detail and other.detail) and not any_function
    alike = (one.kind, one.scenario, one.instruction) == (
        other.kind,
        other.scenario,
        other.instruction,
    )
    return alike and (one.detail == other.detail or not known)


# --- cells and commits ---------------------------------------------------------------------------


def sufficient_cells(shown: Iterable[Shown]) -> tuple[str, ...]:
    """Ids of cells that together show every symptom, each symptom by the cheapest that has it."""
    covered: set[Symptom] = set()
    chosen: list[str] = []
    for one in sorted(shown, key=lambda one: (one.result.duration_s, one.result.cell.id)):
        if one.symptoms - covered:
            chosen.append(one.result.cell.id)
            covered |= one.symptoms
    return tuple(chosen)


def commit_verdict(
    shown: Sequence[Shown], wanted: Sequence[Symptom], *, any_function: bool
) -> Judgement:
    """What to tell git of a commit.

    :param wanted: the symptoms of the bad end.
    :param any_function: see :func:`same_symptom`.
    """
    for one in shown:
        if again := _again(one, wanted, any_function=any_function):
            return Judgement(CommitVerdict.BAD, f"{one.result.cell.id}: {symptom_name(again)}")
    for one in shown:
        if not one.result.verdict.judged:
            why = f"{one.result.cell.id}: {one.result.verdict}: {one.result.reason}"
            return Judgement(CommitVerdict.SKIP, why)
    for one in shown:
        if one.symptoms:
            other = min(map(symptom_name, one.symptoms))
            why = f"it fails in another way only: {one.result.cell.id}: {other}"
            return Judgement(CommitVerdict.SKIP, why)
    return Judgement(CommitVerdict.GOOD, f"as expected: {_names(shown)}")


def _again(one: Shown, wanted: Sequence[Symptom], *, any_function: bool) -> Symptom | None:
    return next(
        (
            symptom
            for symptom in wanted
            for found in one.symptoms
            if same_symptom(symptom, found, any_function=any_function)
        ),
        None,
    )


def _names(shown: Sequence[Shown]) -> str:
    return ", ".join(one.result.cell.id for one in shown)


def symptoms_of(shown: Iterable[Shown]) -> tuple[Symptom, ...]:
    """All symptoms of a commit, in one order."""
    return tuple(sorted({symptom for one in shown for symptom in one.symptoms}, key=symptom_name))


def later_symptoms(
    shown: Iterable[Shown], wanted: Sequence[Symptom], *, any_function: bool
) -> tuple[Symptom, ...]:
    """Those of the bad end that a commit does not show: another commit brought them."""
    found = symptoms_of(shown)
    return tuple(
        symptom
        for symptom in wanted
        if not any(same_symptom(symptom, one, any_function=any_function) for one in found)
    )
