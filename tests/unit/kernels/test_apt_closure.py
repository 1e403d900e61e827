"""A package with what it depends on, from suites of a repository on this disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.debian_archive import Repository, control, served_repository
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.errors import UnavailableSourceError
from qemu_diff.kernels import apt
from qemu_diff.kernels.apt import PackageFile, offers, own_suite

names = st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,12}", fullmatch=True)
versions = st.from_regex(r"([0-9]{1,2}:)?[0-9][A-Za-z0-9.+~-]{0,12}", fullmatch=True)
packages = st.lists(st.builds(PackageFile, names, versions, st.integers(0, 1 << 33)), max_size=5)
chatter = st.sampled_from(["Reading package lists...", "  adduser libc6 passwd zlib1g", "", "'"])


def listed(package: PackageFile, architecture: str) -> str:
    """A line as apt writes it: escaped once as a URI, and once as a file name."""
    file = f"{package.name}_{package.version.replace(':', '%3a')}_{architecture}.deb"
    return f"'http://m.example/debian/pool/x/x_1%2b_1.deb' {file} {package.size} SHA256:00ff"


@given(packages, st.sampled_from(["arm64", "all"]), chatter)
def test_offers_are_read_back(wanted: list[PackageFile], architecture: str, noise: str) -> None:
    lines = [line for package in wanted for line in (noise, listed(package, architecture))]
    assert offers("\n".join([*lines, noise])) == tuple(wanted)


@given(st.text())
def test_any_answer_can_be_read(answer: str) -> None:
    assert offers(answer) == ()


def test_a_size_that_no_file_has_is_no_offer() -> None:
    assert offers("'http://x/p_1_all.deb' p_1_all.deb 1" + 5000 * "9") == ()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """``old`` has a tool of version 1; its backports one of version 2 that needs a newer libone."""
    monkeypatch.setattr(apt, "TRUST", "trusted=yes")
    found = served_repository(tmp_path, monkeypatch)
    depends = "libone (>= 0.5), {0} (= {1}), libnone | libtwo:any"
    found.add("old", control("tool", "1:1-1+b2", "arm64", depends.format("tool-data", 1)), {})
    found.add("old", control("libone", "1", "arm64", "libc (>= 1)"), {})
    found.add("old", control("libtwo", "2", "arm64") + "Multi-Arch: allowed\n", {})
    found.add("old", control("libc", "3", "arm64"), {})
    found.add("old", control("tool-data", "1", "all", "fonts"), {})
    found.add("old", control("unwanted", "1", "arm64"), {})
    newer = depends.replace("0.5", "1.5").format("tool-data", 2)
    found.add("old-backports", control("tool", "1:2-1", "arm64", newer), {})
    found.add("old-backports", control("libone", "2", "arm64", "libc (>= 1)"), {})
    return found


def closure(directory: Path, suite: str, base: str = "", package: str = "tool") -> dict[str, str]:
    source = apt.private_apt(suite, directory / suite, base)
    found = source.closure(package, without="tool-")
    files = source.download_all(found, directory / f"{suite}.files")
    assert len(files) == len(found)
    assert sum(file.stat().st_size for file in files) == sum(one.size for one in found)
    return {one.name: one.version for one in found}


@pytest.mark.usefixtures("repository")
def test_dependencies_come_along_but_what_is_left_out(tmp_path: Path) -> None:
    found = closure(tmp_path, "old")
    assert found == {"tool": "1:1-1+b2", "libone": "1", "libtwo": "2", "libc": "3"}
    assert next(iter(found)) == "tool"


@pytest.mark.usefixtures("repository")
def test_backports_build_upon_their_release(tmp_path: Path) -> None:
    found = closure(tmp_path, "old-backports", "old")
    assert found == {"tool": "1:2-1", "libone": "2", "libtwo": "2", "libc": "3"}


def test_a_package_in_the_working_directory_makes_no_difference(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository.directory / "pool")
    assert closure(tmp_path, "old", package="libc") == {"libc": "3"}


@pytest.mark.usefixtures("repository")
def test_a_package_without_dependencies(tmp_path: Path) -> None:
    assert closure(tmp_path, "old", package="libc") == {"libc": "3"}


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(
    ("suite", "base", "package", "reason"),
    [
        ("older", "", "tool", "suite older: .*dists/older/"),
        ("older-backports", "old", "tool", "suite older-backports: .*dists/older-backports/"),
        # What the release has is not taken for what its backports have.
        ("old-backports", "old", "libtwo", "suite old-backports: Release 'old-backports' for"),
        ("old", "", "nothing", "suite old: Unable to locate package nothing"),
        ("old-backports", "", "tool", "suite old-backports: .*"),
    ],
)
def test_what_can_not_be_had(
    suite: str, base: str, package: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UnavailableSourceError, match=reason) as caught:
        closure(tmp_path, suite, base, package)
    assert "\n" not in str(caught.value)


def test_a_package_that_the_mirror_has_lost(repository: Repository, tmp_path: Path) -> None:
    next(repository.directory.glob("pool/libc_*")).unlink()
    with pytest.raises(UnavailableSourceError, match=r"suite old: .*libc"):
        closure(tmp_path, "old")


def test_the_machine_s_own_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    release = {"ID": "debian", "VERSION_CODENAME": "trixie", "PRETTY_NAME": "Debian"}
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: release)
    assert own_suite() == "trixie"


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ({"ID": "ubuntu", "VERSION_CODENAME": "noble", "PRETTY_NAME": "Ubuntu 24.04"}, "Ubuntu"),
        ({"ID": "debian", "PRETTY_NAME": "Debian without a name"}, "Debian without a name"),
        (None, "a system without os-release"),
    ],
)
def test_a_machine_that_is_no_debian(
    release: dict[str, str] | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read() -> dict[str, str]:
        if release is None:
            raise FileNotFoundError
        return release

    monkeypatch.setattr("platform.freedesktop_os_release", read)
    with pytest.raises(UnavailableSourceError, match=f"runs {name}.*name a suite, such as"):
        own_suite()
