"""What commands share of the terminal: its console, readers that leave, boots side by side."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from qemu_diff.campaign.capacity import usable_cpus
from qemu_diff.campaign.outcome import MEANINGS, ExitCode
from qemu_diff.errors import UserError
from qemu_diff.report.printable import printable, without_commands


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """The reader of our output may go, `| head` say: that changes no verdict."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
