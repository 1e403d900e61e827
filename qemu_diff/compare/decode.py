"""A64 as far as the step contract needs it: where may the PC be after one instruction?

Encodings: DDI 0487, C4.1 "A64 instruction set encoding".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import system_register
from qemu_diff.errors import CompileError
from qemu_diff.model import Payload


@dataclass(frozen=True)
class InstructionClass:
    """A class of instructions: those with ``word & mask == value``.

    :param name: as payloads state it.
    :param offset_bits: (lowest bit, width) of a signed branch offset in words; None without one.
    :param falls_through: whether the next instruction may follow.
    :param by_register: whether the recorded branch register is the target.
    :param to_vector: whether it takes a synchronous exception to L2's own vectors.
    :param decidable: False for classes whose successor can't be told: no range may hold them. Those
        that go ``to_vector`` it may hold, if the payload says where its vectors are.
    """

    name: str
    mask: int
    value: int
    offset_bits: tuple[int, int] | None = None
    falls_through: bool = True
    by_register: bool = False
    to_vector: bool = False
    decidable: bool = True

    @property
    def runs_once(self) -> bool:
        """Whether a synchronous exit after it is no reason to execute it again.

        Branches, SVC, UDF and ERET raise no exception to EL2 by themselves, and BRK's is reported.
        HVC is behind PC when its exception is taken (DDI 0487, D1.3.1: preferred return address).
        """
        completes = self.name in (BRK, HVC)
        return self.offset_bits is not None or self.by_register or self.to_vector or completes


BRANCH_REGISTER = "branch-register"
BRK = "brk"
ERET = "eret"
HVC = "hvc"
SVC = "svc"
UNDEFINED = "undefined"

VECTORS = "vectors"
"""The label of a payload's exception vectors: what it sets VBAR_EL1 to."""

VECTORS_ALIGN = 0x800
"""VBAR_EL1 bits [10:0] are RES0 (DDI 0487, VBAR_EL1)."""

UNKNOWN_MODE = -1

VECTOR_OF_MODE = {
    0b00000: 0x400,  # EL0t: a lower EL, using AArch64
    0b00100: 0x000,  # EL1t: the current EL with SP_EL0
    0b00101: 0x200,  # EL1h: the current EL with SP_ELx
}
"""PSTATE.M → offset from VBAR_EL1 of the synchronous exception's vector (DDI 0487, D1.4.2, table
D1-6)."""

IRQ_OFFSET_OF_MODE = {
    0b00000: 0x480,
    0b00101: 0x280,
}
"""PSTATE.M → offset from VBAR_EL1 of the IRQ's vector, for the modes that payloads use (ibid.)."""

PSTATE_MODE = 0x1F
"""PSTATE.nRW and PSTATE.M (DDI 0487, SPSR_EL1)."""
PSTATE_I = 1 << 7

