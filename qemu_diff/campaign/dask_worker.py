"""One cell, on a worker of a Dask cluster: what of qemu-diff runs there.

A worker is a plain ``dask worker`` on a machine with qemu-diff. It asks for the files that it has
not, by content; it runs the cell as any machine does; and it watches whether anybody still wants
the cell.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from distributed import Reschedule, Worker, get_worker
from distributed.core import Status

from qemu_diff.campaign.cell_task import CellTask, run_task
from qemu_diff.campaign.content import Content, ContentStore, with_files
from qemu_diff.campaign.identity import code_identity
from qemu_diff.campaign.parcel import CELL, FINDINGS, packed
from qemu_diff.compare.verdict import unjudged_cell
from qemu_diff.config.project import project_root
from qemu_diff.drive.in_guest import Tools
from qemu_diff.errors import InfrastructureError, QemuDiffError
from qemu_diff.events import Event, subscribe
from qemu_diff.guest.host_qemu import qemu_of
from qemu_diff.guest.process import Cancelled
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.kernels import cache_directory
from qemu_diff.model import CellResult, CellVerdict
from qemu_diff.truth.plugin import prepare_plugin

LOOK_S = 0.2
"""How often a worker looks whether a cell is still wanted, and whether a file has come."""

ASK_AGAIN_S = 15.0
"""A client that has lost its connection for a moment has lost what it was asked for, too."""

SUPPLIED_S = 600.0
"""Within this all files of a cell have come: others may be supplied before."""

TELL_S = 1.0
"""How often a cell's progress is told, at most."""

GONE = (Status.closing, Status.closed, Status.failed)

WANTED = ("executing", "long-running")
"""What the scheduler's wish for a task makes of it here (distributed.worker_state_machine)."""


@dataclass(frozen=True)
class Identity:
    """What must be the same on both machines for a verdict to be.

    :param code: digest of qemu-diff's own code.
    :param qemu: identity of its QEMU.
    :param version: that QEMU's version line, for people.
    """

    code: str
    qemu: str
    version: str


@dataclass(frozen=True)
class RemoteTask:
    """A cell on its way to a worker.

    :param run: tells clients apart; a topic of the scheduler's, too.
    :param contents: (a file's path where the task was made, what it holds).
    :param identity: the client's.
    """

    run: str
    task: CellTask
    contents: tuple[tuple[Path, Content], ...]
    identity: Identity


@dataclass(frozen=True)
class RemoteResult:
    """A cell on its way home.

    :param archive: what it left; see :mod:`qemu_diff.campaign.parcel`.
    :param worker: the worker's address.
    :param unfit: why the worker must not run cells of this client, or nothing.
    """

    result: CellResult
    archive: bytes
    worker: str
    unfit: str = ""


def own_identity() -> Identity:
    """This machine's.

    :raises UserError: it has no QEMU that can be used, or no guest images.
    """
    qemu = find_qemu()
    return Identity(_code(project_root() / "guest_images"), qemu.identity, qemu.version)


@cache
def _code(guest_images: Path) -> str:
    """Our own code, and of the guests' sources what is not sent along."""
    digest = hashlib.blake2b(code_identity().encode(), digest_size=16)
    for folder in ("async_first", "include", "selftest"):
        for path in sorted((guest_images / folder).iterdir()):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def difference(own: Identity, wanted: Identity) -> str:
    """Why a machine can't stand in for another, in words; or nothing."""
    if own.code != wanted.code:
        return "it runs another version of qemu-diff: install this one there, and start it again"
    if own.qemu != wanted.qemu:
        return f"its QEMU is another one: {own.version}; here it is {wanted.version}"
    return ""


# --- called by the client, in the worker's event loop --------------------------------------------

_running: Counter[str] = Counter()
"""Run → its cells here."""

_refused: dict[str, str] = {}
"""sha256 → why it could not be kept here."""


async def unfit(wanted: Identity) -> str:
    """Why this worker must not run cells of a client, or nothing."""
    return await asyncio.to_thread(_unfit, wanted)


def _unfit(wanted: Identity) -> str:
    try:
        return difference(own_identity(), wanted)
    except (QemuDiffError, OSError) as error:
        return str(error)


async def missing(contents: Sequence[Content]) -> tuple[Content, ...]:
    """Those of a cell's files that are not here."""
    return await asyncio.to_thread(_missing, contents)


async def take(content: Content, offset: int, compressed: bytes, run: str) -> None:
    """A piece of a file that this worker has asked for."""
    try:
        await asyncio.to_thread(_store().put, content, offset, compressed, run)
    except (OSError, InfrastructureError) as error:
        _refused[content.sha256] = str(error)
        raise


async def running(run: str) -> int:
    """Cells of a client that run here."""
    return _running[run]


@cache
def _store() -> ContentStore:
    store = ContentStore(cache_directory("content"))
    store.discard_unused()
    return store


def _missing(contents: Sequence[Content]) -> tuple[Content, ...]:
    store = _store()
    return tuple(one for one in contents if not store.has(one))


