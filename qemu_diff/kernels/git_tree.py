"""A git tree as the base of an isolated tree: only what differs from the one before is written.

A journal names every tree of which files may lie there: one when all is done, more while a move is
under way. A file that is the same in each of them and in the wanted tree is right already; every
other is compared with the wanted one. So a move that was cut off anywhere is put right by the next.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import SourceError
from . import cache
from .git import running_git
from .repository import Repository
from .tree import FileState, IsolatedTree

_ABSENT = "000000"
_EXECUTABLE = "100755"
_SYMLINK = "120000"
_SUBMODULE = "160000"


@dataclass(frozen=True)
class Entry:
    """A file of a git tree.

    :param mode: as git has it, octal.
    :param blob: object id of its content.
    """

    mode: str
    blob: str


def changes(repository: Repository, before: str, wanted: str) -> dict[str, Entry | None]:
    """The files that differ between two trees: what they are in ``wanted``, None where they go.

    :param before: object id of a tree or a commit; so is ``wanted``.
    :raise SourceError: an object is missing.
    """
    listed = repository.git("diff-tree", "-r", "-z", "--no-renames", "--raw", before, wanted)
    fields = listed.split("\0")
    found: dict[str, Entry | None] = {}
    # git-diff-tree(1), "Raw output format": ":MODE MODE ID ID STATUS", then the path.
    for description, name in zip(fields[::2], fields[1::2], strict=False):
        _, mode, _, blob, _ = description.split(" ")
        found[name] = None if mode == _ABSENT else Entry(mode, blob)
    return found


def file_state(repository: Repository, tree: str, name: str) -> FileState | None:
    """One file of a tree or a commit; None where it has no such file.

    :raise SourceError: an object is missing.
    """
    # "MODE blob ID", a tabulator, and the path.
    listed = repository.git("--literal-pathspecs", "ls-tree", "-z", tree, name)
    mode, kind, blob = (listed.partition("\t")[0].split(" ") + [""] * 3)[:3]
    if kind != "blob":
        return None
    ((_, state),) = _states(repository, {name: Entry(mode, blob)})
    return state


def move_base(repository: Repository, wanted: str, tree: IsolatedTree) -> None:
    """Make the base of ``tree`` what a git tree has.

    :param wanted: object id of a tree.
    :raise SourceError: it has a submodule, or an object is missing.
    """
    before = _read_journal(tree)
    if before == [wanted]:
        return
    entries = _to_compare(repository, before, wanted, tree)
    _refuse_submodules(repository, entries)
    if _clash(entries, tree.overlaid):
        tree.switch({})
    _write_journal(tree, [*(before or []), wanted] if before is not None else None)
    # What goes makes room: a file's name may become a directory's, and the other way round.
    for name in (name for name, entry in entries.items() if entry is None):
        if tree.base(name) is not None:
            tree.set_base(name, None)
    present = {name: entry for name, entry in entries.items() if entry is not None}
    for name, state in _states(repository, present):
        if tree.base(name) != state:
            tree.set_base(name, state)
    _write_journal(tree, [wanted])


def _to_compare(
    repository: Repository, before: list[str] | None, wanted: str, tree: IsolatedTree
) -> dict[str, Entry | None]:
    """Every file that may not be as in ``wanted``: what it is to be, None where it is to go."""
    try:
        moves = [changes(repository, one, wanted) for one in before or ()]
    except SourceError:
        # A tree that was built once may be gone from the user's repository.
        before = None
    if before is None:
        known = changes(repository, _empty_tree(repository), wanted)
        return {**dict.fromkeys(tree.base_files()), **known}
    return {name: entry for move in moves for name, entry in move.items()}


def _empty_tree(repository: Repository) -> str:
    """Every git knows this object, though no repository may hold it."""
    return repository.git("hash-object", "-t", "tree", "--stdin").strip()


def _refuse_submodules(repository: Repository, entries: Mapping[str, Entry | None]) -> None:
    for name, entry in entries.items():
        if entry is not None and entry.mode == _SUBMODULE:
            raise SourceError(f"{repository.name}: {name} is a submodule, which no kernel tree has")


def _clash(names: Iterable[str], overlaid: frozenset[str]) -> bool:
    """Whether a file of one would lie below a file of the other."""
    return bool(_above(names) & overlaid) or bool(_above(overlaid) & {*names})


def _above(names: Iterable[str]) -> set[str]:
    return {str(parent) for name in names for parent in PurePosixPath(name).parents}


def _states(
    repository: Repository, entries: Mapping[str, Entry]
) -> Iterator[tuple[str, FileState]]:
    with running_git("cat-file", "--batch", directory=repository.directory) as git:
        for name, entry in entries.items():
            content = _content(git, entry.blob)
            if content is None:
                what = f"{name} ({entry.blob[:12]}) is missing: a partial clone has not all of it"
                raise SourceError(f"{repository.name}: {what}")
            yield (
                name,
                FileState(content, entry.mode == _EXECUTABLE, symlink=entry.mode == _SYMLINK),
            )


def _content(git: subprocess.Popen[bytes], blob: str) -> bytes | None:
    """git-cat-file(1), "BATCH OUTPUT": "ID TYPE SIZE", the content, and a line's end."""
    assert git.stdin is not None
    assert git.stdout is not None
    git.stdin.write(f"{blob}\n".encode())
    git.stdin.flush()
    header = git.stdout.readline().split()
    if len(header) != 3:
        return None
    content = git.stdout.read(int(header[2]))
    git.stdout.read(1)
    return content


# --- the journal ---------------------------------------------------------------------------------


def _journal(tree: IsolatedTree) -> Path:
    return tree.directory / "git-trees.json"


def _read_journal(tree: IsolatedTree) -> list[str] | None:
    """The trees of which files may lie there; None where anything may."""
    if not tree.populated:
        return None
    try:
        return [str(one) for one in json.loads(_journal(tree).read_bytes())]
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _write_journal(tree: IsolatedTree, trees: list[str] | None) -> None:
    if trees is None:
        _journal(tree).unlink(missing_ok=True)
    else:
        content = json.dumps(list(dict.fromkeys(trees)))
        cache.replace_file(_journal(tree), os.fsencode(content))
