"""L1's path through a quiet step, tied to the step's own clock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qemu_diff.abi import (
    STEP_RECORD,
    TRUTH_RECORD,
    Mark,
    RecordKind,
    TruthKind,
    TruthRecords,
)
from qemu_diff.compare.contract import Steps
from qemu_diff.compare.landmarks import (
    GUEST_ENTRY,
    GUEST_EXIT,
    exit_function,
    landmarks_of_steps,
    with_landmarks,
)
from qemu_diff.compare.placements import NOT_DELIVERED, Placements
from qemu_diff.model import Instruction, Landmark, PlacementMap
from qemu_diff.trace.landmarks import split_landmarks
from qemu_diff.trace.trace import Trace

L2, VECTOR, READ, RETURN_READ = 0x5A5A0000, 0xFFFFFFC008010400, 0x400100, 0x400200
FUNCTIONS = {
    0xFFFFFFC008000000: "kvm_arch_vcpu_ioctl_run",
    0xFFFFFFC008000100: "kvm_hyp_handle_sysreg",
    0xFFFFFFC008000200: "kvm_handle_sys_reg",
    0xFFFFFFC008000300: "kvm_handle_guest_debug",
}
RUN, HYP_SYSREG, SYS_REG, DEBUG = FUNCTIONS

Event = tuple[int, int]
"""(ns from the reading of entered_at, address)."""

SYSREG_STEP: tuple[Event, ...] = (
    (0, READ),
    (30, RUN),
    (200, L2),
    (201, VECTOR),
    (210, HYP_SYSREG),
    (240, SYS_REG),
    (300, L2 + 4),
    (301, VECTOR),
    (330, DEBUG),
    (400, RETURN_READ),
)
"""A trapped instruction, and the entry in Active-pending after it, whose phantom is recorded."""


def truth_of(events: tuple[Event, ...], start: int) -> list[tuple[int, int, int]]:
    """(kind, PC, detail) of one KVM_RUN; its mark stands before the last event."""
    rows: list[tuple[int, int, int]] = []
    for number, (at_ns, address) in enumerate(events):
        if number == len(events) - 1:
            rows.append((TruthKind.MARK, 0x400000, Mark.RETURNED))
        rows.append((TruthKind.LANDMARK, address, (start + at_ns) % (1 << 32)))
        if address == VECTOR:
            rows.append((TruthKind.EXIT, address, 0x400))
        if L2 <= address < L2 + 0x100:
            rows.append((TruthKind.INSTRUCTION, address, 0))
    return rows


def stream(*runs: tuple[Event, ...]) -> TruthRecords:
    rows = [row for number, run in enumerate(runs) for row in truth_of(run, 5_000 * number)]
    made = np.zeros(len(rows), TRUTH_RECORD)
    for record, (kind, pc, detail) in zip(made, rows, strict=True):
        record["kind"], record["pc"], record["detail"] = kind, pc, detail
    return made


def trace_of(*runs: tuple[Event, ...], clock_is_off_by: int = 0) -> Trace:
    truth, landmarks = split_landmarks(stream(*runs))
    records = np.zeros(len(runs), STEP_RECORD)
    records["kind"] = RecordKind.RUN
    records["entered_at"] = 1_000_000 + 5_000 * np.arange(len(runs))
    lengths = np.array([run[-1][0] for run in runs])
    records["returned_at"] = records["entered_at"] + (lengths + clock_is_off_by).astype(np.uint64)
    phantom = np.zeros(len(truth), bool)
    return Trace(records, truth, phantom, np.zeros(0, np.uint64), landmarks)


def steps_of(number: int, instruction: int = L2) -> Steps:
    index = np.arange(number)
    column = np.zeros(number, np.int64)
    return Steps(
        first_run=index,
        run=index,
        previous_pc=column,
        reported_pc=column,
        executed=column + 1,
        first_executed=column + instruction,
        active_pending=column != 0,
        irq_exits=column,
        redirects=column,
        outcome=column,
    )


def quiet(trace: Trace, steps: Steps, ticks: tuple[int, ...] = ()) -> Placements:
    number = len(steps)
    entered = trace.records["entered_at"][steps.first_run].astype(np.int64)
    length = trace.records["returned_at"][steps.run].astype(np.int64) - entered
    column = np.full(number, NOT_DELIVERED, np.int64)
    came = np.zeros(number, np.int64)
    came[: len(ticks)] = ticks
    return Placements(column, column, came, length)


def found(trace: Trace, ticks: tuple[int, ...] = ()) -> dict[int, tuple[Landmark, ...]]:
    steps, reads = steps_of(len(trace.records)), (READ, RETURN_READ)
    return landmarks_of_steps(trace, steps, quiet(trace, steps, ticks), reads, FUNCTIONS)


def test_times_are_from_the_entry_into_kvm_run() -> None:
    assert found(trace_of(SYSREG_STEP)) == {
        L2: (
            Landmark(30, "kvm_arch_vcpu_ioctl_run"),
            Landmark(200, GUEST_ENTRY),
            Landmark(201, GUEST_EXIT),
            Landmark(210, "kvm_hyp_handle_sysreg"),
            Landmark(240, "kvm_handle_sys_reg"),
            Landmark(300, GUEST_ENTRY),
            Landmark(301, GUEST_EXIT),
            Landmark(330, "kvm_handle_guest_debug"),
        )
    }


def test_the_shortest_quiet_step_is_shown() -> None:
    longer = tuple((at_ns + 7 * (at_ns > 30), address) for at_ns, address in SYSREG_STEP)
    (landmarks,) = found(trace_of(longer, SYSREG_STEP, longer)).values()
    assert landmarks[1] == Landmark(200, GUEST_ENTRY)


def test_a_step_with_a_tick_of_l1_is_not_quiet() -> None:
    longer = tuple((at_ns + 7 * (at_ns > 30), address) for at_ns, address in SYSREG_STEP)
    (landmarks,) = found(trace_of(SYSREG_STEP, longer), ticks=(1, 0)).values()
    assert landmarks[1] == Landmark(207, GUEST_ENTRY)


@pytest.mark.parametrize("off", [1, -3])
def test_where_the_count_is_not_the_clock_nothing_is_shown(off: int) -> None:
    assert found(trace_of(SYSREG_STEP, clock_is_off_by=off)) == {}


def test_an_instruction_that_faults_costs_no_time() -> None:
    """It is counted when it faults and when it is executed again; the clock sees it once."""
    (landmarks,) = found(trace_of(SYSREG_STEP, clock_is_off_by=-1)).values()
    assert [one.at_ns for one in landmarks] == [30, 200, 200, 209, 239, 299, 300, 329]


def test_a_boot_that_was_not_asked_for_landmarks_has_none() -> None:
    without = replace(
        trace_of(SYSREG_STEP), landmarks=split_landmarks(np.zeros(0, TRUTH_RECORD))[1]
    )
    assert found(without) == {}


def test_a_step_over_several_entries_of_kvm_run_is_one_axis() -> None:
    """After MMIO that user space served the step goes on: time runs on from the first entry."""
    first = ((0, READ), (200, L2), (201, VECTOR), (400, RETURN_READ))
    second = ((0, READ), (200, L2 + 4), (201, VECTOR), (230, DEBUG), (300, RETURN_READ))
    trace = trace_of(first, second)
    one = steps_of(1)
    joined = replace(one, run=one.run + 1)
    landmarks = landmarks_of_steps(
        trace, joined, quiet(trace, joined), (READ, RETURN_READ), FUNCTIONS
    )
    assert landmarks[L2][-1] == Landmark(5_230, "kvm_handle_guest_debug")
    assert [one.at_ns for one in landmarks[L2]] == [200, 201, 5_200, 5_201, 5_230]


def test_what_served_an_exit_is_the_last_to_look_at_it() -> None:
    (landmarks,) = found(trace_of(SYSREG_STEP)).values()
    assert exit_function(landmarks) == "kvm_handle_sys_reg"


@pytest.mark.parametrize(
    ("names", "served"),
    [
        ((), ""),
        (("kvm_arch_vcpu_ioctl_run",), ""),
        ((GUEST_ENTRY, GUEST_EXIT), ""),
        (("handle_hvc", GUEST_ENTRY, GUEST_EXIT, "handle_exit"), ""),
        ((GUEST_ENTRY, GUEST_EXIT, "handle_hvc", "kvm_psci_call"), "handle_hvc"),
        ((GUEST_EXIT, "handle_exit", GUEST_ENTRY, GUEST_EXIT, "handle_hvc"), ""),
    ],
)
def test_an_exit_that_nothing_known_served_has_no_name(names: tuple[str, ...], served: str) -> None:
    path = tuple(Landmark(at_ns, name) for at_ns, name in enumerate(names))
    assert exit_function(path) == served


def test_maps_get_the_landmarks_of_their_instruction() -> None:
    maps = tuple(
        PlacementMap(Instruction(address, "label", "nop"), 5, ()) for address in (L2, L2 + 4)
    )
    path = (Landmark(3, GUEST_ENTRY),)
    shown = with_landmarks(maps, {L2: path}, {L2: 9})
    assert [one.landmarks for one in shown] == [path, ()]
    assert [one.window_ns for one in shown] == [9, 5]
