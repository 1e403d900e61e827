"""What a step costs, and when a change of it is alarming."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import ADD, BASE, NOP, payload_of

from qemu_diff.compare.contract import Judged, Steps
from qemu_diff.compare.cost import cost_changes, costs_nothing_else, step_costs
from qemu_diff.compare.pair import pair_result
from qemu_diff.compare.placements import NOT_DELIVERED, Placements
from qemu_diff.model import (
    Cell,
    CellResult,
    CellVerdict,
    CostChange,
    Driver,
    ExceptionOrder,
    FloodSource,
    FloodSpec,
    MachineSpec,
    PairOutcome,
    Placement,
    StepCost,
)

PAYLOAD = payload_of([NOP, ADD, NOP])
QUIET = Cell("k.p", "k", "p", MachineSpec(), FloodSpec(count=3), Driver.IN_GUEST, 1)


def measured(rows: list[tuple[int, int]]) -> tuple[Steps, Placements]:
    """Good steps: (instruction's index, ns)."""
    count = len(rows)
    zeros = np.zeros(count, np.int64)
    pcs = np.array([BASE + 4 * index for index, _ in rows], np.int64)
    lengths = np.array([length for _, length in rows], np.int64)
    steps = Steps(
        first_run=np.arange(count),
        run=np.arange(count),
        previous_pc=pcs,
        reported_pc=pcs + 4,
        executed=zeros + 1,
        first_executed=pcs,
        active_pending=zeros.astype(bool),
        irq_exits=zeros.copy(),
        redirects=zeros.copy(),
        outcome=zeros + Judged.OK,
    )
    never = np.full(count, NOT_DELIVERED)
    return steps, Placements(never, never.copy(), zeros.copy(), lengths)


def test_the_steps_of_a_class_are_counted_wherever_they_are() -> None:
    steps, placements = measured([(0, 90), (1, 40), (2, 50), (0, 51), (1, 40)])
    assert step_costs(steps, placements, PAYLOAD) == (
        StepCost("alu", 2, 40, 40, 40),
        StepCost("nop", 3, 50, 51, 90),
    )


@pytest.mark.parametrize("what", ["ticks", "delivered_ns", "irq_exits", "executed", "outcome"])
def test_a_step_with_something_else_in_it_does_not_count(what: str) -> None:
    steps, placements = measured([(0, 50), (0, 999)])
    array = getattr(placements if hasattr(placements, what) else steps, what)
    array[1] = 2
    assert step_costs(steps, placements, PAYLOAD) == (StepCost("nop", 1, 50, 50, 50),)


def test_nothing_is_measured_of_no_steps() -> None:
    assert step_costs(*measured([]), PAYLOAD) == ()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9_000)), min_size=1))
def test_a_median_is_the_length_of_a_step(rows: list[tuple[int, int]]) -> None:
    costs = step_costs(*measured(rows), PAYLOAD)
    assert sum(one.steps for one in costs) == len(rows)
    for one in costs:
        assert one.least <= one.median <= one.most
        assert one.median in {length for _, length in rows}


@pytest.mark.parametrize(
    "cell",
    [
        replace(QUIET, flood=FloodSpec((FloodSource.HOST_TIMER,), Placement.RANDOM)),
        replace(QUIET, machine=MachineSpec(exception_order=ExceptionOrder.ASYNC_FIRST)),
        replace(QUIET, driver=Driver.GDB),
    ],
)
def test_only_quiet_cells_are_measured(cell: Cell) -> None:
    assert costs_nothing_else(QUIET)
    assert not costs_nothing_else(cell)


# --- changes -------------------------------------------------------------------------------------


def costing(kernel: str, **medians: int) -> CellResult:
    cell = replace(QUIET, id=f"{kernel}.p", kernel=kernel)
    costs = tuple(StepCost(name, 3, cost, cost, cost) for name, cost in medians.items())
    return CellResult(cell, CellVerdict.PASS, costs=costs)


OLD, NEW = costing("old", hvc=1000, nop=400, smc=7), costing("new", alu=9, hvc=1101, nop=360)


def test_classes_that_both_have_are_compared() -> None:
    assert cost_changes(OLD, NEW, None) == (
        CostChange("hvc", 1000, 1101),
        CostChange("nop", 400, 360),
    )


@pytest.mark.parametrize(
    ("most", "alarming"), [(0.2, []), (0.1, ["hvc"]), (0.05, ["hvc", "nop"]), (None, [])]
)
def test_a_change_beyond_what_the_campaign_allows_is_alarming(
    most: float | None, alarming: list[str]
) -> None:
    pair = pair_result(OLD, NEW, cost_change=most)
    assert pair.outcome is PairOutcome.SAME
    assert [one.instruction for one in pair.costs if one.alarming] == alarming
    assert pair.alarming == bool(alarming)


def test_the_words_name_both_costs() -> None:
    assert pair_result(OLD, NEW, cost_change=0.1).message == (
        "old and new both keep the step contract; a step of class hvc costs 1,101 instructions of "
        "L1 on new, 1,000 on old (+10.1%)"
    )


def test_without_a_change_there_is_nothing_to_say() -> None:
    assert "costs" not in pair_result(OLD, OLD, cost_change=0.001).message
