"""Streams of records and truth: written by hand, made by a simulated machine, or plain garbage.

By hand, a stream reads as what happened::

    Stream().set_pc(A).step_on().run(executes(A), sync(), debug(A + 4))

The simulation is a vCPU with Arm's software step states under a KVM that is correct or has one bug.
It knows what it really did, so it says by itself what each report must be judged as.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference_model import LOST_STEP, OK, PC_VALUES, SPURIOUS_STEP, WRONG_PC, Code

from qemu_diff.abi import (
    KVM_EXIT_DEBUG,
    PSTATE_EL1H_MASKED,
    REGISTER_MDSCR_EL1,
    REGISTER_PC,
    REGISTER_PSTATE,
    STEP_RECORD,
    TRUTH_RECORD,
    ExceptionClass,
    Mark,
    RecordFlag,
    RecordKind,
    StepRecords,
    TruthKind,
    TruthRecords,
    VectorSlot,
    system_register,
)
from qemu_diff.compare.decode import VECTORS, Program, program_of
from qemu_diff.model import GuestInterrupts, Payload

BASE = 0x5A5A_0000

# Linux include/uapi/linux/kvm.h
KVM_EXIT_HYPERCALL = 3
KVM_EXIT_MMIO = 6
STEPPING_ON = 0b11
STEPPING_OFF = 0
ENABLED_ONLY = 0b01
WITH_HARDWARE = 1 << 17
"""KVM_GUESTDBG_USE_HW (Linux arch/arm64/include/uapi/asm/kvm.h)."""

# --- A64 words (DDI 0487, C4.1) ------------------------------------------------------------------

NOP = 0xD503201F
ADD = 0x91000400  # add x0, x0, #1
SUB = 0xD1000400  # sub x0, x0, #1
HVC = 0xD4000002
SMC = 0xD4000003
SVC = 0xD4000001
BRK = 0xD4200000
ERET = 0xD69F03E0
UDF = 0x00000000
MRS = 0xD5380400  # mrs x0, id_aa64pfr0_el1
LDR = 0xF9400023  # ldr x3, [x1]
FMOV = 0x1E6E1000  # fmov d0, #1.0
MSR_MDSCR = 0xD5100240  # msr mdscr_el1, x0
MSR_DBGBVR0 = 0xD5100080  # msr dbgbvr0_el1, x0
MSR_DBGWCR3 = 0xD51003E0  # msr dbgwcr3_el1, x0
MSR_SP_EL0 = 0xD5184100  # msr sp_el0, x0

DBGBVR0 = system_register(2, 0, 0, 0, 4)
DBGWCR3 = system_register(2, 0, 0, 3, 7)

SS = 1 << 21
EL0, EL1T, EL1H = 0x3C0, 0x3C4, 0x3C5
"""PSTATE at each level, all exceptions masked."""
IRQ_MASK = 0x80
"""IRQs are masked."""


def b(offset: int) -> int:
    """``b .+offset``"""
    return 0x14000000 | offset // 4 & 0x3FFFFFF


def bl(offset: int) -> int:
    """``bl .+offset``"""
    return 0x94000000 | offset // 4 & 0x3FFFFFF


def b_cond(offset: int, condition: int = 1) -> int:
    """``b.ne .+offset``"""
    return 0x54000000 | (offset // 4 & 0x7FFFF) << 5 | condition


def cbz(offset: int, register: int = 0) -> int:
    """``cbz xN, .+offset``"""
    return 0xB4000000 | (offset // 4 & 0x7FFFF) << 5 | register


def tbz(offset: int, bit: int = 0, register: int = 0) -> int:
    """``tbz wN, #bit, .+offset``"""
    return 0x36000000 | bit << 19 | (offset // 4 & 0x3FFF) << 5 | register


def br(register: int = 8) -> int:
    """``br xN``"""
    return 0xD61F0000 | register << 5


def ret() -> int:
    """``ret``"""
    return 0xD65F03C0


def addressed(words: Sequence[int]) -> dict[int, int]:
    """PC → word of a program that lies at ``BASE``."""
    return {BASE + 4 * index: word for index, word in enumerate(words)}


def payload_of(
    words: Sequence[int], vectors: int | None = None, irq_base: int | None = None
) -> Payload:
    """A payload that states nothing about its instructions: its stepping range is empty.

    :param irq_base: VBAR_EL1 while L2 takes interrupts; None where it takes none.
    """
    blob = np.array(words, dtype="<u4").tobytes()
    labels = () if vectors is None else ((vectors, VECTORS),)
    interrupts = None if irq_base is None else GuestInterrupts(BASE, (BASE, BASE), irq_base, BASE)
    return Payload("test", blob, BASE, BASE, BASE, BASE, labels, (), interrupts)


def tables_of(
    words: Sequence[int], vectors: int | None = None, irq_base: int | None = None
) -> Program:
    """The same program as ``judge`` takes it."""
    return program_of(payload_of(words, vectors, irq_base))


def code_of(words: Sequence[int], vectors: int | None = None, irq_base: int | None = None) -> Code:
    """The same program as the reference model takes it: its own vectors may be an IRQ's, too."""
    bases = () if irq_base is None else (irq_base, *(() if vectors is None else (vectors,)))
    return Code(addressed(words), vectors, bases)


# --- streams by hand -----------------------------------------------------------------------------


@dataclass(frozen=True)
class TruthRow:
    """One truth record; see :func:`executes` and its neighbours."""

    kind: int
    pc: int = 0
    detail: int = 0
    is_phantom: bool = False


@dataclass(frozen=True)
class Return:
    """How KVM_RUN returned."""

    pc: int
    reason: int
    exception: int = 0
    error: int = 0
    took: tuple[int, int] | None = None
    """(ELR_EL1, SPSR_EL1), read where the report is at an IRQ's vector."""


def executes(*pcs: int) -> list[TruthRow]:
    """L2 executes these instructions."""
    return [TruthRow(TruthKind.INSTRUCTION, pc) for pc in pcs]


def phantom(pc: int) -> list[TruthRow]:
    """L2 is entered in Active-pending: TCG records the next instruction, which does not execute."""
    return [TruthRow(TruthKind.INSTRUCTION, pc, is_phantom=True)]


def leaves_through(slot: int) -> list[TruthRow]:
    """An exit through one of EL2's vectors."""
    return [TruthRow(TruthKind.EXIT, detail=slot)]


def sync() -> list[TruthRow]:
    """A synchronous exit."""
    return leaves_through(VectorSlot.SYNCHRONOUS)


def irq() -> list[TruthRow]:
    """An exit for a physical interrupt."""
    return leaves_through(VectorSlot.IRQ)


def redirected() -> list[TruthRow]:
    """A Software Step exception, which a stub at EL2's vector turns into an interrupt."""
    return [*sync(), TruthRow(TruthKind.REDIRECT, 0xFFFF_8000_0801_1780, 0x780), *irq()]


def marks(mark: Mark) -> list[TruthRow]:
    """The step VMM executes one of its marks."""
    return [TruthRow(TruthKind.MARK, detail=mark)]


def learns_vectors() -> list[TruthRow]:
    """The plugin learns where EL2's vectors lie."""
    return [TruthRow(TruthKind.VECTOR, 0xFFFF_8000_0801_1000)]


def debug(pc: int, exception: int = ExceptionClass.SOFTWARE_STEP) -> Return:
    """A debug exit, by default the Software Step exception's."""
    return Return(pc, KVM_EXIT_DEBUG, exception)


def at_vector(pc: int, elr: int, spsr: int = EL1H & ~IRQ_MASK) -> Return:
    """A step exception at an IRQ's vector, with what L2's registers say of the interrupt."""
    return Return(pc, KVM_EXIT_DEBUG, ExceptionClass.SOFTWARE_STEP, took=(elr, spsr))


def eintr(pc: int) -> Return:
    """KVM_RUN was interrupted by a signal."""
    return Return(pc, 0, error=errno.EINTR)


def mmio(pc: int) -> Return:
    """User space is to emulate a load or store."""
    return Return(pc, KVM_EXIT_MMIO)


def hypercall(pc: int) -> Return:
    """User space is to answer an HVC."""
    return Return(pc, KVM_EXIT_HYPERCALL)


class Stream:
    """A job's records and the truth about them, in the order in which they happen."""

    def __init__(self) -> None:
        self._records: list[NDArray[np.void]] = []
        self._truth: list[TruthRow] = []
        self._stepping = False
        self._pstate = PSTATE_EL1H_MASKED

    def __len__(self) -> int:
        """Number of records."""
        return len(self._records)

    def __repr__(self) -> str:
        """What to look at when a random stream fails."""
        records = [(RecordKind(int(one["kind"])).name, *one["detail"][:2]) for one in self._records]
        return f"Stream({records}, {self._truth})"

    def set_pc(self, pc: int) -> Stream:
        """The job writes PC."""
        return self.set_register(REGISTER_PC, pc)

    def set_register(self, register: int, value: int) -> Stream:
        """The job writes a register."""
        if register == REGISTER_PSTATE:
            self._pstate = value
        return self._record(RecordKind.SET_REGISTER, detail=(register, value, 0, 0))

    def set_pstate(self, value: int) -> Stream:
        """The job writes PSTATE; by itself it stays like this."""
        return self.set_register(REGISTER_PSTATE, value)

    def read(self, register: int, value: int) -> Stream:
        """The job reads a register."""
        return self._record(RecordKind.REGISTER, detail=(register, value, 0, 0))

    def vcpu_init(self) -> Stream:
        """The job resets the vCPU."""
        self._pstate = PSTATE_EL1H_MASKED
        return self._record(RecordKind.VCPU_INIT)

    def kick(self, pc: int) -> Stream:
        """KVM_RUN with immediate_exit."""
        return self.run(eintr(pc), flags=RecordFlag.KICKED)

    def step_on(self) -> Stream:
        """The job turns stepping on."""
        return self.control(STEPPING_ON)

    def step_off(self) -> Stream:
        """The job turns debugging off."""
        return self.control(STEPPING_OFF)

    def control(self, flags: int) -> Stream:
        """The job asks for other debugging: KVM_GUESTDBG_*."""
        self._stepping = flags & STEPPING_ON == STEPPING_ON
        return self._record(RecordKind.DEBUG_CONTROL, detail=(flags, 0, 0, 0))

    def note(self, kind: RecordKind) -> Stream:
        """A record that the contract does not look at."""
        return self._record(kind)

    def run(
        self,
        *happened: list[TruthRow] | Return,
        branch_register: int | None = None,
        pstate: int | None = None,
        flags: int = 0,
    ) -> Stream:
        """One KVM_RUN: what L2 does, and at last the return.

        :param pstate: what user space then reads; its own, if nothing is said.
        """
        *rows, returned = happened
        assert isinstance(returned, Return)
        self.happens(*(row for row in rows if not isinstance(row, Return)))
        self.happens(marks(Mark.RETURNED))
        flags |= RecordFlag.STEPPING if self._stepping else 0
        if branch_register is not None:
            flags |= RecordFlag.BRANCH_REGISTER
        if returned.error == errno.EINTR:
            flags |= RecordFlag.EINTR
        if returned.took is not None:
            flags |= RecordFlag.AT_VECTOR
        return self._record(
            RecordKind.RUN,
            flags=flags,
            pc=returned.pc,
            pstate=self._pstate if pstate is None else pstate,
            exit_reason=returned.reason,
            esr=returned.exception << 26,
            error=returned.error,
            branch_register=branch_register or 0,
            detail=(*(returned.took or (0, 0)), 0, 0),
        )

    def happens(self, *rows: list[TruthRow]) -> Stream:
        """Truth alone, without a record."""
        for some in rows:
            self._truth.extend(some)
        return self

    @property
    def records(self) -> StepRecords:
        """As stepvmm writes them."""
        if not self._records:
            return np.zeros(0, STEP_RECORD)
        return np.array(self._records, dtype=STEP_RECORD)

    @property
    def truth(self) -> TruthRecords:
        """As the plugin writes it."""
        truth = np.zeros(len(self._truth), TRUTH_RECORD)
        for index, row in enumerate(self._truth):
            truth[index] = (row.pc, row.detail, row.kind, 0, 0 if row.is_phantom else 4, 0)
        return truth

    @property
    def phantom(self) -> NDArray[np.bool_]:
        """Which truth records are phantoms."""
        return np.array([row.is_phantom for row in self._truth], dtype=bool)

    def _record(self, kind: RecordKind, **members: Any) -> Stream:
        record = np.zeros((), STEP_RECORD)
        record["kind"] = kind
        record["sequence"] = len(self._records)
        for name, value in members.items():
            record[name] = value
        self._records.append(record)
        return self


# --- the simulation ------------------------------------------------------------------------------


class Kind(Enum):
    """What an instruction of the simulated program can do."""

    PLAIN = auto()
    BRANCH = auto()
    CONDITIONAL = auto()
    BY_REGISTER = auto()
    HYPERCALL = auto()
    TRAPPED = auto()
    MEMORY = auto()
    FLOATING_POINT = auto()
    BREAKPOINT = auto()
    SUPERVISOR_CALL = auto()
    UNDEFINED = auto()
    EXCEPTION_RETURN = auto()
    WRITES_MDSCR = auto()


@dataclass(frozen=True)
class Op:
    """One instruction of the simulated program.

    :param target: index of the instruction that a direct branch goes to.
    """

    kind: Kind
    encode: Callable[[int], int]
    target: int = 0

    def word(self, index: int) -> int:
        """The instruction word at an index of the program."""
        return self.encode(4 * (self.target - index))


FIXED = (
    (Kind.PLAIN, NOP),
    (Kind.PLAIN, ADD),
    (Kind.BY_REGISTER, br()),
    (Kind.BY_REGISTER, ret()),
    (Kind.HYPERCALL, HVC),
    (Kind.TRAPPED, MRS),
    (Kind.TRAPPED, SMC),
    (Kind.MEMORY, LDR),
    (Kind.FLOATING_POINT, FMOV),
    (Kind.BREAKPOINT, BRK),
    (Kind.SUPERVISOR_CALL, SVC),
    (Kind.UNDEFINED, UDF),
    (Kind.EXCEPTION_RETURN, ERET),
    (Kind.WRITES_MDSCR, MSR_MDSCR),
)
LEAVING = (Kind.HYPERCALL, Kind.TRAPPED, Kind.MEMORY, Kind.FLOATING_POINT)
RELATIVE = (
    (Kind.BRANCH, b),
    (Kind.BRANCH, bl),
    (Kind.CONDITIONAL, b_cond),
    (Kind.CONDITIONAL, cbz),
    (Kind.CONDITIONAL, tbz),
)
LONGEST_PROGRAM = 8
HANDLERS = {EL1T: 0, EL1H: 0x200 // 4, EL0: 0x400 // 4}
"""PSTATE → index, in a program whose vectors are at ``BASE``, of the handler of its exceptions."""
IRQ_BASES = (0, 0x80)
"""Of a program that takes interrupts: VBAR_EL1, from ``BASE``. The first is its own vectors'."""
IRQ_OFFSETS = {EL0: 0x480, EL1H: 0x280}
"""PSTATE → offset of its interrupts' vector."""
X8 = 0x6030_0000_0010_0010
"""KVM's register id of X8, which register branches are written to use."""


IRQ_HANDLERS = frozenset(
    (base + offset) // 4 for base in IRQ_BASES for offset in IRQ_OFFSETS.values()
)
"""Indexes of the IRQs' vectors in a program."""
RETURN = Op(Kind.EXCEPTION_RETURN, lambda _: ERET)


class Bug(Enum):
    """What the simulated KVM does wrong."""

    NONE = auto()
    REARMS = auto()
    """Sets PSTATE.SS on every entry (Linux before 6.1)."""
    REARMS_SOMETIMES = auto()
    FORGETS_TO_ARM = auto()
    """Enters in Active-pending though no step is spent."""
    ADDS_REPORT = auto()
    """Reports a step without an entry."""
    DROPS_REPORT = auto()
    """Takes the Software Step exception and goes on."""
    WRONG_PC = auto()
    """Reports another PC than L2's."""
    REMEMBERS = auto()
    """Stays in Active-pending though stepping is turned off and on, or the vCPU reset."""
    LEAKS_SS = auto()
    """Shows user space the PSTATE.SS that it steps with."""
    CLEARS_SS = auto()
    """Clears the guest's own PSTATE.SS when it skips an instruction for a signal."""
    LEAKS_MDSCR = auto()
    """Shows user space MDSCR_EL1.SS while it steps."""


class Exit(Enum):
    """Why L2 was left."""

    IRQ = auto()
    HANDLED = auto()
    MMIO = auto()
    HYPERCALL = auto()
    STEP = auto()
    BREAKPOINT = auto()
    WATCHPOINT = auto()
    BRK = auto()


REPORTED_AS = {
    Exit.STEP: ExceptionClass.SOFTWARE_STEP,
    Exit.BREAKPOINT: ExceptionClass.BREAKPOINT,
    Exit.WATCHPOINT: ExceptionClass.WATCHPOINT,
    Exit.BRK: ExceptionClass.BRK,
}


@dataclass(frozen=True, repr=False)
class Simulated:
    """A stream with its program, whose vectors are at ``BASE``.

    :param irq_base: where else they may be, for interrupts; None where L2 takes none.
    :param expected: what each judged report must come to.
    :param leaks: indexes of the records that show user space what is not the guest's own.
    """

    stream: Stream
    words: tuple[int, ...]
    expected: tuple[str, ...]
    leaks: frozenset[int]
    irq_base: int | None

    def __repr__(self) -> str:
        """Without the words, most of which are padding, but with what happened."""
        return f"Simulated({self.stream}, {self.expected}, {sorted(self.leaks)})"


@dataclass
class Simulation:
    """One vCPU under one KVM, driven by one job.

    :param chance: where all choices come from.
    :param program: index → instruction; what is not there is never reached.
    :param ss: PSTATE.SS as the vCPU has it; with stepping on, False is Active-pending.
    :param own: PSTATE.SS as the guest has it.
    :param cleared: KVM has lost that.
    :param mode: PSTATE but for SS.
    :param elr: what ERET goes to.
    :param spsr: PSTATE before the last exception that L2 took.
    :param irq_base: VBAR_EL1 for interrupts; None where L2 takes none.
    :param unmasked: PSTATE.I is 0.
    :param took: L2 has taken an interrupt since the last report.
    :param overran: and executed something since.
    :param spent: KVM's own memory of Active-pending over an exit.
    :param skips: KVM has emulated an instruction, and advances PC at the next entry.
    :param register: what register branches go to.
    :param retired: instructions since the last report.
    :param recorded: the truth has a stepped instruction since then.
    :param muddled: the job interfered in mid-step: the next report is nobody's step.
    :param lied: the last report's PC is wrong, and nothing executed since then.
    :param honest: the bug shows no more.
    """

    chance: Random
    program: dict[int, Op]
    bug: Bug
    stream: Stream = field(default_factory=Stream)
    expected: list[str] = field(default_factory=list)
    leaks: set[int] = field(default_factory=set)
    rows: list[TruthRow] = field(default_factory=list)
    pc: int = BASE
    ss: bool = False
    own: bool = False
    cleared: bool = False
    mode: int = EL1H
    mdscr: int = 0
    elr: int = BASE
    spsr: int = EL1H
    irq_base: int | None = None
    unmasked: bool = False
    took: bool = False
    overran: bool = False
    spent: bool = False
    skips: bool = False
    register: int = BASE
    retired: int = 0
    recorded: bool = False
    muddled: bool = False
    lied: bool = False
    honest: bool = False

    def simulate(self, operations: int) -> Simulated:
        """Run a job of so many operations."""
        self.stream.happens(marks(Mark.JOB_BEGIN))
        self.own, self.mode = self.once_in(2), self.chance.choice([*HANDLERS])
        if self.once_in(2):
            self.irq_base, self.unmasked = BASE + self.chance.choice(IRQ_BASES), True
        self.mdscr = self.chance.choice([0, 0, 1])
        if self.once_in(2):
            self.read_registers()
        self.stream.step_on()
        self.write_pc()
        for _ in range(operations):
            self.operation()
        self.honest = True
        while self.lied:
            self.kvm_run()
        self.stream.happens(marks(Mark.JOB_END))
        words = [UDF] * (max(self.program) + 1)
        for index, op in self.program.items():
            words[index] = op.word(index)
        return Simulated(
            *(self.stream, tuple(words), tuple(self.expected), frozenset(self.leaks)),
            irq_base=self.irq_base,
        )

    # --- the job ---

    def operation(self) -> None:
        """One operation of the job.

        While an MMIO exit is pending, user space may touch nothing (KVM API, "KVM_RUN"). And a lie
        about PC shows only if L2 goes on from where it is.
        """
        if self.skips:
            self.chance.choice([self.kvm_run, self.kvm_run, self.kick])()
        elif self.lied:
            self.kvm_run()
        elif self.once_in(2 if self.op.kind is Kind.BREAKPOINT else 12):
            self.write_pc()
        else:
            others = [
                self.toggle_stepping,
                self.write_branch_register,
                self.write_pstate,
                self.write_mdscr,
                self.read_registers,
                self.vcpu_init,
                self.kick,
                lambda: self.stream.note(RecordKind.PASS),
                lambda: self.stream.control(STEPPING_ON | WITH_HARDWARE),
            ]
            chosen = self.chance.randrange(3 * len(others))
            (self.kvm_run if chosen < 2 * len(others) else others[chosen - 2 * len(others)])()

    def write_pc(self) -> None:
        """The job puts L2 somewhere in the program. A step that is spent by then is nobody's."""
        self.pc = self.any_address()
        if self.once_in(2):
            self.write_pstate()
        self.stream.set_pc(self.pc)
        self.muddled = self.recorded or self.took

    def write_pstate(self) -> None:
        """The job puts L2 on a level, and sets or clears PSTATE.SS."""
        self.own, self.mode = self.once_in(2), self.chance.choice([*HANDLERS])
        self.cleared, self.unmasked = False, not self.once_in(4)
        self.stream.set_pstate(self.pstate)

    def write_mdscr(self) -> None:
        """The job writes MDSCR_EL1."""
        self.mdscr = self.chance.choice([0, 1, 1 << 15])
        self.stream.set_register(REGISTER_MDSCR_EL1, self.mdscr)

    def read_registers(self) -> None:
        """The job reads what KVM steps with."""
        kept = self.level | SS * (self.own and not self.cleared)
        self.sees(kept, self.pstate)
        self.stream.read(REGISTER_PSTATE, kept)
        leaking = bool(self.rows) and self.shows(Bug.LEAKS_MDSCR, 2)
        self.sees(self.mdscr | leaking, self.mdscr)
        self.stream.read(REGISTER_MDSCR_EL1, self.mdscr | leaking)

    def sees(self, read: int, own: int) -> None:
        """The next record holds what user space reads of a register."""
        if read != own:
            self.leaks.add(len(self.stream))

    def write_branch_register(self) -> None:
        """The job sends register branches elsewhere."""
        self.register = self.any_address()
        self.stream.set_register(X8, self.register)

    def toggle_stepping(self) -> None:
        """Stepping off, perhaps unstepped instructions, stepping on: what was spent is gone."""
        self.stream.control(self.chance.choice([STEPPING_OFF, ENABLED_ONLY]))
        self.forget()
        for _ in range(self.chance.randrange(3)):
            self.run_unstepped()
        if self.once_in(2):
            self.read_registers()
        self.stream.step_on()
        if self.once_in(2):
            self.write_pc()

    def vcpu_init(self) -> None:
        """A new machine; the job says where it begins."""
        self.stream.vcpu_init()
        self.forget()
        self.own, self.cleared, self.mode, self.mdscr = False, False, EL1H, 0
        self.unmasked = False
        self.pc = self.any_address()
        self.stream.set_pc(self.pc)

    def forget(self) -> None:
        """Nobody waits for a report any more."""
        if not self.shows(Bug.REMEMBERS, 1):
            self.spent = False
        self.recorded, self.retired, self.muddled = False, 0, False
        self.took, self.overran = False, False

    def kick(self) -> None:
        """KVM_RUN that does not enter L2."""
        self.rows = []
        self.returns(self.signal(), flags=RecordFlag.KICKED)

    # --- KVM ---

    def kvm_run(self) -> None:
        """KVM_RUN with stepping on, and the record of its return."""
        self.rows = []
        targets = {Kind.BY_REGISTER: self.register, Kind.EXCEPTION_RETURN: self.elr}
        register = targets.get(self.op.kind)
        returned = self.noted(self.until_return())
        self.returns(returned, branch_register=register)
        if returned.reason == KVM_EXIT_DEBUG:
            self.expect(returned)

    def noted(self, returned: Return) -> Return:
        """At an IRQ's vector, user space reads what tells where L2 was interrupted."""
        vectors = [] if self.irq_base is None else [BASE, self.irq_base]
        at = {vector + offset for vector in vectors for offset in IRQ_OFFSETS.values()}
        if returned.reason != KVM_EXIT_DEBUG or returned.pc not in at:
            return returned
        return replace(returned, took=(self.elr, self.spsr))

    def returns(self, returned: Return, branch_register: int | None = None, flags: int = 0) -> None:
        """The record of a return, with the PSTATE that user space reads."""
        kept = self.own and not self.cleared
        shown = self.level | SS * (self.ss if self.shows(Bug.LEAKS_SS, 1) else kept)
        self.sees(shown, self.pstate)
        self.stream.run(
            self.rows, returned, branch_register=branch_register, pstate=shown, flags=flags
        )

    def until_return(self) -> Return:
        """The loop inside KVM_RUN."""
        if not self.skips and not self.faulted and self.shows(Bug.ADDS_REPORT, 6):
            return debug(self.pc)
        while True:
            self.enter()
            cause = self.step_guest()
            self.spent = not self.ss and cause is not Exit.STEP
            returned = self.handle(cause)
            if returned is not None:
                return returned

    def enter(self) -> None:
        """What KVM does to the step state on its way into L2."""
        rearms = self.shows(Bug.REARMS, 1) or self.shows(Bug.REARMS_SOMETIMES, 2)
        self.ss = not self.spent or rearms
        if not self.faulted and self.shows(Bug.FORGETS_TO_ARM, 6):
            self.ss = False
        self.advance()

    def advance(self) -> None:
        """Advance PC over an emulated instruction; that completes its step."""
        if self.skips:
            self.skips = False
            self.retire(self.pc + 4)

    def handle(self, cause: Exit) -> Return | None:
        """KVM's answer to an exit; None: enter L2 again."""
        if cause is Exit.STEP and self.shows(Bug.DROPS_REPORT, 4):
            return None
        if cause is Exit.STEP and not self.took and self.shows(Bug.WRONG_PC, 4):
            self.lied = True
            return debug(self.another_pc())
        if cause in REPORTED_AS:
            return debug(self.pc, REPORTED_AS[cause])
        if cause is Exit.MMIO:
            return mmio(self.pc)
        if cause is Exit.HYPERCALL:
            return hypercall(self.pc)
        return self.signal() if self.once_in(4) else None

    def signal(self) -> Return:
        """A signal is pending: an emulated instruction is completed before the return."""
        if self.skips:
            self.advance()
            self.spent = True
            self.cleared |= self.shows(Bug.CLEARS_SS, 1)
        return eintr(self.pc)

    def expect(self, returned: Return) -> None:
        """What this report must be judged as, by what was really done."""
        is_step = returned.exception == ExceptionClass.SOFTWARE_STEP
        outcome = OK
        if self.retired >= 2 or self.overran or (self.retired and not is_step):
            outcome = LOST_STEP
        elif is_step and not self.retired and not self.took:
            outcome = SPURIOUS_STEP
        elif self.lied:
            outcome = WRONG_PC
        if not self.muddled:
            self.expected.append(outcome)
        self.retired, self.recorded, self.muddled = 0, False, False
        self.took, self.overran = False, False

    # --- the vCPU (DDI 0487, "Software step exceptions") ---

    def step_guest(self) -> Exit:
        """L2 from an entry to an exit."""
        if self.once_in(5):
            return self.leaves(irq(), Exit.IRQ)
        self.may_interrupt(3)
        if not self.ss:
            self.rows += phantom(self.pc)
            return self.step_exception()
        # A report after a lie must come from an instruction, which shows where L2 is.
        may_hit = self.bug is not Bug.WRONG_PC and not self.faulted and not self.took
        if may_hit and self.once_in(12):
            return self.leaves(sync(), Exit.BREAKPOINT)
        self.rows += executes(self.pc)
        self.recorded, self.lied, self.overran = True, False, self.took
        return self.execute(self.op)

    def execute(self, op: Op) -> Exit:
        """One instruction, in Active-not-pending."""
        if op.kind is Kind.BREAKPOINT:
            return self.leaves(sync(), Exit.BRK)
        if op.kind is Kind.TRAPPED:
            self.skips = True
            return self.leaves(sync(), Exit.HANDLED)
        if op.kind in (Kind.MEMORY, Kind.FLOATING_POINT) and self.once_in(2):
            return self.leaves(sync(), self.fault(op))
        self.complete(op)
        if op.kind is Kind.HYPERCALL:
            return self.leaves(sync(), Exit.HYPERCALL if self.once_in(4) else Exit.HANDLED)
        # Which of the two is taken first is IMPLEMENTATION DEFINED.
        if self.once_in(5):
            return self.leaves(irq(), Exit.IRQ)
        to_vector = op.kind in (Kind.SUPERVISOR_CALL, Kind.UNDEFINED)
        if (self.may_interrupt(3) or to_vector) and not self.once_in(4):
            self.rows += phantom(self.pc)
        return self.step_exception()

    def may_interrupt(self, number: int) -> bool:
        """L2 takes an interrupt between two instructions, if one comes. Its step is then done.

        In Active-pending, too: which of the two is taken first is IMPLEMENTATION DEFINED.
        """
        offset = IRQ_OFFSETS.get(self.mode) if self.unmasked else None
        # As of a breakpoint: after a lie, an instruction must show where L2 is.
        if self.irq_base is None or offset is None or self.lied or not self.once_in(number):
            return False
        self.elr, self.spsr = self.pc, self.pstate
        self.own, self.cleared = self.once_in(2), False
        self.mode, self.unmasked = EL1H, False
        self.pc, self.ss, self.took = self.irq_base + offset, False, True
        return True

    def step_exception(self) -> Exit:
        """The Software Step exception, or the interrupt that a stub makes of it."""
        if self.once_in(6):
            return self.leaves(redirected(), Exit.IRQ)
        return self.leaves(sync(), Exit.STEP)

    def complete(self, op: Op) -> None:
        """What an instruction does, stepped or not."""
        pc = self.next_pc(op)
        if op.kind in (Kind.SUPERVISOR_CALL, Kind.UNDEFINED):
            self.elr = self.pc + 4 if op.kind is Kind.SUPERVISOR_CALL else self.any_address()
            self.spsr = self.pstate
            self.own, self.cleared, self.mode = self.once_in(2), False, EL1H
            self.unmasked = False
        elif op.kind is Kind.EXCEPTION_RETURN:
            self.own, self.cleared = self.once_in(2), False
            self.mode, self.unmasked = self.chance.choice([*HANDLERS]), not self.once_in(4)
        elif op.kind is Kind.WRITES_MDSCR:
            self.mdscr = self.chance.choice([0, 1])
        self.retire(pc)

    def fault(self, op: Op) -> Exit:
        """A load that does not complete, or the first use of floating point."""
        if op.kind is Kind.FLOATING_POINT:
            return Exit.HANDLED
        cause = self.chance.choice([Exit.MMIO, Exit.WATCHPOINT, Exit.HANDLED])
        self.skips = cause is Exit.MMIO
        return cause

    def run_unstepped(self) -> None:
        """KVM_RUN with stepping off, up to a signal. Its entry clears PSTATE.SS."""
        self.rows = []
        self.own, self.cleared = False, False
        for _ in range(self.chance.randrange(4)):
            if self.op.kind is not Kind.BREAKPOINT:
                self.rows += executes(self.pc)
                self.complete(self.op)
        self.retired, self.ss = 0, False
        self.rows += irq()
        self.returns(eintr(self.pc))

    def retire(self, pc: int) -> None:
        """An instruction completes."""
        self.pc = pc
        self.ss = False
        self.retired += 1

    def leaves(self, row: list[TruthRow], cause: Exit) -> Exit:
        """L2 is left."""
        self.rows += row
        return cause

    @property
    def faulted(self) -> bool:
        """An instruction is recorded that has not retired. What a broken KVM reports then is a
        violation, but the truth can't tell of which kind."""
        return self.recorded and not self.retired

    # --- the program ---

    @property
    def pstate(self) -> int:
        """The guest's own."""
        return self.level | SS * self.own

    @property
    def level(self) -> int:
        """PSTATE but for SS."""
        return self.mode & ~IRQ_MASK if self.unmasked else self.mode

    @property
    def op(self) -> Op:
        """The instruction at PC."""
        return self.program[(self.pc - BASE) // 4]

    def next_pc(self, op: Op) -> int:
        """The PC after an instruction."""
        taken = BASE + 4 * op.target
        if op.kind is Kind.BY_REGISTER:
            return self.register
        if op.kind is Kind.EXCEPTION_RETURN:
            return self.elr
        if op.kind in (Kind.SUPERVISOR_CALL, Kind.UNDEFINED):
            return BASE + 4 * HANDLERS[self.mode]
        if op.kind is Kind.CONDITIONAL:
            return self.chance.choice([self.pc + 4, taken])
        return taken if op.kind is Kind.BRANCH else self.pc + 4

    # --- chance ---

    def any_address(self) -> int:
        """The address of some instruction; to an IRQ's vector, only an IRQ goes."""
        return BASE + 4 * self.chance.choice([*(self.program.keys() - IRQ_HANDLERS)])

    def another_pc(self) -> int:
        """A PC where L2 is not."""
        lie = self.chance.choice([self.any_address(), self.pc + 4, self.pc - 4, 0, PC_VALUES - 1])
        return lie if lie != self.pc else self.pc + 8

    def shows(self, bug: Bug, number: int) -> bool:
        """Whether the bug is there, and shows now."""
        return self.bug is bug and not self.honest and self.once_in(number)

    def once_in(self, number: int) -> bool:
        """True with probability 1 / number; a shrunk example takes False."""
        return self.chance.randrange(number) == number - 1


@st.composite
def simulations(draw: st.DrawFn, bugs: Sequence[Bug]) -> Simulated:
    """Random programs under a KVM with one of these bugs."""
    shortest = draw(st.integers(1, LONGEST_PROGRAM - 1))
    ops = draw(st.lists(_ops(), min_size=shortest, max_size=LONGEST_PROGRAM - 1))
    targets = st.integers(0, len(ops))
    program = {index: Op(kind, encode, draw(targets)) for index, (kind, encode) in enumerate(ops)}
    program[len(ops)] = Op(Kind.BRANCH, b, target=len(ops))  # b .
    for index in HANDLERS.values():
        program.setdefault(index, Op(Kind.BRANCH, b, target=draw(targets)))
    for index in IRQ_HANDLERS:
        away = Op(Kind.BRANCH, b, target=draw(targets))
        program.setdefault(index, draw(st.sampled_from([away, RETURN])))
    chance = draw(st.randoms(use_true_random=False))
    bug = draw(st.sampled_from(bugs))
    return Simulation(chance, program, bug).simulate(draw(st.integers(0, 40)))


def _ops() -> st.SearchStrategy[tuple[Kind, Callable[[int], int]]]:
    """Instructions that can leave L2 by themselves come more often than they do in life."""
    leaving = [one for one in FIXED if one[0] in LEAVING]
    words = st.sampled_from(leaving * 2 + list(FIXED))
    return words.map(lambda one: (one[0], lambda _: one[1])) | st.sampled_from(RELATIVE)


# --- garbage -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Garbage:
    """Arrays of the right shapes, in any order and with anything in them."""

    records: StepRecords
    truth: TruthRecords
    phantom: NDArray[np.bool_]
    words: tuple[int, ...]
    vectors: int | None
    irq_base: int | None


GARBAGE_WORDS = (
    *(word for _, word in FIXED),
    *(encode(offset) for _, encode in RELATIVE for offset in (-8, -4, 0, 4, 8)),
    *(MSR_MDSCR, MSR_DBGBVR0, MSR_DBGWCR3, MSR_SP_EL0),
    *[SVC, UDF, ERET] * 3,
)
GARBAGE_PCS = (
    *(BASE + offset for offset in (0x80, 0x200, 0x280, 0x400, 0x7FC, 0x800)),
    *(BASE + 4 * index for index in range(-1, 5)),
    BASE + 2,
    0,
    1 << 63,
    PC_VALUES - 4,
    PC_VALUES - 1,
)
GARBAGE_DETAILS = (0, 1, 2, 0x200, 0x400, 0x480, 0x500, 0x580, 0x600, 0x680, 0xFFFFFFFF)

GARBAGE_PSTATES = (
    *(EL0, EL1T, EL1H, EL0 | SS, EL1H | SS, 0x10, 0x3C9, 0, PC_VALUES - 1),
    *[EL0 & ~IRQ_MASK, EL1H & ~IRQ_MASK, EL1H & ~IRQ_MASK | SS] * 2,
)
GARBAGE_REGISTERS = (REGISTER_MDSCR_EL1, DBGBVR0, DBGWCR3, X8)

_pstates = st.sampled_from(GARBAGE_PSTATES)
_pcs = st.sampled_from([*[BASE, BASE + 4, BASE + 8] * 3, *GARBAGE_PCS])

_records = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([RecordKind.RUN] * 4 + [*RecordKind, 0, 77]),
        "flags": st.sampled_from([RecordFlag.STEPPING] * 5 + [0xFFFFFFFF] * 3 + [0, 0x80]),
        "pstate": _pstates,
        "exit_reason": st.sampled_from([KVM_EXIT_DEBUG] * 3 + [0, KVM_EXIT_MMIO]),
        "pc": _pcs,
        "esr": st.sampled_from([0x32] * 4 + [0x30, 0x34, 0x3C, 0x38, 0]).map(
            lambda exception: exception << 26 | 0x22
        ),
        "error": st.sampled_from([0, 0, 0, errno.EINTR, errno.EFAULT]),
        "branch_register": _pcs,
        "detail": st.tuples(
            st.sampled_from(
                [REGISTER_PC, *[REGISTER_PSTATE] * 3, *GARBAGE_REGISTERS, STEPPING_ON, 0, 1, 2]
            ),
            _pcs | _pstates,
            st.just(0),
            st.just(0),
        )
        | st.tuples(_pcs, _pstates, st.just(0), st.just(0)),
    }
)

_truth = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(
            [TruthKind.INSTRUCTION] * 4 + [TruthKind.EXIT] * 3 + [*TruthKind, 0]
        ),
        "pc": _pcs,
        "detail": st.sampled_from(GARBAGE_DETAILS),
        "size": st.sampled_from([0, 4]),
    }
)


