"""Debian's ``linux-source-*`` packages: find the tarball, or fetch it without being root."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import InfrastructureError, SourceError, UnavailableSourceError
from ..model import DebianSource
from . import apt, cache, toolchain
from .tree import IsolatedTree

#: Where the packages put their tarball.
_SOURCES = Path("/usr/src")

_SUFFIX = ".tar.xz"

# Debian Policy 5.6.1, with the prefix that all packages with a kernel tarball have.
_PACKAGE = re.compile(r"linux-source-[a-z0-9][a-z0-9+.-]*")


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


def locate(source: DebianSource) -> Tarball:
    """The tarball of the installed package, else the one in the cache, else one that apt fetches.

    A package of a named suite is never the installed one, which may be of another suite.

    :raise SourceError: not the name of a kernel source package.
    :raise UnavailableSourceError: the package is not installed and apt can't fetch it.
    """
    package, suite = source.package, source.suite
    if not _PACKAGE.fullmatch(package):
        raise SourceError(
            f"debian:{package}: not a kernel source package; their names are like linux-source-6.1"
        )
    version, path = at_hand(source) or _download(package, suite, _downloads(suite))
    found = path.stat()
    return Tarball(package, version, path, _digest(path, found.st_size, found.st_mtime_ns))


def at_hand(source: DebianSource) -> tuple[str, Path] | None:
    """(version, tarball) of what needs not be fetched."""
    installed = None if source.suite else _installed(source.package)
    return installed or cache.newest_download(_downloads(source.suite), source.package, _SUFFIX)


def _downloads(suite: str) -> Path:
    return cache.cache_directory(f"downloads/{suite}" if suite else "downloads")


@lru_cache
def _digest(path: Path, _size: int, _mtime_ns: int) -> str:
    """A campaign's kernels often share a tarball, of 140 MB."""
    return cache.digest_file(path).sha256


def unpack(tarball: Tarball, tree: IsolatedTree) -> None:
    """Make the tarball the tree's base.

    All of it, other architectures and documentation too: a patch may touch any file.

    :raise InfrastructureError: the tarball is damaged, or no space is left.
    """
    toolchain.require("tar", "xz")
    tree.reset()
    with tempfile.TemporaryDirectory(prefix="unpacking-", dir=tree.directory) as staging:
        _run_tar(tarball.path, Path(staging))
        Path(staging, "source").rename(tree.source)


def _run_tar(path: Path, staging: Path) -> None:
    target = staging / "source"
    target.mkdir()
    command = ["tar", "-x", "-J", "--strip-components=1", "-f", str(path), "-C", str(target)]
    result = apt.run(command)
    if result.returncode:
        reason = result.stderr.strip().partition("\n")[0]
        raise InfrastructureError(f"{path}: can't be unpacked: {reason}")


def _installed(package: str) -> tuple[str, Path] | None:
    """(version, tarball) of an installed package."""
    if shutil.which("dpkg-query") is None:
        return None
    result = apt.run(["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", package])
    status, _, version = result.stdout.partition(" ")
    path = _SOURCES / f"{package}{_SUFFIX}"
    if result.returncode or status != "installed" or not path.is_file():
        return None
    return version, path


def _download(package: str, suite: str, downloads: Path) -> tuple[str, Path]:
    """(version, tarball) of what apt offers."""
    apt.require_apt(package)
    with cache.disk_errors(), tempfile.TemporaryDirectory(dir=downloads) as name:
        staging = Path(name)
        source = apt.private_apt(suite, staging / "apt") if suite else apt.Apt()
        package_file, reason = source.download(package, staging / "package")
        if package_file is None:
            raise _unavailable(package, suite, reason)
        return _extract_tarball(package, package_file, staging, downloads)


def _unavailable(package: str, suite: str, reason: str) -> UnavailableSourceError:
    said = f" ({reason})" if reason else ""
    if suite:
        return UnavailableSourceError(
            f"the Debian package {package} of suite {suite} can't be had here{said}"
        )
    return UnavailableSourceError(
        f"the Debian package {package}{said} is missing; install it with: apt-get install {package}"
    )


def _extract_tarball(
    package: str, package_file: Path, staging: Path, downloads: Path
) -> tuple[str, Path]:
    version = apt.control_field(package_file, "Version")
    apt.unpack(package_file, staging)
    tarball = staging / _SOURCES.relative_to("/") / f"{package}{_SUFFIX}"
    if not tarball.is_file():
        raise SourceError(f"debian:{package}: the package has no {_SOURCES / tarball.name}")
    return version, tarball.rename(downloads / f"{package}_{version}{_SUFFIX}")
