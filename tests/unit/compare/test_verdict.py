"""One cell's verdict, and whether it is the one that its campaign expects."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from streams import BASE, HVC, NOP, payload_of

from qemu_diff.abi import IRQ_SLOTS, REGISTER_MDSCR_EL1, REGISTER_PSTATE
from qemu_diff.compare.contract import Judged, Steps
from qemu_diff.compare.interrupts import Delivered
from qemu_diff.compare.observation import Observation
from qemu_diff.compare.placements import NOT_DELIVERED, Placements
from qemu_diff.compare.slices import UNKNOWN_PC
from qemu_diff.compare.state import NO_READS, StateReads
from qemu_diff.compare.verdict import judged_cell, unjudged_cell
from qemu_diff.model import (
    Breakdown,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    Excursions,
    Expectation,
    FloodSource,
    FloodSpec,
    Instruction,
    MachineSpec,
    Placement,
    SourceCount,
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
        expected=(expected,),
    )


Step = tuple[int, int, bool, int, int, int]
"""(executed PC, outcome, entered in Active-pending, delivered time, ticks, redirects)."""

Read = tuple[int, int, int, int]
"""(PC, register, what was read, what it had to be)."""


def step(
    pc: int = A,
    outcome: int = OK,
    *,
    active_pending: bool = False,
    delivered: int = NOT_DELIVERED,
    ticks: int = 0,
    redirects: int = 0,
) -> Step:
    return pc, outcome, active_pending, delivered, ticks, redirects


def reads(*some: Read) -> StateReads:
    pc, register, read, own = np.array(some, np.int64).reshape(-1, 4).T
    number = np.arange(len(some))
    return StateReads(
        record=number,
        run=number,
        pc=pc,
        register=register,
        read=read.astype(np.uint64),
        own=own.astype(np.uint64),
        origin=number - 1,
        stepping=np.ones(len(some), bool),
    )


def observed(
    *steps: Step, previous_pc: int = UNKNOWN_PC, state: StateReads = NO_READS
) -> Observation:
    rows = np.array(steps, np.int64).reshape(-1, 6).T
    pc, outcome, active_pending, delivered, ticks, redirects = rows
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
            redirects=redirects,
            outcome=outcome,
        ),
        Placements(delivered + 360, delivered, ticks, np.full(len(steps), 4000)),
        findings=(),
        state=state,
    )


def judged(*steps: Step, previous_pc: int = UNKNOWN_PC, state: StateReads = NO_READS) -> CellResult:
    return judged_cell(cell(), observed(*steps, previous_pc=previous_pc, state=state), LISTING)


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


def test_a_redirected_step_counts() -> None:
    result = judged(step(), step(redirects=1), step(redirects=2, delivered=500))
    assert result.redirects == 2
    assert result.interrupted_steps == 2
    assert result.counted_steps == 2


def test_wrong_registers_are_violations() -> None:
    state = reads(
        (A, REGISTER_PSTATE, 1, 0),
        (A, REGISTER_PSTATE, 0, 0),
        (A, REGISTER_MDSCR_EL1, 1, 0),
        (B, REGISTER_PSTATE, 1, 1),
        (UNKNOWN_PC, REGISTER_PSTATE, 1, 0),
    )
    result = judged(step(A), step(A, LOST), state=state)
    assert result.verdict is CellVerdict.FAIL
    assert result.violations == (
        (ViolationKind.LOST_STEP, 1),
        (ViolationKind.SS_LEAK, 2),
        (ViolationKind.STATE_MISMATCH, 1),
    )
    assert result.breakdown == (
        Breakdown(Instruction(0, "an unknown PC", "?"), ViolationKind.SS_LEAK, broken=1, stepped=1),
        Breakdown(AT_A, ViolationKind.LOST_STEP, broken=1, stepped=2),
        Breakdown(AT_A, ViolationKind.SS_LEAK, broken=1, stepped=2),
        Breakdown(AT_A, ViolationKind.STATE_MISMATCH, broken=1, stepped=1),
    )


def test_right_registers_are_none() -> None:
    assert judged(step(), state=reads((A, REGISTER_PSTATE, 1, 1))).verdict is CellVerdict.PASS


def test_a_wrong_register_is_a_failure_even_if_nothing_was_stepped() -> None:
    assert judged(state=reads((A, REGISTER_PSTATE, 1, 0))).verdict is CellVerdict.FAIL
    assert judged(state=reads((A, REGISTER_PSTATE, 0, 0))).verdict is CellVerdict.LOST


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
    steps = [step(B, LOST if time in broken else OK, delivered=time) for time in range(100, 120)]
    swept = replace(cell(), flood=FloodSpec((FloodSource.HOST_TIMER,), Placement.SWEEP))
    result = judged_cell(swept, observed(*steps), LISTING)
    ((window,), (grid,)) = result.windows, result.grids
    assert (window.instruction, window.first_ns, window.last_ns) == (AT_B, 110, 114)
    assert (grid.instruction, grid.placements, grid.missing) == (AT_B, 20, 0)


@pytest.mark.parametrize("placement", [Placement.RANDOM, Placement.PAIRS, Placement.BURST])
def test_what_is_not_swept_has_no_windows(placement: Placement) -> None:
    steps = [step(B, LOST, delivered=time) for time in range(100, 120)]
    flooded = replace(cell(), flood=FloodSpec((FloodSource.HOST_TIMER,), placement))
    result = judged_cell(flooded, observed(*steps), LISTING)
    assert result.verdict is CellVerdict.FAIL
    assert result.windows == ()
    # What came of two interrupts in one step is neither's doing.
    assert bool(result.maps) == (placement is Placement.RANDOM)


def test_a_placement_outside_of_the_windows_says_where_they_end() -> None:
    flooded = replace(cell(), flood=FloodSpec((FloodSource.HOST_TIMER,), Placement.SWEEP, 9000))
    missed = observed(step(A), step(B))
    asked = replace(missed.placements, requested_ns=np.array([9000, 9400]))
    missed = replace(missed, placements=asked)
    result = judged_cell(flooded, missed, LISTING)
    assert result.verdict is CellVerdict.LOST
    assert result.reason == (
        "no placed interrupt came inside a step window, so nothing was tested: asked for 9,000 to "
        "9,400 ns after arming, but the longest step window ends 4,000 ns after the entry into "
        "KVM_RUN; see the flood's first_ns and last_ns"
    )
    assert "ends 4,732 ns" in judged_cell(flooded, missed, LISTING, {A: 4732, B: 3497}).reason


def test_maps_and_coverage_are_those_of_the_placements() -> None:
    result = judged(*(step(B, delivered=time) for time in range(100, 120)), step(A))
    (only,) = result.maps
    assert (only.instruction, only.window_ns, len(only.spans)) == (AT_B, 0, 1)
    assert result.coverage is not None
    assert (result.coverage.inside, result.coverage.untouched) == (20, 1)


def test_a_broken_step_is_one_even_where_no_interrupt_came_inside_a_step() -> None:
    flood = FloodSpec((FloodSource.SIGNAL,), Placement.SWEEP)
    flooded = replace(cell(), flood=flood)
    assert judged_cell(flooded, observed(step()), LISTING).verdict is CellVerdict.LOST
    assert judged_cell(flooded, observed(step(A, SPURIOUS)), LISTING).verdict is CellVerdict.FAIL


def test_a_cell_that_can_not_be_judged_says_why() -> None:
    result = unjudged_cell(cell(), CellVerdict.HANG, "no return from KVM_RUN")
    assert (result.verdict, result.reason) == (CellVerdict.HANG, "no return from KVM_RUN")
    assert (result.steps, result.violations) == (0, ())


# --- expectations ---

NOTHING = ()
ONE_LOST = ((ViolationKind.LOST_STEP, 1),)
ONE_SPURIOUS = ((ViolationKind.SPURIOUS_STEP, 1),)
ONE_WRONG = ((ViolationKind.WRONG_PC, 1),)
ONE_LEAK = ((ViolationKind.SS_LEAK, 1),)
ONE_MISMATCH = ((ViolationKind.STATE_MISMATCH, 1),)
TWO_KINDS = (*ONE_LOST, *ONE_WRONG)
NONE_COUNTED = (*ONE_LOST, (ViolationKind.WRONG_PC, 0))

AS_EXPECTED = {
    (Expectation.PASS, CellVerdict.PASS, NOTHING),
    (Expectation.HANG, CellVerdict.HANG, NOTHING),
    (Expectation.KERNEL_OOPS, CellVerdict.KERNEL_OOPS, NOTHING),
    (Expectation.LOST_STEP, CellVerdict.FAIL, ONE_LOST),
    (Expectation.LOST_STEP, CellVerdict.FAIL, NONE_COUNTED),
    (Expectation.SPURIOUS_STEP, CellVerdict.FAIL, ONE_SPURIOUS),
    (Expectation.WRONG_PC, CellVerdict.FAIL, ONE_WRONG),
    (Expectation.SS_LEAK, CellVerdict.FAIL, ONE_LEAK),
    (Expectation.STATE_MISMATCH, CellVerdict.FAIL, ONE_MISMATCH),
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
            [
                *(NOTHING, ONE_LOST, ONE_SPURIOUS, ONE_WRONG, ONE_LEAK, ONE_MISMATCH),
                *(TWO_KINDS, NONE_COUNTED),
            ],
        ),
    ],
)
def test_what_is_as_expected(
    expected: Expectation,
    verdict: CellVerdict,
    violations: tuple[tuple[ViolationKind, int], ...],
) -> None:
    result = CellResult(cell(expected), verdict, violations=violations)
    any_failure = (expected, verdict) == (Expectation.FAIL, CellVerdict.FAIL)
    told = (expected, verdict, violations) in AS_EXPECTED
    assert result.as_expected == (any_failure or told)


@pytest.mark.parametrize(
    ("violations", "as_expected"),
    [(TWO_KINDS, True), (ONE_LOST, False), (ONE_WRONG, False), (NONE_COUNTED, False),
     ((*TWO_KINDS, *ONE_LEAK), False), (NOTHING, False)],
)  # fmt: skip
def test_all_that_is_expected_must_be_seen_and_nothing_else(
    violations: tuple[tuple[ViolationKind, int], ...], as_expected: bool
) -> None:
    expected = (Expectation.LOST_STEP, Expectation.WRONG_PC)
    of_both = replace(cell(), expected=expected)
    assert CellResult(of_both, CellVerdict.FAIL, violations=violations).as_expected is as_expected
    assert not CellResult(of_both, CellVerdict.HANG, violations=violations).as_expected


# --- a debugger's L2 ---

OUTSIDE = (Driver.RSP, Driver.GDB, Driver.MONITOR)
IRQ_BASE = BASE + 0x800
TAKES_IRQS = Listing(payload_of([NOP, HVC], irq_base=IRQ_BASE))
NOWHERE = "no placed interrupt came inside a step window, so nothing was tested"


def flooded(driver: Driver, *sources: FloodSource) -> Cell:
    return replace(cell(), driver=driver, flood=FloodSpec(sources, Placement.RANDOM, last_ns=9))


def unasked(*steps: Step) -> Observation:
    """What a debugger's records tell: nothing was asked for by time."""
    seen = observed(*steps)
    never = np.full(len(steps), NOT_DELIVERED)
    return replace(seen, placements=replace(seen.placements, requested_ns=never))


