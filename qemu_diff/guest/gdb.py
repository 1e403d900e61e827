"""Which gdb there is for a guest's code."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache

from qemu_diff.errors import MissingToolError, refuse_killed

GDB = "gdb-multiarch"
"""Debian's name; elsewhere `gdb` itself may know every architecture."""


def find_gdb() -> str | None:
    """The path of a gdb that knows aarch64, or None."""
    found = map(shutil.which, (GDB, "gdb"))
    return next((path for path in found if path and _knows_aarch64(path)), None)


@cache
def _knows_aarch64(path: str) -> bool:
    ask = [path, "--nx", "--batch", "-ex", "set architecture aarch64"]
    done = subprocess.run(ask, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    refuse_killed(path, done.returncode)
    return not done.returncode and b"Undefined item" not in done.stderr


def require_gdb() -> str:
    """As :func:`find_gdb`.

    :raises MissingToolError: there is none.
    """
    found = find_gdb()
    if found is None:
        raise MissingToolError("a gdb for aarch64", apt=GDB, dnf="gdb")
    return found
