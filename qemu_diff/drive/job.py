"""Jobs: what the step VMM is to do, as data (guest_images/include/step_abi.h)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qemu_diff.abi import (
    JOB_HEADER,
    JOB_MAGIC,
    OPERATION,
    PLACEMENT,
    PSTATE_EL1H_MASKED,
    PSTATE_SS,
    STEP_ABI_VERSION,
    Occasion,
    OperationCode,
    ReadKind,
    TimerKind,
    WriteKind,
)
from qemu_diff.config.problems import suggestion
from qemu_diff.drive.registers import REGISTERS
from qemu_diff.drive.script import (
    LARGEST_VALUE,
    NOWHERE,
    STEPS_PER_PASS,
    Debug,
    Expect,
    Get,
    Init,
    Kick,
    Mistake,
    On,
    Repeat,
    Restore,
    Run,
    Script,
    Set,
    Statement,
    Step,
    Term,
    Unmap,
    Value,
    Write,
    mistakes_error,
)
from qemu_diff.flood.placement import TIMER_KINDS, PairGrid, Placements, Sweep
from qemu_diff.guest.image import MEMORY_BYTES
from qemu_diff.model import FloodSource, Payload

STALL_NS = 200_000_000
"""Virtual time in KVM_RUN without a return after which L2 counts as stalled."""

MOST_OPERATIONS = 1 << 16
"""Records name their operation in 16 bits (``struct step_record``)."""

NO_DELAY = 0
"""In a table: the step has no placement."""

_FRAME = 2
"""Operations around a routine's pass: the flood's, and the repeat."""

WORD_BYTES = 4
LARGEST_WORD = (1 << 32) - 1

PSTATE_I = 1 << 7
"""IRQs are masked (DDI 0487, SPSR_EL2)."""

LONGER_WITH_INTERRUPTS = 8
"""So many more reports a pass has where L2's handler is stepped, too."""

CONSTANTS = {
    "el1h": PSTATE_EL1H_MASKED,
    "el0t": 0x3C0,  # EL0, with D, A, I and F masked
    "ss": PSTATE_SS,
    # MDSCR_EL1 (DDI 0487): software step, kernel (local) debug, monitor debug.
    "mdscr_ss": 1 << 0,
    "mdscr_kde": 1 << 13,
    "mdscr_mde": 1 << 15,
    # DBGBCRn_EL1 (DDI 0487): E; PMC 0b11 (EL1 and EL0); BAS 0b1111 (A64); no link.
    "bcr_el1": 0b1111 << 5 | 0b11 << 1 | 1,
    "brk0": 0xD420_0000,  # BRK #0
}
"""What a VALUE may name in each payload, beside ``entry``, ``begin`` and ``end``."""


@dataclass(frozen=True)
class Operation:
    """One ``struct operation``."""

    code: OperationCode
    n: int = 0
    a: int = 0
    b: int = 0
    kind: TimerKind | WriteKind | ReadKind | Occasion = TimerKind.INTERRUPT


_WITH_BODY = (OperationCode.REPEAT, OperationCode.ON)
"""Operations whose ``a`` counts those that belong to them."""


def _no_placements() -> Placements:
    return np.zeros(0, dtype=PLACEMENT)


