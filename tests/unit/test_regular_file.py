"""Pipes, devices and directories where a file should be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qemu_diff.regular_file import opened


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with opened(tmp_path / name) as file:
            assert file.read() == b"text"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    for path, reason in (
        (tmp_path / "pipe", "not a file"),
        (tmp_path / "link", "not a file"),
        (Path("/dev/zero"), "not a file"),
        (tmp_path / "directory", "Is a directory"),
        (tmp_path / "none", "No such file or directory"),
    ):
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(OSError, match=reason) as caught:
            opened(path)
        assert caught.value.filename == str(path)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
