"""A program that is killed has said nothing: neither that something is missing, nor a version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.history import History

from qemu_diff.errors import InfrastructureError
from qemu_diff.guest.qemu import ask
from qemu_diff.kernels import apt, build_kernel
from qemu_diff.kernels.git import run_git
from qemu_diff.model import KernelSpec, TreeSource


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a program on ``PATH`` that is killed as soon as it begins."""

    def put(name: str) -> Path:
        programs = tmp_path / "programs"
        programs.mkdir()
        (programs / name).write_text("#!/bin/sh\nkill -KILL $$\n")
        (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(programs), prepend=":")
        return programs / name

    return put


@pytest.mark.parametrize("program", ["aarch64-linux-gnu-gcc", "aarch64-linux-gnu-ld", "git"])
def test_no_kernel_is_built_of_what_was_not_said(
    history: History, killed: Callable[[str], Path], program: str
) -> None:
    killed(program)
    with pytest.raises(InfrastructureError, match=rf"^{program} was killed \(signal 9\)$"):
        build_kernel(KernelSpec("k", TreeSource(history.path)))


@pytest.mark.parametrize(
    ("program", "asked"),
    [
        ("dpkg-query", lambda _: apt.run(["dpkg-query", "-W", "linux-source-6.1"])),
        ("git", lambda _: run_git("rev-parse", "HEAD")),
        ("qemu", lambda program: ask(program, "--version")),
    ],
)
def test_it_is_infrastructure(
    killed: Callable[[str], Path], program: str, asked: Callable[[Path], object]
) -> None:
    path = killed(program)
    with pytest.raises(InfrastructureError, match=rf"{program} was killed \(signal 9\)$"):
        asked(path)
