"""The command line. Every outcome becomes an exit code; no user's mistake becomes a traceback."""

from __future__ import annotations

import signal
import sys
import tempfile
import traceback
from io import TextIOWrapper
from types import FrameType
from typing import NoReturn

from cyclopts import CycloptsError

from qemu_diff.campaign.outcome import ExitCode, bisect_failure
from qemu_diff.cli.app import app
from qemu_diff.cli.run import BISECT_EXIT
from qemu_diff.cli.terminal import complaints_here, reader_may_leave
from qemu_diff.errors import QemuDiffError
from qemu_diff.kernels import OF_THE_COMMIT


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
    # Looked for here: a mistake in another option must not tell git that a commit is bad.
    failed = bisect_failure if BISECT_EXIT in arguments else _plain_failure
    try:
        with reader_may_leave():
            status = app(
                arguments, exit_on_error=False, print_error=False, result_action="return_value"
            )
    except CycloptsError as error:
        complaints.print(f"qemu-diff: {' '.join(str(error).split())}; see qemu-diff --help")
        return failed(ExitCode.USER_ERROR)
    except QemuDiffError as error:
        complaints.print(f"qemu-diff: {error}")
        return failed(error.exit_code, of_the_commit=isinstance(error, OF_THE_COMMIT))
    except KeyboardInterrupt:
        complaints.print("qemu-diff: interrupted")
        return failed(ExitCode.LOST)
    except Exception as error:  # whatever it is, it is ours, and no verdict about a kernel
        # Anybody may have laid a link under a name that can be guessed.
        with tempfile.NamedTemporaryFile(
            "w", prefix="qemu-diff-crash-", suffix=".txt", delete=False
        ) as report:
            report.write(traceback.format_exc())
        complaints.print(f"qemu-diff: a bug of ours: {error!r}; the traceback is in {report.name}")
        return failed(ExitCode.LOST)
    return int(status or 0)


def _plain_failure(code: int, *, of_the_commit: bool = False) -> int:  # noqa: ARG001
    return code


def _interrupted(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
