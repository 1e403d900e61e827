"""A boot judged in windows: wherever it is cut, the answer is the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import (
    BASE,
    HVC,
    NOP,
    Bug,
    Garbage,
    Simulated,
    Stream,
    debug,
    eintr,
    executes,
    garbage,
    irq,
    marks,
    simulations,
    sync,
    tables_of,
)

from qemu_diff.abi import Mark, StepRecords, TruthRecords
from qemu_diff.compare.contract import Steps, join_steps, judge_windows
from qemu_diff.compare.decode import Program
from qemu_diff.compare.windows import Cut, window_at
from qemu_diff.errors import CorruptDataError

EXAMPLES = 150
IN_ONE_PIECE = 1 << 30
A = BASE

sizes = st.integers(1, 40)


def told(
    records: StepRecords, truth: TruthRecords, phantom: object, program: Program, size: int
) -> list[list[int]] | str:
    """All columns of all steps, or what it is refused with."""
    try:
        parts = list(judge_windows(records, truth, np.asarray(phantom).__getitem__, program, size))
    except CorruptDataError as error:
        return str(error)
    steps = join_steps(parts)
    return [getattr(steps, one.name).tolist() for one in fields(Steps)]


@settings(max_examples=EXAMPLES, deadline=None)
@given(simulations(list(Bug)), sizes)
def test_windows_of_any_size_agree_on_simulations(one: Simulated, size: int) -> None:
    program = tables_of(one.words, BASE, one.irq_base)
    arrays = one.stream.records, one.stream.truth, one.stream.phantom

    assert told(*arrays, program, size) == told(*arrays, program, IN_ONE_PIECE)


@settings(max_examples=2 * EXAMPLES, deadline=None)
@given(garbage(), sizes)
def test_windows_of_any_size_agree_on_garbage(one: Garbage, size: int) -> None:
    program = tables_of(one.words, one.vectors, one.irq_base)
    arrays = one.records, one.truth, one.phantom

    assert told(*arrays, program, size) == told(*arrays, program, IN_ONE_PIECE)


def windows_of(stream: Stream, size: int) -> Iterator[tuple[int, int, bool]]:
    """(first RUN, groups that are judged, last) of each window."""
    cut = Cut()
    while True:
        window = window_at(stream.records, stream.truth, cut, size)
        yield cut.run, window.judged, window.last
        if window.last:
            return
        cut = window.next(spent=False)


def stepped(number: int) -> Stream:
    """So many steps of three truth records each."""
    stream = Stream().set_pc(A).step_on()
    for index in range(number):
        stream.run(executes(A + 4 * index), sync(), debug(A + 4 * index + 4))
    return stream.happens(marks(Mark.JOB_END))


def test_each_window_begins_with_the_group_that_the_one_before_could_not_end() -> None:
    assert list(windows_of(stepped(6), size=9)) == [
        (0, 2, False),
        (2, 2, False),
        (4, 2, True),
    ]


def test_a_window_grows_until_a_group_is_whole() -> None:
    stream = Stream().set_pc(A).step_on().run(executes(A), sync(), debug(A + 4))
    for _ in range(50):
        stream.run(irq(), eintr(A + 4))
    for index in range(1, 40):
        stream.run(executes(A + 4 * index), sync(), debug(A + 4 * index + 4))

    first, second, *_ = windows_of(stream, size=4)

    assert first[:2] == (0, second[0] - 50)
    assert second == (second[0], 1, False)


def test_a_report_is_blamed_over_the_cut() -> None:
    """The second report says A + 8, and L2 goes on at A + 12."""
    stream = Stream().set_pc(A).step_on().run(executes(A), sync(), debug(A + 4))
    stream.run(executes(A + 4), sync(), debug(A + 8)).run(executes(A + 12), sync(), debug(A + 16))
    program = tables_of([NOP] * 8)
    arrays = stream.records, stream.truth, stream.phantom

    found = [told(*arrays, program, size) for size in range(1, 12)]

    assert found[0][-1] == [0, 3, 0]
    assert all(one == found[0] for one in found)


def test_a_spent_step_is_remembered_over_the_cut() -> None:
    """A signal comes after the HVC: the step is spent. PC is written: nobody's step any more."""
    stream = Stream().set_pc(A).step_on().run(executes(A), sync(), debug(A + 4))
    stream.run(executes(A + 4), sync(), eintr(A + 8)).set_pc(A).run(sync(), debug(A))
    stream.set_pc(A).run(executes(A), sync(), debug(A + 4))
    stream.run(executes(A + 4), sync(), debug(A + 8))
    program = tables_of([NOP, HVC, NOP, NOP])
    arrays = stream.records, stream.truth, stream.phantom

    found = [told(*arrays, program, size) for size in range(1, 20)]

    assert found[0][1] == [0, 3, 4]
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("size", [1, 4, IN_ONE_PIECE])
@pytest.mark.parametrize("kept", [3, 6, 9])
def test_marks_that_are_missing_are_counted_over_all_windows(size: int, kept: int) -> None:
    stream = stepped(4)
    phantom = stream.phantom[:kept]

    said = told(stream.records, stream.truth[:kept], phantom, tables_of([NOP] * 8), size)

    assert said == f"the truth holds {kept // 3} marks for 4 returns from KVM_RUN"


@pytest.mark.parametrize("size", [1, 4, IN_ONE_PIECE])
def test_marks_beyond_the_last_return_are_counted_too(size: int) -> None:
    stream = stepped(4).happens(executes(A), marks(Mark.RETURNED))
    arrays = stream.records, stream.truth, stream.phantom

    assert "5 marks for 4 returns" in told(*arrays, tables_of([NOP] * 8), size)
