"""What is of use for a while only does not outlive who made it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from qemu_diff.scratch import HIDDEN, TEMPORARY, scratch_directory, temporary

ROOT = Path(__file__).resolve().parents[2]

OWNER = """
import sys, time
from pathlib import Path
from qemu_diff.scratch import scratch_directory
with scratch_directory(Path(sys.argv[1])) as scratch:
    (scratch / "deep").mkdir()
    (scratch / "deep" / "file").write_text("x")
    print(scratch, flush=True)
    time.sleep(1000)
"""


@contextmanager
def owner(parent: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process, and the directory that it holds."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(parent)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_it_is_private_and_goes(tmp_path: Path) -> None:
    with scratch_directory(tmp_path) as scratch:
        assert scratch.parent == tmp_path
        assert scratch.stat().st_mode & 0o777 == 0o700
        (scratch / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_it_goes_whatever_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), scratch_directory(tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_was_in_it_may_have_become_something_else(tmp_path: Path) -> None:
    with scratch_directory(tmp_path) as scratch:
        (scratch / "made").mkdir()
        (scratch / "made").rename(tmp_path / "made")
    assert list(tmp_path.iterdir()) == [tmp_path / "made"]


def test_among_others_it_says_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_directory() as scratch:
        assert scratch.parent == tmp_path
        assert scratch.name.startswith(TEMPORARY)


def test_the_next_removes_what_a_killed_process_has_left(tmp_path: Path) -> None:
    with owner(tmp_path) as (process, left):
        process.kill()
        process.wait()
        assert (left / "deep" / "file").exists()
        with scratch_directory(tmp_path) as scratch:
            assert list(tmp_path.iterdir()) == [scratch]


def test_what_a_process_still_holds_stays(tmp_path: Path) -> None:
    with owner(tmp_path) as (_, held):
        with scratch_directory(tmp_path):
            pass
        assert (held / "deep" / "file").exists()


def test_what_is_no_directory_of_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis").write_text("x")
    (tmp_path / f"{HIDDEN}link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / f"{HIDDEN}file").write_text("x")
    (tmp_path / "other").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with scratch_directory(tmp_path):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_many_at_once_take_nothing_from_each_other(tmp_path: Path) -> None:
    def one(number: int) -> bool:
        with scratch_directory(tmp_path) as scratch:
            (scratch / "own").write_text(str(number))
            return (scratch / "own").read_text() == str(number)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(200)))
    assert list(tmp_path.iterdir()) == []


def test_what_is_temporary_has_its_place_and_nothing_is_written_to_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "not-there"))
    monkeypatch.setenv("TEMP", str(tmp_path))
    os.utime(tmp_path, (0, 0))
    assert temporary() == tmp_path
    assert tmp_path.stat().st_mtime == 0
    assert tempfile.gettempdir() == str(tmp_path)
