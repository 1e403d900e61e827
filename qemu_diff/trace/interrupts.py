"""When L1's timer interrupts were delivered, from QEMU's own log.

QEMU logs each deadline that it computes for a generic timer as ``arm_gt_recalc`` (QEMU
target/arm/helper.c, ``gt_recalc_timer``): first the compare value that is waited for, and once the
counter has reached it an all-ones "next tick". Under icount a deadline ends the running translation
block, so an interrupt is delivered at exactly its compare value.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qemu_diff.errors import CorruptDataError
from qemu_diff.guest.shared import read_sealed_log

_RECALC = re.compile(rb"arm_gt_recalc gt recalc: timer (\d+) .*next tick 0x([0-9a-f]{1,16})\b")
_DISABLED = re.compile(rb"arm_gt_recalc_disabled gt recalc: timer (\d+)")
_NEVER = (1 << 64) - 1


def read_deliveries(path: Path) -> NDArray[np.uint64]:
    """Counter values (ns) at which a timer of L1 fired.

    :returns: shape (n,), ascending.
    :raises LostGuestError: the log was never sealed.
    :raises CorruptDataError: it was changed since, or holds a line that is no such event.
    """
    return deliveries(read_sealed_log(path).splitlines(), str(path))


def deliveries(lines: list[bytes], name: str) -> NDArray[np.uint64]:
    """As :func:`read_deliveries`, from the log's lines."""
    deadlines: dict[bytes, int] = {}
    fired: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not (match := _RECALC.search(line)):
            if disabled := _DISABLED.search(line):
                deadlines.pop(disabled[1], None)
                continue
            raise CorruptDataError(f"{name}:{number}: not a timer event: {line[:80]!r}")
        timer, next_tick = match[1], int(match[2], 16)
        if next_tick != _NEVER:
            deadlines[timer] = next_tick
        elif timer in deadlines:
            fired.append(deadlines.pop(timer))
    return np.sort(np.array(fired, dtype=np.uint64))
