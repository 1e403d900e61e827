"""Whoever asks L1's KVM for the steps of a job: chosen by ``driver`` in the campaign."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qemu_diff.drive.in_guest import Boot, Tools, boot
from qemu_diff.drive.job import Job
from qemu_diff.drive.session import Session
from qemu_diff.model import Build, FloodSource, FloodSpec, MachineSpec, Payload


@dataclass(frozen=True)
class Errand:
    """One boot: a kernel, what L2 runs, and how it is stepped.

    :param job: the step VMM's floods are part of it.
    :param flood: what else interrupts.
    :param directory: gets everything that the boot leaves.
    :param budget_s: wall-clock seconds for the boot.
    :param cancel: set it to call the boot off.
    :param progress: called a few times a second with the reports so far.
    :param landmarks: addresses of L1's that the truth tells of as well; only the step VMM's counter
        tells when.
    :param session: what a user of gdb types, in place of the job; of driver gdb alone.
    """

    build: Build
    payload: Payload
    job: Job
    machine: MachineSpec
    flood: FloodSpec
    seed: int
    directory: Path
    budget_s: float
    cancel: threading.Event
    progress: Callable[[int], None] = lambda _: None
    landmarks: tuple[int, ...] = ()
    session: Session | None = None


class Stepper(Protocol):
    """Boots L1, has L2 stepped there, and brings back a record of what was reported."""

    def boot(self, errand: Errand) -> Boot:
        """
        :raises InfrastructureError: no room on the disk, or QEMU can't be started.
        :raises Cancelled: ``errand.cancel`` was set.
        """


@dataclass(frozen=True)
class InGuest:
    """Our step VMM, in L1."""

    tools: Tools

    def boot(self, errand: Errand) -> Boot:
        """See :class:`Stepper`."""
        return boot(
            self.tools,
            errand.build,
            errand.payload,
            errand.job,
            machine=errand.machine,
            seed=errand.seed,
            directory=errand.directory,
            budget_s=errand.budget_s,
            cancel=errand.cancel,
            device=FloodSource.DEVICE in errand.flood.sources,
            progress=errand.progress,
            landmarks=errand.landmarks,
        )
