"""Placements of a one-shot timer interrupt, as delays requested from the moment of arming."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qemu_diff.model import FloodSpec


@dataclass(frozen=True)
class Sweep:
    """Requested delays ``first_ns``, ``first_ns + step_ns``, … one for each pass."""

    first_ns: int
    step_ns: int
    passes: int


def sweep(flood: FloodSpec, longest_ns: int) -> Sweep:
    """The passes of a sweep.

    :param longest_ns: from arming to the return from KVM_RUN, the longest of a quiet run, in ns:
        where the sweep ends unless the campaign says so.
    """
    first = max(flood.first_ns, 1)
    last = longest_ns if flood.last_ns is None else flood.last_ns
    return Sweep(first, flood.step_ns, max(0, last - first) // flood.step_ns + 1)


def random_delays(flood: FloodSpec, longest_ns: int, steps: int, seed: int) -> NDArray[np.uint32]:
    """Delays for a random flood, one for each KVM_RUN.

    :param longest_ns: see :func:`sweep`.
    :param steps: KVM_RUNs to be flooded.
    :returns: shape (steps,), ns, uniform over the interval.
    """
    first = max(flood.first_ns, 1)
    last = longest_ns if flood.last_ns is None else flood.last_ns
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.integers(first, max(first, last), steps, dtype=np.uint32, endpoint=True)
