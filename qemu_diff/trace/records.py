"""Reading stepvmm's record file. A file that contradicts its own header is never judged."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from qemu_diff.abi import SHARED_HEADER_BYTES, STEP_RECORD, SharedState, StepRecords
from qemu_diff.errors import CorruptDataError, LostGuestError
from qemu_diff.guest.shared import read_header

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
    if header.dropped:
        raise CorruptDataError(f"{path}: overflow: {header.dropped} records found no room")
    with path.open("rb") as file:
        file.seek(SHARED_HEADER_BYTES)
        body = file.read(header.count * STEP_RECORD.itemsize)
    if len(body) != header.count * STEP_RECORD.itemsize:
        raise CorruptDataError(f"{path}: its header counts {header.count} records, it holds fewer")
    if zlib.crc32(body) != header.crc32:
        raise CorruptDataError(f"{path}: checksum does not match its {header.count} records")
    records = np.frombuffer(body, STEP_RECORD)
    if not np.array_equal(records["sequence"], np.arange(len(records))):
        raise CorruptDataError(f"{path}: its records are not numbered in order")
    return records
