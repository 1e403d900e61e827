"""Where kernels, source trees and downloads are kept between runs.

::

    $QEMU_DIFF_CACHE/
      kernels/<key>/{Image,vmlinux,config,build.log,metadata.json}   ready kernels, by content
      trees/<lineage>/                                               isolated trees, their objects
      repositories/<lineage>.git/         our own beside a user's git repository; mirrors of URLs
      downloads/                                                     source tarballs
      downloads/<suite>/                  source tarballs and images of another Debian suite
      bundles/<suite>/<version>/          arm64 QEMUs for L1, packed
      content/<sha256>/<name>             what a worker was sent (qemu_diff/campaign/content.py)
      failed/<key>.log                                               logs of builds that failed
      locks/<lineage>.lock
      ccache/

An entry under ``kernels/`` appears by one rename when it is complete: whoever sees it may use it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import InfrastructureError, UserError
from ..scratch import scratch_directory, sweep

#: Version of ``metadata.json``; an entry of another version is built anew.
METADATA_VERSION = 1

#: Marks a directory that backups may leave out (Cache Directory Tagging Specification).
_TAG = "CACHEDIR.TAG"
_TAG_TEXT = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# qemu-diff: kernels and what makes them\n"
)

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True)
class FileDigest:
    """What a file of an entry must be."""

    sha256: str
    size: int


@dataclass(frozen=True)
class KernelMetadata:
    """What is known of a kernel in the cache.

    :param names: the campaign names under which it was asked for.
    :param lineage: the isolated tree that it was built in; empty for an image built elsewhere.
    :param source: the source's identity.
    :param patches: (file name, sha256), in order of application.
    :param fragments: (file name, sha256), later ones win.
    :param toolchain: version lines of compiler and linker.
    :param dropped: options of our own fragment that this kernel's Kconfig did not take.
    :param build_s: wall-clock seconds of the build.
    :param files: name in the entry → what it must be.
    """

    key: str
    names: tuple[str, ...]
    release: str
    lineage: str = ""
    source: str = ""
    patches: tuple[tuple[str, str], ...] = ()
    fragments: tuple[tuple[str, str], ...] = ()
    toolchain: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    build_s: float = 0.0
    files: Mapping[str, FileDigest] = field(default_factory=dict)
    version: int = METADATA_VERSION


@dataclass(frozen=True)
class CachedKernel:
    """One ready kernel, for people.

    :param size: bytes on disk.
    :param last_used: seconds since the epoch.
    """

    names: tuple[str, ...]
    key: str
    release: str
    size: int
    last_used: float
    lineage: str


@dataclass(frozen=True)
class PruneReport:
    """What was removed.

    :param busy: isolated trees that were spared because a build is running in them.
    :param freed: bytes.
    """

    kernels: tuple[CachedKernel, ...]
    trees: tuple[str, ...]
    busy: tuple[str, ...]
    freed: int


# --- places --------------------------------------------------------------------------------------


def cache_root() -> Path:
    """The cache: ``$QEMU_DIFF_CACHE``, else ``qemu-diff`` in the user's cache directory."""
    if chosen := os.environ.get("QEMU_DIFF_CACHE"):
        return Path(chosen).expanduser().absolute()
    # XDG Base Directory Specification: a relative path in the variable is to be ignored.
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "qemu-diff"


def cache_directory(name: str) -> Path:
    """A directory of the cache, made when it is not there.

    :raise UserError: the cache can't be written to.
    :raise InfrastructureError: the disk is full.
    """
    root = cache_root()
    directory = root / name
    try:
        _claim(root)
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _FULL:
            raise InfrastructureError(no_space_message()) from error
        raise UserError(_refusal(error)) from error
    return directory


def _claim(root: Path) -> None:
    """Make the cache, and mark it as ours: what is not marked is never pruned.

    :raise UserError: the directory holds somebody else's files.
    """
    root.mkdir(parents=True, exist_ok=True)
    tag = root / _TAG
    if tag.exists():
        return
    if any(root.iterdir()) and not tag.exists():  # another process may just have made both
        raise UserError(
            f"{root} is not empty, and no cache of qemu-diff; "
            "set QEMU_DIFF_CACHE to a directory of its own"
        )
    tag.write_text(_TAG_TEXT)


def entry_directory(key: str) -> Path:
    """Where a ready kernel lies."""
    return cache_root() / "kernels" / key


