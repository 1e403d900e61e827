"""Closures of small programs that the cross compiler links."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qemu_diff.errors import InfrastructureError
from qemu_diff.guest.runtime_closure import LIBRARIES, runtime_closure
from qemu_diff.guest.toolchain import CROSS_COMPILER

PROGRAM = "usr/bin/program"
LOADER = "lib/ld-linux-aarch64.so.1"


def link(output: Path, *options: str, needs: tuple[Path, ...] = ()) -> Path:
    """An ELF file without code that is linked with others."""
    output.parent.mkdir(parents=True, exist_ok=True)
    empty = output.with_suffix(".c")
    empty.write_text("void _start(void) {}\n")
    command = [CROSS_COMPILER, "-nostdlib", *options, "-Wl,--no-as-needed"]
    command += ["-Wl,--allow-shlib-undefined", "-o", str(output), str(empty), *map(str, needs)]
    subprocess.run(command, check=True)
    empty.unlink()
    return output


def library(path: Path, needs: tuple[Path, ...] = ()) -> Path:
    """A shared library whose soname is its file's name."""
    return link(path, "-shared", "-fPIC", f"-Wl,-soname,{path.name}", needs=needs)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """program → one → two; two and the program → the loader; three stands alone."""
    loader = library(tmp_path / "lib/aarch64-linux-gnu/ld-linux-aarch64.so.1")
    (tmp_path / LOADER).symlink_to("aarch64-linux-gnu/ld-linux-aarch64.so.1")
    two = library(tmp_path / f"usr/{LIBRARIES}/libtwo.so.2", (loader,))
    one = library(tmp_path / f"{LIBRARIES}/libone.so.1", (two,))
    library(tmp_path / f"{LIBRARIES}/libthree.so.3")
    link(
        tmp_path / PROGRAM,
        f"-Wl,--dynamic-linker=/{LOADER}",
        f"-Wl,-rpath-link={two.parent}",
        needs=(one, loader),
    )
    return tmp_path


def test_libraries_of_libraries_are_found(root: Path) -> None:
    found = runtime_closure(root, PROGRAM)
    assert set(found) == {
        PROGRAM,
        LOADER,
        f"{LIBRARIES}/libone.so.1",
        f"{LIBRARIES}/libtwo.so.2",
    }
    assert found[f"{LIBRARIES}/libtwo.so.2"] == root / f"usr/{LIBRARIES}/libtwo.so.2"
    assert not any(file.is_symlink() for file in found.values())


def test_what_is_loaded_comes_along(root: Path) -> None:
    found = runtime_closure(root, PROGRAM, loaded=("libthree.so.3",))
    assert f"{LIBRARIES}/libthree.so.3" in found


def test_a_soname_may_be_a_link_even_an_absolute_one(root: Path) -> None:
    one = root / f"{LIBRARIES}/libone.so.1"
    real = root / "opt/libone.so.1.4.2"
    real.parent.mkdir()
    one.rename(real)
    one.symlink_to("/opt/libone.so.1.4.2")
    assert runtime_closure(root, PROGRAM)[f"{LIBRARIES}/libone.so.1"] == real


def test_a_merged_usr_has_the_loader_too(root: Path) -> None:
    (root / LOADER).rename(root / "usr" / LOADER)
    loader = root / "usr" / LIBRARIES / "ld-linux-aarch64.so.1"
    (root / LIBRARIES / loader.name).rename(loader)
    assert runtime_closure(root, PROGRAM)[LOADER] == loader


def test_a_static_program_needs_nothing(tmp_path: Path) -> None:
    link(tmp_path / PROGRAM, "-static")
    assert runtime_closure(tmp_path, PROGRAM) == {PROGRAM: tmp_path / PROGRAM}


def test_a_missing_library_is_named(root: Path) -> None:
    (root / f"usr/{LIBRARIES}/libtwo.so.2").unlink()
    with pytest.raises(InfrastructureError, match=r"^libone.so.1 needs libtwo.so.2, which none"):
        runtime_closure(root, PROGRAM)


def test_a_link_to_nothing_or_to_itself_is_a_missing_library(root: Path) -> None:
    one = root / f"{LIBRARIES}/libone.so.1"
    for target in ("/nowhere", one.name):
        one.unlink()
        one.symlink_to(target)
        with pytest.raises(InfrastructureError, match=r"^usr/bin/program needs libone.so.1"):
            runtime_closure(root, PROGRAM)


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="no package has usr/bin/program"):
        runtime_closure(tmp_path, PROGRAM)


def test_what_is_no_elf_file_is_named(root: Path) -> None:
    (root / f"{LIBRARIES}/libone.so.1").write_text("/* GNU ld script */\n")
    with pytest.raises(InfrastructureError, match=r"libone.so.1: no ELF file"):
        runtime_closure(root, PROGRAM)
