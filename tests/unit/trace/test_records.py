"""stepvmm's record files: read as written, and refused where they contradict themselves."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qemu_diff.abi import (
    SHARED_HEADER,
    SHARED_HEADER_BYTES,
    SHARED_MAGIC,
    SHARED_SEAL,
    STEP_ABI_VERSION,
    STEP_RECORD,
    RecordKind,
    SharedState,
    StepRecords,
)
from qemu_diff.errors import CorruptDataError, LostGuestError
from qemu_diff.guest.shared import read_header, trim
from qemu_diff.trace.records import read_records

COUNT, CAPACITY = 4, 6
SEALED = [state for state in SharedState if state not in (SharedState.EMPTY, SharedState.RUNNING)]


def file_bytes(count: int) -> int:
    """Size of a file of so many records."""
    return SHARED_HEADER_BYTES + count * STEP_RECORD.itemsize


FLIPS = st.tuples(
    st.integers(0, SHARED_HEADER.itemsize - 1)
    | st.integers(SHARED_HEADER_BYTES, file_bytes(COUNT) - 1),
    st.integers(1, 255),
)
"""(offset, what is flipped there), in what a sealed file uses."""


def records(count: int = COUNT) -> StepRecords:
    """Reports in order."""
    made = np.zeros(count, STEP_RECORD)
    made["sequence"] = np.arange(count)
    made["kind"] = RecordKind.RUN
    made["pc"] = 0x5A5A0004 + 4 * np.arange(count)
    return made


def sealed(body: StepRecords, **members: int | bytes) -> bytes:
    """A file as stepvmm leaves it: preallocated, and sealed.

    :param members: header members that are not as they should be.
    """
    header = np.zeros(1, SHARED_HEADER)
    right: dict[str, int | bytes] = {
        "magic": SHARED_MAGIC,
        "version": STEP_ABI_VERSION,
        "record_bytes": STEP_RECORD.itemsize,
        "capacity": CAPACITY,
        "count": len(body),
        "heartbeat": len(body),
        "state": SharedState.DONE,
        "counter_hz": 1_000_000_000,
        "message": b"done",
    }
    if "state" in members:
        right["state"] = members["state"]
    seal = np.zeros(1, SHARED_SEAL)
    for name in SHARED_SEAL.names or ():
        seal[name] = right.get(name, 0)
    right["crc32"] = zlib.crc32(seal.tobytes(), zlib.crc32(body.tobytes()))
    for name, value in (right | members).items():
        header[name] = value
    content = header.tobytes().ljust(SHARED_HEADER_BYTES, b"\0") + body.tobytes()
    return content.ljust(file_bytes(CAPACITY), b"\0")


Write = Callable[[bytes], Path]


@pytest.fixture
def record_file(tmp_path: Path) -> Write:
    """Writes a record file."""

    def write(content: bytes) -> Path:
        path = tmp_path / "records"
        path.write_bytes(content)
        return path

    return write


def test_records_are_read_as_written(record_file: Write) -> None:
    assert np.array_equal(read_records(record_file(sealed(records()))), records())


def test_no_records_are_none(record_file: Write) -> None:
    assert read_records(record_file(sealed(records(0)))).shape == (0,)


@pytest.mark.parametrize("state", SEALED)
def test_however_it_ended_what_is_sealed_can_be_read(
    record_file: Write, state: SharedState
) -> None:
    assert len(read_records(record_file(sealed(records(), state=state)))) == COUNT


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"magic": 0x1234}, "not a record file"),
        (
            {"version": STEP_ABI_VERSION + 1},
            f"record version {STEP_ABI_VERSION + 1}, this qemu-diff reads {STEP_ABI_VERSION}",
        ),
        ({"version": 0}, "record version 0"),
        ({"record_bytes": 64}, "records of 64 bytes"),
        ({"dropped": 3}, "overflow: 3 records found no room"),
        ({"state": 99}, "unknown state 99"),
        ({"count": COUNT - 1}, "checksum does not match its 3 records"),
        ({"count": COUNT + 1}, "checksum does not match its 5 records"),
        ({"count": CAPACITY + 1}, "counts 7 records, it holds fewer"),
        ({"count": 1 << 20}, "counts 1048576 records"),
        ({"count": 1 << 40}, "counts 1099511627776 records"),
        ({"count": 1 << 62}, "counts 4611686018427387904 records"),
        ({"count": (1 << 64) - 1}, "counts 18446744073709551615 records"),
        ({"crc32": 0}, "checksum does not match"),
    ],
)
def test_a_header_that_contradicts_its_file_is_corrupt(
    record_file: Write, members: dict[str, int], complaint: str
) -> None:
    path = record_file(sealed(records(), **members))

    with pytest.raises(CorruptDataError, match=complaint) as raised:
        read_records(path)

    assert str(path) in str(raised.value)


@pytest.mark.parametrize("state", [SharedState.EMPTY, SharedState.RUNNING])
def test_a_file_that_was_never_sealed_is_lost(record_file: Write, state: SharedState) -> None:
    with pytest.raises(LostGuestError, match="not sealed"):
        read_records(record_file(sealed(records(), state=state)))


def test_a_reserved_file_that_nobody_wrote_is_lost(record_file: Write) -> None:
    with pytest.raises(LostGuestError, match="not sealed"):
        read_records(record_file(bytes(file_bytes(CAPACITY))))


@pytest.mark.parametrize("size", [0, 1, SHARED_HEADER.itemsize, SHARED_HEADER_BYTES - 1])
def test_a_file_without_a_whole_header_is_corrupt(record_file: Write, size: int) -> None:
    with pytest.raises(CorruptDataError, match=f"{size} bytes are no record file"):
        read_records(record_file(sealed(records())[:size]))


@pytest.mark.parametrize("size", range(SHARED_HEADER_BYTES, file_bytes(COUNT), 61))
def test_a_file_that_was_cut_is_corrupt(record_file: Write, size: int) -> None:
    with pytest.raises(CorruptDataError, match="holds fewer"):
        read_records(record_file(sealed(records())[:size]))


@pytest.mark.parametrize("numbers", [[1, 2, 3, 4], [0, 1, 1, 2], [0, 2, 1, 3], [0, 1, 2, 9]])
def test_records_must_be_numbered_in_order(record_file: Write, numbers: list[int]) -> None:
    body = records()
    body["sequence"] = numbers

    with pytest.raises(CorruptDataError, match="not numbered in order"):
        read_records(record_file(sealed(body)))


Judged = tuple[bytes, SharedState, int]
"""What a cell's verdict hangs on: records, how stepvmm ended, and its counter's frequency."""


def judged(path: Path) -> Judged:
    """What a verdict would be made of.

    :raises CorruptDataError: the file is detected.
    :raises LostGuestError: the same.
    """
    header = read_header(path)
    return read_records(path).tobytes(), header.state, header.counter_hz


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(FLIPS)
def test_any_flipped_byte_is_detected_or_changes_nothing_judged(
    record_file: Write, flip: tuple[int, int]
) -> None:
    content = bytearray(sealed(records()))
    content[flip[0]] ^= flip[1]

    try:
        found = judged(record_file(bytes(content)))
    except (CorruptDataError, LostGuestError):
        return

    assert found == (records().tobytes(), SharedState.DONE, 1_000_000_000)


@pytest.mark.parametrize("state", [state for state in SEALED if state is not SharedState.DONE])
def test_another_ending_than_what_was_sealed_is_corrupt(
    record_file: Write, state: SharedState
) -> None:
    content = bytearray(sealed(records()))
    assert SHARED_HEADER.fields is not None
    content[SHARED_HEADER.fields["state"][1]] = state

    with pytest.raises(CorruptDataError):
        judged(record_file(bytes(content)))


# --- the header while the guest runs -------------------------------------------------------------


def test_the_header_is_read_as_written(record_file: Write) -> None:
    header = read_header(record_file(sealed(records(), state=SharedState.RUNNING, heartbeat=77)))

    assert header.state is SharedState.RUNNING
    assert header.count == COUNT
    assert header.heartbeat == 77
    assert header.counter_hz == 1_000_000_000
    assert header.message == "done"


def test_a_message_of_any_bytes_is_text(record_file: Write) -> None:
    header = read_header(record_file(sealed(records(), message=b"caf\xe9 \xff")))

    assert header.message.startswith("caf")


def test_trimming_keeps_the_records(record_file: Write) -> None:
    path = record_file(sealed(records()))

    trim(path)

    assert path.stat().st_size == file_bytes(COUNT)
    assert np.array_equal(read_records(path), records())


@pytest.mark.parametrize("count", [CAPACITY + 1, 1 << 40, (1 << 64) - 1])
def test_trimming_never_grows_a_file(record_file: Write, count: int) -> None:
    path = record_file(sealed(records(), count=count))

    trim(path)

    assert path.stat().st_size == file_bytes(CAPACITY)
