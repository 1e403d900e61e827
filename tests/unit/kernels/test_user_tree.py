"""A user's tree: followed exactly, identified by content, never written to."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from qemu_diff.errors import SourceError, UserError
from qemu_diff.kernels import checkout
from qemu_diff.kernels.tree import FileState, IsolatedTree


def git(tree: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, "-C", str(tree), *arguments], check=True, capture_output=True)


@pytest.fixture(params=["plain", "git"])
def user_tree(request: pytest.FixtureRequest, fakelinux: Path) -> Path:
    if request.param == "git":
        (fakelinux / ".gitignore").write_text(".*\n!.gitignore\n*.o\ninclude/config/\n")
        git(fakelinux, "init", "-q")
        git(fakelinux, "add", "-A")
        git(fakelinux, "commit", "-q", "-m", "all")
    return fakelinux


def synchronise(path: Path) -> tuple[str, IsolatedTree]:
    tree = IsolatedTree(checkout.lineage(path))
    return checkout.synchronise(path, tree), tree


def files(top: Path) -> dict[str, tuple[bytes, bool]]:
    found = (path for path in top.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {
        str(path.relative_to(top)): (path.read_bytes(), os.access(path, os.X_OK)) for path in found
    }


def age(top: Path) -> None:
    """Make all files old enough for their times to be believed."""
    for path in top.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            os.utime(path, (1_000_000_000, 1_000_000_000))


def test_the_copy_is_complete(user_tree: Path) -> None:
    (user_tree / "link").symlink_to("Makefile")
    _, tree = synchronise(user_tree)
    assert files(tree.source) == files(user_tree)
    assert (tree.source / "link").is_symlink()


def test_it_is_never_written_to(user_tree: Path, listing: Callable[[Path], object]) -> None:
    # An index that git would like to refresh: the file is stat-dirty but has its old content.
    os.utime(user_tree / "Makefile")
    before = listing(user_tree)
    synchronise(user_tree)
    (_, tree) = synchronise(user_tree)
    tree.switch({"Makefile": FileState(b"all:\n")})
    assert listing(user_tree) == before


def test_edits_are_followed_and_nothing_else_is_touched(user_tree: Path) -> None:
    first, tree = synchronise(user_tree)
    before = {path: path.stat().st_mtime_ns for path in tree.source.rglob("*") if path.is_file()}
    (user_tree / "kernel/fork.c").write_text("int fork(void) { return 2; }\n")
    (user_tree / "kernel/new.c").write_text("int new;\n")
    (user_tree / "init/main.c").unlink()
    (user_tree / "scripts/allnoconfig.sh").chmod(0o755)
    second, tree = synchronise(user_tree)
    assert second != first
    assert files(tree.source) == files(user_tree)
    after = {path: path.stat().st_mtime_ns for path in tree.source.rglob("*") if path.is_file()}
    changed = {str(p.relative_to(tree.source)) for p in after if after[p] != before.get(p)}
    assert changed == {"kernel/fork.c", "kernel/new.c", "scripts/allnoconfig.sh"}


def test_going_back_gives_the_old_identity_and_a_new_time(user_tree: Path) -> None:
    first, tree = synchronise(user_tree)
    old = (user_tree / "kernel/fork.c").read_text()
    (user_tree / "kernel/fork.c").write_text("int x;\n")
    synchronise(user_tree)
    between = (tree.source / "kernel/fork.c").stat().st_mtime_ns
    (user_tree / "kernel/fork.c").write_text(old)
    third, tree = synchronise(user_tree)
    assert third == first
    assert (tree.source / "kernel/fork.c").stat().st_mtime_ns > between


def test_an_edit_of_the_same_size_right_after_is_noticed(user_tree: Path) -> None:
    synchronise(user_tree)
    fork = user_tree / "kernel/fork.c"
    status = fork.stat()
    fork.write_text(fork.read_text().replace("pid = 1", "pid = 7"))
    os.utime(fork, ns=(status.st_atime_ns, status.st_mtime_ns))
    _, tree = synchronise(user_tree)
    assert "pid = 7" in (tree.source / "kernel/fork.c").read_text()


def test_identity_is_the_content_wherever_it_lies(user_tree: Path, tmp_path: Path) -> None:
    first, _ = synchronise(user_tree)
    other = shutil.copytree(user_tree, tmp_path / "other")
    age(other)
    second, _ = synchronise(other)
    assert second == first
    assert checkout.lineage(other) != checkout.lineage(user_tree)


def test_the_base_follows_below_a_variant(user_tree: Path) -> None:
    _, tree = synchronise(user_tree)
    tree.switch({"kernel/fork.c": FileState(b"patched\n")})
    (user_tree / "kernel/fork.c").write_text("edited\n")
    _, tree = synchronise(user_tree)
    assert tree.base("kernel/fork.c") == FileState(b"edited\n")
    assert (tree.source / "kernel/fork.c").read_bytes() == b"patched\n"


class DeadlyTree(IsolatedTree):
    """Kills the process when the second file is copied."""

    copies = 0

    def set_base(self, relative: str, state: FileState | None) -> None:
        self.copies += 1
        if self.copies == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        super().set_base(relative, state)


def test_a_copy_that_is_cut_off_is_repaired(user_tree: Path) -> None:
    first, _ = synchronise(user_tree)
    originals = {name: (user_tree / name).read_text() for name in ("init/main.c", "kernel/fork.c")}
    for name in originals:
        (user_tree / name).write_text("edited\n")
    (user_tree / "kernel/new.c").write_text("new\n")
    child = os.fork()
    if child == 0:
        checkout.synchronise(user_tree, DeadlyTree(checkout.lineage(user_tree)))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    for name, content in originals.items():
        (user_tree / name).write_text(content)
    (user_tree / "kernel/new.c").unlink()
    again, tree = synchronise(user_tree)
    assert again == first
    assert files(tree.source) == files(user_tree)


def test_what_git_ignores_stays_behind(fakelinux: Path) -> None:
    (fakelinux / ".gitignore").write_text(".*\n!.gitignore\n*.o\ninclude/config/\n")
    git(fakelinux, "init", "-q")
    (fakelinux / "kernel/fork.o").write_text("object\n")
    (fakelinux / ".config").write_text("CONFIG_KVM=y\n")
    (fakelinux / "include/config").mkdir()
    (fakelinux / "include/config/auto.conf").touch()
    _, tree = synchronise(fakelinux)
    names = files(tree.source)
    assert "kernel/fork.c" in names
    assert not {"kernel/fork.o", ".config", "include/config/auto.conf"} & names.keys()


def test_a_disk_image_that_lies_about_stays_behind(fakelinux: Path) -> None:
    git(fakelinux, "init", "-q")
    with (fakelinux / "disk.img").open("wb") as image:
        image.truncate(17 << 20)
    _, tree = synchronise(fakelinux)
    assert not (tree.source / "disk.img").exists()


def test_a_fifo_is_not_waited_for(fakelinux: Path) -> None:
    os.mkfifo(fakelinux / "fifo")
    _, tree = synchronise(fakelinux)
    assert not (tree.source / "fifo").exists()


def test_a_tree_that_another_repository_ignores_is_copied(fakelinux: Path) -> None:
    (fakelinux.parent / ".gitignore").write_text("linux/\n")
    git(fakelinux.parent, "init", "-q")
    _, tree = synchronise(fakelinux)
    assert files(tree.source) == files(fakelinux)


def test_a_tree_built_in_place_without_git_is_refused(fakelinux: Path) -> None:
    (fakelinux / ".config").touch()
    with pytest.raises(SourceError, match=r"built in place \(\.config is there\).*make mrproper"):
        synchronise(fakelinux)


def test_what_is_missing_is_named(fakelinux: Path, tmp_path: Path) -> None:
    (fakelinux / "Kbuild").unlink()
    (fakelinux / "Makefile").unlink()
    with pytest.raises(SourceError, match=r"not a Linux source tree.*: no Makefile, Kbuild$"):
        checkout.check(fakelinux)
    with pytest.raises(SourceError, match="no such directory"):
        checkout.check(tmp_path / "nowhere")


def test_a_cache_inside_of_the_tree_is_refused(
    fakelinux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEMU_DIFF_CACHE", str(fakelinux / "cache"))
    with pytest.raises(UserError, match="inside of the kernel tree"):
        checkout.check(fakelinux)
    assert not (fakelinux / "cache").exists()
