"""A user's own tree: read, compared, copied; never written to.

What is copied is what could be committed: in a git work tree its tracked files and the untracked
ones that are not ignored, so that an in-place build does not come along. The copy is the base of an
isolated tree that stays, so that after an edit or a checkout only what changed is built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import SourceError, refuse_killed
from . import cache
from .tree import LANDMARKS, FileState, IsolatedTree, read_state, walk

# Linux's Makefile, target outputmakefile: with one of these in the source tree Kbuild refuses to
# build in another directory.
_BUILT_IN_PLACE = (".config", "include/config", "arch/arm64/include/generated")

#: An untracked file that is larger is a disk image or a core dump, not a source.
_LARGEST_UNTRACKED = 16 << 20

#: A file that was modified this shortly before it was read may be modified again without a visible
#: change of its times (git calls such an index entry "racily clean").
_RACY_NS = 2_000_000_000


class Sighting(NamedTuple):
    """A file of the user's tree when it was last looked at: how to notice a change, and a digest of
    its content."""

    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """What the base of an isolated tree was copied from.

    :param complete: the base has no other files; False while a copy is under way.
    """

    files: Mapping[str, Sighting]
    complete: bool


def lineage(path: Path) -> str:
    """Name of the isolated tree of a directory."""
    resolved = path.resolve()
    name = re.sub(r"[^A-Za-z0-9.+-]", "_", resolved.name)
    return f"{name}-{hashlib.sha256(os.fsencode(resolved)).hexdigest()[:12]}"


def check(path: Path) -> None:
    """Check that a directory is a Linux tree with KVM for arm64.

    :raise SourceError: it is not; says what is missing.
    :raise UserError: the cache lies in it, which would have us write to it.
    """
    if not path.is_dir():
        raise SourceError(f"{path}: no such directory")
    missing = [name for name in LANDMARKS if not (path / name).exists()]
    if missing:
        what = f"no {', '.join(missing)}"
        raise SourceError(f"{path}: not a Linux source tree with KVM for arm64: {what}")
    cache.refuse_inside(path)


def synchronise(path: Path, tree: IsolatedTree) -> str:
    """Make the base of ``tree`` what the user's tree is now; return the content's identity.

    :raise SourceError: not a Linux tree, one that was built in place and is not under git, or one
        with a file that can't be read.
    """
    check(path)
    try:
        return _synchronise(path, tree)
    except PermissionError as error:
        if not str(error.filename).startswith(str(path)):
            raise
        raise SourceError(f"{error.filename}: can't be read: {error.strerror}") from error


def _synchronise(path: Path, tree: IsolatedTree) -> str:
    before = _load_manifest(tree)
    started_ns = time.time_ns()
    seen = {name: sight for name in _list_files(path) if (sight := _look(path / name))}
    suspects = [name for name, sight in seen.items() if not _same(before.files.get(name), sight)]
    gone = _copied(before, tree) - seen.keys()
    kept = {name: before.files[name] for name in seen.keys() - suspects}
    if suspects or gone:
        # Until the copy is complete nothing may be believed of the files that are being copied.
        _save_manifest(tree, Manifest(kept, complete=False))
        for name in gone:
            tree.set_base(name, None)
        kept |= _copy(path, suspects, seen, tree, started_ns)
        _save_manifest(tree, Manifest(kept, complete=True))
    return f"tree sha256:{_digest_of_all(kept)}"


def _copy(
    path: Path,
    names: Iterable[str],
    seen: Mapping[str, Sighting],
    tree: IsolatedTree,
    started_ns: int,
) -> dict[str, Sighting]:
    """Bring files over whose content is not known to be the same."""
    copied = {}
    for name in names:
        state = read_state(path / name)
        if state != tree.base(name):
            tree.set_base(name, state)
        if state is not None:
            sight = seen[name]._replace(digest=_digest(state))
            racy = max(sight.mtime_ns, sight.ctime_ns) > started_ns - _RACY_NS
            copied[name] = sight._replace(mtime_ns=-1) if racy else sight
    return copied


def _copied(before: Manifest, tree: IsolatedTree) -> set[str]:
    """The files that the base has."""
    return set(before.files) if before.complete else set(tree.base_files())


# --- the user's files ----------------------------------------------------------------------------


def _list_files(path: Path) -> Iterable[str]:
    """The files that belong to the source, relative to ``path``."""
    listed = _list_by_git(path)
    if listed is not None and "Makefile" in listed:
        return listed
    leftovers = [name for name in _BUILT_IN_PLACE if (path / name).exists()]
    if leftovers:
        raise SourceError(
            f"{path}: was built in place ({leftovers[0]} is there) and is not under git: "
            "run 'make mrproper' in it"
        )
    return walk(path)


def _list_by_git(path: Path) -> list[str] | None:
    """What git would list, or None if the directory is not in a git work tree."""
    if shutil.which("git") is None:
        return None
    # fsmonitor would start a program of the repository's choosing; safe.directory because reading a
    # list is no risk, whoever owns the tree.
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "safe.directory=*"]
    command += ["-C", str(path), "ls-files", "-z", "-t", "--cached", "--others"]
    result = subprocess.run(
        [*command, "--exclude-standard"], capture_output=True, check=False, env=_git_environment()
    )
    refuse_killed("git", result.returncode)
    if result.returncode:
        return None
    entries = [os.fsdecode(entry) for entry in result.stdout.split(b"\0") if entry]
    # "H Makefile" is tracked, "? new.c" is not; a file in conflict is listed several times.
    return list(dict.fromkeys(name[2:] for name in entries if _is_source(path, name)))


def _git_environment() -> dict[str, str]:
    """The environment without GIT_DIR and its like, which would point git elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def _is_source(path: Path, entry: str) -> bool:
    tag, name = entry[0], entry[2:]
    if tag != "?":
        return True
    try:
        return (path / name).lstat().st_size <= _LARGEST_UNTRACKED
    except OSError:
        return False


def _look(path: Path) -> Sighting | None:
    """A file as it is now, without its digest; None if it is gone, or a directory, or a FIFO."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        return None
    return Sighting(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode, "")


def _same(before: Sighting | None, now: Sighting) -> bool:
    return before is not None and before[:4] == now[:4]


# --- digests and the manifest --------------------------------------------------------------------


def _digest(state: FileState) -> str:
    kind = b"l" if state.symlink else b"x" if state.executable else b"f"
    return hashlib.sha256(kind + state.content).hexdigest()


def _digest_of_all(files: Mapping[str, Sighting]) -> str:
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(os.fsencode(name) + b"\0" + files[name].digest.encode() + b"\0")
    return total.hexdigest()


def _manifest_path(tree: IsolatedTree) -> Path:
    return tree.directory / "manifest.json"


def _load_manifest(tree: IsolatedTree) -> Manifest:
    """The manifest; an empty, incomplete one if there is none that can be read."""
    try:
        raw = json.loads(_manifest_path(tree).read_bytes())
        files = {name: Sighting(*sight) for name, sight in raw["files"].items()}
        return Manifest(files, bool(raw["complete"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Manifest({}, complete=False)


def _save_manifest(tree: IsolatedTree, manifest: Manifest) -> None:
    content = {"complete": manifest.complete, "files": manifest.files}
    cache.replace_file(_manifest_path(tree), json.dumps(content).encode())