@contextmanager
def disk_errors() -> Iterator[None]:
    """Say in one line what the disk refused.

    :raise InfrastructureError: no space is left.
    :raise UserError: the cache can't be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise InfrastructureError(no_space_message()) from error
        if error.errno in _REFUSED:
            raise UserError(_refusal(error)) from error
        raise


def _refusal(error: OSError) -> str:
    return (
        f"can't write to the cache: {error.filename or cache_root()}: {error.strerror}; "
        "set QEMU_DIFF_CACHE to a directory that you can write to"
    )


def refuse_inside(directory: Path) -> None:
    """Check that the cache does not lie in what is never written to.

    :raise UserError: it does.
    """
    if cache_root().resolve().is_relative_to(directory.resolve()):
        raise UserError(
            f"the cache {cache_root()} lies inside of the kernel tree {directory}, which is never "
            "written to; set QEMU_DIFF_CACHE to another directory"
        )


def no_space_message() -> str:
    """The line for a full disk."""
    return (
        f"no space left on the disk that holds the cache {cache_root()}; "
        "free some, or run: qemu-diff kernels prune"
    )


def lineage_lock(lineage: str) -> FileLock:
    """The lock of an isolated tree. It lies outside of the tree, so that removing the tree does not
    leave a waiter with a lock that nobody else sees."""
    return FileLock(cache_directory("locks") / f"{lineage}.lock")


# --- files ---------------------------------------------------------------------------------------


def digest_file(path: Path) -> FileDigest:
    """Hash a file."""
    with path.open("rb") as stream:
        return FileDigest(hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size)


def replace_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file as a whole or not at all, even if the machine loses power."""
    with scratch_directory(path.parent) as scratch:
        whole = scratch / path.name
        with whole.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        whole.replace(path)


def newest_download(downloads: Path, package: str, suffix: str) -> tuple[str, Path] | None:
    """(version, file) of what was downloaded last of a Debian package, or None."""
    files = list(downloads.glob(f"{package}_*{suffix}"))
    if not files:
        return None
    newest = max(files, key=lambda path: path.stat().st_mtime)
    return newest.name.removeprefix(f"{package}_").removesuffix(suffix), newest


def disk_usage(directory: Path) -> int:
    """Bytes that a directory takes on the disk."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(Path(parent, name)).st_blocks * 512
    return total


# --- entries -------------------------------------------------------------------------------------


def publish(metadata: KernelMetadata, files: Mapping[str, Path | bytes]) -> KernelMetadata:
    """Put a kernel into the cache under ``metadata.key``, complete or not at all.

    :param files: name in the entry → its content, or the file to copy it from.
    :return: the metadata, with the files' digests.
    :raise InfrastructureError: no space is left.
    :raise UserError: the cache can't be written to.
    """
    kernels = cache_directory("kernels")
    with disk_errors(), scratch_directory(kernels) as scratch:
        staging = scratch / metadata.key
        staging.mkdir()
        digests = {name: _write(staging / name, files[name]) for name in files}
        complete = replace(metadata, files=digests)
        replace_file(staging / "metadata.json", _dump(complete))
        _rename_directory(staging, kernels / metadata.key)
    return complete


def find(key: str) -> KernelMetadata | None:
    """A ready kernel's metadata, or None if there is none; a damaged entry is removed."""
    directory = entry_directory(key)
    # Who finds a kernel writes nothing, and so nobody else sweeps.
    sweep(directory.parent)
    if not directory.is_dir():
        return None
    sweep(directory)
    metadata = _load(directory)
    if metadata is None or not _intact(directory, metadata):
        shutil.rmtree(directory, ignore_errors=True)
        return None
    return metadata


def note_use(metadata: KernelMetadata, name: str) -> None:
    """Remember when, and under what name, a kernel was last asked for."""
    directory = entry_directory(metadata.key)
    # A cache that is shared read-only is good to use; only prune's order of age suffers.
    with suppress(PermissionError):
        if name not in metadata.names:
            named = replace(metadata, names=(*metadata.names, name))
            with disk_errors():
                replace_file(directory / "metadata.json", _dump(named))
        os.utime(directory)


def cached_kernels() -> tuple[CachedKernel, ...]:
    """Every ready kernel, the one used last first."""
    entries = (_describe(path) for path in _entries())
    return tuple(
        sorted((e for e in entries if e is not None), key=lambda e: e.last_used, reverse=True)
    )


