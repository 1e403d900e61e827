"""What a debugger's user was shown, as the step VMM's records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.abi import (
    KVM_EXIT_DEBUG,
    REGISTER_PC,
    ExceptionClass,
    RecordFlag,
    RecordKind,
    StepRecords,
)
from qemu_diff.drive.debugger import SIGINT, SIGTRAP, Position, Stop
from qemu_diff.drive.stop_records import StopRecords, at_irq_vector
from qemu_diff.errors import DebuggerError

HERE, THERE = Position(0x5A5A_0004, 0x3C5), Position(0x5A5A_0008, 0x3C5)
OF_A_STEP = RecordFlag.STEPPING | RecordFlag.UNTIMED


def at(position: Position, signal: int = SIGTRAP) -> Stop:
    return Stop(0, signal, position)


def records(counts: tuple[int, ...] = (7, 9, 12)) -> StopRecords:
    return StopRecords(iter(counts).__next__)


def only(stops: StopRecords) -> dict[str, object]:
    """The only record, without what is 0."""
    (row,) = stops.records
    values = {name: row[name].tolist() for name in stops.records.dtype.names or ()}
    return {name: value for name, value in values.items() if value not in (0, [0, 0, 0, 0])}


def test_a_step_is_a_return_with_a_software_step_exception() -> None:
    stops = records()
    stops.stopped(at(HERE), HERE)
    assert only(stops) == {
        "kind": RecordKind.RUN,
        "flags": OF_A_STEP,
        "exit_reason": KVM_EXIT_DEBUG,
        "esr": ExceptionClass.SOFTWARE_STEP << 26,
        "pc": HERE.pc,
        "pstate": HERE.pstate,
    }


def test_a_stop_from_outside_is_a_return_for_a_signal() -> None:
    stops = records()
    stops.stopped(at(HERE, SIGINT), HERE)
    assert only(stops) == {
        "kind": RecordKind.RUN,
        "flags": OF_A_STEP | RecordFlag.EINTR,
        "exit_reason": 10,
        "error": -4,
        "pc": HERE.pc,
        "pstate": HERE.pstate,
    }


@pytest.mark.parametrize("target", [0, 0x5A5A_0040])
def test_a_branch_register_may_hold_0(target: int) -> None:
    stops = records()
    stops.stopped(at(HERE), HERE, branch_register=target)
    (row,) = stops.records
    assert row["flags"] == OF_A_STEP | RecordFlag.BRANCH_REGISTER
    assert row["branch_register"] == target


def test_at_a_vector_it_is_said_where_l2_came_from() -> None:
    stops = records()
    stops.stopped(at(HERE), HERE, at_vector=(0x1234, 0x345))
    (row,) = stops.records
    assert row["flags"] == OF_A_STEP | RecordFlag.AT_VECTOR
    assert row["detail"].tolist() == [0x1234, 0x345, 0, 0]


def test_a_run_ends_at_a_breakpoint_and_was_not_stepped() -> None:
    stops = records()
    stops.ran_to(at(HERE))
    assert only(stops) == {
        "kind": RecordKind.RUN,
        "flags": RecordFlag.UNTIMED,
        "exit_reason": KVM_EXIT_DEBUG,
        "esr": ExceptionClass.BREAKPOINT << 26,
        "pc": HERE.pc,
        "pstate": HERE.pstate,
    }


def test_what_the_job_does_is_recorded_in_order_and_by_pass() -> None:
    stops = records()
    stops.asked_for_steps(wanted=False)
    stops.began_pass(0)
    stops.asked_for_steps(wanted=True)
    stops.began_pass(1)
    stops.wrote(REGISTER_PC, (1 << 64) - 4)
    assert [(row["kind"], row["iteration"], row["detail"].tolist()) for row in stops.records] == [
        (RecordKind.DEBUG_CONTROL, 0, [0, 0, 0, 0]),
        (RecordKind.PASS, 0, [0, 0, 0, 0]),
        (RecordKind.DEBUG_CONTROL, 0, [3, 0, 0, 0]),
        (RecordKind.PASS, 1, [1, 0, 0, 0]),
        (RecordKind.SET_REGISTER, 1, [REGISTER_PC, (1 << 64) - 4, 0, 0]),
    ]


def test_each_return_and_nothing_else_is_counted_when_it_comes() -> None:
    stops = records((7, 9, 12))
    stops.began_pass(0)
    stops.stopped(at(HERE), HERE)
    stops.wrote(REGISTER_PC, 0)
    stops.stopped(at(THERE, SIGINT), THERE)
    stops.ran_to(at(HERE))
    assert stops.returns == [7, 9, 12]
    assert (stops.records["kind"] == RecordKind.RUN).sum() == 3


def test_no_stops_are_no_records() -> None:
    none: StepRecords = StopRecords(lambda: 0).records
    assert (none.shape, StopRecords(lambda: 0).returns) == ((0,), [])


# --- whether both show the same ---


def test_who_shows_the_same_agrees() -> None:
    stops = records()
    stops.stopped(at(HERE), Position(HERE.pc, HERE.pstate))
    stops.check_agreement()


@pytest.mark.parametrize(
    ("witness", "said"),
    [
        (THERE, "PC 0x5a5a0008 and PSTATE 0x3c5"),
        (Position(HERE.pc, 0x2003C5), "PC 0x5a5a0004 and PSTATE 0x2003c5"),
    ],
)
def test_a_disagreement_says_what_each_shows(witness: Position, said: str) -> None:
    stops = records()
    stops.stopped(at(HERE), HERE)
    stops.stopped(at(HERE), witness)
    with pytest.raises(DebuggerError) as caught:
        stops.check_agreement()
    assert str(caught.value) == (
        f"at stop 1 the gdbstub shows PC 0x5a5a0004 and PSTATE 0x3c5, the monitor {said}"
    )


def test_of_many_disagreements_the_first_is_told_and_the_others_are_counted() -> None:
    stops = StopRecords(lambda: 0)
    for _ in range(1234):
        stops.stopped(at(HERE), HERE)
    for _ in range(1001):
        stops.stopped(at(HERE), THERE)
    with pytest.raises(DebuggerError, match=r"^at stop 1,234 .* \(and at 1,000 more\)$"):
        stops.check_agreement()


# --- vectors ---


@given(st.integers(0, (1 << 53) - 1).map(lambda base: base * 0x800))
def test_an_irq_s_vectors_are_two_of_each_table(base: int) -> None:
    offsets = [offset for offset in range(0, 0x800, 4) if at_irq_vector(base + offset)]
    assert offsets == [0x280, 0x480]
