"""Truth files: read as written, and refused where they contradict themselves."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qemu_diff.abi import (
    TRUTH_ABI_VERSION,
    TRUTH_HEADER,
    TRUTH_HEADER_BYTES,
    TRUTH_MAGIC,
    TRUTH_RECORD,
    Mark,
    StepState,
    TruthKind,
    TruthRecords,
)
from qemu_diff.errors import CorruptDataError, LostGuestError
from qemu_diff.truth.reader import (
    TruthCount,
    mark_truth,
    read_truth,
    trim_truth,
    truth_bytes,
)

COUNT, CAPACITY = 5, 8

CHECKED_MEMBERS = ("magic", "version", "record_bytes", "count", "dropped", "crc32")

FLIPS = st.tuples(
    st.integers(0, TRUTH_HEADER.itemsize - 1)
    | st.integers(TRUTH_HEADER_BYTES, truth_bytes(COUNT) - 1),
    st.integers(1, 255),
)
"""(offset, what is flipped there), in what a sealed file uses."""


def records(count: int = COUNT) -> TruthRecords:
    """Instructions in order."""
    made = np.zeros(count, TRUTH_RECORD)
    made["pc"] = 0x5A5A0000 + 4 * np.arange(count)
    made["kind"] = TruthKind.INSTRUCTION
    made["size"] = 4
    return made


def sealed(body: TruthRecords, **members: int) -> bytes:
    """A file as the plugin leaves it: preallocated, and sealed.

    :param members: header members that are not as they should be.
    """
    header = np.zeros(1, TRUTH_HEADER)
    right = {
        "magic": TRUTH_MAGIC,
        "version": TRUTH_ABI_VERSION,
        "record_bytes": TRUTH_RECORD.itemsize,
        "capacity": CAPACITY,
        "count": len(body),
        "range_begin": 0x5A5A0000,
        "range_end": 0x5A5B0000,
        "sealed": 1,
        "crc32": zlib.crc32(body.tobytes()),
        "api_current": 1,
    }
    for name, value in (right | members).items():
        header[name] = value
    content = header.tobytes().ljust(TRUTH_HEADER_BYTES, b"\0") + body.tobytes()
    return content.ljust(truth_bytes(CAPACITY), b"\0")


@pytest.fixture
def truth_file(tmp_path: Path) -> Callable[[bytes], Path]:
    """Writes a truth file."""

    def write(content: bytes) -> Path:
        path = tmp_path / "truth"
        path.write_bytes(content)
        return path

    return write


Write = Callable[[bytes], Path]


def test_records_are_read_as_written(truth_file: Write) -> None:
    assert np.array_equal(read_truth(truth_file(sealed(records()))), records())


def test_a_step_state_that_nobody_knows_is_corrupt(truth_file: Write) -> None:
    body = records()
    body["step_state"][3:] = len(StepState)
    with pytest.raises(CorruptDataError, match="truth: record 3 has step state 4"):
        read_truth(truth_file(sealed(body)))


def test_no_records_are_none(truth_file: Write) -> None:
    assert read_truth(truth_file(sealed(records(0)))).shape == (0,)


def test_a_full_file_is_whole(truth_file: Write) -> None:
    assert len(read_truth(truth_file(sealed(records(CAPACITY))))) == CAPACITY


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"magic": 0x1234}, "not a truth file"),
        ({"version": TRUTH_ABI_VERSION + 1}, "truth version 3, this qemu-diff reads 2"),
        ({"version": 0}, "truth version 0"),
        ({"record_bytes": 24}, "records of 24 bytes"),
        ({"dropped": 1}, "overflow: 1 records found no room"),
        ({"count": COUNT - 1}, "checksum does not match its 4 records"),
        ({"count": COUNT + 1}, "checksum does not match its 6 records"),
        ({"count": CAPACITY + 1}, "counts 9 records, it holds fewer"),
        ({"count": 1 << 20}, "counts 1048576 records"),
        ({"count": 1 << 40}, "counts 1099511627776 records"),
        ({"count": 1 << 62}, "counts 4611686018427387904 records"),
        ({"count": (1 << 64) - 1}, "counts 18446744073709551615 records"),
        ({"crc32": 0}, "checksum does not match"),
    ],
)
def test_a_header_that_contradicts_its_file_is_corrupt(
    truth_file: Write, members: dict[str, int], complaint: str
) -> None:
    path = truth_file(sealed(records(), **members))

    with pytest.raises(CorruptDataError, match=complaint) as raised:
        read_truth(path)

    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"sealed": 0}, "not sealed"),
        ({"magic": 0}, "never got as far as the truth plugin"),
    ],
)
def test_a_file_that_was_never_sealed_is_lost(
    truth_file: Write, members: dict[str, int], complaint: str
) -> None:
    with pytest.raises(LostGuestError, match=complaint):
        read_truth(truth_file(sealed(records(), **members)))


def test_a_reserved_file_that_nobody_wrote_is_lost(truth_file: Write) -> None:
    with pytest.raises(LostGuestError):
        read_truth(truth_file(bytes(truth_bytes(CAPACITY))))


@pytest.mark.parametrize("size", [0, 1, TRUTH_HEADER.itemsize, TRUTH_HEADER_BYTES - 1])
def test_a_file_without_a_whole_header_is_corrupt(truth_file: Write, size: int) -> None:
    with pytest.raises(CorruptDataError, match=f"{size} bytes are no truth file"):
        read_truth(truth_file(sealed(records())[:size]))


@pytest.mark.parametrize("size", range(TRUTH_HEADER_BYTES, truth_bytes(COUNT), 7))
def test_a_file_that_was_cut_is_corrupt(truth_file: Write, size: int) -> None:
    with pytest.raises(CorruptDataError, match="holds fewer"):
        read_truth(truth_file(sealed(records())[:size]))


def test_records_that_changed_places_are_corrupt(truth_file: Write) -> None:
    content = sealed(records()[::-1], crc32=zlib.crc32(records().tobytes()))

    with pytest.raises(CorruptDataError, match="checksum"):
        read_truth(truth_file(content))


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(FLIPS)
def test_any_flipped_byte_is_detected_or_changes_nothing(
    truth_file: Write, flip: tuple[int, int]
) -> None:
    content = bytearray(sealed(records()))
    content[flip[0]] ^= flip[1]

    try:
        found = read_truth(truth_file(bytes(content)))
    except (CorruptDataError, LostGuestError):
        return

    assert np.array_equal(found, records())


@pytest.mark.parametrize("member", CHECKED_MEMBERS)
def test_every_byte_of_a_checked_member_is_checked(truth_file: Write, member: str) -> None:
    assert TRUTH_HEADER.fields is not None
    dtype, offset = TRUTH_HEADER.fields[member][:2]
    for index in range(offset, offset + dtype.itemsize):
        content = bytearray(sealed(records()))
        content[index] ^= 0x40
        with pytest.raises(CorruptDataError):
            read_truth(truth_file(bytes(content)))


# --- trimming ------------------------------------------------------------------------------------


def test_trimming_keeps_the_records(truth_file: Write) -> None:
    path = truth_file(sealed(records()))

    trim_truth(path)

    assert path.stat().st_size == truth_bytes(COUNT)
    assert np.array_equal(read_truth(path), records())


def test_trimming_twice_changes_nothing(truth_file: Write) -> None:
    path = truth_file(sealed(records()))
    trim_truth(path)
    once = path.read_bytes()

    trim_truth(path)

    assert path.read_bytes() == once


@pytest.mark.parametrize("size", [0, 1, TRUTH_HEADER_BYTES - 1])
def test_trimming_leaves_what_is_no_truth_file(truth_file: Write, size: int) -> None:
    path = truth_file(bytes(size))

    trim_truth(path)

    assert path.stat().st_size == size


@pytest.mark.parametrize("count", [CAPACITY + 1, 1 << 20, 1 << 40, (1 << 64) - 1])
def test_trimming_never_grows_a_file(truth_file: Write, count: int) -> None:
    path = truth_file(sealed(records(), count=count))

    trim_truth(path)

    assert path.stat().st_size == truth_bytes(CAPACITY)


# --- counting ------------------------------------------------------------------------------------


def test_records_are_counted_while_they_are_written(truth_file: Write) -> None:
    path = truth_file(sealed(records(), count=0, sealed=0))
    assert TRUTH_HEADER.fields is not None
    offset = TRUTH_HEADER.fields["count"][1]
    with TruthCount(path) as count, path.open("r+b") as plugin:
        for number in (0, 1, CAPACITY, 1 << 40):
            plugin.seek(offset)
            plugin.write(number.to_bytes(8, "little"))
            plugin.flush()
            assert count() == number


def test_a_file_that_nobody_wrote_counts_none(truth_file: Write) -> None:
    with TruthCount(truth_file(bytes(truth_bytes(CAPACITY)))) as count:
        assert count() == 0


# --- marking -------------------------------------------------------------------------------------


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 9), st.data())
def test_between_two_marks_lies_what_was_counted(
    truth_file: Write, number: int, data: st.DataObject
) -> None:
    returns = sorted(data.draw(st.lists(st.integers(0, number), max_size=12)))
    path = truth_file(sealed(records(number)))

    mark_truth(path, returns)

    marked = read_truth(path)
    at = np.flatnonzero(marked["kind"] == TruthKind.MARK)
    kinds = marked["detail"][at].tolist()
    assert kinds == [Mark.JOB_BEGIN, *[Mark.RETURNED] * len(returns), Mark.JOB_END]
    between = [part[part["kind"] != TruthKind.MARK] for part in np.split(marked, at)]
    expected = [0, 0, *returns, number]
    assert [len(part) for part in between] == [
        *np.diff(expected).tolist(),
        0,
    ]
    assert np.array_equal(np.concatenate(between), records(number))
    assert path.stat().st_size == truth_bytes(len(marked))
    assert not marked["pc"][at].any()


@pytest.mark.parametrize("returns", [[COUNT + 1], [0, 2, COUNT + 1], [1 << 40]])
def test_fewer_records_than_were_counted_are_corrupt(truth_file: Write, returns: list[int]) -> None:
    path = truth_file(sealed(records()))
    before = path.read_bytes()

    with pytest.raises(CorruptDataError) as caught:
        mark_truth(path, returns)

    assert str(caught.value) == f"{path}: 5 records, {returns[-1]} were counted"
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"sealed": 0}, LostGuestError),
        ({"magic": 0}, LostGuestError),
        ({"crc32": 0}, CorruptDataError),
        ({"dropped": 1}, CorruptDataError),
    ],
)
def test_what_can_not_be_read_is_not_marked(
    truth_file: Write, members: dict[str, int], error: type[Exception]
) -> None:
    path = truth_file(sealed(records(), **members))
    before = path.read_bytes()
    with pytest.raises(error):
        mark_truth(path, [1])
    assert path.read_bytes() == before