# --- a task of the cluster's ---------------------------------------------------------------------


def run_remote(remote: RemoteTask) -> RemoteResult:
    """Run a cell on this worker.

    :returns: never raises for what is wrong here: that is ``lost``, or the worker is unfit.
    :raises Reschedule: the worker goes away; whoever has its place runs the cell anew.
    """
    worker = get_worker()
    here = _Here(worker, remote)
    _running[remote.run] += 1
    try:
        with _while_wanted(worker) as cancel:
            return here.run(cancel)
    except Cancelled as cancelled:
        raise Reschedule from cancelled
    finally:
        _running[remote.run] -= 1


class _Here:
    """A cell, on this worker."""

    def __init__(self, worker: Worker, remote: RemoteTask) -> None:
        self._worker = worker
        self._remote = remote
        self._told = 0.0

    def run(self, cancel: threading.Event) -> RemoteResult:
        """:raises Cancelled: nobody wants it any more."""
        if reason := _unfit(self._remote.identity):
            return replace(self._lost(reason), unfit=reason)
        scratch = Path(tempfile.mkdtemp(prefix="cell-", dir=self._worker.local_directory))
        try:
            self._supplied(cancel)
            with subscribe(self._tell):
                result = run_task(self._task(), scratch / CELL, scratch / FINDINGS, cancel)
            return RemoteResult(result, packed(scratch), self._worker.address)
        except (QemuDiffError, OSError) as error:
            return self._lost(str(error))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _lost(self, reason: str) -> RemoteResult:
        address = self._worker.address
        cell = self._remote.task.cell
        lost = unjudged_cell(cell, CellVerdict.LOST, f"worker {address}: {reason}")
        return RemoteResult(lost, b"", address)

    def _supplied(self, cancel: threading.Event) -> None:
        """See that all files are here.

        :raises InfrastructureError: one does not come, or can't be kept.
        :raises Cancelled: nobody wants the cell any more.
        """
        wanted = tuple({content for _, content in self._remote.contents})
        deadline = time.monotonic() + SUPPLIED_S
        ask_at = 0.0
        while lacking := _missing(wanted):
            for content in lacking:
                if reason := _refused.pop(content.sha256, ""):
                    raise InfrastructureError(f"{content.name} can't be kept: {reason}")
            now = time.monotonic()
            if now > deadline:
                raise InfrastructureError(f"{lacking[0].name} did not come in {SUPPLIED_S:g} s")
            if now > ask_at:
                self._say(needs=[one.sha256 for one in lacking])
                ask_at = now + ASK_AGAIN_S
            if cancel.wait(LOOK_S):
                raise Cancelled

    def _task(self) -> CellTask:
        """The task, with this machine's files and tools.

        :raises QemuDiffError: a tool is missing, or the plugin does not fit.
        """
        places = {path: _store().path(content) for path, content in self._remote.contents}
        task = with_files(self._remote.task, places.__getitem__)
        theirs, wanted = self._remote.task.tools.plugin, task.tools.qemu
        qemu, guest_images = qemu_of(wanted.spec), project_root() / "guest_images"
        if qemu.identity != wanted.identity:
            raise InfrastructureError(f"QEMU is {qemu.version}, the client has {wanted.version}")
        kept = cache_directory("guest")
        plugin = prepare_plugin(qemu, guest_images, kept)
        if (plugin.api, plugin.rule) != (theirs.api, theirs.rule):
            ours = f"phantom rule {plugin.rule}, plugin API {plugin.api}"
            raise InfrastructureError(f"{ours}; the client has {theirs.rule}, {theirs.api}")
        tools = Tools(qemu, plugin, task.tools.stepvmm, guest_images, kept)
        peer = task.peer and replace(task.peer, qemu=qemu, guest_images=guest_images, cache=kept)
        return replace(task, tools=tools, peer=peer)

    def _tell(self, event: Event) -> None:
        """The client announces the end itself, once all is there."""
        if event.subject != self._remote.task.cell.id or event.state not in ("started", "progress"):
            return
        now = time.monotonic()
        if event.state == "progress" and now < self._told + TELL_S:
            return
        self._told = now
        self._say(state=event.state, text=event.text, fraction=event.fraction)

    def _say(self, **message: object) -> None:
        address, cell = self._worker.address, self._remote.task.cell.id
        self._worker.log_event(self._remote.run, {"worker": address, "cell": cell, **message})


@contextmanager
def _while_wanted(worker: Worker) -> Iterator[threading.Event]:
    """An event that is set when the scheduler takes the running task away, the client has gone, or
    the worker goes: Dask itself never stops a task that has begun."""
    key = worker.get_current_task()

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state in WANTED and worker.status not in GONE

    cancel, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=_watch, args=(wanted, cancel, over), daemon=True)
    thread.start()
    try:
        yield cancel
    finally:
        over.set()
        thread.join()


def _watch(wanted: Callable[[], bool], cancel: threading.Event, over: threading.Event) -> None:
    while not over.wait(LOOK_S):
        if not wanted():
            cancel.set()
            return
