"""What commands share of the terminal: its console, streams that may fail, boots side by side."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from qemu_diff.campaign.capacity import usable_cpus
from qemu_diff.campaign.outcome import MEANINGS, ExitCode
from qemu_diff.errors import UserError
from qemu_diff.report.printable import printable, without_commands

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer


class _Stream(FileIO):
    """What is written, as far as it can be: a reader that leaves, a terminal that hangs up, a log
    on a full disk must neither end a run nor lose a cell.

    :ivar trouble: the first that there was with the file itself; None: none.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.trouble: OSError | None = None

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _LISTENER_LEFT:
                self.trouble = self.trouble or error
            return memoryview(data).nbytes


_LISTENER_LEFT = {errno.EPIPE, errno.EIO, errno.ECONNRESET}
"""Of pipes, terminals and sockets: nobody is there any more who would miss it."""


def never_failing(stream: TextIO | None) -> TextIO:
    """Standard output, or standard error, that can always be printed to.

    :param stream: as Python has opened it; None: it was closed before we began.
    """
    if stream is None:
        return Path(os.devnull).open("w")
    if not isinstance(stream, TextIOWrapper):
        return stream
    # A terminal that lacks a character must not end a run either.
    return TextIOWrapper(
        BufferedWriter(_Stream(stream.fileno())),
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def trouble_of(stream: TextIO) -> OSError | None:
    """Why something that was printed is not where it was to go; None: nobody misses any of it."""
    stream.flush()
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw.trouble if isinstance(raw, _Stream) else None


def checked_jobs(jobs: int | None) -> int | None:
    """``--jobs``, as it was given.

    :raises UserError: fewer than one was asked for.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: at least one at a time")
    return jobs


def at_once_of(jobs: int | None) -> int:
    """How many compilers, or at most how many boots, run side by side.

    :raises UserError: fewer than one was asked for.
    """
    return checked_jobs(jobs) or usable_cpus()


class OnlyText(Console):
    """A console on which others' text stays text, whoever prints it: what a kernel, a gdb or a file
    puts into our lines moves no cursor, sets no title and gives no CI a command."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich does, and then without what a terminal would act on."""
        for one in super().render(renderable, options):
            yield one if one.control else one._replace(text=_only_text(one.text))


def _only_text(text: str) -> str:
    shown = "\n".join(one if one.isprintable() else printable(one) for one in text.split("\n"))
    return without_commands(shown) if os.environ.get("CI") else shown


def console_here() -> Console:
    """Where commands print; without colours and cursor movements in CI."""
    quiet = bool(os.environ.get("CI"))
    width = None if sys.stdout.isatty() else 120
    return OnlyText(width=width, force_terminal=False if quiet else None, highlight=False)


def complaints_here() -> Console:
    """Where commands complain."""
    return OnlyText(stderr=True, soft_wrap=True, highlight=False, markup=False)


def warn(line: str) -> None:
    """Say something that changes no verdict."""
    complaints_here().print(f"qemu-diff: {line}")


def print_meaning(code: ExitCode, console: Console) -> None:
    """What an exit status that is not 0 means."""
    if code:
        console.print(f"Exit status {code:d}: {MEANINGS[code]}", markup=False, soft_wrap=True)
