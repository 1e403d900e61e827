"""Whether a kernel must be built: told from the cache, and nothing is fetched to tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemu_diff.kernels import cache, debian, kernel_is_ready, kernel_key
from qemu_diff.model import DebianSource, ImageSource, KernelSpec, TreeSource

SOURCE = DebianSource("linux-source-6.1", "some-suite")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEMU_DIFF_CACHE", str(tmp_path / "cache"))


def no_download(*_: object) -> tuple[str, Path]:
    raise AssertionError("it is fetched")


def test_what_was_built_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "_download", no_download)
    spec = KernelSpec("k", SOURCE)
    assert kernel_is_ready(spec) is None
    downloads = cache.cache_directory("downloads/some-suite")
    (downloads / "linux-source-6.1_6.1.1-1.tar.xz").write_bytes(b"tarball")
    assert kernel_is_ready(spec) is False
    entry = cache.entry_directory(kernel_key(spec))
    entry.mkdir(parents=True)
    (entry / "metadata.json").write_text("{}")
    assert kernel_is_ready(spec) is True
    patch = tmp_path / "a.patch"
    patch.write_text("--- a/f\n+++ b/f\n@@ -1 +1 @@\n-x\n+y\n")
    assert kernel_is_ready(KernelSpec("k", SOURCE, patches=(patch,))) is False
    (downloads / "linux-source-6.1_6.1.1-1.tar.xz").write_bytes(b"another tarball")
    assert kernel_is_ready(spec) is False


@pytest.mark.parametrize(
    ("spec", "ready"),
    [
        (KernelSpec("k", ImageSource(Path("/Image"))), True),
        (KernelSpec("k", TreeSource(Path("/linux"))), None),
        (KernelSpec("k", DebianSource("linux-image-arm64", "sid")), None),
        (KernelSpec("k", DebianSource("no-kernel")), None),
        (KernelSpec("k", SOURCE, patches=(Path("/nowhere.patch"),)), None),
    ],
)
def test_the_others(monkeypatch: pytest.MonkeyPatch, spec: KernelSpec, ready: bool | None) -> None:
    monkeypatch.setattr(debian, "_download", no_download)
    assert kernel_is_ready(spec) is ready
