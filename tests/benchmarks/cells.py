"""Cells of campaigns, run here one by one or side by side, and when what came of them was there."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from benchmarks.pages import ROOT

from qemu_diff.abi import RecordKind, SharedState
from qemu_diff.campaign.cell_task import CellTask, cell_tasks, run_task
from qemu_diff.campaign.executor import local
from qemu_diff.campaign.plan import plan
from qemu_diff.campaign.prepare import Places, Prepared, prepare
from qemu_diff.campaign.runner import run_campaign
from qemu_diff.drive.in_guest import RECORDS, TRUTH
from qemu_diff.errors import CorruptDataError
from qemu_diff.events import Event, subscribe
from qemu_diff.guest.shared import read_header
from qemu_diff.kernels.cache import cache_directory
from qemu_diff.model import Campaign, CampaignResult, Cell, CellResult
from qemu_diff.scratch import scratch_directory
from qemu_diff.trace.records import read_records

GUEST_IMAGES = ROOT / "guest_images"

POLL_S = 0.002
"""How often a boot's files are looked at: no moment below is sharper."""


@dataclass(frozen=True)
class Life:
    """One QEMU's, from its start to its end; of :func:`time.monotonic`."""

    directory: Path
    began: float
    ended: float


@dataclass(frozen=True)
class Sample:
    """What a boot's files said at one moment.

    :param plugin: QEMU has come as far as the truth plugin.
    :param records: of the step VMM.
    :param reports: returns from KVM_RUN.
    """

    at: float
    plugin: bool
    state: SharedState
    records: int
    reports: int


@dataclass(frozen=True)
class Done:
    """A cell that was run.

    :param samples: by boot, one for each change.
    :param ended: when its result was there.
    """

    result: CellResult
    directory: Path
    lives: tuple[Life, ...]
    samples: Mapping[str, Sequence[Sample]]
    ended: float

    @property
    def power_on(self) -> float:
        """When its first QEMU was started."""
        return self.lives[0].began

    @property
    def verdict_s(self) -> float:
        """From power-on to the cell's result."""
        return self.ended - self.power_on

    @property
    def detected_s(self) -> float | None:
        """From power-on to when the first record that convicts was in the shared region; None
        where the cell found nothing."""
        for boot, samples in self.samples.items():
            reports = [one.report for one in self.result.findings if one.boot == boot]
            if reports:
                kinds = read_records(self.directory / boot / RECORDS)["kind"]
                row = int(np.flatnonzero(kinds == RecordKind.RUN)[min(reports)])
                there = next(one.at for one in samples if one.records > row)
                return there - self.power_on
        return None


@dataclass(frozen=True)
class Ready:
    """Cells that can be run; what they leave is gone with the context that made this."""

    campaign: Campaign
    cells: tuple[Cell, ...]
    places: Places
    prepared: Prepared
    tasks: Mapping[str, CellTask] = field(default_factory=dict)

    def run(self, cell: Cell, seed: int | None = None) -> Done:
        """Run one cell.

        :param seed: instead of its own.
        """
        task = self.tasks[cell.id]
        if seed is not None:
            task = replace(task, cell=replace(cell, seed=seed))
        directory = self.places.cells / cell.id
        shutil.rmtree(directory, ignore_errors=True)
        with lives() as boots, _Sampled(directory) as sampled:
            result = run_task(task, directory, self.places.findings, threading.Event())
            ended = time.monotonic()
        return Done(result, directory, tuple(boots), sampled.seen, ended)

    def run_all(self, jobs: int) -> tuple[CampaignResult, tuple[Life, ...], float]:
        """Run all cells; the result, the lives of all boots, and the seconds that it took."""
        began = time.monotonic()
        with lives() as boots:
            result = run_campaign(
                self.campaign,
                self.cells,
                self.places,
                self.prepared,
                executor=local(jobs),
                publish=lambda _: None,
            )
        return result, tuple(boots), time.monotonic() - began


@contextmanager
def ready(
    campaign: Campaign, globs: Sequence[str] = ("*",), *, made: Callable[[Cell], bool] | None = None
) -> Iterator[Ready]:
    """Make ready what a campaign's cells need.

    :param globs: over cell ids.
    :param made: which of these cells.
    """
    cells = tuple(
        cell
        for cell in plan(campaign)
        if any(fnmatchcase(cell.id, glob) for glob in globs) and (made is None or made(cell))
    )
    with scratch_directory() as scratch:
        places = Places(GUEST_IMAGES, cache_directory("guest"), scratch / "cells")
        prepared = prepare(campaign, cells, places)
        tasks = cell_tasks(campaign, cells, prepared, GUEST_IMAGES)
        yield Ready(campaign, cells, places, prepared, tasks)


@contextmanager
def lives() -> Iterator[list[Life]]:
    """The life of each QEMU that ends while the context lasts."""
    ended: list[Life] = []

    def note(event: Event) -> None:
        if (event.stage, event.state) == ("boot", "exited"):
            now = time.monotonic()
            ended.append(Life(Path(event.subject), now - event.wall_s, now))

    with subscribe(note):
        yield ended


class _Sampled(ExitStack):
    """Looks at the files of a cell's boots while the context lasts."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="sampled", daemon=True)
        self.seen: dict[str, list[Sample]] = {}
        self._thread.start()
        self.callback(self._thread.join)
        self.callback(self._over.set)

    def _look(self) -> None:
        while not self._over.wait(POLL_S):
            for path in self._directory.glob(f"*/{RECORDS}"):
                with suppress(OSError, CorruptDataError, ValueError):
                    self._note(path)

    def _note(self, records: Path) -> None:
        with records.with_name(TRUTH).open("rb") as truth:
            plugin = any(truth.read(8))
        header = read_header(records)
        now = Sample(time.monotonic(), plugin, header.state, header.count, header.heartbeat)
        samples = self.seen.setdefault(records.parent.name, [])
        if not samples or replace(samples[-1], at=now.at) != now:
            samples.append(now)
