"""The other IMPLEMENTATION DEFINED order: a pending interrupt before the Software Step exception.

QEMU takes the Software Step exception at once after the instruction. Where it arrives, at EL2's
vector for synchronous exceptions, it is turned into the interrupt that a CPU with the other order
would have taken there: ELR_EL2 is the next PC and SPSR_EL2.SS is 0 in both cases (DDI 0487,
D1.3.5.5: the order is not defined by the architecture).

Two ways. For every step: a stub (``guest_images/async_first/stub.S``) is laid over KVM's vector
page once, through L0's gdbstub, which then detaches; the run is as deterministic as any other. For
chosen instructions: the gdbstub stays, stops at each, makes an interrupt pending in the GIC and
redirects the step exception that follows.

KVM's vectors are found in VBAR_EL2 at L2's first instruction: with KASLR and in every ``kvm_mode``
that is where they are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from qemu_diff.abi import EC_SHIFT, ExceptionClass
from qemu_diff.errors import CompileError, GdbStubClosedError, GdbStubError, UserError
from qemu_diff.guest.gdbstub import CPSR as CPSR_REGISTER
from qemu_diff.guest.gdbstub import PC as PC_REGISTER
from qemu_diff.guest.gdbstub import GdbStub, connected
from qemu_diff.guest.toolchain import CROSS_COMPILER, compile_cached
from qemu_diff.model import ExceptionOrder, MachineSpec, Payload, Pending

STUB_BYTES = 0x200
"""The four slots for exceptions from EL2 with SP_EL0 (DDI 0487, D1.4.2, table D1-6)."""

SYNCHRONOUS_SLOT, IRQ_SLOT = 0x400, 0x480
"""For exceptions from a lower EL that uses AArch64."""

PSTATE_EL = 0b1100
"""PSTATE.M[3:2], the exception level (DDI 0487, SPSR_EL2)."""


COUNT_REGISTERS = {
    "IFSR32_EL2": "s3_4_c5_c0_1",
    "DACR32_EL2": "s3_4_c3_c0_0",
    "SCXTNUM_EL2": "s3_4_c13_c0_7",
}
"""Registers of EL2 that no KVM uses for an AArch64 guest: the first that the CPU has counts the
redirects. IFSR32_EL2 and DACR32_EL2 are a 32-bit guest's (Linux arch/arm64/kvm/hyp/include/hyp/
sysreg-sr.h, ``__sysreg32_save_state``)."""

EXITS_OF_A_STEP = 4
"""Synchronous exits of one instruction, its step exception included: faults, traps."""

STUB_OPTIONS = {Pending.SPURIOUS: (), Pending.SGI: ("-DSGI",), Pending.FLOOD: ("-DPENDING",)}
"""What is pending where every step is redirected."""

GIC_WRITES = {
    Pending.SPI: (0x0800_0204, 1 << (33 - 32)),  # GICD_ISPENDR1, INTID 33: virt's PL011
    Pending.PPI: (0x080B_0200, 1 << 23),  # GICR_ISPENDR0 of CPU 0
}
"""Physical address and value that make an interrupt pending (QEMU hw/arm/virt.c, ``base_memmap``;
GICv3 architecture, IHI 0069, 12.9 and 12.11)."""

GICV2_WRITES = {**GIC_WRITES, Pending.PPI: (0x0800_0200, 1 << 23)}  # GICD_ISPENDR0, banked
"""The same of a GICv2 (IHI 0048, 4.3.7)."""

PC_RELATIVE = (
    (0x7C00_0000, 0x1400_0000),  # B, BL
    (0xFF00_0000, 0x5400_0000),  # B.cond
    (0x7C00_0000, 0x3400_0000),  # CBZ, CBNZ, TBZ, TBNZ
    (0x1F00_0000, 0x1000_0000),  # ADR, ADRP
    (0x3B00_0000, 0x1800_0000),  # LDR (literal)
)
"""(mask, value) of instructions that mean something else elsewhere (DDI 0487, C4.1)."""


@dataclass(frozen=True)
class Stub:
    """The assembled stub.

    :param page: ``STUB_BYTES`` bytes for the begin of the vector page.
    :param displaced: offset therein for the word that ``diversion`` replaces.
    :param diversion: the first word of the synchronous slot.
    """

    page: bytes
    displaced: int
    diversion: bytes


def build_stub(
    guest_images: Path, cache: Path, pending: Pending, limit: int, count_register: str
) -> Stub:
    """Assemble the stub.

    :param limit: redirects in a row of the same step.
    :param count_register: a key of ``COUNT_REGISTERS``.
    :raises MissingToolError: the cross compiler is missing.
    :raises CompileError: it refuses.
    """
    program = compile_cached(
        [
            CROSS_COMPILER, "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none",
            "-Wl,-Ttext=0", f"-DLIMIT={limit}", f"-DCOUNT={COUNT_REGISTERS[count_register]}",
            *STUB_OPTIONS[pending],
        ],
        sources=[guest_images / "async_first" / "stub.S"],
        inputs=[],
        cache=cache / "async_first",
        name="stub.elf",
    )  # fmt: skip
    with program.open("rb") as file:
        elf = ELFFile(file)
        code, table = elf.get_section_by_name(".text"), elf.get_section_by_name(".symtab")
        assert code is not None
        assert isinstance(table, SymbolTableSection)
        text = code.data()
        symbols = {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()}
    displaced, diversion = symbols["displaced"], symbols["diversion"]
    if diversion != SYNCHRONOUS_SLOT or displaced >= STUB_BYTES:
        raise CompileError(f"the async_first stub does not fit: displaced at {displaced:#x}")
    return Stub(text[:STUB_BYTES], displaced, text[diversion : diversion + 4])


@dataclass(frozen=True)
class Plan:
    """What a machine's ``async_first`` asks for.

    :param entry: L2's first instruction.
    :param chosen: the instructions whose steps are redirected; empty: all.
    :param write: physical address and value that make the interrupt pending; None: none is.
    """

    pending: Pending
    limit: int
    entry: int
    chosen: tuple[int, ...]
    guest_images: Path
    cache: Path
    write: tuple[int, int] | None = None


def plan_of(machine: MachineSpec, payload: Payload, guest_images: Path, cache: Path) -> Plan | None:
    """The plan for a payload, or None where the CPU is as it is.

    :raises UserError: the payload has no such label.
    """
    labels = {label: address for address, label in payload.labels}
    unknown = [label for label in machine.redirect_at if label not in labels]
    if unknown:
        raise UserError(
            f"machine.redirect_at: payload {payload.name} has no label {unknown[0]!r}; it has "
            + ", ".join(sorted(labels))
        )
    chosen = tuple(labels[label] for label in machine.redirect_at)
    first = payload.interrupts.setup if payload.interrupts else payload.entry
    plan = plan_at(machine, first, guest_images, cache)
    return plan and replace(plan, chosen=chosen)


def plan_at(machine: MachineSpec, entry: int, guest_images: Path, cache: Path) -> Plan | None:
    """The plan for L2 code that begins at ``entry``, or None where the CPU is as it is."""
    if machine.exception_order is ExceptionOrder.TCG:
        return None
    writes = GICV2_WRITES if machine.gic_version == 2 else GIC_WRITES
    write = writes.get(machine.pending)
    return Plan(machine.pending, machine.redirects, entry, (), guest_images, cache, write)


class Redirector:
    """Does a plan on a machine that waits at its first instruction; in a thread of its own."""

    def __init__(
        self, plan: Plan | None, socket: Path, budget_s: float, cancel: threading.Event
    ) -> None:
        """
        :param plan: None: there is nothing to do.
        :param socket: where QEMU's gdbstub is to listen, a Unix socket.
        :param budget_s: wall-clock seconds for all of it.
        """
        self._plan = plan
        self._socket = socket
        self._deadline = time.monotonic() + budget_s
        self._cancel = cancel
        self._error: GdbStubError | CompileError | None = None
        self._thread = threading.Thread(target=self._work, name="async_first", daemon=True)
        self.redirects = 0
        """Of chosen instructions, so far."""

    @property
    def socket(self) -> Path | None:
        """Where QEMU's gdbstub is to listen; None where none is needed."""
        return self._socket if self._plan else None

    def start(self) -> None:
        """Begin."""
        if self._plan:
            self._thread.start()

    def check(self) -> None:
        """:raises GdbStubError: it can't go on although the machine is there."""
        if self._error and not isinstance(self._error, GdbStubClosedError):
            raise self._error

    def finish(self) -> str:
        """Wait for its end; QEMU is gone. What went wrong, or nothing."""
        if self._plan:
            self._thread.join()
        return str(self._error or "")

    def _work(self) -> None:
        assert self._plan is not None, "start() begins nothing without a plan"
        try:
            with connected(self._socket, self._deadline, self._cancel) as gdb:
                if self._plan.chosen:
                    self._redirect_chosen(gdb, self._plan)
                else:
                    install(gdb, self._plan)
        except (GdbStubError, CompileError) as error:
            self._error = error

    def _redirect_chosen(self, gdb: GdbStub, plan: Plan) -> None:
        vectors = _vectors_from_l2(gdb, plan.entry)
        try:
            while True:
                _stop_at(gdb, plan.chosen)
                if redirect_next_step(gdb, vectors, plan):
                    self.redirects += 1
        except GdbStubClosedError:
            # The job is done and L1 has gone down: that is how this ends.
            return


