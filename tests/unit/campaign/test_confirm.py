"""Which passes are booted again, and what their boots come to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from unit.campaign.test_finding_directory import RECORD

from qemu_diff.abi import STEP_RECORD, TRUTH_RECORD, RecordFlag, RecordKind, TimerKind
from qemu_diff.campaign.confirm import (
    MOST_BOOTS,
    odds_of,
    one_pass,
    passes_to_try,
    placements_of_pass,
    portable_argv,
)
from qemu_diff.campaign.fresh_boot import Bench
from qemu_diff.compare.contract import Judged, Steps
from qemu_diff.compare.observation import Observation
from qemu_diff.compare.placements import NOT_DELIVERED, Placements
from qemu_diff.drive.in_guest import Tools
from qemu_diff.drive.job import Routine
from qemu_diff.guest.image import LOAD_ADDRESS, StepVmm
from qemu_diff.guest.qemu import Qemu
from qemu_diff.model import Build, Confirmation, Signature, ViolationKind
from qemu_diff.report.words import confirmation_words
from qemu_diff.trace.trace import Trace
from qemu_diff.truth.phantom import PhantomRule
from qemu_diff.truth.plugin import TruthPlugin

QEMU = Qemu(Path("/usr/bin/qemu-system-aarch64"), "", "", sandbox=True, cpus=())
PLUGIN = TruthPlugin(Path("/cache/truth.so"), 1, PhantomRule.INSN_SIZE)
TOOLS = Tools(QEMU, PLUGIN, StepVmm(Path("/cache/stepvmm"), ()), Path("/images"), Path("/cache"))
BUILD = Build("k", "", Path("/cache/k/Image"), None, None, None, "", cached=True, duration_s=0)
BENCH = Bench(RECORD.cell, BUILD, RECORD.payload, TOOLS, 1.0, threading.Event())
WANTED = Signature("step/tcg", "nop", ViolationKind.LOST_STEP)


@pytest.mark.parametrize(
    ("outcomes", "asked", "words"),
    [
        ([True, False], 1, "confirmed from a fresh boot, in one pass"),
        ([False, True, False, True, False], 5, "flaky from a fresh boot: 2 of 5"),
        ([False] * 5, 5, "not reproduced from a fresh boot: 0 of 5"),
        ([], 0, "not reproduced from a fresh boot: 0 of 0"),
    ],
)
def test_odds(outcomes: list[bool], asked: int, words: str) -> None:
    left = iter(outcomes)
    odds = odds_of(left)
    assert odds.boots == asked == len(outcomes) - len([*left])
    assert odds.reproduced == sum(outcomes[:asked])
    assert confirmation_words(odds) == words


def test_a_batch_in_words() -> None:
    assert "none of 5 single passes shows it" in confirmation_words(Confirmation(5, 0, True))
    assert "of the whole batch" in confirmation_words(Confirmation(0, 0, True))


def passes_of(delays: list[list[int]]) -> Trace:
    """A pass for each list; a RUN record for each delay, armed unless it is 0."""

    def rows() -> Iterator[tuple[RecordKind, int]]:
        for one in delays:
            yield RecordKind.PASS, 0
            yield from ((RecordKind.RUN, delay) for delay in one)

    records = np.zeros(sum(map(len, delays)) + len(delays), STEP_RECORD)
    for index, (kind, delay) in enumerate(rows()):
        records[index]["kind"], records[index]["delay_ns"] = kind, delay
        records[index]["flags"] = RecordFlag.TIMER_ARMED if delay else 0
    nothing = np.zeros(0, TRUTH_RECORD)
    return Trace(records, nothing, np.zeros(0, dtype=bool), np.zeros(0, dtype=np.uint64))


def lost_at(times: list[int], ticks: list[int] | None = None) -> Observation:
    """A lost step in each RUN, with the interrupt delivered at a time."""
    number = np.arange(len(times))
    column = np.zeros(len(times), dtype=np.int64)
    steps = Steps(
        first_run=number, run=number, previous_pc=column, reported_pc=column,
        executed=column + 2, first_executed=column + LOAD_ADDRESS, active_pending=column > 0,
        irq_exits=column, redirects=column, outcome=column + int(Judged.LOST_STEP),
    )  # fmt: skip
    placements = Placements(
        requested_ns=column,
        delivered_ns=np.array(times),
        ticks=np.array(ticks or column),
        length_ns=column,
    )
    return Observation(steps, placements, ())


def tried(times: list[int], ticks: list[int] | None = None) -> tuple[int, ...]:
    trace = passes_of([[7]] * len(times))
    return passes_to_try(lost_at(times, ticks), trace, BENCH, WANTED)


def test_the_middle_of_a_window_comes_first_then_its_quarters_and_ends() -> None:
    assert tried([*range(100, 201)]) == (50, 25, 75, 100, 0)
    assert tried([30, 10, 20]) == (2, 1, 0)


def test_what_no_interrupt_of_ours_did_comes_in_order() -> None:
    assert tried([NOT_DELIVERED] * 9) == (0, 1, 2, 3, 4)
    assert tried([10, NOT_DELIVERED, 12], ticks=[1, 0, 0]) == (2, 0, 1)
    assert len(tried([*range(9), *[NOT_DELIVERED] * 9])) == MOST_BOOTS


def test_other_signatures_are_left_alone() -> None:
    other = Signature("step/tcg", "hvc", ViolationKind.LOST_STEP)
    assert passes_to_try(lost_at([1]), passes_of([[7]]), BENCH, other) == ()


def test_a_pass_takes_its_own_placements() -> None:
    trace = passes_of([[1, 2], [3, 0, 5], []])
    armed = trace.records["kind"] == RecordKind.RUN
    trace.records["armed_at"][armed] = np.arange(armed.sum())
    trace.records["timer_kind"][armed] = TimerKind.LPI
    placed = placements_of_pass(trace, 1)
    assert placed.tolist() == [(3, TimerKind.LPI), (5, TimerKind.LPI)]
    job = one_pass(Routine((), ()), RECORD.cell, placed)
    assert (job.passes, job.placements.tolist()) == (1, placed.tolist())
    assert not len(one_pass(Routine((), ()), RECORD.cell, placements_of_pass(trace, 2)).placements)


def test_a_step_that_user_space_served_has_one_placement() -> None:
    trace = passes_of([[7, 7, 7]])
    trace.records["armed_at"][trace.records["kind"] == RecordKind.RUN] = [10, 10, 20]
    assert placements_of_pass(trace, 0)["delay"].tolist() == [7, 7]


def test_a_command_line_names_no_place_of_this_machine() -> None:
    command = (
        "/usr/bin/qemu-system-aarch64 -qmp unix:/tmp/qemu-diff-a_b1/qmp,server=on "
        "-kernel /cache/k/Image -initrd /out/boot/initramfs -plugin file=/cache/truth.so,out="
        "/out/boot/truth.bin"
    )
    assert portable_argv(command, Path("/out/boot"), BENCH) == (
        "qemu-system-aarch64 -qmp unix:qmp,server=on -kernel Image -initrd initramfs "
        "-plugin file=truth.so,out=truth.bin"
    )
