"""What a campaign's result means for the process's exit code."""

from __future__ import annotations

from enum import IntEnum

from qemu_diff.model import BisectionEnding, CampaignResult, CellResult, CellVerdict


class ExitCode(IntEnum):
    """The contract with scripts and CI."""

    AS_EXPECTED = 0
    UNEXPECTED = 1
    USER_ERROR = 2
    LOST = 3


MEANINGS = {
    ExitCode.AS_EXPECTED: "everything as expected, expected failures seen included",
    ExitCode.UNEXPECTED: "an unexpected finding, an expectation not met, or a regression",
    ExitCode.USER_ERROR: "a mistake in what was asked for",
    ExitCode.LOST: "nothing judged, or infrastructure lost",
}


def exit_code(result: CampaignResult) -> ExitCode:
    """A finding outweighs what was lost beside it; what was skipped changes nothing."""
    if unexpected_cells(result) or any(pair.alarming for pair in result.pairs):
        return ExitCode.UNEXPECTED
    lost = any(cell.verdict is CellVerdict.LOST for cell in result.cells)
    judged = any(cell.verdict.judged for cell in result.cells)
    if lost or not judged or not result.complete:
        return ExitCode.LOST
    return ExitCode.AS_EXPECTED


NOT_TESTABLE = 125
"""git-bisect(1), "Bisect run": the commit is skipped."""

ABORTED = 128
"""The same: from here on ``git bisect run`` ends, and what was told of other commits stays."""


def bisect_exit_code(result: CampaignResult) -> int:
    """What a result means for ``git bisect run``: 0 good, 1 bad, 125 skip; above 127 the end."""
    if not result.complete:
        return bisect_failure(ExitCode.LOST)
    code = exit_code(result)
    return bisect_failure(code, of_the_commit=True) if code is ExitCode.LOST else code


def bisect_failure(code: int, *, of_the_commit: bool = False) -> int:
    """The same of a run that had no result.

    :param code: what it ends with otherwise.
    :param of_the_commit: another commit may do better; else all of them would end like this.
    """
    return NOT_TESTABLE if of_the_commit else ABORTED + code


_OF_ENDING = {
    BisectionEnding.FOUND: ExitCode.AS_EXPECTED,
    BisectionEnding.NOT_CONFIRMED: ExitCode.UNEXPECTED,
    BisectionEnding.WRONG_ENDS: ExitCode.UNEXPECTED,
    BisectionEnding.ONLY_SKIPPED: ExitCode.LOST,
    BisectionEnding.UNTESTABLE: ExitCode.LOST,
}


def bisection_exit_code(ending: BisectionEnding) -> ExitCode:
    """What a bisection's ending means for scripts."""
    return _OF_ENDING[ending]


def unexpected_cells(result: CampaignResult) -> tuple[CellResult, ...]:
    """Judged cells that did not do what the campaign expects."""
    return tuple(cell for cell in result.cells if cell.verdict.judged and not cell.as_expected)
