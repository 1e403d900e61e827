"""What came of each placement: maps, and the windows and grids that are read off them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import (
    LOST,
    NAMES,
    NEXT_PC,
    OFFSET,
    OK,
    PC,
    WRONG,
    column,
    grid,
    samples,
    steps,
    together,
)

from qemu_diff.abi import STEP_RECORD, RecordFlag, RecordKind
from qemu_diff.compare.contract import Judged, Steps
from qemu_diff.compare.placement_map import (
    grids,
    missed_delays,
    missing_times,
    placement_maps,
    turns,
    windows,
)
from qemu_diff.compare.placements import NOT_DELIVERED, Placements
from qemu_diff.compare.slices import UNKNOWN_PC
from qemu_diff.model import Instruction, ViolationKind, Window


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
        Window(
            NAMES[PC], ViolationKind.LOST_STEP, 3100, 3115, placements=16, complete=True, sharp=True
        ),
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


@pytest.mark.parametrize(
    ("missing", "sharp"), [(119, False), (120, False), (125, True), (130, False), (131, True)]
)
def test_a_window_is_sharp_if_both_edges_were_tried(missing: int, sharp: bool) -> None:
    outcome_at = grid(100, 200, range(120, 130))
    del outcome_at[missing]
    (window,) = windows(*samples(outcome_at.items()), NAMES)
    assert window.sharp is sharp


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


# --- maps ---


def spans(*parts: tuple[Steps, Placements]) -> list[tuple[int, int, str, int]]:
    """The only instruction's spans as (first, last, outcome, placements)."""
    (one,) = placement_maps(*together(*parts), NAMES, {})
    return [(span.first_ns, span.last_ns, span.outcome, span.placements) for span in one.spans]


def test_a_map_has_a_span_for_each_run_of_equal_outcomes() -> None:
    outcome_at = grid(100, 200, range(120, 130)) | grid(130, 139, range(130, 140), WRONG)
    assert spans(samples(outcome_at.items())) == [
        (100, 119, "ok", 20),
        (120, 129, "lost-step", 10),
        (130, 139, "wrong-pc", 10),
        (140, 200, "ok", 61),
    ]


def test_a_span_goes_over_what_was_left_out_and_counts_what_was_tried() -> None:
    coarse = samples((time, LOST if 500 <= time < 600 else OK) for time in range(100, 1000, 32))
    assert spans(coarse) == [
        (100, 484, "ok", 13),
        (516, 580, "lost-step", 3),
        (612, 996, "ok", 13),
    ]


def test_a_time_that_came_out_both_ways_is_a_span_of_its_own() -> None:
    outcome_at = grid(100, 200, range(120, 130))
    both = samples([*outcome_at.items(), (129, OK), (130, LOST), (150, OK)])
    assert spans(both) == [
        (100, 119, "ok", 20),
        (120, 128, "lost-step", 9),
        (129, 130, "mixed", 2),
        (131, 200, "ok", 70),
    ]


def test_a_step_with_l1_s_own_interrupt_is_not_on_the_map() -> None:
    outcome_at = grid(100, 200)
    del outcome_at[150]
    displaced = samples([(150, LOST), (160, LOST)], ticks=1)
    assert spans(samples(outcome_at.items()), displaced) == [(100, 200, "ok", 100)]


def test_times_that_no_delay_reaches_have_a_span_of_their_own() -> None:
    swept, early = samples(grid(860, 1500).items()), crowded(850, range(1, 860))
    assert spans(early, swept) == [(850, 850, "ok", 1), (860, 1500, "ok", 641)]


def test_maps_are_of_one_instruction_each_with_its_quiet_window() -> None:
    first = samples(grid(860, 1500).items())
    second = samples(grid(870, 1600).items(), pc=NEXT_PC)
    maps = placement_maps(*together(second, first), NAMES, {PC: 4200})
    assert [(one.instruction, one.window_ns) for one in maps] == [
        (NAMES[PC], 4200),
        (NAMES[NEXT_PC], 0),
    ]


def test_without_placements_there_is_no_map() -> None:
    assert placement_maps(*samples([]), NAMES, {}) == ()


OUTCOMES = st.sampled_from([OK, LOST, WRONG])
ANY_SAMPLES = st.lists(
    st.tuples(st.integers(0, 60), OUTCOMES, st.sampled_from([PC, NEXT_PC]), st.integers(0, 1)),
    max_size=80,
)


@settings(deadline=None)
@given(ANY_SAMPLES, st.randoms(use_true_random=False))
def test_a_map_has_every_clean_placement_once_whatever_their_order(rows: list, chance) -> None:
    def maps_of(some: list) -> tuple:
        parts = [samples([(time, outcome)], pc, ticks) for time, outcome, pc, ticks in some]
        return placement_maps(*together(samples([]), *parts), NAMES, {})

    maps = maps_of(rows)
    shuffled = [*rows]
    chance.shuffle(shuffled)
    assert maps_of(shuffled) == maps
    for one in maps:
        clean = {(t, o) for t, o, pc, ticks in rows if pc == one.instruction.address and not ticks}
        times = {time for time, _ in clean}
        assert sum(span.placements for span in one.spans) == len(times)
        bounds = [edge for span in one.spans for edge in (span.first_ns, span.last_ns)]
        assert bounds == sorted(bounds)
        for span in one.spans:
            inside = {time for time in times if span.first_ns <= time <= span.last_ns}
            assert len(inside) == span.placements
            seen = {o for t, o in clean if t in inside}
            if span.outcome != "mixed":
                wanted = "ok" if span.outcome == "ok" else ViolationKind(span.outcome)
                assert {"ok" if o == OK else Judged(o).violation for o in seen} == {wanted}


# --- what a lost step took along ---


def test_what_was_not_tried_up_to_the_window_s_end_is_missing() -> None:
    first = samples(grid(860, 1500).items())
    outcome_at = grid(860, 1200)
    del outcome_at[1000]
    second = samples(outcome_at.items(), pc=NEXT_PC)
    both = together(first, second)
    windows_ns = {PC: 1500, NEXT_PC: 1203}
    assert missing_times(*both, windows_ns) == {NEXT_PC: (1000, 1201, 1202, 1203)}
    assert missing_times(*both, {}) == {}


def test_a_turn_is_the_number_of_placements_before_in_the_same_pass() -> None:
    kicked = RecordFlag.STEPPING | RecordFlag.KICKED
    armed = RecordFlag.STEPPING | RecordFlag.TIMER_ARMED
    one_pass = [(RecordKind.PASS, 0), (RecordKind.RUN, armed), (RecordKind.RUN, kicked),
                (RecordKind.RUN, armed), (RecordKind.RUN, armed)]  # fmt: skip
    records = np.zeros(2 * len(one_pass), STEP_RECORD)
    for record, (kind, flags) in zip(records, one_pass * 2, strict=True):
        record["kind"], record["flags"] = kind, flags
    # Three steps a pass; the second begins with a kick, and the third is the first again: a loop.
    judged = steps(
        6,
        first_run=column([0, 1, 3, 4, 5, 7]),
        run=column([0, 2, 3, 4, 6, 7]),
        first_executed=column([PC, NEXT_PC, PC] * 2),
    )
    assert turns(records, judged) == {PC: 0, NEXT_PC: 1}
