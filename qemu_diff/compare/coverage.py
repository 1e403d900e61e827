"""What of the step windows was tried, and with it what may be claimed.

Only a full grid may say that *all* placements were tried: each ns that the timer can tell from the
next, from the first that a delay reaches to the end of each instruction's quiet step window.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from qemu_diff.compare.contract import Steps
from qemu_diff.compare.placement_map import Points, points
from qemu_diff.compare.placements import NOT_DELIVERED, Placements
from qemu_diff.model import Coverage, FloodSpec, Method, Placement

METHODS = {
    Placement.SWEEP: Method.GRID,
    Placement.PAIRS: Method.GRID,
    Placement.ADAPTIVE: Method.ADAPTIVE,
}
"""What a placement comes to at best, where it is not a full grid; any other is ``random``."""


def resolution_of(deliveries: NDArray[np.uint64]) -> int:
    """What the counter and the timer can tell apart, in ns: all interrupts of L1's timers come at
    multiples of it from each other.

    :param deliveries: shape (i,), ascending: counter values (ns) at which a timer fired.
    :returns: 0 where they tell nothing: there are less than two.
    """
    return int(np.gcd.reduce(np.diff(deliveries.astype(np.int64)))) if len(deliveries) > 1 else 0


def coverage(
    flood: FloodSpec,
    steps: Steps,
    placements: Placements,
    window_ns: Mapping[int, int],
    resolution_ns: int,
) -> Coverage | None:
    """What was tried of a cell; None where nothing was placed.

    :param window_ns: see :func:`~qemu_diff.compare.placement_map.placement_maps`.
    """
    sent = placements.requested_ns != NOT_DELIVERED
    if not sent.any():
        return None
    tried = points(steps, placements)
    reachable = {pc: one.time_ns[one.first_reachable :] for pc, one in tried.items()}
    ends = {pc: _end(times, window_ns.get(pc, 0)) for pc, times in reachable.items()}
    missing = {pc: _missing(reachable[pc], end, resolution_ns) for pc, end in ends.items()}
    last = {pc: int(times[-1]) for pc, times in reachable.items() if len(times)}
    full = (
        flood.placement is Placement.SWEEP
        and flood.step_ns == max(resolution_ns, 1)
        and bool(window_ns)
        and set(window_ns) <= set(tried)
        and not any(missing.values())
        and all(pc in window_ns for pc in tried)
        and all(_floor_was_tried(pc, one, steps, placements) for pc, one in tried.items())
    )
    return Coverage(
        method=Method.FULL if full else METHODS.get(flood.placement, Method.RANDOM),
        resolution_ns=resolution_ns,
        tried=int(sent.sum()),
        inside=int(placements.delivered.sum()),
        missing=sum(missing.values()),
        first_ns=max((int(times[0]) for times in reachable.values() if len(times)), default=0),
        beyond_ns=sum(max(0, window_ns.get(pc, 0) - end) for pc, end in last.items()),
        untouched=len(set(window_ns) - set(tried)),
    )


def _end(times: NDArray[np.int64], window_ns: int) -> int:
    """Where the claim on one instruction ends."""
    return max(int(times[-1]) if len(times) else 0, window_ns)


def _missing(times: NDArray[np.int64], end: int, resolution_ns: int) -> int:
    """Points from the first time to the end at which nothing was delivered, in ns."""
    if not len(times):
        return 0
    grid = max(resolution_ns, 1)
    return ((end - int(times[0])) // grid + 1 - len(times)) * grid


def _floor_was_tried(pc: int, tried: Points, steps: Steps, placements: Placements) -> bool:
    """Whether a shorter delay than that of the first reachable time was tried, and came to nothing
    earlier: then no delay does."""
    here = steps.instruction == pc
    first = tried.time_ns[tried.first_reachable : tried.first_reachable + 1]
    if not len(first):
        return False
    requested = placements.requested_ns[here & (placements.requested_ns != NOT_DELIVERED)]
    at_first = here & placements.clean & (placements.delivered_ns == first[0])
    return bool(np.any(requested < placements.requested_ns[at_first].min()))
