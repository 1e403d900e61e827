"""Directories for what is of use for a while only: gone when that is over, whatever ends us.

Who is killed removes nothing. So each directory is held by a lock that its owner's death lifts
(flock(2)), and whoever makes the next one beside it removes those that nobody holds any more: no
clock is asked, and no process id, which may be somebody else's by now.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HIDDEN = ".scratch-"
"""How they are called beside other things, as in the cache."""

TEMPORARY = "qemu-diff-scratch-"
"""How they are called among others' in the directory for what is temporary."""

_PLACES = ("/tmp", "/var/tmp", "/usr/tmp")

_ours: set[Path] = set()


def temporary() -> Path:
    """The directory for what is temporary: where :mod:`tempfile` would have it.

    That tries each by writing a file, which whoever is killed meanwhile leaves there for good; we
    ask, and tell it.

    :raises FileNotFoundError: there is none.
    """
    if tempfile.tempdir is None:
        named = (os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
        places = (Path(one).absolute() for one in (*named, *_PLACES) if one)
        usable = (one for one in places if one.is_dir() and os.access(one, os.W_OK | os.X_OK))
        tempfile.tempdir = next(map(str, usable), None)
    return Path(tempfile.gettempdir())


@contextmanager
def scratch_directory(beside: Path | None = None) -> Iterator[Path]:
    """A directory of our own (mode 0700) while the context lasts.

    :param beside: where it is made; None: in the directory for what is temporary (``TMPDIR``).
    :raises OSError: it can't be made.
    """
    parent, prefix = beside or temporary(), HIDDEN if beside else TEMPORARY
    sweep(parent, prefix)
    directory, held = _made(parent, prefix)
    _ours.add(directory)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        _ours.discard(directory)
        os.close(held)


def remove_held() -> None:
    """Remove all that this process holds: it is about to end, without leaving any context."""
    for directory in tuple(_ours):
        shutil.rmtree(directory, ignore_errors=True)


def sweep(parent: Path, prefix: str = HIDDEN) -> None:
    """Remove what processes that were killed have left."""
    for directory in parent.glob(f"{prefix}*"):
        with suppress(OSError):
            held = _held(directory)
            try:
                if os.fstat(held).st_uid == os.geteuid():
                    shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(held)


def _made(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(BlockingIOError, FileNotFoundError):
            held = _held(directory)
            if directory.exists():
                return directory, held
            os.close(held)
        # Another process took it for abandoned: it was not held yet.


def _held(directory: Path) -> int:
    """A descriptor that holds it until it is closed.

    :raises BlockingIOError: somebody else does.
    :raises OSError: it went away, or is no directory.
    """
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(opened)
        raise
    return opened