@st.composite
def garbage(draw: st.DrawFn) -> Garbage:
    """Random arrays; in most of them the marks do match the returns from KVM_RUN."""
    words = draw(st.lists(st.sampled_from(GARBAGE_WORDS), min_size=1, max_size=4))
    records = _filled(STEP_RECORD, draw(_some(_records, 12)))
    truth = _filled(TRUTH_RECORD, draw(_some(_truth, 30)))
    if draw(st.integers(0, 7)):
        truth = _marked(draw, truth, int((records["kind"] == RecordKind.RUN).sum()))
    phantoms = (truth["kind"] == TruthKind.INSTRUCTION) & (truth["size"] == 0)
    vectors = draw(st.sampled_from([BASE, None]))
    irq_base = draw(st.sampled_from([BASE - 0x27C, BASE, BASE - 0x47C, None]))
    return Garbage(records, truth, phantoms, tuple(words), vectors, irq_base)


def _some(
    rows: st.SearchStrategy[dict[str, Any]], most: int
) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Lists of every length: by itself, Hypothesis makes short ones."""
    return st.integers(0, most).flatmap(lambda least: st.lists(rows, min_size=least, max_size=most))


def _filled(dtype: np.dtype[np.void], rows: list[dict[str, Any]]) -> NDArray[np.void]:
    array = np.zeros(len(rows), dtype)
    for index, row in enumerate(rows):
        for name, value in row.items():
            array[index][name] = value
    return array


def _marked(draw: st.DrawFn, truth: TruthRecords, marks: int) -> TruthRecords:
    is_mark = (truth["kind"] == TruthKind.MARK) & (truth["detail"] == Mark.RETURNED)
    kept = truth[~is_mark]
    at = [draw(st.integers(0, len(kept))) for _ in range(marks)]
    mark = np.zeros((), TRUTH_RECORD)
    mark["kind"], mark["detail"] = TruthKind.MARK, Mark.RETURNED
    return np.insert(kept, at, mark) if at else kept
