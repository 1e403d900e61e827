"""Which gdb is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemu_diff.errors import MissingToolError
from qemu_diff.guest.gdb import find_gdb, require_gdb


def program(directory: Path, name: str, script: str) -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_what_is_not_there_now_may_be_there_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match="gdb-multiarch"):
        require_gdb()
    path = program(tmp_path, "gdb-multiarch", "exit 0")
    assert require_gdb() == path


def test_a_gdb_of_other_architectures_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program(tmp_path, "gdb-multiarch", 'echo "Undefined item: \\"aarch64\\"." >&2')
    assert find_gdb() is None
    path = program(tmp_path, "gdb", "exit 0")
    assert find_gdb() == path
