"""Patches: what they make of a source, worked out beside the tree.

Each file that a patch names is copied to a scratch directory as the base has it, ``patch`` works on
these copies, and the result is the overlay of a variant. So a patch that does not apply never
touches the tree.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import InfrastructureError, PatchError, UserError
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
    """A patch file as it was read."""

    path: Path
    content: bytes


def read_patch(path: Path) -> Patch:
    """Read a patch file.

    :raise UserError: it can't be read.
    """
    try:
        return Patch(path, path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: can't read the patch: {error.strerror}") from error


def patched(
    patches: tuple[Patch, ...], tree: IsolatedTree, below: Overlay
) -> dict[str, FileState | None]:
    """What the patches, in order, make of ``tree``: the files that differ from its base.

    :param below: what they find in place of some of the base's files.
    An offset is good, fuzz is not: where the context differs, a hunk may land in other code.

    :raise PatchError: one does not apply; names file and hunk.
    :raise MissingToolError: there is no ``patch`` program.
    """
    if not patches:
        return dict(below)
    toolchain.require("patch")
    with tempfile.TemporaryDirectory(prefix="patching-", dir=tree.directory) as name:
        scratch = Path(name)
        named: set[str] = set()
        for patch in patches:
            for target in _targets(patch):
                if target not in named:
                    named.add(target)
                    found = below[target] if target in below else tree.base(target)
                    write_state(scratch / target, found)
            _apply(patch, scratch)
        results = {**below, **{target: read_state(scratch / target) for target in named}}
    return {target: state for target, state in results.items() if state != tree.base(target)}


def _targets(patch: Patch) -> list[str]:
    """The files that a patch names.

    :raise PatchError: it names none, or one outside of the tree.
    """
    text = os.fsdecode(patch.content)
    named = [_strip_component(match["path"]) for match in _FILE_LINE.finditer(text)]
    named += [match["path"] for match in _GIT_LINE.finditer(text)]
    targets = list(dict.fromkeys(path for path in named if path))
    if not targets:
        raise PatchError(patch.path, "the whole file", 0, "there is no change in it")
    for target in targets:
        if not inside(target):
            raise PatchError(patch.path, target, 0, "outside of the kernel tree")
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
            return PatchError(patch.path, target, int(match["number"]), f"at line {match['line']}")
        elif match := _EXISTS.match(line):
            return PatchError(patch.path, match["path"], 0, "it is there already")
        elif match := _NOT_A_FILE.match(line):
            return PatchError(patch.path, match["path"], 0, "not a regular file")
        elif line.startswith("can't find file to patch"):
            return PatchError(patch.path, _first_absent(patch, scratch), 0, "no such file")
    malformed = _MALFORMED.search(output)
    detail = malformed["what"] if malformed else output.strip().partition("\n")[0]
    return PatchError(patch.path, target or "the whole file", 0, detail)


def _first_absent(patch: Patch, scratch: Path) -> str:
    absent = (target for target in _targets(patch) if read_state(scratch / target) is None)
    return next(absent, "a file")
