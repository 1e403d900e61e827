"""Debian's source packages, with a real package from a real repository on this disk."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from qemu_diff.errors import InfrastructureError, SourceError, UnavailableSourceError
from qemu_diff.kernels import debian, kernel_key
from qemu_diff.kernels.tree import FileState, IsolatedTree
from qemu_diff.model import DebianSource, KernelSpec

PACKAGE = "linux-source-0.1"

CONTROL = f"""\
Package: {PACKAGE}
Version: 0.1-1~test
Architecture: all
Maintainer: test <test@example.org>
Description: a small tree
"""

APT_CONF = """\
Dir::Etc::SourceList "{here}/sources.list";
Dir::Etc::SourceParts "{here}/none";
Dir::State "{here}/apt";
Dir::State::Lists "{here}/apt/lists";
Dir::Cache "{here}/apt";
"""


def build_package(directory: Path, tree: Path, repository: Path) -> Path:
    (directory / "usr/src").mkdir(parents=True)
    (directory / "DEBIAN").mkdir()
    (directory / "DEBIAN/control").write_text(CONTROL)
    tarball = directory / "usr/src" / f"{PACKAGE}.tar.xz"
    subprocess.run(["tar", "-cJf", tarball, "-C", tree.parent, tree.name], check=True)
    repository.mkdir()
    command = ["dpkg-deb", "--root-owner-group", "-b", str(directory), str(repository)]
    subprocess.run(command, check=True, capture_output=True)
    (package,) = repository.glob("*.deb")
    return package


@pytest.fixture
def repository(fakelinux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """apt offers the package and nothing else."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("no apt here")
    repository = tmp_path / "repository"
    package = build_package(tmp_path / "package", fakelinux, repository)
    content = package.read_bytes()
    (repository / "Packages").write_text(
        f"{CONTROL}Filename: ./{package.name}\nSize: {len(content)}\n"
        f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
    )
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{repository} ./\n")
    (tmp_path / "apt/lists/partial").mkdir(parents=True)
    (tmp_path / "apt.conf").write_text(APT_CONF.format(here=tmp_path))
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
    return repository


@pytest.mark.usefixtures("repository")
def test_a_package_that_is_not_installed_is_fetched(cache_directory: Path) -> None:
    tarball = debian.locate(DebianSource(PACKAGE))
    assert tarball.path == cache_directory / "downloads" / f"{PACKAGE}_0.1-1~test.tar.xz"
    assert tarball.version == "0.1-1~test"
    assert tarball.identity == f"debian {PACKAGE} 0.1-1~test sha256:{tarball.sha256}"
    assert [path.name for path in tarball.path.parent.iterdir()] == [tarball.path.name]


def test_it_is_fetched_once(repository: Path) -> None:
    first = debian.locate(DebianSource(PACKAGE))
    shutil.rmtree(repository)
    assert debian.locate(DebianSource(PACKAGE)) == first


@pytest.mark.usefixtures("repository")
def test_the_tarball_becomes_the_base(fakelinux: Path) -> None:
    tarball = debian.locate(DebianSource(PACKAGE))
    tree = IsolatedTree(tarball.lineage)
    debian.unpack(tarball, tree)
    assert tree.base("kernel/fork.c") == FileState((fakelinux / "kernel/fork.c").read_bytes())
    assert [path.name for path in tree.directory.iterdir()] == ["source"]


@pytest.mark.usefixtures("repository")
def test_a_package_that_does_not_exist() -> None:
    with pytest.raises(UnavailableSourceError) as caught:
        debian.locate(DebianSource("linux-source-9.9"))
    assert str(caught.value) == (
        "the Debian package linux-source-9.9 (Unable to locate package linux-source-9.9) is "
        "missing; install it with: apt-get install linux-source-9.9"
    )


@pytest.mark.usefixtures("repository")
def test_a_damaged_tarball_is_one_line() -> None:
    tarball = debian.locate(DebianSource(PACKAGE))
    tarball.path.write_bytes(tarball.path.read_bytes()[:-100])
    tree = IsolatedTree(tarball.lineage)
    with pytest.raises(InfrastructureError, match="can't be unpacked") as caught:
        debian.unpack(tarball, tree)
    assert "\n" not in str(caught.value)
    assert not tree.populated


@pytest.mark.parametrize("name", ["linux-image-arm64", "../linux-source-6.1", "-q", ""])
def test_names_of_other_kinds_are_refused(name: str) -> None:
    with pytest.raises(SourceError, match="not a kernel source package"):
        debian.locate(DebianSource(name))


def test_a_machine_without_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableSourceError, match="this machine has no apt; give a directory"):
        debian.locate(DebianSource("linux-source-9.9"))


@pytest.mark.usefixtures("repository")
def test_the_key_needs_no_unpacked_tree(cache_directory: Path) -> None:
    assert kernel_key(KernelSpec("k", DebianSource(PACKAGE)))
    assert not (cache_directory / "trees").exists()
