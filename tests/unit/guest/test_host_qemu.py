"""A further L0 QEMU: of a repository on this disk, with a loader that says how it was started."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes.debian_archive import Repository
from fakes.qemu_package import Target, served_qemu

from qemu_diff.errors import (
    InfrastructureError,
    MissingToolError,
    UnavailableSourceError,
    UserError,
)
from qemu_diff.guest.host_qemu import cached_host_qemu, fetch_host_qemu, qemu_of, source_words
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.guest.qemu_packages import PROGRAM
from qemu_diff.kernels import apt
from qemu_diff.model import QemuSpec

LOADER = "lib64/ld-fake.so.2"
MULTIARCH = subprocess.run(
    ["gcc", "-print-multiarch"], capture_output=True, text=True, check=True
).stdout.strip()
LIBRARIES = f"lib/{MULTIARCH}"
TARGET = Target("gcc", apt.own_architecture(), LOADER, LIBRARIES)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """``old`` has a QEMU for this machine."""
    return served_qemu(tmp_path, monkeypatch, TARGET, "1:9-1")


def start(program: Path, *arguments: str) -> list[str]:
    """What its loader is started with, once that is a script that says so."""
    loader = program.parent / "root" / LOADER
    loader.chmod(0o755)
    loader.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n')
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.usefixtures("repository")
def test_it_runs_with_its_own_loader_and_libraries(tmp_path: Path) -> None:
    program = fetch_host_qemu("old")
    # A colon would end a directory of the loader's search path.
    assert program == tmp_path / "cache/qemus/old/1%3A9-1/qemu-system-aarch64"
    root = program.parent / "root"
    libraries = sorted(path.name for path in (root / LIBRARIES).iterdir())
    assert libraries == ["libgcc_s.so.1", "libone.so.1"]
    assert start(program, "-M", "a b") == [
        f"{root}/{LOADER}",
        "--library-path",
        f"{root}/{LIBRARIES}",
        f"{root}/{PROGRAM}",
        "-M",
        "a b",
    ]


def test_it_is_fetched_once(repository: Repository) -> None:
    assert cached_host_qemu("old") is None
    with ThreadPoolExecutor(3) as pool:
        (first,) = set(pool.map(fetch_host_qemu, ["old"] * 3))
    shutil.rmtree(repository.directory)
    assert fetch_host_qemu("old") == cached_host_qemu("old") == first


def test_its_program_s_content_tells_its_libraries(repository: Repository) -> None:
    first = fetch_host_qemu("old").read_text()
    shutil.rmtree(fetch_host_qemu("old").parent)
    again = fetch_host_qemu("old").read_text()
    assert again == first
    other = TARGET.linked(repository.directory, "other", "-shared", "-Wl,-soname,libone.so.1")
    files = {f"usr/{LIBRARIES}/libone.so.1": other + b"\0"}
    repository.add("old", TARGET.control("libone1", "2"), files)
    shutil.rmtree(fetch_host_qemu("old").parent)
    assert fetch_host_qemu("old").read_text() != first


def test_a_library_that_no_package_has_leaves_nothing(
    repository: Repository, tmp_path: Path
) -> None:
    fields = TARGET.control("qemu-system-arm", "1:10-1", "libc6")
    repository.add("old", fields, {PROGRAM: (tmp_path / "files/qemu").read_bytes()})
    with pytest.raises(InfrastructureError, match=r"qemu-system-aarch64 needs libone.so.1"):
        fetch_host_qemu("old")
    assert list((tmp_path / "cache/qemus/old").iterdir()) == []


@pytest.mark.usefixtures("repository")
def test_a_cache_that_no_loader_can_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEMU_DIFF_CACHE", str(tmp_path / "a:b"))
    with pytest.raises(UserError, match="a loader takes no search path with any of"):
        fetch_host_qemu("old")


@pytest.mark.usefixtures("repository")
def test_a_suite_that_is_not_served() -> None:
    with pytest.raises(UnavailableSourceError, match=r"^suite older: .*dists/older"):
        qemu_of(QemuSpec("q", suite="older"))


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(MissingToolError, match=r"^/no/such/qemu is missing"):
        qemu_of(QemuSpec("q", program="/no/such/qemu"))


def test_a_program_is_what_it_is_and_knows_its_name() -> None:
    stock = find_qemu()
    spec = QemuSpec("mine", program=str(stock.program))
    mine = qemu_of(spec)
    assert (mine.identity, mine.program) == (stock.identity, stock.program)
    assert (stock.spec, mine.spec) == (None, spec)
    assert qemu_of(None) == stock


def test_where_one_comes_from_in_words() -> None:
    assert source_words(QemuSpec("q", suite="trixie")) == "Debian trixie"
    assert source_words(QemuSpec("q", program="/opt/qemu")) == "/opt/qemu"
