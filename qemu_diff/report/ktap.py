"""KTAP, version 1 (Linux kernel, Documentation/dev-tools/ktap.rst): kernels, and in them cells.

What was lost is ``not ok … # ERROR``: a parser that does not know that directive takes it for a
failure, as the specification says. A kernel that hangs has failed; nothing timed out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from qemu_diff.model import CampaignResult
from qemu_diff.report.cases import Case, Outcome, grouped
from qemu_diff.report.printable import printable

VERSION = "KTAP version 1"
_INDENT = "  "

_ENDS = re.compile("List of all partitions:|Kernel panic - not syncing: VFS:|reboot: System halted")
"""With these words of a console, anywhere in a line, ``tools/testing/kunit/kunit_parser.py``
(KTAP_END) takes the whole output for ended."""

_HEADER = "Subtest:"
"""At the begin of a diagnostic line: a subtest's header."""


def ktap(result: CampaignResult) -> str:
    """The result as a KTAP document."""
    groups = grouped(result)
    lines = [VERSION, f"1..{len(groups)}"]
    for number, group in enumerate(groups, 1):
        lines += [VERSION, f"# Subtest: {_name(group.name)}", f"1..{len(group.cases)}"]
        begin = len(lines) - 3
        for place, case in enumerate(group.cases, 1):
            lines += _case(place, case)
        lines[begin:] = [f"{_INDENT}{line}" for line in lines[begin:]]
        lines.append(_result(number, group.name, *_whole(group.cases)))
    return "\n".join(lines) + "\n"


def _case(number: int, case: Case) -> Iterator[str]:
    for line in case.lines:
        yield _diagnostic(line)
    for _ in range(case.lost_boots):
        yield _diagnostic("a boot was lost, and started again")
    yield _result(number, case.name, case.outcome, case.message)


def _whole(cases: tuple[Case, ...]) -> tuple[Outcome, str]:
    """A group fails if any of its cases does; it is skipped only as a whole."""
    outcomes = [case.outcome for case in cases]
    for outcome in (Outcome.FAILURE, Outcome.ERROR):
        if number := outcomes.count(outcome):
            return outcome, f"{number} of {len(outcomes)}"
    if Outcome.PASS not in outcomes:
        return Outcome.SKIPPED, cases[0].message
    return Outcome.PASS, ""


def _result(number: int, name: str, outcome: Outcome, message: str) -> str:
    good = "ok" if outcome in (Outcome.PASS, Outcome.SKIPPED) else "not ok"
    directive = {Outcome.SKIPPED: "SKIP ", Outcome.ERROR: "ERROR "}.get(outcome, "")
    # Behind another # a directive could stand.
    data = _plain(message.replace("#", ""))
    told = f" # {directive}{data}".rstrip() if directive or data else ""
    return f"{good} {number} {_name(name)}{told}"


def _diagnostic(text: str) -> str:
    return f"# {_plain(text).replace(_HEADER, 'Subtest :')}".rstrip()


def _name(text: str) -> str:
    """The specification allows any words but ``#``."""
    return _plain(text.replace("#", "_"))


def _plain(text: str) -> str:
    """One line, with nothing in it that ends the output."""
    return _ENDS.sub(lambda found: found[0].replace(" ", "  ", 1), printable(text))
