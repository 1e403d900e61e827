"""A small machine that really executes a payload's bytes, stepped as a debugger's user steps it.

It keeps the truth of what it did in the plugin's records, as QEMU under a correct KVM would leave
them, or under one with a bug: at chosen instructions a step runs one instruction too many.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import capstone
import numpy as np

from qemu_diff.abi import TRUTH_RECORD, StepState, TruthKind, TruthRecords, VectorSlot
from qemu_diff.drive.debugger import SIGINT, SIGTRAP, Position, Stop
from qemu_diff.model import Payload

IRQ_MASKED = 1 << 7
EL1H_MASKED = 0x3C5
ZERO, CARRY = 1 << 30, 1 << 29
EXCEPTION_CLASS_SVC = 0x15 << 26
NO_INTERRUPT = 1023
IRQ_VECTOR, SYNC_VECTOR = {0x5: 0x280, 0x0: 0x480}, {0x5: 0x200, 0x0: 0x400}
"""PSTATE.M → offset from VBAR_EL1."""
LONGEST_RUN = 10_000

SERVED = ("hvc", "mrs", "ldr", "str")
"""KVM has to do something for them, now and then."""

_DECODER = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
_64_BITS = (1 << 64) - 1


@dataclass(frozen=True)
class Interruption:
    """A stop from outside, in place of a step's own. QEMU turns stepping off at it, and on again
    for the next step, which begins anew.

    :param executed: whether the step was done before it.
    """

    executed: bool


TAKES_IRQ = "irq"
"""In place of a step: L2 takes an interrupt, if it masks none."""

Event = Interruption | str


@dataclass
class Debuggee:
    """A :class:`~qemu_diff.drive.debugger.Debugger` of L2, and L2.

    :param events: number of the step, from 0 → what happens instead.
    :param too_many_at: PCs whose step runs one instruction too many.

    ``stopped_at``: (before, after) of each step that was stopped from outside.
    """

    payload: Payload
    events: dict[int, Event] = field(default_factory=dict)
    too_many_at: frozenset[int] = frozenset()
    truth: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    lost_at: list[int] = field(default_factory=list)
    registers: dict[str, int] = field(default_factory=dict)
    ran_to: list[int] = field(default_factory=list)
    written: list[tuple[str, int]] = field(default_factory=list)
    steps: int = 0
    left: bool = False

    def __post_init__(self) -> None:
        self.memory = dict(enumerate(self.payload.blob, self.payload.load_address))
        self.stopped_at: list[tuple[int, int]] = []

    # --- the debugger ---

    def position(self, vcpu: int = 0) -> Position:
        assert vcpu == 0
        return Position(self["pc"], self["cpsr"])

    def read_register(self, name: str) -> int:
        return self[name.lower()]

    def write_register(self, name: str, value: int) -> None:
        assert 0 <= value <= _64_BITS
        self.written.append((name, value))
        self.registers[name] = value

    def read_memory(self, address: int, size: int) -> bytes:
        return bytes(self.memory.get(address + index, 0) for index in range(size))

    def request_step(self) -> None:
        self.steps += 1

    def await_stop(self) -> Stop:
        event = self.events.get(self.steps - 1)
        if isinstance(event, Interruption):
            return self._interrupted(event)
        if event == TAKES_IRQ and not self["cpsr"] & IRQ_MASKED and "vbar_el1" in self.registers:
            self._exception(IRQ_VECTOR, self["pc"])
            self._phantom()
        else:
            self._one_step()
        return Stop(0, SIGTRAP, self.position())

    def step(self) -> Stop:
        self.request_step()
        return self.await_stop()

    def run_to(self, address: int) -> Stop:
        self.ran_to.append(address)
        for _ in range(LONGEST_RUN):
            if self["pc"] == address:
                self._exit(VectorSlot.SYNCHRONOUS)
                return Stop(0, SIGTRAP, self.position())
            self._execute(StepState.INACTIVE)
        raise AssertionError(f"L2 never comes to {address:#x}")

    def leave(self) -> None:
        self.left = True

    # --- what the plugin says ---

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def records(self) -> TruthRecords:
        """What was executed."""
        return np.array(self.truth, dtype=TRUTH_RECORD)

    def _exit(self, slot: int) -> None:
        self.truth.append((0, slot, TruthKind.EXIT, 0, 0, 0))

    def _phantom(self) -> None:
        state = StepState.ACTIVE_PENDING
        self.truth.append((self["pc"], 0, TruthKind.INSTRUCTION, 0, 0, state))
        self._exit(VectorSlot.SYNCHRONOUS)

    # --- the machine ---

    def __getitem__(self, register: str) -> int:
        if register in ("xzr", "wzr"):
            return 0
        if register.startswith("w"):
            return self["x" + register[1:]] & 0xFFFF_FFFF
        return self.registers.get(register, 0)

    def _interrupted(self, event: Interruption) -> Stop:
        stood, lost = self["pc"], len(self.lost_at)
        if event.executed:
            self._one_step()
        if self["pc"] == stood:
            del self.lost_at[lost:]  # As if nothing had been executed: it is nobody's step.
        self._exit(VectorSlot.IRQ)
        self.stopped_at.append((stood, self["pc"]))
        return Stop(0, SIGINT, self.position())

    def _one_step(self) -> None:
        pc = self["pc"]
        served = self._execute(StepState.ACTIVE_NOT_PENDING).startswith(SERVED)
        self._exit(VectorSlot.SYNCHRONOUS)
        if pc in self.too_many_at:
            self.lost_at.append(pc)
            self._execute(StepState.ACTIVE_NOT_PENDING)
            self._exit(VectorSlot.SYNCHRONOUS)
        elif served and self["pc"] == pc + 4:
            self._phantom()

    def _execute(self, state: StepState) -> str:
        """One instruction; its mnemonic."""
        pc = self["pc"]
        word = self.read_memory(pc, 4)
        self.truth.append((pc, 0, TruthKind.INSTRUCTION, 0, 4, state))
        self.registers["pc"] = pc + 4
        (decoded,) = _DECODER.disasm(word, pc)
        operands = re.findall(r"\[[^]]*\]!?|[^, ][^,]*", decoded.op_str)
        _EFFECTS.get(decoded.mnemonic.partition(".")[0], _nothing)(
            self, decoded.mnemonic, [one.strip() for one in operands]
        )
        return str(decoded.mnemonic)

    def put(self, register: str, value: int) -> None:
        """Write one by its name in a listing."""
        if register not in ("xzr", "wzr"):
            wide = value & 0xFFFF_FFFF if register.startswith("w") else value & _64_BITS
            self.registers[re.sub("^w", "x", register)] = wide

    def value(self, operand: str) -> int:
        """Of a register or an immediate."""
        return int(operand[1:], 0) if operand.startswith("#") else self[operand]

    def go(self, target: int) -> None:
        """Branch."""
        self.registers["pc"] = target

    def _exception(self, vectors: dict[int, int], back_to: int) -> None:
        old = self["cpsr"]
        new = EL1H_MASKED | old & (ZERO | CARRY)
        self.registers |= {"elr_el1": back_to, "spsr_el1": old, "cpsr": new}
        self.go(self["vbar_el1"] + vectors[old & 0x1F])

    def take(self, syndrome: int, back_to: int) -> None:
        """A synchronous exception inside L2."""
        self.registers["esr_el1"] = syndrome
        self._exception(SYNC_VECTOR, back_to)


# --- instructions --------------------------------------------------------------------------------

Effect = Callable[[Debuggee, str, list[str]], None]


def _nothing(_machine: Debuggee, _name: str, _operands: list[str]) -> None:
    """Whatever else an instruction does, PC goes on."""


def _move(machine: Debuggee, name: str, operands: list[str]) -> None:
    to, what, *shift = operands
    by = int(shift[0].removeprefix("lsl #")) if shift else 0
    value = machine.value(what) << by
    if name == "movk":
        value |= machine[to] & ~(0xFFFF << by)
    machine.put(to, value)


def _arithmetic(machine: Debuggee, name: str, operands: list[str]) -> None:
    if name == "cmp":
        operands, name = ["xzr", *operands], "subs"
    to, left, right = operands[0], machine[operands[1]], machine.value(operands[2])
    if len(operands) > 3:
        right <<= int(operands[3].removeprefix("lsl #"), 0)
    result = {
        "add": left + right, "sub": left - right, "subs": left - right, "eor": left ^ right,
        "and": left & right, "lsr": left >> (right & 63),
    }[name]  # fmt: skip
    machine.put(to, result)
    if name == "subs":
        flags = (0 if result else ZERO) | (CARRY if left >= right else 0)
        machine.registers["cpsr"] = machine["cpsr"] & ~(ZERO | CARRY) | flags


def _branch(machine: Debuggee, name: str, operands: list[str]) -> None:
    if name == "bl":
        machine.put("x30", machine["pc"])
    zero, carry = (bool(machine["cpsr"] & flag) for flag in (ZERO, CARRY))
    taken = {"": True, "eq": zero, "ne": not zero, "hs": carry}
    if taken[name.partition(".")[2]]:
        machine.go(machine.value(operands[0]))


def _compare_and_branch(machine: Debuggee, name: str, operands: list[str]) -> None:
    value = machine[operands[0]]
    if name.startswith("tb"):
        value &= 1 << machine.value(operands[1])
    if (value == 0) == name.endswith("bz"):
        machine.go(machine.value(operands[-1]))


def _to_register(machine: Debuggee, name: str, operands: list[str]) -> None:
    target = machine[operands[0] if operands else "x30"]
    if name == "blr":
        machine.put("x30", machine["pc"])
    machine.go(target)


def _eret(machine: Debuggee, _name: str, _operands: list[str]) -> None:
    machine.go(machine["elr_el1"])
    machine.registers["cpsr"] = machine["spsr_el1"]


def _svc(machine: Debuggee, _name: str, _operands: list[str]) -> None:
    machine.take(EXCEPTION_CLASS_SVC, machine["pc"])


def _udf(machine: Debuggee, _name: str, _operands: list[str]) -> None:
    machine.take(0, machine["pc"] - 4)


def _system(machine: Debuggee, name: str, operands: list[str]) -> None:
    if name == "mrs":
        machine.put(operands[0], machine.registers.get(operands[1], NO_INTERRUPT))
    elif operands[0] == "daifset":
        machine.registers["cpsr"] |= machine.value(operands[1]) << 6
    elif operands[0] == "daifclr":
        machine.registers["cpsr"] &= ~(machine.value(operands[1]) << 6)
    else:
        machine.registers[operands[0]] = machine[operands[1]]


def _memory(machine: Debuggee, name: str, operands: list[str]) -> None:
    index = next(number for number, one in enumerate(operands) if one[0] in "[#")
    names, where, after = operands[:index], operands[index], operands[index + 1 :]
    if where.startswith("#"):
        address, base, parts = machine.value(where), "", [""]
    else:
        parts = where.strip("[]!").split(", ")
        base = parts[0]
        address = machine[base] + sum(machine.value(one) for one in parts[1:])
    size = 1 if name.endswith("b") else 4 if names[0].startswith("w") else 8
    for number, register in enumerate(names):
        at = range(address + number * size, address + (number + 1) * size)
        if name.startswith("ld"):
            there = machine.read_memory(at.start, size)
            machine.put(register, int.from_bytes(there, "little"))
        else:
            value = machine[register] & (1 << 8 * size) - 1
            machine.memory.update(zip(at, value.to_bytes(size, "little"), strict=True))
    if where.endswith("!"):
        machine.put(base, address)
    elif after:
        machine.put(base, address + machine.value(after[0]))


def _table(effect: Effect, names: Iterable[str]) -> dict[str, Effect]:
    return dict.fromkeys(names, effect)


_EFFECTS: dict[str, Effect] = {
    **_table(_move, ("mov", "movz", "movk", "adr", "adrp")),
    **_table(_arithmetic, ("add", "sub", "subs", "cmp", "eor", "and", "lsr")),
    **_table(_branch, ("b", "bl")),
    **_table(_compare_and_branch, ("cbz", "cbnz", "tbz", "tbnz")),
    **_table(_to_register, ("br", "blr", "ret")),
    **_table(_memory, ("ldr", "ldrb", "str", "strb", "ldp", "stp")),
    **_table(_system, ("mrs", "msr")),
    "eret": _eret,
    "svc": _svc,
    "udf": _udf,
}
"""By mnemonic, without its condition."""