CLASSES = (
    InstructionClass("branch", 0xFC000000, 0x14000000, (0, 26), falls_through=False),
    InstructionClass("branch-link", 0xFC000000, 0x94000000, (0, 26), falls_through=False),
    InstructionClass("branch-conditional", 0xFF000000, 0x54000000, (5, 19)),
    InstructionClass("compare-branch", 0x7E000000, 0x34000000, (5, 19)),
    InstructionClass("test-branch", 0x7E000000, 0x36000000, (5, 14)),
    InstructionClass(
        BRANCH_REGISTER, 0xFF9FFC1F, 0xD61F0000, falls_through=False, by_register=True
    ),
    InstructionClass(ERET, 0xFFFFFFFF, 0xD69F03E0, falls_through=False, by_register=True),
    # DRPS and the authenticating branches: the target is in no register that is recorded.
    InstructionClass("branch-opaque", 0xFE000000, 0xD6000000, decidable=False),
    InstructionClass(
        SVC, 0xFFE0001F, 0xD4000001, falls_through=False, to_vector=True, decidable=False
    ),
    InstructionClass(HVC, 0xFFE0001F, 0xD4000002),
    InstructionClass("smc", 0xFFE0001F, 0xD4000003),
    # Never retires: while stepped, MDCR_EL2.TDE takes its exception to EL2, not to L2's vectors.
    InstructionClass(BRK, 0xFFE0001F, 0xD4200000, falls_through=False),
    InstructionClass("exception", 0xFF000000, 0xD4000000, decidable=False),
    InstructionClass("nop", 0xFFFFFFFF, 0xD503201F),
    InstructionClass("hint", 0xFFFFF01F, 0xD503201F),
    InstructionClass("barrier", 0xFFFFF01F, 0xD503301F),
    InstructionClass("sysreg", 0xFFD00000, 0xD5100000),
    InstructionClass("system", 0xFFC00000, 0xD5000000),
    InstructionClass("load", 0x3B000000, 0x18000000),  # literal
    InstructionClass("load", 0x3A400000, 0x28400000),  # pair, L=1
    InstructionClass("store", 0x3A400000, 0x28000000),
    InstructionClass("exclusive", 0x3F000000, 0x08000000),
    InstructionClass("store", 0x3AC00000, 0x38000000),  # register forms, opc=00
    InstructionClass("load", 0x3A000000, 0x38000000),
    InstructionClass(  # UDF
        UNDEFINED, 0xFFFF0000, 0x00000000, falls_through=False, to_vector=True, decidable=False
    ),
    InstructionClass("alu", 0x1C000000, 0x10000000),  # data processing, immediate
    InstructionClass("alu", 0x0E000000, 0x0A000000),  # data processing, register
    InstructionClass("fp", 0x0E000000, 0x0E000000),
)
"""In order: the first that matches is the class."""

UNKNOWN_CLASS = InstructionClass("unknown", 0, 0, decidable=False)


def classify(word: int) -> InstructionClass:
    """The class of an instruction word."""
    return next((one for one in CLASSES if word & one.mask == one.value), UNKNOWN_CLASS)


def branch_offset(word: int, one: InstructionClass) -> int | None:
    """The branch offset in bytes, or None where the class has none."""
    if one.offset_bits is None:
        return None
    lowest, width = one.offset_bits
    raw = word >> lowest & ((1 << width) - 1)
    return (raw - (1 << width) if raw >> (width - 1) else raw) * 4


MSR_MASK, MSR = 0xFFF00000, 0xD5100000
"""MSR (register): 1101 0101 0001 o0 op1 CRn CRm op2 Rt, with op0 = 2 + o0 (DDI 0487, C6.2, MSR)."""


def written_register(word: int) -> int | None:
    """The KVM register id of what an ``MSR (register)`` writes; None for all other words."""
    if word & MSR_MASK != MSR:
        return None
    op0 = 2 + (word >> 19 & 1)
    return system_register(op0, word >> 16 & 7, word >> 12 & 15, word >> 8 & 15, word >> 5 & 7)


NO_REGISTER = -1
"""In the tables of :class:`Program`: the instruction writes no system register."""

NO_SUCCESSOR = -(1 << 63) + 1
"""In the tables of :class:`Program`: there is no such successor. An odd address is never one."""