def install(gdb: GdbStub, plan: Plan) -> None:
    """Lay the stub over KVM's vector page and let the machine go; see :func:`lay_stub`."""
    lay_stub(gdb, plan)
    gdb.detach()


def lay_stub(gdb: GdbStub, plan: Plan) -> None:
    """Lay the stub over KVM's vector page; the machine stands still afterwards.

    :raises GdbStubError: the gdbstub refuses, or the vectors are not what they must be.
    """
    vectors = _vectors_from_l2(gdb, plan.entry)
    stub = build_stub(plan.guest_images, plan.cache, plan.pending, plan.limit, _count_register(gdb))
    # Only at EL2 does its address space translate the vectors' address.
    gdb.run_to(vectors + SYNCHRONOUS_SLOT)
    first = gdb.read_memory(vectors + SYNCHRONOUS_SLOT, 4)
    if is_pc_relative(int.from_bytes(first, "little")):
        raise GdbStubError(
            f"KVM's vector at {vectors + SYNCHRONOUS_SLOT:#x} begins with {first.hex()}, which "
            "can't be executed elsewhere: async_first is not to be had on this kernel"
        )
    page = stub.page[: stub.displaced] + first + stub.page[stub.displaced + 4 :]
    gdb.write_memory(vectors, page)
    gdb.write_memory(vectors + SYNCHRONOUS_SLOT, stub.diversion)


