"""JUnit: one testcase per cell and per pair. What was lost is an error, never a failure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from qemu_diff.model import CampaignResult, CellResult, CellVerdict, PairOutcome, PairResult
from qemu_diff.report.words import (
    cell_sentences,
    expectation_sentence,
    finding_lines,
    side_by_side_lines,
)

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML document may hold (XML 1.0, production 2, "Char"), and a kernel's console may."""


def junit(result: CampaignResult) -> str:
    """The result as a JUnit XML document."""
    suite = TestSuite(_xml(f"qemu-diff.{result.name}"))
    verdicts = {cell.cell.id: cell.verdict for cell in result.cells}
    cases = [_cell_case(result.name, cell) for cell in result.cells]
    for pair in result.pairs:
        cases.append(_pair_case(result.name, pair, skipped=_half_skipped(pair, verdicts)))
    # One by one, each would make it count all again.
    suite.add_testcases(cases)
    document = JUnitXml("qemu-diff")
    document.add_testsuite(suite)
    document.update_statistics()  # type: ignore[no-untyped-call]
    text: bytes = document.tostring()  # type: ignore[no-untyped-call]
    return text.decode()


def _cell_case(campaign: str, result: CellResult) -> TestCase:
    name, classname = _xml(result.cell.id), _xml(f"{campaign}.{result.cell.kernel}")
    case = TestCase(name, classname, result.duration_s)
    body = "\n".join([*cell_sentences(result), *_findings(result)])
    if result.verdict is CellVerdict.SKIPPED:
        case.result = [_outcome(Skipped, result.reason, "skipped", "")]
    elif result.verdict is CellVerdict.LOST:
        case.result = [_outcome(Error, expectation_sentence(result), "lost", body)]
    elif not result.as_expected:
        case.result = [_outcome(Failure, expectation_sentence(result), result.verdict.value, body)]
    else:
        case.system_out = _xml(body)
    return case


def _half_skipped(pair: PairResult, verdicts: Mapping[str, CellVerdict]) -> bool:
    """Whether a pair has nothing to say only because a kernel of it is left out here.

    :param verdicts: by cell id.
    """
    sides = {verdicts.get(pair.baseline.id), verdicts.get(pair.candidate.id)}
    return CellVerdict.SKIPPED in sides and CellVerdict.LOST not in sides


def _pair_case(campaign: str, pair: PairResult, *, skipped: bool) -> TestCase:
    name = f"{_baseline_name(pair)}..{pair.candidate.id}"
    case = TestCase(_xml(name), _xml(f"{campaign}.pairs"), 0.0)
    lines = [f"{pair.outcome}: {pair.message}"]
    if pair.side_by_side:
        lines.extend(side_by_side_lines(pair.side_by_side, *pair.sides))
    body = "\n".join(lines)
    if pair.alarming:
        case.result = [_outcome(Failure, lines[0], pair.outcome.value, body)]
    elif skipped:
        case.result = [_outcome(Skipped, pair.message, pair.outcome.value, "")]
    elif pair.outcome is PairOutcome.INCONCLUSIVE:
        case.result = [_outcome(Error, lines[0], pair.outcome.value, body)]
    else:
        case.system_out = _xml(body)
    return case


def _baseline_name(pair: PairResult) -> str:
    """Enough to tell the baseline, beside the candidate's id."""
    same_kernel = pair.baseline.kernel == pair.candidate.kernel
    return pair.baseline.driver if same_kernel else pair.baseline.kernel


def _findings(result: CellResult) -> list[str]:
    return [line for finding in result.findings for line in ("", *finding_lines(finding))]


def _outcome(
    kind: type[Failure | Error | Skipped], message: str, name: str, body: str
) -> Failure | Error | Skipped:
    outcome = kind(_xml(message), name)
    outcome.text = _xml(body)
    return outcome


def _xml(text: str) -> str:
    """The text with escapes, as in Python, in place of what XML can't hold."""
    return _NOT_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
