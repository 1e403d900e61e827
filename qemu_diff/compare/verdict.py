"""Verdicts: one cell's, and the outcome of a pair of cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import IRQ_SLOTS
from qemu_diff.compare.contract import Judged, Steps
from qemu_diff.compare.cost import costs_nothing_else, step_costs
from qemu_diff.compare.coverage import coverage
from qemu_diff.compare.observation import Observation
from qemu_diff.compare.placement_map import (
    grids,
    placement_maps,
    quiet_windows,
    violation_of,
    windows,
)
from qemu_diff.compare.placements import NOT_DELIVERED
from qemu_diff.compare.returns import instruction_at
from qemu_diff.model import (
    FROM_OUTSIDE,
    Breakdown,
    Cell,
    CellResult,
    CellVerdict,
    Coverage,
    ExceptionOrder,
    FloodSource,
    PairOutcome,
    Payload,
    Placement,
    ViolationKind,
)
from qemu_diff.trace.listing import Listing

NOTHING_LEARNT: Mapping[int, int] = MappingProxyType({})

NOT_REDIRECTED = "no step exception was redirected, so async_first was not tested"
"""Why a cell of ``async_first`` may tell nothing."""


def judged_cell(
    cell: Cell,
    observation: Observation,
    listing: Listing,
    window_ns: Mapping[int, int] = NOTHING_LEARNT,
) -> CellResult:
    """The result of a cell whose boots all ran to their end.

    :param window_ns: instruction's PC → its step window in a quiet run; where there was none, the
        steps that no placement interrupted tell it.
    """
    steps, placements = observation.steps, observation.placements
    window_ns = window_ns or quiet_windows(steps, placements)
    broken = Counter(kind for _, kind in _broken_steps(observation) + _broken_reads(observation))
    broken[ViolationKind.LOST_INTERRUPT] = observation.delivered.lost
    broken[ViolationKind.SPURIOUS_INTERRUPT] = observation.delivered.unsent
    broken = +broken
    if not len(steps) and not broken:
        return unjudged_cell(cell, CellVerdict.LOST, "no step was reported, so none was judged")
    from_outside = np.full(len(steps), FloodSource.DEVICE in cell.flood.sources)
    from_outside &= steps.irq_exits > placements.ticks
    if cell.driver in FROM_OUTSIDE:
        from_outside = (placements.ticks > 0) | _at_irq_vector(steps, listing.payload)
    # A broken step is one, wherever the interrupt came: a signal may end the return before.
    hit = (placements.delivered | from_outside).any() or broken
    if cell.flood.sources and not hit and not _unseen(cell):
        return unjudged_cell(cell, CellVerdict.LOST, _outside(observation, window_ns))
    redirected = steps.redirects > 0
    if _must_redirect(cell) and not redirected.any():
        return unjudged_cell(cell, CellVerdict.LOST, NOT_REDIRECTED)
    interrupted = placements.delivered | (placements.ticks > 0) | redirected | from_outside
    if cell.machine.cpus > 1 and set(cell.flood.sources) <= WITHOUT_IPI:
        interrupted &= (steps.irq_exits > 0) | redirected
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
        redirects=int(redirected.sum()),
        first_broken_step=_first_broken(steps.outcome),
        breakdown=_breakdown(observation, listing),
        findings=observation.findings,
        windows=windows(steps, placements, name) if cell.flood.placement in SWEPT else (),
        grids=grids(steps, placements, name),
        maps=placement_maps(steps, placements, name, window_ns) if _one_by_one(cell) else (),
        coverage=_coverage(cell, observation, window_ns),
        reason=_reason(broken, len(steps)),
        sources=observation.delivered.sources,
        interrupts=observation.delivered.l1,
        excursions=observation.delivered.excursions if listing.payload.interrupts else None,
        costs=step_costs(steps, placements, listing.payload) if costs_nothing_else(cell) else (),
    )


def _unseen(cell: Cell) -> bool:
    """Whether an interrupt may have hit a step, and nobody tells: a debugger's records have no
    times, and most interrupts of a step keep L1 from entering L2, which the truth does not show
    (Linux arch/arm64/kvm/hyp/entry.S, ``__guest_enter`` reads ISR_EL1)."""
    return cell.driver in FROM_OUTSIDE and not cell.flood.into_guest


def _at_irq_vector(steps: Steps, payload: Payload) -> NDArray[np.bool_]:
    """Steps that ended with an interrupt that L2 took. Shape (g,)."""
    if payload.interrupts is None:
        return np.zeros(len(steps), dtype=bool)
    return np.isin(steps.reported_pc, [payload.interrupts.vectors + slot for slot in IRQ_SLOTS])


def _coverage(
    cell: Cell, observation: Observation, window_ns: Mapping[int, int]
) -> Coverage | None:
    """Nothing is *placed* into what a debugger steps."""
    if cell.driver in FROM_OUTSIDE:
        return None
    steps, placements = observation.steps, observation.placements
    return coverage(cell.flood, steps, placements, window_ns, observation.resolution_ns)


def _outside(observation: Observation, window_ns: Mapping[int, int]) -> str:
    """Why placements tested nothing: where they were asked for, and where the step windows end."""
    placements = observation.placements
    nothing = "no placed interrupt came inside a step window, so nothing was tested"
    asked = placements.requested_ns[placements.requested_ns != NOT_DELIVERED]
    if not (len(asked) and window_ns):
        return nothing
    interval = f"{asked.min():,} to {asked.max():,} ns after arming"
    end = f"{max(window_ns.values()):,} ns after the entry into KVM_RUN"
    return (
        f"{nothing}: asked for {interval}, but the longest step window ends {end}; see the flood's "
        "first_ns and last_ns"
    )


WITHOUT_IPI = {FloodSource.MEMSLOT, FloodSource.DIRTY_LOG}
"""What another CPU does with these interrupts nobody: TLBs are invalidated by broadcast."""

SWEPT = (Placement.SWEEP, Placement.ADAPTIVE)
"""Placements that are close enough to each other for a window to be said of them."""


def _one_by_one(cell: Cell) -> bool:
    """Whether what came of a step is one interrupt's doing."""
    return cell.flood.placement not in (Placement.PAIRS, Placement.BURST)


