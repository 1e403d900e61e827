"""Where the functions of L1's kernel lie that a step passes through."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section

from qemu_diff.regular_file import opened

ELF64_SYMBOL = np.dtype(
    [
        ("name", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("section", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)
"""``Elf64_Sym`` (elf.h)."""

_STT_FUNC = 2

_OF_A_LIE = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What pyelftools, and whoever believes it, raises where a file's offsets and sizes are wrong."""

EXIT_HANDLERS = (
    # arch/arm64/kvm/handle_exit.c: arm_exit_handlers[]
    *("handle_hvc", "handle_smc", "kvm_handle_wfx", "kvm_handle_sys_reg"),
    *("kvm_handle_guest_abort", "kvm_handle_guest_debug", "handle_sve", "handle_no_fpsimd"),
    *("kvm_handle_ptrauth", "kvm_handle_unknown_ec", "handle_other", "kvm_handle_eret"),
    *("kvm_handle_cp14_32", "kvm_handle_cp14_64", "kvm_handle_cp14_load_store"),
    *("kvm_handle_cp15_32", "kvm_handle_cp15_64", "kvm_handle_cp10_id", "handle_svc"),
    # arch/arm64/kvm/hyp: what serves an exit without leaving EL2's own code
    *("kvm_hyp_handle_sysreg", "kvm_hyp_handle_sysreg_vhe", "kvm_hyp_handle_fpsimd"),
    *("kvm_hyp_handle_iabt_low", "kvm_hyp_handle_dabt_low", "kvm_hyp_handle_memory_fault"),
    *("kvm_hyp_handle_ptrauth", "kvm_hyp_handle_mops", "kvm_hyp_handle_cp15_32"),
)
"""Functions that serve an exit from L2, of any kernel since 5.10."""

_PASSED = (
    # into KVM_RUN and out of it (arch/arm64/kvm/arm.c)
    *("kvm_arch_vcpu_ioctl_run", "kvm_arch_vcpu_load", "kvm_arch_vcpu_put"),
    *("kvm_handle_mmio_return", "kvm_arm_vcpu_enter_exit", "handle_exit", "handle_exit_early"),
    *("kvm_vgic_flush_hwstate", "kvm_vgic_sync_hwstate", "kvm_timer_sync_user"),
    *("kvm_timer_update_run", "kvm_pmu_flush_hwstate", "kvm_pmu_sync_hwstate"),
    # the step's own state (debug.c), up to 6.13 and since
    *("kvm_arm_setup_debug", "kvm_arm_clear_debug"),
    *("kvm_vcpu_load_debug", "kvm_vcpu_put_debug"),
    # the world switch (hyp/)
    *("__kvm_vcpu_run", "__kvm_vcpu_run_vhe", "__guest_enter", "__guest_exit"),
    *("fixup_guest_exit", "__deactivate_traps", "__kvm_adjust_pc", "kvm_skip_instr"),
    # what handlers do
    *("emulate_sys_reg", "perform_access", "kvm_smccc_call_handler", "kvm_hvc_call_handler"),
    *("kvm_psci_call", "io_mem_abort", "user_mem_abort", "kvm_inject_undefined"),
)


def step_functions(vmlinux: Path | None) -> dict[int, str]:
    """Address → name of what a step passes through, as far as this kernel has it.

    What was inlined, or is of another version, is not there; nor is nVHE's EL2 code, which runs
    at other addresses than it is linked at. It takes milliseconds.

    :param vmlinux: None, or what can't be read: nothing is known.
    """
    if vmlinux is None:
        return {}
    try:
        status = vmlinux.stat()
        return dict(_read(vmlinux, status.st_ino, status.st_size, status.st_mtime_ns))
    except (OSError, ELFError):
        return {}


@lru_cache(maxsize=64)
def _read(vmlinux: Path, *_version: int) -> Mapping[int, str]:
    """Each cell of a kernel asks for the same."""
    with opened_elf(vmlinux) as elf:
        return _functions(elf.get_section_by_name(".symtab"), elf.get_section_by_name(".strtab"))


@contextmanager
def opened_elf(path: Path) -> Iterator[ELFFile]:
    """An ELF file. It is mapped: a size in it that is a lie costs no memory.

    :raises OSError: it can't be read.
    :raises ELFError: it is none, or contradicts itself; also from what is done inside.
    """
    with opened(path) as file:
        try:
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
                yield ELFFile(content)  # type: ignore[arg-type]
        except _OF_A_LIE as error:
            raise ELFError(f"{type(error).__name__}: {error}") from error


def _functions(table: Section | None, strings: Section | None) -> dict[int, str]:
    if table is None or strings is None:
        return {}
    symbols = np.frombuffer(table.data(), ELF64_SYMBOL)
    symbols = symbols[(symbols["info"] & 0xF == _STT_FUNC) & (symbols["value"] != 0)]
    names = strings.data()
    found: dict[int, str] = {}
    for name in dict.fromkeys((*EXIT_HANDLERS, *_PASSED)):
        # Linkers let a name be the tail of another: only a symbol says where one begins.
        tails = [one.start() for one in re.finditer(re.escape(name.encode()) + rb"\0", names)]
        for address in symbols["value"][np.isin(symbols["name"], tails)].tolist():
            found.setdefault(address, name)
    return found