@dataclass(frozen=True)
class Job:
    """Operations, and the table of placements that ``TIMER_TABLE`` reads.

    :raises ValueError: more operations than a record can name.
    """

    operations: tuple[Operation, ...]
    placements: Placements = field(default_factory=_no_placements)

    def __post_init__(self) -> None:
        if len(self.operations) > MOST_OPERATIONS:
            raise ValueError(f"{len(self.operations)} operations: a job has {MOST_OPERATIONS}")

    @property
    def passes(self) -> int:
        """How many passes over the payload: the iterations of the outermost repeats."""
        passes, index = 0, 0
        while index < len(self.operations):
            one = self.operations[index]
            if one.code is OperationCode.REPEAT:
                passes += one.n
            index += 1 + (one.a if one.code in _WITH_BODY else 0)
        return passes

    def encode(self, payload: Payload, cpu: int = 0) -> bytes:
        """The bytes of ``/job``.

        :param cpu: of L1, for L2's vCPU.
        """
        rows = [(one.code, one.kind, one.n, one.a, one.b) for one in self.operations]
        body = np.array(rows, dtype=OPERATION).tobytes() + self.placements.tobytes()
        header = np.zeros(1, JOB_HEADER)
        header["magic"] = JOB_MAGIC
        header["version"] = STEP_ABI_VERSION
        header["crc32"] = zlib.crc32(body)
        header["operations"] = len(self.operations)
        header["placements"] = len(self.placements)
        header["cpu"] = cpu
        if payload.interrupts:
            header["counters"] = payload.interrupts.counters
            header["handler_begin"], header["handler_end"] = payload.interrupts.handler
        header["load_address"] = payload.load_address
        header["memory_bytes"] = MEMORY_BYTES
        header["stall_ns"] = STALL_NS
        return header.tobytes() + body


# --- floods --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Routine:
    """A script for one payload: operations once per boot, and operations of each pass."""

    once: tuple[Operation, ...]
    each_pass: tuple[Operation, ...]

    @property
    def most_fills(self) -> int:
        """How many delays one :func:`fill_job` has room for."""
        return (MOST_OPERATIONS - len(self.once) - 1) // (len(self.each_pass) + _FRAME)


def quiet_job(routine: Routine, passes: int) -> Job:
    """Run the routine without a flood.

    :param passes: how often, over the payload.
    """
    return Job((*routine.once, *_repeated(routine, passes), _COUNT))


def sweep_job(routine: Routine, source: FloodSource, sweep: Sweep, turns: int = 0) -> Job:
    """One pass for each placement; within a pass every step has the same requested delay.

    :param turns: so many passes for each delay instead, with one placement a pass: in the first of
        them in its first step, and so on.
    """
    flood = Operation(
        OperationCode.TIMER_SWEEP, turns, sweep.first_ns, sweep.step_ns, TIMER_KINDS[source]
    )
    if not turns:
        return _flooded(routine, (flood,), sweep.passes)
    alone = Operation(OperationCode.TIMER_TURNS, n=turns)
    return _flooded(routine, (flood, alone), sweep.passes * turns)


def pairs_job(routine: Routine, source: FloodSource, grid: PairGrid) -> Job:
    """One pass for each two placements: every step has both."""
    kind = TIMER_KINDS[source]
    size = grid.side << _SIZE_SHIFT
    first = Operation(
        OperationCode.TIMER_SWEEP, grid.side, grid.first_ns, grid.step_ns | size, kind
    )
    second = Operation(OperationCode.TIMER_SECOND, 1, grid.first_ns, grid.step_ns | size, kind)
    return _flooded(routine, (first, second), grid.passes)


def fill_job(routine: Routine, source: FloodSource, delays: Sequence[int]) -> Job:
    """One pass for each of the given delays (ns): placements that a sweep missed.

    :raises ValueError: more delays than :attr:`Routine.most_fills`.
    """
    operations = [*routine.once]
    for delay in delays:
        kind = TIMER_KINDS[source]
        operations.append(Operation(OperationCode.TIMER_SWEEP, a=delay, kind=kind))
        operations.extend(_repeated(routine, 1))
    return Job((*operations, _COUNT))


def alone_job(routine: Routine, source: FloodSource, placements: Sequence[tuple[int, int]]) -> Job:
    """One pass for each of the given placements, which is the only one of its pass.

    :param placements: (how many steps of the pass come before, delay in ns).
    :raises ValueError: more placements than :attr:`Routine.most_fills`.
    """
    operations = [*routine.once]
    delays: list[int] = []
    for before, delay in placements:
        begin = len(delays)
        delays += [*[NO_DELAY] * before, delay]
        operations.append(Operation(OperationCode.TIMER_TABLE, n=before + 1, a=begin))
        operations.extend(_repeated(routine, 1))
    table = np.zeros(len(delays), dtype=PLACEMENT)
    table["delay"], table["kind"] = delays, TIMER_KINDS[source]
    return Job((*operations, _COUNT), table)


