"""Proof, for one QEMU binary, of the rule that tells phantoms from executed instructions.

``guest_images/selftest/active_pending.S`` enters EL1 in every software step state. What must
execute is known by the architecture alone, so each rule can be held against it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from qemu_diff.abi import TruthKind, TruthRecords
from qemu_diff.errors import InfrastructureError, NoPhantomRuleError
from qemu_diff.guest.machine import cpu_option, determinism, escaped
from qemu_diff.guest.qemu import Qemu, ask
from qemu_diff.guest.toolchain import CROSS_COMPILER, compile_cached
from qemu_diff.scratch import scratch_directory
from qemu_diff.truth.phantom import PhantomRule, applicable, phantoms
from qemu_diff.truth.reader import read_truth, truth_bytes

EL2_ADDRESS = 0x4020_0000
L2_ADDRESS = 0x4030_0000
L2_BYTES = 0x100
CAPACITY = 1000

INACTIVE = (L2_ADDRESS, L2_ADDRESS + 4)
"""Entered in Inactive: runs to its HVC, which is the second instruction."""
FRESH_0 = L2_ADDRESS + 8
FRESH_1 = L2_ADDRESS + 16

ENTRIES: tuple[tuple[int, ...], ...] = (
    INACTIVE,
    (),  # fresh_0, Active-pending
    (FRESH_0,),
    (),
    (FRESH_1,),
    (),
    INACTIVE,
    (),
    (FRESH_0,),
)
"""What each entry executes, in the order of active_pending.S."""

PluginArgument = Callable[[Path, int, int, int, tuple[int, ...]], str]


def prove_rule(
    qemu: Qemu, argument: PluginArgument, guest_images: Path, cache: Path
) -> PhantomRule:
    """Find the rule that holds on this QEMU.

    :param argument: makes the argument of ``-plugin`` from (out, capacity, begin, end, marks).
    :raises NoPhantomRuleError: none does.
    :raises InfrastructureError: the self-test did not run to its end.
    """
    with scratch_directory() as scratch:
        out = scratch / "truth"
        with out.open("wb") as file:
            file.truncate(truth_bytes(CAPACITY))
        plugin = argument(out, CAPACITY, L2_ADDRESS, L2_ADDRESS + L2_BYTES, ())
        _boot(qemu, plugin, _program(guest_images, cache))
        return rule_for(read_truth(out), str(qemu.program))


def rule_for(records: TruthRecords, program: str) -> PhantomRule:
    """The first rule under which the records are what the architecture demands.

    :param program: the QEMU, for the message.
    :raises NoPhantomRuleError: there is none.
    """
    for rule in PhantomRule:
        if applicable(rule, records) and executed_by_entry(rule, records) == ENTRIES:
            return rule
    raise NoPhantomRuleError(
        f"{program}: no rule tells executed instructions from phantoms of Active-pending entries "
        f"(tried {', '.join(PhantomRule)}); nothing can be judged on this QEMU"
    )


def executed_by_entry(rule: PhantomRule, records: TruthRecords) -> tuple[tuple[int, ...], ...]:
    """PCs that each entry executed, if the rule holds; an entry ends at its exit."""
    kept = records[~phantoms(rule, records)]
    exits = np.flatnonzero(kept["kind"] == TruthKind.EXIT)
    entries = np.split(kept, exits + 1)[:-1]
    return tuple(
        tuple(int(pc) for pc in entry["pc"][entry["kind"] == TruthKind.INSTRUCTION])
        for entry in entries
    )


def selftest_source(guest_images: Path) -> Path:
    """The program that enters EL1 in every state."""
    return guest_images / "selftest" / "active_pending.S"


def _program(guest_images: Path, cache: Path) -> Path:
    return compile_cached(
        [
            CROSS_COMPILER, "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none",
            f"-Wl,-Ttext={EL2_ADDRESS:#x}", f"-Wl,--section-start=.l2={L2_ADDRESS:#x}",
        ],
        sources=[selftest_source(guest_images)],
        inputs=[],
        cache=cache / "selftest",
        name="active_pending.elf",
    )  # fmt: skip


def _boot(qemu: Qemu, plugin: str, program: Path) -> None:
    answer = ask(
        qemu.program, "-M", "virt,virtualization=on,gic-version=3", "-cpu", cpu_option("max"),
        "-m", "64", "-nodefaults", "-display", "none", *determinism(seed=1),
        "-device", f"loader,file={escaped(program)},cpu-num=0", "-plugin", plugin,
    )  # fmt: skip
    if answer.status:
        raise InfrastructureError(f"the plugin's self-test: {answer.complaint}")
