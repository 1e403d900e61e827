"""Debian's ``linux-source-*`` packages: find the tarball, or fetch it without being root."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import InfrastructureError, SourceError, UnavailableSourceError
from ..model import DebianSource
from ..scratch import scratch_directory
from . import apt, cache, toolchain
from .tree import IsolatedTree

#: Where the packages put their tarball.
_SOURCES = Path("/usr/src")

_SUFFIX = ".tar.xz"

# Debian Policy 5.6.1, with the prefix that all packages with a kernel tarball have. The one without
# a version has no tarball, but depends on one that has: linux-source → linux-source-6.1.
_PACKAGE = re.compile(r"linux-source(?:-[a-z0-9][a-z0-9+.-]*)?")
_NEXT = re.compile(r"linux-source-(?P<version>[0-9]+(?:\.[0-9]+)*)\b")


@dataclass(frozen=True)
class Tarball:
    """A kernel source tarball and the package version that it came with."""

    package: str
    version: str
    path: Path
    sha256: str

    @property
    def identity(self) -> str:
        """What makes this source this source."""
        return f"debian {self.package} {self.version} sha256:{self.sha256}"

    @property
    def lineage(self) -> str:
        """Name of the isolated tree."""
        version = re.sub(r"[^A-Za-z0-9.+-]", "_", self.version)
        return f"{self.package}_{version}_{self.sha256[:12]}"


def locate(source: DebianSource, *, newer: bool = False) -> Tarball:
    """The tarball of the installed package, else the one in the cache, else one that apt fetches.

    A package of a named suite is never the installed one, which may be of another suite.

    :param newer: ask apt whether it has another version than the one in the cache.
    :raise SourceError: not the name of a kernel source package.
    :raise UnavailableSourceError: the package is not installed and apt can't fetch it.
    """
    package, suite = source.package, source.suite
    if not _PACKAGE.fullmatch(package):
        raise SourceError(
            f"debian:{package}: not a kernel source package; their names are like linux-source-6.1"
        )
    if not suite and (installed := _installed(package)) is not None:
        return installed
    downloads = _downloads(suite)
    found = None if newer else cache.newest_download(downloads, package, _SUFFIX)
    return _tarball(found[1] if found else _download(package, suite, downloads))


def at_hand(source: DebianSource) -> bool:
    """Whether nothing has to be fetched."""
    if not source.suite and _installed(source.package) is not None:
        return True
    return cache.newest_download(_downloads(source.suite), source.package, _SUFFIX) is not None


def _downloads(suite: str) -> Path:
    return cache.cache_directory(f"downloads/{suite}" if suite else "downloads")


def _tarball(path: Path) -> Tarball:
    """A tarball in the cache, where a package that only depends on it is a link to it."""
    path = path.resolve()
    package, _, version = path.name.removesuffix(_SUFFIX).partition("_")
    return Tarball(package, version, path, _digest(path))


def _digest(path: Path) -> str:
    found = path.stat()
    return _digest_as_of(path, found.st_size, found.st_mtime_ns)


@lru_cache
def _digest_as_of(path: Path, _size: int, _mtime_ns: int) -> str:
    """A campaign's kernels often share a tarball, of 140 MB."""
    return cache.digest_file(path).sha256


def unpack(tarball: Tarball, tree: IsolatedTree) -> None:
    """Make the tarball the tree's base.

    All of it, other architectures and documentation too: a patch may touch any file.

    :raise InfrastructureError: the tarball is damaged, or no space is left.
    """
    toolchain.require("tar", "xz")
    tree.reset()
    with scratch_directory(tree.directory) as staging:
        _run_tar(tarball.path, staging)
        (staging / "source").rename(tree.source)


def _run_tar(path: Path, staging: Path) -> None:
    target = staging / "source"
    target.mkdir()
    command = ["tar", "-x", "-J", "--strip-components=1", "-f", str(path), "-C", str(target)]
    result = apt.run(command)
    if result.returncode:
        reason = result.stderr.strip().partition("\n")[0]
        raise InfrastructureError(f"{path}: can't be unpacked: {reason}")


def _installed(package: str) -> Tarball | None:
    """The tarball of an installed package."""
    if shutil.which("dpkg-query") is None:
        return None
    fields = "${db:Status-Status}\n${Version}\n${Depends}"
    result = apt.run(["dpkg-query", "-W", "-f", fields, package])
    status, version, depends, *_ = [*result.stdout.split("\n"), "", ""]
    if result.returncode or status != "installed":
        return None
    path = _SOURCES / f"{package}{_SUFFIX}"
    if path.is_file():
        return Tarball(package, version, path, _digest(path))
    named = _newest_of(depends)
    return _installed(named) if named else None


def _newest_of(depends: str) -> str:
    """The package of the newest kernel that another depends on; or nothing."""
    found = {tuple(map(int, one["version"].split("."))): one[0] for one in _NEXT.finditer(depends)}
    return found[max(found)] if found else ""


def _download(package: str, suite: str, downloads: Path) -> Path:
    """What apt offers, in the cache."""
    apt.require_apt(package)
    with cache.disk_errors(), scratch_directory(downloads) as staging:
        source = apt.private_apt(suite, staging / "apt") if suite else apt.Apt()
        version = source.version_of(package)
        ready = downloads / f"{package}_{version}{_SUFFIX}"
        if version and ready.exists():
            os.utime(ready)
            return ready
        files, version = _fetch(package, suite, source, staging / "named")
        if tarball := _in_package(package, files):
            return _keep(tarball, downloads / f"{package}_{version}{_SUFFIX}")
        return _download_next(package, version, (suite, source), downloads, staging)


def _download_next(
    package: str, version: str, origin: tuple[str, apt.Apt], downloads: Path, staging: Path
) -> Path:
    """The tarball of what a package depends on, and a link to it in the package's name."""
    suite, source = origin
    (package_file,) = (staging / "named").glob("*.deb")
    named = _newest_of(apt.control_field(package_file, "Depends"))
    if not named or named == package:
        raise SourceError(
            f"debian:{package}: the package has no {_SOURCES / package}{_SUFFIX}, nor does it "
            "depend on one that has"
        )
    files, own_version = _fetch(named, suite, source, staging / "next")
    tarball = _in_package(named, files)
    if tarball is None:
        raise SourceError(f"debian:{named}: the package has no {_SOURCES / named}{_SUFFIX}")
    target = _keep(tarball, downloads / f"{named}_{own_version}{_SUFFIX}")
    link = downloads / f"{package}_{version}{_SUFFIX}"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    return link


def _fetch(package: str, suite: str, source: apt.Apt, staging: Path) -> tuple[Path, str]:
    """(its files, its version) of a package that apt downloads."""
    package_file, reason = source.download(package, staging)
    if package_file is None:
        raise _unavailable(package, suite, reason)
    files = staging / "files"
    apt.unpack(package_file, files)
    return files, apt.control_field(package_file, "Version")


def _keep(tarball: Path, target: Path) -> Path:
    # Its own time is the package's; what counts is what was downloaded last.
    os.utime(tarball)
    return tarball.rename(target)


def _in_package(package: str, files: Path) -> Path | None:
    tarball = files / _SOURCES.relative_to("/") / f"{package}{_SUFFIX}"
    return tarball if tarball.is_file() else None


def _unavailable(package: str, suite: str, reason: str) -> UnavailableSourceError:
    said = f" ({reason})" if reason else ""
    if suite:
        return UnavailableSourceError(
            f"the Debian package {package} of suite {suite} can't be had here{said}"
        )
    return UnavailableSourceError(
        f"the Debian package {package}{said} is missing; install it with: apt-get install {package}"
    )
