"""The doctor, on machines made of small scripts in a directory that is all of PATH."""

from __future__ import annotations

import io
import tomllib
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from rich.console import Console

from qemu_diff import doctor
from qemu_diff.doctor import Check, all_needed, checks, print_checks

ROOT = Path(__file__).parents[2]
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Empties PATH and the cache; returns what puts a program on PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("QEMU_DIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("QEMU_DIFF_QEMU", raising=False)

    def write(name: str, script: str = "exit 0") -> None:
        program = programs / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return write


def check(name: str) -> Check:
    (found,) = (check for check in checks() if check.name == name)
    return found


def printed(*done: Check) -> list[str]:
    text = io.StringIO()
    print_checks(done, Console(file=text, width=40))
    return text.getvalue().splitlines()


def test_an_empty_machine_lacks_everything_but_python_and_a_disk(install: Install) -> None:
    install("apt-get")
    missing = {check.name: check.apt for check in checks() if check.required and not check.ok}
    tarball = missing.pop("linux-source-6.1", "apt-get update && apt-get install linux-source-6.1")
    assert tarball == "apt-get update && apt-get install linux-source-6.1"
    assert missing == {
        "qemu-system-aarch64": "apt-get install qemu-system-arm",
        "host C compiler": "apt-get install gcc libc6-dev",
        "static arm64 programs": "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
        "aarch64-linux-gnu-ld": "apt-get install binutils-aarch64-linux-gnu",
        "make": "apt-get install make",
        "flex": "apt-get install flex",
        "bison": "apt-get install bison",
        "bc": "apt-get install bc",
        "patch": "apt-get install patch",
        "tar": "apt-get install tar",
        "xz": "apt-get install xz-utils",
    }


def test_qemu_needs_plugins(install: Install) -> None:
    install("qemu-system-aarch64", 'echo "-accel tcg"')
    without = check("qemu-system-aarch64")
    assert not without.ok
    assert "plugin" in without.detail


def test_qemu_that_does_not_start_is_no_qemu(install: Install) -> None:
    install("qemu-system-aarch64", "echo libfoo.so is missing >&2; exit 127")
    broken = check("qemu-system-aarch64")
    assert not broken.ok
    assert "libfoo.so is missing" in broken.detail


def test_a_cross_compiler_without_a_static_libc_is_told_apart(install: Install) -> None:
    install("dnf")
    install("aarch64-linux-gnu-gcc", 'echo "ld: cannot find -lc" >&2; exit 1')
    cross = check("static arm64 programs")
    assert not cross.ok
    assert cross.detail == (
        "aarch64-linux-gnu-gcc: ld: cannot find -lc;"
        " Fedora packages no static aarch64 libc: use Debian, or a container of it"
    )
    assert cross.remedy() == ""


def test_fedora_gets_fedora_s_commands(install: Install) -> None:
    install("dnf")
    assert check("qemu-system-aarch64").remedy() == "dnf install qemu-system-aarch64-core"
    assert check("xz").remedy() == "dnf install xz"


def test_without_apt_debian_sources_are_optional(install: Install) -> None:
    install("dnf")
    assert not check("linux-source-6.1").required
    assert not check("apt-get").required


def test_apt_may_offer_what_is_not_installed(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "DEBIAN_SOURCE", "linux-source-0.0")
    install("apt-get")
    install("apt-cache", "exit 100")
    assert not check("linux-source-0.0").ok
    install("apt-cache", "exit 0")
    assert check("linux-source-0.0").detail == "apt offers it"


def test_a_downloaded_source_is_enough(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "DEBIAN_SOURCE", "linux-source-0.0")
    install("apt-get")
    tarball = tmp_path / "cache" / "downloads" / "linux-source-0.0_1.tar.xz"
    tarball.parent.mkdir(parents=True)
    tarball.touch()
    assert check("linux-source-0.0").detail == str(tarball)


def test_a_qemu_for_l1_is_optional(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "own_suite", lambda: "bookworm")
    without = check("QEMU for L1")
    assert (without.ok, without.required) == (False, False)
    assert without.detail == "not in the cache, and no apt-get to fetch it with"
    install("apt-get")
    assert check("QEMU for L1").detail == "apt-get can fetch that of Debian bookworm"


def test_a_machine_that_is_no_debian_has_no_qemu_for_l1(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("apt-get")
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"PRETTY_NAME": "Elsewhere 1"})
    elsewhere = check("QEMU for L1")
    assert (elsewhere.ok, elsewhere.required) == (False, False)
    assert elsewhere.detail.startswith("this machine runs Elsewhere 1, not a release of Debian")


def test_a_small_disk_is_told(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("apt-get")
    monkeypatch.setattr(doctor, "CACHE_BYTES", 10**18)
    disk = check("disk space")
    assert not disk.ok
    assert "1000000000 GB are needed" in disk.detail


def test_only_required_checks_decide() -> None:
    absent = Check("x", False, "", "", "", "", required=False)
    needed = Check("y", False, "", "", "", "")
    assert all_needed([absent])
    assert not all_needed([absent, needed])


def test_each_check_is_one_line_with_its_remedy(install: Install) -> None:
    install("apt-get")
    here = Check("make", True, "/usr/bin/make", "apt-get install make", "", "building kernels")
    gone = Check("flex", False, "not on PATH", "apt-get install flex", "", "building kernels")
    spare = Check("git", False, "not on PATH", "apt-get install git", "", "trees", required=False)
    assert printed(here, gone, spare) == [
        "ok        make  /usr/bin/make",
        "missing   flex  not on PATH; needed for building kernels: apt-get install flex",
        "optional  git   not on PATH; needed for trees: apt-get install git",
    ]


def test_the_modules_looked_for_are_the_dependencies_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {dependency.partition(">")[0].strip() for dependency in project["dependencies"]}
    owners = packages_distributions()
    found = {
        owner.lower()
        for module in doctor._PYTHON_MODULES
        for owner in owners[module.partition(".")[0]]
    }
    assert found == wanted
