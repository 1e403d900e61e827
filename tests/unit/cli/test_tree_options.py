"""``--tree`` and ``--dirty``, as commands take them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.history import History

from qemu_diff.cli.selection import TreeChoice, loaded_with_trees
from qemu_diff.errors import SourceError, UserError
from qemu_diff.model import GitSource, TreeSource

CAMPAIGN = """\
[campaign]
name = "c"
[kernels.k]
source = "debian:linux-source-6.1"
[[scenario]]
payload = "hvc"
"""


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(CAMPAIGN)
    return path


@pytest.fixture
def user(tmp_path: Path) -> History:
    made = History(tmp_path / "linux")
    made.path.mkdir()
    made.git("init", "--quiet")
    made.commit("all", {"Makefile": "all:\n"})
    return made


def test_uncommitted_changes_are_said(
    campaign: Path, user: History, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(user.path)
    choice = TreeChoice([place])
    assert loaded_with_trees(campaign, None, choice).kernels[0].source == GitSource(place, "HEAD")
    assert capsys.readouterr().err == ""
    (user.path / "Makefile").write_text("none:\n")
    loaded_with_trees(campaign, None, choice)
    said = "has uncommitted changes, which are not tested; --dirty takes them"
    assert capsys.readouterr().err == f"qemu-diff: {place} {said}\n"
    # Who names a revision, or takes them, knows.
    loaded_with_trees(campaign, None, TreeChoice([f"{place}@HEAD"]))
    loaded = loaded_with_trees(campaign, None, TreeChoice([place], dirty=True))
    assert loaded.kernels[0].source == TreeSource(user.path)
    assert capsys.readouterr().err == ""


def test_what_is_no_tree(campaign: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"not a git repository$"):
        loaded_with_trees(campaign, None, TreeChoice([str(tmp_path)]))
    with pytest.raises(UserError, match=r"^--dirty: goes with --tree"):
        loaded_with_trees(campaign, None, TreeChoice(dirty=True))
