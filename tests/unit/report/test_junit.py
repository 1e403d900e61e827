"""JUnit: who failed, what was lost, and a document that every parser reads."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_diff.model import (
    Breakdown,
    CampaignResult,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    Expectation,
    Finding,
    FloodSpec,
    Instruction,
    MachineSpec,
    PairOutcome,
    PairResult,
    SideBySide,
    ViolationKind,
)
from qemu_diff.report.junit import junit

HVC = Instruction(0x5A5A_0008, "first_hvc", "hvc #0")
NOP = Instruction(0x5A5A_000C, "first_hvc+0x4", "nop")
NEXT = Instruction(0x5A5A_0010, "first_hvc+0x8", "mov x1, x0")
FINDING = Finding(
    kind=ViolationKind.LOST_STEP,
    boot="run",
    report=2,
    pass_number=0,
    previous_pc=HVC,
    reported_pc=NEXT,
    legal_pcs=(NOP,),
    executed=(HVC, NOP),
    missed=(NOP,),
    requested_ns=None,
    delivered_ns=None,
    attributed_to="no-interrupt",
    message="2 instructions ran for one reported step",
)
ROWS = SideBySide(((HVC, True, True), (NOP, False, True), (NEXT, True, True)))


def cell(kernel: str, expected: Expectation = Expectation.PASS) -> Cell:
    return Cell(
        id=f"{kernel}.hvc.vhe.quiet",
        kernel=kernel,
        payload="hvc",
        machine=MachineSpec(),
        flood=FloodSpec(),
        driver=Driver.IN_GUEST,
        seed=1,
        expected=(expected,),
    )


def passes(kernel: str = "patched", expected: Expectation = Expectation.PASS) -> CellResult:
    return CellResult(cell(kernel, expected), CellVerdict.PASS, steps=450, duration_s=1.5)


def fails(kernel: str = "unpatched", expected: Expectation = Expectation.PASS) -> CellResult:
    return CellResult(
        cell(kernel, expected),
        CellVerdict.FAIL,
        steps=350,
        violations=((ViolationKind.LOST_STEP, 50),),
        breakdown=(Breakdown(HVC, ViolationKind.LOST_STEP, broken=50, stepped=50),),
        findings=(FINDING,),
        reason="50 lost-step in 350 steps",
        duration_s=2.0,
    )


def lost(reason: str = "QEMU died (signal 9); it printed nothing") -> CellResult:
    return CellResult(cell("broken"), CellVerdict.LOST, reason=reason)


def skipped(kernel: str = "witness", expected: Expectation = Expectation.PASS) -> CellResult:
    return CellResult(cell(kernel, expected), CellVerdict.SKIPPED, reason="no such suite")


def pair(outcome: PairOutcome, rows: SideBySide | None = None, message: str = "m") -> PairResult:
    return PairResult(cell("unpatched"), cell("patched"), outcome, message, rows)


def suite(*cells: CellResult, pairs: tuple[PairResult, ...] = (), name: str = "c") -> ET.Element:
    document = junit(CampaignResult(name, cells, pairs, complete=True))
    (found,) = ET.fromstring(document.encode())
    return found


def only_case(*cells: CellResult, pairs: tuple[PairResult, ...] = ()) -> ET.Element:
    (case,) = suite(*cells, pairs=pairs).iter("testcase")
    return case


def outcome_of(case: ET.Element) -> str:
    """``failure``, ``error``, ``skipped``, or ``pass``."""
    found = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
    assert len(found) <= 1
    return found[0] if found else "pass"


# --- who failed ---


def test_one_testcase_per_cell_and_per_pair() -> None:
    found = suite(fails(), passes(), pairs=(pair(PairOutcome.FIXED),))
    assert [(case.get("classname"), case.get("name")) for case in found.iter("testcase")] == [
        ("c.unpatched", "unpatched.hvc.vhe.quiet"),
        ("c.patched", "patched.hvc.vhe.quiet"),
        ("c.pairs", "unpatched..patched.hvc.vhe.quiet"),
    ]


HANGS = CellResult(cell("k"), CellVerdict.HANG, reason="no return from KVM_RUN")
OOPSES = CellResult(cell("k"), CellVerdict.KERNEL_OOPS, reason="Kernel panic - not syncing: x")


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
    *_, case = suite(skipped("unpatched"), passes(), pairs=inconclusive).iter("testcase")
    assert outcome_of(case) == "skipped"
    gone = replace(lost(), cell=cell("patched"))
    *_, case = suite(skipped("unpatched"), gone, pairs=inconclusive).iter("testcase")
    assert outcome_of(case) == "error"


def test_what_was_skipped_says_why() -> None:
    (element,) = only_case(skipped())
    assert (element.tag, element.get("type"), element.get("message")) == (
        "skipped",
        "skipped",
        "no such suite",
    )


def test_the_statistics_add_up() -> None:
    pairs = (pair(PairOutcome.REGRESSED), pair(PairOutcome.FIXED), pair(PairOutcome.INCONCLUSIVE))
    found = suite(fails(), passes(), lost(), skipped(), HANGS, pairs=pairs)
    assert {key: found.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "8",
        "failures": "3",
        "errors": "2",
        "skipped": "1",
    }
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

# Everything that `bytes.decode(errors="replace")` can give, and more.
anything = st.text(st.characters(exclude_categories=()), max_size=40)
console_text = anything | st.binary(max_size=40).map(lambda raw: raw.decode(errors="replace"))


@settings(deadline=None, max_examples=200)
@given(console_text)
def test_any_text_gives_a_document_that_parsers_read(text: str) -> None:
    finding = replace(FINDING, boot=text, executed=(replace(HVC, text=text),))
    found = suite(
        lost(text),
        replace(fails(), reason=text, findings=(finding,), warnings=(text,)),
        replace(passes(), warnings=(text,)),
        replace(HANGS, reason=text, cell=replace(HANGS.cell, id=text, kernel=text)),
        pairs=tuple(pair(outcome, message=text) for outcome in PairOutcome),
        name=text,
    )
    assert len(list(found.iter("testcase"))) == 4 + len(PairOutcome)


def test_what_xml_can_not_hold_is_escaped_and_what_it_can_is_not() -> None:
    (error,) = only_case(lost("\x1b[31m\x00\ufffe\udc80 <&> ü \ufffd \U0001f600 ]]>"))
    reason = r"\x1b[31m\x00\ufffe\udc80 <&> ü " + "\ufffd \U0001f600 ]]>"
    assert error.get("message") == f"broken.hvc.vhe.quiet: nothing was learnt: {reason}"
    assert reason in (error.text or "")
