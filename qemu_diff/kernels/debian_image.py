"""Debian's ``linux-image-*`` packages: kernels that Debian built, from any suite that is served.

They witness that a bug is not of our own making: their source, compiler and configuration are all
somebody else's.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import SourceError, UnavailableSourceError
from ..model import DebianSource, ImageSource
from ..scratch import scratch_directory
from . import apt, cache

_SUFFIX = ".vmlinuz"

_PREFIX = "linux-image-"

# A metapackage depends on the image package of the version it stands for, and that is all of it:
# linux-image-cloud-arm64 → linux-image-5.10.0-32-cloud-arm64 (= 5.10.223-1). Since 7.x the image
# package is one, too: → linux-binary-7.2.13+deb14-cloud-arm64 (= 7.2.13-1).
_NEXT = tuple(
    re.compile(rf"(?P<name>{prefix}[a-z0-9.+-]+)(?: \(= (?P<version>[^)]+)\))?")
    for prefix in ("linux-binary-", _PREFIX)
)
_KERNELS = ("boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz")
_LONGEST_CHAIN = 3


def is_image(source: DebianSource) -> bool:
    """Whether a package holds a kernel that is built already."""
    return source.package.startswith(_PREFIX)


def locate(source: DebianSource, *, newer: bool = False) -> ImageSource:
    """The kernel of a package: the one in the cache, else one that apt fetches.

    :param newer: have apt fetch it, whatever lies in the cache.
    :raise SourceError: no suite is named, or the package holds no kernel.
    :raise UnavailableSourceError: the suite or the package can't be had here.
    :raise InfrastructureError: a package is damaged, or no space is left.
    """
    package, suite = source.package, source.suite
    if not suite:
        raise SourceError(f"debian:{package}: a kernel image needs a suite, such as bullseye")
    downloads = cache.cache_directory(f"downloads/{suite}")
    found = None if newer else cache.newest_download(downloads, package, _SUFFIX)
    if found is not None:
        return ImageSource(found[1])
    apt.require_apt(package)
    with cache.disk_errors(), scratch_directory(downloads) as staging:
        version, kernel = _fetch(package, suite, staging)
        # Its own time is the package's; what counts is what was downloaded last.
        os.utime(kernel)
        return ImageSource(kernel.rename(downloads / f"{package}_{version}{_SUFFIX}"))


def _fetch(package: str, suite: str, staging: Path) -> tuple[str, Path]:
    """(version, kernel) of a package, or of the one that it stands for."""
    source = apt.private_apt(suite, staging / "apt")
    wanted = package
    for link in range(_LONGEST_CHAIN):
        package_file, reason = source.download(wanted, staging / f"{link}")
        if package_file is None:
            raise UnavailableSourceError(
                f"the Debian package {wanted} of suite {suite} can't be had here: "
                f"{reason or 'apt gives no reason'}"
            )
        files = staging / f"{link}.files"
        apt.unpack(package_file, files)
        if kernels := [path for pattern in _KERNELS for path in sorted(files.glob(pattern))]:
            return apt.control_field(package_file, "Version"), kernels[0]
        depends = apt.control_field(package_file, "Depends")
        found = next(filter(None, (one.search(depends) for one in _NEXT)), None)
        if found is None:
            break
        wanted = "=".join(filter(None, (found["name"], found["version"])))
    raise SourceError(f"the Debian package {package} of suite {suite} holds no kernel")
