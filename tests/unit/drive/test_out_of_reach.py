"""What a user reads of a debugger's session that came to no end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qemu_diff.drive.out_of_reach import BrokenOff, why_out_of_reach
from qemu_diff.drive.peer import PeerConsole
from qemu_diff.guest.process import Ending, GuestExit

BUDGET_S = 60
ALIVE = PeerConsole(None, None, (), "", "VHE")
MUTE = BrokenOff("no answer", stops=0, idle_s=BUDGET_S, late=True)
BROKEN = BrokenOff("the gdbstub sent garbage: 'x'", stops=1200, idle_s=0.1, late=False)
EXITED = GuestExit(Ending.EXITED, 0, "", (), "", "reboot: Power down", 5.0)
GIVEN_UP = replace(EXITED, ending=Ending.GIVEN_UP, last_line="peer: begin")


@pytest.mark.parametrize(
    ("broken", "ended", "console", "reason"),
    [
        (BROKEN, GIVEN_UP, ALIVE, "the gdbstub sent garbage: 'x', after 1,200 stops"),
        (
            BROKEN,
            replace(EXITED, ending=Ending.DIED, status=-9),
            ALIVE,
            "QEMU died (signal 9), after 1,200 stops; the console's last line: reboot: Power down",
        ),
        (
            replace(MUTE, late=False),
            replace(EXITED, ending=Ending.DIED, status=1, last_line=""),
            ALIVE,
            "QEMU died (exit status 1)",
        ),
        (
            BROKEN,
            EXITED,
            replace(ALIVE, failure="/dev/kvm: No such file or directory"),
            "L1 could not start its QEMU: /dev/kvm: No such file or directory",
        ),
        (
            BROKEN,
            EXITED,
            replace(ALIVE, status=-6, words=("first", "Assertion failed")),
            "L1's QEMU ended (signal 6), after 1,200 stops: the gdbstub sent garbage: 'x'; "
            "its last words: Assertion failed",
        ),
        (
            BROKEN,
            EXITED,
            ALIVE,
            "L1 went down, after 1,200 stops: the gdbstub sent garbage: 'x'; "
            "the console's last line: reboot: Power down",
        ),
        (
            MUTE,
            GIVEN_UP,
            ALIVE,
            "not done within 60 s: no answer; the console's last line: peer: begin; "
            "if it is only slow, raise campaign.budget_s",
        ),
        (
            replace(BROKEN, idle_s=45.2, late=True),
            GIVEN_UP,
            ALIVE,
            "no stop for 45 s, after 1,200 stops: the gdbstub sent garbage: 'x'",
        ),
        (
            replace(BROKEN, late=True),
            GIVEN_UP,
            ALIVE,
            "not done within 60 s, after 1,200 stops; raise campaign.budget_s",
        ),
    ],
)
def test_who_had_the_last_word(
    broken: BrokenOff, ended: GuestExit, console: PeerConsole, reason: str
) -> None:
    assert why_out_of_reach(broken, ended, console, BUDGET_S) == reason
