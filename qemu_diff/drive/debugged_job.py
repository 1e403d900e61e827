"""A job, done by a debugger of L2 instead of by the step VMM.

Of a job's operations a debugger can do what its user can: write registers, ask for steps, let L2
run. The rest are ioctls that L1's QEMU makes as it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qemu_diff.abi import (
    PSTATE_EL1H_MASKED,
    REGISTER_PC,
    REGISTER_PSTATE,
    STEPPING_CONTROL,
    OperationCode,
    WriteKind,
)
from qemu_diff.drive.debugger import SIGINT, Debugger, Position, Stop
from qemu_diff.drive.job import Job, Operation, Routine
from qemu_diff.drive.lines import Lines
from qemu_diff.drive.registers import register_name
from qemu_diff.drive.stop_records import StopRecords, at_irq_vector
from qemu_diff.errors import DebuggerError, UserError
from qemu_diff.model import Payload

_WORD_BYTES = 4
_ERET = 0xD69F_03E0
_REGISTER_BRANCH, _REGISTER_BRANCH_MASK = 0xD61F_0000, 0xFF9F_FC1F
"""BR, BLR, RET (DDI 0487, C4.1.66)."""
_BRANCH, _BRANCH_MASK = 0x1400_0000, 0xFC00_0000
_XZR = 31

_GDB_NAMES = {
    "pstate": "cpsr",
    **{name: name for name in ("pc", "sp", *(f"x{number}" for number in range(31)))},
}
"""What gdb can write, by our names."""


@dataclass(frozen=True)
class DebuggedPayload:
    """What the job needs to know of L2.

    :param payload: what L2 runs.
    """

    payload: Payload

    def word(self, address: int) -> int:
        """The instruction there; 0 where the payload has none."""
        offset = address - self.payload.load_address
        if offset < 0:
            return 0
        return int.from_bytes(self.payload.blob[offset : offset + _WORD_BYTES], "little")

    def branch_to(self, target: int | None, begin: int) -> int:
        """Where the first ``b target`` at or after ``begin`` is.

        :param target: None: the branch's own address.
        :raises UserError: there is none.
        """
        end = self.payload.load_address + len(self.payload.blob)
        for address in range(begin, end, _WORD_BYTES):
            there = address if target is None else target
            offset = (there - address) // _WORD_BYTES & ~_BRANCH_MASK & 0xFFFF_FFFF
            if self.word(address) == _BRANCH | offset:
                return address
        where = "itself" if target is None else f"{target:#x}"
        raise UserError(f"payload {self.payload.name}: nothing branches to {where}")


def check_debuggable(routine: Routine, job: str) -> None:
    """Whether a debugger can do a job.

    :param job: its name.
    :raises UserError: it can't.
    """
    for one in (*routine.once, *routine.each_pass):
        what = _not_debuggable(one)
        if what:
            raise UserError(f"job {job}: {what}: only driver in_guest does that")


def _not_debuggable(one: Operation) -> str:
    if one.code is OperationCode.SET_REG:
        name = register_name(one.a)
        return "" if name in _GDB_NAMES else f"a debugger can't write {name}"
    if one.code is OperationCode.DEBUG:
        return (
            "" if one.n == STEPPING_CONTROL and not one.a else "a debugger only turns stepping on"
        )
    does = (
        OperationCode.STEP,
        OperationCode.REPEAT,
        OperationCode.CALL,
        OperationCode.INTERRUPTS,
    )
    return "" if one.code in does else f"a debugger has no {one.code.name.lower()}"


class DebuggedJob:
    """Does a job's operations, one after the other."""

    def __init__(
        self,
        debugger: Debugger,
        witness: Callable[[], Position],
        payload: Payload,
        records: StopRecords,
        lines: Lines | None = None,
    ) -> None:
        """
        :param witness: where somebody else says that L2 stands.
        :param lines: what interrupts L2 between its steps; or None.
        """
        self._debugger = debugger
        self._witness = witness
        self._l2 = DebuggedPayload(payload)
        self._records = records
        self._lines = lines
        self._pc = 0
        self._passes = 0

    def run(self, job: Job) -> None:
        """
        :raises DebuggerError: see :class:`~qemu_diff.drive.debugger.Debugger`.
        """
        self._perform(job.operations, depth=0)

    def _perform(self, operations: Sequence[Operation], depth: int) -> None:
        index = 0
        while index < len(operations):
            one = operations[index]
            index += 1
            if one.code is OperationCode.REPEAT:
                body = operations[index : index + one.a]
                index += one.a
                for _ in range(one.n):
                    if not depth:
                        self._records.began_pass(self._passes)
                        self._passes += 1
                    self._perform(body, depth + 1)
            elif one.code is OperationCode.SET_REG:
                self._write(one)
            elif one.code is OperationCode.DEBUG:
                self._records.asked_for_steps(wanted=True)
            elif one.code is OperationCode.STEP:
                self._step(one)
            elif one.code is OperationCode.CALL:
                self._call(one.a)
            elif one.code is OperationCode.INTERRUPTS and self._lines is not None:
                self._records.interrupted(self._lines.raised(), self._lines.counters())

    def _write(self, one: Operation) -> None:
        name, value = _GDB_NAMES[register_name(one.a)], one.b
        if one.kind is WriteKind.SET_BITS:
            value = self._debugger.read_register(name) | one.b
        elif one.kind is WriteKind.CLEAR_BITS:
            value = self._debugger.read_register(name) & ~one.b
        self._write_register(one.a, value)

    def _write_register(self, register: int, value: int) -> None:
        self._records.wrote(register, value)
        self._debugger.write_register(_GDB_NAMES[register_name(register)], value)
        if register == REGISTER_PC:
            self._pc = value

    def _step(self, one: Operation) -> None:
        for _ in range(one.n):
            stop = self._one_step()
            if stop.position.pc == one.a:
                return

    def _one_step(self) -> Stop:
        branches_to = self._branch_register()
        stood, stop = self._pc, self._debugger.step()
        pc = self._pc = stop.position.pc
        if stop.signal == SIGINT and pc == stood:
            self._records.interrupted_step(stop)
            return stop
        self._records.stopped(
            stop,
            self._witness(),
            branch_register=branches_to,
            at_vector=self._taken_from() if at_irq_vector(pc) else None,
        )
        if self._lines is not None:
            self._lines.between(pc)
        return stop

    def _branch_register(self) -> int | None:
        """Only before the step can a user know where a register branch must go."""
        word = self._l2.word(self._pc)
        if word == _ERET:
            return self._debugger.read_register("ELR_EL1")
        if word & _REGISTER_BRANCH_MASK != _REGISTER_BRANCH:
            return None
        number = word >> 5 & 31
        return 0 if number == _XZR else self._debugger.read_register(f"x{number}")

    def _taken_from(self) -> tuple[int, int]:
        read = self._debugger.read_register
        return read("ELR_EL1"), read("SPSR_EL1")

    def _call(self, routine: int) -> None:
        """Run L2's own set-up, or what a pass left unfinished, to its end without a step."""
        interrupts = self._l2.payload.interrupts
        if interrupts is None:
            raise DebuggerError("the payload has nothing to be called")
        self._records.asked_for_steps(wanted=False)
        if routine:
            self._write_register(REGISTER_PC, routine)
            self._write_register(REGISTER_PSTATE, PSTATE_EL1H_MASKED)
        end = self._end_of_call(routine)
        stop = self._debugger.run_to(end)
        self._pc = stop.position.pc
        self._records.ran_to(stop)
        self._records.asked_for_steps(wanted=True)

    def _end_of_call(self, routine: int) -> int:
        """The branch behind ``say_done`` (payloads/interrupts.inc): to itself, or to the end."""
        if routine:
            return self._l2.branch_to(None, routine)
        return self._l2.branch_to(self._l2.payload.end, self._l2.payload.end)
