"""A Dask cluster as an :class:`~qemu_diff.campaign.executor.Executor`: docs/workers.md.

A worker offers ``QEMU`` slots as a resource, a cell takes one. The scheduler decides where a cell
runs, and runs it elsewhere when its worker goes. Files go to the workers by content, one that a
worker has is not sent again; what a cell leaves comes back with its result.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distributed
from distributed import Client
from distributed.comm.addressing import get_address_host_port

from qemu_diff.campaign import dask_worker
from qemu_diff.campaign.cell_task import CellTask
from qemu_diff.campaign.content import Content, content_of, files_of, pieces
from qemu_diff.campaign.dask_worker import Identity, RemoteResult, RemoteTask, own_identity
from qemu_diff.campaign.parcel import unpack
from qemu_diff.campaign.prepare import Places
from qemu_diff.compare.verdict import unjudged_cell
from qemu_diff.errors import InfrastructureError, UserError
from qemu_diff.events import Event, emit
from qemu_diff.guest.process import Cancelled
from qemu_diff.model import CellResult, CellVerdict

SLOT = "QEMU"
"""The resource of a worker that a cell takes one of."""

CONNECT_S = 10
WORKERS_S = 20.0
"""How long the first worker may take to come."""

DESERTED_S = 120.0
"""So long after the last worker has gone, what is left is lost."""

CALLED_OFF_S = 15.0
"""How long workers may take to be rid of their QEMUs."""

LOOK_S = 2.0
"""How often the cluster is looked at."""


@contextmanager
def connected(address: str) -> Iterator[DaskExecutor]:
    """The cluster of a scheduler, while the context lasts.

    :param address: ``tcp://HOST:8786``, or the path of a scheduler file.
    :raises UserError: nobody answers there, or no worker can stand in for this machine.
    """
    # What becomes of a connection is said by us; distributed gives its loggers levels of their own.
    for name in ("distributed", "distributed.client", "distributed.core", "distributed.comm"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    client = _client(_address(address))
    try:
        with DaskExecutor(client, address) as executor:
            executor.check()
            yield executor
    finally:
        with suppress(OSError, TimeoutError):
            client.close(timeout=CONNECT_S)


def _client(address: str) -> Client:
    try:
        # An address that is none would be tried again and again.
        get_address_host_port(address)
        with warnings.catch_warnings():
            # Workers' own versions are looked at one by one.
            warnings.simplefilter("ignore")
            return Client(address, timeout=CONNECT_S, set_as_default=False, name="qemu-diff")
    except (OSError, ValueError) as error:
        # Of several lines the first says what, the others in which layer.
        raise UserError(
            f"--scheduler {address}: no Dask scheduler answers there ({str(error).splitlines()[0]})"
        ) from error


def _address(given: str) -> str:
    """The address in a scheduler file, or the address itself.

    :raises UserError: the file can't be read, or is none.
    """
    path = Path(given)
    if "://" in given or (":" in given and not path.exists()):
        return given
    try:
        return str(json.loads(path.read_text())["address"])
    except OSError as error:
        raise UserError(f"--scheduler {given}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"--scheduler {given}: no scheduler file") from error


@dataclass
class _Pending:
    """A cell that the cluster has.

    :param given: the cluster's future; another one where it is handed out again.
    :param allowed: addresses of the workers that it may run on; empty: any.
    :param begun_s: when it was told that it runs, by this machine's monotonic clock; None: not yet.
    """

    task: CellTask
    places: Places
    future: Future[CellResult]
    given: distributed.Future[RemoteResult] | None = None
    allowed: tuple[str, ...] = ()
    begun_s: float | None = None

    @property
    def wall_s(self) -> float:
        """Seconds since it began; 0 where it did not."""
        return 0.0 if self.begun_s is None else time.monotonic() - self.begun_s


class DaskExecutor:
    """A cluster's workers: an :class:`~qemu_diff.campaign.executor.Executor`."""

    def __init__(self, client: Client, address: str) -> None:
        """
        :param address: as the user gave it.
        """
        self._client = client
        self._address = address
        self._run = f"qemu-diff-{uuid.uuid4().hex}"
        self._identity: Identity | None = None
        self._unfit: dict[str, str] = {}
        self._pending: dict[str, _Pending] = {}
        self._contents: dict[Path, Content] = {}
        self._sources: dict[str, tuple[Path, Content]] = {}
        self._over = threading.Event()
        self._called_off = False
        self._deserted = ""
        self._lock = threading.RLock()
        self._asked: queue.Queue[dict[str, Any]] = queue.Queue()
        self._threads = [
            threading.Thread(target=one, daemon=True) for one in (self._supply, self._look_after)
        ]

    def __enter__(self) -> DaskExecutor:
        self._client.subscribe_topic(self._run, self._heard)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        self._over.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """See that there are workers, and that they can stand in for this machine.

        :raises UserError: there is none with a slot, or none that can.
        """
        self._identity = own_identity()
        deadline = time.monotonic() + WORKERS_S
        while not (workers := self._workers()):
            if time.monotonic() > deadline:
                raise UserError(
                    f"--scheduler {self._address}: no worker with {SLOT} slots came within "
                    f"{WORKERS_S:g} s; start some: dask worker {self._scheduler} "
                    f"--resources {SLOT}=2"
                )
            time.sleep(LOOK_S / 4)
        answers = self._client.run(
            dask_worker.unfit, self._identity, workers=list(workers), on_error="return"
        )
        unfit = {one: _why_not(answer) for one, answer in sorted(answers.items()) if answer}
        if len(unfit) == len(answers):
            worker, reason = next(iter(unfit.items()))
            raise UserError(f"--scheduler {self._address}: worker {worker}: {reason}")
        for worker, reason in unfit.items():
            self._set_unfit(worker, reason)

    # --- Executor ---

    def submit(self, task: CellTask, places: Places) -> Future[CellResult]:
        """See :class:`~qemu_diff.campaign.executor.Executor`."""
        pending = _Pending(task, places, Future())
        with self._lock:
            self._pending[task.cell.id] = pending
            self._hand_out(pending)
        return pending.future

    def cancel(self) -> None:
        """See :class:`~qemu_diff.campaign.executor.Executor`."""
        with self._lock:
            self._called_off = True
            left = list(self._pending.values())
        if not left:
            return
        with suppress(OSError, TimeoutError):
            self._client.cancel([one.given for one in left], asynchronous=False)
        wait([one.future for one in left], CALLED_OFF_S)
        deadline = time.monotonic() + CALLED_OFF_S
        while self._still_running() and time.monotonic() < deadline:
            time.sleep(dask_worker.LOOK_S)

    # --- cells ---

    def _hand_out(self, pending: _Pending) -> None:
        assert self._identity is not None, "check() comes first"
        pending.allowed = self._fit() if self._unfit else ()
        if self._unfit and not pending.allowed:
            worker, reason = next(iter(sorted(self._unfit.items())))
            self._settle_lost(pending, f"no worker is left that fits; {worker}: {reason}")
            return
        task = pending.task
        contents = tuple((path, self._content(path)) for path in files_of(task))
        remote = RemoteTask(self._run, task, contents, self._identity)
        given = self._client.submit(
            dask_worker.run_remote,
            remote,
            key=f"{task.cell.id}-{uuid.uuid4().hex}",
            resources={SLOT: 1},
            workers=list(pending.allowed) or None,
            pure=False,
        )
        pending.given = given
        given.add_done_callback(lambda done: self._done(pending, done))

    def _content(self, path: Path) -> Content:
        if path not in self._contents:
            content = content_of(path)
            self._contents[path] = content
            self._sources[content.sha256] = path, content
        return self._contents[path]

    def _done(self, pending: _Pending, given: distributed.Future[RemoteResult]) -> None:
        """A cell is back, or will never be; called in a thread of the client's."""
        with self._lock:
            # Handed out again meanwhile.
            if pending.given is not given:
                return
        try:
            if given.status == "finished":
                self._came_home(pending, given.result())
            elif given.status == "error":
                self._settle_lost(pending, _in_words(given.exception()))
            elif self._called_off:
                self._settle(pending, Cancelled())
            else:
                lost = f"the scheduler {self._address} went away"
                self._settle_lost(pending, self._deserted or lost)
        except BaseException as bug:
            self._settle(pending, bug)
        finally:
            given.release()

    def _came_home(self, pending: _Pending, remote: RemoteResult) -> None:
        if remote.unfit:
            with self._lock:
                self._set_unfit(remote.worker, remote.unfit)
                self._hand_out(pending)
            return
        try:
            if remote.archive:
                unpack(remote.archive, pending.task.cell.id, pending.places)
        except (OSError, InfrastructureError) as error:
            self._settle_lost(pending, f"what worker {remote.worker} sent: {error}")
            return
        self._settle(pending, remote.result)

    def _settle_lost(self, pending: _Pending, reason: str) -> None:
        self._settle(pending, unjudged_cell(pending.task.cell, CellVerdict.LOST, reason))

    def _settle(self, pending: _Pending, outcome: CellResult | BaseException) -> None:
        """The cell's end, once and for all."""
        cell = pending.task.cell
        with self._lock:
            if self._pending.pop(cell.id, None) is None:
                return
        failed = isinstance(outcome, BaseException)
        if pending.begun_s is not None or not failed:
            text = str(outcome) or type(outcome).__name__ if failed else ""
            state = "failed" if failed else "finished"
            emit(Event("cell", cell.id, state, text, wall_s=pending.wall_s))
        if isinstance(outcome, BaseException):
            pending.future.set_exception(outcome)
        else:
            pending.future.set_result(outcome)

    # --- workers ---

    @property
    def _scheduler(self) -> str:
        return str(self._client.scheduler_info().get("address", self._address))

    def _workers(self) -> tuple[str, ...]:
        """Addresses of those with slots."""
        # Of a scheduler that has gone the client knows nothing.
        workers = self._client.scheduler_info().get("workers", {})
        return tuple(one for one, its in workers.items() if its["resources"].get(SLOT, 0) >= 1)

    def _fit(self) -> tuple[str, ...]:
        return tuple(one for one in self._workers() if one not in self._unfit)

    def _set_unfit(self, worker: str, reason: str) -> None:
        if worker not in self._unfit:
            self._unfit[worker] = reason
            emit(Event("worker", worker, "skipped", reason))

    def _still_running(self) -> int:
        with suppress(OSError, TimeoutError, ValueError):
            if workers := self._workers():
                answers = self._client.run(
                    dask_worker.running, self._run, workers=list(workers), on_error="ignore"
                )
                return sum(answers.values())
        return 0

    def _look_after(self) -> None:
        """A cluster whose workers have all gone never says so."""
        last_seen = time.monotonic()
        while not self._over.wait(LOOK_S):
            try:
                workers = self._workers()
            except (OSError, TimeoutError):  # whoever waits for a cell hears of it
                continue
            if workers:
                last_seen = time.monotonic()
                self._hand_out_again(workers)
            elif time.monotonic() > last_seen + DESERTED_S:
                self._desert()

    def _hand_out_again(self, workers: Sequence[str]) -> None:
        """Cells all of whose workers have gone, while others have come."""
        with self._lock:
            for pending in [*self._pending.values()]:
                if pending.allowed and not {*pending.allowed} & {*workers}:
                    stale = pending.given
                    pending.given = None
                    self._client.cancel([stale], asynchronous=False)
                    self._hand_out(pending)

    def _desert(self) -> None:
        with self._lock:
            self._deserted = f"no worker with {SLOT} slots for {DESERTED_S:g} s"
            left = [one.given for one in self._pending.values()]
        with suppress(OSError, TimeoutError):
            self._client.cancel(left, asynchronous=False)

    # --- what workers say ---

    def _heard(self, event: tuple[float, dict[str, Any]]) -> None:
        """In the client's event loop: nothing here may wait."""
        message = event[1]
        if "needs" in message:
            self._asked.put(message)
            return
        pending = self._pending.get(message["cell"])
        if pending is None:
            return
        state, text = message["state"], message["text"]
        if state == "started" and pending.begun_s is not None:
            state, text = "progress", f"once more, on {message['worker']}"
        elif state == "started":
            pending.begun_s = time.monotonic()
        fraction = message["fraction"]
        emit(Event("cell", message["cell"], state, text, fraction, pending.wall_s))

    def _supply(self) -> None:
        """Send workers the files that they ask for, one worker after the other: several on one
        machine share them."""
        while not self._over.is_set():
            try:
                message = self._asked.get(timeout=dask_worker.LOOK_S)
            except queue.Empty:
                continue
            wanted = [self._sources[one] for one in message["needs"] if one in self._sources]
            # A worker that has gone asks for nothing any more; its cell is run elsewhere.
            with suppress(OSError, TimeoutError, ValueError):
                self._send(message["worker"], wanted)

    def _send(self, worker: str, wanted: Sequence[tuple[Path, Content]]) -> None:
        lacking = self._on(worker, dask_worker.missing, tuple(one for _, one in wanted))
        for path, content in wanted:
            if content not in lacking:
                continue
            for offset, piece in pieces(path):
                refused = self._on(worker, dask_worker.take, content, offset, piece, self._run)
                # The worker knows, and says why.
                if isinstance(refused, Exception):
                    break

    def _on(self, worker: str, function: Any, *arguments: object) -> Any:
        return self._client.run(function, *arguments, workers=[worker], on_error="return")[worker]


def _why_not(answer: str | Exception) -> str:
    """What :func:`dask_worker.unfit` said, or why it could not be asked."""
    if isinstance(answer, ModuleNotFoundError):
        return f"qemu-diff is not installed there ({answer})"
    return str(answer) or type(answer).__name__


def _in_words(error: BaseException | None) -> str:
    """
    :raises BaseException: it is a bug of ours.
    """
    if isinstance(error, distributed.KilledWorker):
        times = error.allowed_failures + 1
        return f"its worker died, {times} times, on as many workers"
    if isinstance(error, OSError | TimeoutError):
        return f"the cluster: {error}"
    assert error is not None, "a task that has failed says why"
    raise error
