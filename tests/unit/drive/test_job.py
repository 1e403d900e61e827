"""Jobs, read back as the step VMM reads them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qemu_diff.abi import (
    JOB_HEADER,
    OPERATION,
    PSTATE_EL1H_MASKED,
    REGISTER_PC,
    REGISTER_PSTATE,
    STEP_ABI_VERSION,
    OperationCode,
    TimerKind,
)
from qemu_diff.drive.job import STALL_NS, Job, Operation, fill_job, quiet_job, sweep_job, table_job
from qemu_diff.flood.placement import Sweep
from qemu_diff.guest.image import LOAD_ADDRESS, MEMORY_BYTES
from qemu_diff.model import FloodSource, Payload

ENTRY, END = LOAD_ADDRESS + 8, LOAD_ADDRESS + 0x20
PAYLOAD = Payload("test", bytes(0x24), LOAD_ADDRESS, ENTRY, ENTRY, END, labels=(), classes=())

U32, U64 = 2**32, 2**64

operations = st.lists(
    st.builds(
        Operation,
        st.sampled_from(OperationCode),
        st.integers(0, U32 - 1),
        st.integers(0, U64 - 1),
        st.integers(0, U64 - 1),
    ),
    max_size=10,
)
delay_tables = st.lists(st.integers(0, U32 - 1), max_size=10)

TIMER = FloodSource.HOST_TIMER


def table(*delays: int) -> NDArray[np.uint32]:
    return np.array(delays, dtype=np.uint32)


@dataclass(frozen=True)
class Decoded:
    header: np.void
    operations: NDArray[np.void]
    delays: list[int]


def decoded(job: Job) -> Decoded:
    encoded = job.encode(PAYLOAD)
    header = np.frombuffer(encoded, JOB_HEADER, 1)[0]
    body = encoded[JOB_HEADER.itemsize :]
    count = int(header["operations"])
    found = np.frombuffer(body, OPERATION, count)
    delays = np.frombuffer(body[found.nbytes :], "<u4")
    assert len(delays) == header["delays"]
    assert zlib.crc32(body) == header["crc32"]
    return Decoded(header, found, delays.tolist())


@dataclass(frozen=True)
class Pass:
    """One pass over the payload, and the delay that ``TIMER_SWEEP`` gives it."""

    registers: dict[int, int]
    until: int
    delay: int


def passes(job: Job) -> list[Pass]:
    """What a job comes to; the rules are those of guest_images/stepvmm/job.c."""
    rows = decoded(job).operations
    found: list[Pass] = []
    first, stride, index = 0, 0, 0
    while index < len(rows):
        one = rows[index]
        index += 1
        if one["code"] == OperationCode.TIMER_SWEEP:
            first, stride = int(one["a"]), int(one["b"])
        elif one["code"] == OperationCode.REPEAT:
            body = rows[index : index + int(one["a"])]
            assert len(body) == one["a"] > 0
            assert one["n"] > 0
            for iteration in range(int(one["n"])):
                found.append(pass_of(body, first + stride * iteration))
            index += len(body)
    return found


def pass_of(body: NDArray[np.void], delay: int) -> Pass:
    *writes, step = body
    assert {int(one["code"]) for one in writes} == {OperationCode.SET_REG}
    assert step["code"] == OperationCode.STEP
    assert step["n"] > 0
    return Pass({int(one["a"]): int(one["b"]) for one in writes}, int(step["a"]), delay)


# --- the encoding ---


@settings(deadline=None)
@given(operations, delay_tables)
def test_an_encoded_job_reads_back(rows: list[Operation], delays: list[int]) -> None:
    job = decoded(Job(tuple(rows), table(*delays)))
    assert job.delays == delays
    assert [
        Operation(
            OperationCode(int(one["code"])),
            int(one["n"]),
            int(one["a"]),
            int(one["b"]),
            TimerKind(int(one["kind"])),
        )
        for one in job.operations
    ] == rows


def test_the_header_says_what_the_job_is_for() -> None:
    header = decoded(quiet_job(PAYLOAD, 3)).header
    assert header["magic"].tobytes() == b"QDIFFJOB"
    assert header["version"] == STEP_ABI_VERSION
    assert header["load_address"] == LOAD_ADDRESS
    assert header["memory_bytes"] == MEMORY_BYTES
    assert header["stall_ns"] == STALL_NS


def test_any_change_of_the_body_shows_in_the_checksum() -> None:
    encoded = table_job(PAYLOAD, TIMER, 2, table(5, 6, 7)).encode(PAYLOAD)
    crc = int(np.frombuffer(encoded, JOB_HEADER, 1)["crc32"][0])
    for index in range(JOB_HEADER.itemsize, len(encoded)):
        damaged = bytearray(encoded)
        damaged[index] ^= 1
        assert zlib.crc32(damaged[JOB_HEADER.itemsize :]) != crc


@pytest.mark.parametrize(
    "too_large",
    [
        Operation(OperationCode.REPEAT, n=U32),
        Operation(OperationCode.TIMER_SWEEP, a=U64),
        Operation(OperationCode.TIMER_SWEEP, b=U64),
        Operation(OperationCode.TIMER_SWEEP, a=-1),
    ],
)
def test_what_struct_operation_has_no_room_for_is_refused_and_not_wrapped(
    too_large: Operation,
) -> None:
    with pytest.raises(OverflowError):
        Job((too_large,)).encode(PAYLOAD)


# --- the jobs ---


def test_every_pass_begins_at_the_entry_and_stops_at_the_end() -> None:
    assert passes(quiet_job(PAYLOAD, 2)) == 2 * [
        Pass({REGISTER_PC: ENTRY, REGISTER_PSTATE: PSTATE_EL1H_MASKED}, END, delay=0)
    ]


@pytest.mark.parametrize(
    "job",
    [
        quiet_job(PAYLOAD, 1),
        sweep_job(PAYLOAD, TIMER, Sweep(1, 1, 5)),
        fill_job(PAYLOAD, TIMER, [5]),
        table_job(PAYLOAD, TIMER, 1, table(5)),
    ],
)
def test_stepping_is_on_before_anything_else(job: Job) -> None:
    assert decoded(job).operations["code"][0] == OperationCode.STEP_ON


def test_a_sweep_s_delay_grows_with_each_pass() -> None:
    job = sweep_job(PAYLOAD, TIMER, Sweep(first_ns=1200, step_ns=32, passes=4))
    assert [one.delay for one in passes(job)] == [1200, 1232, 1264, 1296]


@settings(deadline=None)
@given(st.lists(st.integers(1, 10_000), max_size=20))
def test_a_fill_job_has_one_pass_for_each_delay(delays: Sequence[int]) -> None:
    assert [one.delay for one in passes(fill_job(PAYLOAD, TIMER, delays))] == delays


@settings(deadline=None)
@given(st.integers(1, 5), delay_tables)
def test_a_table_job_brings_its_delays_along(count: int, delays: list[int]) -> None:
    job = table_job(PAYLOAD, TIMER, count, table(*delays))
    assert len(passes(job)) == count
    read = decoded(job)
    (timer,) = read.operations[read.operations["code"] == OperationCode.TIMER_TABLE]
    assert (timer["a"], timer["n"]) == (0, len(delays))
    assert read.delays == delays


def test_the_table_is_there_before_the_first_step() -> None:
    codes = decoded(table_job(PAYLOAD, TIMER, 1, table(5))).operations["code"].tolist()
    assert codes.index(OperationCode.TIMER_TABLE) < codes.index(OperationCode.REPEAT)


@pytest.mark.parametrize(
    ("source", "kind"),
    [(FloodSource.HOST_TIMER, TimerKind.INTERRUPT), (FloodSource.SIGNAL, TimerKind.SIGNAL)],
)
def test_a_flood_names_the_kind_of_its_timer(source: FloodSource, kind: TimerKind) -> None:
    jobs = (
        sweep_job(PAYLOAD, source, Sweep(1, 1, 5)),
        fill_job(PAYLOAD, source, [5]),
        table_job(PAYLOAD, source, 1, table(5)),
    )
    for job in jobs:
        operations = decoded(job).operations
        timers = np.isin(operations["code"], [OperationCode.TIMER_SWEEP, OperationCode.TIMER_TABLE])
        assert set(operations["kind"][timers].tolist()) == {kind}
        assert set(operations["kind"][~timers].tolist()) == {0}