@dataclass(frozen=True)
class Program:
    """A payload as tables over its words: index is ``(pc - load_address) // 4``.

    :param fall_through: shape (n,), int64: the next PC, or ``NO_SUCCESSOR``.
    :param target: shape (n,), int64: the branch target, or ``NO_SUCCESSOR``.
    :param by_register: shape (n,), bool: whether a register gives the target.
    :param to_vector: shape (n,), bool: whether it takes an exception to L2's own vectors.
    :param runs_once: shape (n,), bool: see :class:`InstructionClass`.
    :param kind: shape (n,), int64: index into ``CLASSES``, or -1.
    :param writes: shape (n,), int64: the KVM id of the system register that MSR writes, or
        ``NO_REGISTER``.
    :param vectors: VBAR_EL1, or None where the payload does not say.
    :param irq_vectors: what VBAR_EL1 may be while L2 takes interrupts; none where it takes none.
    """

    load_address: int
    fall_through: NDArray[np.int64]
    target: NDArray[np.int64]
    by_register: NDArray[np.bool_]
    to_vector: NDArray[np.bool_]
    runs_once: NDArray[np.bool_]
    kind: NDArray[np.int64]
    writes: NDArray[np.int64]
    vectors: int | None = None
    irq_vectors: tuple[int, ...] = ()

    def takes_irq(self, pc: NDArray[np.int64], spsr: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether ``pc`` is where an IRQ goes that interrupted PSTATE ``spsr``. Shape (n,).

        An IRQ is taken while PSTATE.I is 0 (DDI 0487, D1.3.6).
        """
        found = np.zeros(len(pc), dtype=bool)
        for base in self.irq_vectors:
            for mode, offset in IRQ_OFFSET_OF_MODE.items():
                found |= ((spsr & PSTATE_MODE) == mode) & (pc == base + offset)
        return np.asarray(found & ((spsr & PSTATE_I) == 0))

    def is_irq_vector(self, pc: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which PCs are an IRQ's vector. Shape (n,)."""
        offsets = IRQ_OFFSET_OF_MODE.values()
        return np.isin(pc, [base + offset for base in self.irq_vectors for offset in offsets])

    @cached_property
    def vector_bases(self) -> frozenset[int]:
        """What VBAR_EL1 may be."""
        return frozenset((*self.irq_vectors, *(() if self.vectors is None else (self.vectors,))))

    @cached_property
    def end(self) -> int:
        """Address after the last word."""
        return self.load_address + 4 * len(self.target)

    def holds(self, pc: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which PCs are addresses of instructions of this program."""
        return np.asarray((pc >= self.load_address) & (pc < self.end) & (pc & 3 == 0))

    def executes_once(self, pc: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which PCs hold an instruction that ``runs_once``; False outside. Shape (n,)."""
        inside, index = self._index(pc)
        return np.asarray(inside & self.runs_once[index])

    def is_of(self, pc: NDArray[np.int64], name: str) -> NDArray[np.bool_]:
        """Which PCs hold an instruction of a class; False outside. Shape (n,)."""
        inside, index = self._index(pc)
        wanted = [number for number, one in enumerate(CLASSES) if one.name == name]
        return np.asarray(inside & np.isin(self.kind[index], wanted))

    def writes_to(self, pc: NDArray[np.int64], register: int) -> NDArray[np.bool_]:
        """Which PCs hold an MSR to a register, by its KVM id; False outside. Shape (n,)."""
        inside, index = self._index(pc)
        return np.asarray(inside & (self.writes[index] == register))

    def follows(
        self,
        pc: NDArray[np.int64],
        successor: NDArray[np.int64],
        register: NDArray[np.int64],
        recorded: NDArray[np.bool_],
        mode: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Whether ``successor`` may be the PC after the instruction at ``pc``.

        :param register: value of the branch register before the instruction, where ``recorded``.
        :param mode: PSTATE.M before the instruction; one that is not in ``VECTOR_OF_MODE`` is
            unknown, and then each of its vectors may be the one. All five have shape (n,).
        :returns: shape (n,); False for a ``pc`` outside of the program.
        """
        inside, index = self._index(pc)
        fall_through, target = self.fall_through[index], self.target[index]
        # A kernel may report any PC, the one that looks like NO_SUCCESSOR included.
        legal = (fall_through == successor) | (target == successor)
        legal &= successor != NO_SUCCESSOR
        if recorded.any():
            legal |= self.by_register[index] & recorded & (register == successor)
        if self.vectors is not None:
            legal |= self.to_vector[index] & self._is_vector(successor, mode)
        return np.asarray(inside & legal)

    def successors(
        self, pc: int, register: int | None = None, mode: int = UNKNOWN_MODE
    ) -> tuple[int, ...]:
        """The legal PCs after the instruction at ``pc``, ascending.

        :param register: value of the branch register before it, where that was recorded.
        :param mode: see :meth:`follows`.
        """
        if not self.holds(np.array([pc], dtype=np.int64))[0]:
            return ()
        index = (pc - self.load_address) // 4
        found = {int(self.fall_through[index]), int(self.target[index])}
        if self.by_register[index] and register is not None:
            found.add(register)
        if self.to_vector[index] and self.vectors is not None:
            found |= {self.vectors + offset for offset in _vector_offsets(mode)}
        return tuple(sorted(found - {NO_SUCCESSOR}))

    def _index(self, pc: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Whether each PC is inside, and its index into the tables, 0 where it is not."""
        inside = self.holds(pc)
        return inside, np.where(inside, (pc - self.load_address) >> 2, 0)

    def _is_vector(self, pc: NDArray[np.int64], mode: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each PC is where a synchronous exception in ``mode`` goes."""
        found = np.zeros(len(pc), dtype=bool)
        if self.vectors is None:
            return found
        unknown = ~np.isin(mode, list(VECTOR_OF_MODE))
        for one, offset in VECTOR_OF_MODE.items():
            found |= (unknown | (mode == one)) & (pc == self.vectors + offset)
        return found


def _vector_offsets(mode: int) -> tuple[int, ...]:
    known = VECTOR_OF_MODE.get(mode)
    return tuple(VECTOR_OF_MODE.values()) if known is None else (known,)


def program_of(payload: Payload) -> Program:
    """The tables of a payload.

    :raises CompileError: its stepping range holds an instruction whose successor can't be told, or
        its classes are not the ones that it states.
    """
    words = np.frombuffer(payload.blob[: len(payload.blob) & ~3], "<u4")
    classes = [classify(int(word)) for word in words]
    vectors = _vectors(payload)
    _check_range(payload, words, classes, vectors)
    written = [written_register(int(word)) for word in words]
    return Program(
        load_address=payload.load_address,
        fall_through=_table(payload, words, classes, _fall_through),
        target=_table(payload, words, classes, _branch_target),
        by_register=np.array([one.by_register for one in classes], dtype=bool),
        to_vector=np.array([one.to_vector for one in classes], dtype=bool),
        runs_once=np.array([one.runs_once for one in classes], dtype=bool),
        kind=np.array([_number(one) for one in classes], dtype=np.int64),
        writes=np.array([NO_REGISTER if one is None else one for one in written], dtype=np.int64),
        vectors=vectors,
        irq_vectors=_irq_vectors(payload, vectors),
    )


def _irq_vectors(payload: Payload, vectors: int | None) -> tuple[int, ...]:
    if payload.interrupts is None:
        return ()
    return (payload.interrupts.vectors, *(() if vectors is None else (vectors,)))


def _number(one: InstructionClass) -> int:
    return CLASSES.index(one) if one in CLASSES else -1


def _vectors(payload: Payload) -> int | None:
    address = next((address for address, name in payload.labels if name == VECTORS), None)
    if address is not None and address % VECTORS_ALIGN:
        raise CompileError(
            f"payload {payload.name}: {VECTORS} is at {address:#x}, which VBAR_EL1 can't hold: "
            f"align it to {VECTORS_ALIGN:#x}"
        )
    return address


def _fall_through(pc: int, _: int, one: InstructionClass) -> int | None:
    return pc + 4 if one.falls_through and one.decidable else None


def _branch_target(pc: int, word: int, one: InstructionClass) -> int | None:
    offset = branch_offset(word, one)
    return None if offset is None else pc + offset


def _table(
    payload: Payload,
    words: NDArray[np.uint32],
    classes: list[InstructionClass],
    successor: Callable[[int, int, InstructionClass], int | None],
) -> NDArray[np.int64]:
    found = (
        successor(payload.load_address + 4 * index, int(word), one)
        for index, (word, one) in enumerate(zip(words, classes, strict=True))
    )
    return np.array([NO_SUCCESSOR if pc is None else pc for pc in found], dtype=np.int64)


def _check_range(
    payload: Payload,
    words: NDArray[np.uint32],
    classes: list[InstructionClass],
    vectors: int | None,
) -> None:
    first, last = ((pc - payload.load_address) // 4 for pc in (payload.begin, payload.end))
    for index in range(first, last):
        one = classes[index]
        if one.decidable or (one.to_vector and vectors is not None):
            continue
        hint = f": it has no label {VECTORS!r}" if one.to_vector else ""
        raise CompileError(
            f"payload {payload.name}: {int(words[index]):#010x} at "
            f"{payload.load_address + 4 * index:#x} ({one.name}) has no successor "
            f"that the step contract can tell{hint}"
        )
    held, stated = {one.name for one in classes[first:last]}, set(payload.classes)
    if held != stated:
        raise CompileError(
            f"payload {payload.name}: its range holds {', '.join(sorted(held))}; "
            f"it states {', '.join(sorted(stated))}"
        )
