"""Debian's QEMU of any suite and architecture, unpacked beside what it needs to run.

The packages are Debian's own, of any suite that is served; nothing of them is installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from qemu_diff.events import Stage
from qemu_diff.guest.runtime_closure import runtime_closure
from qemu_diff.kernels import apt, cache

PACKAGE = "qemu-system-arm"

PROGRAM = "usr/bin/qemu-system-aarch64"
"""Its path, without leading slash."""

# `-M virt -nodefaults` needs no ROM, no keymap, no display and no sound: these packages have
# nothing else, and with what only they need they are 14 of 38 MB (bookworm).
_BACKENDS = "qemu-system-"

# glibc loads it itself when a thread is cancelled or calls pthread_exit(3), and aborts without it.
_LOADED_BY_GLIBC = ("libgcc_s.so.1",)

_BACKPORTS = "-backports"


@dataclass(frozen=True)
class UnpackedQemu:
    """A QEMU and its libraries.

    :param version: of Debian's package.
    :param closure: path at run time, without leading slash → file.
    :param packages: how many were downloaded.
    :param downloaded: their bytes.
    """

    version: str
    closure: Mapping[str, Path]
    packages: int
    downloaded: int


@contextmanager
def cache_lock(name: str, running: Stage) -> Iterator[None]:
    """The cache's lock of that name; what is waited for is said."""
    lock = cache.lineage_lock(name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        running.progress("another process fetches it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def unpacked(
    suite: str, architecture: str, libraries: str, staging: Path, running: Stage
) -> UnpackedQemu:
    """Download and unpack.

    :param architecture: as Debian calls it.
    :param libraries: see :func:`qemu_diff.guest.runtime_closure.runtime_closure`.
    :param staging: a directory for packages and files.
    :raises UnavailableSourceError: the suite or a package can't be had here.
    :raises InfrastructureError: a package is damaged, one that is needed lacks a library, or no
        space is left.
    """
    running.progress("getting the suite's lists")
    base = suite.removesuffix(_BACKPORTS) if suite.endswith(_BACKPORTS) else ""
    source = apt.private_apt(suite, staging / "apt", base, architecture)
    wanted = source.closure(PACKAGE, _BACKENDS)
    size = sum(package.size for package in wanted)
    running.progress(f"downloading {len(wanted)} packages, {size / 1e6:.0f} MB")
    package_files = source.download_all(wanted, staging / "packages")
    running.progress("unpacking")
    for package_file in package_files:
        apt.unpack(package_file, staging / "root")
    closure = runtime_closure(staging / "root", PROGRAM, _LOADED_BY_GLIBC, libraries)
    return UnpackedQemu(wanted[0].version, closure, len(wanted), size)
