"""The program: ``qemu-diff``, and ``python -m qemu_diff``."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> NoReturn:
    """Load the command line, and hand over to it."""
    # That takes half a second, and nothing has been started that a signal would have to end.
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    from qemu_diff.cli import main as command_line  # noqa: PLC0415

    command_line()


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    os.write(2, b"qemu-diff: interrupted\n")
    # campaign.outcome, which is not loaded: LOST, and what makes of it an end of `git bisect run`.
    os._exit(131 if "--bisect-exit" in sys.argv else 3)


if __name__ == "__main__":
    main()
