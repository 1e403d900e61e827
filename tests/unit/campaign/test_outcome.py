"""What a campaign's result means for scripts and CI."""

from __future__ import annotations

import pytest

from qemu_diff.campaign.outcome import (
    ExitCode,
    bisect_exit_code,
    bisect_failure,
    exit_code,
    unexpected_cells,
)
from qemu_diff.model import (
    CampaignResult,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    Expectation,
    FloodSpec,
    MachineSpec,
    PairOutcome,
    PairResult,
    ViolationKind,
)

FOUND = ((ViolationKind.LOST_STEP, 3),)


def cell(verdict: CellVerdict, expected: Expectation = Expectation.PASS) -> CellResult:
    described = Cell(
        id=f"k.hvc.{verdict}.{expected}",
        kernel="k",
        payload="hvc",
        machine=MachineSpec(),
        flood=FloodSpec(),
        driver=Driver.IN_GUEST,
        seed=1,
        expected=(expected,),
    )
    return CellResult(described, verdict, violations=FOUND if verdict is CellVerdict.FAIL else ())


PASSES = cell(CellVerdict.PASS)
FAILS = cell(CellVerdict.FAIL)
HANGS = cell(CellVerdict.HANG)
OOPSES = cell(CellVerdict.KERNEL_OOPS)
LOST = cell(CellVerdict.LOST)
SHOWS_ITS_BUG = cell(CellVerdict.FAIL, Expectation.LOST_STEP)
HANGS_AS_IT_MUST = cell(CellVerdict.HANG, Expectation.HANG)
HIDES_ITS_BUG = cell(CellVerdict.PASS, Expectation.LOST_STEP)
SKIPPED = cell(CellVerdict.SKIPPED)
SKIPPED_CONTROL = cell(CellVerdict.SKIPPED, Expectation.LOST_STEP)
LOST_CONTROL = cell(CellVerdict.LOST, Expectation.LOST_STEP)


def campaign(*cells: CellResult, complete: bool = True, pair: str = "") -> CampaignResult:
    pairs = [PairResult(PASSES.cell, FAILS.cell, PairOutcome(pair), "")] if pair else []
    return CampaignResult("c", cells, tuple(pairs), complete)


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (campaign(PASSES), 0),
        (campaign(PASSES, SHOWS_ITS_BUG, HANGS_AS_IT_MUST), 0),
        (campaign(FAILS), 1),
        (campaign(HANGS), 1),
        (campaign(OOPSES), 1),
        (campaign(HIDES_ITS_BUG), 1),
        (campaign(PASSES, PASSES, FAILS), 1),
        (campaign(LOST), 3),
        (campaign(PASSES, LOST), 3),
        (campaign(LOST_CONTROL), 3),
        (campaign(PASSES, complete=False), 3),
        (campaign(), 3),
        (campaign(complete=False), 3),
        # A finding outweighs what was lost beside it.
        (campaign(LOST, FAILS), 1),
        (campaign(FAILS, complete=False), 1),
        # The pair's word counts even where each of its cells is as expected.
        (campaign(PASSES, SHOWS_ITS_BUG, pair="regressed"), 1),
        (campaign(PASSES, LOST, pair="regressed"), 1),
        (campaign(PASSES, PASSES, pair="different"), 1),
        (campaign(PASSES, LOST, pair="different"), 1),
        (campaign(PASSES, SHOWS_ITS_BUG, pair="one-fails"), 0),
        (campaign(PASSES, SHOWS_ITS_BUG, pair="fixed"), 0),
        (campaign(PASSES, pair="same"), 0),
        (campaign(SHOWS_ITS_BUG, pair="both-fail"), 0),
        (campaign(PASSES, LOST, pair="inconclusive"), 3),
        # A kernel that is optional changes nothing where it can't be had.
        (campaign(PASSES, SKIPPED, SKIPPED_CONTROL), 0),
        (campaign(PASSES, SKIPPED, pair="inconclusive"), 0),
        (campaign(SKIPPED, FAILS), 1),
        (campaign(SKIPPED, LOST, PASSES), 3),
        (campaign(SKIPPED, PASSES, complete=False), 3),
        # But a campaign that judged nothing says so.
        (campaign(SKIPPED), 3),
    ],
)
def test_the_exit_code_of_a_campaign(result: CampaignResult, code: int) -> None:
    assert exit_code(result) == code


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (campaign(PASSES, SHOWS_ITS_BUG), 0),
        (campaign(FAILS), 1),
        (campaign(LOST, FAILS), 1),
        (campaign(LOST), 125),
        (campaign(PASSES, LOST), 125),
        (campaign(SKIPPED), 125),
        # Called off: git must not take that for a verdict.
        (campaign(PASSES, complete=False), 131),
        (campaign(FAILS, complete=False), 131),
    ],
)
def test_the_exit_code_for_git_bisect_run(result: CampaignResult, code: int) -> None:
    assert bisect_exit_code(result) == code


def test_a_failure_that_every_commit_would_have_ends_git_bisect_run() -> None:
    assert bisect_failure(2) == 130
    assert bisect_failure(2, of_the_commit=True) == bisect_failure(3, of_the_commit=True) == 125


def test_the_codes_are_a_contract() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "AS_EXPECTED": 0,
        "UNEXPECTED": 1,
        "USER_ERROR": 2,
        "LOST": 3,
    }


def test_a_cell_that_was_not_judged_is_not_an_unexpected_one() -> None:
    result = campaign(
        PASSES, FAILS, LOST, SKIPPED, SHOWS_ITS_BUG, HIDES_ITS_BUG, LOST_CONTROL, SKIPPED_CONTROL
    )
    assert unexpected_cells(result) == (FAILS, HIDES_ITS_BUG)
