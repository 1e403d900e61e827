"""Adaptive placement: a coarse grid, each change of the outcome refined, random probes between.

What is refined is a :class:`~qemu_diff.model.PlacementMap`: between two spans that came out
differently, some ns may not have been tried. They are tried until the two stand next to each other,
or until no delay is left that might come there. A window narrower than the grid is found only where
a probe happens to hit it, so nothing is claimed of what lies between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, pairwise

import numpy as np

from qemu_diff.flood.placement import sweep
from qemu_diff.model import FloodSpec, PlacementMap

ROUNDS = 12
"""Boots that refine; each divides what is left of a change by :data:`CUTS` or more."""

CUTS = 32
"""Placements into one change in one round, and one more: a boot costs more than some passes."""

TRIES = 2
"""Of one delay: where an interrupt of L1's own displaced it, it comes through in another boot."""

SPREAD_NS = 24
"""From arming to delivery L1 takes one of several paths; they differ by less than this."""


def first_delays(flood: FloodSpec, longest_ns: int, seed: int) -> tuple[int, ...]:
    """Requested delays of the coarse grid and of ``flood.count`` probes, in ns.

    :param longest_ns: see :func:`~qemu_diff.flood.placement.sweep`.
    :returns: ascending, without repeats.
    """
    coarse = sweep(flood, longest_ns)
    end = coarse.first_ns + coarse.passes * coarse.step_ns
    gap = coarse.step_ns - 1
    between = gap * coarse.passes
    generator = np.random.Generator(np.random.PCG64(seed))
    number, offset = np.divmod(
        generator.choice(between, min(flood.count, between), replace=False), gap
    )
    probes = coarse.first_ns + number * coarse.step_ns + offset + 1
    return tuple(sorted({*range(coarse.first_ns, end, coarse.step_ns), *probes.tolist()}))


def next_delays(
    maps: Sequence[PlacementMap],
    offsets: Mapping[int, Sequence[int]],
    asked: Mapping[int, int],
) -> tuple[int, ...]:
    """Requested delays that divide what was not tried between different outcomes, in ns.

    :param maps: what came of everything so far.
    :param offsets: instruction's PC → requested minus delivered ns, the most common first.
    :param asked: delay → how often it was requested.
    :returns: ascending, without repeats; empty where no change is left that a delay might refine.
    """
    chosen: set[int] = set()
    for one in maps:
        for time in _untried(one):
            candidates = _candidates(time, offsets[one.instruction.address])
            chosen.update(islice((one for one in candidates if asked.get(one, 0) < TRIES), 1))
    return tuple(sorted(chosen))


def alone(
    missing: Mapping[int, Sequence[int]],
    offsets: Mapping[int, Sequence[int]],
    asked: Mapping[tuple[int, int], int],
) -> tuple[tuple[int, int], ...]:
    """Placements of one instruction each, for passes that have no other: (PC, requested delay).

    :param missing: instruction's PC → times that were not tried, in ns.
    :param offsets: see :func:`next_delays`.
    :param asked: such a placement → how often it was requested.
    :returns: ascending, without repeats; empty where no delay is left that might come there.
    """
    chosen: set[tuple[int, int]] = set()
    for pc, times in missing.items():
        for time in times:
            candidates = ((pc, delay) for delay in _candidates(time, offsets[pc]))
            chosen.update(islice((one for one in candidates if asked.get(one, 0) < TRIES), 1))
    return tuple(sorted(chosen))


def changes(one: PlacementMap) -> tuple[tuple[int, int], ...]:
    """The last time before and the first time after each change of the outcome that is not known to
    the ns."""
    return tuple(
        (before.last_ns, after.first_ns)
        for before, after in pairwise(one.spans)
        if before.outcome != after.outcome and after.first_ns - before.last_ns > 1
    )


def _untried(one: PlacementMap) -> Iterator[int]:
    """Times that divide each change evenly: every ns of it where they are few."""
    for before, after in changes(one):
        parts = min(CUTS, after - before)
        yield from (before + (after - before) * part // parts for part in range(1, parts))


def _candidates(time: int, offsets: Sequence[int]) -> Iterator[int]:
    """Delays that may be delivered at a time, the likeliest first."""
    for apart in range(SPREAD_NS + 1):
        for offset in offsets:
            for delay in (time + offset + apart, time + offset - apart):
                if delay > 0:
                    yield delay
