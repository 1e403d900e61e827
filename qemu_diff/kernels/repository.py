"""A git repository that kernels come from: the user's is read, and ours is worked in.

For each repository that is named there is one of our own in the cache. Of a directory it holds
nothing but the way to the user's objects (``objects/info/alternates``, gitrepository-layout(5)):
what we make, a tree with a commit reverted, say, lies in ours. Of an URL it is a mirror of branches
and tags, which is brought up to date when a revision is asked for by a name.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache as once
from pathlib import Path

from ..config.paths import is_url
from ..errors import NotLinuxError, SourceError, UnavailableSourceError
from . import cache
from .git import complaint, run_git
from .tree import LANDMARKS

_OBJECT_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

_MIRRORED = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")

#: Where a mirror keeps what the other side's HEAD is.
_THEIR_HEAD = "refs/qemu-diff/head"

_SUGGESTIONS = 3


@dataclass(frozen=True)
class Repository:
    """A repository of our own.

    :param name: the path or the URL, as it was given.
    :param directory: our git directory, in the cache.
    :param refs: the git directory whose branches, tags and HEAD count: the user's, or the mirror.
    :param lineage: the name of its isolated tree; work trees that share objects have one.
    """

    name: str
    directory: Path
    refs: Path
    lineage: str

    def commit(self, rev: str) -> str:
        """The full object id of the commit that ``rev`` names; ``A...B`` is their merge base.

        :raise SourceError: there is none; says which branches and tags are near.
        :raise UnavailableSourceError: the URL can't be fetched.
        """
        if not self._has_commit(rev):
            self._refresh(rev)
        found = rev
        # Twice, since what is put behind ":/words" would be words, too.
        for suffix in ("", "^{commit}"):
            command = ("rev-parse", "--verify", "--end-of-options", f"{found}{suffix}")
            result = run_git(*command, directory=self.refs)
            if result.returncode and "..." in rev:
                return self._merge_base(rev)
            if result.returncode:
                raise SourceError(f"{self.name}: {self._no_such(rev, complaint(result))}")
            found = result.stdout.decode().strip()
        return found

    def describe(self, sha: str) -> str:
        """A commit as ``git describe`` words it, by the nearest tag before it: ``v6.1-rc3-12-g…``;
        its first 12 digits where there is none."""
        found = run_git("describe", "--tags", "--abbrev=12", sha, directory=self.refs)
        return sha[:12] if found.returncode else os.fsdecode(found.stdout).strip()

    def subject(self, sha: str) -> str:
        """The first line of a commit's message."""
        return self.git("show", "--no-patch", "--format=%s", sha).strip()

    def tree(self, sha: str) -> str:
        """The object id of a commit's tree: the same content, the same id.

        :raise NotLinuxError: it is no Linux tree with KVM for arm64.
        """
        tree = self.git("rev-parse", "--verify", f"{sha}^{{tree}}").strip()
        # One at a time: of a directory and another in it, git lists the inner one only.
        listed = {name: self.git("ls-tree", "--name-only", tree, name) for name in LANDMARKS}
        if missing := [name for name, found in listed.items() if not found]:
            what = f"no {', '.join(missing)}"
            raise NotLinuxError(
                f"{self.name}: commit {sha[:12]} is no Linux tree with KVM for arm64: {what}"
            )
        return tree

    def git(self, *arguments: str) -> str:
        """What a git command in our git directory prints.

        :raise SourceError: it fails: an object is missing, say.
        """
        result = run_git(*arguments, directory=self.directory)
        if result.returncode:
            raise SourceError(f"{self.name}: git {arguments[0]}: {complaint(result)}")
        return os.fsdecode(result.stdout)

    # --- looking for a revision ---

    @property
    def _mirror(self) -> bool:
        return self.refs == self.directory

    def _has_commit(self, rev: str) -> bool:
        """Whether it is here, and can't have become another meanwhile."""
        if not self._mirror:
            return True
        known = ("cat-file", "-e", f"{rev}^{{commit}}")
        return (
            bool(_OBJECT_ID.fullmatch(rev))
            and not run_git(*known, directory=self.directory).returncode
        )

    def _refresh(self, rev: str) -> None:
        _fetch(self.name, self.directory)
        if _OBJECT_ID.fullmatch(rev) and not self._has_commit(rev):
            # A commit that no branch has any more; many servers give it by its id.
            run_git("fetch", "--quiet", "--no-tags", "origin", rev, directory=self.directory)

    def _merge_base(self, rev: str) -> str:
        ends = [self.commit(end or "HEAD") for end in rev.split("...", 1)]
        result = run_git("merge-base", *ends, directory=self.directory)
        if result.returncode:
            raise SourceError(f"{self.name}: {rev!r}: the two have no common ancestor")
        return result.stdout.decode().split()[0]

    def _no_such(self, rev: str, said: str) -> str:
        if "ambiguous" in said:
            return f"{rev!r} is the beginning of several object ids; give more of it"
        if ".." in rev:
            return f"{rev!r} is a range, not one commit"
        listed = run_git("for-each-ref", "--format=%(refname:short)", directory=self.refs)
        names = os.fsdecode(listed.stdout).split()
        if not names and rev == "HEAD":
            return "there is no commit in it"
        inside = [name for name in names if rev in name]
        near = [*get_close_matches(rev, names, n=_SUGGESTIONS), *inside]
        near = list(dict.fromkeys(near))[:_SUGGESTIONS]
        shallow = "; it is a shallow clone" if (self.directory / "shallow").exists() else ""
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        return f"no commit is named {rev!r}{shallow}{meant}"


