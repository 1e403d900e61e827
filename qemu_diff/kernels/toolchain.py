"""The programs that building a kernel takes, and which compiler it is."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

from ..errors import MissingToolError, refuse_killed

#: Prefix of the cross toolchain, as tuxmake and the kernel's ``CROSS_COMPILE`` have it.
CROSS_COMPILE = "aarch64-linux-gnu-"


@dataclass(frozen=True)
class Requirement:
    """A program, and the packages that bring it."""

    tool: str
    apt: str
    dnf: str


REQUIREMENTS = (
    Requirement(f"{CROSS_COMPILE}gcc", "gcc-aarch64-linux-gnu", "gcc-aarch64-linux-gnu"),
    Requirement(f"{CROSS_COMPILE}ld", "binutils-aarch64-linux-gnu", "binutils-aarch64-linux-gnu"),
    # Kbuild's own host programs: conf, fixdep, sorttable.
    Requirement("gcc", "build-essential", "gcc"),
    Requirement("make", "make", "make"),
    # Kconfig's parser is generated.
    Requirement("flex", "flex", "flex"),
    Requirement("bison", "bison", "bison"),
    # kernel/time/timeconst.bc
    Requirement("bc", "bc", "bc"),
    Requirement("patch", "patch", "patch"),
    Requirement("tar", "tar", "tar"),
    Requirement("xz", "xz-utils", "xz"),
)

#: What only some sources take.
OPTIONAL = (
    # A revision of a repository, and patches that came by mail.
    Requirement("git", "git", "git"),
)

#: Headers that host programs of some options include: (part of the header's path, what it is).
#: The compiler is the one to find out, so they are not asked for beforehand.
OPTIONAL_HEADERS = (
    ("openssl/", Requirement("OpenSSL's header files", "libssl-dev", "openssl-devel")),
    ("libelf.h", Requirement("libelf's header files", "libelf-dev", "elfutils-libelf-devel")),
    ("gelf.h", Requirement("libelf's header files", "libelf-dev", "elfutils-libelf-devel")),
)


def kernel_requirements() -> tuple[tuple[str, str, str], ...]:
    """(program, apt package, dnf package) of all that building a kernel takes."""
    return tuple((need.tool, need.apt, need.dnf) for need in REQUIREMENTS)


def require(*tools: str) -> None:
    """Check that programs are there.

    :param tools: names from :data:`REQUIREMENTS` and :data:`OPTIONAL`; all of the former when none
        is given.
    :raise MissingToolError: names every one that is not there, and the command that installs them.
    """
    named = [need for need in (*REQUIREMENTS, *OPTIONAL) if need.tool in tools]
    wanted = named if tools else REQUIREMENTS
    missing = [need for need in wanted if shutil.which(need.tool) is None]
    if missing:
        raise missing_tools(missing)


def missing_tools(missing: list[Requirement]) -> MissingToolError:
    """The error that names missing programs and the one command that installs them."""
    return MissingToolError(
        ", ".join(need.tool for need in missing),
        apt=" ".join(dict.fromkeys(need.apt for need in missing)),
        dnf=" ".join(dict.fromkeys(need.dnf for need in missing)),
    )


def toolchain_identity() -> tuple[str, ...]:
    """The version lines of compiler and linker.

    :raise MissingToolError: one of them is not there.
    :raise InfrastructureError: one of them was killed.
    """
    require(f"{CROSS_COMPILE}gcc", f"{CROSS_COMPILE}ld")
    return tuple(_version_line(f"{CROSS_COMPILE}{tool}") for tool in ("gcc", "ld"))


def _version_line(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    refuse_killed(program, done.returncode)
    return done.stdout.partition("\n")[0]
