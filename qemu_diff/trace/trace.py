"""One boot's whole record, ready to be judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import TRUTH_RECORD, Mark, StepRecords, TruthKind, TruthRecords
from qemu_diff.errors import CorruptDataError
from qemu_diff.trace.interrupts import read_deliveries
from qemu_diff.trace.landmarks import Reached, split_landmarks
from qemu_diff.trace.records import read_records
from qemu_diff.truth.phantom import PhantomRule, phantoms
from qemu_diff.truth.reader import read_truth


@dataclass(frozen=True)
class Trace:
    """What one boot left behind.

    :param records: shape (r,), dtype ``STEP_RECORD``.
    :param truth: shape (t,), dtype ``TRUTH_RECORD``, phantoms included, landmarks not.
    :param phantom: shape (t,), bool: which truth records are phantoms.
    :param deliveries: shape (i,), uint64, ascending: counter values at which L1's timer fired.
    :param landmarks: of a boot that was asked for them.
    """

    records: StepRecords
    truth: TruthRecords
    phantom: NDArray[np.bool_]
    deliveries: NDArray[np.uint64]
    landmarks: Reached = field(
        default_factory=lambda: split_landmarks(np.zeros(0, TRUTH_RECORD))[1]
    )


def read_trace(records: Path, truth: Path, timer_log: Path, rule: PhantomRule) -> Trace:
    """Read and check the three files of a boot.

    :raises LostGuestError: a file that was never sealed.
    :raises CorruptDataError: a file that contradicts itself.
    """
    stream, landmarks = split_landmarks(read_truth(truth))
    _check_marks(stream, truth)
    phantom, deliveries = phantoms(rule, stream), read_deliveries(timer_log)
    return Trace(read_records(records), stream, phantom, deliveries, landmarks)


def _check_marks(stream: TruthRecords, path: Path) -> None:
    """A job begins once and ends once, and every return from KVM_RUN lies between."""
    marks = stream["detail"][stream["kind"] == TruthKind.MARK].tolist()
    if len(marks) < 2 or {marks[0], marks[-1]} != {Mark.JOB_BEGIN, Mark.JOB_END}:
        raise CorruptDataError(f"{path}: its marks do not begin and end with the job's")
    if marks[0] != Mark.JOB_BEGIN or any(mark != Mark.RETURNED for mark in marks[1:-1]):
        raise CorruptDataError(f"{path}: its marks are not in the order of a job")
