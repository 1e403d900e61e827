"""The step VMM's own arithmetic (stepvmm/timer.c), compiled for this machine: grids and bursts."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_diff.abi import OPERATION, PLACEMENT, OperationCode, TimerKind
from qemu_diff.config.schema import MOST_BURST
from qemu_diff.drive.job import (
    Job,
    Operation,
    Routine,
    fill_job,
    pairs_job,
    sweep_job,
    table_job,
)
from qemu_diff.flood.placement import PairGrid, Placements, Sweep
from qemu_diff.guest.toolchain import HOST_COMPILER
from qemu_diff.model import FloodSource

GUEST_IMAGES = Path(__file__).parents[3] / "guest_images"
ROUTINE = Routine((), (Operation(OperationCode.STEP, n=1),))
SPI = FloodSource.SPI_EDGE

HARNESS = """
#include "timer.h"

/* Of a job's operations, those that job.c hands to its timer. */
static void set(struct timer *timer, const struct operation *operation,
		const struct placement *table)
{
	switch (operation->code) {
	case OP_TIMER_SWEEP:
		timer->mode = TIMER_SWEEP;
		timer->kind = operation->kind;
		timer->grid = timer_grid(operation);
		break;
	case OP_TIMER_SECOND:
		timer->second = timer_grid(operation);
		break;
	case OP_TIMER_BURST:
		timer->burst = operation->n;
		timer->spacing = operation->a;
		break;
	case OP_TIMER_TABLE:
		timer->mode = TIMER_TABLE;
		timer->next = table + operation->a;
		timer->left = operation->n;
		break;
	}
}

/* The placements of one step in each of so many passes; counts[i] of them in each. */
void place(const struct operation *operations, int number, const struct placement *table,
		uint64_t passes, struct placement *shots, int *counts)
{
	struct timer timer = { 0 };

	for (int i = 0; i < number; i++)
		set(&timer, &operations[i], table);
	for (uint64_t i = 0; i < passes; i++)
		counts[i] = timer_next(&timer, i, shots + MOST_SHOTS * i);
}
"""

Shots = list[list[tuple[int, int]]]
"""Of each pass's one step: (delay, kind) of its placements."""

Place = Callable[[Sequence[Operation], Placements, int], Shots]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    scratch = tmp_path_factory.mktemp("timer")
    source, library = scratch / "harness.c", scratch / "timer.so"
    source.write_text(HARNESS)
    stepvmm = GUEST_IMAGES / "stepvmm"
    subprocess.run(
        [HOST_COMPILER, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
         f"-I{stepvmm}", f"-I{GUEST_IMAGES / 'include'}", "-o", str(library), str(source),
         str(stepvmm / "timer.c")],
        check=True,
    )  # fmt: skip
    placed_by_c = ctypes.CDLL(str(library)).place

    def placed(operations: Sequence[Operation], table: Placements, passes: int) -> Shots:
        rows = [(one.code, one.kind, one.n, one.a, one.b) for one in operations]
        codes = np.array(rows, dtype=OPERATION)
        shots = np.zeros((passes, MOST_BURST), dtype=PLACEMENT)
        counts = np.zeros(passes, dtype=np.int32)
        placed_by_c(
            *(pointer(codes), len(codes), pointer(table), ctypes.c_uint64(passes)),
            *(pointer(shots), pointer(counts)),
        )
        return [shots[one, :count].tolist() for one, count in enumerate(counts.tolist())]

    return placed


def pointer(array: np.ndarray[tuple[int, ...], np.dtype[np.void | np.int32]]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def flood_of(job: Job) -> list[Operation]:
    """What comes before its passes."""
    codes = [one.code for one in job.operations]
    return list(job.operations[: codes.index(OperationCode.REPEAT)])


def delays(shots: Shots) -> list[list[int]]:
    return [[delay for delay, _ in one] for one in shots]


first = st.integers(1, 1_000_000_000)
steps = st.integers(1, 10_000)


@settings(deadline=None)
@given(first, steps, st.integers(1, 50), st.sampled_from([SPI, FloodSource.SIGNAL]))
def test_a_sweep_has_one_delay_of_its_grid_for_each_pass(
    place: Place, first_ns: int, step_ns: int, passes: int, source: FloodSource
) -> None:
    job = sweep_job(ROUTINE, source, Sweep(first_ns, step_ns, passes))

    shots = place(flood_of(job), job.placements, passes)

    kind = TimerKind[source.name]
    assert shots == [[(first_ns + step_ns * number, kind)] for number in range(passes)]


@settings(deadline=None)
@given(first, steps, st.integers(1, 12))
def test_pairs_are_all_combinations_of_a_grid_s_delays_once(
    place: Place, first_ns: int, step_ns: int, side: int
) -> None:
    grid = PairGrid(first_ns, step_ns, side)
    job = pairs_job(ROUTINE, SPI, grid)

    shots = place(flood_of(job), job.placements, job.passes)

    one = [first_ns + step_ns * number for number in range(side)]
    assert delays(shots) == [[first, second] for first in one for second in one]
    assert {kind for step in shots for _, kind in step} == {TimerKind.SPI_EDGE}


def test_pairs_begin_anew_after_the_last(place: Place) -> None:
    job = pairs_job(ROUTINE, SPI, PairGrid(10, 5, 2))

    assert delays(place(flood_of(job), job.placements, 6)) == [
        *([10, 10], [10, 15], [15, 10], [15, 15]),
        *([10, 10], [10, 15]),
    ]


def test_a_fill_has_its_one_delay(place: Place) -> None:
    job = fill_job(ROUTINE, SPI, [77])

    assert delays(place(flood_of(job), job.placements, 3)) == [[77]] * 3


@st.composite
def tables(draw: st.DrawFn) -> Placements:
    rows = draw(st.lists(st.tuples(first, st.sampled_from(TimerKind)), max_size=20))
    return np.array(rows, dtype=PLACEMENT)


@settings(deadline=None)
@given(tables(), st.integers(1, MOST_BURST), st.integers(1, 100_000), st.integers(1, 25))
def test_a_table_s_placements_come_in_order_each_with_its_burst(
    place: Place, table: Placements, burst: int, spacing_ns: int, passes: int
) -> None:
    job = table_job(ROUTINE, passes, table, burst=burst, spacing_ns=spacing_ns)

    shots = place(flood_of(job), job.placements, passes)

    expected: Shots = [
        [(delay + spacing_ns * number, kind) for number in range(burst)]
        for delay, kind in table.tolist()[:passes]
    ]
    assert shots == expected + [[]] * (passes - len(expected))


def test_no_delay_in_a_table_is_no_interrupt(place: Place) -> None:
    table = np.array([(0, 2), (9, 2), (0, 2)], dtype=PLACEMENT)
    job = table_job(ROUTINE, 3, table, burst=2, spacing_ns=4)

    assert delays(place(flood_of(job), job.placements, 3)) == [[], [9, 13], []]
