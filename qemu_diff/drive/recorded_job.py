"""A job as an earlier boot ran it, to be run again byte for byte."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from qemu_diff.abi import JOB_HEADER, JOB_MAGIC, STEP_ABI_VERSION
from qemu_diff.errors import ResultsError
from qemu_diff.model import Payload


@dataclass(frozen=True)
class RecordedJob:
    """The bytes of ``/job``.

    :param content: as :meth:`qemu_diff.drive.job.Job.encode` made them.
    """

    content: bytes

    def encode(self, _: Payload, _cpu: int = 0) -> bytes:
        """The bytes of ``/job``: they hold all that they need of the payload."""
        return self.content


def recorded_job(content: bytes, name: str) -> RecordedJob:
    """A job's bytes, checked.

    :param name: what to call them in an error.
    :raises ResultsError: they are no job, or one of another version.
    """
    if len(content) < JOB_HEADER.itemsize:
        raise ResultsError(f"{name}: {len(content)} bytes are no job")
    header = np.frombuffer(content, JOB_HEADER, 1)[0]
    if int(header["magic"]) != JOB_MAGIC:
        raise ResultsError(f"{name}: not a job")
    if int(header["version"]) != STEP_ABI_VERSION:
        raise ResultsError(
            f"{name}: a job of version {header['version']}, this qemu-diff runs {STEP_ABI_VERSION}"
        )
    if zlib.crc32(content[JOB_HEADER.itemsize :]) != int(header["crc32"]):
        raise ResultsError(f"{name}: checksum does not match")
    return RecordedJob(content)
