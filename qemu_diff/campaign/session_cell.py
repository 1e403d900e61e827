"""A cell in which a user of gdb types commands: what each command's answer is worth."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qemu_diff.campaign.cell import ATTEMPTS, unjudged_reason
from qemu_diff.compare.decode import program_of
from qemu_diff.compare.session import SessionFinding, judge_session
from qemu_diff.compare.verdict import unjudged_cell
from qemu_diff.drive.from_outside import FromOutside
from qemu_diff.drive.in_guest import TRUTH, Boot
from qemu_diff.drive.job import Job
from qemu_diff.drive.session import Session
from qemu_diff.drive.session_run import Done
from qemu_diff.drive.stepper import Errand
from qemu_diff.errors import InfrastructureError
from qemu_diff.events import Stage
from qemu_diff.model import (
    Build,
    Cell,
    CellResult,
    CellVerdict,
    Finding,
    Instruction,
    Payload,
    ViolationKind,
)
from qemu_diff.trace.listing import Listing
from qemu_diff.truth.phantom import phantoms
from qemu_diff.truth.reader import read_truth

BOOT = "session"

COMMANDS_SHOWN = 3
"""The command whose answer is wrong, and those before it."""

EXECUTED_SHOWN = 8
"""Instructions of one command: it may run a loop."""


@dataclass(frozen=True)
class SessionContext:
    """What a session's cell needs besides its own description.

    :param directory: the cell's own.
    :param budget_s: wall-clock seconds of one boot.
    """

    build: Build
    payload: Payload
    session: Session
    stepper: FromOutside
    directory: Path
    budget_s: float
    cancel: threading.Event


def run_session_cell(cell: Cell, context: SessionContext, stage: Stage) -> CellResult:
    """Do a session, and judge what gdb's user was told.

    :returns: never raises for what a guest, its QEMU or gdb does: that is a verdict, or ``lost``.
    :raises Cancelled: the user called it off.
    """
    result = unjudged_cell(cell, CellVerdict.LOST, "")
    warnings: dict[str, None] = {}
    for attempt in range(1, ATTEMPTS + 1):
        try:
            result = _tried(cell, context, context.directory / f"{BOOT}-{attempt}", stage)
        except (InfrastructureError, OSError) as error:
            result = unjudged_cell(cell, CellVerdict.LOST, str(error))
        warnings.update(dict.fromkeys(result.warnings))
        result = replace(result, attempts=attempt, warnings=tuple(warnings))
        if result.verdict is not CellVerdict.LOST:
            break
    return result


def _tried(cell: Cell, context: SessionContext, directory: Path, stage: Stage) -> CellResult:
    errand = Errand(
        build=context.build,
        payload=context.payload,
        job=Job(()),
        machine=cell.machine,
        flood=cell.flood,
        seed=cell.seed,
        directory=directory,
        budget_s=context.budget_s,
        cancel=context.cancel,
        session=context.session,
    )
    stage.progress(f"{len(context.session.commands)} commands")
    done = context.stepper.boot(errand)
    unjudged = unjudged_reason(done, context.budget_s)
    result = unjudged_cell(cell, *unjudged) if unjudged else _judged(cell, context, done)
    return replace(result, warnings=done.exit.warnings)


def _judged(cell: Cell, context: SessionContext, boot: Boot) -> CellResult:
    truth = read_truth(boot.directory / TRUTH)
    phantom = phantoms(context.stepper.tools.plugin.rule, truth)
    program, writers = program_of(context.payload), context.session.writers
    found = judge_session(boot.commands, truth, phantom, program, context.payload, writers=writers)
    narrator = _Narrator(boot.commands, Listing(context.payload), boot.directory.name)
    violations = Counter(one.kind for one in found)
    return CellResult(
        cell=cell,
        verdict=CellVerdict.FAIL if found else CellVerdict.PASS,
        steps=sum(one.position is not None for one in boot.commands),
        violations=tuple((kind, violations[kind]) for kind in ViolationKind if violations[kind]),
        findings=tuple(narrator.finding(one) for one in found),
        reason="; ".join(one.message for one in found),
    )


class _Narrator:
    """Turns what is wrong with a command's answer into a finding."""

    def __init__(self, commands: Sequence[Done], listing: Listing, boot: str) -> None:
        self._commands = commands
        self._listing = listing
        self._boot = boot

    def finding(self, found: SessionFinding) -> Finding:
        done = self._commands[found.command]
        shown = done.position or done.start
        legal = self._named(found.legal)
        return Finding(
            kind=found.kind,
            boot=self._boot,
            report=found.command,
            pass_number=0,
            previous_pc=self._listing.instruction(done.start.pc),
            reported_pc=self._listing.instruction(shown.pc),
            legal_pcs=legal,
            executed=self._named(found.executed[:EXECUTED_SHOWN]),
            missed=legal if found.kind is ViolationKind.LOST_STEP else (),
            requested_ns=None,
            delivered_ns=None,
            attributed_to=done.command.first_line,
            message=found.message,
            transcript=self._transcript(found.command),
        )

    def _named(self, pcs: Sequence[int]) -> tuple[Instruction, ...]:
        return tuple(self._listing.instruction(pc) for pc in pcs)

    def _transcript(self, command: int) -> tuple[str, ...]:
        shown = self._commands[max(0, command - COMMANDS_SHOWN + 1) : command + 1]
        return tuple(
            line
            for one in shown
            for line in (f"(gdb) {one.command.text}\n{one.printed}".rstrip("\n").split("\n"))
        )
