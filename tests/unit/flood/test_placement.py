"""Which delays a flood requests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_diff.flood.placement import Sweep, random_delays, sweep
from qemu_diff.model import FloodSource, FloodSpec, Placement

LONGEST_WINDOW_NS = 3500

times = st.integers(0, 10_000)


def swept(first_ns: int, last_ns: int | None, step_ns: int = 1) -> FloodSpec:
    return FloodSpec((FloodSource.HOST_TIMER,), Placement.SWEEP, first_ns, last_ns, step_ns)


def drawn(first_ns: int, last_ns: int | None) -> FloodSpec:
    return FloodSpec((FloodSource.HOST_TIMER,), Placement.RANDOM, first_ns, last_ns)


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
    assert 0 not in random_delays(drawn(0, 1), LONGEST_WINDOW_NS, 1000, seed=1)


# --- random delays ---


@settings(deadline=None)
@given(times, times, st.integers(0, 300), st.integers(0, 2**31 - 1))
def test_random_delays_lie_in_the_interval(first: int, last: int, steps: int, seed: int) -> None:
    delays = random_delays(drawn(first, last), LONGEST_WINDOW_NS, steps, seed)
    assert delays.shape == (steps,)
    assert delays.dtype == np.uint32
    lowest = max(first, 1)
    assert np.all((delays >= lowest) & (delays <= max(lowest, last)))


def test_both_ends_of_the_interval_are_drawn_and_everything_between() -> None:
    delays = random_delays(drawn(5, 9), LONGEST_WINDOW_NS, 1000, seed=1)
    drawn_often, counts = np.unique(delays, return_counts=True)
    assert drawn_often.tolist() == [5, 6, 7, 8, 9]
    assert counts.min() > 100


def test_random_delays_without_a_last_one_reach_up_to_the_longest_window() -> None:
    delays = random_delays(drawn(3495, None), LONGEST_WINDOW_NS, 1000, seed=1)
    assert np.unique(delays).tolist() == list(range(3495, 3501))


def test_the_same_seed_draws_the_same_delays_and_another_draws_others() -> None:
    def draw(seed: int) -> list[int]:
        return random_delays(drawn(0, None), LONGEST_WINDOW_NS, 100, seed).tolist()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_more_steps_go_on_with_the_same_delays() -> None:
    few = random_delays(drawn(0, None), LONGEST_WINDOW_NS, 10, seed=1)
    many = random_delays(drawn(0, None), LONGEST_WINDOW_NS, 20, seed=1)
    assert many[:10].tolist() == few.tolist()
