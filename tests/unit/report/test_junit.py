"""JUnit: who failed, what was lost, and a document that every parser reads."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from judged import (
    EVERYTHING,
    HANGS,
    NIGHTS,
    OOPSES,
    ROWS,
    cell,
    console_text,
    fails,
    flaky,
    lost,
    pair,
    passes,
    skipped,
    told,
)
from lxml import etree

from qemu_diff.model import (
    CampaignResult,
    CellResult,
    Expectation,
    PairOutcome,
    PairResult,
)
from qemu_diff.report.junit import junit

SCHEMA = Path(__file__).parents[2] / "data" / "junit" / "junit-10.xsd"


def suites(*cells: CellResult, pairs: tuple[PairResult, ...] = (), name: str = "c") -> ET.Element:
    return ET.fromstring(junit(CampaignResult(name, cells, pairs, complete=True)).encode())


def complaints(document: str) -> list[str]:
    """What Jenkins' xUnit plugin would refuse."""
    schema = etree.XMLSchema(etree.parse(SCHEMA))
    schema.validate(etree.fromstring(document.encode()))
    return [f"{one.line}: {one.message}" for one in schema.error_log]


def only_case(*cells: CellResult, pairs: tuple[PairResult, ...] = ()) -> ET.Element:
    (case,) = suites(*cells, pairs=pairs).iter("testcase")
    return case


def outcome_of(case: ET.Element) -> str:
    """``failure``, ``error``, ``skipped``, or ``pass``."""
    found = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
    assert len(found) <= 1
    return found[0] if found else "pass"


# --- who failed ---


def test_one_testcase_per_cell_and_per_pair() -> None:
    found = suites(fails(), passes(), pairs=(pair(PairOutcome.FIXED),))
    assert [(case.get("classname"), case.get("name")) for case in found.iter("testcase")] == [
        ("c.unpatched", "unpatched.hvc.vhe.quiet"),
        ("c.patched", "patched.hvc.vhe.quiet"),
        ("c.pairs", "unpatched..patched.hvc.vhe.quiet"),
    ]


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (passes(), "pass"),
        (fails(), "failure"),
        (HANGS, "failure"),
        (OOPSES, "failure"),
        (lost(), "error"),
        (skipped(), "skipped"),
        (skipped(expected=Expectation.LOST_STEP), "skipped"),
        # A control: the bug that must be seen.
        (fails(expected=Expectation.LOST_STEP), "pass"),
        (replace(HANGS, cell=cell("k", Expectation.HANG)), "pass"),
        (passes(expected=Expectation.LOST_STEP), "failure"),
        (fails(expected=Expectation.WRONG_PC), "failure"),
        (replace(lost(), cell=cell("k", Expectation.LOST_STEP)), "error"),
    ],
)
def test_the_outcome_of_a_cell(result: CellResult, outcome: str) -> None:
    assert outcome_of(only_case(result)) == outcome


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (PairOutcome.SAME, "pass"),
        (PairOutcome.FIXED, "pass"),
        (PairOutcome.BOTH_FAIL, "pass"),
        (PairOutcome.REGRESSED, "failure"),
        (PairOutcome.INCONCLUSIVE, "error"),
    ],
)
def test_the_outcome_of_a_pair(outcome: PairOutcome, expected: str) -> None:
    assert outcome_of(only_case(pairs=(pair(outcome),))) == expected


def test_a_pair_with_a_side_that_was_skipped_is_skipped() -> None:
    inconclusive = (pair(PairOutcome.INCONCLUSIVE, message="skipped: unpatched (no such suite)"),)
    *_, case = suites(skipped("unpatched"), passes(), pairs=inconclusive).iter("testcase")
    assert outcome_of(case) == "skipped"
    gone = replace(lost(), cell=cell("patched"))
    *_, case = suites(skipped("unpatched"), gone, pairs=inconclusive).iter("testcase")
    assert outcome_of(case) == "error"


def test_what_was_skipped_says_why() -> None:
    (element,) = only_case(skipped())
    assert (element.tag, element.get("type"), element.get("message")) == (
        "skipped",
        "skipped",
        "no such suite",
    )


COUNTS = ("tests", "failures", "errors", "skipped")


def test_the_statistics_add_up() -> None:
    pairs = (pair(PairOutcome.REGRESSED), pair(PairOutcome.FIXED), pair(PairOutcome.INCONCLUSIVE))
    found = suites(fails(), passes(), lost(), skipped(), HANGS, pairs=pairs)
    counts = [{key: int(one.get(key, "0")) for key in COUNTS} for one in found]
    assert {key: sum(one[key] for one in counts) for key in COUNTS} == {
        "tests": 8,
        "failures": 3,
        "errors": 2,
        "skipped": 1,
    }
    assert [found.get(key) for key in ("tests", "failures", "errors")] == ["8", "3", "2"]
    assert float(found.get("time", "")) == 3.5


# --- what they say ---


def test_a_failure_can_be_read_on_its_own() -> None:
    (failure,) = only_case(fails())
    assert (failure.get("type"), failure.get("message")) == (
        "fail",
        "unpatched.hvc.vhe.quiet: fail, expected to pass: 50 lost-step in 350 steps",
    )
    assert failure.text == (
        "unpatched loses the step at first_hvc (hvc #0) every time: 50 of 50\n"
        "\n"
        "lost-step at report 2 of boot run (pass 0, no-interrupt)\n"
        "  L2 stood at      0x5a5a0008  first_hvc: hvc #0\n"
        "  then it ran      0x5a5a0008  first_hvc: hvc #0\n"
        "  and also         0x5a5a000c  first_hvc+0x4: nop\n"
        "  reported         0x5a5a0010  first_hvc+0x8: mov x1, x0\n"
        "  due was          0x5a5a000c  first_hvc+0x4: nop\n"
        "  never reported   0x5a5a000c  first_hvc+0x4: nop"
    )


