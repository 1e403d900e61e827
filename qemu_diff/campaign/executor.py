"""Where cells are run: on this machine, as many at once as it has room for, or elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

from qemu_diff.campaign.capacity import available_mib, usable_cpus
from qemu_diff.campaign.cell_task import CellTask, run_task
from qemu_diff.campaign.prepare import Places
from qemu_diff.errors import UserError
from qemu_diff.guest.process import Cancelled
from qemu_diff.model import CellResult, MachineSpec

QEMU_MIB = 256
"""What a boot takes besides L1's memory, in MiB: QEMU's own, its translated code above all, and
what judging it takes in this process. A boot with an L1 of 256 MiB was seen to have 80 to 115 MiB
of resident memory, with a QEMU in L1 283 (QEMU 7.2; L1 does not touch all that it has)."""

LOOK_S = 0.5
"""How often a cell that waits for memory looks whether it was called off."""


class Executor(Protocol):
    """Runs cells, each of them once, in whatever order.

    The futures it gives are done when all that a cell leaves is where it belongs.
    """

    def submit(self, task: CellTask, places: Places) -> Future[CellResult]:
        """Have a cell run; what it leaves goes to ``places``.

        The future raises :class:`~qemu_diff.guest.process.Cancelled` where it was called off.
        """

    def cancel(self) -> None:
        """Call off what is not done; returns when nothing runs any more."""


class Local:
    """This machine: an :class:`Executor`."""

    def __init__(self, cpus: int, memory_mib: int | None) -> None:
        """
        :param cpus: boots side by side, at most.
        :param memory_mib: for all of them together, their L1s' included; None: no limit.
        """
        self._pool = ThreadPoolExecutor(max_workers=cpus)
        self._memory = _MemoryBudget(memory_mib)
        self._cancel = threading.Event()
        self._futures: list[Future[CellResult]] = []

    def submit(self, task: CellTask, places: Places) -> Future[CellResult]:
        """See :class:`Executor`."""
        future = self._pool.submit(self._run, task, places)
        self._futures.append(future)
        return future

    def cancel(self) -> None:
        """See :class:`Executor`."""
        self._cancel.set()
        for future in self._futures:
            future.cancel()
        # Its threads end as soon as they see it.
        self._pool.shutdown(wait=True)

    def _run(self, task: CellTask, places: Places) -> CellResult:
        with self._memory.taken(needed_mib(task.cell.machine), self._cancel):
            return run_task(task, places.cells / task.cell.id, places.findings, self._cancel)


@contextmanager
def executor(scheduler: str | None, jobs: int | None) -> Iterator[Executor]:
    """Where a campaign's cells are to be run.

    :param scheduler: of a Dask cluster: its address, or a file that has it; None: this machine, by
        its CPUs and its memory, as far as this process may use them.
    :param jobs: so many boots side by side on this machine, whatever there is.
    :raises UserError: there is no such cluster, it has no worker that can stand in for this
        machine, or there is nothing to reach it with.
    """
    if scheduler is None:
        yield local(jobs)
        return
    if jobs is not None:
        raise UserError("--jobs is for this machine; with --scheduler the workers' slots count")
    try:
        from qemu_diff.campaign.dask_executor import connected  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UserError(
            f"--scheduler needs {error.name}; install it with: pip install 'qemu-diff[dask]'"
        ) from error
    with connected(scheduler) as cluster:
        yield cluster


def local(jobs: int | None) -> Local:
    """This machine; see :func:`executor`."""
    if jobs is not None:
        return Local(jobs, memory_mib=None)
    return Local(usable_cpus(), available_mib())


def needed_mib(machine: MachineSpec) -> int:
    """Memory that a boot takes on this machine, in MiB."""
    return machine.memory_mib + QEMU_MIB


class _MemoryBudget:
    """Memory that boots share. One that is larger than all of it runs alone."""

    def __init__(self, mib: int | None) -> None:
        self._mib = mib
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, mib: int, cancel: threading.Event) -> Iterator[None]:
        """Have so much while the context lasts; waits for it.

        :raises Cancelled: ``cancel`` was set while it waited.
        """
        with self._changed:
            while self._mib is not None and self._taken and self._taken + mib > self._mib:
                self._changed.wait(LOOK_S)
                if cancel.is_set():
                    raise Cancelled
            self._taken += mib
        try:
            yield
        finally:
            with self._changed:
                self._taken -= mib
                self._changed.notify_all()
