"""How each report shows a pair of drivers."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from rich.console import Console

from qemu_diff.model import (
    CampaignResult,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    FloodSpec,
    Instruction,
    MachineSpec,
    PairOutcome,
    PairResult,
    SideBySide,
)
from qemu_diff.report.html import html
from qemu_diff.report.junit import junit
from qemu_diff.report.terminal import print_result
from qemu_diff.report.words import closing_sentence

ROWS = SideBySide(((Instruction(0x5A5A_0008, "first_hvc", "hvc #0"), True, False),))
ALARMING = [outcome for outcome in PairOutcome if outcome.alarming]


def cell(driver: Driver) -> Cell:
    suffix = "" if driver is Driver.IN_GUEST else f".driver-{driver}"
    quiet = FloodSpec()
    return Cell(f"mine.hvc.vhe.quiet{suffix}", "mine", "hvc", MachineSpec(), quiet, driver, seed=1)


def campaign(outcome: PairOutcome, message: str = "they say different things") -> CampaignResult:
    sides = cell(Driver.IN_GUEST), cell(Driver.GDB)
    results = tuple(CellResult(one, CellVerdict.PASS, steps=90) for one in sides)
    return CampaignResult("c", results, (PairResult(*sides, outcome, message, ROWS),), True)


def case(outcome: PairOutcome) -> ET.Element:
    document = ET.fromstring(junit(campaign(outcome)).encode())
    (found,) = (one for one in document.iter("testcase") if one.get("classname") == "c.pairs")
    return found


def on_terminal(result: CampaignResult) -> str:
    console = Console(file=io.StringIO(), width=200, no_color=True)
    print_result(result, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def on_page(result: CampaignResult) -> str:
    return " ".join(re.sub("<[^>]*>", " ", html(result)).split())


@pytest.mark.parametrize("outcome", PairOutcome)
def test_a_testcase_fails_where_the_pair_is_alarming(outcome: PairOutcome) -> None:
    found = case(outcome)
    failure = found.find("failure")
    assert found.get("name") == "in_guest..mine.hvc.vhe.quiet.driver-gdb"
    assert (failure is not None) is outcome.alarming
    if failure is not None:
        assert failure.get("type") == outcome.value
        assert failure.get("message") == f"{outcome.value}: they say different things"
        assert "mine by gdb" in (failure.text or "")


def test_a_pair_of_kernels_is_named_by_the_baseline_s_kernel() -> None:
    made = campaign(PairOutcome.SAME)
    (pair,) = made.pairs
    other = replace(pair, candidate=replace(pair.baseline, id="new.hvc", kernel="new"))
    document = junit(replace(made, pairs=(other,)))
    assert 'name="mine..new.hvc"' in document


@pytest.mark.parametrize("show", [on_terminal, on_page])
def test_both_sides_are_named(show: object) -> None:
    assert callable(show)
    assert "mine by in_guest → mine by gdb" in show(campaign(PairOutcome.DIFFERENT))


def test_the_page_says_what_is_not_as_expected() -> None:
    said = (
        "mine.hvc.vhe.quiet.driver-gdb: different from mine by in_guest: they say different things"
    )
    assert said in on_page(campaign(PairOutcome.DIFFERENT))
    assert "Not as expected" not in on_page(campaign(PairOutcome.ONE_FAILS))


def test_the_closing_sentence_counts_pairs_that_differ() -> None:
    assert "1 of 1 pairs differ" in closing_sentence(campaign(PairOutcome.DIFFERENT))
    assert "1 of 1 pairs regressed" in closing_sentence(campaign(PairOutcome.REGRESSED))
    assert "pairs" not in closing_sentence(campaign(PairOutcome.ONE_FAILS))


def test_a_pair_of_qemus_is_named_by_them() -> None:
    one = cell(Driver.IN_GUEST)
    newer = replace(one, id=f"{one.id}.qemu-v10", machine=MachineSpec(qemu="v10"))
    pair = PairResult(one, newer, PairOutcome.SAME, "same")
    assert pair.sides == ("mine on QEMU stock", "mine on QEMU v10")
    found = ET.fromstring(junit(CampaignResult("c", (), (pair,), complete=True)).encode())
    (case,) = found.iter("testcase")
    assert case.get("name") == "path..mine.hvc.vhe.quiet.qemu-v10"
