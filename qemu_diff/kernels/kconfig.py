"""Kconfig fragments: merged into one, and held against the configuration that came out.

The merged fragment answers ``make allnoconfig``, in which every option that no fragment names is
off. That is what ``tinyconfig`` plus fragments gives too, except for the options that only become
visible through a fragment: with ``tinyconfig`` they come with their defaults (a console, mice and
five decompressors for one UART).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InfrastructureError, KconfigError, UserError

#: Options without which a kernel can't be tested at all, whatever its version.
REQUIRED = (
    "CONFIG_KVM",
    "CONFIG_PRINTK",
    "CONFIG_SERIAL_AMBA_PL011_CONSOLE",
    "CONFIG_BLK_DEV_INITRD",
    "CONFIG_BINFMT_ELF",
    "CONFIG_DEVTMPFS",
    "CONFIG_SYSFS",
    "CONFIG_PCI_HOST_GENERIC",
    "CONFIG_TIMERFD",
    "CONFIG_HIGH_RES_TIMERS",
)

_ASSIGNMENT = re.compile(r"^(CONFIG_\w+)=(.+)$")
_UNSET = re.compile(r"^#\s*(CONFIG_\w+) is not set$")


_SHOWN = 100
"""Characters of a line that is refused."""


@dataclass(frozen=True)
class Fragment:
    """A fragment as it was read.

    :param options: option → (value, line number); value ``n`` where it is not to be set.
    """

    path: Path
    content: bytes
    options: Mapping[str, tuple[str, int]]

    @property
    def sha256(self) -> str:
        """Digest of the file."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Unmet:
    """An option that the final configuration has otherwise than a fragment says.

    :param got: ``n`` where it is not set or not known.
    """

    option: str
    wanted: str
    got: str
    fragment: Path
    line: int

    def __str__(self) -> str:
        return f"{self.fragment}:{self.line}: {self.option}={self.wanted} came out as {self.got}"


def own_fragment() -> Path:
    """The fragment that every kernel that is built starts from.

    :raise InfrastructureError: it is not installed.
    """
    return _own("l1.config")


def companion_fragment() -> Path:
    """What KVM of some kernels depends on, and L1 has no other use for.

    :raise InfrastructureError: it is not installed.
    """
    return _own("kvm-with-net.config")


def _own(name: str) -> Path:
    path = Path(__file__).resolve().parents[2] / "guest_images" / "kconfig" / name
    if not path.is_file():
        raise InfrastructureError(f"{path}: our own kconfig fragment is missing")
    return path


def read_fragment(path: Path) -> Fragment:
    """Read a fragment.

    :raise UserError: it can't be read, or has a line that is none of kconfig's.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't read the kconfig fragment: {error.strerror}") from error
    options = {}
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        option = _parse(line)
        if option is not None:
            options[option[0]] = (option[1], number)
        elif line.strip() and not line.startswith("#"):
            raise UserError(
                f"{path}:{number}: not a kconfig line: {line.strip()[:_SHOWN]!r}; "
                "it should be CONFIG_NAME=value or # CONFIG_NAME is not set"
            )
    return Fragment(path, content, options)


def merge(fragments: Iterable[Fragment]) -> str:
    """One fragment; a later one's word counts.

    Options keep the order in which they were decided: of several members of a choice, Kconfig takes
    the last.
    """
    merged: dict[str, str] = {}
    for fragment in fragments:
        for option, (value, _) in fragment.options.items():
            merged.pop(option, None)
            merged[option] = value
    return "".join(f"{option}={value}\n" for option, value in merged.items())


def parse_config(text: str) -> dict[str, str]:
    """The options of a ``.config``; those that are not set are left out."""
    parsed = (_parse(line) for line in text.splitlines())
    return {option: value for option, value in filter(None, parsed) if value != "n"}


def unmet(fragments: Iterable[Fragment], config: Mapping[str, str]) -> tuple[Unmet, ...]:
    """The options whose last word in the fragments the configuration does not follow."""
    last: dict[str, Unmet] = {}
    for fragment in fragments:
        for option, (value, line) in fragment.options.items():
            got = config.get(option, "n")
            last[option] = Unmet(option, value, got, fragment.path, line)
    return tuple(entry for entry in last.values() if not _satisfied(entry))


def check(
    kernel: str, own: Fragment, users: tuple[Fragment, ...], config: Mapping[str, str]
) -> tuple[str, ...]:
    """Check a configuration.

    :return: options of our own fragment that this kernel does not have or that a user's fragment
        has decided otherwise; a test can do without them.
    :raise KconfigError: an option that can't be done without, or one that the user asked for, did
        not come out.
    """
    fragments = (own, *users)
    for option in REQUIRED:
        if config.get(option) != "y":
            raise KconfigError(_lacks(kernel, option, fragments))
    for entry in unmet(users, config):
        raise KconfigError(f"kernel {kernel!r}: {entry}: {_why(entry)}")
    return tuple(entry.option for entry in unmet((own,), config))


def _lacks(kernel: str, option: str, fragments: tuple[Fragment, ...]) -> str:
    purpose = " and so has no KVM to test" if option == "CONFIG_KVM" else ""
    message = f"kernel {kernel!r} comes out without {option}=y{purpose}"
    decided = [f for f in fragments if option in f.options]
    value, line = decided[-1].options[option] if decided else ("n", 0)
    if value != "y" and decided:
        return f"{message}: {decided[-1].path}:{line} sets it to {value}"
    return f"{message}: this source's Kconfig does not take it"


def _why(entry: Unmet) -> str:
    if entry.wanted == "n":
        return "another option selects it"
    if entry.got == "n":
        return "this source does not know the option, or something that it depends on is not set"
    return "Kconfig takes another value"


def _parse(line: str) -> tuple[str, str] | None:
    if match := _ASSIGNMENT.match(line.rstrip()):
        return match[1], match[2]
    if match := _UNSET.match(line.rstrip()):
        return match[1], "n"
    return None


def _satisfied(entry: Unmet) -> bool:
    # Without CONFIG_MODULES, "m" becomes "y".
    return entry.got == entry.wanted or (entry.wanted == "m" and entry.got == "y")