def prune(
    keep: int | None = None, older_than_days: float | None = None, everything: bool = False
) -> PruneReport:
    """Remove kernels, and the isolated trees that no remaining kernel was built in.

    With several conditions a kernel goes if any of them says so; without one none goes.

    :param keep: number of kernels to keep, those used last.
    :param older_than_days: remove what was last used longer ago than this.
    :param everything: remove the whole cache but for what a running build holds.
    :raise UserError: the cache can't be written to.
    """
    nothing_asked = keep is None and older_than_days is None and not everything
    if nothing_asked or not (cache_root() / _TAG).exists():
        return PruneReport((), (), (), 0)
    kernels = cached_kernels()
    doomed = _doomed(kernels, keep, older_than_days, everything)
    freed = sum(kernel.size for kernel in doomed)
    for kernel in doomed:
        _remove_tree(entry_directory(kernel.key))
    wanted = {kernel.lineage for kernel in kernels if kernel not in doomed}
    trees, busy, tree_bytes = _prune_trees(wanted)
    freed += tree_bytes
    if everything and not busy:
        freed += _remove_shared()
    return PruneReport(doomed, trees, busy, freed)


def _doomed(
    kernels: tuple[CachedKernel, ...],
    keep: int | None,
    older_than_days: float | None,
    everything: bool,
) -> tuple[CachedKernel, ...]:
    oldest = time.time() - (older_than_days or 0) * 86400

    def goes(rank: int, kernel: CachedKernel) -> bool:
        beyond = keep is not None and rank >= keep
        aged = older_than_days is not None and kernel.last_used < oldest
        return everything or beyond or aged

    return tuple(kernel for rank, kernel in enumerate(kernels) if goes(rank, kernel))


def _prune_trees(wanted: set[str]) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    removed, busy, freed = [], [], 0
    for tree in sorted((cache_root() / "trees").glob("*")):
        if tree.name in wanted:
            continue
        try:
            with lineage_lock(tree.name).acquire(timeout=0):
                freed += _remove_tree(tree)
                removed.append(tree.name)
        except Timeout:
            busy.append(tree.name)
    return tuple(removed), tuple(busy), freed


def _remove_shared() -> int:
    """Remove what all trees use; the next build gets it again."""
    root = cache_root()
    shared = ("downloads", "repositories", "bundles", "content", "failed", "ccache", "guest")
    sweep(root / "kernels")
    return sum(_remove_tree(path) for path in (root / name for name in shared) if path.exists())


def _remove_tree(directory: Path) -> int:
    size = disk_usage(directory)
    with disk_errors():
        shutil.rmtree(directory)
    return size


def _entries() -> Iterator[Path]:
    for path in (cache_root() / "kernels").glob("*"):
        if path.is_dir() and not path.name.startswith("."):
            yield path


def _describe(directory: Path) -> CachedKernel | None:
    metadata = _load(directory)
    if metadata is None:
        return None
    return CachedKernel(
        names=metadata.names,
        key=metadata.key,
        release=metadata.release,
        size=disk_usage(directory),
        last_used=directory.stat().st_mtime,
        lineage=metadata.lineage,
    )


def _dump(metadata: KernelMetadata) -> bytes:
    return (json.dumps(asdict(metadata), indent=2) + "\n").encode()


def _load(directory: Path) -> KernelMetadata | None:
    """An entry's metadata, or None if it is damaged or of another version."""
    try:
        raw = json.loads((directory / "metadata.json").read_bytes())
        if raw["version"] != METADATA_VERSION:
            return None
        return KernelMetadata(
            key=raw["key"],
            names=tuple(raw["names"]),
            release=raw["release"],
            lineage=raw["lineage"],
            source=raw["source"],
            patches=tuple((name, digest) for name, digest in raw["patches"]),
            fragments=tuple((name, digest) for name, digest in raw["fragments"]),
            toolchain=tuple(raw["toolchain"]),
            dropped=tuple(raw["dropped"]),
            build_s=raw["build_s"],
            files={name: FileDigest(**digest) for name, digest in raw["files"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _intact(directory: Path, metadata: KernelMetadata) -> bool:
    try:
        return all(
            digest_file(directory / name) == digest for name, digest in metadata.files.items()
        )
    except (OSError, ValueError):
        # No file can have the name that a damaged entry gives one.
        return False


def _write(target: Path, content: Path | bytes) -> FileDigest:
    if isinstance(content, Path):
        content = content.read_bytes()
    replace_file(target, content)
    return digest_file(target)


def _rename_directory(staging: Path, target: Path) -> None:
    try:
        staging.rename(target)
    except OSError as error:
        # Another process has published the same content.
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
