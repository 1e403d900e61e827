"""The command line. Every outcome becomes an exit code; no user's mistake becomes a traceback."""

from __future__ import annotations

import math
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from cyclopts import CycloptsError

from qemu_diff.__main__ import SIGNALS
from qemu_diff.campaign.outcome import ExitCode, bisect_failure
from qemu_diff.cli.app import app
from qemu_diff.cli.run import BISECT_EXIT
from qemu_diff.cli.terminal import complaints_here, never_failing, trouble_of
from qemu_diff.errors import QemuDiffError
from qemu_diff.kernels import OF_THE_COMMIT
from qemu_diff.scratch import remove_held, temporary

AS_ONE_S = 0.25
"""Signals within this time are one: timeout(1) sends its own to its child, and to its group."""


def main() -> NoReturn:
    """Entry point of the ``qemu-diff`` program."""
    sys.stdout, sys.stderr = never_failing(sys.stdout), never_failing(sys.stderr)
    failed = _failure(sys.argv[1:])
    interruption = _Interruption(failed(ExitCode.LOST))
    try:
        for number in SIGNALS:
            # What was started with nohup(1), or in the background of a script, is meant to go on.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, interruption)
        with suppress(FileNotFoundError):  # who needs it says so
            temporary()
        status = _run(sys.argv[1:], interruption)
    except KeyboardInterrupt:  # while something else was told
        status = failed(ExitCode.LOST)
    except OSError as error:  # nor could what was wrong be written down: the disk is full
        complaints_here().print(f"qemu-diff: {error}")
        status = failed(ExitCode.LOST)
    # Python takes handlers away before it ends: a signal would make another exit status of ours.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if trouble := trouble_of(sys.stdout):
        complaints_here().print(f"qemu-diff: standard output: {trouble.strerror}")
        status = status or failed(ExitCode.LOST)
    sys.exit(status)


class _Interruption:
    """An ordinary kill, or a terminal that goes, must stop guests and leave whole results, just as
    Ctrl-C does. Who asks again does not want to wait for that."""

    def __init__(self, status: int) -> None:
        """
        :param status: to exit with.
        """
        self._status = status
        self._first: float | None = None

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        """:raises KeyboardInterrupt: it is the first."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
            raise KeyboardInterrupt
        if now - self._first > AS_ONE_S:
            # Results are whole at any moment, and what we started ends with us.
            remove_held()
            os._exit(self._status)

    def end_at_once(self) -> None:
        """The next one is taken for the second. An exception out of the midst of a write would have
        what was written stay in its buffer, and be said again."""
        self._first = -math.inf


def _run(arguments: list[str], interruption: _Interruption) -> int:
    complaints = complaints_here()
    status: int | None = ExitCode.AS_EXPECTED
    failed = _failure(arguments)
    try:
        status = app(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        interruption.end_at_once()
        complaints.print(f"qemu-diff: {' '.join(str(error).split())}; see qemu-diff --help")
        return failed(ExitCode.USER_ERROR)
    except QemuDiffError as error:
        interruption.end_at_once()
        complaints.print(f"qemu-diff: {error}")
        return failed(error.exit_code, of_the_commit=isinstance(error, OF_THE_COMMIT))
    except KeyboardInterrupt:
        complaints.print("qemu-diff: interrupted")
        return failed(ExitCode.LOST)
    except Exception as error:  # whatever it is, it is ours, and no verdict about a kernel
        interruption.end_at_once()
        if isinstance(error, FileNotFoundError) and _is_nowhere():
            complaints.print("qemu-diff: the working directory is gone; change to another one")
            return failed(ExitCode.USER_ERROR)
        # Anybody may have laid a link under a name that can be guessed.
        with tempfile.NamedTemporaryFile(
            "w", prefix="qemu-diff-crash-", suffix=".txt", delete=False
        ) as report:
            report.write(traceback.format_exc())
        complaints.print(f"qemu-diff: a bug of ours: {error!r}; the traceback is in {report.name}")
        return failed(ExitCode.LOST)
    return int(status or 0)


def _is_nowhere() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 - Path.cwd() is the same, and is to fail
    except FileNotFoundError:
        return True
    return False


def _failure(arguments: list[str]) -> Callable[..., int]:
    """How what went wrong becomes an exit status."""
    # Looked for here: a mistake in another option must not tell git that a commit is bad.
    return bisect_failure if BISECT_EXIT in arguments else _plain_failure


def _plain_failure(code: int, *, of_the_commit: bool = False) -> int:  # noqa: ARG001
    return code
