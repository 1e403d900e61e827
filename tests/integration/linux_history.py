"""A git repository with the whole of linux-source-6.1 in it, made once and kept in the cache."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qemu_diff.kernels import cache_directory
from qemu_diff.kernels.debian import locate
from qemu_diff.model import DebianSource

BASE = "refs/heads/base"


@dataclass(frozen=True)
class LinuxHistory:
    """A bare repository of somebody who works on Linux."""

    path: Path

    def git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        command = ["git", f"--git-dir={self.path}", *arguments]
        environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
        return subprocess.run(
            command, input=stdin, check=True, capture_output=True, env=environment
        ).stdout

    def commit(self, ref: str, parent: str, subject: str, files: Mapping[str, bytes]) -> str:
        """Commit some files on top of another commit; the commit's id."""
        stream = [_header(ref, subject, parent), *(_file(*one) for one in files.items())]
        self.git("fast-import", "--quiet", "--force", stdin=b"".join(stream))
        return self.git("rev-parse", ref).decode().strip()

    def touched(self, ref: str, parent: str, path: str, salt: str) -> str:
        """A commit that puts a comment into one file."""
        text = self.git("show", f"{parent}:{path}")
        return self.commit(
            ref, parent, f"{path}: {salt}", {path: b"/* %s */\n" % salt.encode() + text}
        )


def linux_history() -> LinuxHistory:
    """The repository; the first time takes half a minute."""
    path = cache_directory("repositories") / "tests-linux-6.1.git"
    history = LinuxHistory(path)
    if not (path / "complete").exists():
        subprocess.run(["git", "init", "--quiet", "--bare", str(path)], check=True)
        _import(history, locate(DebianSource("linux-source-6.1")).path)
        (path / "complete").touch()
    return history


def _import(history: LinuxHistory, tarball: Path) -> None:
    command = ["git", f"--git-dir={history.path}", "-c", "core.compression=1"]
    importer = subprocess.Popen([*command, "fast-import", "--quiet", "--force"], stdin=-1)
    with importer as process:
        assert process.stdin is not None
        for part in _whole(tarball):
            process.stdin.write(part)
    assert importer.returncode == 0


def _whole(tarball: Path) -> Iterator[bytes]:
    yield _header(BASE, "Linux 6.1")
    with tarfile.open(tarball, "r|xz") as members:
        for member in members:
            name = member.name.partition("/")[2]
            if member.issym():
                yield _file(name, os.fsencode(member.linkname), b"120000")
            elif member.isfile():
                content = members.extractfile(member)
                assert content is not None
                yield _file(name, content.read(), b"100755" if member.mode & 0o100 else b"100644")


def _header(ref: str, subject: str, parent: str = "") -> bytes:
    """git-fast-import(1); without a clock, so that the same history has the same ids."""
    text = subject.encode()
    lines = b"commit %s\ncommitter test <test@example.org> 1670788800 +0000\ndata %d\n%s\n"
    begin = f"from {parent}^0\n" if parent else ""
    return lines % (ref.encode(), len(text), text) + begin.encode()


def _file(name: str, content: bytes, mode: bytes = b"100644") -> bytes:
    return b'M %s inline "%s"\ndata %d\n%s\n' % (mode, name.encode(), len(content), content)
