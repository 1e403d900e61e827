"""One boot judged: steps, their interrupts, and what a reader needs of each kind of violation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

import numpy as np

from qemu_diff.abi import RecordFlag, RecordKind, StepRecords
from qemu_diff.compare.contract import Judged, Steps, join_steps, judge
from qemu_diff.compare.coverage import resolution_of
from qemu_diff.compare.decode import Program
from qemu_diff.compare.interrupts import (
    NOTHING_DELIVERED,
    Delivered,
    delivered,
    join_delivered,
)
from qemu_diff.compare.placements import NOT_DELIVERED, Placements, place
from qemu_diff.compare.slices import (
    UNKNOWN_PC,
    Executions,
    executed_in,
    executions,
    group_slices,
    modes_before_runs,
    pass_of_run,
    slice_truth,
)
from qemu_diff.compare.state import (
    NO_READS,
    StateReads,
    join_reads,
    state_reads,
)
from qemu_diff.compare.state_finding import state_finding
from qemu_diff.model import Finding, Instruction, ViolationKind
from qemu_diff.trace.listing import Listing
from qemu_diff.trace.trace import Trace


@dataclass(frozen=True)
class Observation:
    """What one boot, or several of one cell, showed.

    :param findings: the first of each (kind, instruction, register, attribution).
    :param state: reads of registers whose own value is known.
    :param resolution_ns: see :func:`~qemu_diff.compare.coverage.resolution_of`.
    :param delivered: what was sent, and what came of it.
    """

    steps: Steps
    placements: Placements
    findings: tuple[Finding, ...]
    state: StateReads = field(default_factory=lambda: NO_READS)
    resolution_ns: int = 0
    delivered: Delivered = NOTHING_DELIVERED


def observe(
    trace: Trace, program: Program, listing: Listing, boot: str, burst: int = 1
) -> Observation:
    """Judge one boot.

    :param boot: the boot's name, for its findings.
    :param burst: interrupts of each placement.
    :raises CorruptDataError: reports and truth don't belong together.
    """
    steps = judge(trace.records, trace.truth, trace.phantom, program)
    placements = place(trace.records, trace.deliveries, steps, burst)
    state = state_reads(trace.records, trace.truth, trace.phantom, program)
    narrator = _Narrator(trace, program, listing, boot)
    findings = [narrator.finding(steps, placements, one) for one in _first(steps, placements)]
    whose = _attributions(state, steps, placements)
    findings += [
        state_finding(state, index, trace, listing, boot=boot, attributed_to=whose[index])
        for index in _first_reads(state, whose)
    ]
    return Observation(
        steps,
        placements,
        _in_order(findings),
        state,
        resolution_of(trace.deliveries),
        delivered(trace.records, narrator.executions, listing.payload, program),
    )


def merge(observations: list[Observation]) -> Observation:
    """Several boots of one cell as one; indexes of runs are those of each boot."""
    steps = join_steps([one.steps for one in observations])
    placements = Placements(
        **{
            field.name: np.concatenate(
                [getattr(one.placements, field.name) for one in observations]
            )
            for field in fields(Placements)
        }
    )
    findings: dict[tuple[object, ...], Finding] = {}
    for one in observations:
        for finding in one.findings:
            findings.setdefault(_key(finding), finding)
    return Observation(
        steps,
        placements,
        _in_order(list(findings.values())),
        join_reads([one.state for one in observations]),
        math.gcd(*(one.resolution_ns for one in observations)),
        join_delivered(one.delivered for one in observations),
    )


NO_INTERRUPT = "no-interrupt"


def attribution(ticks: int, delivered_ns: int, redirects: int = 0) -> str:
    """Whose interrupt a violation goes with; several mean L1's own, for that one was not placed."""
    if redirects and delivered_ns == NOT_DELIVERED:
        return "redirect"
    if ticks:
        return "l1-tick"
    return NO_INTERRUPT if delivered_ns == NOT_DELIVERED else "placement"


def _key(finding: Finding) -> tuple[object, ...]:
    return finding.kind, finding.instruction.address, finding.register, finding.attributed_to


def _in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    """What an interrupt goes with comes first: it shows how the step was broken."""
    return tuple(sorted(findings, key=lambda one: one.attributed_to == NO_INTERRUPT))


def _attribution_of(steps: Steps, placements: Placements, index: int) -> str:
    return attribution(
        int(placements.ticks[index]),
        int(placements.delivered_ns[index]),
        int(steps.redirects[index]),
    )


