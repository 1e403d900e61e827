"""Commits taken out of a tree: for each file the three-way merge that ``git revert`` does.

What comes out is an overlay, not a tree object: git would give the user's own copy of an object
that we wrote anew a new time, and nothing of the user's is touched.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RevertError
from ..scratch import scratch_directory
from .git import run_git
from .git_tree import changes, file_state
from .repository import Repository
from .tree import FileState


def reverted(
    repository: Repository, tree: str, commits: Sequence[str]
) -> dict[str, FileState | None]:
    """What is left of the files that some commits have changed, when these are taken out.

    :param tree: object id of the tree at hand.
    :param commits: full object ids; taken out in this order.
    :return: the files that differ from the tree's; None for one that goes.
    :raise RevertError: a commit conflicts, is a merge, or what it did is not there.
    """
    overlay: dict[str, FileState | None] = {}
    for commit in commits:
        overlay |= _without(repository, tree, overlay, commit)
    original = {name: file_state(repository, tree, name) for name in overlay}
    return {name: state for name, state in overlay.items() if state != original[name]}


def _without(
    repository: Repository, tree: str, overlay: dict[str, FileState | None], commit: str
) -> dict[str, FileState | None]:
    """The files that change when one commit is taken out."""
    parents = repository.git("show", "--no-patch", "--format=%P", commit).split()
    if len(parents) != 1:
        what = "a merge" if parents else "the first of its history"
        raise _error(repository, commit, f"it is {what}, and such a commit is not reverted")
    changed: dict[str, FileState | None] = {}
    conflicts = []
    for name in changes(repository, commit, parents[0]):
        ours = overlay[name] if name in overlay else file_state(repository, tree, name)
        base, theirs = (file_state(repository, one, name) for one in (commit, parents[0]))
        try:
            merged = _merged(repository, ours, base, theirs)
        except ValueError:
            conflicts.append(name)
            continue
        if merged != ours:
            changed[name] = merged
    if conflicts:
        raise _error(repository, commit, f"it conflicts in {', '.join(conflicts)}")
    if not changed:
        raise _error(repository, commit, "what it did is not there")
    return changed


def _merged(
    repository: Repository,
    ours: FileState | None,
    base: FileState | None,
    theirs: FileState | None,
) -> FileState | None:
    """
    :raise ValueError: they conflict.
    """
    if ours in (base, theirs):
        return theirs
    if ours is None or base is None or theirs is None:
        raise ValueError
    if ours.symlink or base.symlink or theirs.symlink:
        raise ValueError
    executable = theirs.executable if ours.executable == base.executable else ours.executable
    with scratch_directory() as scratch:
        sides = [scratch / name for name in ("ours", "base", "theirs")]
        for side, state in zip(sides, (ours, base, theirs), strict=True):
            side.write_bytes(state.content)
        command = ("merge-file", "--stdout", "--quiet", *map(str, sides))
        done = run_git(*command, directory=repository.directory)
    if done.returncode:
        raise ValueError
    return FileState(done.stdout, executable)


def _error(repository: Repository, commit: str, why: str) -> RevertError:
    subject = repository.subject(commit)
    return RevertError(f'{repository.name}: can\'t revert {commit[:12]} ("{subject}"): {why}')
