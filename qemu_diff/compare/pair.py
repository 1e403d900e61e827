"""Two kernels, one cell: the outcome, and both kernels' PCs side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from qemu_diff.abi import KVM_EXIT_DEBUG, RecordFlag, RecordKind, StepRecords
from qemu_diff.compare.cost import cost_changes
from qemu_diff.compare.decode import Program
from qemu_diff.compare.slices import executions, group_slices, pass_of_run, slice_truth
from qemu_diff.compare.verdict import pair_outcome
from qemu_diff.model import CellResult, CellVerdict, PairOutcome, PairResult, SideBySide
from qemu_diff.trace.listing import Listing
from qemu_diff.trace.trace import Trace

CONTEXT = 3
"""Instructions shown before and after the one that differs."""


@dataclass(frozen=True)
class PassOfSteps:
    """One pass over the payload, as one kernel stepped it.

    :param executed: PCs that L2 executed, in order, then the PC at which the pass ended.
    :param reported: (instructions executed before it, PC) of each step report, in order.
    """

    executed: tuple[int, ...]
    reported: tuple[tuple[int, int], ...]


def pass_of_steps(trace: Trace, program: Program, number: int) -> PassOfSteps:
    """One pass of a boot.

    :param number: of the pass, from 0; one that the boot does not have gives empty tuples.
    :raises CorruptDataError: reports and truth don't belong together.
    """
    runs = trace.records[trace.records["kind"] == RecordKind.RUN]
    inside = np.flatnonzero(pass_of_run(trace.records) == number)
    if not len(inside):
        return PassOfSteps((), ())
    slices = slice_truth(trace.records, trace.truth, group_slices(trace.records))
    done = executions(trace.truth, trace.phantom, slices, program)
    within = (done.run >= inside[0]) & (done.run <= inside[-1])
    debug = (runs["exit_reason"] == KVM_EXIT_DEBUG) & (runs["error"] == 0)
    reports = inside[debug[inside]]
    before = np.searchsorted(done.run[within], reports, side="right")
    ended_at = int(runs["pc"][inside[-1]])
    return PassOfSteps(
        (*(int(pc) for pc in done.pc[within]), ended_at),
        tuple(zip(before.tolist(), (int(pc) for pc in runs["pc"][reports]), strict=True)),
    )


def side_by_side(
    baseline: PassOfSteps, candidate: PassOfSteps, around: int, listing: Listing
) -> SideBySide:
    """Both kernels' reports of one pass, in the order in which L2 executed.

    :param around: the PC to show, with ``CONTEXT`` instructions before and after it.
    """
    executed = max(baseline.executed, candidate.executed, key=len)
    stopped = [stops(executed, one.reported) for one in (baseline, candidate)]
    differs = [index for index, pair in enumerate(zip(*stopped, strict=True)) if len(set(pair)) > 1]
    here = [index for index, pc in enumerate(executed) if pc == around]
    centre = next(iter([*(index for index in differs if index in here), *differs, *here]), 0)
    shown = range(max(0, centre - CONTEXT), min(len(executed), centre + CONTEXT + 1))
    return SideBySide(
        tuple(
            (listing.instruction(executed[index]), stopped[0][index], stopped[1][index])
            for index in shown
        )
    )


def stops(executed: tuple[int, ...], reported: tuple[tuple[int, int], ...]) -> list[bool]:
    """Before which executed instructions a stop was reported.

    A pass begins at its first instruction because the job put L2 there: that is a stop, too. A
    report of another PC than the one that L2 went on at has no row.
    """
    stops = {0, *(before for before, pc in reported if executed[before : before + 1] == (pc,))}
    return [index in stops for index in range(len(executed))]


def reported_passes(records: StepRecords) -> frozenset[tuple[int, ...]]:
    """The PCs of each pass's step reports, in order; passes that are alike count once."""
    runs = records[records["kind"] == RecordKind.RUN]
    reports = (runs["exit_reason"] == KVM_EXIT_DEBUG) & (runs["error"] == 0)
    reports &= (runs["flags"] & RecordFlag.STEPPING) != 0
    passes, pcs = pass_of_run(records)[reports], runs["pc"][reports]
    begins = np.flatnonzero(np.diff(passes)) + 1
    return frozenset(tuple(int(pc) for pc in part) for part in np.split(pcs, begins))


