"""``--tree [NAME=]PATH_OR_URL[@REV]``: another source for one of a campaign's kernels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu_diff.config.overrides import Override, OverrideError
from qemu_diff.config.paths import expanded, is_directory, is_url
from qemu_diff.config.problems import listing, suggestion
from qemu_diff.config.ranges import ends
from qemu_diff.errors import UserError

CANDIDATE = "candidate"
"""The kernel that is meant where none is named."""

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9_-]{1,64})=(?P<rest>.*)", re.DOTALL)

# In an URL the first @ may stand before the host.
_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*|[^/:]+@[^/:]+:")


@dataclass(frozen=True)
class TreeOption:
    """One ``--tree``, read.

    :param text: as the user wrote it.
    :param kernel: whose source it is; empty where it is not said.
    :param repository: an absolute path, or an URL.
    :param rev: empty where it is not said.
    :param dirty: the directory as it is, and not a commit.
    """

    text: str
    kernel: str
    repository: str
    rev: str
    dirty: bool


def read_tree_option(text: str, *, dirty: bool = False) -> TreeOption:
    """Read one ``--tree``; a relative path is relative to the working directory.

    :raise UserError: it names no tree, or more than one revision, or one beside ``--dirty``.
    """
    named = _NAMED.fullmatch(text)
    # A directory's own name may hold a "=".
    kernel, rest = ("", text) if named is None or _there(text) else named.group("name", "rest")
    repository, rev = _split(rest)
    if not repository:
        raise UserError(f"--tree {text}: expected [NAME=]PATH_OR_URL[@REV]")
    if rev and ends(rev) is not None:
        raise UserError(f"--tree {text}: {rev} is a range; a kernel is built from one commit")
    if dirty and (rev or is_url(repository)):
        raise UserError(f"--tree {text}: --dirty takes a directory as it is, not a revision")
    if not is_url(repository):
        repository = str(expanded(repository).absolute())
    return TreeOption(text, kernel, repository, rev, dirty)


def tree_override(option: TreeOption, document: dict[str, Any]) -> Override:
    """What it comes to in a campaign file.

    :raise OverrideError: the file has no such kernel, or several that could be meant.
    """
    kernels = document.get("kernels")
    names = tuple(kernels) if isinstance(kernels, dict) else ()
    kernel = option.kernel or _meant(document, names)
    if kernel not in names:
        remedy = suggestion(kernel, names) or f"the kernels here are {listing(names) or 'none'}"
        raise OverrideError(f"no kernel is named {kernel!r}; {remedy}")
    value: dict[str, str] = {"git": option.repository, "rev": option.rev or "HEAD"}
    if option.dirty:
        value = {"tree": option.repository}
    return Override(f"--tree {option.text}", ("kernels", kernel, "source"), value)


def _meant(document: dict[str, Any], names: tuple[str, ...]) -> str:
    """``candidate``, else the candidate of the first pair of kernels, else the only kernel."""
    if CANDIDATE in names:
        return CANDIDATE
    pairs = document.get("pair")
    for pair in pairs if isinstance(pairs, list) else ():
        if isinstance(pair, dict) and pair.get("candidate") in names:
            return str(pair["candidate"])
    if len(names) == 1:
        return names[0]
    raise OverrideError(f"say which kernel it is for: NAME=PATH; there are {listing(names)}")


def _split(text: str) -> tuple[str, str]:
    """(repository, revision): both may hold an ``@``, and of a path the longest that is there is
    meant."""
    begin = authority.end() if (authority := _AUTHORITY.match(text)) else 0
    cuts = [*_ats(text, begin), len(text)]
    there = [cut for cut in cuts if not begin and _there(text[:cut])]
    cut = there[-1] if there else cuts[0]
    return text[:cut], text[cut + 1 :]


def _ats(text: str, begin: int) -> Iterator[int]:
    return (at for at, character in enumerate(text) if character == "@" and at >= begin)


def _there(named: str) -> bool:
    return bool(named) and is_directory(Path.cwd() / expanded(named))