def _first_broken(outcome: NDArray[np.int64]) -> int:
    broken = np.flatnonzero(outcome != Judged.OK)
    return int(broken[0]) + 1 if len(broken) else 0


def _must_redirect(cell: Cell) -> bool:
    """Whether the truth must show redirects: those of chosen instructions are made by a debugger,
    and look there as if the CPU had taken the interrupt."""
    machine = cell.machine
    return machine.exception_order is ExceptionOrder.ASYNC_FIRST and not machine.redirect_at


def unjudged_cell(cell: Cell, verdict: CellVerdict, reason: str) -> CellResult:
    """The result of a cell that left nothing to judge: hang, oops, lost or skipped."""
    return CellResult(cell, verdict, reason=reason)


def _broken_steps(observation: Observation) -> list[tuple[int, ViolationKind]]:
    """(PC, kind) of each; where nothing was executed, the instruction L2 stood at."""
    steps = observation.steps
    wrong = steps.outcome != Judged.OK
    outcomes = map(violation_of, steps.outcome[wrong].tolist())
    return list(zip(steps.instruction[wrong].tolist(), outcomes, strict=True))


def _broken_reads(observation: Observation) -> list[tuple[int, ViolationKind]]:
    """(PC, kind) of each wrong value that user space read."""
    state = observation.state
    pc = state.pc[state.broken].tolist()
    return list(zip(pc, state.kinds(state.broken), strict=True))


def _breakdown(observation: Observation, listing: Listing) -> tuple[Breakdown, ...]:
    """Per instruction and kind."""
    steps, state = observation.steps, observation.state
    stepped = Counter(steps.instruction.tolist())
    read = Counter(zip(state.pc.tolist(), state.kinds(slice(None)), strict=True))
    broken = Counter(_broken_steps(observation) + _broken_reads(observation))
    return tuple(
        Breakdown(instruction_at(listing, pc), kind, number, read[pc, kind] or stepped[pc])
        for (pc, kind), number in sorted(broken.items())
    )


def _reason(broken: Counter[ViolationKind], steps: int) -> str:
    counted = ", ".join(f"{number} {kind}" for kind, number in broken.items())
    return f"{counted} in {steps} steps" if counted else ""


def pair_outcome(baseline: CellVerdict, candidate: CellVerdict) -> PairOutcome:
    """The candidate held against its baseline."""
    if not (baseline.judged and candidate.judged):
        return PairOutcome.INCONCLUSIVE
    if baseline is CellVerdict.PASS:
        return PairOutcome.SAME if candidate is CellVerdict.PASS else PairOutcome.REGRESSED
    return PairOutcome.FIXED if candidate is CellVerdict.PASS else PairOutcome.BOTH_FAIL
