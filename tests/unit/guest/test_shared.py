"""The shared region's file: made, read while the guest writes it, and cut to what it holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qemu_diff.abi import (
    SHARED_HEADER,
    SHARED_HEADER_BYTES,
    SHARED_MAGIC,
    STEP_ABI_VERSION,
    STEP_RECORD,
    SharedState,
)
from qemu_diff.errors import CorruptDataError, InfrastructureError, LostGuestError
from qemu_diff.guest.machine import SHARED_BYTES
from qemu_diff.guest.shared import (
    RECORD_CAPACITY,
    SharedHeader,
    read_header,
    reserve,
    trim,
    write_records,
)
from qemu_diff.trace.records import UNSEALED, read_records


@pytest.fixture
def region(tmp_path: Path) -> Path:
    return tmp_path / "records.bin"


def header(**members: object) -> bytes:
    """A header as stepvmm leaves it, with the given members changed."""
    usual = {
        "magic": SHARED_MAGIC,
        "version": STEP_ABI_VERSION,
        "record_bytes": STEP_RECORD.itemsize,
        "capacity": RECORD_CAPACITY,
        "count": 3,
        "heartbeat": 17,
        "state": SharedState.DONE,
        "crc32": 0xDEADBEEF,
        "counter_hz": 10**9,
        "message": b"done",
    }
    array = np.zeros(1, SHARED_HEADER)
    for name, value in (usual | members).items():
        array[name] = value
    return array.tobytes().ljust(SHARED_HEADER_BYTES, b"\0")


# --- reserving ---


def test_a_reserved_file_is_zeroed_and_its_blocks_exist(region: Path) -> None:
    region.write_bytes(b"left from an earlier boot")
    reserve(region, 1 << 20)
    assert region.read_bytes() == bytes(1 << 20)
    assert region.stat().st_blocks * 512 >= 1 << 20


FILLS_THE_DISK = """
import resource, sys
from pathlib import Path
from qemu_diff.errors import InfrastructureError
from qemu_diff.guest.shared import reserve

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    reserve(Path(sys.argv[1]), 16 << 20)
except InfrastructureError as error:
    print(error)
