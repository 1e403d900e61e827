"""Patches: applied beside the tree, and told apart when they do not apply."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qemu_diff.errors import MissingToolError, PatchError, UserError
from qemu_diff.kernels import patch, read_patches
from qemu_diff.kernels.tree import FileState, IsolatedTree

LINES = "".join(f"{number}\n" for number in range(1, 31))

WritePatch = Callable[[str, str], Path]


@pytest.fixture
def tree() -> IsolatedTree:
    tree = IsolatedTree("test")
    tree.set_base("kernel/fork.c", FileState(LINES.encode()))
    tree.set_base("kernel/exit.c", FileState(b"exit\n"))
    return tree


def change(line: int, old: str, new: str, path: str = "kernel/fork.c") -> str:
    hunk = f"@@ -{line - 1},3 +{line - 1},3 @@\n {line - 1}\n-{old}\n+{new}\n {line + 1}\n"
    return f"--- a/{path}\n+++ b/{path}\n{hunk}"


def hunk_of(text: str) -> str:
    return text[text.index("@@") :]


def overlay(tree: IsolatedTree, *paths: Path) -> dict[str, FileState | None]:
    return patch.patched(read_patches(paths), tree, {})


def test_no_patches_no_overlay(tree: IsolatedTree) -> None:
    assert overlay(tree) == {}


def test_a_patch_gives_the_files_that_it_changes(
    tree: IsolatedTree, write_patch: WritePatch
) -> None:
    path = write_patch("one.patch", "Why.\n\n" + change(5, "5", "five"))
    assert overlay(tree, path) == {
        "kernel/fork.c": FileState(LINES.replace("5\n", "five\n", 1).encode())
    }
    assert (tree.source / "kernel/fork.c").read_text() == LINES


def test_patches_build_upon_each_other(tree: IsolatedTree, write_patch: WritePatch) -> None:
    first = write_patch("first.patch", change(5, "5", "five"))
    second = write_patch("second.patch", change(5, "five", "V"))
    state = overlay(tree, first, second)["kernel/fork.c"]
    assert state is not None
    assert b"\nV\n" in state.content


def test_patches_that_undo_each_other_leave_no_overlay(
    tree: IsolatedTree, write_patch: WritePatch
) -> None:
    first = write_patch("first.patch", change(5, "5", "five"))
    second = write_patch("second.patch", change(5, "five", "5"))
    assert overlay(tree, first, second) == {}


def test_files_come_go_and_move(tree: IsolatedTree, write_patch: WritePatch) -> None:
    path = write_patch(
        "move.patch",
        "diff --git a/scripts/new.sh b/scripts/new.sh\nnew file mode 100755\n"
        "--- /dev/null\n+++ b/scripts/new.sh\n@@ -0,0 +1 @@\n+new\n"
        "diff --git a/kernel/exit.c b/kernel/exit.c\ndeleted file mode 100644\n"
        "--- a/kernel/exit.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-exit\n"
        "diff --git a/kernel/fork.c b/kernel/clone.c\nsimilarity index 100%\n"
        "rename from kernel/fork.c\nrename to kernel/clone.c\n",
    )
    assert overlay(tree, path) == {
        "scripts/new.sh": FileState(b"new\n", executable=True),
        "kernel/exit.c": None,
        "kernel/fork.c": None,
        "kernel/clone.c": FileState(LINES.encode()),
    }


def test_patches_see_the_base_not_the_variant(tree: IsolatedTree, write_patch: WritePatch) -> None:
    path = write_patch("one.patch", change(5, "5", "five"))
    first = overlay(tree, path)
    tree.switch(first)
    assert overlay(tree, path) == first


def test_an_offset_is_good(tree: IsolatedTree, write_patch: WritePatch) -> None:
    text = change(15, "15", "fifteen").replace("@@ -14,3 +14,3 @@", "@@ -9,3 +9,3 @@")
    state = overlay(tree, write_patch("offset.patch", text))["kernel/fork.c"]
    assert state is not None
    assert b"\nfifteen\n" in state.content


def test_fuzz_is_refused_with_file_and_hunk(tree: IsolatedTree, write_patch: WritePatch) -> None:
    fuzzy = hunk_of(change(15, "15", "fifteen")).replace(" 14\n", " fourteen\n")
    path = write_patch("fuzzy.patch", change(5, "5", "five") + fuzzy)
    with pytest.raises(PatchError) as caught:
        overlay(tree, path)
    assert (caught.value.target, caught.value.hunk) == ("kernel/fork.c", 2)
    assert str(caught.value) == (f"{path}: does not apply: hunk 2 of kernel/fork.c (at line 14)")


def test_a_patch_that_is_in_already_fails_at_its_first_hunk(
    tree: IsolatedTree, write_patch: WritePatch
) -> None:
    with pytest.raises(PatchError, match=r"hunk 1 of kernel/fork.c"):
        overlay(tree, write_patch("done.patch", change(5, "five", "5")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (change(5, "5", "V", "kernel/none.c"), r"does not apply: kernel/none.c \(no such file\)"),
        (
            "--- /dev/null\n+++ b/kernel/exit.c\n@@ -0,0 +1 @@\n+new\n",
            r"kernel/exit.c \(it is there already\)",
        ),
        ("not a patch\n", "there is no change in it"),
        ("", "there is no change in it"),
        (change(5, "5", "five").replace(" 6", "x"), r"kernel/fork.c \(malformed patch at line"),
        (change(5, "5", "V", "../../etc/passwd"), "outside of the kernel tree"),
    ],
)
def test_the_message_says_what_is_wrong(
    tree: IsolatedTree, write_patch: WritePatch, text: str, message: str
) -> None:
    with pytest.raises(PatchError, match=message):
        overlay(tree, write_patch("bad.patch", text))


def test_a_patch_that_fails_touches_nothing(tree: IsolatedTree, write_patch: WritePatch) -> None:
    good = write_patch("good.patch", change(5, "5", "five"))
    bad = write_patch("bad.patch", change(9, "x", "y"))
    with pytest.raises(PatchError):
        overlay(tree, good, bad)
    assert (tree.source / "kernel/fork.c").read_text() == LINES
    assert {path.name for path in tree.directory.iterdir()} == {"source"}


def test_a_missing_patch_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.patch: can't read the patch: No such file"):
        read_patches([tmp_path / "none.patch"])


def test_a_missing_patch_program(
    tree: IsolatedTree, write_patch: WritePatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_patch("one.patch", change(5, "5", "five"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match="apt-get install patch"):
        overlay(tree, path)
