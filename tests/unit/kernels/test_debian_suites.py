"""Packages of another Debian suite, from a repository on this disk that is laid out like Debian's.

The machine's own apt knows the suite ``stable`` of it alone; ``old`` lies beside.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest
from fakes.debian_archive import Repository, control, served_repository

from qemu_diff.errors import SourceError, UnavailableSourceError
from qemu_diff.events import Event, subscribe
from qemu_diff.kernels import apt, build_kernel, debian, debian_image, fetch_source, kernel_key
from qemu_diff.model import DebianSource, KernelSpec

IMAGE = bytes(0x38) + b"ARM\x64" + bytes(64) + b"Linux version 5.9.1-test (me@here) #1\n"
WITNESS = DebianSource("linux-image-test-arm64", "old")
REAL = "linux-image-5.9-test-arm64"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    return served_repository(tmp_path, monkeypatch)


@pytest.fixture
def witness(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """The suite ``old`` has a metapackage and the image package that it stands for."""
    monkeypatch.setattr(apt, "TRUST", "trusted=yes")
    depends = f"linux-base, {REAL} (= 5.9.1-1)"
    repository.add("old", control(WITNESS.package, "5.9.1-1", "arm64", depends), {})
    files = {"boot/vmlinuz-5.9-test-arm64": IMAGE, "lib/modules/5.9-test-arm64/m.ko": b"m"}
    repository.add("old", control(REAL, "5.9.1-1", "arm64"), files)
    return repository


@pytest.mark.usefixtures("witness")
def test_a_metapackage_leads_to_the_kernel(cache_directory: Path, tmp_path: Path) -> None:
    source = debian_image.locate(WITNESS)
    downloads = cache_directory / "downloads" / "old"
    assert source.image == downloads / "linux-image-test-arm64_5.9.1-1.vmlinuz"
    assert source.image.read_bytes() == IMAGE
    assert list(downloads.iterdir()) == [source.image]
    assert list((tmp_path / "apt").rglob("*")) == [
        tmp_path / "apt/lists",
        tmp_path / "apt/lists/partial",
    ]
    assert not (tmp_path / "hooked").exists()


@pytest.mark.usefixtures("witness")
def test_an_image_package_may_be_named_itself() -> None:
    assert debian_image.locate(DebianSource(REAL, "old")).image.read_bytes() == IMAGE


def test_it_is_fetched_once(witness: Repository) -> None:
    first = build_kernel(KernelSpec("w", WITNESS))
    shutil.rmtree(witness.directory)
    again = build_kernel(KernelSpec("w", WITNESS))
    assert (again.image, again.key) == (first.image, first.key)
    assert (first.release, first.key) == ("5.9.1-test", kernel_key(KernelSpec("w", WITNESS)))


def test_a_compressed_kernel_is_decompressed(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "TRUST", "trusted=yes")
    files = {"boot/vmlinuz-5.9-test-arm64": gzip.compress(IMAGE)}
    repository.add("old", control(WITNESS.package, "5.9.1-1", "arm64"), files)
    assert build_kernel(KernelSpec("w", WITNESS)).image.read_bytes() == IMAGE


def test_a_source_package_of_a_suite(
    repository: Repository, fakelinux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "TRUST", "trusted=yes")
    tarball = tmp_path / "linux.tar.xz"
    subprocess.run(["tar", "-cJf", tarball, "-C", fakelinux.parent, fakelinux.name], check=True)
    fields = control("linux-source-0.1", "0.1-1", "all")
    repository.add("old", fields, {"usr/src/linux-source-0.1.tar.xz": tarball.read_bytes()})
    found = debian.locate(DebianSource("linux-source-0.1", "old"))
    assert found.path.parent.name == "old"
    assert found.path.read_bytes() == tarball.read_bytes()
    with pytest.raises(UnavailableSourceError):
        debian.locate(DebianSource("linux-source-0.1"))


def add_sources(repository: Repository, fakelinux: Path, *versions: str) -> None:
    """A package with a tarball for each version, and linux-source, which depends on them all."""
    tarball = repository.directory.parent / "linux.tar.xz"
    for version in versions:
        (fakelinux / "version").write_text(version)
        subprocess.run(["tar", "-cJf", tarball, "-C", fakelinux.parent, fakelinux.name], check=True)
        name = f"linux-source-{version}"
        fields = control(name, f"{version}.1-1", "all")
        repository.add("old", fields, {f"usr/src/{name}.tar.xz": tarball.read_bytes()})
    depends = ", ".join(f"linux-source-{version} (= {version}.1-1)" for version in versions)
    fields = control("linux-source", f"{versions[-1]}.1-1", "all", depends)
    repository.add("old", fields, {})


SOURCES = DebianSource("linux-source", "old")


def test_the_newest_source_of_a_suite(
    repository: Repository, fakelinux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "TRUST", "trusted=yes")
    add_sources(repository, fakelinux, "0.9", "0.10")
    found = debian.locate(SOURCES)
    assert (found.package, found.version) == ("linux-source-0.10", "0.10.1-1")
    # Named itself it is the same source, and has the same tree.
    assert debian.locate(DebianSource("linux-source-0.10", "old")) == found
    build = build_kernel(KernelSpec("k", SOURCES))
    assert build.source == "debian linux-source-0.10 0.10.1-1"


def test_a_newer_one_is_fetched_when_it_is_asked_for(
    repository: Repository, fakelinux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "TRUST", "trusted=yes")
    add_sources(repository, fakelinux, "0.9")
    spec = KernelSpec("k", SOURCES)
    first = fetch_source(spec)
    assert first.size == first.path.stat().st_size > 0
    fetched = first.path.stat().st_ino
    assert fetch_source(spec).path.stat().st_ino == fetched
    add_sources(repository, fakelinux, "0.10")
    assert debian.locate(SOURCES).version == "0.9.1-1"
    assert fetch_source(spec).path.name == "linux-source-0.10_0.10.1-1.tar.xz"
    assert debian.locate(SOURCES).version == "0.10.1-1"


def test_a_source_package_of_nothing(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "TRUST", "trusted=yes")
    repository.add("old", control("linux-source", "1-1", "all", "linux-source-tools"), {})
    with pytest.raises(SourceError, match=r"nor does it depend on one that has$"):
        debian.locate(SOURCES)


def test_what_nobody_signed_is_refused(repository: Repository) -> None:
    files = {"boot/vmlinuz-5.9-test-arm64": IMAGE}
    repository.add("old", control(WITNESS.package, "5.9.1-1", "arm64"), files)
    with pytest.raises(UnavailableSourceError, match=r"old' is not signed|old Release' is not"):
        debian_image.locate(WITNESS)


@pytest.mark.usefixtures("witness")
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (DebianSource(WITNESS.package, "older"), "dists/older/main/binary-arm64/Packages"),
        (DebianSource("linux-image-none", "old"), "Unable to locate package linux-image-none"),
        (DebianSource(WITNESS.package, "old-security"), "no Debian security archive here"),
    ],
)
def test_what_can_not_be_had(source: DebianSource, reason: str, cache_directory: Path) -> None:
    with pytest.raises(UnavailableSourceError, match=reason) as caught:
        debian_image.locate(source)
    assert "\n" not in str(caught.value)
    assert [path for path in cache_directory.rglob("*") if path.name.startswith("tmp")] == []


def test_a_package_that_its_mirror_has_lost(witness: Repository) -> None:
    next(witness.directory.glob(f"pool/{REAL}_*")).unlink()
    with pytest.raises(UnavailableSourceError, match=f"the Debian package {REAL}=5.9.1-1 of suite"):
        debian_image.locate(WITNESS)


def test_only_archives_of_debian_are_asked(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "TRUST", "trusted=yes")
    text = (tmp_path / "sources.list").read_text().replace(" stable ", " nodistro ")
    (tmp_path / "sources.list").write_text(text)
    repository.add("old", control(WITNESS.package, "5.9.1-1", "arm64"), {})
    with pytest.raises(UnavailableSourceError, match="no Debian archive here"):
        debian_image.locate(WITNESS)


def test_a_package_without_a_kernel(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "TRUST", "trusted=yes")
    repository.add("old", control(WITNESS.package, "5.9.1-1", "arm64", "linux-base"), {})
    with pytest.raises(SourceError, match="of suite old holds no kernel") as caught:
        debian_image.locate(WITNESS)
    assert not isinstance(caught.value, UnavailableSourceError)


def test_an_image_needs_a_suite() -> None:
    with pytest.raises(SourceError, match="needs a suite, such as bullseye"):
        debian_image.locate(DebianSource("linux-image-arm64"))


def test_a_machine_without_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableSourceError, match="this machine has no apt"):
        debian_image.locate(WITNESS)


@pytest.mark.parametrize(("optional", "state"), [(True, "skipped"), (False, "failed")])
def test_the_stage_of_a_kernel_that_can_not_be_had(
    optional: bool, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    seen: list[Event] = []
    with subscribe(seen.append), pytest.raises(UnavailableSourceError) as caught:
        build_kernel(KernelSpec("w", WITNESS, optional=optional))
    assert [(event.state, event.text) for event in seen] == [
        ("started", ""),
        ("progress", "finding the source"),
        (state, str(caught.value)),
    ]
