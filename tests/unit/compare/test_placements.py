"""Which interrupt came when: the placed one, or L1's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import column, steps

from qemu_diff.abi import STEP_RECORD, RecordFlag, RecordKind, StepRecords
from qemu_diff.compare.placements import (
    NOT_DELIVERED,
    PERIODIC_LATENESS_NS,
    Placements,
    place,
)
from qemu_diff.errors import CorruptDataError

ARMED = RecordFlag.STEPPING | RecordFlag.TIMER_ARMED
FIRED = ARMED | RecordFlag.TIMER_FIRED


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


# --- a kick before the step ---

KICK = {"kind": RecordKind.RUN, "flags": RecordFlag.STEPPING | RecordFlag.KICKED}
KICKED = {**KICK, "entered_at": 700, "returned_at": 900}
"""A return from KVM_RUN at once, before the timer is armed."""


def test_a_step_begins_where_l2_may_be_entered_and_not_at_the_kick_before() -> None:
    rows = records(KICKED, run())
    placements = placed(rows, (0, 1), fired=[1600])
    assert only(placements) == (500, 500, 0)
    assert placements.length_ns.tolist() == [900]


def test_an_interrupt_during_a_kick_is_not_the_step_s() -> None:
    rows = records(KICKED, run(flags=ARMED))
    assert only(placed(rows, (0, 1), fired=[800, 1050])) == (500, NOT_DELIVERED, 0)


def test_a_kick_in_mid_step_is_part_of_the_step() -> None:
    rows = records(
        run(flags=FIRED | RecordFlag.EINTR),
        {**KICK, "entered_at": 2100, "returned_at": 2200},
        run(flags=RecordFlag.STEPPING, armed_at=0, delay_ns=0, entered_at=2300, returned_at=3000),
    )
    assert only(placed(rows, (0, 2), fired=[1600, 2150])) == (500, 500, 1)


# --- several placements in one step ---

PAIR = {"delay_ns": 500, "second_delay_ns": 700}
"""Expire at 1500 and 1700."""


@pytest.mark.parametrize(
    ("fired", "requested", "delivered", "ticks"),
    [
        ([1600, 1800], 500, 500, 0),
        ([1300, 1600, 1800], 500, 500, 1),
        ([1600, 1800, 1900], 500, 500, 1),
        ([1750], 500, 650, 0),  # one interrupt for both
        ([1600], 500, 500, 0),  # the second came after the return
    ],
)
def test_the_second_of_a_pair_is_no_interrupt_of_l1_s_own(
    fired: list[int], requested: int, delivered: int, ticks: int
) -> None:
    assert only(placed(records(run(**PAIR)), (0, 0), fired=fired)) == (requested, delivered, ticks)


def test_of_a_pair_the_one_that_comes_first_is_the_placement() -> None:
    swapped = run(delay_ns=700, second_delay_ns=500)
    assert only(placed(records(swapped), (0, 0), fired=[1600, 1800])) == (500, 500, 0)


def test_all_of_a_burst_are_placed() -> None:
    rows = records(run(delay_ns=300, second_delay_ns=400))
    judged = steps(1, first_run=column([0]), run=column([0]))
    fired = np.array([1310, 1410, 1510, 1610], np.uint64)
    assert place(rows, fired, judged, burst=3).ticks.tolist() == [1]
    assert place(rows, fired, judged, burst=4).ticks.tolist() == [0]


# --- another CPU's timer ---

OTHERS = FIRED | RecordFlag.OTHER_CPU


def elsewhere(row: dict[str, int], fired: Iterable[int], irq_exits: int) -> tuple[int, int, int]:
    """The only step of a vCPU that has a CPU of its own."""
    judged = steps(1, first_run=column([0]), run=column([0]), irq_exits=column([irq_exits]))
    return only(place(records(row), np.fromiter(fired, np.uint64), judged))


@pytest.mark.parametrize(
    ("acted_at", "delivered"),
    [(1500, 400), (1100, 0), (2000, 900), (1099, NOT_DELIVERED), (2001, NOT_DELIVERED)],
)
def test_another_cpu_s_interrupt_comes_when_its_thread_acts(acted_at: int, delivered: int) -> None:
    row = run(flags=OTHERS, acted_at=acted_at)
    assert elsewhere(row, fired=[], irq_exits=1)[:2] == (500, delivered)


def test_another_cpu_s_timer_is_no_tick_of_this_one() -> None:
    row = run(flags=OTHERS, acted_at=1600)
    assert elsewhere(row, fired=[1300, 1550, 1700], irq_exits=1) == (500, 500, 0)
    assert elsewhere(row, fired=[1550], irq_exits=3) == (500, 500, 2)
    assert elsewhere(row, fired=[1550], irq_exits=0) == (500, 500, 0)


def test_a_thread_that_did_not_act_interrupted_nothing() -> None:
    assert elsewhere(run(flags=OTHERS), fired=[1600], irq_exits=0) == (500, NOT_DELIVERED, 0)
    assert elsewhere(run(flags=OTHERS), fired=[1600], irq_exits=2) == (500, NOT_DELIVERED, 2)


def test_another_cpu_s_timer_is_not_missed_in_the_log() -> None:
    assert elsewhere(run(flags=OTHERS, acted_at=1600), fired=[], irq_exits=1) == (500, 500, 0)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1200), st.booleans(), st.integers(0, 3)), max_size=12),
    st.lists(st.integers(0, 15_000), max_size=20),
)
def test_another_cpu_s_interrupts_are_each_step_s_own(
    several: list[tuple[int, bool, int]], fired: list[int]
) -> None:
    rows = [
        run(
            flags=OTHERS,
            armed_at=1000 * number + 1000,
            entered_at=1000 * number + 1100,
            returned_at=1000 * number + 1900,
            acted_at=1000 * number + 1000 + at if acts else 0,
        )
        for number, (at, acts, _) in enumerate(several)
    ]
    index = column(range(len(rows)))
    judged = steps(
        len(rows), first_run=index, run=index, irq_exits=column(exits for *_, exits in several)
    )
    placements = place(records(*rows), np.fromiter(sorted(fired), np.uint64), judged)
    for number, (at, acts, exits) in enumerate(several):
        inside = acts and 100 <= at <= 900
        assert placements.delivered_ns[number] == (at - 100 if inside else NOT_DELIVERED)
        assert placements.ticks[number] == max(0, exits - inside)
        assert placements.requested_ns[number] == 500


# --- a periodic timer ---

PERIOD = 20_000
PERIODIC = RecordFlag.STEPPING | RecordFlag.PERIODIC


def during(entered_at: int, returned_at: int, flags: int = PERIODIC) -> dict[str, int]:
    """A KVM_RUN while a timer runs that was armed at 1000."""
    return run(flags=flags, delay_ns=PERIOD, entered_at=entered_at, returned_at=returned_at)


@pytest.mark.parametrize(
    ("fired", "delivered", "ticks"),
    [
        ([21_000], 1_000, 0),  # at once
        ([21_000 + PERIODIC_LATENESS_NS], 1_000 + PERIODIC_LATENESS_NS, 0),
        ([21_000 + PERIODIC_LATENESS_NS + 1], NOT_DELIVERED, 1),  # too late to be its own
        ([20_999], NOT_DELIVERED, 1),  # too early
        ([20_500, 21_100], 1_100, 1),  # a tick before its own
        ([21_100, 29_000], 1_100, 1),  # ... and after
        ([19_999, 30_001], NOT_DELIVERED, 0),  # outside
        ([], NOT_DELIVERED, 0),
    ],
)
def test_a_periodic_timer_s_interrupts_come_at_multiples_of_its_period(
    fired: list[int], delivered: int, ticks: int
) -> None:
    rows = records(during(20_000, 30_000))
    requested = NOT_DELIVERED if delivered == NOT_DELIVERED else PERIOD
    assert only(placed(rows, (0, 0), fired=fired)) == (requested, delivered, ticks)


def test_no_period_ends_when_it_begins() -> None:
    rows = records(during(1000, 5000))
    assert only(placed(rows, (0, 0), fired=[1100])) == (NOT_DELIVERED, NOT_DELIVERED, 1)


def test_before_a_periodic_timer_runs_nothing_is_its_own() -> None:
    quiet = run(flags=RecordFlag.STEPPING, armed_at=0, delay_ns=0, entered_at=100, returned_at=900)
    rows = records(quiet, during(20_000, 30_000))
    placements = placed(rows, (0, 0), (1, 1), fired=[500, 21_100])
    assert placements.delivered_ns.tolist() == [NOT_DELIVERED, 1_100]
    assert placements.ticks.tolist() == [1, 0]


@settings(deadline=None)
@given(
    st.integers(PERIODIC_LATENESS_NS + 2, 100_000),
    st.lists(st.integers(0, PERIODIC_LATENESS_NS), min_size=1, max_size=30),
    st.sets(st.integers(0, 500_000), max_size=30),
)
def test_each_interrupt_of_a_period_is_some_step_s_own_and_no_tick_is(
    period: int, late: list[int], ticks: set[int]
) -> None:
    own = [1000 + period * number + by for number, by in enumerate(late, 1)]
    others = {one for one in ticks if one < 1000 or (one - 1000) % period > PERIODIC_LATENESS_NS}
    fired = sorted({*own, *others})
    end = max(fired)
    rows = records(
        *(
            run(flags=PERIODIC, delay_ns=period, entered_at=at, returned_at=at + period // 2 - 1)
            for at in range(0, end + 1, period // 2)
        )
    )
    placements = placed(rows, *((one, one) for one in range(len(rows))), fired=fired)
    entered = rows["entered_at"].astype(np.int64)
    came = (entered + placements.delivered_ns)[placements.delivered].tolist()
    assert set(came) <= set(own)
    windows = {time // (period // 2) for time in own}
    assert len(came) == len({one for one in windows if one < len(rows)})
    assert np.all(placements.ticks >= 0)
