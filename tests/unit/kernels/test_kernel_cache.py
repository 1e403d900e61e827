"""The cache: all or nothing, checked when read, emptied when asked."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qemu_diff.errors import InfrastructureError, UserError
from qemu_diff.kernels import cache, cached_kernels, prune

FILES: dict[str, Path | bytes] = {"Image": b"image" * 1000, "vmlinux": b"elf" * 1000}


def publish(key: str, lineage: str = "tree") -> cache.KernelMetadata:
    return cache.publish(cache.KernelMetadata(key, (f"name-{key}",), "6.1", lineage), FILES)


def used_days_ago(key: str, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(cache.entry_directory(key), (then, then))


def test_the_cache_is_where_the_variable_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert cache.cache_root() == tmp_path / "cache"
    monkeypatch.delenv("QEMU_DIFF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_root() == tmp_path / "xdg" / "qemu-diff"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_root() == tmp_path / "home" / ".cache" / "qemu-diff"


def test_what_was_published_is_found() -> None:
    published = publish("k")
    assert cache.find("k") == published
    assert (cache.entry_directory("k") / "Image").read_bytes() == FILES["Image"]
    assert cache.find("other") is None


def test_publishing_twice_keeps_the_first() -> None:
    first = publish("k")
    cache.publish(cache.KernelMetadata("k", ("again",), "6.2"), FILES)
    assert cache.find("k") == first


def test_a_publication_that_fails_leaves_nothing(tmp_path: Path) -> None:
    files = {**FILES, "config": tmp_path / "nowhere"}
    with pytest.raises(FileNotFoundError):
        cache.publish(cache.KernelMetadata("k", (), "6.1"), files)
    assert list((cache.cache_root() / "kernels").iterdir()) == []


@pytest.mark.parametrize("name", ["Image", "vmlinux", "metadata.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_entry_is_removed(name: str, damage: str) -> None:
    publish("k")
    path = cache.entry_directory("k") / name
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[:-20])
    elif damage == "flip":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert cache.find("k") is None
    assert not cache.entry_directory("k").exists()


@pytest.mark.parametrize("name", ["\\ud800", "\\u0000"])
def test_an_entry_that_names_no_file_is_removed(name: str) -> None:
    publish("k")
    path = cache.entry_directory("k") / "metadata.json"
    path.write_text(path.read_text().replace('"Image"', f'"{name}"'))
    assert cache.find("k") is None
    assert not cache.entry_directory("k").exists()


def test_an_entry_of_another_version_is_not_used() -> None:
    publish("k")
    path = cache.entry_directory("k") / "metadata.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 0'))
    assert cache.find("k") is None


def test_names_gather() -> None:
    cache.note_use(publish("k"), "candidate")
    metadata = cache.find("k")
    assert metadata is not None
    assert metadata.names == ("name-k", "candidate")


def test_whoever_was_killed_while_it_published_or_noted_a_use_leaves_nothing() -> None:
    publish("k")
    entry = cache.entry_directory("k")
    left = [one / ".scratch-of-a-killed-one" for one in (entry, entry.parent)]
    for one in left:
        one.mkdir()
    assert cache.find("k") is not None
    assert not any(one.exists() for one in left)


def test_the_list_has_the_last_used_first() -> None:
    for days, key in ((3, "old"), (1, "new"), (2, "middle")):
        publish(key)
        used_days_ago(key, days)
    listed = cached_kernels()
    assert [kernel.key for kernel in listed] == ["new", "middle", "old"]
    assert listed[0].size >= 8000
    assert time.time() - listed[0].last_used == pytest.approx(86400, abs=60)


def make_tree(lineage: str) -> Path:
    tree = cache.cache_directory(f"trees/{lineage}")
    (tree / "file").write_bytes(bytes(5000))
    return tree


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ({}, ["new", "middle", "old"]),
        ({"keep": 1}, ["new"]),
        ({"keep": 0}, []),
        ({"older_than_days": 1.5}, ["new"]),
        ({"older_than_days": 2.5, "keep": 5}, ["new", "middle"]),
        ({"everything": True}, []),
    ],
)
def test_prune_removes_what_it_is_told_to(arguments: dict[str, float], left: list[str]) -> None:
    for days, key in ((3, "old"), (1, "new"), (2, "middle")):
        publish(key, lineage=f"tree-{key}")
        make_tree(f"tree-{key}")
        used_days_ago(key, days)
    report = prune(**arguments)  # type: ignore[arg-type]
    assert [kernel.key for kernel in cached_kernels()] == left
    gone = {"new", "middle", "old"} - set(left)
    assert {kernel.key for kernel in report.kernels} == gone
    assert set(report.trees) == {f"tree-{key}" for key in gone}
    assert (report.freed > 0) == bool(gone)
    remaining = {path.name for path in (cache.cache_root() / "trees").iterdir()}
    assert remaining == {f"tree-{key}" for key in left}


def test_prune_spares_a_tree_that_is_in_use() -> None:
    tree = make_tree("tree")
    with cache.lineage_lock("tree"):
        report = prune(everything=True)
        assert report.busy == ("tree",)
        assert tree.exists()
    assert prune(everything=True).trees == ("tree",)


def test_prune_of_no_cache_at_all() -> None:
    assert prune(everything=True) == cache.PruneReport((), (), (), 0)


def test_a_full_disk_is_one_line() -> None:
    with (
        pytest.raises(InfrastructureError, match="no space left on the disk that holds the cache"),
        cache.disk_errors(),
        open("/dev/full", "wb", buffering=0) as full,  # noqa: PTH123
    ):
        full.write(b"x")


def test_a_cache_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in ("/proc/qemu-diff", str(tmp_path / "file")):
        monkeypatch.setenv("QEMU_DIFF_CACHE", place)
        with pytest.raises(UserError, match=r"can't write to the cache.*set QEMU_DIFF_CACHE"):
            cache.cache_directory("kernels")


FULL_DISK = """
import os, sys
from pathlib import Path
from qemu_diff.errors import InfrastructureError
from qemu_diff.kernels import cache
files = {"Image": bytes(600_000), "vmlinux": bytes(900_000)}
try:
    cache.publish(cache.KernelMetadata("k", ("k",), "6.1"), files)
except InfrastructureError as error:
    print(error)
print([path.name for path in (cache.cache_root() / "kernels").iterdir()])
"""


def test_a_full_disk_leaves_nothing_half_published(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    inside = (
        f"mount -t tmpfs -o size=1m none {disk} && QEMU_DIFF_CACHE={disk} "
        f'exec {sys.executable} -c "$0"'
    )
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside, FULL_DISK]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        pytest.skip(f"no user namespaces here: {result.stderr.strip()}")
    message, listing = result.stdout.splitlines()
    assert message.startswith("no space left on the disk that holds the cache")
    assert listing == "[]"
