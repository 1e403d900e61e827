"""Reading stepvmm's record file. A file that contradicts its own header is never judged."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from qemu_diff.abi import (
    SHARED_HEADER_BYTES,
    SHARED_SEAL,
    STEP_RECORD,
    SharedState,
    StepRecords,
)
from qemu_diff.errors import CorruptDataError, LostGuestError
from qemu_diff.guest.machine import COUNTER_HZ
from qemu_diff.guest.shared import SharedHeader, read_header
from qemu_diff.regular_file import opened

UNSEALED = (SharedState.EMPTY, SharedState.RUNNING)


def read_records(path: Path) -> StepRecords:
    """The records of a sealed record file.

    :returns: shape (n,), in the order in which stepvmm wrote them.
    :raises LostGuestError: stepvmm never sealed it.
    :raises CorruptDataError: wrong magic, version, record size, count, checksum or numbering, or
        records that found no room.
    """
    header = read_header(path)
    if header.state in UNSEALED:
        raise LostGuestError(f"{path}: not sealed: the step VMM did not end in order")
    if SHARED_HEADER_BYTES + header.count * STEP_RECORD.itemsize > path.stat().st_size:
        raise CorruptDataError(f"{path}: its header counts {header.count} records, it holds fewer")
    if header.dropped:
        raise CorruptDataError(f"{path}: overflow: {header.dropped} records found no room")
    with opened(path) as file:
        file.seek(SHARED_HEADER_BYTES)
        body = file.read(header.count * STEP_RECORD.itemsize)
    if zlib.crc32(_seal(header), zlib.crc32(body)) != header.crc32:
        raise CorruptDataError(f"{path}: checksum does not match its {header.count} records")
    if header.counter_hz != COUNTER_HZ:
        raise CorruptDataError(
            f"{path}: L1's counter ran at {header.counter_hz} Hz, so its ticks are no ns"
        )
    records = np.frombuffer(body, STEP_RECORD)
    if not np.array_equal(records["sequence"], np.arange(len(records))):
        raise CorruptDataError(f"{path}: its records are not numbered in order")
    return records


def _seal(header: SharedHeader) -> bytes:
    """``struct shared_seal``: what the checksum covers beside the records."""
    seal = np.zeros(1, SHARED_SEAL)
    for name in SHARED_SEAL.names or ():
        seal[name] = getattr(header, name)
    return seal.tobytes()
