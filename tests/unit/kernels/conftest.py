"""A cache of its own for each test, and a small tree that really builds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.history import History

FAKELINUX = Path(__file__).resolve().parents[2] / "fakes" / "fakelinux"

Listing = dict[str, tuple[int, int, int, bytes]]


@pytest.fixture(autouse=True)
def cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("QEMU_DIFF_CACHE", str(directory))
    monkeypatch.delenv("CCACHE_DIR", raising=False)
    return directory


@pytest.fixture
def fakelinux(tmp_path: Path) -> Path:
    """A user's tree."""
    return shutil.copytree(FAKELINUX, tmp_path / "linux")


@pytest.fixture
def history(fakelinux: Path) -> History:
    """The fake tree under git: v6.1 and two commits."""
    made = History(fakelinux)
    made.git("init", "--quiet", "-b", "main")
    made.commit("Linux 6.1")
    made.git("tag", "-a", "-m", "6.1", "v6.1")
    fork = (fakelinux / "kernel/fork.c").read_text()
    made.commit("fork: from two", {"kernel/fork.c": fork.replace("pid = 1", "pid = 2")})
    debug = (fakelinux / "arch/arm64/kvm/debug.c").read_text()
    made.commit(
        "KVM: arm64: the other way round",
        {"arch/arm64/kvm/debug.c": debug.replace("!vcpu.flags", "vcpu.flags")},
    )
    return made


@pytest.fixture
def write_patch(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="session")
def listing() -> Callable[[Path], Listing]:
    """Everything in a directory: mode, mtime, ctime and content of each file and directory."""

    def take(top: Path) -> Listing:
        found = {}
        for parent, directories, files in os.walk(top):
            for name in [*directories, *files, "."]:
                path = Path(parent, name)
                status = path.lstat()
                content = path.read_bytes() if path.is_file() else b""
                entry = (status.st_mode, status.st_mtime_ns, status.st_ctime_ns, content)
                found[str(path)] = entry
        return found

    return take
