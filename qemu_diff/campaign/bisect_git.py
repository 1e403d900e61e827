"""git's own bisection, in a repository of the bisection's own.

That repository has no work tree and no objects: it sees those of the repository that kernels come
from. All that git remembers there follows from the log, so it is made anew each time; it stays for
``git --git-dir=OUT/bisect.git bisect visualize`` and the like.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from qemu_diff.errors import InfrastructureError, UserError
from qemu_diff.kernels import Repository
from qemu_diff.kernels.git import complaint, run_git
from qemu_diff.model import Commit, CommitVerdict
from qemu_diff.report.printable import printable

_STEPS_LEFT = re.compile(r"\(roughly (\d+) steps?\)")

# What `git bisect log` says at the end, and what a bisection ends with (builtin/bisect--helper.c:
# BISECT_ONLY_SKIPPED_LEFT, BISECT_MERGE_BASE_CHECK, BISECT_NO_TESTABLE_COMMIT).
_FIRST_BAD = re.compile(r"^# first bad commit: \[([0-9a-f]+)\]", re.MULTILINE)
_POSSIBLE = re.compile(r"^# possible first bad commit: \[([0-9a-f]+)\]", re.MULTILINE)
_ONLY_SKIPPED, _MERGE_BASE_BAD, _NOTHING_TO_TEST = 2, 3, 4


@dataclass(frozen=True)
class Position:
    """Where git's bisection stands.

    :param to_test: the next commit; empty where there is none.
    :param steps_left: roughly; None where git does not say.
    :param first_bad: the end: one commit; or all that it may be, where only skipped ones are left.
    :param merge_base_bad: the end: what is good is good for another reason, in git's words.
    """

    to_test: str = ""
    steps_left: int | None = None
    first_bad: tuple[str, ...] = ()
    merge_base_bad: str = ""


class GitBisection:
    """A running ``git bisect``."""

    def __init__(self, directory: Path, repository: Repository, bad: str) -> None:
        """
        :param directory: where our git directory is made; what is there goes.
        :param bad: what HEAD is: git wants one.
        :raises UserError: git refuses.
        """
        self._directory = directory
        shutil.rmtree(directory, ignore_errors=True)
        form = repository.git("rev-parse", "--show-object-format").strip()
        command = ("init", "--quiet", "--bare", f"--object-format={form}", "--template=")
        _checked(run_git(*command, str(directory)))
        theirs = repository.directory
        # The line is quoted as in C where it begins with a quote; ours never does.
        alternates = directory / "objects/info/alternates"
        alternates.parent.mkdir(exist_ok=True)
        alternates.write_bytes(os.fsencode(theirs / "objects") + b"\n")
        if (theirs / "shallow").exists():
            shutil.copyfile(theirs / "shallow", directory / "shallow")
        self._git("update-ref", "--no-deref", "HEAD", bad)

    def start(self, paths: tuple[str, ...]) -> None:
        """Begin, for commits that touch any of these paths; all where there is none.

        :raises UserError: git refuses.
        """
        # --no-checkout is what it does in a bare repository anyway; our log says it, too.
        self._git("bisect", "start", "--no-checkout", *(["--", *paths] if paths else []))

    def mark(self, verdict: CommitVerdict, sha: str) -> Position:
        """Tell git of a commit.

        :raises UserError: git refuses: no commit touches the paths, say.
        """
        result = run_git("bisect", verdict.value, sha, directory=self._directory)
        said = os.fsdecode(result.stdout + result.stderr)
        if result.returncode == _NOTHING_TO_TEST:
            raise UserError("no commit between good and bad touches these paths")
        if result.returncode == _MERGE_BASE_BAD:
            return Position(merge_base_bad=" ".join(said.split()))
        if result.returncode not in (0, _ONLY_SKIPPED):
            raise UserError(f"git bisect {verdict} {sha[:12]}: {complaint(result)}")
        log = self._git("bisect", "log")
        if found := (*_FIRST_BAD.findall(log), *_POSSIBLE.findall(log)):
            return Position(first_bad=tuple(dict.fromkeys(found)))
        steps = _STEPS_LEFT.search(said)
        next_one = run_git(
            "rev-parse", "--verify", "--quiet", "BISECT_HEAD", directory=self._directory
        )
        return Position(os.fsdecode(next_one.stdout).strip(), int(steps[1]) if steps else None)

    def commit(self, sha: str) -> Commit:
        """What people read of a commit."""
        form = "%s%x00%an <%ae>%x00%aI%x00%P"
        fields = self._git("show", "--no-patch", f"--format={form}", sha).rstrip("\n").split("\0")
        subject, author, date, parents = fields
        first = f"{sha}^" if parents else _checked(run_git("hash-object", "-t", "tree", "--stdin"))
        listed = self._git(
            "diff-tree", "-r", "-z", "--name-only", "--no-renames", first.strip(), sha
        )
        files = tuple(printable(one) for one in listed.split("\0") if one)
        return Commit(
            sha, printable(subject), printable(author), date, tuple(parents.split()), files
        )

    def _git(self, *arguments: str) -> str:
        return _checked(run_git(*arguments, directory=self._directory))


def _checked(result: subprocess.CompletedProcess[bytes]) -> str:
    """
    :raises InfrastructureError: git failed at what never fails.
    """
    if result.returncode:
        raise InfrastructureError(f"git: {complaint(result)}")
    return os.fsdecode(result.stdout)


def check_ends(repository: Repository, bad: str, goods: tuple[str, ...]) -> None:
    """See that bad can have come after good.

    A good commit need not be an ancestor of the bad one: git tests their merge base first.

    :param bad: full object id, and so for ``goods``.
    :raises UserError: it can't.
    :raises NotLinuxError: one of them has no Linux tree with KVM for arm64.
    """
    for sha in (bad, *goods):
        repository.tree(sha)
    for good in goods:
        if good == bad:
            raise UserError(f"good and bad are the same commit, {_name(repository, bad)}")
        if _ancestor(repository, bad, good):
            raise UserError(
                f"good {_name(repository, good)} comes after bad {_name(repository, bad)}: is it "
                "the other way round? What was mended is found when the campaign expects the bug"
            )
        if run_git("merge-base", good, bad, directory=repository.directory).returncode:
            both = f"{_name(repository, good)} and bad {_name(repository, bad)}"
            raise UserError(f"{repository.name}: good {both} have no common ancestor")


def _ancestor(repository: Repository, one: str, other: str) -> bool:
    command = ("merge-base", "--is-ancestor", one, other)
    return not run_git(*command, directory=repository.directory).returncode


def _name(repository: Repository, sha: str) -> str:
    return printable(repository.describe(sha))
