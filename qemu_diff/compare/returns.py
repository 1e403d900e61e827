"""How KVM_RUN returned, and where that left L2, by the names that kernel developers use."""

from __future__ import annotations

import errno

import numpy as np

from qemu_diff.abi import EC_SHIFT, KVM_EXIT_DEBUG, ExceptionClass
from qemu_diff.compare.slices import KVM_EXIT_MMIO, UNKNOWN_PC
from qemu_diff.model import Instruction
from qemu_diff.trace.listing import Listing

EXIT_NAMES = {
    3: "KVM_EXIT_HYPERCALL",
    KVM_EXIT_DEBUG: "KVM_EXIT_DEBUG",
    KVM_EXIT_MMIO: "KVM_EXIT_MMIO",
    9: "KVM_EXIT_FAIL_ENTRY",
    17: "KVM_EXIT_INTERNAL_ERROR",
    24: "KVM_EXIT_SYSTEM_EVENT",
    28: "KVM_EXIT_ARM_NISV",
}
"""``kvm_run.exit_reason`` (Linux include/uapi/linux/kvm.h)."""

EXCEPTION_NAMES: dict[int, str] = {
    ExceptionClass.BREAKPOINT: "Breakpoint",
    ExceptionClass.SOFTWARE_STEP: "Software Step",
    ExceptionClass.WATCHPOINT: "Watchpoint",
    ExceptionClass.BRK: "BRK",
}


def return_name(run: np.void) -> str:
    """``KVM_EXIT_DEBUG Software Step``, ``EINTR``.

    :param run: a RUN record, dtype ``STEP_RECORD``.
    """
    error, reason = int(run["error"]), int(run["exit_reason"])
    if error:
        return errno.errorcode.get(error, f"errno {error}")
    name = EXIT_NAMES.get(reason, f"exit reason {reason}")
    if reason != KVM_EXIT_DEBUG:
        return name
    exception = int(run["esr"]) >> EC_SHIFT
    return f"{name} {EXCEPTION_NAMES.get(exception, f'EC {exception:#x}')}"


def instruction_at(listing: Listing, pc: int) -> Instruction:
    """The instruction at a PC that may be ``UNKNOWN_PC``."""
    return Instruction(0, "an unknown PC", "?") if pc == UNKNOWN_PC else listing.instruction(pc)
