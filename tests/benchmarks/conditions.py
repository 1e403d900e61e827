"""What a figure hangs on, in words."""

from __future__ import annotations

import os

from qemu_diff.guest.qemu import Qemu


def conditions(qemu: Qemu | None = None, *more: str) -> str:
    """The machine and the QEMU of a measurement, and how busy the machine was at that moment."""
    load = os.getloadavg()[0]
    parts = [f"{os.cpu_count()} CPUs, load {load:.1f} at the end"]
    if qemu is not None:
        parts.insert(0, qemu.version)
    return ", ".join([*parts, *more])
