"""How long a campaign will take, as far as past nights tell. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from math import inf
from statistics import median

from qemu_diff.campaign.ledger import PastDuration, workload
from qemu_diff.model import Cell, Estimate, FloodSpec, Placement


def estimate(cells: Sequence[Cell], past: Iterable[PastDuration], at_once: int) -> Estimate:
    """A cell takes what it took, else what cells with the same work took: the median of each.

    :param cells: those that the campaign excludes take no time.
    """
    same: dict[str, list[float]] = {}
    alike: dict[str, list[float]] = {}
    for one in past:
        same.setdefault(one.id, []).append(one.duration_s)
        alike.setdefault(one.workload, []).append(one.duration_s)
    run = [cell for cell in cells if not cell.excluded]
    known = {
        cell.id: median(found)
        for cell in run
        if (found := same.get(cell.id) or alike.get(workload(cell)))
    }
    return Estimate(known, len(run) - len(known), at_once)


def longest_first(cells: Sequence[Cell], expected_s: Mapping[str, float]) -> tuple[Cell, ...]:
    """Cells in the order in which workers are done with them soonest: none begins a long one when
    the others have nothing left.

    The cells of a point, which follow each other in a plan, still do. A point that nothing is known
    of comes first, for it may be the longest; of several, the one with the most passes.

    :param expected_s: cell id → wall-clock seconds.
    """
    points = [tuple(point) for _, point in groupby(cells, key=_point)]

    def length(point: tuple[Cell, ...]) -> tuple[float, float]:
        return max((expected_s.get(cell.id, inf), _passes(cell.flood)) for cell in point)

    ordered = sorted(points, key=length, reverse=True)
    return tuple(cell for point in ordered for cell in point)


def _passes(flood: FloodSpec) -> float:
    """As far as its description tells; to the end of the longest step is farther than any."""
    if flood.placement not in (Placement.SWEEP, Placement.ADAPTIVE, Placement.PAIRS):
        return flood.count
    return inf if flood.last_ns is None else (flood.last_ns - flood.first_ns) / flood.step_ns


def _point(cell: Cell) -> str:
    return cell.id.removeprefix(f"{cell.kernel}.")
