"""One boot judged: steps, their interrupts, and what a reader needs of each kind of violation."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from qemu_diff.abi import RecordFlag, RecordKind, StepRecords
from qemu_diff.compare.contract import Judged, Steps, judge
from qemu_diff.compare.decode import Program
from qemu_diff.compare.placements import NOT_DELIVERED, Placements, place
from qemu_diff.compare.slices import (
    UNKNOWN_PC,
    Executions,
    executed_in,
    executions,
    group_slices,
    pass_of_run,
    slice_truth,
)
from qemu_diff.model import Finding, Instruction, ViolationKind
from qemu_diff.trace.listing import Listing
from qemu_diff.trace.trace import Trace


@dataclass(frozen=True)
class Observation:
    """What one boot, or several of one cell, showed.

    :param findings: the first of each (kind, instruction, attribution).
    """

    steps: Steps
    placements: Placements
    findings: tuple[Finding, ...]


def observe(trace: Trace, program: Program, listing: Listing, boot: str) -> Observation:
    """Judge one boot.

    :param boot: the boot's name, for its findings.
    :raises CorruptDataError: reports and truth don't belong together.
    """
    steps = judge(trace.records, trace.truth, trace.phantom, program)
    placements = place(trace.records, trace.deliveries, steps)
    narrator = _Narrator(trace, program, listing, boot)
    first = _first(steps, placements)
    findings = tuple(narrator.finding(steps, placements, index) for index in first)
    return Observation(steps, placements, findings)


def merge(observations: list[Observation]) -> Observation:
    """Several boots of one cell as one; indexes of runs are those of each boot."""
    steps = Steps(
        **{
            field.name: np.concatenate([getattr(one.steps, field.name) for one in observations])
            for field in fields(Steps)
        }
    )
    placements = Placements(
        **{
            field.name: np.concatenate(
                [getattr(one.placements, field.name) for one in observations]
            )
            for field in fields(Placements)
        }
    )
    findings: dict[tuple[ViolationKind, int, str], Finding] = {}
    for one in observations:
        for finding in one.findings:
            findings.setdefault(_key(finding), finding)
    return Observation(steps, placements, tuple(findings.values()))


def attribution(ticks: int, delivered_ns: int) -> str:
    """Whose interrupt a violation goes with; several mean L1's own, for that one was not placed."""
    if ticks:
        return "l1-tick"
    return "no-interrupt" if delivered_ns == NOT_DELIVERED else "placement"


def _key(finding: Finding) -> tuple[ViolationKind, int, str]:
    return finding.kind, finding.instruction.address, finding.attributed_to


def _first(steps: Steps, placements: Placements) -> list[int]:
    """Indexes of the first violation of each (kind, instruction, attribution), in order."""
    seen: dict[tuple[int, int, str], int] = {}
    for index in np.flatnonzero(steps.outcome != Judged.OK).tolist():
        pc = int(steps.instruction[index])
        whose = attribution(int(placements.ticks[index]), int(placements.delivered_ns[index]))
        seen.setdefault((int(steps.outcome[index]), pc, whose), index)
    return list(seen.values())


class _Narrator:
    """Turns a step's number into a finding that can be read on its own."""

    def __init__(self, trace: Trace, program: Program, listing: Listing, boot: str) -> None:
        self._runs: StepRecords = trace.records[trace.records["kind"] == RecordKind.RUN]
        self._pass_of_run = pass_of_run(trace.records)
        groups = group_slices(trace.records)
        slices = slice_truth(trace.records, trace.truth, groups)
        self._executions: Executions = executions(trace.truth, trace.phantom, slices, program)
        self._group_of_run = groups.of_run
        self._program = program
        self._listing = listing
        self._boot = boot

    def finding(self, steps: Steps, placements: Placements, index: int) -> Finding:
        run = int(steps.run[index])
        kind = Judged(int(steps.outcome[index])).violation
        executed = executed_in(self._executions, int(self._group_of_run[run]))
        requested = int(placements.requested_ns[index])
        delivered = int(placements.delivered_ns[index])
        previous = int(steps.previous_pc[index])
        reported = self._listing.instruction(int(steps.reported_pc[index]))
        named = tuple(self._listing.instruction(pc) for pc in executed)
        legal = self._legal(int(steps.instruction[index]), run)
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
            attributed_to=attribution(int(placements.ticks[index]), delivered),
            message=message(kind, named, reported, legal),
        )

    def _legal(self, instruction: int, run: int) -> tuple[Instruction, ...]:
        recorded = int(self._runs["flags"][run]) & RecordFlag.BRANCH_REGISTER
        register = int(self._runs["branch_register"][run]) if recorded else None
        successors = self._program.successors(instruction, register)
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
