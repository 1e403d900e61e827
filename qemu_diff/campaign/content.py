"""Files by content: what a cell needs of one machine, found again on another.

A worker keeps what it was sent in its own cache, and is not sent it again:
``$QEMU_DIFF_CACHE/content/<sha256>/<name>``. A file appears there by one rename, when it is whole.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from qemu_diff.campaign.cell_task import CellTask
from qemu_diff.campaign.confirm import FindingSources
from qemu_diff.errors import CorruptDataError
from qemu_diff.kernels.cache import digest_file
from qemu_diff.kernels.selftest import Selftest
from qemu_diff.model import Build, KernelSpec

PIECE_BYTES = 8 << 20
"""Of a file on its way: a message of a cluster's control channel, not a stream."""

UNUSED_S = 30 * 86400.0
"""What nobody has asked for in this time is removed."""


@dataclass(frozen=True)
class Content:
    """A file, wherever it lies.

    :param sha256: hex digest.
    :param size: in bytes.
    :param name: its own, without directory: findings and programs show it.
    """

    sha256: str
    size: int
    name: str


def content_of(path: Path) -> Content:
    """:raises OSError: the file can't be read."""
    digest = digest_file(path)
    return Content(digest.sha256, digest.size, path.name)


def pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    """(offset, compressed bytes) of a file, in order; at least one.

    :raises OSError: it can't be read.
    """
    with path.open("rb") as file:
        offset = 0
        while (piece := file.read(PIECE_BYTES)) or not offset:
            yield offset, zlib.compress(piece, level=1)
            if not piece:
                return
            offset += len(piece)


class ContentStore:
    """The files that a machine was sent. Several threads and processes may use one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._whole: set[Content] = set()
        self._lock = threading.Lock()

    def path(self, content: Content) -> Path:
        """Where it is, or will be."""
        return self._root / content.sha256 / content.name

    def has(self, content: Content) -> bool:
        """Whether it is here, whole; what is damaged is removed."""
        path = self.path(content)
        if content in self._whole and path.exists():
            return True
        with suppress(FileNotFoundError, NotADirectoryError):
            if content_of(path) == content:
                self._whole.add(content)
                # Of a shared cache that is read-only, somebody else sees to the age.
                with suppress(PermissionError):
                    os.utime(path.parent)
                return True
            path.unlink()
        return False

    def put(self, content: Content, offset: int, compressed: bytes, sender: str) -> None:
        """Take a piece of a file; with its last the file is here.

        :param sender: who sends it: two may send the same file at a time.
        :raises CorruptDataError: what has come is something else.
        :raises OSError: it can't be written.
        """
        path = self.path(content)
        scratch = path.with_name(f".{content.name}.{sender}")
        piece = zlib.decompress(compressed, bufsize=PIECE_BYTES)
        with self._lock:
            scratch.parent.mkdir(parents=True, exist_ok=True)
            try:
                with scratch.open("r+b" if offset else "wb") as file:
                    file.seek(offset)
                    file.write(piece)
                if offset + len(piece) >= content.size:
                    self._complete(scratch, content)
            except BaseException:
                scratch.unlink(missing_ok=True)
                raise

    def _complete(self, scratch: Path, content: Content) -> None:
        found = digest_file(scratch)
        if (found.sha256, found.size) != (content.sha256, content.size):
            raise CorruptDataError(f"{content.name}: damaged on its way")
        scratch.replace(self.path(content))

    def discard_unused(self) -> None:
        """Remove what nobody has asked for in a long time."""
        oldest = time.time() - UNUSED_S
        for entry in self._root.glob("*"):
            with suppress(FileNotFoundError):
                if entry.stat().st_mtime < oldest:
                    shutil.rmtree(entry, ignore_errors=True)


# --- a task's files ------------------------------------------------------------------------------

At = Callable[[Path], Path]
"""A file's path here → its path elsewhere."""


def files_of(task: CellTask) -> tuple[Path, ...]:
    """Every file that a task names, and that has to be where it is run.

    The plugin is none: it is made for the QEMU that is there.
    """
    found: dict[Path, None] = {}

    def note(path: Path) -> Path:
        found[path] = None
        return path

    with_files(task, note)
    return tuple(found)


def with_files(task: CellTask, at: At) -> CellTask:
    """The task, with its files elsewhere."""
    stepvmm = replace(task.tools.stepvmm, program=at(task.tools.stepvmm.program))
    payload, peer, selftest, bundle = task.payload, task.peer, task.selftest, task.bundle
    if payload is not None and payload.program is not None:
        payload = replace(payload, program=at(payload.program))
    if isinstance(selftest, Selftest):
        selftest = replace(selftest, program=at(selftest.program))
    return replace(
        task,
        build=_build(task.build, at),
        tools=replace(task.tools, stepvmm=stepvmm),
        peer=peer and replace(peer, init=at(peer.init)),
        payload=payload,
        selftest=selftest,
        bundle=bundle and replace(bundle, archive=at(bundle.archive)),
        sources=task.sources and _sources(task.sources, at),
    )


def _build(build: Build, at: At) -> Build:
    """A cell boots its kernel and reads its symbols: nothing else of it goes along."""
    vmlinux = build.vmlinux and at(build.vmlinux)
    return replace(build, image=at(build.image), vmlinux=vmlinux, config=None, log=None)


def _sources(sources: FindingSources, at: At) -> FindingSources:
    return replace(
        sources,
        payload=at(sources.payload),
        includes=tuple(at(path) for path in sources.includes),
        script=at(sources.script),
        spec=_spec(sources.spec, at),
        pair=tuple((name, _build(build, at)) for name, build in sources.pair),
    )


def _spec(spec: KernelSpec, at: At) -> KernelSpec:
    """Its source says where the kernel came from, and stays; patches go along as what they hold."""
    return replace(spec, kconfig=tuple(at(path) for path in spec.kconfig))
