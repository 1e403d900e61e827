"""The files that ``run`` and ``report`` write for others. A format is a field and a row below."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from qemu_diff.errors import InfrastructureError, UserError
from qemu_diff.model import CampaignResult, Nights
from qemu_diff.report.cases import FIRST_NIGHT
from qemu_diff.report.html import html
from qemu_diff.report.junit import junit
from qemu_diff.report.kcidb import ORIGIN, ORIGIN_PATTERN, kcidb
from qemu_diff.report.ktap import ktap
from qemu_diff.report.results import write_whole
from qemu_diff.report.summary import summary


@dataclass(frozen=True)
class ReportFiles:
    """Where reports go.

    Parameters
    ----------
    junit
        Write JUnit XML there.
    ktap
        Write KTAP there: the kernel's own test format, version 1.
    kcidb
        Write a KCIDB report there: JSON, schema 5.
    kcidb_origin
        The name of the CI system that submits it.
    html
        Write the whole result there, as one page that needs no other file and no network.
    summary
        Append a short page in Markdown there, for a CI job: $GITHUB_STEP_SUMMARY, say.
    """

    junit: Path | None = None
    ktap: Path | None = None
    kcidb: Path | None = None
    kcidb_origin: str = ORIGIN
    html: Path | None = None
    summary: Path | None = None


Files = Annotated[ReportFiles, Parameter(name="*")]
NO_FILES = ReportFiles()


@dataclass(frozen=True)
class Told:
    """What reports tell.

    :param findings: names of the directories in ``findings/``.
    """

    result: CampaignResult
    nights: Nights = FIRST_NIGHT
    findings: tuple[str, ...] = ()


Render = Callable[[Told, ReportFiles], str]

_WHOLE: dict[str, Render] = {
    "junit": lambda told, _: junit(told.result, told.nights),
    "ktap": lambda told, _: ktap(told.result),
    "kcidb": lambda told, files: kcidb(told.result, files.kcidb_origin),
    "html": lambda told, _: html(told.result, told.findings),
}
"""Formats of which a file holds one, by option: it is written anew whenever more is known."""

_APPENDED: dict[str, Render] = {
    "summary": lambda told, _: summary(told.result, told.nights),
}
"""Formats that go to the end of a file, once."""


def check_files(files: ReportFiles) -> None:
    """See that each can be written, before anything else is done.

    :raises UserError: it can't, or the origin is none.
    """
    if not ORIGIN_PATTERN.fullmatch(files.kcidb_origin):
        raise UserError(
            f"--kcidb-origin {files.kcidb_origin}: an origin has only a-z, 0-9 and _ in it"
        )
    for option, path, _ in _asked(files, _WHOLE):
        check_file(option, path)
    for option, path, _ in _asked(files, _APPENDED):
        _check_place(f"--{option} {path}", path)


def check_file(option: str, path: Path) -> None:
    """See that a file can be written anew.

    :raises UserError: it can't; a pipe or a device would be replaced.
    """
    _check_place(f"--{option} {path}", path)
    if path.exists() and not path.is_file():
        raise UserError(f"--{option} {path}: that is no file")


def _check_place(name: str, path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{name}: that is a directory")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise UserError(f"{name}: its directory is not there, or can't be written")
    if path.exists() and not os.access(path, os.W_OK):
        raise UserError(f"{name}: it can't be written")


def any_asked(files: ReportFiles) -> bool:
    """Whether there is anything to write."""
    return any(True for _ in (*_asked(files, _WHOLE), *_asked(files, _APPENDED)))


def write_files(files: ReportFiles, told: Told) -> None:
    """Write those that are written anew whenever more is known.

    :raises InfrastructureError: one can't be written.
    """
    for _, path, render in _asked(files, _WHOLE):
        write_whole(path, render(told, files))


def append_files(files: ReportFiles, told: Told) -> None:
    """Write those that are written once.

    :raises InfrastructureError: one can't be written.
    """
    for _, path, render in _asked(files, _APPENDED):
        try:
            with os.fdopen(_end_of(path), "a", encoding="utf-8") as stream:
                stream.write(render(told, files))
        except OSError as error:
            raise InfrastructureError(f"{path}: {error.strerror}") from error


def _end_of(path: Path) -> int:
    """A pipe that nobody reads is refused, and not waited for (fifo(7))."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


def _asked(files: ReportFiles, formats: dict[str, Render]) -> Iterator[tuple[str, Path, Render]]:
    for option, render in formats.items():
        path: Path | None = getattr(files, option)
        if path is not None:
            yield option, path, render
