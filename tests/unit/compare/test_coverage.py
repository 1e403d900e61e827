"""What of the step windows was tried, and what may be claimed of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from samples import NEXT_PC, OFFSET, OK, PC, grid, samples, together

from qemu_diff.compare.contract import Steps
from qemu_diff.compare.coverage import coverage, resolution_of
from qemu_diff.compare.placements import NOT_DELIVERED, Placements
from qemu_diff.model import Coverage, FloodSource, FloodSpec, Method, Placement

SWEEP = FloodSpec((FloodSource.HOST_TIMER,), Placement.SWEEP)
WINDOWS = {PC: 1500}
Some = tuple[Steps, Placements]


def early(delays: range = range(1, 860), pc: int = PC) -> Some:
    """Delays that are too short for the timer: it fires before the entry for each of them."""
    judged, placements = samples(((0, OK) for _ in delays), pc)
    never = np.full(len(delays), NOT_DELIVERED)
    return judged, replace(placements, requested_ns=np.array(delays), delivered_ns=never)


def swept(first: int = 860, last: int = 1500, pc: int = PC) -> Some:
    return samples(grid(first, last).items(), pc)


def covered(
    *parts: Some, flood: FloodSpec = SWEEP, windows: dict[int, int] = WINDOWS, resolution: int = 1
) -> Coverage:
    found = coverage(flood, *together(*parts), windows, resolution)
    assert found is not None
    return found


def test_each_ns_from_the_first_that_can_be_reached_to_the_window_s_end_is_a_full_grid() -> None:
    assert covered(early(), swept()) == Coverage(
        Method.FULL, 1, tried=859 + 641, inside=641, missing=0, first_ns=860
    )


def test_delays_that_all_come_at_one_early_time_prove_the_floor_as_well() -> None:
    judged, placements = samples([(859, OK)] * 900)
    crowd = judged, replace(placements, requested_ns=np.arange(300, 1200))
    assert covered(crowd, swept()).method is Method.FULL


@pytest.mark.parametrize("left_out", [861, 1000, 1499, 1500])
def test_one_ns_left_out_is_no_full_grid(left_out: int) -> None:
    outcome_at = grid(860, 1500)
    del outcome_at[left_out]
    found = covered(early(), samples(outcome_at.items()))
    assert (found.method, found.missing) == (Method.GRID, 1)
    assert found.beyond_ns == (1 if left_out == 1500 else 0)


def test_where_no_shorter_delay_was_tried_the_first_ns_is_not_known_to_be_the_first() -> None:
    assert covered(swept()).method is Method.GRID
    assert covered(early(range(860 + OFFSET, 870 + OFFSET)), swept()).method is Method.GRID


def test_an_unknown_window_is_no_full_grid() -> None:
    assert covered(early(), swept(), windows={}).method is Method.GRID
    other = (early(pc=NEXT_PC), swept(pc=NEXT_PC))
    assert covered(early(), swept(), *other).method is Method.GRID


def test_an_instruction_without_a_placement_is_no_full_grid() -> None:
    found = covered(early(), swept(), windows={**WINDOWS, NEXT_PC: 1500})
    assert (found.method, found.untouched) == (Method.GRID, 1)


def test_a_step_beside_l1_s_own_interrupt_is_no_placement() -> None:
    outcome_at = grid(860, 1500)
    del outcome_at[1000]
    displaced = samples([(1000, OK)], ticks=1)
    found = covered(early(), samples(outcome_at.items()), displaced)
    assert (found.method, found.missing, found.inside) == (Method.GRID, 1, 641)


def test_a_coarse_grid_never_is_a_full_one() -> None:
    coarse = replace(SWEEP, step_ns=32)
    assert covered(early(), swept(), flood=coarse).method is Method.GRID


def test_a_grid_as_fine_as_the_counter_is_a_full_one() -> None:
    times = samples((time, OK) for time in range(864, 1505, 16))
    found = covered(early(), times, flood=replace(SWEEP, step_ns=16), resolution=16)
    assert (found.method, found.missing) == (Method.FULL, 0)
    assert covered(early(), times, flood=SWEEP, resolution=16).method is Method.GRID


@pytest.mark.parametrize(
    ("placement", "method"),
    [
        (Placement.ADAPTIVE, Method.ADAPTIVE),
        (Placement.RANDOM, Method.RANDOM),
        (Placement.PERIODIC, Method.RANDOM),
        (Placement.BURST, Method.RANDOM),
        (Placement.PAIRS, Method.GRID),
    ],
)
def test_only_a_sweep_can_be_full(placement: Placement, method: Method) -> None:
    flood = replace(SWEEP, placement=placement)
    assert covered(early(), swept(), flood=flood).method is method


def test_where_nothing_was_sent_there_is_no_coverage() -> None:
    judged, placements = early()
    quiet = replace(placements, requested_ns=np.full(len(judged), NOT_DELIVERED))
    assert coverage(SWEEP, judged, quiet, WINDOWS, 1) is None


# --- resolution ---


@pytest.mark.parametrize(
    ("fired", "resolution"),
    [([], 0), ([5], 0), ([5, 6, 9], 1), ([16, 48, 1600], 16), ([7, 23, 55], 16), ([3, 3], 0)],
)
def test_the_resolution_is_what_interrupts_can_be_told_apart_by(
    fired: list[int], resolution: int
) -> None:
    assert resolution_of(np.array(fired, np.uint64)) == resolution
