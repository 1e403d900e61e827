"""A Debian archive whose suite ``old`` has a QEMU: a program without code, with what it needs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes.debian_archive import Repository, control, served_repository

from qemu_diff.guest.qemu_packages import PROGRAM
from qemu_diff.kernels import apt


@dataclass(frozen=True)
class Target:
    """What the packages are for.

    :param architecture: as Debian calls it.
    :param loader: the path that programs name.
    :param libraries: the directory of libraries.
    """

    compiler: str
    architecture: str
    loader: str
    libraries: str

    def linked(self, directory: Path, name: str, *options: str) -> bytes:
        """An ELF file without code."""
        (directory / "empty.c").write_text("void _start(void) {}\n")
        command = [
            self.compiler,
            "-nostdlib",
            "-Wl,--no-as-needed",
            *options,
            "-o",
            name,
            "empty.c",
        ]
        subprocess.run(command, check=True, cwd=directory)
        return (directory / name).read_bytes()

    def control(self, name: str, version: str, depends: str = "") -> str:
        """A package's fields."""
        return control(name, version, self.architecture, depends)


def served_qemu(
    directory: Path, monkeypatch: pytest.MonkeyPatch, target: Target, version: str
) -> Repository:
    """Make it what apt knows; the cache is ``directory / "cache"``. QEMU needs libone; of its
    modules and ROMs nothing is wanted. Its program is ``directory / "files/qemu"``, too."""
    monkeypatch.setenv("QEMU_DIFF_CACHE", str(directory / "cache"))
    monkeypatch.setattr(apt, "TRUST", "trusted=yes")
    files = directory / "files"
    files.mkdir()
    loader = target.linked(files, Path(target.loader).name, "-shared")
    one = target.linked(files, "libone.so.1", "-shared", "-Wl,-soname,libone.so.1")
    gcc = target.linked(files, "libgcc_s.so.1", "-shared", "-Wl,-soname,libgcc_s.so.1")
    qemu = target.linked(files, "qemu", f"-Wl,--dynamic-linker=/{target.loader}", "libone.so.1")
    found = served_repository(directory, monkeypatch)
    depends = "libone1 (>= 1), qemu-system-common (>> 1:7.2), libc6"
    libraries = target.libraries
    for fields, content in (
        (
            target.control("qemu-system-arm", version, depends),
            {PROGRAM: qemu, "usr/share/doc/qemu": b"words"},
        ),
        (target.control("libone1", "1"), {f"usr/{libraries}/libone.so.1": one}),
        (target.control("libc6", "2", "libgcc-s1"), {target.loader: loader}),
        (target.control("libgcc-s1", "3"), {f"{libraries}/libgcc_s.so.1": gcc}),
        (target.control("qemu-system-common", version, "libgtk"), {}),
    ):
        found.add("old", fields, content)
    return found
