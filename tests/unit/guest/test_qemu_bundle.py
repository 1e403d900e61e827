"""The bundle of a repository on this disk, whose QEMU is a small program that never runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes.debian_archive import Repository, control
from fakes.qemu_package import Target, served_qemu

from qemu_diff.errors import InfrastructureError, UnavailableSourceError
from qemu_diff.events import Event, subscribe
from qemu_diff.guest.qemu_bundle import PROGRAM, QemuBundle, cached_bundle, fetch_bundle
from qemu_diff.guest.toolchain import CROSS_COMPILER

LIBRARIES = "lib/aarch64-linux-gnu"
LOADER = "lib/ld-linux-aarch64.so.1"
TARGET = Target(CROSS_COMPILER, "arm64", LOADER, LIBRARIES)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """``old`` has a QEMU for arm64."""
    return served_qemu(tmp_path, monkeypatch, TARGET, "1:7.2-1")


def listed(bundle: QemuBundle) -> list[str]:
    command = ["cpio", "--list", "--quiet", "-F", str(bundle.archive)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.usefixtures("repository")
def test_it_holds_the_program_and_what_that_needs(tmp_path: Path) -> None:
    bundle = fetch_bundle("old")
    assert bundle.archive == tmp_path / "cache/bundles/old/1:7.2-1/bundle.cpio"
    directories = {"lib", LIBRARIES, "usr", "usr/bin"}
    files = {PROGRAM, LOADER, f"{LIBRARIES}/libone.so.1", f"{LIBRARIES}/libgcc_s.so.1"}
    assert set(listed(bundle)) == directories | files
    assert (bundle.suite, bundle.version, bundle.program) == ("old", "1:7.2-1", PROGRAM)
    assert (bundle.files, bundle.packages) == (4, 4)
    assert 0 < bundle.unpacked < bundle.archive.stat().st_size
    assert sorted(path.name for path in bundle.archive.parent.parent.rglob("*")) == [
        "1:7.2-1",
        "bundle.cpio",
        "bundle.json",
    ]


@pytest.mark.usefixtures("repository")
def test_what_is_downloaded_is_said_before(tmp_path: Path) -> None:
    seen: list[Event] = []
    with subscribe(seen.append):
        fetch_bundle("old")
    assert {(event.stage, event.subject) for event in seen} == {
        (
            "bundle",
            "qemu-system-arm of old for arm64, with its libraries",
        )
    }
    assert [(event.state, event.text) for event in seen] == [
        ("started", ""),
        ("progress", "getting the suite's lists"),
        ("progress", "downloading 4 packages, 0 MB"),
        ("progress", "unpacking"),
        ("finished", ""),
    ]
    assert list((tmp_path / "apt").rglob("*.deb")) == []


def test_it_is_fetched_once(repository: Repository) -> None:
    assert cached_bundle("old") is None
    first = fetch_bundle("old")
    shutil.rmtree(repository.directory)
    assert fetch_bundle("old") == cached_bundle("old") == first


@pytest.mark.usefixtures("repository")
def test_the_newest_in_the_cache_counts() -> None:
    first = fetch_bundle("old")
    older = first.archive.parent.with_name("1:7.2-0")
    shutil.copytree(first.archive.parent, older)
    metadata = json.loads((older / "bundle.json").read_text())
    (older / "bundle.json").write_text(json.dumps({**metadata, "version": "1:7.2-0"}))
    an_hour_ago = time.time() - 3600
    os.utime(older / "bundle.json", (an_hour_ago, an_hour_ago))
    assert cached_bundle("old") == first


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("damage", ["archive", "half", "metadata", "layout", "nothing"])
def test_a_damaged_one_is_made_anew(damage: str) -> None:
    first = fetch_bundle("old")
    metadata = first.archive.with_name("bundle.json")
    if damage == "archive":
        first.archive.write_bytes(bytes(first.archive.stat().st_size))
    elif damage == "half":
        os.truncate(first.archive, first.archive.stat().st_size // 2)
    elif damage == "metadata":
        metadata.write_text("[]")
    elif damage == "layout":
        metadata.write_text(metadata.read_text().replace('"layout": 1', '"layout": 0'))
    else:
        first.archive.unlink()
    assert cached_bundle("old") is None
    assert fetch_bundle("old") == first
    assert cached_bundle("old") == first


@pytest.mark.usefixtures("repository")
def test_several_at_once_fetch_it_once() -> None:
    seen: list[Event] = []
    with subscribe(seen.append), ThreadPoolExecutor(3) as pool:
        found = set(pool.map(fetch_bundle, ["old"] * 3))
    assert len(found) == 1
    assert [event.text for event in seen].count("unpacking") == 1


@pytest.mark.usefixtures("repository")
def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / "cache/bundles/old/.scratch-x/root/usr"
    left.mkdir(parents=True)
    (tmp_path / "cache/CACHEDIR.TAG").touch()
    bundle = fetch_bundle("old")
    assert list((tmp_path / "cache/bundles/old").iterdir()) == [bundle.archive.parent]


def test_a_library_that_no_package_has(repository: Repository, tmp_path: Path) -> None:
    fields = control("qemu-system-arm", "1:8-1", "arm64", "libc6")
    qemu = (tmp_path / "files/qemu").read_bytes()
    repository.add("old", fields, {PROGRAM: qemu})
    with pytest.raises(InfrastructureError, match=r"qemu-system-aarch64 needs libone.so.1"):
        fetch_bundle("old")
    assert list((tmp_path / "cache/bundles/old").iterdir()) == []


@pytest.mark.usefixtures("repository")
def test_a_suite_that_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(UnavailableSourceError, match=r"^suite older: .*dists/older"):
        fetch_bundle("older")
    assert list((tmp_path / "cache/bundles/older").iterdir()) == []


def test_a_machine_without_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEMU_DIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableSourceError, match=r"has no apt; get it on .*QEMU_DIFF_CACHE"):
        fetch_bundle("old")


def test_a_full_disk_is_the_machine_s(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    real = shutil.which("dpkg-deb")
    (programs / "dpkg-deb").write_text(
        f'#!/bin/sh\ncase "$1" in -x) echo "dpkg-deb: error: No space left on device" >&2; exit 2;;'
        f' esac\nexec {real} "$@"\n'
    )
    (programs / "dpkg-deb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    assert repository.directory.exists()
    with pytest.raises(InfrastructureError, match="no space left on the disk that holds the cache"):
        fetch_bundle("old")
    assert list((tmp_path / "cache/bundles/old").iterdir()) == []


def test_by_default_it_is_this_machine_s_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"PRETTY_NAME": "Elsewhere 1"})
    with pytest.raises(UnavailableSourceError, match="this machine runs Elsewhere 1"):
        fetch_bundle()
