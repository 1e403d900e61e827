"""A user's git repository, whatever its form: revisions are found, and nothing of it is touched."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.history import History

from qemu_diff.errors import NotLinuxError, SourceError, UnavailableSourceError, UserError
from qemu_diff.kernels import repository
from qemu_diff.kernels.repository import is_url, open_repository, uncommitted


def test_revisions_of_every_kind(history: History) -> None:
    opened = open_repository(str(history.path))
    head = history.git("rev-parse", "HEAD")
    history.git("branch", "topic", "HEAD~1")
    for rev in ("HEAD", "main", "@", head, head[:10], "HEAD@{0}", ":/other way"):
        assert opened.commit(rev) == head
    assert opened.commit("topic") == history.git("rev-parse", "HEAD~1")
    tagged = history.git("rev-parse", "HEAD~2")
    assert opened.commit("v6.1") == tagged
    assert opened.describe(tagged) == "v6.1"
    assert opened.describe(head) == f"v6.1-2-g{head[:12]}"
    assert opened.subject(head) == "KVM: arm64: the other way round"


def test_three_dots_are_the_merge_base(history: History) -> None:
    history.git("checkout", "--quiet", "-b", "topic", "HEAD~1")
    history.commit("topic: more", {"new": "1"})
    opened = open_repository(str(history.path))
    assert opened.commit("main...topic") == opened.commit("main~1")
    assert opened.commit("main...") == opened.commit("main~1")
    with pytest.raises(SourceError, match=r"'main\.\.topic' is a range, not one commit$"):
        opened.commit("main..topic")


def bare(history: History, place: Path) -> Path:
    history.git("clone", "--quiet", "--bare", ".", str(place))
    return place


def linked(history: History, place: Path) -> Path:
    history.git("worktree", "add", "--quiet", "--detach", str(place), "HEAD~1")
    return place


def borrowing(history: History, place: Path) -> Path:
    """A clone that borrows from one that borrows."""
    history.git("clone", "--quiet", "--shared", ".", str(place.with_name("between")))
    between = History(place.with_name("between"))
    between.git("clone", "--quiet", "--shared", ".", str(place))
    return place


def shallow(history: History, place: Path) -> Path:
    history.git("clone", "--quiet", "--depth=1", f"file://{history.path}", str(place))
    return place


def separate(history: History, place: Path) -> Path:
    history.git("clone", "--quiet", f"--separate-git-dir={place}.store", ".", str(place))
    return place


@pytest.mark.parametrize("form", [bare, linked, borrowing, shallow, separate])
def test_every_form_of_repository(
    form: Callable[[History, Path], Path],
    history: History,
    tmp_path: Path,
    listing: Callable[[Path], object],
) -> None:
    user = tmp_path / "user's"
    user.mkdir()
    place = form(history, user / "a tree")
    before = listing(user), listing(history.path)
    opened = open_repository(str(place))
    head = opened.commit("HEAD")
    assert head == History(place).git("rev-parse", "HEAD")
    assert opened.subject(head)
    assert opened.git("cat-file", "-p", f"{head}:init/main.c").startswith("const char")
    assert opened.tree(head)
    opened.git("rev-list", head)
    assert (listing(user), listing(history.path)) == before


def test_work_trees_of_one_store_share_a_lineage(history: History, tmp_path: Path) -> None:
    place = linked(history, tmp_path / "second")
    one, other = open_repository(str(history.path)), open_repository(str(place))
    assert one.lineage == other.lineage
    assert other.commit("HEAD") == one.commit("HEAD~1")


def test_a_revision_that_does_not_exist(history: History) -> None:
    history.git("branch", "kvm/step-fix")
    opened = open_repository(str(history.path))
    for rev, meant in [
        ("step-fix", "did you mean kvm/step-fix?"),
        ("v6.2", "did you mean v6.1?"),
        ("0123456789abcdef", "no commit is named '0123456789abcdef'"),
        ("HEAD:Makefile", "no commit is named 'HEAD:Makefile'"),
        ("--all", "no commit is named '--all'"),
        ("", "no commit is named ''"),
    ]:
        with pytest.raises(SourceError) as caught:
            opened.commit(rev)
        assert meant in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path / "new")], check=True)
    opened = open_repository(str(tmp_path / "new"))
    with pytest.raises(SourceError, match="there is no commit in it"):
        opened.commit("HEAD")


def test_what_is_no_repository(history: History, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "file").touch()
    for place, why in [
        (tmp_path / "plain", "not a git repository"),
        (tmp_path / "none", "no such directory"),
        (tmp_path / "file", "no such directory"),
        # A directory below a repository is not it.
        (history.path / "kernel", "not a git repository"),
    ]:
        with pytest.raises(SourceError, match=f"{place}: {why}$"):
            open_repository(str(place))


def test_a_tree_without_kvm(history: History) -> None:
    history.git("rm", "-r", "-q", "arch/arm64/kvm")
    history.commit("KVM: gone")
    opened = open_repository(str(history.path))
    with pytest.raises(NotLinuxError, match=r"no arch/arm64/kvm$"):
        opened.tree(opened.commit("HEAD"))


def test_the_cache_is_not_made_in_a_repository(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEMU_DIFF_CACHE", str(history.path / "cache"))
    with pytest.raises(UserError, match="lies inside of the kernel tree"):
        open_repository(str(history.path))


def test_uncommitted_changes(history: History, tmp_path: Path) -> None:
    assert not uncommitted(history.path)
    (history.path / "untracked").touch()
    assert not uncommitted(history.path)
    (history.path / "Makefile").write_text("all:\n")
    assert uncommitted(history.path)
    assert not uncommitted(bare(history, tmp_path / "bare"))


# --- URLs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "url"),
    [
        ("https://git.kernel.org/pub/linux.git", True),
        ("file:///srv/linux", True),
        ("git@example.org:linux.git", True),
        ("~/linux", False),
        ("/srv/a@b:c", False),
        ("linux", False),
    ],
)
def test_what_is_an_url(named: str, url: bool) -> None:
    assert is_url(named) is url


def test_an_url_is_mirrored(history: History, tmp_path: Path) -> None:
    served = bare(history, tmp_path / "served.git")
    head = history.git("rev-parse", "HEAD")
    mirror = open_repository(f"file://{served}")
    assert mirror.commit("HEAD") == head
    assert mirror.commit("main~2") == mirror.commit("v6.1")
    assert mirror.describe(head) == f"v6.1-2-g{head[:12]}"
    assert mirror.tree(head)
    # What is known by its id needs no server.
    shutil.rmtree(served)
    assert open_repository(f"file://{served}").commit(head) == head


def test_a_mirror_follows(history: History) -> None:
    url = f"file://{history.path}"
    first = open_repository(url).commit("main")
    second = history.commit("more", {"new": "1"})
    # One process sees one moment ...
    assert open_repository(url).commit("main") == first
    # ... unless it is asked for what it has not.
    assert open_repository(url).commit(second) == second
    repository._fetch.cache_clear()
    assert open_repository(url).commit("main") == second


def test_an_url_that_can_not_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(UnavailableSourceError, match="can't be fetched") as caught:
        open_repository(f"file://{tmp_path}/none").commit("main")
    assert "\n" not in str(caught.value)
