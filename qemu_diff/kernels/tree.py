"""An isolated source tree: a copy of a source in our cache, with one variant's changes on top.

Two layers. The *base* is the source as it is; the *overlay* is what the patches of the variant that
was switched to last make of some of its files. Both live in one directory, so that all variants
share one set of objects: ``make`` sees by modification time which files differ from the variant
that it built last. Therefore a file is only ever written when its content changes, and then it gets
the present time, also when it goes back to an older content.

The base version of every file under the overlay is kept beside the tree, and a journal names these
files before the first of them is touched. Wherever a switch is cut off, the journal names at least
all files that may differ from the base, and the next switch puts each of them right.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from . import cache

#: What makes a tree a Linux tree with KVM that arm64 can be built from.
LANDMARKS = ("Makefile", "Kbuild", "Kconfig", "arch/arm64", "arch/arm64/kvm")


@dataclass(frozen=True)
class FileState:
    """A file's content, as far as a build can see it.

    :param content: its bytes; a symbolic link's target.
    """

    content: bytes
    executable: bool = False
    symlink: bool = False


#: Relative path → what the file is; None where there is none.
Overlay = Mapping[str, FileState | None]


def read_state(path: Path) -> FileState | None:
    """What a file is, or None if there is none (a directory is no file)."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return FileState(os.fsencode(path.readlink()), symlink=True)
        if stat.S_ISDIR(mode):
            return None
        return FileState(path.read_bytes(), executable=bool(mode & stat.S_IXUSR))
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_state(path: Path, state: FileState | None, durably: bool = False) -> None:
    """Make a file what ``state`` says, in one step, with the present time.

    :param durably: also if the machine loses power right after.
    """
    if state is None:
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # What a killed process left of it is in the way of nobody: the tree has one owner at a time.
    staging = path.parent / ".qemu-diff-new"
    staging.unlink(missing_ok=True)
    if state.symlink:
        staging.symlink_to(os.fsdecode(state.content))
    else:
        with staging.open("wb") as stream:
            stream.write(state.content)
            os.fchmod(stream.fileno(), 0o755 if state.executable else 0o644)
            if durably:
                stream.flush()
                os.fsync(stream.fileno())
    staging.replace(path)


def walk(top: Path) -> Iterator[str]:
    """Every file and symbolic link below a directory, relative to it, but for git's own."""
    pending = [""] if top.is_dir() else []
    while pending:
        directory = pending.pop()
        with os.scandir(top / directory) as entries:
            for entry in entries:
                name = f"{directory}{entry.name}"
                if not entry.is_dir(follow_symlinks=False):
                    yield name
                elif name != ".git":
                    pending.append(f"{name}/")


def inside(relative: str) -> bool:
    """Whether a relative path stays below where it starts."""
    path = PurePosixPath(relative)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


class IsolatedTree:
    """The isolated tree of one lineage.

    Made within :func:`cache.lineage_lock`, and of no use after it is released.
    """

    def __init__(self, lineage: str) -> None:
        self.lineage = lineage
        self.directory = cache.cache_directory(f"trees/{lineage}")
        self.source = self.directory / "source"
        self._pristine = self.directory / "pristine"
        self._journal = self.directory / "overlay.json"
        self._overlaid = self._read_journal()

    @property
    def populated(self) -> bool:
        """Whether there is a base."""
        return self.source.is_dir()

    @property
    def overlaid(self) -> frozenset[str]:
        """The files that the variant switched to last has otherwise than the base."""
        return self._overlaid

    def reset(self) -> None:
        """Forget the base, the overlay and everything that was built from them."""
        shutil.rmtree(self.directory)
        self.directory.mkdir()
        self._overlaid = frozenset()

    # --- base ---

    def base(self, relative: str) -> FileState | None:
        """A file as the source has it, whatever variant is switched to."""
        if relative in self._overlaid:
            return read_state(self._pristine / relative)
        return read_state(self.source / relative)

    def base_files(self) -> Iterator[str]:
        """Every file of the base, as relative paths."""
        for name in walk(self.source):
            if name not in self._overlaid:
                yield name
        yield from walk(self._pristine)

    def set_base(self, relative: str, state: FileState | None) -> None:
        """Follow a change of the source."""
        top = self._pristine if relative in self._overlaid else self.source
        _write_below(top, relative, state)

    # --- overlay ---

    def switch(self, overlay: Overlay) -> tuple[str, ...]:
        """Make the tree the base with ``overlay`` on top.

        :return: the files whose content has changed by it.
        """
        before = self._overlaid
        for relative in overlay.keys() - before:
            base = read_state(self.source / relative)
            write_state(self._pristine / relative, base, durably=True)
        touched = before | overlay.keys()
        self._write_journal(touched)
        # What goes makes room: a file's name may become a directory's, and the other way round.
        order = sorted(touched, key=lambda path: (self._wanted(path, overlay) is not None, path))
        changed = [path for path in order if self._put(path, overlay)]
        self._write_journal(overlay.keys())
        for relative in before - overlay.keys():
            _write_below(self._pristine, relative, None)
        return tuple(sorted(changed))

    def _wanted(self, relative: str, overlay: Overlay) -> FileState | None:
        if relative in overlay:
            return overlay[relative]
        return read_state(self._pristine / relative)

    def _put(self, relative: str, overlay: Overlay) -> bool:
        """Give one file its content; whether it had another."""
        wanted = self._wanted(relative, overlay)
        if read_state(self.source / relative) == wanted:
            return False
        _write_below(self.source, relative, wanted)
        return True

    def _write_journal(self, paths: Iterable[str]) -> None:
        self._overlaid = frozenset(paths)
        cache.replace_file(self._journal, json.dumps(sorted(self._overlaid)).encode())

    def _read_journal(self) -> frozenset[str]:
        """The files that may differ from the base.

        A journal that can't be read means that the tree can't be trusted: it is emptied.
        """
        if not self._journal.exists():
            return frozenset()
        try:
            return frozenset(str(path) for path in json.loads(self._journal.read_bytes()))
        except (ValueError, TypeError, RecursionError):
            self.reset()
            return frozenset()


def _write_below(top: Path, relative: str, state: FileState | None) -> None:
    """Write a file; a directory goes with its last one, so that a file can take its name."""
    path = top / relative
    write_state(path, state)
    if state is None:
        with suppress(OSError):
            for parent in path.parents:
                if parent == top:
                    return
                parent.rmdir()