def digest_of_passes(passes: Iterable[tuple[int, ...]]) -> str:
    """See :attr:`~qemu_diff.model.CellResult.step_pcs`."""
    digest = hashlib.blake2b(digest_size=16)
    for one in sorted(passes):
        digest.update(np.array([len(one), *one], "<u8").tobytes())
    return digest.hexdigest()


def pair_result(
    baseline: CellResult,
    candidate: CellResult,
    rows: SideBySide | None = None,
    *,
    cost_change: float | None = None,
) -> PairResult:
    """The outcome of a pair, in words too.

    :param cost_change: see :attr:`~qemu_diff.model.Campaign.cost_change`.
    """
    outcome = pair_outcome(baseline.verdict, candidate.verdict)
    if baseline.cell.kernel == candidate.cell.kernel:
        outcome = _on_one_kernel(outcome, baseline, candidate)
    costs = cost_changes(baseline, candidate, cost_change)
    unsaid = PairResult(baseline.cell, candidate.cell, outcome, "", rows, costs)
    words = [_words(unsaid, baseline, candidate), *_cost_words(unsaid)]
    if outcome in (PairOutcome.DIFFERENT, PairOutcome.ONE_FAILS) and _differs_in_qemu(unsaid):
        words.append("QEMU differs here, and not the kernel")
    return replace(unsaid, message="; ".join(words))


def _differs_in_qemu(pair: PairResult) -> bool:
    return pair.baseline.machine.qemu != pair.candidate.machine.qemu


def _on_one_kernel(
    outcome: PairOutcome, baseline: CellResult, candidate: CellResult
) -> PairOutcome:
    """Of two drivers, or two QEMUs."""
    if outcome in (PairOutcome.FIXED, PairOutcome.REGRESSED):
        return PairOutcome.ONE_FAILS
    # What interrupts L2 decides which steps end at a vector; quiet steps are the same for all.
    if outcome is PairOutcome.SAME and not baseline.cell.flood.sources:
        same = baseline.step_pcs == candidate.step_pcs
        return PairOutcome.SAME if same else PairOutcome.DIFFERENT
    return outcome


def _words(pair: PairResult, baseline: CellResult, candidate: CellResult) -> str:
    before, after = pair.sides
    sides = [(before, baseline), (after, candidate)]
    if pair.outcome is PairOutcome.SAME:
        return f"{before} and {after} both keep the step contract"
    if pair.outcome is PairOutcome.DIFFERENT:
        return f"{before} and {after} report different PCs for the same steps"
    if pair.outcome is not PairOutcome.INCONCLUSIVE:
        # Who fails first; the baseline where both do.
        sides.sort(key=lambda side: side[1].verdict is CellVerdict.PASS)
        return "; ".join(f"{name}: {_trouble(one)}" for name, one in sides)
    unjudged = [(name, one) for name, one in sides if not one.verdict.judged]
    named = " and ".join(f"{name} ({one.reason})" for name, one in unjudged)
    if all(one.verdict is CellVerdict.SKIPPED for _, one in unjudged):
        return f"skipped: {named}"
    return f"nothing was learnt from {named}"


def _cost_words(pair: PairResult) -> Iterator[str]:
    before, after = pair.sides
    for one in pair.costs:
        if one.alarming:
            yield (
                f"a step of class {one.instruction} costs {one.candidate:,} instructions of L1 on "
                f"{after}, {one.baseline:,} on {before} ({one.ratio - 1:+.1%})"
            )


def _trouble(result: CellResult) -> str:
    if result.verdict is CellVerdict.PASS:
        return f"none in {result.steps} steps"
    return result.reason or result.verdict.value