def open_repository(repository: str) -> Repository:
    """Our repository for the one that is named, made when it is not there.

    :param repository: the path of a work tree, of a bare repository or of a ``.git``; or an URL.
    :raise SourceError: there is no repository.
    :raise MissingToolError: there is no git.
    :raise UserError: the cache lies inside of the repository, or can't be written to.
    """
    if is_url(repository):
        lineage = _lineage(repository.rstrip("/").removesuffix(".git"), repository)
        return _open_mirror(repository, lineage)
    path = Path(repository).expanduser().absolute()
    git_directory, common = _find(path)
    for place in (path, common):
        cache.refuse_inside(place)
    name = common.parent.name if common.name == ".git" else common.name.removesuffix(".git")
    lineage = _lineage(name, os.fspath(common))
    with cache.disk_errors(), cache.lineage_lock(f"repository-{lineage}"):
        directory = _own_directory(lineage, _object_format(git_directory))
        _borrow(directory, common)
    return Repository(repository, directory, git_directory, lineage)


def uncommitted(path: Path) -> bool:
    """Whether tracked files of a work tree differ from its HEAD.

    :raise SourceError: it is no git repository.
    """
    git_directory, _ = _find(path)
    if not (path / ".git").exists():
        # A bare repository, or a .git: it has no work tree.
        return False
    command = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
    result = run_git(f"--work-tree={path}", *command, directory=git_directory)
    return bool(result.stdout)


def _find(path: Path) -> tuple[Path, Path]:
    """(git directory, the one that has the objects) of a path; they differ in a linked work tree.

    Only of the path itself: a directory somewhere below a repository is none.
    """
    if not path.is_dir():
        raise SourceError(f"{path}: no such directory")
    for place in (path / ".git", path):
        found = run_git("rev-parse", "--resolve-git-dir", str(place))
        if not found.returncode:
            git_directory = _line(found)
            command = ("rev-parse", "--path-format=absolute", "--git-common-dir")
            common = run_git(*command, directory=git_directory)
            return git_directory, _line(common).resolve()
    raise SourceError(f"{path}: not a git repository")


def _line(result: subprocess.CompletedProcess[bytes]) -> Path:
    return Path(os.fsdecode(result.stdout.removesuffix(b"\n")))


def _object_format(git_directory: Path) -> str:
    result = run_git("rev-parse", "--show-object-format", directory=git_directory)
    return result.stdout.decode().strip() or "sha1"


def _lineage(name: str, place: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9.+-]", "_", name.rpartition("/")[2])[:40]
    return f"git-{readable}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:12]}"


def _own_directory(lineage: str, object_format: str) -> Path:
    """An empty bare repository, if none is there yet."""
    directory = cache.cache_directory("repositories") / f"{lineage}.git"
    if not (directory / "HEAD").exists():
        command = ("init", "--quiet", "--bare", f"--object-format={object_format}", "--template=")
        result = run_git(*command, str(directory))
        if result.returncode:
            raise SourceError(f"{directory}: git init: {complaint(result)}")
    return directory


def _borrow(directory: Path, common: Path) -> None:
    """Let our repository see the user's objects, and where a shallow clone of theirs ends."""
    (directory / "objects/info").mkdir(parents=True, exist_ok=True)
    _update(directory / "objects/info/alternates", f"{_quoted(common / 'objects')}\n".encode())
    shallow = common / "shallow"
    if shallow.exists():
        _update(directory / "shallow", shallow.read_bytes())
    else:
        (directory / "shallow").unlink(missing_ok=True)


def _quoted(path: Path) -> str:
    """A path as a line of ``alternates`` has it: quoted as in C where it holds a line's end."""
    text = os.fspath(path)
    if "\n" not in text and not text.startswith(('"', "#")):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _update(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        cache.replace_file(path, content)


# --- mirrors -------------------------------------------------------------------------------------


def _open_mirror(url: str, lineage: str) -> Repository:
    with cache.disk_errors(), cache.lineage_lock(f"repository-{lineage}"):
        directory = _own_directory(lineage, "sha1")
        run_git("config", "remote.origin.url", url, directory=directory)
    return Repository(url, directory, directory, lineage)


@once
def _fetch(url: str, directory: Path) -> None:
    """Bring a mirror up to date, once in a process: a campaign's kernels are of one moment.

    :raise UnavailableSourceError: git can't.
    """
    with cache.disk_errors(), cache.lineage_lock(f"repository-{directory.stem}"):
        command = ("fetch", "--quiet", "--prune", "--no-tags", "origin")
        result = run_git(*command, *_MIRRORED, f"+HEAD:{_THEIR_HEAD}", directory=directory)
        if result.returncode:
            raise UnavailableSourceError(f"{url}: can't be fetched: {complaint(result)}")
        run_git("update-ref", "--no-deref", "HEAD", _THEIR_HEAD, directory=directory)
