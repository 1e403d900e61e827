"""From a revision to a kernel, with a real git, make and compiler."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.history import History

from qemu_diff.errors import NotLinuxError, PatchError, RevertError, SourceError, UserError
from qemu_diff.kernels import build_kernel, kernel_is_ready, kernel_key, pinned
from qemu_diff.model import Build, GitSource, KernelSpec, TreeSource


def spec(
    history: History, rev: str = "HEAD", *reverts: str, **more: tuple[Path, ...]
) -> KernelSpec:
    return KernelSpec("k", GitSource(str(history.path), rev), reverts=reverts, **more)


def compiled(build: Build) -> list[str]:
    assert build.log is not None
    lines = build.log.read_text().splitlines()
    return sorted(line.split()[1] for line in lines if line.startswith("  CC"))


def test_from_commit_to_commit_only_what_differs_is_compiled(
    history: History, listing: Callable[[Path], object]
) -> None:
    before = listing(history.path)
    first = build_kernel(spec(history, "v6.1"))
    second = build_kernel(spec(history, "HEAD~1"))
    third = build_kernel(spec(history))
    assert len(compiled(first)) == 4
    assert compiled(second) == ["kernel/fork.o"]
    assert compiled(third) == ["arch/arm64/kvm/debug.o"]
    assert len({build.key for build in (first, second, third)}) == 3
    assert listing(history.path) == before


def test_a_kernel_is_the_same_whatever_was_built_before(
    history: History, cache_directory: Path, tmp_path: Path
) -> None:
    build_kernel(spec(history, "v6.1"))
    after_another = build_kernel(spec(history)).image.read_bytes()
    cache_directory.rename(tmp_path / "first cache")
    assert build_kernel(spec(history)).image.read_bytes() == after_another


def test_the_same_content_is_found_without_a_tree(history: History, cache_directory: Path) -> None:
    build = build_kernel(spec(history))
    history.commit("nothing")
    (tree,) = (cache_directory / "trees").iterdir()
    tree.rename(tree.with_name("elsewhere"))
    again = build_kernel(spec(history))
    assert again.cached
    assert again.key == build.key == kernel_key(spec(history))
    assert not tree.exists()


def test_what_was_built_is_ready(history: History) -> None:
    assert kernel_is_ready(spec(history)) is False
    build_kernel(spec(history))
    assert kernel_is_ready(spec(history)) is True
    assert kernel_is_ready(spec(history, "v6.1")) is False
    assert kernel_is_ready(spec(history, "nowhere")) is None
    elsewhere = KernelSpec("k", GitSource("https://example.invalid/linux.git", "v6.1"))
    assert kernel_is_ready(elsewhere) is None


def test_a_pinned_kernel_stays_what_it_is(history: History) -> None:
    kernel = pinned(spec(history, "main", "main~1"))
    head, fork = history.git("rev-parse", "main"), history.git("rev-parse", "main~1")
    history.commit("later", {"kernel/fork.c": "int x;\n"})
    assert kernel == spec(history, head, fork)
    assert kernel_key(kernel) == kernel_key(spec(history, head, fork))
    tree = KernelSpec("k", TreeSource(history.path))
    assert pinned(tree) == tree


def test_what_it_is_in_words(history: History, write_patch: Callable[[str, str], Path]) -> None:
    head, fork = history.git("rev-parse", "HEAD"), history.git("rev-parse", "HEAD~1")
    assert build_kernel(spec(history)).source == f"git {head} (v6.1-2-g{head[:12]})"
    fix = write_patch(
        "fix.patch",
        "--- a/Kbuild\n+++ b/Kbuild\n@@ -1 +1,2 @@\n # Kbuild of "
        "the fake tree: there because a Linux tree has one.\n+# More.\n",
    )
    words = build_kernel(spec(history, "HEAD", fork, patches=(fix,))).source
    assert words == f"git {head} (v6.1-2-g{head[:12]}) without {fork[:12]} + 1 patch"


def test_a_reverted_commit_is_taken_out(history: History) -> None:
    fork, debug = history.git("rev-parse", "HEAD~1"), history.git("rev-parse", "HEAD")
    plain = build_kernel(spec(history, "v6.1"))
    without = build_kernel(spec(history, "HEAD", fork))
    assert compiled(without) == ["arch/arm64/kvm/debug.o", "kernel/fork.o"]
    both = build_kernel(spec(history, "HEAD", fork, debug))
    assert both.image.read_bytes() == plain.image.read_bytes() != without.image.read_bytes()
    assert build_kernel(spec(history, "HEAD", debug, fork)).key == both.key


def test_a_revert_is_merged(history: History) -> None:
    """What stands beside the commit's lines may have changed since."""
    fork = (history.path / "kernel/fork.c").read_text()
    changed = {"kernel/fork.c": f"/* A comment. */\n{fork}", "kernel/new.c": "int other;\n"}
    history.commit("fork: more", changed)
    assert compiled(build_kernel(spec(history, "HEAD", "HEAD~2")))
    (tree,) = (Path(os.environ["QEMU_DIFF_CACHE"]) / "trees").iterdir()
    assert (tree / "source/kernel/fork.c").read_text() == changed["kernel/fork.c"].replace(
        "pid = 2", "pid = 1"
    )
    build_kernel(spec(history, "HEAD", "HEAD"))
    assert not (tree / "source/kernel/new.c").exists()


