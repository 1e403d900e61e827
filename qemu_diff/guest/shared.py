"""The shared region: the file behind L1's ivshmem device, where stepvmm writes its records."""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qemu_diff.abi import (
    SHARED_HEADER,
    SHARED_HEADER_BYTES,
    SHARED_MAGIC,
    SHARED_SEAL,
    STEP_ABI_VERSION,
    STEP_RECORD,
    SharedState,
    StepRecords,
)
from qemu_diff.errors import CorruptDataError, InfrastructureError, LostGuestError
from qemu_diff.guest.machine import COUNTER_HZ, SHARED_BYTES
from qemu_diff.regular_file import opened


@dataclass(frozen=True)
class SharedHeader:
    """The region's header, checked.

    :param count: records written.
    :param dropped: records that found no room.
    :param heartbeat: returns from KVM_RUN so far.
    :param message: how stepvmm ended, in its own words.
    """

    state: SharedState
    count: int
    dropped: int
    heartbeat: int
    crc32: int
    counter_hz: int
    message: str


RECORD_CAPACITY = (SHARED_BYTES - SHARED_HEADER_BYTES) // STEP_RECORD.itemsize
"""Records that fit into the shared region."""


def reserve(path: Path, size: int) -> None:
    """Make a zeroed file whose blocks exist: a full disk shows now and not as a SIGBUS in QEMU.

    :param size: bytes.
    :raises InfrastructureError: there is no room for it.
    """
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise InfrastructureError(f"{path}: {size >> 20} MiB: {error.strerror}") from error


def read_header(path: Path) -> SharedHeader:
    """The header as it is now; safe while the guest runs.

    :raises CorruptDataError: it is not one of ours.
    """
    with opened(path) as file:
        raw = file.read(SHARED_HEADER_BYTES)
    if len(raw) < SHARED_HEADER_BYTES:
        raise CorruptDataError(f"{path}: {len(raw)} bytes are no record file")
    header = np.frombuffer(raw, SHARED_HEADER, 1)[0]
    if not header["magic"]:
        return SharedHeader(SharedState.EMPTY, 0, 0, 0, 0, 0, "")
    if int(header["magic"]) != SHARED_MAGIC:
        raise CorruptDataError(f"{path}: not a record file")
    if int(header["version"]) != STEP_ABI_VERSION:
        raise CorruptDataError(
            f"{path}: record version {header['version']}, this qemu-diff reads {STEP_ABI_VERSION}"
        )
    if int(header["record_bytes"]) != STEP_RECORD.itemsize:
        raise CorruptDataError(f"{path}: records of {header['record_bytes']} bytes")
    try:
        state = SharedState(int(header["state"]))
    except ValueError as error:
        raise CorruptDataError(f"{path}: unknown state {header['state']}") from error
    return SharedHeader(
        state=state,
        count=int(header["count"]),
        dropped=int(header["dropped"]),
        heartbeat=int(header["heartbeat"]),
        crc32=int(header["crc32"]),
        counter_hz=int(header["counter_hz"]),
        message=bytes(header["message"]).decode(errors="replace"),
    )


def write_records(path: Path, records: StepRecords, state: SharedState, message: str = "") -> None:
    """A sealed record file, as the step VMM leaves one: of stops that were recorded outside of L1.

    :param records: shape (n,), dtype ``STEP_RECORD``; they are numbered here.
    :raises InfrastructureError: it can't be written.
    """
    numbered = records.copy()
    numbered["sequence"] = np.arange(len(numbered))
    seal = np.zeros(1, SHARED_SEAL)
    seal["count"] = seal["heartbeat"] = len(numbered)
    seal["counter_hz"], seal["state"] = COUNTER_HZ, state
    header = np.zeros(1, SHARED_HEADER)
    for name in SHARED_SEAL.names or ():
        header[name] = seal[name]
    header["magic"], header["version"] = SHARED_MAGIC, STEP_ABI_VERSION
    header["record_bytes"], header["capacity"] = STEP_RECORD.itemsize, len(numbered)
    header["message"] = message.encode()
    body = numbered.tobytes()
    header["crc32"] = zlib.crc32(seal.tobytes(), zlib.crc32(body))
    try:
        path.write_bytes(header.tobytes().ljust(SHARED_HEADER_BYTES, b"\0") + body)
    except OSError as error:
        raise InfrastructureError(f"{path}: {error.strerror}") from error


def seal_log(path: Path) -> None:
    """Put the size and the checksum of QEMU's timer log beside it: the log itself holds none.

    :raises OSError: the disk refuses.
    """
    content = path.read_bytes() if path.exists() else b""
    seal_of(path).write_text(f"{len(content)} {zlib.crc32(content):08x}\n")


_SEAL_BYTES = 64
"""More than a seal has."""


def seal_of(log: Path) -> Path:
    """Where a log's seal lies."""
    return log.with_name(log.name + ".crc32")


def read_sealed_log(path: Path) -> bytes:
    """A log that is what it was when its boot ended.

    :raises LostGuestError: it was never sealed.
    :raises CorruptDataError: it was changed since.
    """
    try:
        with opened(seal_of(path)) as file:
            seal = file.read(_SEAL_BYTES)
    except FileNotFoundError as error:
        raise LostGuestError(f"{path}: not sealed: its boot did not end in order") from error
    content = b""
    with suppress(FileNotFoundError), opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if not seal.startswith(b"%d " % size):
            raise CorruptDataError(f"{path}: {size} bytes are not what was sealed")
        content = file.read()
    if seal != b"%d %08x\n" % (len(content), zlib.crc32(content)):
        raise CorruptDataError(f"{path}: checksum does not match")
    return content


def trim(path: Path) -> None:
    """Cut the file to the records that it holds."""
    size = SHARED_HEADER_BYTES + read_header(path).count * STEP_RECORD.itemsize
    os.truncate(path, min(size, path.stat().st_size))