def table_job(
    routine: Routine,
    passes: int,
    placements: Placements,
    *,
    burst: int = 1,
    spacing_ns: int = 0,
) -> Job:
    """Every step takes the next of ``placements``; after the last there is no flood.

    :param burst: so many interrupts for each, ``spacing_ns`` apart.
    """
    flood = [Operation(OperationCode.TIMER_TABLE, n=len(placements))]
    if burst > 1:
        flood.append(Operation(OperationCode.TIMER_BURST, n=burst - 1, a=spacing_ns))
    return replace(_flooded(routine, flood, passes), placements=placements)


def periodic_job(routine: Routine, source: FloodSource, period_ns: int, passes: int) -> Job:
    """An interrupt each ``period_ns``, from the first pass to the last."""
    kind = TIMER_KINDS[source]
    begin = Operation(OperationCode.TIMER_PERIODIC, a=period_ns, kind=kind)
    end = Operation(OperationCode.TIMER_PERIODIC, kind=kind)
    whole = _flooded(routine, (begin,), passes)
    return replace(whole, operations=(*whole.operations[:-1], end, _COUNT))


_COUNT = Operation(OperationCode.INTERRUPTS)

_SIZE_SHIFT = 32
"""In ``b`` of a grid's operation: the size stands above the stride (stepvmm/timer.h)."""


def _flooded(routine: Routine, flood: Sequence[Operation], passes: int) -> Job:
    operations = (*routine.once, *flood, *_repeated(routine, passes), _COUNT)
    return Job(operations)


def _repeated(routine: Routine, passes: int) -> tuple[Operation, ...]:
    repeat = Operation(OperationCode.REPEAT, n=passes, a=len(routine.each_pass))
    return (repeat, *routine.each_pass)


# --- scripts -------------------------------------------------------------------------------------


def compiled(script: Script, payload: Payload) -> Routine:
    """What a script comes to on one payload.

    :raises ConfigError: it names a label that the payload does not have, or a value does not fit;
        ``str()`` has one line for each mistake.
    """
    compiler = _Compiler(payload)
    routine = compiler.routine(script)
    if not compiler.mistakes and routine.most_fills < 1:
        operations = len(routine.once) + len(routine.each_pass) + _FRAME
        most = f"a job has at most {MOST_OPERATIONS}"
        compiler.mistakes.append(Mistake(NOWHERE, f"comes to {operations} operations", most))
    if compiler.mistakes:
        raise mistakes_error(script.path, compiler.mistakes)
    return routine


