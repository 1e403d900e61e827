"""Patches: what they make of a source, worked out beside the tree.

Each file that a patch names is copied to a scratch directory as the base has it, ``patch`` works on
these copies, and the result is the overlay of a variant. So a patch that does not apply never
touches the tree.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..errors import InfrastructureError, PatchError
from ..scratch import scratch_directory
from . import cache, toolchain
from .tree import FileState, IsolatedTree, Overlay, inside, read_state, write_state

# "--- a/kernel/fork.c<TAB>2024-01-01", with -p1: the first component does not count.
_FILE_LINE = re.compile(r"^(?:---|\+\+\+) (?P<path>[^\t\r\n]+)", re.MULTILINE)
_GIT_LINE = re.compile(r"^(?:rename|copy) (?:from|to) (?P<path>[^\r\n]+)", re.MULTILINE)

# Messages of GNU patch 2.7 in the C locale.
_TARGET = re.compile(r"^patching (?:file|symbolic link) '?(?P<path>.+?)'?(?: \(.*)?$")
_FAILED_HUNK = re.compile(r"^Hunk #(?P<number>\d+) FAILED at (?P<line>\d+)")
_MALFORMED = re.compile(r"^patch: \*\*\*\* (?P<what>.+)$", re.MULTILINE)
_NOT_A_FILE = re.compile(r"^File (?P<path>\S+) is not a regular file")
_EXISTS = re.compile(r"^The next patch would create the file (?P<path>\S+),")


@dataclass(frozen=True)
class Patch:
    """A patch as it was read.

    :param path: the file that it came in.
    :param content: a diff, with or without words before it.
    :param subject: of the mail that it came in; empty for a plain diff.
    :param position: (n, m) where the subject says ``[PATCH n/m]``.
    """

    path: Path
    content: bytes
    subject: str = ""
    position: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """What tells it from others."""
        return self.subject or self.path.name


def patched(
    patches: tuple[Patch, ...], tree: IsolatedTree, below: Overlay
) -> dict[str, FileState | None]:
    """What the patches, in order, make of ``tree``: the files that differ from its base.

    An offset is good, fuzz is not: where the context differs, a hunk may land in other code.

    :param below: what they find in place of some of the base's files.
    :raise PatchError: one does not apply; names file and hunk, and what has to come first where
        the order is wrong.
    :raise MissingToolError: there is no ``patch`` program.
    """
    states = dict(below)
    for number, patch in enumerate(patches):
        try:
            states = _after(patch, states, tree)
        except PatchError as error:
            raise error.advised(_advice(patches, number, states, tree)) from None
    return {target: state for target, state in states.items() if state != tree.base(target)}


def _after(patch: Patch, states: Overlay, tree: IsolatedTree) -> dict[str, FileState | None]:
    """What a patch makes of ``tree`` with ``states`` on top.

    :raise PatchError: it does not apply.
    """
    toolchain.require("patch")
    targets = _targets(patch)
    with scratch_directory(tree.directory) as scratch:
        for target in targets:
            found = states[target] if target in states else tree.base(target)
            write_state(scratch / target, found)
        _apply(patch, scratch)
        return {**states, **{target: read_state(scratch / target) for target in targets}}


def _advice(patches: tuple[Patch, ...], number: int, states: Overlay, tree: IsolatedTree) -> str:
    """What the order should be for a patch to apply, as far as that can be told; or nothing.

    :param states: what those before it have made.
    """
    patch, later = patches[number], patches[number + 1 :]
    for other in later:
        try:
            _after(patch, _after(other, states, tree), tree)
        except PatchError:
            continue
        return f"it applies after {other.name!r}, which has to come first"
    if patch.position is None:
        return ""
    own, total = patch.position
    of_series = {
        one.position: one.name
        for one in patches
        if one.position and one.position[1] == total and one.path.parent == patch.path.parent
    }
    behind = [where for where in sorted(of_series) if where in {one.position for one in later}]
    if behind and behind[0][0] < own:
        return f"it is {own}/{total}, and {of_series[behind[0]]!r} has to come first"
    if last := [where for where in sorted(of_series) if where not in behind and where[0] > own]:
        return f"it is {own}/{total}, and has to come before {of_series[last[0]]!r}"
    return ""


def _targets(patch: Patch) -> list[str]:
    """The files that a patch names.

    :raise PatchError: it names none, or one outside of the tree.
    """
    text = os.fsdecode(patch.content)
    named = [_strip_component(match["path"]) for match in _FILE_LINE.finditer(text)]
    named += [match["path"] for match in _GIT_LINE.finditer(text)]
    targets = list(dict.fromkeys(path for path in named if path))
    if not targets:
        raise _error(patch, "the whole file", 0, "there is no change in it")
    for target in targets:
        if not inside(target):
            raise _error(patch, target, 0, "outside of the kernel tree")
    return targets


def _strip_component(path: str) -> str:
    """A path without its first component, as ``-p1`` has it; empty for ``/dev/null``."""
    path = path.strip()
    return "" if path == "/dev/null" else path.partition("/")[2]


def _apply(patch: Patch, scratch: Path) -> None:
    # --force asks nothing and takes no patch for reversed; rejects go nowhere.
    command = ["patch", "-p1", "--fuzz=0", "--force", "--no-backup-if-mismatch"]
    command += ["--reject-file=-", f"--directory={scratch}"]
    result = subprocess.run(
        command,
        input=patch.content,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    output = os.fsdecode(result.stdout)
    if "No space left on device" in output:
        raise InfrastructureError(cache.no_space_message())
    if result.returncode:
        raise _explain(patch, scratch, output)


def _explain(patch: Patch, scratch: Path, output: str) -> PatchError:
    """The first thing that went wrong, from what ``patch`` says."""
    target = ""
    for line in output.splitlines():
        if match := _TARGET.match(line):
            target = match["path"]
        elif match := _FAILED_HUNK.match(line):
            return _error(patch, target, int(match["number"]), f"at line {match['line']}")
        elif match := _EXISTS.match(line):
            return _error(patch, match["path"], 0, "it is there already")
        elif match := _NOT_A_FILE.match(line):
            return _error(patch, match["path"], 0, "not a regular file")
        elif line.startswith("can't find file to patch"):
            return _error(patch, _first_absent(patch, scratch), 0, "no such file")
    malformed = _MALFORMED.search(output)
    detail = malformed["what"] if malformed else output.strip().partition("\n")[0]
    return _error(patch, target or "the whole file", 0, detail)


def _first_absent(patch: Patch, scratch: Path) -> str:
    absent = (target for target in _targets(patch) if read_state(scratch / target) is None)
    return next(absent, "a file")


def _error(patch: Patch, target: str, hunk: int, detail: str) -> PatchError:
    return PatchError(patch.path, target, hunk, detail, subject=patch.subject)
