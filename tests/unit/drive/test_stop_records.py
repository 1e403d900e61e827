"""What a debugger's user was shown, as the step VMM's records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.abi import (
    GUEST_COUNTERS,
    KVM_EXIT_DEBUG,
    REGISTER_PC,
    ExceptionClass,
    RecordFlag,
    RecordKind,
    StepRecords,
    TimerKind,
)
from qemu_diff.drive.debugger import SIGINT, SIGTRAP, Position, Stop
from qemu_diff.drive.lines import Raised
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
    return nonzero(row)


def nonzero(row: np.void) -> dict[str, object]:
    values = {name: row[name].tolist() for name in row.dtype.names or ()}
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


def test_a_stop_from_outside_behind_an_instruction_is_a_step_s() -> None:
    stopped, own = records(), records()
    stopped.stopped(at(HERE, SIGINT), HERE)
    own.stopped(at(HERE), HERE)
    assert only(stopped) == only(own)
    assert (stopped.stopped_on_the_way, own.stopped_on_the_way) == (1, 0)


def test_a_stop_before_the_instruction_is_a_return_for_a_signal_and_ends_stepping() -> None:
    stops = records()
    stops.interrupted_step(at(HERE, SIGINT))
    assert (stops.stopped_on_the_way, stops.witnessed) == (1, 0)
    assert stops.returns == [7]
    first, *rest = (nonzero(row) for row in stops.records)
    assert first == {
        "kind": RecordKind.RUN,
        "flags": OF_A_STEP | RecordFlag.EINTR,
        "exit_reason": 10,
        "error": -4,
        "pc": HERE.pc,
        "pstate": HERE.pstate,
    }
    control = {"kind": RecordKind.DEBUG_CONTROL}
    assert rest == [control, control | {"detail": [3, 0, 0, 0]}]


def test_each_stop_knows_what_was_shown_before_it() -> None:
    transcript: list[str] = []
    stops = StopRecords(lambda: 0, transcript)
    stops.ran_to(at(HERE))
    transcript += ["(gdb) stepi", "0x5a5a0008 in _start ()"]
    stops.stopped(at(THERE), THERE)
    transcript += ["(gdb) stepi"]
    stops.interrupted_step(at(THERE, SIGINT))
    stops.asked_for_steps(wanted=True)
    assert stops.shown == [0, 2, 3]
    assert len(stops.shown) == len(stops.returns)


def test_what_was_sent_into_l2_is_recorded_by_source_and_then_what_l2_counted() -> None:
    counters = np.zeros(1, GUEST_COUNTERS)[0]
    for name, value in {"sgis_sent": 1, "sgis_handled": 2, "spurious": 3, "nested": 4}.items():
        counters[name] = value
    stops = records()
    stops.began_pass(6)
    raised = Raised(TimerKind.SPI_LEVEL, 9, 8, 7), Raised(TimerKind.PPI, 6, 5, 4)
    stops.interrupted(raised, counters)
    assert [(row["kind"], row["detail"].tolist()) for row in stops.records[1:]] == [
        (RecordKind.SOURCE, [TimerKind.SPI_LEVEL, 9, 8, 7]),
        (RecordKind.SOURCE, [TimerKind.PPI, 6, 5, 4]),
        (RecordKind.GUEST, [1, 2, 3, 4]),
    ]
    assert {*stops.records["iteration"].tolist()} == {6}
    assert stops.returns == []


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
    assert stops.witnessed == 2
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
        f"at stop 1 the driver shows PC 0x5a5a0004 and PSTATE 0x3c5, its witness {said}"
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
