"""A cell that the kernel's own selftest judges, as a peer of our step contract."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path

from qemu_diff.campaign.cell import ATTEMPTS
from qemu_diff.compare.verdict import unjudged_cell
from qemu_diff.drive.peer import PeerRun, PeerTools, PeerVerdict, mean_wake_ns, run_peer
from qemu_diff.errors import InfrastructureError
from qemu_diff.kernels.selftest import NoSelftest, Selftest
from qemu_diff.model import Build, Cell, CellResult, CellVerdict

VERDICTS = {
    PeerVerdict.PASS: CellVerdict.PASS,
    PeerVerdict.FAIL: CellVerdict.FAIL,
    PeerVerdict.SKIP: CellVerdict.SKIPPED,
    PeerVerdict.KERNEL_OOPS: CellVerdict.KERNEL_OOPS,
    PeerVerdict.LOST: CellVerdict.LOST,
}


@dataclass(frozen=True)
class PeerContext:
    """What a peer's cell needs besides its own description.

    :param selftest: or why the kernel's source has none.
    :param directory: the cell's own.
    :param budget_s: wall-clock seconds of one boot.
    """

    build: Build
    selftest: Selftest | NoSelftest
    tools: PeerTools
    directory: Path
    budget_s: float
    cancel: threading.Event


def run_peer_cell(cell: Cell, context: PeerContext) -> CellResult:
    """Let the kernel's own selftest judge the kernel; ``flood.count`` is its iterations.

    :returns: never raises for what a guest or its QEMU does: that is a verdict, or ``lost``.
    :raises Cancelled: the user called it off.
    """
    if isinstance(context.selftest, NoSelftest):
        return unjudged_cell(cell, CellVerdict.SKIPPED, context.selftest.reason)
    lost = ""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            done = _run(cell, context, context.selftest, context.directory / f"try-{attempt}")
        except (InfrastructureError, OSError) as error:
            lost = str(error)
            continue
        if done.verdict is not PeerVerdict.LOST:
            return replace(
                unjudged_cell(cell, VERDICTS[done.verdict], _words(done)), attempts=attempt
            )
        lost = done.reason
    return replace(unjudged_cell(cell, CellVerdict.LOST, lost), attempts=ATTEMPTS)


def _run(cell: Cell, context: PeerContext, selftest: Selftest, directory: Path) -> PeerRun:
    return run_peer(
        context.tools,
        context.build,
        selftest,
        iterations=cell.flood.count,
        machine=cell.machine,
        seed=cell.seed,
        directory=directory,
        budget_s=context.budget_s,
        cancel=context.cancel,
        wake_ns=mean_wake_ns(cell.flood),
    )


def _words(done: PeerRun) -> str:
    took = (
        "" if done.virtual_ns is None else f" after {done.virtual_ns / 1e6:,.0f} ms of virtual time"
    )
    if done.verdict is PeerVerdict.PASS:
        return f"{done.iterations:,} iterations were right{took}"
    return f"{done.reason}{took}"
