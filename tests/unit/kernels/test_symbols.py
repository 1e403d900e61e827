"""Functions of a vmlinux: those that are there, and nothing where it can't be read."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qemu_diff.guest.toolchain import HOST_COMPILER
from qemu_diff.kernels.symbols import EXIT_HANDLERS, step_functions

SOURCE = """
__attribute__((used)) static int handle_hvc(void) { return 1; }
int __kvm_nvhe_handle_hvc(void) { return 2; }
int kvm_handle_sys_reg(void) { return 3; }
int kvm_handle_sys_reg_not(void) { return 4; }
int kvm_handle_wfx = 5;
int main(void) { return handle_hvc(); }
"""


@pytest.fixture
def vmlinux(tmp_path: Path) -> Path:
    source, program = tmp_path / "main.c", tmp_path / "vmlinux"
    source.write_text(SOURCE)
    subprocess.run([HOST_COMPILER, "-O0", "-o", str(program), str(source)], check=True)
    return program


def test_functions_are_found_by_their_whole_name(vmlinux: Path) -> None:
    """``handle_hvc`` is the tail of another name, and data has no entry to come to."""
    assert sorted(step_functions(vmlinux).values()) == ["handle_hvc", "kvm_handle_sys_reg"]


def test_addresses_are_those_of_nm(vmlinux: Path) -> None:
    shown = subprocess.run(["nm", vmlinux], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in shown.splitlines()]
    nm = {row[2]: int(row[0], 16) for row in rows if len(row) == 3}
    assert step_functions(vmlinux) == {
        nm[name]: name for name in ("handle_hvc", "kvm_handle_sys_reg")
    }


def test_without_symbols_nothing_is_known(vmlinux: Path, tmp_path: Path) -> None:
    subprocess.run(["strip", vmlinux], check=True)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"\x7fELF and no more")
    for nothing in (None, tmp_path / "missing", damaged, vmlinux):
        assert step_functions(nothing) == {}


def test_a_vmlinux_that_was_built_again_is_read_again(vmlinux: Path, tmp_path: Path) -> None:
    first = step_functions(vmlinux)
    first.clear()
    assert sorted(step_functions(vmlinux).values()) == ["handle_hvc", "kvm_handle_sys_reg"]
    source = tmp_path / "main.c"
    source.write_text("int handle_smc(void) { return 1; }\nint main(void) { return 0; }\n")
    subprocess.run([HOST_COMPILER, "-O0", "-o", str(vmlinux), str(source)], check=True)
    assert list(step_functions(vmlinux).values()) == ["handle_smc"]


def test_no_handler_is_named_twice() -> None:
    assert len(set(EXIT_HANDLERS)) == len(EXIT_HANDLERS)
