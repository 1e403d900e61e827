"""Patches as kernel developers pass them on: plain diffs, mail, and whole series of them.

A file is a plain diff, or one mail, or a mailbox of several, as ``git format-patch``, ``b4 am`` and
mail archives write them; a directory is a series, in the order of its ``series`` file (quilt(1)) or
of its files' names. Of a mail only the diff counts: the same patch that came another way is the
same kernel.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import UserError
from ..scratch import scratch_directory
from .git import complaint, run_git
from .patch import Patch
from .tree import inside

_PATTERNS = ("*.patch", "*.diff")

# RFC 5322, 2.2 "Header Fields"; a mailbox puts a line of its own before them (mbox(5)).
_FIELD = re.compile(rb"[!-9;-~]+:|[ \t]+\S")
_ENVELOPE = b"From "
_NEEDED = re.compile(rb"^subject:", re.IGNORECASE | re.MULTILINE)

_CHANGE = re.compile(rb"^(?:diff --git |\+\+\+ )", re.MULTILINE)

# "[PATCH v2 2/3] KVM: arm64: …"
_POSITION = re.compile(r"\[[^\]]*?\b(\d+)/(\d+)\]")
# git-format-patch(1), --signature: its own version, behind RFC 3676's separator.
_SIGNATURE = re.compile(rb"\n-- \n[^\n]*\n*\Z")

_LONGEST_NAME = 1000
"""Characters of a path; Linux allows four times as many bytes (PATH_MAX)."""

_SHOWN = 100

_REPLY = re.compile(r"\s*re:", re.IGNORECASE)


def read_patches(paths: Iterable[Path]) -> tuple[Patch, ...]:
    """The patches of files and directories, in order.

    :raise UserError: one can't be read, or holds no patch.
    :raise MissingToolError: there is mail, and no git.
    """
    return tuple(one for path in paths for one in _read(path))


def _read(path: Path) -> Iterable[Patch]:
    if path.is_dir():
        return _read_directory(path)
    content = _content(path)
    if not _is_mail(content):
        return (Patch(path, content),)
    if patches := _read_mail(path, content):
        return patches
    raise UserError(f"{path}: there is no patch in this mail")


def _read_directory(directory: Path) -> list[Patch]:
    series = directory / "series"
    names = list(_names_in(series)) if series.exists() else _sorted_names(directory)
    patches: list[Patch] = []
    for name in names:
        path = directory / name
        content = _content(path)
        # A cover letter is a mail without a patch.
        patches += _read_mail(path, content) if _is_mail(content) else [Patch(path, content)]
    if not patches:
        raise UserError(f"{directory}: there is no patch in this directory")
    return patches


def _sorted_names(directory: Path) -> list[str]:
    return sorted({path.name for pattern in _PATTERNS for path in directory.glob(pattern)})


def _names_in(series: Path) -> Iterator[str]:
    """The files that quilt would apply."""
    for number, line in enumerate(_content(series).decode(errors="replace").splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise UserError(f"{series}:{number}: not a line of a series: {error}") from error
        if not words:
            continue
        if words[1:] not in ([], ["-p1"]):
            options = " ".join(words[1:])[:_SHOWN]
            raise UserError(f"{series}:{number}: {options}: only -p1 is known")
        if "\0" in words[0] or len(words[0]) > _LONGEST_NAME or not inside(words[0]):
            raise UserError(f"{series}:{number}: {words[0][:_SHOWN]!r} is no file of the series")
        yield words[0]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't read the patch: {error.strerror}") from error


# --- mail ----------------------------------------------------------------------------------------


def _is_mail(content: bytes) -> bool:
    """Whether a file begins with a mail's header."""
    if content.startswith(_ENVELOPE):
        content = content.partition(b"\n")[2]
    header = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[0]
    lines = header.splitlines()
    return bool(_NEEDED.search(header)) and all(_FIELD.match(line) for line in lines)


def _read_mail(path: Path, content: bytes) -> list[Patch]:
    """The patches of a mailbox; other mail, such as a cover letter or an answer, is left out."""
    with scratch_directory() as scratch:
        _git(path, "mailsplit", "-b", f"-o{scratch}", stdin=content)
        mails = [_read_one(path, mail) for mail in sorted(scratch.iterdir())]
    patches = [one for one in mails if _CHANGE.search(one.content)]
    return [one for one in patches if not _REPLY.match(one.subject)] or patches


def _read_one(path: Path, mail: Path) -> Patch:
    message, diff = mail.with_suffix(".message"), mail.with_suffix(".diff")
    command = ("-c", "mailinfo.scissors=false", "mailinfo", "-k", "--encoding=UTF-8")
    told = _git(path, *command, str(message), str(diff), stdin=mail.read_bytes())
    fields = dict(line.partition(": ")[::2] for line in told.splitlines())
    subject = fields.get("Subject", "")
    found = _POSITION.search(subject)
    position = (int(found[1]), int(found[2])) if found else None
    return Patch(path, _SIGNATURE.sub(b"\n", diff.read_bytes()), subject, position)


def _git(path: Path, *arguments: str, stdin: bytes) -> str:
    result = run_git(*arguments, stdin=stdin)
    if result.returncode:
        raise UserError(f"{path}: can't be read as mail: {complaint(result)}")
    return os.fsdecode(result.stdout)
