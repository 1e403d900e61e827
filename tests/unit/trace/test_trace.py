"""The marks of a job: it begins, returns from KVM_RUN, and ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qemu_diff.abi import TRUTH_RECORD, Mark, TruthKind, TruthRecords
from qemu_diff.errors import CorruptDataError
from qemu_diff.trace.trace import _check_marks

BEGIN, RETURNED, END = Mark.JOB_BEGIN, Mark.RETURNED, Mark.JOB_END


def stream(*marks: Mark) -> TruthRecords:
    """Marks, with an L2 instruction before each."""
    rows = np.zeros(2 * len(marks), TRUTH_RECORD)
    rows["kind"] = [TruthKind.INSTRUCTION, TruthKind.MARK] * len(marks)
    rows["detail"][1::2] = marks
    return rows


@pytest.mark.parametrize("marks", [(BEGIN, END), (BEGIN, RETURNED, RETURNED, END)])
def test_a_job_s_marks(marks: tuple[Mark, ...]) -> None:
    _check_marks(stream(*marks), Path("truth"))


@pytest.mark.parametrize(
    "marks",
    [
        (),
        (BEGIN,),
        (RETURNED, END),
        (BEGIN, RETURNED),
        (END, RETURNED, BEGIN),
        (BEGIN, BEGIN, END),
        (BEGIN, RETURNED, END, END),
        (BEGIN, END, BEGIN, END),
        (BEGIN, BEGIN),
    ],
)
def test_marks_that_no_job_leaves(marks: tuple[Mark, ...]) -> None:
    with pytest.raises(CorruptDataError, match="marks"):
        _check_marks(stream(*marks), Path("truth"))
