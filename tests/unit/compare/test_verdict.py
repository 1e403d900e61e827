"""One cell's verdict, and whether it is the one that its campaign expects."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from streams import BASE, HVC, NOP, payload_of

from qemu_diff.compare.contract import Judged, Steps
from qemu_diff.compare.observation import Observation
from qemu_diff.compare.placements import NOT_DELIVERED, Placements
from qemu_diff.compare.slices import UNKNOWN_PC
from qemu_diff.compare.verdict import judged_cell, unjudged_cell
from qemu_diff.model import (
    Breakdown,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    Expectation,
    FloodSpec,
    Instruction,
    MachineSpec,
    ViolationKind,
)
from qemu_diff.trace.listing import Listing

A, B = BASE, BASE + 4
LISTING = Listing(payload_of([NOP, HVC]))
AT_A, AT_B = Instruction(A, f"{A:#x}", "nop"), Instruction(B, f"{B:#x}", "hvc #0")

OK, LOST, SPURIOUS, WRONG = Judged


def cell(expected: Expectation = Expectation.PASS) -> Cell:
    return Cell(
        id="old.hvc.vhe.quiet",
        kernel="old",
        payload="hvc",
        machine=MachineSpec(),
        flood=FloodSpec(),
        driver=Driver.IN_GUEST,
        seed=1,
        expected=expected,
    )


Step = tuple[int, int, bool, int, int]
"""(executed PC, outcome, entered in Active-pending, delivered time, ticks)."""


def step(
    pc: int = A,
    outcome: int = OK,
    *,
    active_pending: bool = False,
    delivered: int = NOT_DELIVERED,
    ticks: int = 0,
) -> Step:
    return pc, outcome, active_pending, delivered, ticks


def observed(*steps: Step, previous_pc: int = UNKNOWN_PC) -> Observation:
    pc, outcome, active_pending, delivered, ticks = np.array(steps, np.int64).reshape(-1, 5).T
    number = np.arange(len(steps))
    return Observation(
        Steps(
            first_run=number,
            run=number,
            previous_pc=np.full(len(steps), previous_pc),
            reported_pc=pc + 4,
            executed=np.ones(len(steps), np.int64),
            first_executed=pc,
            active_pending=active_pending.astype(bool),
            irq_exits=np.zeros(len(steps), np.int64),
            outcome=outcome,
        ),
        Placements(delivered + 360, delivered, ticks),
        findings=(),
    )


def judged(*steps: Step, previous_pc: int = UNKNOWN_PC) -> CellResult:
    return judged_cell(cell(), observed(*steps, previous_pc=previous_pc), LISTING)


# --- counts ---


def test_a_cell_without_violations_passes() -> None:
    result = judged(step(A), step(B))
    assert result.verdict is CellVerdict.PASS
    assert (result.steps, result.violations, result.breakdown, result.reason) == (2, (), (), "")


def test_steps_that_count_are_counted_once() -> None:
    result = judged(
        step(),
        step(active_pending=True),
        step(delivered=500),
        step(delivered=0),
        step(active_pending=True, delivered=500, ticks=2),
        step(ticks=3),
        step(),
    )
    assert result.steps == 7
    assert result.active_pending_entries == 2
    assert result.interrupted_steps == 4
    assert result.counted_steps == 5
    assert result.l1_ticks == 5
    assert result.placements == 3


def test_violations_are_counted_by_kind() -> None:
    result = judged(
        step(A), step(A, SPURIOUS), step(A, LOST), step(B, LOST), step(B, WRONG), step(B, LOST)
    )
    assert result.verdict is CellVerdict.FAIL
    assert result.violations == (
        (ViolationKind.LOST_STEP, 3),
        (ViolationKind.SPURIOUS_STEP, 1),
        (ViolationKind.WRONG_PC, 1),
    )
    assert result.count(ViolationKind.LOST_STEP) == 3
    assert judged(step()).count(ViolationKind.LOST_STEP) == 0


def test_violations_are_broken_down_by_instruction() -> None:
    result = judged(step(A), step(A, LOST), step(B, LOST), step(B, WRONG), step(B, LOST))
    assert result.breakdown == (
        Breakdown(AT_A, ViolationKind.LOST_STEP, broken=1, stepped=2),
        Breakdown(AT_B, ViolationKind.LOST_STEP, broken=2, stepped=3),
        Breakdown(AT_B, ViolationKind.WRONG_PC, broken=1, stepped=3),
    )


def test_a_step_that_executed_nothing_is_the_instruction_s_at_which_l2_stood() -> None:
    result = judged(step(UNKNOWN_PC, SPURIOUS), step(B), previous_pc=B)
    assert result.breakdown == (Breakdown(AT_B, ViolationKind.SPURIOUS_STEP, broken=1, stepped=2),)


def test_the_reason_says_how_much_is_broken() -> None:
    assert judged(step(A, LOST), step(B, LOST), step(B)).reason == "2 lost-step in 3 steps"
    assert judged(step(A, LOST), step(B, WRONG)).reason == "1 lost-step, 1 wrong-pc in 2 steps"


def test_windows_and_grids_are_those_of_the_placements() -> None:
    broken = range(110, 115)
    result = judged(
        *(step(B, LOST if time in broken else OK, delivered=time) for time in range(100, 120))
    )
    ((window,), (grid,)) = result.windows, result.grids
    assert (window.instruction, window.first_ns, window.last_ns) == (AT_B, 110, 114)
    assert (grid.instruction, grid.placements, grid.missing) == (AT_B, 20, 0)


def test_a_cell_that_can_not_be_judged_says_why() -> None:
    result = unjudged_cell(cell(), CellVerdict.HANG, "no return from KVM_RUN")
    assert (result.verdict, result.reason) == (CellVerdict.HANG, "no return from KVM_RUN")
    assert (result.steps, result.violations) == (0, ())


# --- expectations ---

NOTHING = ()
ONE_LOST = ((ViolationKind.LOST_STEP, 1),)
ONE_SPURIOUS = ((ViolationKind.SPURIOUS_STEP, 1),)
ONE_WRONG = ((ViolationKind.WRONG_PC, 1),)
TWO_KINDS = (*ONE_LOST, *ONE_WRONG)
NONE_COUNTED = (*ONE_LOST, (ViolationKind.WRONG_PC, 0))

AS_EXPECTED = {
    (Expectation.PASS, CellVerdict.PASS, NOTHING),
    (Expectation.HANG, CellVerdict.HANG, NOTHING),
    (Expectation.LOST_STEP, CellVerdict.FAIL, ONE_LOST),
    (Expectation.LOST_STEP, CellVerdict.FAIL, NONE_COUNTED),
    (Expectation.SPURIOUS_STEP, CellVerdict.FAIL, ONE_SPURIOUS),
    (Expectation.WRONG_PC, CellVerdict.FAIL, ONE_WRONG),
}


@pytest.mark.parametrize(
    ("expected", "verdict", "violations"),
    [
        *product(
            Expectation,
            [verdict for verdict in CellVerdict if verdict is not CellVerdict.FAIL],
            [NOTHING],
        ),
        *product(
            Expectation,
            [CellVerdict.FAIL],
            [NOTHING, ONE_LOST, ONE_SPURIOUS, ONE_WRONG, TWO_KINDS, NONE_COUNTED],
        ),
    ],
)
def test_what_is_as_expected(
    expected: Expectation,
    verdict: CellVerdict,
    violations: tuple[tuple[ViolationKind, int], ...],
) -> None:
    result = CellResult(cell(expected), verdict, violations=violations)
    assert result.as_expected == ((expected, verdict, violations) in AS_EXPECTED)
