"""Two kernels, one cell: the outcome, and both kernels' PCs side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qemu_diff.abi import KVM_EXIT_DEBUG, RecordKind
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


def pair_result(
    baseline: CellResult, candidate: CellResult, rows: SideBySide | None = None
) -> PairResult:
    """The outcome of a pair, in words too."""
    outcome = pair_outcome(baseline.verdict, candidate.verdict)
    return PairResult(
        baseline.cell, candidate.cell, outcome, _words(outcome, baseline, candidate), rows
    )


def _words(outcome: PairOutcome, baseline: CellResult, candidate: CellResult) -> str:
    before, after = baseline.cell.kernel, candidate.cell.kernel
    if outcome is PairOutcome.SAME:
        return f"{before} and {after} both keep the step contract"
    if outcome is PairOutcome.FIXED:
        return f"{before}: {_trouble(baseline)}; {after}: none in {candidate.steps} steps"
    if outcome is PairOutcome.REGRESSED:
        return f"{after}: {_trouble(candidate)}; {before}: none in {baseline.steps} steps"
    if outcome is PairOutcome.BOTH_FAIL:
        return f"{before}: {_trouble(baseline)}; {after}: {_trouble(candidate)}"
    unjudged = [one for one in (baseline, candidate) if not one.verdict.judged]
    named = " and ".join(f"{one.cell.kernel} ({one.reason})" for one in unjudged)
    if all(one.verdict is CellVerdict.SKIPPED for one in unjudged):
        return f"skipped: {named}"
    return f"nothing was learnt from {named}"


def _trouble(result: CellResult) -> str:
    return result.reason or result.verdict.value
