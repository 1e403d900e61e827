"""Placements of timer interrupts, as delays requested from the moment of arming."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import PLACEMENT, TimerKind
from qemu_diff.model import FloodSource, FloodSpec

Placements = NDArray[np.void]
"""Shape (n,), dtype ``PLACEMENT``."""

TIMER_KINDS = {
    FloodSource.HOST_TIMER: TimerKind.INTERRUPT,
    FloodSource.SIGNAL: TimerKind.SIGNAL,
    FloodSource.SPI_EDGE: TimerKind.SPI_EDGE,
    FloodSource.SPI_LEVEL: TimerKind.SPI_LEVEL,
    FloodSource.IRQFD: TimerKind.IRQFD,
    FloodSource.PPI: TimerKind.PPI,
    FloodSource.LPI: TimerKind.LPI,
    FloodSource.VTIMER: TimerKind.VTIMER,
    FloodSource.MEMSLOT: TimerKind.MEMSLOT,
    FloodSource.DIRTY_LOG: TimerKind.DIRTY_LOG,
}
"""Those that the step VMM sends."""


@dataclass(frozen=True)
class Sweep:
    """Requested delays ``first_ns``, ``first_ns + step_ns``, … one for each pass."""

    first_ns: int
    step_ns: int
    passes: int


@dataclass(frozen=True)
class PairGrid:
    """Two requested delays for each pass, each of ``first_ns``, ``first_ns + step_ns``, …

    :param side: how many there are for either.
    """

    first_ns: int
    step_ns: int
    side: int

    @property
    def passes(self) -> int:
        """All combinations."""
        return self.side * self.side


def sweep(flood: FloodSpec, longest_ns: int) -> Sweep:
    """The passes of a sweep.

    :param longest_ns: from arming to the return from KVM_RUN, the longest of a quiet run, in ns:
        where the sweep ends unless the campaign says so.
    """
    first = max(flood.first_ns, 1)
    last = longest_ns if flood.last_ns is None else flood.last_ns
    return Sweep(first, flood.step_ns, max(0, last - first) // flood.step_ns + 1)


def pair_grid(flood: FloodSpec, longest_ns: int) -> PairGrid:
    """The passes of ``pairs``; see :func:`sweep`."""
    one = sweep(flood, longest_ns)
    return PairGrid(one.first_ns, one.step_ns, one.passes)


def random_placements(flood: FloodSpec, longest_ns: int, steps: int, seed: int) -> Placements:
    """Placements of a random flood, one for each step.

    :param longest_ns: see :func:`sweep`.
    :param steps: how many are to be flooded.
    :returns: shape (steps,): delays uniform over the interval, each source as likely as another.
    """
    first = max(flood.first_ns, 1)
    last = longest_ns if flood.last_ns is None else flood.last_ns
    generator = np.random.Generator(np.random.PCG64(seed))
    placements = np.zeros(steps, dtype=PLACEMENT)
    placements["delay"] = generator.integers(
        first, max(first, last), steps, dtype=np.uint32, endpoint=True
    )
    kinds = [TIMER_KINDS[source] for source in flood.sources]
    placements["kind"] = kinds[0] if len(kinds) == 1 else generator.choice(kinds, steps)
    return placements