def test_a_patch_finds_what_reverts_have_left(
    history: History, write_patch: Callable[[str, str], Path]
) -> None:
    text = (
        "--- a/kernel/fork.c\n+++ b/kernel/fork.c\n@@ -5 +5 @@\n-\tint pid = 1;\n+\tint pid = 7;\n"
    )
    seven = write_patch("seven.patch", text)
    with pytest.raises(PatchError, match=r"hunk 1 of kernel/fork\.c"):
        build_kernel(spec(history, patches=(seven,)))
    kernel_of_seven = spec(history, "HEAD", "HEAD~1", patches=(seven,))
    assert build_kernel(kernel_of_seven).key != kernel_key(spec(history, "HEAD", "HEAD~1"))
    (tree,) = (Path(os.environ["QEMU_DIFF_CACHE"]) / "trees").iterdir()
    assert "pid = 7" in (tree / "source/kernel/fork.c").read_text()


def test_reverts_that_can_not_be(history: History, listing: Callable[[Path], object]) -> None:
    fork = (history.path / "kernel/fork.c").read_text()
    history.commit("fork: from three", {"kernel/fork.c": fork.replace("pid = 2", "pid = 3")})
    history.git("checkout", "--quiet", "-b", "side", "v6.1")
    history.commit("aside", {"aside": "1"})
    history.git("merge", "--quiet", "-m", "Merge main", "main")
    before = listing(history.path)
    for reverts, why in [
        (["HEAD^2~2"], r'\("fork: from two"\): it conflicts in kernel/fork\.c$'),
        (["HEAD"], r'\("Merge main"\): it is a merge, and such a commit is not reverted$'),
        (["v6.1"], r'\("Linux 6.1"\): it is the first of its history'),
        (["HEAD^", "HEAD^"], r'\("aside"\): what it did is not there$'),
    ]:
        with pytest.raises(RevertError, match=why):
            build_kernel(spec(history, "HEAD", *reverts))
    with pytest.raises(SourceError, match="no commit is named 'none'"):
        build_kernel(spec(history, "HEAD", "none"))
    assert listing(history.path) == before


def test_nothing_is_unpacked_of_a_tree_without_kvm(history: History, cache_directory: Path) -> None:
    history.git("rm", "-r", "-q", "arch/arm64/kvm")
    history.commit("KVM: gone")
    with pytest.raises(NotLinuxError, match="no arch/arm64/kvm"):
        build_kernel(spec(history))
    assert not (cache_directory / "trees").exists()


def test_other_sources_have_no_commits(fakelinux: Path) -> None:
    with pytest.raises(UserError, match="no git repository"):
        build_kernel(KernelSpec("k", TreeSource(fakelinux), reverts=("HEAD",)))
