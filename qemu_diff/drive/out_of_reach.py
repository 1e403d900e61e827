"""Why a debugger could not go on. Pure: what L1 and both QEMUs said last, as one line.

A debugger only sees that a port falls silent, or talks nonsense. Whoever is behind it may have
ended, and said why on the console.
"""

from __future__ import annotations

from dataclasses import dataclass

from qemu_diff.drive.peer import PeerConsole
from qemu_diff.guest.process import Ending, GuestExit, how_ended


@dataclass(frozen=True)
class BrokenOff:
    """A debugger's session that came to no end.

    :param complaint: the debugger's.
    :param stops: of L2, as many as there were.
    :param idle_s: wall-clock seconds from the last of them, or from the start, to the complaint.
    :param late: the boot's budget was used up.
    """

    complaint: str
    stops: int
    idle_s: float
    late: bool


def why_out_of_reach(
    broken: BrokenOff, ended: GuestExit, console: PeerConsole, budget_s: float
) -> str:
    """The reason in one line.

    :param ended: how L0's QEMU ended.
    :param console: L1's.
    :param budget_s: wall-clock seconds that the boot had.
    """
    after = _after(broken)
    last_line = f"; the console's last line: {ended.last_line}" if ended.last_line else ""
    if ended.ending is Ending.DIED:
        return f"QEMU died ({how_ended(ended.status)}){after}{last_line}"
    if console.failure:
        return f"L1 could not start its QEMU: {console.failure}"
    if console.status is not None:
        words = f"; its last words: {console.words[-1]}" if console.words else ""
        return f"L1's QEMU ended ({how_ended(console.status)}){after}: {broken.complaint}{words}"
    if ended.ending is Ending.EXITED:
        return f"L1 went down{after}: {broken.complaint}{last_line}"
    return _while_both_lived(broken, last_line, budget_s)


def _while_both_lived(broken: BrokenOff, last_line: str, budget_s: float) -> str:
    after = _after(broken)
    if not broken.late:
        return f"{broken.complaint}{after}"
    if not broken.stops:
        return (
            f"not done within {budget_s:g} s: {broken.complaint}{last_line}; "
            "if it is only slow, raise campaign.budget_s"
        )
    if broken.idle_s > budget_s / 2:
        return f"no stop for {broken.idle_s:.0f} s{after}: {broken.complaint}"
    return f"not done within {budget_s:g} s{after}; raise campaign.budget_s"


def _after(broken: BrokenOff) -> str:
    return f", after {broken.stops:,} stops" if broken.stops else ""
