"""Landmarks are taken out of the truth, with their place in it; counts go on and on."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.abi import TRUTH_RECORD, TruthKind, TruthRecords
from qemu_diff.trace.landmarks import COUNT_MODULUS, split_landmarks


def stream(*rows: tuple[TruthKind, int, int]) -> TruthRecords:
    """(kind, PC, detail)."""
    made = np.zeros(len(rows), TRUTH_RECORD)
    for record, (kind, pc, detail) in zip(made, rows, strict=True):
        record["kind"], record["pc"], record["detail"] = kind, pc, detail
    return made


def test_each_knows_the_truth_record_that_follows() -> None:
    truth, reached = split_landmarks(
        stream(
            (TruthKind.MARK, 0x10, 1),
            (TruthKind.LANDMARK, 0x20, 100),
            (TruthKind.LANDMARK, 0x30, 130),
            (TruthKind.INSTRUCTION, 0x30, 0),
            (TruthKind.LANDMARK, 0x40, 131),
        )
    )
    assert truth["kind"].tolist() == [TruthKind.MARK, TruthKind.INSTRUCTION]
    assert reached.address.tolist() == [0x20, 0x30, 0x40]
    assert reached.executed.tolist() == [0, 30, 31]
    assert reached.before.tolist() == [1, 1, 2]


def test_without_landmarks_the_truth_is_what_it_was() -> None:
    plain = stream((TruthKind.MARK, 0x10, 1), (TruthKind.EXIT, 0x400, 0x400))
    truth, reached = split_landmarks(plain)
    assert np.array_equal(truth, plain)
    assert len(reached) == 0


@given(st.integers(0, COUNT_MODULUS - 1), st.lists(st.integers(0, COUNT_MODULUS - 1), max_size=20))
def test_counts_go_on_over_the_end_of_their_32_bits(first: int, steps: list[int]) -> None:
    counts = np.cumsum([first, *steps])
    _, reached = split_landmarks(
        stream(*((TruthKind.LANDMARK, 0x20, int(count) % COUNT_MODULUS) for count in counts))
    )
    assert reached.executed.tolist() == (counts - first).tolist()
