"""L2's registers as KVM numbers them, and as people name them."""

from __future__ import annotations

from qemu_diff.abi import core_register, system_register

BREAKPOINTS = 6
"""So many of DBGB*n_EL1 and DBGW*n_EL1 have names here; QEMU's ``max`` has 6 and 4."""

_CORE = {
    **{f"x{number}": core_register(2 * number) for number in range(31)},
    "sp": core_register(62),
    "pc": core_register(64),
    "pstate": core_register(66),
    "sp_el1": core_register(68),
    "elr_el1": core_register(70),
    "spsr_el1": core_register(72),
}
"""Offsets in ``struct kvm_regs`` (Linux arch/arm64/include/uapi/asm/kvm.h) in units of 4 bytes."""

_SYSTEM = {
    "mdscr_el1": system_register(2, 0, 0, 2, 2),
    "sctlr_el1": system_register(3, 0, 1, 0, 0),
    "cpacr_el1": system_register(3, 0, 1, 0, 2),
    "esr_el1": system_register(3, 0, 5, 2, 0),
    "far_el1": system_register(3, 0, 6, 0, 0),
    "vbar_el1": system_register(3, 0, 12, 0, 0),
    "tpidr_el1": system_register(3, 0, 13, 0, 4),
    "tpidr_el0": system_register(3, 3, 13, 0, 2),
    **{
        f"{name}{number}_el1": system_register(2, 0, 0, number, op2)
        for name, op2 in (("dbgbvr", 4), ("dbgbcr", 5), ("dbgwvr", 6), ("dbgwcr", 7))
        for number in range(BREAKPOINTS)
    },
}
"""By op0, op1, CRn, CRm, op2, as each register's page in DDI 0487 has them."""

REGISTERS = _CORE | _SYSTEM
"""Name → KVM register id."""

_NAMES = {identifier: name for name, identifier in REGISTERS.items()}


def register_name(identifier: int) -> str:
    """``mdscr_el1``, or the id in hex where it has no name here."""
    return _NAMES.get(identifier, f"{identifier:#x}")
