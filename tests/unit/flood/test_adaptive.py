"""Adaptive placement against made-up kernels whose windows are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_diff.flood.adaptive import (
    CUTS,
    ROUNDS,
    TRIES,
    alone,
    changes,
    first_delays,
    next_delays,
)
from qemu_diff.model import FloodSource, FloodSpec, Instruction, Placement, PlacementMap, Span

FIRST, NEXT = 0x1000, 0x1004
OFFSET = 367
Outcome = Callable[[int], str]


def flood(step_ns: int, count: int = 0, first_ns: int = 0, last_ns: int | None = None) -> FloodSpec:
    source = (FloodSource.HOST_TIMER,)
    return FloodSpec(source, Placement.ADAPTIVE, first_ns, last_ns, step_ns, count)


def map_of(pc: int, seen: dict[int, str]) -> PlacementMap:
    spans = []
    for outcome, of_span in groupby(sorted(seen.items()), key=lambda one: one[1]):
        times = [time for time, _ in of_span]
        spans.append(Span(times[0], times[-1], outcome, len(times)))
    return PlacementMap(Instruction(pc, f"{pc:#x}", "nop"), 0, tuple(spans))


def lost_in(*windows: tuple[int, int]) -> Outcome:
    def outcome(time: int) -> str:
        return "lost-step" if any(first <= time <= last for first, last in windows) else "ok"

    return outcome


class Guest:
    """Delivers what is requested, and remembers it.

    :param late: delay, how often it was requested before → ns that it comes later than usual; None
        if an interrupt of L1's own comes into the same step.
    """

    def __init__(
        self, kernel: dict[int, Outcome], late: Callable[[int, int], int | None] = lambda *_: 0
    ) -> None:
        self._kernel = kernel
        self._late = late
        self._seen: dict[int, dict[int, str]] = {pc: {} for pc in kernel}
        self.asked: Counter[int] = Counter()

    def place(self, delays: Iterable[int]) -> None:
        for delay in delays:
            late = self._late(delay, self.asked[delay])
            self.asked[delay] += 1
            for pc, outcome in self._kernel.items():
                if late is not None:
                    time = delay - OFFSET + late
                    self._seen[pc][time] = outcome(time)

    @property
    def maps(self) -> list[PlacementMap]:
        return [map_of(pc, seen) for pc, seen in self._seen.items() if seen]

    def windows(self, pc: int = FIRST) -> list[tuple[int, int]]:
        (one,) = (one for one in self.maps if one.instruction.address == pc)
        return [(s.first_ns, s.last_ns) for s in one.spans if s.outcome != "ok"]


def refined(guest: Guest, spec: FloodSpec, longest_ns: int, seed: int = 1) -> int:
    """Place and refine until nothing is left to do; how many rounds it took."""
    delays = first_delays(spec, longest_ns, seed)
    offsets = dict.fromkeys((FIRST, NEXT), (OFFSET,))
    for number in range(ROUNDS + 1):
        guest.place(delays)
        delays = next_delays(guest.maps, offsets, guest.asked)
        if not delays:
            return number
    pytest.fail("it goes on and on")


# --- the coarse grid and the probes ---


def test_the_grid_ends_where_the_longest_step_does() -> None:
    assert first_delays(flood(32, first_ns=1200), 1300, seed=1) == (1200, 1232, 1264, 1296)


def test_probes_lie_between_and_come_from_the_seed() -> None:
    grid = set(first_delays(flood(32), 5000, seed=1))
    probed = first_delays(flood(32, count=64), 5000, seed=1)
    assert len(set(probed) - grid) == 64
    assert set(probed) > grid
    assert probed == tuple(sorted(set(probed))) == first_delays(flood(32, count=64), 5000, seed=1)
    assert probed != first_delays(flood(32, count=64), 5000, seed=2)


def test_there_are_no_more_probes_than_there_is_room() -> None:
    assert first_delays(flood(4, count=999, first_ns=1, last_ns=12), 5000, 1) == (*range(1, 13),)


# --- refinement ---


@settings(deadline=None)
@given(
    st.integers(2, 200),
    st.lists(st.tuples(st.integers(600, 4000), st.integers(0, 300)), min_size=1, max_size=3),
    st.integers(0, 50),
)
def test_a_window_as_wide_as_the_grid_is_found_to_the_ns(
    step_ns: int, drawn: list[tuple[int, int]], count: int
) -> None:
    """Of several, those that the grid can tell apart."""
    windows: list[tuple[int, int]] = []
    for first, width in sorted(drawn):
        if not windows or first - windows[-1][1] > step_ns:
            windows.append((first, first + step_ns - 1 + width))
    guest = Guest({FIRST: lost_in(*windows)})
    refined(guest, flood(step_ns, count), longest_ns=6000)
    assert guest.windows() == windows
    assert max(guest.asked.values()) == 1, "a placement was repeated"
    assert not any(changes(one) for one in guest.maps)


def test_the_changes_of_all_instructions_are_refined_together() -> None:
    guest = Guest({FIRST: lost_in((1000, 1100)), NEXT: lost_in((2000, 2500))})
    assert refined(guest, flood(CUTS), 4000) == 1
    assert guest.windows(FIRST) == [(1000, 1100)]
    assert guest.windows(NEXT) == [(2000, 2500)]


@pytest.mark.parametrize(("step_ns", "rounds"), [(2, 1), (CUTS, 1), (CUTS + 1, 2), (1000, 2)])
def test_a_round_divides_what_is_left_of_a_change(step_ns: int, rounds: int) -> None:
    guest = Guest({FIRST: lost_in((1501, 2700))})
    assert refined(guest, flood(step_ns, first_ns=1), 5000) <= rounds
    assert guest.windows() == [(1501, 2700)]


def test_without_a_change_there_is_nothing_to_refine() -> None:
    guest = Guest({FIRST: lost_in()})
    assert refined(guest, flood(32), 4000) == 0
    assert next_delays([], {}, {}) == ()


def test_a_window_between_two_points_of_the_grid_is_found_by_a_probe_only() -> None:
    narrow = Guest({FIRST: lost_in((1010, 1012))})
    refined(narrow, flood(1000), 4000)
    assert narrow.windows() == []
    probed = Guest({FIRST: lost_in((1010, 1012))})
    refined(probed, flood(1000, count=4000), 4000)
    assert probed.windows() == [(1010, 1012)]


def test_what_an_interrupt_of_l1_s_own_displaced_is_tried_again() -> None:
    edge = 1500 + OFFSET
    guest = Guest({FIRST: lost_in((1500, 1700))}, lambda delay, before: (
        None if delay == edge and not before else 0
    ))  # fmt: skip
    refined(guest, flood(32), 4000)
    assert guest.windows() == [(1500, 1700)]
    assert guest.asked[edge] == 2


@settings(deadline=None)
@given(st.integers(2, 64), st.integers(0, 2**32))
def test_it_ends_however_late_interrupts_come(step_ns: int, chance: int) -> None:
    guest = Guest(
        {FIRST: lost_in((1500, 1700)), NEXT: lost_in((1600, 1650))},
        lambda delay, before: hash((delay, before, chance)) % 17 - 8,
    )
    delays = first_delays(flood(step_ns), 4000, 1)
    rounds = 0
    while delays:
        guest.place(delays)
        delays = next_delays(guest.maps, {FIRST: (OFFSET,), NEXT: (OFFSET,)}, guest.asked)
        rounds += 1
    assert max(guest.asked.values()) <= TRIES
    assert rounds < 2000


# --- placements of one instruction ---


def test_what_is_missing_of_one_instruction_is_placed_by_itself() -> None:
    missing = {FIRST: (1000, 1001), NEXT: (500,)}
    offsets = {FIRST: (367, 359), NEXT: (368,)}
    first = alone(missing, offsets, {})
    assert first == ((FIRST, 1367), (FIRST, 1368), (NEXT, 868))
    tried = dict.fromkeys(first, 1)
    assert alone(missing, offsets, tried) == first
    tried = dict.fromkeys(first, TRIES)
    assert alone(missing, offsets, tried) == ((FIRST, 1359), (FIRST, 1360), (NEXT, 869))
    assert alone({}, offsets, {}) == ()