def ending_at(seen: Observation, number: int, pc: int) -> Observation:
    """Step ``number`` reports ``pc``."""
    reported = seen.steps.reported_pc.copy()
    reported[number] = pc
    return replace(seen, steps=replace(seen.steps, reported_pc=reported))


@pytest.mark.parametrize("source", [FloodSource.HOST_TIMER, FloodSource.DEVICE])
@pytest.mark.parametrize("driver", [*OUTSIDE, Driver.IN_GUEST])
def test_a_flood_of_l1_that_nobody_saw_is_only_lost_where_it_would_be_seen(
    driver: Driver, source: FloodSource
) -> None:
    result = judged_cell(flooded(driver, source), unasked(step(A), step(B)), LISTING)
    if driver is Driver.IN_GUEST:
        assert (result.verdict, result.reason) == (CellVerdict.LOST, NOWHERE)
    else:
        assert (result.verdict, result.reason) == (CellVerdict.PASS, "")
        assert (result.steps, result.interrupted_steps, result.counted_steps) == (2, 0, 0)


@pytest.mark.parametrize("source", [FloodSource.SPI_EDGE, FloodSource.SPI_LEVEL, FloodSource.PPI])
@pytest.mark.parametrize("driver", OUTSIDE)
def test_a_flood_into_l2_that_reached_nobody_is_lost(driver: Driver, source: FloodSource) -> None:
    seen = unasked(step(A), step(B))
    for sources in ((source,), (source, FloodSource.HOST_TIMER)):
        result = judged_cell(flooded(driver, *sources), seen, TAKES_IRQS)
        assert (result.verdict, result.reason) == (CellVerdict.LOST, NOWHERE)


