"""The base of an isolated tree, moved from git tree to git tree."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes.history import History
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qemu_diff.errors import SourceError
from qemu_diff.kernels import git_tree
from qemu_diff.kernels.repository import Repository, open_repository
from qemu_diff.kernels.tree import FileState, IsolatedTree, read_state, walk

Files = Mapping[str, FileState]

CONTENT = st.binary(max_size=3)
STATES = st.one_of(
    st.builds(FileState, CONTENT, st.booleans()),
    st.builds(FileState, st.sampled_from([b"a", b"b/c", b"/nowhere"]), symlink=st.just(True)),
)
NAME = st.sampled_from(["a", "b", "ü", "new\nline", "with blank"])
PATHS = st.lists(NAME, min_size=1, max_size=3).map("/".join)


def consistent(files: dict[str, FileState]) -> bool:
    """No file is another's directory."""
    return not any(f"{one}/" == other[: len(one) + 1] for one in files for other in files)


TREES = st.dictionaries(PATHS, STATES, max_size=6).filter(consistent)


def stored(git: History, files: Files) -> str:
    """A git tree with these files; its object id."""
    stream = [b"commit refs/heads/made\ncommitter a <a> 0 +0000\ndata 0\n\ndeleteall\n"]
    for name, state in files.items():
        mode = b"120000" if state.symlink else b"100755" if state.executable else b"100644"
        quoted = name.replace("\n", "\\n").encode()
        length = len(state.content)
        stream.append(b'M %s inline "%s"\ndata %d\n%s\n' % (mode, quoted, length, state.content))
    command = ["git", "-C", str(git.path), "fast-import", "--quiet", "--force"]
    subprocess.run(command, input=b"".join(stream), check=True)
    return git.git("rev-parse", "made^{tree}")


def found(tree: IsolatedTree) -> dict[str, FileState | None]:
    return {name: read_state(tree.source / name) for name in walk(tree.source)}


@pytest.fixture
def store(tmp_path: Path) -> History:
    git = History(tmp_path / "store")
    git.path.mkdir()
    git.git("init", "--quiet")
    return git


@pytest.fixture
def opened(store: History) -> Repository:
    return open_repository(str(store.path))


def clean(repository: Repository) -> IsolatedTree:
    tree = IsolatedTree(repository.lineage)
    tree.reset()
    return tree


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(trees=st.lists(st.tuples(TREES, TREES), min_size=1, max_size=4))
def test_any_sequence_gives_exactly_the_wanted_files(
    store: History, opened: Repository, trees: list[tuple[Files, Files]]
) -> None:
    tree = clean(opened)
    for files, overlay in trees:
        wanted = stored(store, files)
        git_tree.move_base(opened, wanted, tree)
        assert {name: tree.base(name) for name in tree.base_files()} == files
        together = {**files, **overlay}
        if consistent(together):
            tree.switch(overlay)
            assert found(tree) == together


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(trees=st.lists(TREES, min_size=3, max_size=3), cut=st.integers(0, 8))
def test_a_move_that_was_cut_off_is_put_right(
    store: History, opened: Repository, trees: list[Files], cut: int
) -> None:
    first, second, third = (stored(store, files) for files in trees)
    tree = clean(opened)
    git_tree.move_base(opened, first, tree)
    writes = itertools.count()
    with pytest.MonkeyPatch.context() as patching:
        original = IsolatedTree.set_base

        def limited(self: IsolatedTree, *arguments: Any) -> None:
            if next(writes) == cut:
                raise KeyboardInterrupt
            original(self, *arguments)

        patching.setattr(IsolatedTree, "set_base", limited)
        with suppress(KeyboardInterrupt):
            git_tree.move_base(opened, second, tree)
    tree = IsolatedTree(opened.lineage)
    git_tree.move_base(opened, third, tree)
    assert found(tree) == trees[2]


Linux = tuple[History, Repository, IsolatedTree]


@pytest.fixture
def linux(history: History) -> Linux:
    repository = open_repository(str(history.path))
    return history, repository, IsolatedTree(repository.lineage)


def times(tree: IsolatedTree) -> dict[str, int]:
    return {name: (tree.source / name).lstat().st_mtime_ns for name in walk(tree.source)}


def test_only_what_differs_is_written(linux: Linux) -> None:
    history, repository, tree = linux
    git_tree.move_base(repository, history.git("rev-parse", "HEAD^{tree}"), tree)
    before = times(tree)
    git_tree.move_base(repository, history.git("rev-parse", "HEAD~1^{tree}"), tree)
    after = times(tree)
    assert {name for name in after if after[name] != before[name]} == {"arch/arm64/kvm/debug.c"}
    between = after["arch/arm64/kvm/debug.c"]
    git_tree.move_base(repository, history.git("rev-parse", "HEAD^{tree}"), tree)
    assert times(tree)["arch/arm64/kvm/debug.c"] > between


@pytest.mark.parametrize("damage", ["lost", "nonsense"])
def test_a_journal_that_is_damaged(linux: Linux, damage: str) -> None:
    history, repository, tree = linux
    git_tree.move_base(repository, history.git("rev-parse", "HEAD^{tree}"), tree)
    before = times(tree)
    (tree.source / "kernel/fork.c").write_text("not what anybody has\n")
    (tree.source / "stray").touch()
    (journal,) = tree.directory.glob("git-*.json")
    journal.unlink() if damage == "lost" else journal.write_text("{")
    git_tree.move_base(repository, history.git("rev-parse", "HEAD^{tree}"), tree)
    after = times(tree)
    assert {name for name in before if after[name] != before[name]} == {"kernel/fork.c"}
    assert "stray" not in after


def test_a_tree_that_the_user_has_pruned(linux: Linux) -> None:
    history, repository, tree = linux
    git_tree.move_base(repository, history.git("rev-parse", "HEAD^{tree}"), tree)
    history.git("reset", "--quiet", "--hard", "HEAD~1")
    history.git("reflog", "expire", "--expire=now", "--all")
    history.git("gc", "--quiet", "--prune=now")
    git_tree.move_base(repository, history.git("rev-parse", "HEAD^{tree}"), tree)
    assert "!vcpu.flags" in (tree.source / "arch/arm64/kvm/debug.c").read_text()


def test_a_submodule(linux: Linux) -> None:
    history, repository, tree = linux
    entry = f"160000,{history.git('rev-parse', 'HEAD')},tools/other"
    history.git("update-index", "--add", "--cacheinfo", entry)
    wanted = history.git("write-tree")
    with pytest.raises(SourceError, match="tools/other is a submodule"):
        git_tree.move_base(repository, wanted, tree)


def test_a_partial_clone(
    history: History, tmp_path: Path, listing: Callable[[Path], object]
) -> None:
    history.git("config", "uploadpack.allowFilter", "true")
    place = tmp_path / "partial"
    command = ("clone", "--quiet", "--no-checkout", "--filter=blob:none")
    history.git(*command, f"file://{history.path}", str(place))
    before = listing(place)
    repository = open_repository(str(place))
    tree = IsolatedTree(repository.lineage)
    with pytest.raises(SourceError, match=r"is missing: a partial clone has not all of it$"):
        git_tree.move_base(repository, repository.tree(repository.commit("HEAD")), tree)
    assert listing(place) == before
