"""JUnit: a suite for each kernel and one for the pairs, a testcase for each cell and each pair.

What was lost is an error, never a failure. Tries that came out otherwise than the last are told as
Maven's Surefire does: ``flaky…`` where the testcase passes after all, ``rerun…`` where it does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from junitparser import Error, Failure, Skipped
from junitparser.xunit2 import (
    FlakyError,
    FlakyFailure,
    InterimResult,
    JUnitXml,
    RerunError,
    RerunFailure,
    TestCase,
    TestSuite,
)

from qemu_diff.model import CampaignResult, Cell, Nights
from qemu_diff.report.cases import FIRST_NIGHT, Case, Group, Outcome, grouped, started_at

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML document may hold (XML 1.0, production 2, "Char"), and a kernel's console may."""

_ELEMENTS = {Outcome.FAILURE: Failure, Outcome.ERROR: Error, Outcome.SKIPPED: Skipped}


def junit(result: CampaignResult, nights: Nights = FIRST_NIGHT) -> str:
    """The result as a JUnit XML document."""
    document = JUnitXml(_xml(f"qemu-diff.{result.name}"))
    for group in grouped(result, nights):
        document.add_testsuite(_suite(result, group))
    document.update_statistics()  # type: ignore[no-untyped-call]
    text: bytes = document.tostring()  # type: ignore[no-untyped-call]
    return text.decode()


def _suite(result: CampaignResult, group: Group) -> TestSuite:
    name = _xml(f"{result.name}.{group.name}")
    suite = TestSuite(name)  # type: ignore[no-untyped-call]
    started = started_at(result)
    if started:
        # Ant's format has no zone; the others read one, and assume UTC without.
        suite.timestamp = started.strftime("%Y-%m-%dT%H:%M:%S")
    for key, value in _properties(result, group.kernel):
        if value:
            suite.add_property(_xml(key), _xml(value))
    # One by one, each would make it count all again.
    suite.add_testcases([_case(name, case) for case in group.cases])
    return suite


def _properties(result: CampaignResult, kernel: str) -> Iterator[tuple[str, str]]:
    provenance = result.provenance
    yield "qemu-diff", provenance.tool
    yield "run", result.run
    yield "complete", "yes" if result.complete else "no"
    yield "qemu", provenance.qemu
    yield from ((f"qemu.{name}", version) for name, version in provenance.qemus)
    yield "nested_qemu", ", ".join(provenance.nested_qemu)
    for one in provenance.kernels:
        prefix = "kernel" if kernel else f"kernel.{one.name}"
        if kernel in ("", one.name):
            yield f"{prefix}.release", one.release
            yield f"{prefix}.key", one.key
            yield f"{prefix}.source", one.source
    for cell in (one.cell for one in result.cells if one.cell.kernel == kernel):
        yield f"cell.{cell.id}", _described(cell)


def _described(cell: Cell) -> str:
    """What a testcase's name leaves out; the schema has no properties for a testcase."""
    machine = cell.machine
    parts = {
        "seed": str(cell.seed),
        "expected": ",".join(cell.expected),
        "driver": cell.driver,
        "job": cell.session or cell.job,
        "flood": f"{cell.flood.source or 'none'} {cell.flood.placement}",
        "machine": f"{machine.kvm_mode} {machine.cpu} gic{machine.gic_version} "
        f"{machine.page_kib}k cpus={machine.cpus} {machine.exception_order}",
    }
    return "; ".join(f"{key}={value}" for key, value in parts.items())


def _case(classname: str, case: Case) -> TestCase:
    made = TestCase(_xml(case.name), classname, case.duration_s)
    body = _xml("\n".join(case.lines))
    if case.outcome is not Outcome.PASS:
        element = _ELEMENTS[case.outcome](_xml(case.message), case.kind)
        element.text = "" if case.outcome is Outcome.SKIPPED else body
        made.result = [element]
    for other in _other_tries(case):
        made.add_interim_result(other)
    if case.outcome is Outcome.PASS:
        made.system_out = body
    return made


def _other_tries(case: Case) -> Iterator[InterimResult]:
    passed = case.outcome is Outcome.PASS
    error, failure = (FlakyError, FlakyFailure) if passed else (RerunError, RerunFailure)
    for _ in range(case.lost_boots):
        yield error("a boot was lost, and started again", "lost")
    for sentence in case.flaky:
        yield failure(_xml(sentence), "flaky")


def _xml(text: str) -> str:
    """The text with escapes, as in Python, in place of what XML can't hold."""
    return _NOT_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