@pytest.mark.parametrize("slot", IRQ_SLOTS)
@pytest.mark.parametrize("driver", OUTSIDE)
def test_a_step_that_ends_at_an_interrupt_s_vector_was_interrupted(
    driver: Driver, slot: int
) -> None:
    seen = ending_at(unasked(step(A), step(B), step(A, active_pending=True)), 1, IRQ_BASE + slot)
    result = judged_cell(flooded(driver, FloodSource.PPI), seen, TAKES_IRQS)
    assert result.verdict is CellVerdict.PASS
    assert (result.interrupted_steps, result.counted_steps, result.placements) == (1, 2, 0)
    assert result.coverage is None


@pytest.mark.parametrize("pc", [IRQ_BASE, IRQ_BASE + 0x200, IRQ_BASE + IRQ_SLOTS[0] + 4])
def test_other_places_are_no_interrupt_s_vector(pc: int) -> None:
    seen = ending_at(unasked(step(A), step(B)), 1, pc)
    result = judged_cell(flooded(Driver.RSP, FloodSource.PPI), seen, TAKES_IRQS)
    assert (result.verdict, result.interrupted_steps) == (CellVerdict.LOST, 0)


def test_a_vector_is_the_flood_s_only_where_l2_takes_interrupts() -> None:
    seen = ending_at(unasked(step(A), step(B)), 1, IRQ_BASE + IRQ_SLOTS[0])
    result = judged_cell(flooded(Driver.RSP, FloodSource.HOST_TIMER), seen, LISTING)
    assert (result.verdict, result.interrupted_steps) == (CellVerdict.PASS, 0)


@pytest.mark.parametrize("driver", OUTSIDE)
def test_what_is_broken_is_told_though_no_interrupt_was_seen(driver: Driver) -> None:
    result = judged_cell(flooded(driver, FloodSource.PPI), unasked(step(A, LOST)), TAKES_IRQS)
    assert result.verdict is CellVerdict.FAIL
    assert result.violations == ((ViolationKind.LOST_STEP, 1),)


def test_an_interrupt_that_l2_never_handled_is_lost_whoever_stepped() -> None:
    sent = SourceCount(FloodSource.PPI, 3, 0, 2)
    counted = Delivered((sent,), 0, (), Excursions(0, 0, 0, 0), lost=1)
    seen = replace(unasked(step(A)), delivered=counted)
    result = judged_cell(flooded(Driver.GDB, FloodSource.PPI), seen, TAKES_IRQS)
    assert result.verdict is CellVerdict.FAIL
    assert result.violations == ((ViolationKind.LOST_INTERRUPT, 1),)
    assert result.sources == (sent,)
