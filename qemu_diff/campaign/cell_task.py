"""A cell as a pure function of its description: one value says all that its verdict depends on.

The value can be sent anywhere. Its paths name files by content: wherever these files are, the same
cell comes to the same verdict.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qemu_diff.campaign.cell import CellContext, run_cell
from qemu_diff.campaign.confirm import Confirmer, FindingSources, confirmed, included
from qemu_diff.campaign.fresh_boot import Bench
from qemu_diff.campaign.peer_cell import PeerContext, run_peer_cell
from qemu_diff.campaign.plan import pairs
from qemu_diff.campaign.prepare import Prepared, build_name
from qemu_diff.campaign.session_cell import SessionContext, run_session_cell
from qemu_diff.drive.from_outside import FromOutside
from qemu_diff.drive.in_guest import Tools
from qemu_diff.drive.job import Routine
from qemu_diff.drive.peer import PeerTools
from qemu_diff.drive.script import script_path
from qemu_diff.drive.session import Session
from qemu_diff.drive.stepper import InGuest
from qemu_diff.events import Stage, stage
from qemu_diff.guest.image import PAYLOADS, payload_source
from qemu_diff.guest.process import Cancelled
from qemu_diff.guest.qemu_bundle import QemuBundle
from qemu_diff.kernels import read_patches
from qemu_diff.kernels.pages import with_pages
from qemu_diff.kernels.patch import Patch
from qemu_diff.kernels.selftest import NoSelftest, Selftest
from qemu_diff.model import (
    FROM_OUTSIDE,
    Build,
    Campaign,
    Cell,
    CellResult,
    Driver,
    FloodSource,
    Payload,
)


@dataclass(frozen=True)
class CellTask:
    """One cell, with everything that it takes.

    :param budget_s: wall-clock seconds of one boot.
    :param findings: whether boots more may be spent on what is found.
    :param peer: PID 1 where L1 runs somebody else's program; None where it runs the step VMM.
    :param payload: what L2 runs; None where the kernel's own selftest says that.
    :param routine: the job, for that payload; likewise.
    :param session: what a user of gdb types, in place of the job.
    :param selftest: the kernel's own, or why there is none; None where nobody asks for it.
    :param bundle: L1's QEMU; None where there is none.
    :param sources: what findings are kept with; None where none are.
    """

    cell: Cell
    budget_s: float
    findings: bool
    build: Build
    tools: Tools
    peer: PeerTools | None = None
    payload: Payload | None = None
    routine: Routine | None = None
    session: Session | None = None
    selftest: Selftest | NoSelftest | None = None
    bundle: QemuBundle | None = None
    sources: FindingSources | None = None


def cell_tasks(
    campaign: Campaign, cells: Sequence[Cell], prepared: Prepared, guest_images: Path
) -> dict[str, CellTask]:
    """Cell id → task, of each cell that can be run.

    :param guest_images: the directory of our own sources for guests.
    """
    counterparts: dict[str, tuple[str, str]] = {}
    for baseline, candidate in pairs(campaign, cells):
        for one in (baseline, candidate):
            if baseline.kernel != candidate.kernel:
                counterparts.setdefault(one.id, (baseline.kernel, candidate.kernel))
    specs = campaign.kernels if campaign.findings else ()
    patches = {spec.name: read_patches(spec.patches) for spec in specs}

    def sources(cell: Cell) -> FindingSources:
        pair = counterparts.get(cell.id, ())
        own = patches[cell.kernel]
        return _finding_sources(campaign, cell, prepared, guest_images, pair=pair, patches=own)

    return {
        cell.id: _task(campaign, cell, prepared, sources)
        for cell in cells
        if prepared.unjudged(cell) is None
    }


def _task(
    campaign: Campaign,
    cell: Cell,
    prepared: Prepared,
    sources: Callable[[Cell], FindingSources],
) -> CellTask:
    task = CellTask(
        cell=cell,
        budget_s=campaign.budget_s,
        findings=campaign.findings,
        build=prepared.build_of(cell),
        tools=prepared.tools_of(cell),
    )
    if cell.driver is Driver.SELFTEST:
        selftest = prepared.kernels.selftests[cell.kernel]
        return replace(task, peer=prepared.peer_of(cell), selftest=selftest)
    task = replace(task, payload=prepared.payload_of(cell), routine=prepared.routine_of(cell))
    if cell.driver in FROM_OUTSIDE:
        session = prepared.sessions[cell.session] if cell.session else None
        bundle = prepared.bundles[cell.machine.nested_qemu]
        return replace(task, peer=prepared.peer_of(cell), bundle=bundle, session=session)
    if campaign.findings and confirmable(cell):
        return replace(task, sources=sources(cell))
    return task


def confirmable(cell: Cell) -> bool:
    """Whether what a cell shows can be asked of a fresh boot: what comes when the host says does
    not come again."""
    return FloodSource.DEVICE not in cell.flood.sources and cell.driver not in FROM_OUTSIDE


def _finding_sources(
    campaign: Campaign,
    cell: Cell,
    prepared: Prepared,
    guest_images: Path,
    *,
    pair: Sequence[str],
    patches: tuple[Patch, ...],
) -> FindingSources:
    beside = campaign.path.parent
    source = payload_source(cell.payload, guest_images, beside)
    builds, page_kib = prepared.kernels.builds, cell.machine.page_kib
    spec = next(one for one in campaign.kernels if one.name == cell.kernel)
    kept = {name: build_name(name, page_kib) for name in pair}
    return FindingSources(
        payload=source,
        includes=included(source, (source.parent, guest_images / PAYLOADS)),
        script=script_path(guest_images, cell.job, beside),
        spec=with_pages(spec, page_kib),
        patches=patches,
        pair=tuple((name, builds[one]) for name, one in kept.items() if one in builds),
    )


# --- running it ----------------------------------------------------------------------------------


def run_task(
    task: CellTask, directory: Path, findings: Path, cancel: threading.Event
) -> CellResult:
    """Run one cell, on this machine, to its verdict.

    :param directory: the cell's own, for everything that its boots leave; what is there goes.
    :param findings: gets a directory for each confirmed finding.
    :param cancel: set it to call the cell off.
    :returns: never raises for what a guest or its QEMU does: that is a verdict, or ``lost``.
    :raises Cancelled: it was called off; nothing of it is left.
    """
    started = time.monotonic()
    with stage("cell", task.cell.id) as running:
        if cancel.is_set():
            raise Cancelled
        shutil.rmtree(directory, ignore_errors=True)
        try:
            result = _judged(task, directory, cancel, running)
            if task.sources is not None and result.breakdown:
                running.progress("confirming what was found")
                result = confirmed(result, _confirmer(task, directory, findings, cancel))
        except Cancelled:
            # Half a boot proves nothing, and its files are large.
            shutil.rmtree(directory, ignore_errors=True)
            raise
    return replace(result, duration_s=round(time.monotonic() - started, 3))


def _judged(task: CellTask, directory: Path, cancel: threading.Event, running: Stage) -> CellResult:
    if task.selftest is not None:
        assert task.peer is not None
        peer = PeerContext(task.build, task.selftest, task.peer, directory, task.budget_s, cancel)
        return run_peer_cell(task.cell, peer)
    assert task.payload is not None, "only the kernel's own selftest has none"
    if task.session is not None:
        session = SessionContext(
            build=task.build,
            payload=task.payload,
            session=task.session,
            stepper=_debugger(task),
            directory=directory,
            budget_s=task.budget_s,
            cancel=cancel,
        )
        return run_session_cell(task.cell, session, running)
    assert task.routine is not None, "what is stepped has a job"
    context = CellContext(
        build=task.build,
        payload=task.payload,
        routine=task.routine,
        tools=task.tools,
        stepper=InGuest(task.tools) if task.bundle is None else _debugger(task),
        directory=directory,
        budget_s=task.budget_s,
        cancel=cancel,
        explain=task.findings,
    )
    return run_cell(task.cell, context, running)


def _debugger(task: CellTask) -> FromOutside:
    assert task.bundle is not None
    assert task.peer is not None
    return FromOutside(task.cell.driver, task.tools, task.bundle, task.peer.init)


def _confirmer(
    task: CellTask, directory: Path, findings: Path, cancel: threading.Event
) -> Confirmer:
    assert task.payload is not None
    assert task.routine is not None
    assert task.sources is not None
    bench = Bench(task.cell, task.build, task.payload, task.tools, task.budget_s, cancel)
    return Confirmer(bench, task.routine, directory, findings, task.sources)
