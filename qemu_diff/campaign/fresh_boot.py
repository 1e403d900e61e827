"""One boot of its own for one job, judged: what confirming and replaying are made of."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

from qemu_diff.abi import SharedState
from qemu_diff.campaign.cell import STARVED, TOLD_TO_GO, read_boot
from qemu_diff.compare.decode import program_of
from qemu_diff.compare.observation import Observation, observe
from qemu_diff.compare.signature import signature_of
from qemu_diff.drive.in_guest import RECORDS, TIMER_LOG, TRUTH, Tools, boot
from qemu_diff.drive.job import Job
from qemu_diff.drive.recorded_job import RecordedJob
from qemu_diff.errors import KilledGuestError, LostGuestError
from qemu_diff.guest.machine import Recording
from qemu_diff.guest.process import Ending, GuestExit, how_ended
from qemu_diff.model import Build, Cell, Finding, Payload, Signature
from qemu_diff.trace.listing import Listing
from qemu_diff.trace.trace import Trace

FRESH = "fresh"
"""What findings of a fresh boot call it."""


@dataclass(frozen=True)
class Bench:
    """What boots of one cell's job need, whatever the job.

    :param budget_s: wall-clock seconds of one boot.
    :param cancel: set it to call a boot off.
    """

    cell: Cell
    build: Build
    payload: Payload
    tools: Tools
    budget_s: float
    cancel: threading.Event


@dataclass(frozen=True)
class FreshBoot:
    """A boot that ran to its end, and what it showed.

    :param fingerprint: hex digest of all that it recorded: equal ones, the same run.
    """

    directory: Path
    trace: Trace
    observation: Observation
    fingerprint: str

    def finding(self, cell: Cell, payload: Payload, wanted: Signature) -> Finding | None:
        """The first finding with a signature, or None."""
        found = self.observation.findings
        # What served the exit only a boot with landmarks tells.
        return next(
            (one for one in found if signature_of(cell, payload, one, wanted.function) == wanted),
            None,
        )


def fresh_boot(
    bench: Bench, job: Job | RecordedJob, directory: Path, recording: Recording | None = None
) -> FreshBoot:
    """Boot, and judge.

    :param directory: gets the boot's files.
    :param recording: what QEMU is to record of it.
    :raises KilledGuestError: QEMU was killed, or had no CPU.
    :raises LostGuestError: it did not come to its end: hung, oopsed, ran out of its budget.
    :raises InfrastructureError: QEMU can't be started, or the files contradict themselves.
    :raises Cancelled: it was called off.
    """
    done = boot(
        bench.tools,
        bench.build,
        bench.payload,
        job,
        machine=bench.cell.machine,
        seed=bench.cell.seed,
        directory=directory,
        budget_s=bench.budget_s,
        cancel=bench.cancel,
        recording=recording,
    )
    ended, state = done.exit, done.header.state if done.header else SharedState.EMPTY
    if befallen := what_befell(ended, bench.budget_s):
        raise KilledGuestError(befallen)
    if ended.death or done.redirector or ended.ending is not Ending.EXITED:
        raise LostGuestError(ended.death or done.redirector or f"QEMU: {ended.ending}")
    if state is not SharedState.DONE:
        said = done.header.message if done.header else ended.last_line
        raise LostGuestError(f"the job did not come to its end: {said}")
    trace = read_boot(directory, bench.tools)
    program, listing = program_of(bench.payload), Listing(bench.payload)
    observation = observe(trace, program, listing, FRESH)
    return FreshBoot(directory, trace, observation, fingerprint_of(directory))


def what_befell(ended: GuestExit, budget_s: float) -> str:
    """What this machine did to a boot, or nothing.

    :param budget_s: wall-clock seconds that the boot had.
    """
    if ended.death:
        return ""
    if ended.ending is Ending.DIED:
        return f"QEMU died ({how_ended(ended.status)})"
    if TOLD_TO_GO in ended.last_line:
        return f"QEMU was told to end: {ended.last_line}"
    starved = ended.starved_s is not None and ended.starved_s >= budget_s * STARVED
    if ended.ending is Ending.OUT_OF_BUDGET and starved:
        return f"QEMU had no CPU for {ended.starved_s:.0f} of {budget_s:g} s"
    return ""


def fingerprint_of(directory: Path) -> str:
    """The fingerprint of what a boot left in its directory.

    :raises OSError: a file is not there.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in (RECORDS, TRUTH, TIMER_LOG):
        digest.update((directory / name).read_bytes())
    return digest.hexdigest()
