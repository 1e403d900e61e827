"""Verdicts: one cell's, and the outcome of a pair of cells."""

from __future__ import annotations

from collections import Counter

import numpy as np

from qemu_diff.compare.contract import Judged
from qemu_diff.compare.observation import Observation
from qemu_diff.compare.placements import grids, violation_of, windows
from qemu_diff.model import (
    Breakdown,
    Cell,
    CellResult,
    CellVerdict,
    FloodSource,
    PairOutcome,
    ViolationKind,
)
from qemu_diff.trace.listing import Listing


def judged_cell(cell: Cell, observation: Observation, listing: Listing) -> CellResult:
    """The result of a cell whose boots all ran to their end."""
    steps, placements = observation.steps, observation.placements
    broken = Counter(
        violation_of(outcome) for outcome in steps.outcome.tolist() if outcome != Judged.OK
    )
    if not len(steps):
        return unjudged_cell(cell, CellVerdict.LOST, "no step was reported, so none was judged")
    if cell.flood.source is not FloodSource.NONE and not placements.delivered.any():
        reason = "no placed interrupt came inside a step window, so nothing was tested"
        return unjudged_cell(cell, CellVerdict.LOST, reason)
    interrupted = placements.delivered | (placements.ticks > 0)
    name = {pc: listing.instruction(pc) for pc in np.unique(steps.instruction).tolist()}
    return CellResult(
        cell=cell,
        verdict=CellVerdict.FAIL if broken else CellVerdict.PASS,
        steps=len(steps),
        active_pending_entries=int(steps.active_pending.sum()),
        interrupted_steps=int(interrupted.sum()),
        counted_steps=int((steps.active_pending | interrupted).sum()),
        l1_ticks=int(placements.ticks.sum()),
        placements=int(placements.delivered.sum()),
        violations=tuple((kind, broken[kind]) for kind in ViolationKind if broken[kind]),
        breakdown=_breakdown(observation, listing),
        findings=observation.findings,
        windows=windows(steps, placements, name),
        grids=grids(steps, placements, name),
        reason=_reason(broken, len(steps)),
    )


def unjudged_cell(cell: Cell, verdict: CellVerdict, reason: str) -> CellResult:
    """The result of a cell that left nothing to judge: hang, oops, or lost."""
    return CellResult(cell, verdict, reason=reason)


def _breakdown(observation: Observation, listing: Listing) -> tuple[Breakdown, ...]:
    """Per kind and instruction; where nothing was executed, the instruction L2 stood at."""
    steps = observation.steps
    stepped = Counter(steps.instruction.tolist())
    broken = Counter(
        (pc, violation_of(outcome))
        for pc, outcome in zip(steps.instruction.tolist(), steps.outcome.tolist(), strict=True)
        if outcome != Judged.OK
    )
    return tuple(
        Breakdown(listing.instruction(pc), kind, number, stepped[pc])
        for (pc, kind), number in sorted(broken.items())
    )


def _reason(broken: Counter[ViolationKind], steps: int) -> str:
    counted = ", ".join(f"{number} {kind}" for kind, number in broken.items())
    return f"{counted} in {steps} steps" if counted else ""


def pair_outcome(baseline: CellVerdict, candidate: CellVerdict) -> PairOutcome:
    """The candidate held against its baseline."""
    if CellVerdict.LOST in (baseline, candidate):
        return PairOutcome.INCONCLUSIVE
    if baseline is CellVerdict.PASS:
        return PairOutcome.SAME if candidate is CellVerdict.PASS else PairOutcome.REGRESSED
    return PairOutcome.FIXED if candidate is CellVerdict.PASS else PairOutcome.BOTH_FAIL
