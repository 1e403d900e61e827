"""Landmarks: when L1 and L2 came to chosen addresses, in executed instructions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import TruthKind, TruthRecords

COUNT_MODULUS = 1 << 32


@dataclass(frozen=True)
class Reached:
    """Landmarks in the order in which they were come to. Arrays have shape (l,), int64.

    :param address: the instruction's.
    :param executed: instructions executed so far, from an arbitrary point on; ns of virtual time
        under ``-icount shift=0``, as long as L1 is not idle.
    :param before: index of the truth record that came next.
    """

    address: NDArray[np.int64]
    executed: NDArray[np.int64]
    before: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.address)


def split_landmarks(stream: TruthRecords) -> tuple[TruthRecords, Reached]:
    """The truth without landmarks, and the landmarks."""
    chosen = stream["kind"] == TruthKind.LANDMARK
    found = stream[chosen]
    steps = np.diff(found["detail"].astype(np.int64)) % COUNT_MODULUS
    return stream[~chosen], Reached(
        address=found["pc"].astype(np.int64),
        executed=np.cumsum(np.append(np.zeros(min(1, len(found)), np.int64), steps)),
        before=np.cumsum(~chosen)[chosen],
    )