"""


def test_a_file_that_finds_no_room_is_not_left_behind(region: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", FILLS_THE_DISK, str(region)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == f"{region}: 16 MiB: File too large\n"
    assert not region.exists()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="No such file or directory"):
        reserve(tmp_path / "gone" / "records.bin", 4096)


def test_the_region_holds_as_many_records_as_fit() -> None:
    used = SHARED_HEADER_BYTES + RECORD_CAPACITY * STEP_RECORD.itemsize
    assert used <= SHARED_BYTES < used + STEP_RECORD.itemsize


# --- its header ---


def test_a_header_reads_as_stepvmm_wrote_it(region: Path) -> None:
    region.write_bytes(header(dropped=2))
    assert read_header(region) == SharedHeader(
        state=SharedState.DONE,
        count=3,
        dropped=2,
        heartbeat=17,
        crc32=0xDEADBEEF,
        counter_hz=10**9,
        message="done",
    )


@pytest.mark.parametrize("state", SharedState)
def test_every_state_has_a_meaning(region: Path, state: SharedState) -> None:
    region.write_bytes(header(state=state))
    assert read_header(region).state is state


def test_a_region_that_nobody_wrote_to_is_empty(region: Path) -> None:
    reserve(region, 1 << 16)
    assert read_header(region) == SharedHeader(SharedState.EMPTY, 0, 0, 0, 0, 0, "")


def test_what_is_written_before_the_magic_does_not_count_yet(region: Path) -> None:
    region.write_bytes(header(magic=0, record_bytes=1))
    assert read_header(region).state is SharedState.EMPTY


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"magic": SHARED_MAGIC + 1}, "not a record file"),
        (
            {"version": STEP_ABI_VERSION + 1},
            f"record version {STEP_ABI_VERSION + 1}, this qemu-diff reads {STEP_ABI_VERSION}",
        ),
        ({"record_bytes": 120}, "records of 120 bytes"),
        ({"state": 99}, "unknown state 99"),
    ],
)
def test_a_header_that_is_not_ours(region: Path, members: dict[str, int], reason: str) -> None:
    region.write_bytes(header(**members))
    with pytest.raises(CorruptDataError) as caught:
        read_header(region)
    assert str(caught.value) == f"{region}: {reason}"


@pytest.mark.parametrize("size", [0, 1, SHARED_HEADER_BYTES - 1])
def test_a_file_without_a_whole_header(region: Path, size: int) -> None:
    region.write_bytes(header()[:size])
    with pytest.raises(CorruptDataError, match=f"{size} bytes are no record file"):
        read_header(region)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"", ""),
        (b"x" * 512, "x" * 512),
        (b"vgic \xff\xfe", "vgic \ufffd\ufffd"),
    ],
)
def test_a_message_may_be_anything(region: Path, message: bytes, words: str) -> None:
    region.write_bytes(header(message=message))
    assert read_header(region).message == words


# --- trimming ---


def records(count: int) -> bytes:
    return bytes(index % 251 for index in range(count * STEP_RECORD.itemsize))


def test_a_trimmed_file_holds_its_records_and_nothing_else(region: Path) -> None:
    whole = header(count=4) + records(4)
    region.write_bytes(whole + bytes(1 << 16))
    trim(region)
    assert region.read_bytes() == whole
    trim(region)
    assert region.read_bytes() == whole


def test_a_region_that_nobody_wrote_to_is_cut_to_its_header(region: Path) -> None:
    reserve(region, 1 << 16)
    trim(region)
    assert region.stat().st_size == SHARED_HEADER_BYTES
    assert read_header(region).state is SharedState.EMPTY


@pytest.mark.parametrize("count", [5, 1 << 40, 2**64 - 1])
def test_a_count_beyond_the_file_makes_it_no_longer(region: Path, count: int) -> None:
    region.write_bytes(header(count=count) + records(4))
    size = region.stat().st_size
    trim(region)
    assert region.stat().st_size == size


def test_a_file_that_is_not_ours_is_not_cut(region: Path) -> None:
    region.write_bytes(b"mine" * 4096)
    with pytest.raises(CorruptDataError):
        trim(region)
    assert region.read_bytes() == b"mine" * 4096


# --- records of stops outside of L1 ---


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.binary(min_size=STEP_RECORD.itemsize, max_size=STEP_RECORD.itemsize), max_size=5),
    st.sampled_from([state for state in SharedState if state not in UNSEALED]),
)
def test_written_records_are_read_back_and_numbered(
    region: Path, rows: list[bytes], state: SharedState
) -> None:
    written = np.frombuffer(b"".join(rows), STEP_RECORD)

    write_records(region, written, state, "gdb went away")

    expected = written.copy()
    expected["sequence"] = range(len(rows))
    assert read_records(region).tobytes() == expected.tobytes()
    found = read_header(region)
    assert (found.state, found.count, found.heartbeat) == (state, len(rows), len(rows))
    assert (found.dropped, found.message) == (0, "gdb went away")
    trim(region)
    assert len(read_records(region)) == len(rows)


def test_records_that_were_changed_since_are_corrupt(region: Path) -> None:
    write_records(region, np.zeros(3, STEP_RECORD), SharedState.DONE)
    content = bytearray(region.read_bytes())
    content[-1] ^= 1
    region.write_bytes(content)
    with pytest.raises(CorruptDataError, match="checksum does not match its 3 records"):
        read_records(region)


def test_records_of_a_boot_that_goes_on_are_not_read(region: Path) -> None:
    write_records(region, np.zeros(3, STEP_RECORD), SharedState.RUNNING)
    with pytest.raises(LostGuestError):
        read_records(region)


def test_a_long_complaint_is_cut_to_what_has_room(region: Path) -> None:
    write_records(region, np.zeros(0, STEP_RECORD), SharedState.FAILED, "x" * 600)
    assert read_header(region).message == "x" * 512
    assert len(read_records(region)) == 0


def test_records_that_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match=r"No such file or directory$"):
        write_records(tmp_path / "gone" / "r", np.zeros(1, STEP_RECORD), SharedState.DONE)