def _first(steps: Steps, placements: Placements) -> list[int]:
    """Indexes of the first violation of each (kind, instruction, attribution), in order."""
    seen: dict[tuple[int, int, str], int] = {}
    for index in np.flatnonzero(steps.outcome != Judged.OK).tolist():
        pc = int(steps.instruction[index])
        whose = _attribution_of(steps, placements, index)
        seen.setdefault((int(steps.outcome[index]), pc, whose), index)
    return list(seen.values())


def _first_reads(state: StateReads, whose: dict[int, str]) -> list[int]:
    """Indexes of the first wrong read of each (PC, register, attribution), in order."""
    seen: dict[tuple[int, int, str], int] = {}
    for index, one in whose.items():
        seen.setdefault((int(state.pc[index]), int(state.register[index]), one), index)
    return list(seen.values())


def _attributions(state: StateReads, steps: Steps, placements: Placements) -> dict[int, str]:
    """Index of each wrong read → whose interrupt its step goes with."""
    wrong = np.flatnonzero(state.broken)
    step = np.searchsorted(steps.run, state.run[wrong])
    begins = np.append(steps.first_run, np.iinfo(np.int64).max)[step]
    inside = begins <= state.run[wrong]
    return {
        index: _attribution_of(steps, placements, number) if within else NO_INTERRUPT
        for index, number, within in zip(
            wrong.tolist(), step.tolist(), inside.tolist(), strict=True
        )
    }


class _Narrator:
    """Turns a step's number into a finding that can be read on its own."""

    def __init__(self, trace: Trace, program: Program, listing: Listing, boot: str) -> None:
        self._runs: StepRecords = trace.records[trace.records["kind"] == RecordKind.RUN]
        self._pass_of_run = pass_of_run(trace.records)
        groups = group_slices(trace.records)
        slices = slice_truth(trace.records, trace.truth, groups)
        self.executions: Executions = executions(trace.truth, trace.phantom, slices, program)
        self._group_of_run = groups.of_run
        self._modes = modes_before_runs(trace.records)
        self._program = program
        self._listing = listing
        self._boot = boot

    def finding(self, steps: Steps, placements: Placements, index: int) -> Finding:
        run = int(steps.run[index])
        kind = Judged(int(steps.outcome[index])).violation
        executed = executed_in(self.executions, int(self._group_of_run[run]))
        requested = int(placements.requested_ns[index])
        delivered = int(placements.delivered_ns[index])
        previous = int(steps.previous_pc[index])
        reported = self._listing.instruction(int(steps.reported_pc[index]))
        named = tuple(self._listing.instruction(pc) for pc in executed)
        legal = self._legal(int(steps.instruction[index]), self._executed_in_run(run))
        return Finding(
            kind=kind,
            boot=self._boot,
            report=run,
            pass_number=int(self._pass_of_run[run]),
            previous_pc=None if previous == UNKNOWN_PC else self._listing.instruction(previous),
            reported_pc=reported,
            legal_pcs=legal,
            executed=named,
            missed=named[1:] if kind is ViolationKind.LOST_STEP else (),
            requested_ns=None if requested == NOT_DELIVERED else requested,
            delivered_ns=None if delivered == NOT_DELIVERED else delivered,
            attributed_to=_attribution_of(steps, placements, index),
            message=message(kind, named, reported, legal),
        )

    def _executed_in_run(self, run: int) -> int:
        """The KVM_RUN in which the step that ``run`` reports executed its first instruction."""
        index = int(np.searchsorted(self.executions.group, self._group_of_run[run]))
        inside = self.executions.group[index : index + 1].tolist() == [self._group_of_run[run]]
        return int(self.executions.run[index]) if inside else run

    def _legal(self, instruction: int, run: int) -> tuple[Instruction, ...]:
        recorded = int(self._runs["flags"][run]) & RecordFlag.BRANCH_REGISTER
        register = int(self._runs["branch_register"][run]) if recorded else None
        successors = self._program.successors(instruction, register, int(self._modes[run]))
        return tuple(self._listing.instruction(one) for one in successors)


def message(
    kind: ViolationKind,
    executed: tuple[Instruction, ...],
    reported: Instruction,
    legal: tuple[Instruction, ...],
) -> str:
    """A violation in one sentence."""
    ran = ", ".join(f"{one.label} ({one.text})" for one in executed)
    due = " or ".join(f"{one.address:#x} {one.label}" for one in legal) or "no known PC"
    at = f"{reported.address:#x} {reported.label}"
    if kind is ViolationKind.LOST_STEP:
        return (
            f"{len(executed)} instructions ran for one reported step: {ran}; "
            f"reported {at}, due was {due}"
        )
    if kind is ViolationKind.SPURIOUS_STEP:
        return f"a step was reported at {at}, but no instruction had run"
    return f"after {ran or 'no instruction'} the report says {at}, due was {due}"
