"""Which gdb there is for a guest's code."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache

from qemu_diff.errors import MissingToolError

GDB = "gdb-multiarch"
"""Debian's name; elsewhere `gdb` itself may know every architecture."""


@cache
def find_gdb() -> str | None:
    """The path of a gdb that knows aarch64, or None."""
    for name in (GDB, "gdb"):
        if found := shutil.which(name):
            ask = [found, "--nx", "--batch", "-ex", "set architecture aarch64"]
            done = subprocess.run(ask, capture_output=True, check=False, stdin=subprocess.DEVNULL)
            if not done.returncode and b"Undefined item" not in done.stderr:
                return found
    return None


def require_gdb() -> str:
    """As :func:`find_gdb`.

    :raises MissingToolError: there is none.
    """
    found = find_gdb()
    if found is None:
        raise MissingToolError("a gdb for aarch64", apt=GDB, dnf="gdb")
    return found
