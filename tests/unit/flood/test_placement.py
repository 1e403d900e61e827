"""Which delays a flood requests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_diff.abi import PLACEMENT, TimerKind
from qemu_diff.flood.placement import (
    TIMER_KINDS,
    PairGrid,
    Sweep,
    pair_grid,
    random_placements,
    sweep,
)
from qemu_diff.model import FloodSource, FloodSpec, Placement

LONGEST_WINDOW_NS = 3500

times = st.integers(0, 10_000)


def swept(first_ns: int, last_ns: int | None, step_ns: int = 1) -> FloodSpec:
    return FloodSpec((FloodSource.HOST_TIMER,), Placement.SWEEP, first_ns, last_ns, step_ns)


def drawn(first_ns: int, last_ns: int | None, *sources: FloodSource, burst: int = 1) -> FloodSpec:
    placement = Placement.RANDOM if burst == 1 else Placement.BURST
    return FloodSpec(
        sources or (FloodSource.HOST_TIMER,), placement, first_ns, last_ns, burst=burst
    )


def requested(one: Sweep) -> list[int]:
    return [one.first_ns + number * one.step_ns for number in range(one.passes)]


# --- sweeps ---


@settings(deadline=None)
@given(times, times, st.integers(1, 500))
def test_a_sweep_requests_every_step_up_to_its_last_delay(first: int, last: int, step: int) -> None:
    first = max(first, 1)
    delays = requested(sweep(swept(first, last, step), LONGEST_WINDOW_NS))
    assert delays == (list(range(first, last + 1, step)) or [first])


@pytest.mark.parametrize(
    ("last", "step", "delays"),
    [
        (10, 1, [7, 8, 9, 10]),
        (15, 4, [7, 11, 15]),
        (14, 4, [7, 11]),
        (7, 4, [7]),
    ],
)
def test_the_last_delay_is_requested_where_a_step_hits_it(
    last: int, step: int, delays: list[int]
) -> None:
    assert requested(sweep(swept(7, last, step), LONGEST_WINDOW_NS)) == delays


def test_a_sweep_without_a_last_delay_ends_with_the_longest_window() -> None:
    assert requested(sweep(swept(1200, None), LONGEST_WINDOW_NS))[-1] == LONGEST_WINDOW_NS


def test_a_last_delay_outweighs_the_longest_window() -> None:
    for last in (LONGEST_WINDOW_NS - 1, LONGEST_WINDOW_NS + 1, 0):
        whole = sweep(swept(0, last), LONGEST_WINDOW_NS)
        assert requested(whole)[-1] == max(last, 1)


def test_a_delay_of_zero_would_be_no_interrupt() -> None:
    # timerfd_settime(2): a timer with it_value 0 is disarmed.
    assert sweep(swept(0, 100), LONGEST_WINDOW_NS) == Sweep(1, 1, 100)
    assert 0 not in random_placements(drawn(0, 1), LONGEST_WINDOW_NS, 1000, seed=1)["delay"]


# --- pairs ---


@settings(deadline=None)
@given(times, times | st.none(), st.integers(1, 500))
def test_pairs_are_the_square_of_a_sweep(first: int, last: int | None, step: int) -> None:
    flood = FloodSpec((FloodSource.SPI_EDGE,), Placement.PAIRS, first, last, step)
    one, grid = sweep(flood, LONGEST_WINDOW_NS), pair_grid(flood, LONGEST_WINDOW_NS)
    assert grid == PairGrid(one.first_ns, one.step_ns, side=one.passes)
    assert grid.passes == one.passes**2


# --- random placements ---


@settings(deadline=None)
@given(times, times, st.integers(0, 300), st.integers(0, 2**31 - 1))
def test_random_delays_lie_in_the_interval(first: int, last: int, steps: int, seed: int) -> None:
    placements = random_placements(drawn(first, last), LONGEST_WINDOW_NS, steps, seed)
    assert (placements.shape, placements.dtype) == ((steps,), PLACEMENT)
    delays, lowest = placements["delay"], max(first, 1)
    assert np.all((delays >= lowest) & (delays <= max(lowest, last)))


def test_both_ends_of_the_interval_are_drawn_and_everything_between() -> None:
    delays = random_placements(drawn(5, 9), LONGEST_WINDOW_NS, 1000, seed=1)["delay"]
    drawn_often, counts = np.unique(delays, return_counts=True)
    assert drawn_often.tolist() == [5, 6, 7, 8, 9]
    assert counts.min() > 100


def test_random_delays_without_a_last_one_reach_up_to_the_longest_window() -> None:
    delays = random_placements(drawn(3495, None), LONGEST_WINDOW_NS, 1000, seed=1)["delay"]
    assert np.unique(delays).tolist() == list(range(3495, 3501))


MIXTURES = (
    (FloodSource.HOST_TIMER,),
    (FloodSource.SPI_EDGE, FloodSource.PPI, FloodSource.VTIMER),
    tuple(TIMER_KINDS),
)


@pytest.mark.parametrize("sources", MIXTURES, ids="+".join)
def test_the_same_seed_draws_the_same_placements_and_another_draws_others(
    sources: tuple[FloodSource, ...],
) -> None:
    def draw(seed: int) -> list[tuple[int, int]]:
        flood = drawn(0, None, *sources)
        return random_placements(flood, LONGEST_WINDOW_NS, 100, seed).tolist()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_more_steps_go_on_with_the_same_delays() -> None:
    few = random_placements(drawn(0, None), LONGEST_WINDOW_NS, 10, seed=1)
    many = random_placements(drawn(0, None), LONGEST_WINDOW_NS, 20, seed=1)
    assert many[:10].tolist() == few.tolist()


@pytest.mark.parametrize("sources", MIXTURES, ids="+".join)
def test_each_source_is_drawn_as_often_as_another_and_no_other(
    sources: tuple[FloodSource, ...],
) -> None:
    number = 1000 * len(sources)
    kinds = random_placements(drawn(0, None, *sources), LONGEST_WINDOW_NS, number, seed=1)["kind"]
    found, counts = np.unique(kinds, return_counts=True)
    assert found.tolist() == sorted(TIMER_KINDS[source] for source in sources)
    assert np.all((counts > 850) & (counts < 1150))


def test_a_source_is_drawn_whatever_the_delay() -> None:
    flood = drawn(1, 2, FloodSource.PPI, FloodSource.LPI)
    drawn_often = {tuple(one) for one in random_placements(flood, 9, 200, seed=3).tolist()}
    assert drawn_often == {(delay, kind) for delay in (1, 2) for kind in (5, 6)}


def test_a_burst_is_placed_by_its_first_interrupt() -> None:
    alone = random_placements(drawn(1, 99, FloodSource.PPI), LONGEST_WINDOW_NS, 50, seed=1)
    burst = random_placements(drawn(1, 99, FloodSource.PPI, burst=8), LONGEST_WINDOW_NS, 50, seed=1)
    assert burst.tolist() == alone.tolist()


# --- sources ---


def test_each_source_that_can_be_named_has_a_timer_of_its_own_kind() -> None:
    named = set(FloodSource) - {FloodSource.NONE, FloodSource.DEVICE}
    assert set(TIMER_KINDS) == named
    assert sorted(TIMER_KINDS.values()) == sorted(TimerKind)


@pytest.mark.parametrize("source", TIMER_KINDS)
def test_a_source_into_l2_is_one_for_the_step_vmm_too(source: FloodSource) -> None:
    flood = drawn(0, None, FloodSource.SIGNAL, source)
    assert flood.into_guest == TIMER_KINDS[source].into_guest