class _Compiler:
    def __init__(self, payload: Payload) -> None:
        self.mistakes: list[Mistake] = []
        self._payload = payload
        labels = {name: address for address, name in payload.labels}
        places = {"entry": payload.entry, "begin": payload.begin, "end": payload.end}
        self._names = {**labels, **places, **CONSTANTS}
        if payload.interrupts:
            for name in ("el1h", "el0t"):
                self._names[name] &= ~PSTATE_I

    def routine(self, script: Script) -> Routine:
        """With interrupts: L2's own set-up first, and after each pass what it has begun to handle.

        A pass may end in the midst of a handler, and the next sets PC.
        """
        once, each_pass = self.operations(script.once), self.operations(script.each_pass)
        interrupts = self._payload.interrupts
        if interrupts is None:
            return Routine(once, each_pass)
        setup = Operation(OperationCode.CALL, a=interrupts.setup)
        return Routine((setup, *once), (*each_pass, Operation(OperationCode.CALL)))

    def operations(self, statements: Iterable[Statement]) -> tuple[Operation, ...]:
        return tuple(operation for one in statements for operation in self._operations(one))

    def _operations(self, statement: Statement) -> Iterator[Operation]:
        if isinstance(statement, On | Repeat):
            body = self.operations(statement.body)
            if isinstance(statement, On):
                yield Operation(OperationCode.ON, a=len(body), kind=statement.occasion)
            else:
                yield Operation(OperationCode.REPEAT, n=statement.times, a=len(body))
            yield from body
        else:
            yield self._operation(statement)

    def _operation(self, statement: Statement) -> Operation:  # noqa: PLR0911 - a table
        match statement:
            case Set(kind, register, value):
                return Operation(
                    OperationCode.SET_REG, a=REGISTERS[register], b=self._value(value), kind=kind
                )
            case Get(register):
                return Operation(OperationCode.GET_REG, a=REGISTERS[register])
            case Expect(register, value):
                return Operation(
                    OperationCode.GET_REG,
                    a=REGISTERS[register],
                    b=self._value(value),
                    kind=ReadKind.EXPECTED,
                )
            case Debug(control, None):
                return Operation(OperationCode.DEBUG, n=control)
            case Debug(control, Value() as where):
                bcr = CONSTANTS["bcr_el1"]
                return Operation(OperationCode.DEBUG, n=control, a=self._value(where), b=bcr)
            case Write(address, word):
                return Operation(OperationCode.WRITE, a=self._address(address), b=self._word(word))
            case Restore(address):
                there = self._address(address)
                return Operation(OperationCode.WRITE, a=there, b=self._own_word(there))
            case Run(reason):
                return Operation(OperationCode.RUN, a=reason)
            case Step(reports, until):
                end = self._payload.end if until is None else self._value(until)
                longer = reports == STEPS_PER_PASS and self._payload.interrupts is not None
                most = reports * LONGER_WITH_INTERRUPTS if longer else reports
                return Operation(OperationCode.STEP, n=most, a=end)
        return Operation(_BARE[type(statement)])

    def _value(self, value: Value) -> int:
        result = self._term(value.first)
        for joint, term in value.rest:
            result = result + self._term(term) if joint == "+" else result | self._term(term)
        if result > LARGEST_VALUE:
            self._mistake(value, f"{value} is {result:#x}, which does not fit into 64 bits")
        return result

    def _term(self, term: Term) -> int:
        if isinstance(term.what, int):
            return term.what
        if term.what not in self._names:
            problem = f"the payload {self._payload.name} has no label {term.what!r}"
            remedy = suggestion(term.what, self._names)
            self.mistakes.append(Mistake(term.at, problem, remedy))
        return self._names.get(term.what, 0)

    def _address(self, value: Value) -> int:
        known, address = len(self.mistakes), self._value(value)
        begin = self._payload.load_address
        last = begin + MEMORY_BYTES - WORD_BYTES
        if not begin <= address <= last and len(self.mistakes) == known:
            remedy = f"a word there lies at {begin:#x} to {last:#x}"
            self._mistake(value, f"{value} is {address:#x}, outside of L2's memory", remedy)
        return address

    def _word(self, value: Value) -> int:
        known, word = len(self.mistakes), self._value(value)
        if word > LARGEST_WORD and len(self.mistakes) == known:
            self._mistake(value, f"{value} is {word:#x}, which does not fit into 32 bits")
        return word

    def _own_word(self, address: int) -> int:
        """What the payload has there: zeroes after its last byte."""
        offset = address - self._payload.load_address
        return int.from_bytes(self._payload.blob[offset : offset + WORD_BYTES], "little")

    def _mistake(self, value: Value, problem: str, remedy: str = "") -> None:
        self.mistakes.append(Mistake(value.at, problem, remedy))


_BARE: dict[type[Statement], OperationCode] = {
    Kick: OperationCode.KICK,
    Init: OperationCode.VCPU_INIT,
    Unmap: OperationCode.UNMAP,
}
