"""Which interrupt came when, and what that says of a step's window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qemu_diff.abi import STEP_RECORD, RecordFlag, RecordKind, StepRecords
from qemu_diff.compare.contract import Judged, Steps
from qemu_diff.compare.placements import (
    NOT_DELIVERED,
    Placements,
    grids,
    missed_delays,
    place,
    windows,
)
from qemu_diff.compare.slices import UNKNOWN_PC
from qemu_diff.errors import CorruptDataError
from qemu_diff.model import Instruction, ViolationKind, Window

PC = 0x5A5A_0004
NEXT_PC = PC + 4
NAMES = {
    PC: Instruction(PC, "trapped_read", "mrs x0, id_aa64pfr0_el1"),
    NEXT_PC: Instruction(NEXT_PC, "trapped_read+0x4", "nop"),
}

OK, LOST, WRONG = Judged.OK, Judged.LOST_STEP, Judged.WRONG_PC

ARMED = RecordFlag.STEPPING | RecordFlag.TIMER_ARMED
FIRED = ARMED | RecordFlag.TIMER_FIRED
OFFSET = 360
"""From arming to the entry into KVM_RUN, and a little more: requested minus delivered."""


def run(**members: int) -> dict[str, int]:
    """A KVM_RUN: armed at 1000 for 1500, entered at 1100, back at 2000, the timer expired."""
    usual = {"armed_at": 1000, "delay_ns": 500, "entered_at": 1100, "returned_at": 2000}
    return {"kind": RecordKind.RUN, "flags": FIRED, **usual, **members}


def records(*rows: Mapping[str, int]) -> StepRecords:
    array = np.zeros(len(rows), STEP_RECORD)
    for index, row in enumerate(rows):
        for name, value in row.items():
            array[index][name] = value
    return array


def column(values: Iterable[int]) -> NDArray[np.int64]:
    return np.fromiter(values, np.int64)


def steps(number: int, **arrays: Any) -> Steps:
    """So many steps of which only what is given matters."""
    empty = {field.name: np.zeros(number, np.int64) for field in fields(Steps)}
    return Steps(**{**empty, **arrays})


def placed(rows: StepRecords, *groups: tuple[int, int], fired: Iterable[int]) -> Placements:
    """:func:`place` on steps that are joined from (first, last) RUN records."""
    judged = steps(
        len(groups),
        first_run=column(first for first, _ in groups),
        run=column(last for _, last in groups),
    )
    return place(rows, np.fromiter(fired, np.uint64), judged)


def only(placements: Placements) -> tuple[int, int, int]:
    """(requested, delivered, ticks) of the only step."""
    (requested,), (delivered,) = placements.requested_ns, placements.delivered_ns
    (ticks,) = placements.ticks
    return int(requested), int(delivered), int(ticks)


# --- whose interrupt ---


@pytest.mark.parametrize(
    ("fired", "delivered", "ticks"),
    [
        ([1600], 500, 0),  # its own, 100 ns after the expiry
        ([1500], 400, 0),  # at the expiry
        ([1300, 1600], 500, 1),  # a tick before the expiry can't be its own
        ([1600, 1700, 1800], 500, 2),  # the first at or after the expiry is its own
        ([2000], 900, 0),  # at the return
        ([2001], NOT_DELIVERED, 0),  # after it
        ([1300], NOT_DELIVERED, 1),  # a tick alone
        ([1100], NOT_DELIVERED, 1),  # a tick at the entry
        ([900, 1099, 2001], NOT_DELIVERED, 0),  # nothing inside
    ],
)
def test_a_step_s_own_interrupt_is_told_from_l1_s_ticks(
    fired: list[int], delivered: int, ticks: int
) -> None:
    assert only(placed(records(run()), (0, 0), fired=fired)) == (500, delivered, ticks)


def test_an_interrupt_inside_is_a_tick_if_the_timer_had_not_expired() -> None:
    placements = placed(records(run(flags=ARMED)), (0, 0), fired=[1600])
    assert only(placements) == (500, NOT_DELIVERED, 1)


def test_a_timer_that_fired_before_the_entry_interrupted_nothing() -> None:
    early = run(delay_ns=20)
    assert only(placed(records(early), (0, 0), fired=[1050])) == (20, NOT_DELIVERED, 0)
    assert only(placed(records(early), (0, 0), fired=[1050, 1600])) == (20, NOT_DELIVERED, 1)
    assert only(placed(records(early), (0, 0), fired=[1100])) == (20, 0, 0)


@pytest.mark.parametrize("fired", [[], [999]])
def test_a_timer_log_that_ends_before_a_timer_that_fired_was_cut_off(fired: list[int]) -> None:
    with pytest.raises(CorruptDataError, match="the timer log ends before the run"):
        placed(records(run()), (0, 0), fired=fired)
    assert only(placed(records(run(flags=ARMED)), (0, 0), fired=fired)) == (500, NOT_DELIVERED, 0)


def test_without_a_flood_nothing_was_requested() -> None:
    quiet = run(flags=RecordFlag.STEPPING, armed_at=0, delay_ns=0)
    assert only(placed(records(quiet), (0, 0), fired=[1600])) == (NOT_DELIVERED, NOT_DELIVERED, 1)


def test_two_interrupts_in_a_window_are_no_clean_placement() -> None:
    rows = records(run(), run(armed_at=3000, entered_at=3100, returned_at=4000))
    placements = placed(rows, (0, 0), (1, 1), fired=[1600, 3600, 3900])
    assert placements.delivered.tolist() == [True, True]
    assert placements.clean.tolist() == [True, False]


def test_a_step_that_a_signal_interrupted_lasts_from_its_first_entry_to_its_last_return() -> None:
    rows = records(
        run(flags=FIRED | RecordFlag.EINTR),
        run(flags=ARMED, armed_at=2100, entered_at=2200, returned_at=3000),
    )
    assert only(placed(rows, (0, 1), fired=[1600, 2050, 2900])) == (500, 500, 2)
    assert only(placed(rows, (1, 1), fired=[1600, 2050, 2900])) == (500, NOT_DELIVERED, 1)


def test_each_step_has_its_own_window() -> None:
    rows = records(
        {"kind": RecordKind.SET_REGISTER},
        run(),
        {"kind": RecordKind.PASS},
        run(armed_at=3000, entered_at=3100, returned_at=4000),
    )
    placements = placed(rows, (0, 0), (1, 1), fired=[1600, 2500, 3550, 5000])
    assert placements.delivered_ns.tolist() == [500, 450]
    assert placements.ticks.tolist() == [0, 0]


# --- samples of one instruction ---


def samples(
    outcome_at: Iterable[tuple[int, int]], pc: int = PC, ticks: int = 0
) -> tuple[Steps, Placements]:
    """Steps with one interrupt each: (delivered time, outcome), requested ``OFFSET`` later."""
    rows = list(outcome_at)
    times = column(time for time, _ in rows)
    judged = steps(
        len(rows),
        first_executed=np.full(len(rows), pc),
        outcome=column(outcome for _, outcome in rows),
    )
    return judged, Placements(times + OFFSET, times, np.full(len(rows), ticks))


def together(*parts: tuple[Steps, Placements]) -> tuple[Steps, Placements]:
    judged, placements = zip(*parts, strict=True)
    return _joined(Steps, judged), _joined(Placements, placements)


def _joined(kind: Any, parts: Iterable[Any]) -> Any:
    rows = list(parts)
    return kind(
        **{
            field.name: np.concatenate([getattr(one, field.name) for one in rows])
            for field in fields(kind)
        }
    )


def grid(first: int, last: int, broken: Iterable[int] = (), outcome: int = LOST) -> dict[int, int]:
    """Outcome at every ns from first to last."""
    lost = set(broken)
    return {time: outcome if time in lost else OK for time in range(first, last + 1)}


def found(*parts: tuple[Steps, Placements]) -> list[tuple[int, int, int, bool]]:
    """The windows as (first, last, placements, complete)."""
    return [
        (one.first_ns, one.last_ns, one.placements, one.complete)
        for one in windows(*together(*parts), NAMES)
    ]


# --- windows ---


def test_a_window_has_exact_edges() -> None:
    swept = samples(grid(3000, 3200, broken=range(3100, 3116)).items())
    assert windows(*swept, NAMES) == (
        Window(NAMES[PC], ViolationKind.LOST_STEP, 3100, 3115, placements=16, complete=True),
    )


@settings(deadline=None)
@given(
    st.integers(0, 5000),
    st.lists(st.integers(1, 60), min_size=3, max_size=3),
    st.randoms(use_true_random=False),
)
def test_any_window_in_a_full_grid_is_found_exactly(first: int, widths: list[int], chance) -> None:
    before, inside, after = widths
    begin, end = first + before, first + before + inside - 1
    outcome_at = [*grid(first, end + after, broken=range(begin, end + 1)).items()]
    again = chance.choices(outcome_at, k=10)
    rows = [*outcome_at, *again]
    chance.shuffle(rows)
    assert found(samples(rows)) == [(begin, end, inside, True)]


def test_every_window_is_found() -> None:
    broken = [*range(120, 130), *range(160, 163)]
    assert found(samples(grid(100, 200, broken).items())) == [
        (120, 129, 10, True),
        (160, 162, 3, True),
    ]


def test_no_violation_no_window() -> None:
    assert found(samples(grid(100, 200).items())) == []


def test_violations_of_another_kind_are_another_window() -> None:
    outcome_at = grid(100, 200, range(120, 130)) | grid(130, 139, range(130, 140), WRONG)
    kinds = [one.kind for one in windows(*samples(outcome_at.items()), NAMES)]
    assert kinds == [ViolationKind.LOST_STEP, ViolationKind.WRONG_PC]
    assert found(samples(outcome_at.items())) == [(120, 129, 10, True), (130, 139, 10, True)]


@pytest.mark.parametrize("missing", [119, 120, 125, 129, 130])
def test_a_window_with_a_gap_in_it_or_beside_it_is_not_complete(missing: int) -> None:
    outcome_at = grid(100, 200, range(120, 130))
    del outcome_at[missing]
    ((_, _, _, complete),) = found(samples(outcome_at.items()))
    assert not complete


@pytest.mark.parametrize("missing", [118, 131])
def test_a_gap_further_away_does_not_matter(missing: int) -> None:
    outcome_at = grid(100, 200, range(120, 130))
    del outcome_at[missing]
    assert found(samples(outcome_at.items())) == [(120, 129, 10, True)]


@pytest.mark.parametrize(("first", "last"), [(120, 200), (100, 129), (120, 129)])
def test_a_window_whose_edge_was_not_tried_is_not_complete(first: int, last: int) -> None:
    outcome_at = grid(first, last, range(120, 130))
    assert found(samples(outcome_at.items())) == [(120, 129, 10, False)]


@pytest.mark.parametrize("time", [119, 120, 125, 129, 130])
def test_a_placement_with_both_outcomes_belongs_to_the_window_and_is_counted(time: int) -> None:
    outcome_at = grid(100, 200, range(120, 130))
    other = OK if outcome_at[time] == LOST else LOST
    swept = together(samples([*outcome_at.items(), (time, other)]))
    (window,) = windows(*swept, NAMES)
    assert (window.first_ns, window.last_ns) == (min(120, time), max(129, time))
    assert (window.complete, window.mixed) == (True, 1)


def test_a_violation_beside_l1_s_own_tick_makes_no_window() -> None:
    clean = samples(grid(100, 200, range(120, 130)).items())
    with_tick = samples([(150, LOST)], ticks=1)
    assert found(clean, with_tick) == [(120, 129, 10, True)]


def test_a_violation_without_an_interrupt_makes_no_window() -> None:
    clean = samples(grid(100, 200).items())
    judged, placements = samples([(0, LOST)])
    quiet = replace(placements, delivered_ns=np.array([NOT_DELIVERED]))
    assert found(clean, (judged, quiet)) == []


def test_windows_are_of_one_instruction_each() -> None:
    first = samples(grid(100, 200, range(120, 130)).items())
    second = samples(grid(100, 200, range(125, 140)).items(), pc=NEXT_PC)
    found_windows = windows(*together(second, first), NAMES)
    assert [(one.instruction.address, one.first_ns) for one in found_windows] == [
        (PC, 120),
        (NEXT_PC, 125),
    ]


def test_a_step_that_executed_nothing_belongs_to_the_instruction_l2_stood_at() -> None:
    outcome_at = grid(100, 120, range(105, 115), Judged.SPURIOUS_STEP)
    judged, placements = samples(outcome_at.items())
    nothing = judged.outcome == Judged.SPURIOUS_STEP
    judged = replace(
        judged,
        previous_pc=np.full(len(judged), PC),
        first_executed=np.where(nothing, UNKNOWN_PC, PC),
    )
    unknown = {UNKNOWN_PC: Instruction(UNKNOWN_PC, "-0x1", "udf #0")}
    (window,) = windows(judged, placements, NAMES | unknown)
    assert window.instruction == NAMES[PC]


# --- what was tried ---


def tried(*parts: tuple[Steps, Placements]) -> list[tuple[int, int, int, int]]:
    """The grids as (first, last, placements, missing)."""
    return [
        (one.first_ns, one.last_ns, one.placements, one.missing)
        for one in grids(*together(*parts), NAMES)
    ]


def crowded(time: int, delays: Iterable[int]) -> tuple[Steps, Placements]:
    """Delays that are too short for the timer: it fires at one early time for all of them."""
    requested = column(delays)
    judged, placements = samples([(time, OK)] * len(requested))
    return judged, replace(placements, requested_ns=requested)


def test_a_full_grid_misses_nothing() -> None:
    whole = samples([*grid(860, 1500).items(), (900, OK), (900, LOST)])
    assert tried(whole) == [(860, 1500, 641, 0)]
    assert missed_delays(*whole) == ()


def test_a_gap_is_asked_for_again_with_the_offset_that_is_common() -> None:
    outcome_at = grid(860, 1500)
    for time in (1000, 1001, 1300):
        del outcome_at[time]
    holey = samples(outcome_at.items())
    assert tried(holey) == [(860, 1500, 638, 3)]
    assert missed_delays(*holey) == (1000 + OFFSET, 1001 + OFFSET, 1300 + OFFSET)


def test_the_two_most_common_offsets_are_tried() -> None:
    times = [time for time in range(860, 1500) if time != 1000]
    offsets = [(10, 17, 23)[0 if number % 4 else 1] for number in range(len(times))]
    offsets[5] = 23
    judged, placements = samples((time, OK) for time in times)
    placements = replace(placements, requested_ns=placements.delivered_ns + column(offsets))
    assert missed_delays(judged, placements) == (1010, 1017)


def test_a_delay_that_can_not_be_requested_is_not_asked_for() -> None:
    outcome_at = grid(0, 50)
    del outcome_at[3]
    judged, placements = samples(outcome_at.items())
    early = replace(placements, requested_ns=placements.delivered_ns - 3)
    assert missed_delays(judged, early) == ()


def test_what_a_tick_displaced_was_not_tried() -> None:
    outcome_at = grid(860, 1500)
    del outcome_at[1000]
    displaced = samples([(1000, OK)], ticks=1)
    assert tried(samples(outcome_at.items()), displaced) == [(860, 1500, 640, 1)]


def test_delays_below_the_timer_s_own_time_are_not_part_of_the_grid() -> None:
    swept = samples(grid(860, 1500).items())
    floor = crowded(850, range(1, 860))
    assert tried(floor, swept) == [(860, 1500, 641, 0)]
    assert missed_delays(*together(floor, swept)) == ()


def test_a_time_before_a_gap_that_no_tick_can_leave_is_an_accident() -> None:
    swept = samples(grid(860, 1500).items())
    accident = samples([(700, OK), (701, OK)])
    assert tried(accident, swept) == [(860, 1500, 641, 0)]
    assert missed_delays(*together(accident, swept)) == ()


def test_grids_are_of_one_instruction_each() -> None:
    first = samples(grid(860, 1500).items())
    second = samples(grid(870, 1600).items(), pc=NEXT_PC)
    assert [one.instruction for one in grids(*together(second, first), NAMES)] == [*NAMES.values()]
    assert tried(second, first) == [(860, 1500, 641, 0), (870, 1600, 731, 0)]


def test_without_placements_there_is_no_grid_and_no_gap() -> None:
    nothing = samples([])
    assert tried(nothing) == []
    assert missed_delays(*nothing) == ()
    assert found(nothing) == []


def test_a_coarse_grid_counts_every_placement() -> None:
    coarse = samples((time, OK) for time in range(860, 1500, 32))
    assert tried(coarse) == [(860, 1468, 20, 589)]