def is_pc_relative(word: int) -> bool:
    """Whether an instruction's meaning depends on its address."""
    return any(word & mask == value for mask, value in PC_RELATIVE)


def redirect_next_step(gdb: GdbStub, vectors: int, plan: Plan) -> bool:
    """From an instruction that L2 is about to execute: redirect its Software Step exception.

    :returns: False where none came soon.
    :raises GdbStubError: the gdbstub refuses.
    """
    for _ in range(plan.limit):
        if not _stop_at_step_exception(gdb, vectors):
            return False
        # Not earlier: an interrupt that is pending before the instruction is taken before it.
        _make_pending(gdb, plan.write)
        gdb.write_register(PC_REGISTER, vectors + IRQ_SLOT)
    return True


def _stop_at_step_exception(gdb: GdbStub, vectors: int) -> bool:
    """Stop at EL2's vector when it is a Software Step exception that has arrived there; the
    instruction may trap or fault first."""
    for _ in range(EXITS_OF_A_STEP):
        _stop_at(gdb, (vectors + SYNCHRONOUS_SLOT,))
        if gdb.read_system_register("ESR_EL2") >> EC_SHIFT == ExceptionClass.SOFTWARE_STEP:
            return True
        # On a breakpoint at its own PC the machine would not move.
        gdb.step()
    return False


def _make_pending(gdb: GdbStub, write: tuple[int, int] | None) -> None:
    if write is None:
        return
    address, value = write
    with gdb.physical_memory():
        gdb.write_memory(address, value.to_bytes(4, "little"))


def _stop_at(gdb: GdbStub, addresses: Sequence[int]) -> None:
    for address in addresses:
        gdb.set_breakpoint(address)
    stopped = gdb.run_until_stop()
    for address in addresses:
        gdb.clear_breakpoint(address)
    if stopped not in addresses:
        raise GdbStubError(f"the machine stopped at {stopped:#x}, where nobody asked it to")


def _vectors_from_l2(gdb: GdbStub, entry: int) -> int:
    """KVM's vectors: VBAR_EL2 at L2's first instruction."""
    gdb.run_to(entry)
    # A program of L1's may be linked to the same address.
    while gdb.read_register(CPSR_REGISTER) & PSTATE_EL == 0:
        gdb.step()
        gdb.run_to(entry)
    return gdb.read_system_register("VBAR_EL2")


def _count_register(gdb: GdbStub) -> str:
    for name in COUNT_REGISTERS:
        if name in gdb.system_registers and gdb.read_system_register(name) == 0:
            return name
    raise GdbStubError(f"this CPU model has none of {', '.join(COUNT_REGISTERS)} to count with")
