"""apt and dpkg-deb, used without being root and without changing what the machine has installed.

Two apts. The machine's own offers what its sources and its architecture offer. A *private* one has
a root of its own in our cache, and offers packages of another suite and perhaps of another
architecture from the same mirrors: nothing is installed by it, no maintainer script runs, and the
machine's lists stay as they are.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from ..errors import InfrastructureError, UnavailableSourceError, refuse_killed
from ..scratch import scratch_directory
from . import cache

#: What a private apt demands of a source: to be signed by Debian (package debian-archive-keyring).
TRUST = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg"

GUEST_ARCHITECTURE = "arm64"

# As `apt-get update --print-uris` words each source, in whatever format it was configured.
_RELEASE = re.compile(r"^'(?P<archive>[^']+)/dists/(?P<suite>[^/']+)/InRelease' ", re.MULTILINE)

# What `--print-uris` says of a package file: 'URI' NAME_VERSION_ARCHITECTURE.deb SIZE HASH. Neither
# name nor version has an underscore (Debian Policy 5.6.1, 5.6.12); the epoch's colon is %3a.
_OFFER = re.compile(
    r"^'[^']*' (?P<name>[^_\s]+)_(?P<version>[^_\s]+)_[^_\s]+\.deb (?P<size>\d{1,18})\b",
    re.MULTILINE,
)
_DEPENDS = re.compile(r"^(?:Pre-)?Depends: (?P<list>.+)$", re.MULTILINE)

# Debian's release classes; a machine may be configured with these instead of code names.
_CLASSES = {"stable", "oldstable", "oldoldstable", "testing", "unstable", "sid"}

_SECURITY = "-security"

_CONFIGURATION = """\
#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
// The machine's hooks are about the machine's own lists, and most need root.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
// A suite that is no longer maintained has a Release file that nobody signs anew.
Acquire::Check-Valid-Until "false";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
"""


@dataclass(frozen=True)
class PackageFile:
    """A package that apt could download.

    :param size: bytes of the file.
    """

    name: str
    version: str
    size: int


@dataclass(frozen=True)
class Apt:
    """An apt to download from.

    :param options: of its command line; none for the machine's own.
    :param complaint: the first thing that went wrong when its lists were fetched; may be empty.
    :param suite: of a private one: what its packages are taken from where several suites have them.
    """

    options: tuple[str, ...] = ()
    complaint: str = ""
    suite: str = ""

    def download(self, package: str, staging: Path) -> tuple[Path | None, str]:
        """Download a package; needs no root.

        :param package: its name, or ``NAME=VERSION``.
        :param staging: an empty directory.
        :return: the package file, or None and the reason.
        :raise InfrastructureError: no space is left.
        """
        staging.mkdir(exist_ok=True)
        result = run(["apt-get", *self.options, "download", "-q", package], staging)
        files = list(staging.glob("*.deb"))
        if result.returncode or not files:
            return None, self.complaint or _complaint(result.stderr)
        return files[0], ""

    def version_of(self, package: str) -> str:
        """The version that would be downloaded; empty where there is none."""
        # It says nothing of a package that lies in the working directory.
        with scratch_directory() as empty:
            command = ["apt-get", *self.options, "download", "--print-uris", "-q", package]
            listed = offers(run(command, empty).stdout)
        return listed[0].version if listed else ""

    def closure(self, package: str, without: str) -> tuple[PackageFile, ...]:
        """A package of a private apt's suite, and all that it depends on: this first.

        :param without: dependencies of the package whose names begin so are left out, and with them
            what only they need.
        :raise UnavailableSourceError: the suite or a package can't be had.
        :raise InfrastructureError: no space is left.
        """
        named = f"{package}/{self.suite}"
        # It says nothing of a package that lies in the working directory.
        with scratch_directory() as empty:
            listed = self._ask("apt-get", "download", "--print-uris", named, directory=empty)
        (wanted,) = offers(listed)
        fields = self._ask("apt-cache", "show", f"{wanted.name}={wanted.version}")
        depends = [
            alternatives.strip()
            for found in _DEPENDS.finditer(fields)
            for alternatives in found["list"].split(",")
        ]
        depends = [one for one in depends if not one.startswith(without)]
        if not depends:
            return (wanted,)
        # `satisfy`, not `install`: it takes dependencies without the package that has them.
        needed = self._ask(
            *("apt-get", "satisfy", "--print-uris", "--yes", "--no-install-recommends"),
            *("-t", self.suite),
            ", ".join(depends),
        )
        return wanted, *offers(needed)

    def download_all(self, packages: Iterable[PackageFile], staging: Path) -> list[Path]:
        """Download packages; needs no root.

        :param staging: an empty directory.
        :return: the package files.
        :raise UnavailableSourceError: one can't be had.
        :raise InfrastructureError: no space is left.
        """
        staging.mkdir()
        names = (f"{package.name}={package.version}" for package in packages)
        self._ask("apt-get", "download", *names, directory=staging)
        return sorted(staging.glob("*.deb"))

    def _ask(
        self, program: str, command: str, *arguments: str, directory: Path | None = None
    ) -> str:
        """What apt answers.

        :raise UnavailableSourceError: it refuses.
        """
        result = run([program, *self.options, command, "-q", *arguments], directory)
        if result.returncode:
            reason = self.complaint or _complaint(result.stderr) or "apt gives no reason"
            raise UnavailableSourceError(f"suite {self.suite}: {reason}")
        return result.stdout


def offers(listed: str) -> tuple[PackageFile, ...]:
    """The packages that ``apt-get --print-uris`` lists, among whatever else it says."""
    return tuple(
        PackageFile(found["name"], unquote(found["version"]), int(found["size"]))
        for found in _OFFER.finditer(listed)
    )


def own_suite() -> str:
    """The code name of the Debian release that this machine runs.

    :raise UnavailableSourceError: it runs something else.
    """
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    # A derivative has code names of its own, which no mirror of Debian knows.
    suite = release.get("VERSION_CODENAME", "")
    if release.get("ID") != "debian" or not suite:
        name = release.get("PRETTY_NAME", "a system without os-release(5)")
        raise UnavailableSourceError(
            f"this machine runs {name}, not a release of Debian; name a suite, such as bookworm"
        )
    return suite


def own_architecture() -> str:
    """What Debian calls this machine's architecture: ``amd64``.

    :raise InfrastructureError: dpkg does not say.
    """
    result = run(["dpkg", "--print-architecture"])
    if result.returncode:
        raise InfrastructureError("dpkg --print-architecture fails")
    return result.stdout.strip()


def private_apt(
    suite: str, directory: Path, base: str = "", architecture: str = GUEST_ARCHITECTURE
) -> Apt:
    """An apt for packages of one suite, from the machine's own mirrors of Debian.

    :param suite: ``bullseye``, ``bullseye-security``, …
    :param directory: gets its root; an empty directory.
    :param base: a suite that has what packages of the first depend on and it has not itself, as
        ``bookworm`` for ``bookworm-backports``; or nothing.
    :param architecture: of the packages; by default L1's.
    :raise UnavailableSourceError: the machine has no apt, or no mirror that could have the suite.
    :raise InfrastructureError: no space is left.
    """
    suites = filter(None, (suite, base))
    places = [(archive, one) for one in suites for archive in _archives(one)]
    (directory / "lists/partial").mkdir(parents=True)
    (directory / "archives/partial").mkdir(parents=True)
    (directory / "status").touch()
    (directory / "apt.conf").write_text(_CONFIGURATION.format(architecture=architecture))
    source = f"deb [arch={architecture} lang=none target=Packages {TRUST}]"
    lines = [f"{source} {archive} {one} main\n" for archive, one in places]
    (directory / "sources.list").write_text("".join(lines))
    options = _private_options(directory)
    result = run(["apt-get", *options, "update", "-q"])
    return Apt(options, _complaint(result.stderr), suite)


def require_apt(package: str, instead: str = "give a directory with a kernel tree") -> None:
    """Check that packages can be downloaded and unpacked.

    :param instead: what a user without apt could do.
    :raise UnavailableSourceError: this is no machine with apt.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise UnavailableSourceError(f"debian:{package}: this machine has no apt; {instead}")


