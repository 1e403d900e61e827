"""Reading a truth file. A file that contradicts its own header is never judged."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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
from qemu_diff.regular_file import opened


def read_truth(path: Path) -> TruthRecords:
    """The records of a sealed truth file.

    :returns: shape (n,), in the order in which QEMU executed.
    :raises LostGuestError: the file was never sealed: QEMU did not end in order.
    :raises CorruptDataError: wrong magic, version, record size, count, checksum or step state, or
        records that found no room.
    """
    with opened(path) as file:
        raw = file.read(TRUTH_HEADER_BYTES)
        if len(raw) < TRUTH_HEADER_BYTES:
            raise CorruptDataError(f"{path}: {len(raw)} bytes are no truth file")
        header = np.frombuffer(raw, TRUTH_HEADER, 1)[0]
        _check_header(path, header)
        count = int(header["count"])
        if truth_bytes(count) > path.stat().st_size:
            raise CorruptDataError(f"{path}: its header counts {count} records, it holds fewer")
        body = file.read(count * TRUTH_RECORD.itemsize)
    if zlib.crc32(body) != int(header["crc32"]):
        raise CorruptDataError(f"{path}: checksum does not match its {count} records")
    records = np.frombuffer(body, TRUTH_RECORD)
    _check_step_states(path, records)
    return records


def _check_step_states(path: Path, records: TruthRecords) -> None:
    states = records["step_state"]
    if len(states) and states.max() > max(StepState):
        first = int(np.argmax(states > max(StepState)))
        raise CorruptDataError(f"{path}: record {first} has step state {states[first]}")


def truth_bytes(capacity: int) -> int:
    """Size in bytes of a truth file for so many records."""
    return TRUTH_HEADER_BYTES + capacity * TRUTH_RECORD.itemsize


def trim_truth(path: Path) -> None:
    """Cut a truth file to the records that it holds."""
    with path.open("r+b") as file:
        raw = file.read(TRUTH_HEADER_BYTES)
        if len(raw) == TRUTH_HEADER_BYTES:
            size = truth_bytes(int(np.frombuffer(raw, TRUTH_HEADER, 1)[0]["count"]))
            file.truncate(min(size, path.stat().st_size))


class TruthCount:
    """How many records a truth file holds, while QEMU still writes it.

    The plugin maps it shared: whatever L2 has executed before a stop that is known outside is
    there. Use it as a context manager.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._header = mmap.mmap(file.fileno(), TRUTH_HEADER_BYTES, prot=mmap.PROT_READ)
        self._fields = np.frombuffer(self._header, TRUTH_HEADER, 1)[0]

    def __enter__(self) -> TruthCount:
        return self

    def __exit__(self, *_: object) -> None:
        del self._fields
        self._header.close()

    def __call__(self) -> int:
        """Records so far."""
        return int(self._fields["count"])


def mark_truth(path: Path, returns: Sequence[int]) -> None:
    """Put the marks into a sealed truth file that has none: those of a job that was driven from
    outside of L1.

    :param returns: how many records there were at each return, ascending.
    :raises LostGuestError: see :func:`read_truth`.
    :raises CorruptDataError: likewise; or it holds fewer records than were counted.
    """
    records = read_truth(path)
    if len(returns) and returns[-1] > len(records):
        raise CorruptDataError(f"{path}: {len(records)} records, {returns[-1]} were counted")
    kinds = [Mark.JOB_BEGIN, *[Mark.RETURNED] * len(returns), Mark.JOB_END]
    marks = np.zeros(len(kinds), TRUTH_RECORD)
    marks["kind"], marks["detail"] = TruthKind.MARK, kinds
    marked = np.insert(records, [0, *returns, len(records)], marks)
    body = marked.tobytes()
    with path.open("r+b") as file:
        header = np.frombuffer(file.read(TRUTH_HEADER_BYTES), TRUTH_HEADER, 1).copy()
        header["count"], header["crc32"] = len(marked), zlib.crc32(body)
        file.seek(0)
        file.write(header.tobytes().ljust(TRUTH_HEADER_BYTES, b"\0") + body)
        file.truncate()


def _check_header(path: Path, header: np.void) -> None:
    if int(header["magic"]) == 0:
        raise LostGuestError(f"{path}: QEMU never got as far as the truth plugin")
    if int(header["magic"]) != TRUTH_MAGIC:
        raise CorruptDataError(f"{path}: not a truth file")
    if int(header["version"]) != TRUTH_ABI_VERSION:
        raise CorruptDataError(
            f"{path}: truth version {header['version']}, this qemu-diff reads {TRUTH_ABI_VERSION}"
        )
    if int(header["record_bytes"]) != TRUTH_RECORD.itemsize:
        raise CorruptDataError(f"{path}: records of {header['record_bytes']} bytes")
    if not header["sealed"]:
        raise LostGuestError(f"{path}: not sealed: QEMU did not end in order")
    if header["dropped"]:
        raise CorruptDataError(f"{path}: overflow: {header['dropped']} records found no room")
