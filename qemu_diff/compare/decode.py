"""A64 as far as the step contract needs it: where may the PC be after one instruction?

Encodings: DDI 0487, C4.1 "A64 instruction set encoding".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qemu_diff.errors import CompileError
from qemu_diff.model import Payload


@dataclass(frozen=True)
class InstructionClass:
    """A class of instructions: those with ``word & mask == value``.

    :param name: as payloads state it.
    :param offset_bits: (lowest bit, width) of a signed branch offset in words; None without one.
    :param falls_through: whether the next instruction may follow.
    :param decidable: False for classes whose successor can't be told: no range may hold them.
    """

    name: str
    mask: int
    value: int
    offset_bits: tuple[int, int] | None = None
    falls_through: bool = True
    decidable: bool = True

    @property
    def branches(self) -> bool:
        """Whether it is a branch with a decidable target."""
        return self.offset_bits is not None or self.name == BRANCH_REGISTER


BRANCH_REGISTER = "branch-register"

CLASSES = (
    InstructionClass("branch", 0xFC000000, 0x14000000, (0, 26), falls_through=False),
    InstructionClass("branch-link", 0xFC000000, 0x94000000, (0, 26), falls_through=False),
    InstructionClass("branch-conditional", 0xFF000000, 0x54000000, (5, 19)),
    InstructionClass("compare-branch", 0x7E000000, 0x34000000, (5, 19)),
    InstructionClass("test-branch", 0x7E000000, 0x36000000, (5, 14)),
    InstructionClass(BRANCH_REGISTER, 0xFF9FFC1F, 0xD61F0000, falls_through=False),
    # ERET, DRPS and the authenticating branches: the target is in no register that is recorded.
    InstructionClass("branch-opaque", 0xFE000000, 0xD6000000, decidable=False),
    InstructionClass("svc", 0xFFE0001F, 0xD4000001, decidable=False),
    InstructionClass("hvc", 0xFFE0001F, 0xD4000002),
    InstructionClass("smc", 0xFFE0001F, 0xD4000003),
    InstructionClass("brk", 0xFFE0001F, 0xD4200000, falls_through=False),  # never retires
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
    InstructionClass("undefined", 0xFFFF0000, 0x00000000, decidable=False),  # UDF
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


NO_SUCCESSOR = -(1 << 63) + 1
"""In the tables of :class:`Program`: there is no such successor. An odd address is never one."""


@dataclass(frozen=True)
class Program:
    """A payload as tables over its words: index is ``(pc - load_address) // 4``.

    :param fall_through: shape (n,), int64: the next PC, or ``NO_SUCCESSOR``.
    :param target: shape (n,), int64: the branch target, or ``NO_SUCCESSOR``.
    :param by_register: shape (n,), bool: whether a register gives the target.
    :param branches: shape (n,), bool: branches that raise no exception of their own.
    """

    load_address: int
    fall_through: NDArray[np.int64]
    target: NDArray[np.int64]
    by_register: NDArray[np.bool_]
    branches: NDArray[np.bool_]

    @cached_property
    def end(self) -> int:
        """Address after the last word."""
        return self.load_address + 4 * len(self.target)

    def holds(self, pc: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which PCs are addresses of instructions of this program."""
        return np.asarray((pc >= self.load_address) & (pc < self.end) & (pc % 4 == 0))

    def is_branch(self, pc: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which PCs hold a branch; False outside of the program. Shape (n,)."""
        inside = self.holds(pc)
        return np.asarray(
            inside & self.branches[np.where(inside, (pc - self.load_address) // 4, 0)]
        )

    def follows(
        self,
        pc: NDArray[np.int64],
        successor: NDArray[np.int64],
        register: NDArray[np.int64],
        recorded: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Whether ``successor`` may be the PC after the instruction at ``pc``.

        :param register: value of the branch register before the instruction, where ``recorded``.
            All four have shape (n,).
        :returns: shape (n,); False for a ``pc`` outside of the program.
        """
        inside = self.holds(pc)
        index = np.where(inside, (pc - self.load_address) // 4, 0)
        fall_through, target = self.fall_through[index], self.target[index]
        # A kernel may report any PC, the one that looks like NO_SUCCESSOR included.
        legal = ((fall_through == successor) & (fall_through != NO_SUCCESSOR)) | (
            (target == successor) & (target != NO_SUCCESSOR)
        )
        legal |= self.by_register[index] & recorded & (register == successor)
        return np.asarray(inside & legal)

    def successors(self, pc: int, register: int | None = None) -> tuple[int, ...]:
        """The legal PCs after the instruction at ``pc``, ascending.

        :param register: value of the branch register before it, where that was recorded.
        """
        if not self.holds(np.array([pc], dtype=np.int64))[0]:
            return ()
        index = (pc - self.load_address) // 4
        found = {int(self.fall_through[index]), int(self.target[index])}
        if self.by_register[index] and register is not None:
            found.add(register)
        return tuple(sorted(found - {NO_SUCCESSOR}))


def program_of(payload: Payload) -> Program:
    """The tables of a payload.

    :raises CompileError: its stepping range holds an instruction whose successor can't be told, or
        its classes are not the ones that it states.
    """
    words = np.frombuffer(payload.blob[: len(payload.blob) & ~3], "<u4")
    classes = [classify(int(word)) for word in words]
    _check_range(payload, words, classes)
    return Program(
        payload.load_address,
        _table(payload, words, classes, _fall_through),
        _table(payload, words, classes, _branch_target),
        np.array([one.name == BRANCH_REGISTER for one in classes], dtype=bool),
        np.array([one.branches for one in classes], dtype=bool),
    )


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
    payload: Payload, words: NDArray[np.uint32], classes: list[InstructionClass]
) -> None:
    first, last = ((pc - payload.load_address) // 4 for pc in (payload.begin, payload.end))
    for index in range(first, last):
        if not classes[index].decidable:
            raise CompileError(
                f"payload {payload.name}: {int(words[index]):#010x} at "
                f"{payload.load_address + 4 * index:#x} ({classes[index].name}) has no successor "
                "that the step contract can tell"
            )
    held, stated = {one.name for one in classes[first:last]}, set(payload.classes)
    if held != stated:
        raise CompileError(
            f"payload {payload.name}: its range holds {', '.join(sorted(held))}; "
            f"it states {', '.join(sorted(stated))}"
        )