def unpack(package_file: Path, target: Path) -> None:
    """Unpack a package's files; nothing of it is run.

    :raise InfrastructureError: it is damaged, or no space is left.
    """
    _dpkg_deb("-x", str(package_file), str(target))


def control_field(package_file: Path, name: str) -> str:
    """A field of a package, such as ``Version``; empty where it has none.

    :raise InfrastructureError: it is damaged.
    """
    return _dpkg_deb("-f", str(package_file), name).strip()


def run(command: list[str], directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program with its messages in English, of which some are known.

    :raise InfrastructureError: no space is left, or it was killed.
    """
    result = subprocess.run(
        command,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    refuse_killed(command[0], result.returncode)
    if "No space left on device" in result.stderr:
        raise InfrastructureError(cache.no_space_message())
    return result


def _private_options(directory: Path) -> tuple[str, ...]:
    """Options that move all of apt's state; proxies and other settings stay the machine's."""
    places = {
        "Dir::State": directory,
        "Dir::State::lists": directory / "lists",
        "Dir::State::status": directory / "status",
        "Dir::Cache": directory,
        "Dir::Cache::archives": directory / "archives",
        "Dir::Etc::sourcelist": directory / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
    }
    options = [text for name, place in places.items() for text in ("-o", f"{name}={place}")]
    return ("-c", str(directory / "apt.conf"), *options)


def _archives(suite: str) -> tuple[str, ...]:
    """The machine's own mirrors of Debian that could have a suite.

    Security suites lie in an archive of their own (Debian Developer's Reference 4.6).
    """
    result = run(["apt-get", "update", "--print-uris"])
    names = {platform.freedesktop_os_release().get("VERSION_CODENAME", ""), *_CLASSES}
    archives = dict.fromkeys(
        found["archive"]
        for found in _RELEASE.finditer(result.stdout)
        if found["suite"].partition("-")[0] in names
        and found["suite"].endswith(_SECURITY) == suite.endswith(_SECURITY)
    )
    if not archives:
        kind = "security archive" if suite.endswith(_SECURITY) else "archive"
        raise UnavailableSourceError(f"suite {suite}: apt is configured with no Debian {kind} here")
    return tuple(archives)


def _complaint(messages: str) -> str:
    """The first error of apt's, else its first failure to fetch something, else nothing."""
    lines = messages.splitlines()
    for start in ("E:", "W: Failed to fetch", "W: GPG error"):
        for line in lines:
            if line.startswith(start):
                return " ".join(line[2:].split())
    return ""


def _dpkg_deb(*arguments: str) -> str:
    result = run(["dpkg-deb", *arguments])
    if result.returncode:
        reason = result.stderr.strip().partition("\n")[0]
        raise InfrastructureError(f"dpkg-deb {arguments[0]}: {reason}")
    return result.stdout
