"""The command line. Every outcome becomes an exit code; no user's mistake becomes a traceback."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import NoReturn

from cyclopts import CycloptsError

from qemu_diff.campaign.outcome import ExitCode
from qemu_diff.cli.app import app
from qemu_diff.cli.terminal import complaints_here, reader_may_leave
from qemu_diff.errors import QemuDiffError


def main() -> NoReturn:
    """Entry point of the ``qemu-diff`` program."""
    # A terminal that lacks a character must not end a run.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    # An ordinary kill must stop guests and leave whole results, just as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupted)
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    complaints = complaints_here()
    status: int | None = ExitCode.AS_EXPECTED
    try:
        with reader_may_leave():
            status = app(
                arguments, exit_on_error=False, print_error=False, result_action="return_value"
            )
    except CycloptsError as error:
        complaints.print(f"qemu-diff: {' '.join(str(error).split())}; see qemu-diff --help")
        return ExitCode.USER_ERROR
    except QemuDiffError as error:
        complaints.print(f"qemu-diff: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        complaints.print("qemu-diff: interrupted")
        return ExitCode.LOST
    except Exception as error:  # whatever it is, it is ours, and no verdict about a kernel
        report = Path(tempfile.gettempdir()) / f"qemu-diff-crash-{os.getpid()}.txt"
        report.write_text(traceback.format_exc(), encoding="utf-8")
        complaints.print(f"qemu-diff: a bug of ours: {error!r}; the traceback is in {report}")
        return ExitCode.LOST
    return int(status or 0)


def _interrupted(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
