"""Sources fetched ahead: what is the user's own is looked for, and left where it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.history import History

from qemu_diff.errors import SourceError
from qemu_diff.kernels import fetch_source
from qemu_diff.model import GitSource, ImageSource, KernelSource, KernelSpec, TreeSource


def test_the_user_s_own(history: History, tmp_path: Path) -> None:
    image = tmp_path / "Image"
    image.touch()
    for source, path in [
        (TreeSource(history.path), history.path),
        (GitSource(str(history.path), "v6.1"), history.path),
        (ImageSource(image), image),
    ]:
        found = fetch_source(KernelSpec("k", source))
        assert (found.path, found.size) == (path, 0)


def test_an_url_s_mirror(history: History, cache_directory: Path) -> None:
    found = fetch_source(KernelSpec("k", GitSource(f"file://{history.path}", "main")))
    assert found.path.parent == cache_directory / "repositories"
    assert found.size > 0


@pytest.mark.parametrize(
    "source",
    [
        TreeSource(Path("/none")),
        ImageSource(Path("/none")),
        GitSource("/none"),
        GitSource("file:///none"),
    ],
)
def test_what_is_not_there(source: KernelSource) -> None:
    with pytest.raises(SourceError, match="/none"):
        fetch_source(KernelSpec("k", source))
