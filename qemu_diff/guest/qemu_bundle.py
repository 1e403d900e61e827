"""Debian's QEMU for arm64 with all that it needs to run, to be put into L1's initramfs.

There it is a KVM user that somebody else wrote. The packages are Debian's own, of any suite that
is served; nothing of them is installed here, and nothing of them runs here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from qemu_diff.events import Stage, stage
from qemu_diff.guest.initramfs import pack
from qemu_diff.guest.qemu_packages import PACKAGE, PROGRAM, cache_lock, unpacked
from qemu_diff.guest.runtime_closure import LIBRARIES
from qemu_diff.kernels import apt, cache
from qemu_diff.scratch import scratch_directory

LAYOUT = 1
"""Version of what an entry holds; an entry of another version is made anew."""

# Not compressed: gzip makes a third of it (55 → 17 MB), but under TCG a boot with the one takes
# 1.7 s, with the other 1.15 s.
_ARCHIVE = "bundle.cpio"
_METADATA = "bundle.json"


@dataclass(frozen=True)
class QemuBundle:
    """A QEMU for L1.

    :param archive: a newc cpio archive, to be extended by
        :func:`qemu_diff.guest.initramfs.extend`.
    :param program: QEMU's path in there, without leading slash.
    :param version: of Debian's package: ``1:7.2+dfsg-7+deb12u18+b3``.
    :param files: how many there are in the archive.
    :param unpacked: their bytes. L1 needs twice as much while it unpacks them, and a root file
        system on tmpfs takes half of its memory at most.
    :param packages: how many were downloaded.
    :param downloaded: their bytes.
    :param sha256: of the archive: the same QEMU may come with newer libraries.
    """

    suite: str
    version: str
    archive: Path
    program: str
    files: int
    unpacked: int
    packages: int
    downloaded: int
    sha256: str


def fetch_bundle(suite: str = "") -> QemuBundle:
    """The QEMU of a Debian suite: the one in the cache, else one that apt fetches.

    :param suite: ``bookworm``, ``bookworm-backports``, …; by default this machine's own release.
    :raises UnavailableSourceError: the suite or a package can't be had here.
    :raises UserError: the cache can't be written to.
    :raises InfrastructureError: a package is damaged, one that is needed lacks a library, or no
        space is left.
    """
    suite = suite or apt.own_suite()
    if (ready := cached_bundle(suite)) is not None:
        return ready
    with stage("bundle", f"{PACKAGE} of {suite} for arm64, with its libraries") as running:
        apt.require_apt(
            PACKAGE, "get it on one that has, and use that one's cache (QEMU_DIFF_CACHE)"
        )
        with cache.disk_errors(), cache_lock(f"bundle-{suite}", running):
            return cached_bundle(suite) or _fetch(suite, running)


def cached_bundle(suite: str = "") -> QemuBundle | None:
    """The QEMU of a suite that is in the cache, the newest, or None. Nothing is downloaded.

    :param suite: see :func:`fetch_bundle`.
    :raises UnavailableSourceError: no suite is named, and this machine runs no Debian.
    """
    entries = (cache.cache_root() / "bundles" / (suite or apt.own_suite())).glob(f"*/{_METADATA}")
    for metadata in sorted(entries, key=_modified, reverse=True):
        if (bundle := _load(metadata)) is not None:
            return bundle
    return None


def _fetch(suite: str, running: Stage) -> QemuBundle:
    bundles = cache.cache_directory(f"bundles/{suite}")
    with scratch_directory(bundles) as staging:
        qemu = unpacked(suite, apt.GUEST_ARCHITECTURE, LIBRARIES, staging, running)
        archive = _write_archive(qemu.closure, staging / "entry")
        digest = cache.digest_file(archive)
        bundle = QemuBundle(
            suite=suite,
            version=qemu.version,
            archive=archive,
            program=PROGRAM,
            files=len(qemu.closure),
            unpacked=sum(file.stat().st_size for file in qemu.closure.values()),
            packages=qemu.packages,
            downloaded=qemu.downloaded,
            sha256=digest.sha256,
        )
        return _publish(bundle, bundles / bundle.version)


def _write_archive(closure: Mapping[str, Path], entry: Path) -> Path:
    entry.mkdir()
    archive = entry / _ARCHIVE
    content = {path: file.read_bytes() for path, file in sorted(closure.items())}
    cache.replace_file(archive, pack(content))
    return archive


def _publish(bundle: QemuBundle, target: Path) -> QemuBundle:
    entry = bundle.archive.parent
    record = {**asdict(bundle), "archive": _ARCHIVE, "layout": LAYOUT}
    cache.replace_file(entry / _METADATA, (json.dumps(record, indent=2) + "\n").encode())
    # What is there under the lock of this suite can't be used, or it had been found.
    shutil.rmtree(target, ignore_errors=True)
    entry.rename(target)
    return replace(bundle, archive=target / _ARCHIVE)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process makes it anew just now
        return 0.0


def _load(metadata: Path) -> QemuBundle | None:
    """An entry, or None if it is damaged or of another version."""
    try:
        record = json.loads(metadata.read_bytes())
        if record.pop("layout") != LAYOUT:
            return None
        archive = metadata.with_name(record.pop("archive"))
        bundle = QemuBundle(archive=archive, **record)
        intact = cache.digest_file(archive).sha256 == bundle.sha256
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return bundle if intact else None
