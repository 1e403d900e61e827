"""The command about this machine."""

from __future__ import annotations

from qemu_diff.campaign.outcome import ExitCode
from qemu_diff.cli.app import app
from qemu_diff.cli.terminal import console_here
from qemu_diff.doctor import all_needed, checks, print_checks


@app.command
def doctor() -> int:
    """Say what this machine lacks, with the command that mends it; exit status 2 then."""
    done = checks()
    print_checks(done, console_here())
    return ExitCode.AS_EXPECTED if all_needed(done) else ExitCode.USER_ERROR
