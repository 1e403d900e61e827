"""Kernels from a git repository with real Linux in it: built commit by commit, and left alone."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.cli_run import qemu_diff
from integration.linux_history import BASE, LinuxHistory, linux_history

from qemu_diff.kernels import build_kernel
from qemu_diff.model import Build, GitSource, KernelSpec

pytestmark = pytest.mark.integration

KVM = "arch/arm64/kvm"


@pytest.fixture(scope="module")
def history() -> LinuxHistory:
    return linux_history()


@pytest.fixture
def built() -> Iterator[list[Build]]:
    """Kernels that no other run will want."""
    kernels: list[Build] = []
    yield kernels
    for kernel in kernels:
        shutil.rmtree(kernel.image.parent)


def digest(directory: Path) -> str:
    """Of every file's name, mode, times and content."""
    total = hashlib.sha256()
    for parent, folders, files in os.walk(directory):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(parent, name)
            status = path.lstat()
            total.update(f"{path} {status.st_mode} {status.st_mtime_ns}".encode())
            if path.is_file():
                with path.open("rb") as stream:
                    total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def compiled(build: Build) -> set[str]:
    """The objects that a build has made."""
    assert build.log is not None
    lines = [line.split() for line in build.log.read_text().splitlines()]
    return {words[1] for words in lines if len(words) == 2 and words[0] == "CC"}


def test_of_a_commit_only_what_it_changes_is_compiled(
    history: LinuxHistory, built: list[Build]
) -> None:
    """The first build may be the first of all in this tree, and then takes minutes."""
    salt = str(uuid.uuid4())
    first = history.touched("refs/heads/first", BASE, f"{KVM}/pvtime.c", salt)
    second = history.touched("refs/heads/second", first, f"{KVM}/debug.c", salt)
    before = digest(history.path)
    for rev in (first, "second"):
        built.append(build_kernel(KernelSpec("k", GitSource(str(history.path), rev))))
    assert digest(history.path) == before
    assert built[0].release.startswith("6.1.")
    made = compiled(built[1])
    assert {name for name in made if name.startswith(KVM)} == {f"{KVM}/debug.o"}
    assert len(made) <= 10
    # Whatever tags another test has left in the repository.
    assert re.fullmatch(rf"git {second} \(.*{second[:12]}\)", built[1].source)


def test_what_a_user_may_get_wrong(history: LinuxHistory, tmp_path: Path) -> None:
    """Each is one line and exit status 2."""
    without_kvm = history.commit("refs/heads/unlike", BASE, "gone", {"arch/arm64": b"a file\n"})
    campaign = tmp_path / "c.toml"
    campaign.write_text(
        '[campaign]\nname = "c"\n[kernels.k]\nsource = "debian:linux-source-6.1"\n'
        '[[scenario]]\npayload = "hvc"\n'
    )
    (tmp_path / "plain").mkdir()
    for tree, why in [
        (f"{history.path}@bsae", "no commit is named 'bsae'; did you mean base?"),
        (f"{history.path}@{without_kvm}", "no Linux tree with KVM for arm64: no arch/arm64/kvm"),
        (f"{tmp_path}/plain", "plain: not a git repository"),
        (f"{tmp_path}/none", "none' does not exist"),
    ]:
        done = qemu_diff("run", campaign, "--out", tmp_path / "out", "--tree", tree)
        assert done.status == 2
        assert why in done.stderr
        assert done.stderr.count("\n") == 1
