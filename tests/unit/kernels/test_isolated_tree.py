"""Switching variants in place: exact, minimal, and safe against a kill at any moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemu_diff.kernels.tree import FileState, IsolatedTree, inside, read_state

BASE = {"a.c": b"a\n", "dir/b.c": b"b\n", "dir/c.c": b"c\n"}
VARIANT = {
    "a.c": FileState(b"A\n"),
    "dir/b.c": None,
    "new/d.c": FileState(b"D\n", executable=True),
}


def times(tree: IsolatedTree) -> dict[str, int]:
    return {name: (tree.source / name).stat().st_mtime_ns for name in contents(tree)}


def contents(tree: IsolatedTree) -> dict[str, bytes]:
    found = (path for path in tree.source.rglob("*") if path.is_file())
    return {str(path.relative_to(tree.source)): path.read_bytes() for path in found}


@pytest.fixture
def tree() -> IsolatedTree:
    tree = IsolatedTree("test")
    for name, content in BASE.items():
        tree.set_base(name, FileState(content))
    return tree


def test_a_variant_is_the_base_with_its_overlay(tree: IsolatedTree) -> None:
    assert tree.switch(VARIANT) == ("a.c", "dir/b.c", "new/d.c")
    assert contents(tree) == {"a.c": b"A\n", "dir/c.c": b"c\n", "new/d.c": b"D\n"}
    assert read_state(tree.source / "new/d.c") == VARIANT["new/d.c"]


def test_going_back_restores_the_base_exactly(tree: IsolatedTree) -> None:
    tree.switch(VARIANT)
    tree.switch({})
    assert contents(tree) == BASE


def test_only_files_that_change_get_a_new_time(tree: IsolatedTree) -> None:
    tree.switch(VARIANT)
    before = times(tree)
    assert tree.switch({**VARIANT, "a.c": FileState(b"other\n")}) == ("a.c",)
    after = times(tree)
    assert after.pop("a.c") > before.pop("a.c")
    assert after == before


def test_going_back_gives_the_present_time(tree: IsolatedTree) -> None:
    tree.switch(VARIANT)
    changed = (tree.source / "a.c").stat().st_mtime_ns
    tree.switch({})
    assert (tree.source / "a.c").stat().st_mtime_ns > changed


def test_the_base_is_seen_through_the_overlay(tree: IsolatedTree) -> None:
    tree.switch(VARIANT)
    assert tree.base("a.c") == FileState(b"a\n")
    assert tree.base("new/d.c") is None
    assert sorted(tree.base_files()) == sorted(BASE)


def test_the_base_can_change_under_the_overlay(tree: IsolatedTree) -> None:
    tree.switch(VARIANT)
    tree.set_base("a.c", FileState(b"newer\n"))
    assert contents(tree)["a.c"] == b"A\n"
    tree.switch({})
    assert contents(tree)["a.c"] == b"newer\n"


class DeadlyOverlay(dict[str, FileState | None]):
    """Kills the process when a certain file's turn comes."""

    deadly = ""

    def __getitem__(self, relative: str) -> FileState | None:
        if relative == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(relative)


def switch_and_die(overlay: DeadlyOverlay) -> None:
    child = os.fork()
    if child == 0:
        IsolatedTree("test").switch(overlay)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("deadly", sorted(VARIANT))
@pytest.mark.parametrize("first", [{}, {"dir/c.c": FileState(b"C\n"), "a.c": None}])
def test_a_kill_in_the_middle_is_repaired_by_the_next_switch(
    tree: IsolatedTree, deadly: str, first: dict[str, FileState | None]
) -> None:
    tree.switch(first)
    overlay = DeadlyOverlay(VARIANT)
    overlay.deadly = deadly
    switch_and_die(overlay)
    again = IsolatedTree("test")
    again.switch({})
    assert contents(again) == BASE


def test_a_journal_that_cannot_be_read_empties_the_tree(tree: IsolatedTree) -> None:
    tree.switch(VARIANT)
    (tree.directory / "overlay.json").write_text("{")
    assert not IsolatedTree("test").populated


def test_a_directory_goes_with_its_last_file(tree: IsolatedTree) -> None:
    tree.set_base("dir/b.c", None)
    tree.set_base("dir/c.c", None)
    tree.set_base("dir", FileState(b"a file now\n"))
    assert contents(tree)["dir"] == b"a file now\n"


def paths() -> Iterator[tuple[str, bool]]:
    yield "kernel/fork.c", True
    yield "../fork.c", False
    yield "kernel/../../fork.c", False
    yield "/etc/passwd", False
    yield "", False


@pytest.mark.parametrize(("path", "good"), list(paths()))
def test_paths_outside_of_the_tree_are_known(path: str, good: bool) -> None:
    assert inside(path) is good


def test_a_symbolic_link_is_a_state_of_its_own(tree: IsolatedTree, tmp_path: Path) -> None:
    tree.set_base("link", FileState(b"a.c", symlink=True))
    assert (tree.source / "link").readlink() == Path("a.c")
    assert read_state(tree.source / "link") != read_state(tree.source / "a.c")
    assert read_state(tmp_path / "nothing") is None
