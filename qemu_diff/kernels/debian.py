"""Debian's ``linux-source-*`` packages: find the tarball, or fetch it without being root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import InfrastructureError, MissingToolError, SourceError
from ..model import DebianSource
from . import cache, toolchain
from .tree import IsolatedTree

#: Where the packages put their tarball.
_SOURCES = Path("/usr/src")

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

    :raise SourceError: not the name of a kernel source package.
    :raise MissingToolError: the package is not installed and apt can't fetch it.
    """
    package = source.package
    if not _PACKAGE.fullmatch(package):
        raise SourceError(
            f"debian:{package}: not a kernel source package; their names are like linux-source-6.1"
        )
    found = _installed(package) or _downloaded(package) or _download(package)
    version, path = found
    return Tarball(package, version, path, cache.digest_file(path).sha256)


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
    result = _run(command)
    if result.returncode:
        reason = result.stderr.strip().partition("\n")[0]
        raise InfrastructureError(f"{path}: can't be unpacked: {reason}")


def _installed(package: str) -> tuple[str, Path] | None:
    """(version, tarball) of an installed package."""
    if shutil.which("dpkg-query") is None:
        return None
    result = _run(["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", package])
    status, _, version = result.stdout.partition(" ")
    path = _SOURCES / f"{package}.tar.xz"
    if result.returncode or status != "installed" or not path.is_file():
        return None
    return version, path


def _downloaded(package: str) -> tuple[str, Path] | None:
    """(version, tarball) of what was downloaded last."""
    tarballs = list(cache.cache_directory("downloads").glob(f"{package}_*.tar.xz"))
    if not tarballs:
        return None
    newest = max(tarballs, key=lambda path: path.stat().st_mtime)
    return newest.name.removeprefix(f"{package}_").removesuffix(".tar.xz"), newest


def _download(package: str) -> tuple[str, Path]:
    """(version, tarball) of what apt offers. ``apt-get download`` needs no root."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise SourceError(
            f"debian:{package}: this machine has no apt; give a directory with a kernel tree"
        )
    downloads = cache.cache_directory("downloads")
    with cache.disk_errors(), tempfile.TemporaryDirectory(dir=downloads) as name:
        staging = Path(name)
        package_file = _apt_download(package, staging)
        return _extract_tarball(package, package_file, staging, downloads)


def _apt_download(package: str, staging: Path) -> Path:
    result = _run(["apt-get", "download", "-q", package], staging)
    packages = list(staging.glob("*.deb"))
    if result.returncode or not packages:
        reasons = [line for line in result.stderr.splitlines() if line.startswith("E:")]
        reason = f" ({reasons[0][2:].strip()})" if reasons else ""
        raise MissingToolError(
            f"the Debian package {package}{reason}",
            apt=package,
        )
    return packages[0]


def _extract_tarball(
    package: str, package_file: Path, staging: Path, downloads: Path
) -> tuple[str, Path]:
    version = _dpkg_deb("-f", str(package_file), "Version").strip()
    _dpkg_deb("-x", str(package_file), str(staging))
    tarball = staging / _SOURCES.relative_to("/") / f"{package}.tar.xz"
    if not tarball.is_file():
        raise SourceError(f"debian:{package}: the package has no {_SOURCES / tarball.name}")
    return version, tarball.rename(downloads / f"{package}_{version}.tar.xz")


def _dpkg_deb(*arguments: str) -> str:
    result = _run(["dpkg-deb", *arguments])
    if result.returncode:
        reason = result.stderr.strip().partition("\n")[0]
        raise InfrastructureError(f"dpkg-deb {arguments[0]}: {reason}")
    return result.stdout


def _run(command: list[str], directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program with its messages in English, of which one is known.

    :raise InfrastructureError: no space is left.
    """
    result = subprocess.run(
        command,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if "No space left on device" in result.stderr:
        raise InfrastructureError(cache.no_space_message())
    return result