def test_an_error_says_what_was_lost() -> None:
    (error,) = only_case(lost("QEMU died (signal 9); its last line: Booting"))
    assert (error.get("type"), error.get("message")) == (
        "lost",
        "broken.hvc.vhe.quiet: nothing was learnt: QEMU died (signal 9); its last line: Booting",
    )


def test_what_passes_says_what_was_seen() -> None:
    control = only_case(fails(expected=Expectation.LOST_STEP))
    assert "every time: 50 of 50" in control.findtext("system-out", "")
    assert "450 steps" in only_case(passes()).findtext("system-out", "")


def test_a_regressed_pair_shows_both_kernels_pcs() -> None:
    (failure,) = only_case(pairs=(pair(PairOutcome.REGRESSED, ROWS, "patched: 50 lost-step"),))
    assert failure.get("message") == "regressed: patched: 50 lost-step"
    lines = (failure.text or "").splitlines()
    assert lines[1].split() == ["unpatched", "patched"]
    assert lines[3].split() == ["first_hvc+0x4:", "nop", "-", "0x5a5a000c"]


# --- text of a dying guest ---


@settings(deadline=None, max_examples=100)
@given(console_text)
def test_any_text_gives_a_document_that_parsers_read(text: str) -> None:
    document = junit(told(text))
    assert len(list(ET.fromstring(document.encode()).iter("testcase"))) == 5 + len(PairOutcome)
    assert complaints(document) == []


def test_what_xml_can_not_hold_is_escaped_and_what_it_can_is_not() -> None:
    (error,) = only_case(lost("\x1b[31m\x00\ufffe\udc80 <&> ü \ufffd \U0001f600 ]]>"))
    reason = r"\x1b[31m\x00\ufffe\udc80 <&> ü " + "\ufffd \U0001f600 ]]>"
    assert error.get("message") == f"broken.hvc.vhe.quiet: nothing was learnt: {reason}"
    assert reason in (error.text or "")


# --- what CI systems make of it ---


def test_it_is_what_jenkins_reads() -> None:
    assert complaints(junit(EVERYTHING, NIGHTS)) == []
    assert complaints(junit(CampaignResult("empty", (), (), complete=False))) == []
    assert complaints("<testsuites><testsuite/></testsuites>") != []


def test_a_suite_for_each_kernel_and_one_for_the_pairs() -> None:
    found = ET.fromstring(junit(EVERYTHING).encode())
    names = ["patched", "unpatched", "regressing", "k", "broken", "unbuilt", "witness", "pairs"]
    assert [one.get("name") for one in found] == [f"nightly.{name}" for name in names]
    assert {one.get("timestamp") for one in found} == {"2026-11-22T02:00:00"}
    assert all(one.get("hostname") is None for one in found)


def properties(suite: ET.Element) -> dict[str, str]:
    return {one.get("name", ""): one.get("value", "") for one in suite.iter("property")}


def test_a_suite_says_what_it_was_measured_with() -> None:
    patched, unpatched, *_, pairs = ET.fromstring(junit(EVERYTHING).encode())
    said = properties(patched)
    assert said["kernel.release"] == "6.1.192"
    assert said["kernel.key"] == "cafe" * 8
    assert said["kernel.source"] == "debian linux-source-6.1 6.1.192-2"
    assert said["qemu"] == "QEMU emulator version 7.2.22"
    assert (said["qemu-diff"], said["run"]) == ("0.1.0", "5eed" * 4)
    assert said["cell.patched.hvc.vhe.quiet"] == (
        "seed=1; expected=pass; driver=in_guest; job=step; flood=none none; "
        "machine=vhe max gic3 4k cpus=1 tcg"
    )
    assert properties(unpatched)["kernel.key"] == "beef" * 8
    assert properties(pairs)["kernel.patched.key"] == "cafe" * 8


@pytest.mark.parametrize(
    ("result", "tags"),
    [
        (replace(passes(), attempts=3), ["flakyError", "flakyError", "system-out"]),
        (replace(lost(), attempts=2), ["error", "rerunError"]),
        (flaky(fails(expected=Expectation.LOST_STEP)), ["flakyFailure", "system-out"]),
        (flaky(fails()), ["failure", "rerunFailure"]),
    ],
)
def test_other_tries_are_told_as_surefire_does(result: CellResult, tags: list[str]) -> None:
    case = only_case(result)
    assert sorted(child.tag for child in case) == tags
    others = [child for child in case if child.tag.startswith(("flaky", "rerun"))]
    assert all(one.get("type") and one.get("message") for one in others)


def test_it_says_what_changed_since_the_last_night() -> None:
    cases = {
        one.get("name"): "".join(one.itertext())
        for one in ET.fromstring(junit(EVERYTHING, NIGHTS).encode()).iter("testcase")
    }
    assert "regressing.hvc.vhe.quiet: broke: pass → fail" in cases["regressing.hvc.vhe.quiet"]
    assert "flaky: 3 of 17 runs on the same kernel" in cases["patched.hvc.vhe.quiet"]


def test_a_cost_that_changed_too_much_is_a_failure() -> None:
    found = ET.fromstring(junit(EVERYTHING).encode()).iter("testcase")
    case = next(one for one in found if one.get("name") == "patched..k.hvc.vhe.quiet")
    failure = case.find("failure")
    assert failure is not None
    assert failure.text is not None
    assert failure.get("type") == "cost"
    assert "L1 instructions per step, patched → k: hvc 4,460 → 5,900 (+32.3 %)" in failure.text
