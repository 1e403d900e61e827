"""The state rules: every case by hand, and arrays against the reference model at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from reference_model import PC_VALUES, SS, Read, read_slowly
from streams import (
    BASE,
    BRK,
    DBGBVR0,
    DBGWCR3,
    EL0,
    EL1H,
    ENABLED_ONLY,
    ERET,
    HVC,
    MRS,
    MSR_DBGBVR0,
    MSR_MDSCR,
    MSR_SP_EL0,
    NOP,
    SVC,
    UDF,
    X8,
    Bug,
    Garbage,
    Simulated,
    Stream,
    code_of,
    debug,
    eintr,
    executes,
    garbage,
    irq,
    phantom,
    simulations,
    sync,
    tables_of,
)

from qemu_diff.abi import REGISTER_MDSCR_EL1, REGISTER_PSTATE, ExceptionClass, RecordKind
from qemu_diff.compare.slices import UNKNOWN_PC
from qemu_diff.compare.state import (
    EXEMPTIONS,
    NO_READS,
    REGISTERS,
    StateReads,
    join_reads,
    state_reads,
)
from qemu_diff.errors import CorruptDataError
from qemu_diff.model import ViolationKind

EXAMPLES = 150
MDSCR = REGISTER_MDSCR_EL1

WORDS = (NOP, NOP, MRS, NOP, SVC, ERET, UDF, BRK, HVC, MSR_MDSCR, MSR_DBGBVR0, MSR_SP_EL0, NOP)
A = BASE
AT_MRS, AT_SVC, AT_ERET, AT_UDF, AT_BRK, AT_HVC, AT_MSR_MDSCR, AT_MSR_DBGBVR0, AT_MSR_SP_EL0 = (
    BASE + 4 * WORDS.index(word)
    for word in (MRS, SVC, ERET, UDF, BRK, HVC, MSR_MDSCR, MSR_DBGBVR0, MSR_SP_EL0)
)
OUTSIDE = BASE + 4 * len(WORDS)
AT_VECTORS = BASE - 0x800
IRQ_BASE = BASE + 0x1000
"""VBAR_EL1 while L2 takes interrupts: beside its own vectors."""
SET, CLEAR = EL1H | SS, EL1H

Oracle = Callable[[Stream], list[Read]]


def by_arrays(stream: Stream) -> list[Read]:
    program = tables_of(WORDS, AT_VECTORS, IRQ_BASE)
    return as_reads(state_reads(stream.records, stream.truth, stream.phantom, program))


def by_model(stream: Stream) -> list[Read]:
    code = code_of(WORDS, AT_VECTORS, IRQ_BASE)
    return read_slowly(list(stream.records), list(stream.truth), stream.phantom.tolist(), code)


def as_reads(state: StateReads) -> list[Read]:
    """As the reference model says it."""
    reads = [
        Read(
            record=int(state.record[index]),
            run=int(state.run[index]),
            pc=None if state.pc[index] == UNKNOWN_PC else int(state.pc[index]) % PC_VALUES,
            register=int(state.register[index]),
            read=int(state.read[index]),
            own=int(state.own[index]),
            origin=int(state.origin[index]),
            stepping=bool(state.stepping[index]),
        )
        for index in range(len(state))
    ]
    return sorted(reads, key=lambda one: one.record)


@pytest.fixture(params=[by_arrays, by_model])
def oracle(request: pytest.FixtureRequest) -> Oracle:
    found: Oracle = request.param
    return found


@dataclass(frozen=True)
class Case:
    """A stream by hand, and (read, own value) of each read that is held against one."""

    name: str
    stream: Stream
    held: tuple[tuple[int, int], ...]


def case(name: str, stream: Stream, *held: tuple[int, int]) -> Case:
    return Case(name, stream, held)


def stepping(pstate: int, pc: int = A) -> Stream:
    return Stream().step_on().set_pstate(pstate).set_pc(pc)


def one_step(stream: Stream, pstate: int, pc: int = A) -> Stream:
    """A step of a plain instruction, after which user space reads ``pstate``."""
    return stream.run(executes(pc), sync(), debug(pc + 4), pstate=pstate)


PSTATE_SS = (
    case("own 0, read 0", one_step(stepping(CLEAR), CLEAR), (0, 0)),
    case("own 0, read 1", one_step(stepping(CLEAR), SET), (1, 0)),
    case("own 1, read 1", one_step(stepping(SET), SET), (1, 1)),
    case("own 1, read 0", one_step(stepping(SET), CLEAR), (0, 1)),
    case("other bits of PSTATE are not looked at", one_step(stepping(EL0 | SS), SET), (1, 1)),
    case("never written", one_step(Stream().step_on().set_pc(A), SET)),
    case(
        "never written, but read before anything ran",
        one_step(Stream().read(REGISTER_PSTATE, SET).step_on().set_pc(A), CLEAR),
        (0, 1),
    ),
    case(
        "read twice before anything ran: the second is held against the first",
        Stream().read(REGISTER_PSTATE, SET).read(REGISTER_PSTATE, CLEAR),
        (0, 1),
    ),
    case(
        "first read after something ran",
        one_step(Stream().step_on().set_pc(A), SET).read(REGISTER_PSTATE, SET)
        .run(eintr(A + 4), pstate=CLEAR),
    ),
    case(
        "after a signal, stepping",
        stepping(CLEAR).run(irq(), eintr(A), pstate=SET),
        (1, 0),
    ),
    case("after a kick", stepping(CLEAR).kick(A), (0, 0)),
    case(
        "the job reads it after stepping is off",
        one_step(stepping(CLEAR), CLEAR).step_off().read(REGISTER_PSTATE, SET),
        *((0, 0), (1, 0)),
    ),
    case(
        "written again: the last counts",
        one_step(stepping(CLEAR).set_pstate(SET), SET),
        (1, 1),
    ),
    case(
        "written in mid-step",
        stepping(CLEAR)
        .run(executes(A), irq(), eintr(A + 4), pstate=CLEAR)
        .set_pstate(SET)
        .run(phantom(A + 4), sync(), debug(A + 4), pstate=CLEAR),
        *((0, 0), (0, 1)),
    ),
    case(
        "a trapped and emulated instruction is no excuse",
        stepping(SET, AT_MRS).run(executes(AT_MRS), sync(), eintr(AT_MRS + 4), pstate=CLEAR),
        (0, 1),
    ),
    case(
        "HVC is no excuse",
        stepping(SET, AT_HVC)
        .run(executes(AT_HVC), sync(), phantom(AT_HVC + 4), sync(), debug(AT_HVC + 4),
             pstate=CLEAR),
        (0, 1),
    ),
    case(
        "ERET may change it, for good",
        stepping(SET, AT_ERET)
        .run(executes(AT_ERET), sync(), debug(A), pstate=CLEAR)
        .run(executes(A), sync(), debug(A + 4), pstate=SET),
    ),
    case(
        "what is written after ERET counts again",
        one_step(
            stepping(SET, AT_ERET)
            .run(executes(AT_ERET), sync(), debug(A), pstate=CLEAR)
            .set_pstate(CLEAR),
            SET,
        ),
        (1, 0),
    ),
    case(
        "an ERET that is only shown, not executed",
        stepping(SET, AT_ERET).run(phantom(AT_ERET), sync(), debug(AT_ERET), pstate=CLEAR),
        (0, 1),
    ),
    case(
        "SVC changes it",
        stepping(SET, AT_SVC).run(executes(AT_SVC), sync(), debug(AT_SVC), pstate=CLEAR),
    ),
    case(
        "UDF changes it",
        stepping(SET, AT_UDF).run(executes(AT_UDF), sync(), debug(AT_UDF), pstate=CLEAR),
    ),
    case(
        "BRK that is reported does not",
        stepping(SET, AT_BRK)
        .run(executes(AT_BRK), sync(), debug(AT_BRK, ExceptionClass.BRK), pstate=CLEAR),
        (0, 1),
    ),
    case(
        "BRK that is not reported went elsewhere",
        stepping(SET, AT_BRK).run(executes(AT_BRK), irq(), eintr(AT_BRK), pstate=CLEAR),
    ),
    case(
        "an instruction that nobody knows",
        stepping(SET, OUTSIDE).run(executes(OUTSIDE), sync(), debug(OUTSIDE + 4), pstate=CLEAR),
    ),
    case(
        "L2 executes at its IRQ vector: it has taken an exception",
        stepping(SET).run(phantom(AT_VECTORS + 0x280), sync(), debug(A), pstate=CLEAR),
    ),
    case(
        "user space sees L2 at its IRQ vector",
        stepping(SET).run(irq(), eintr(AT_VECTORS + 0x280), pstate=CLEAR),
    ),
    case(
        "user space sees L2 at the vector of an interrupt that it takes",
        stepping(SET).run(irq(), eintr(IRQ_BASE + 0x280), pstate=CLEAR),
    ),
    case(
        "L2 shows itself at the vector of an interrupt that it takes from EL0",
        stepping(SET).run(phantom(IRQ_BASE + 0x480), irq(), eintr(A), pstate=CLEAR),
    ),
    case(
        "beside the vector of an interrupt",
        stepping(SET).run(irq(), eintr(IRQ_BASE + 0x284), pstate=CLEAR),
        (0, 1),
    ),
    case(
        "beside a vector",
        stepping(SET).run(irq(), eintr(AT_VECTORS + 0x284), pstate=CLEAR),
        (0, 1),
    ),
    case(
        "behind the vectors",
        stepping(SET, AT_VECTORS + 0x800).run(irq(), eintr(AT_VECTORS + 0x800), pstate=CLEAR),
        (0, 1),
    ),
    case(
        "what L2 executes unstepped is its own affair",
        Stream().set_pstate(CLEAR).set_pc(A).run(executes(A), irq(), eintr(A + 4), pstate=SET),
    ),
    case(
        "unstepped, nothing executed: a 1 is cleared at the entry",
        Stream().set_pstate(SET).set_pc(A).run(irq(), eintr(A), pstate=CLEAR)
        .run(irq(), eintr(A), pstate=SET),
    ),
    case(
        "unstepped, nothing executed: a 0 stays",
        Stream().set_pstate(CLEAR).set_pc(A).run(irq(), eintr(A), pstate=SET),
        (1, 0),
    ),
    case(
        "unstepped, kicked: L2 was not entered",
        Stream().set_pstate(SET).set_pc(A).kick(A),
        (1, 1),
    ),
    case(
        "enabled without single-step is unstepped",
        Stream().control(ENABLED_ONLY).set_pstate(SET).set_pc(A)
        .run(executes(A), irq(), eintr(A + 4), pstate=CLEAR),
    ),
    case(
        "a reset clears it",
        one_step(stepping(SET).vcpu_init().set_pc(A), SET),
        (1, 0),
    ),
    case(
        "a reset makes it known",
        one_step(Stream().vcpu_init().step_on().set_pc(A), SET),
        (1, 0),
    ),
)  # fmt: skip

DEBUG_REGISTERS = (
    case(
        "MDSCR_EL1 as written",
        one_step(stepping(CLEAR).set_register(MDSCR, 0), CLEAR).read(MDSCR, 0),
        *((0, 0), (0, 0)),
    ),
    case(
        "MDSCR_EL1 shows KVM's SS",
        one_step(stepping(CLEAR).set_register(MDSCR, 0), CLEAR).read(MDSCR, 1),
        *((0, 0), (1, 0)),
    ),
    case(
        "MDSCR_EL1 was never told",
        one_step(stepping(CLEAR), CLEAR).read(MDSCR, 1).read(MDSCR, 0),
        (0, 0),
    ),
    case(
        "MDSCR_EL1, first read before anything ran",
        one_step(stepping(CLEAR).read(MDSCR, 0), CLEAR).read(MDSCR, 1),
        *((0, 0), (1, 0)),
    ),
    case(
        "MDSCR_EL1 after a reset",
        stepping(CLEAR).set_register(MDSCR, 1).vcpu_init().read(MDSCR, 1),
        (1, 0),
    ),
    case(
        "L2 writes MDSCR_EL1",
        stepping(CLEAR, AT_MSR_MDSCR).set_register(MDSCR, 0)
        .run(executes(AT_MSR_MDSCR), sync(), debug(AT_MSR_MDSCR + 4))
        .read(MDSCR, 1),
        (0, 0),
    ),
    case(
        "a write of L2's that is only shown, not executed",
        stepping(CLEAR, AT_MSR_MDSCR).set_register(MDSCR, 0)
        .run(phantom(AT_MSR_MDSCR), sync(), debug(AT_MSR_MDSCR))
        .read(MDSCR, 1),
        *((0, 0), (1, 0)),
    ),
    case(
        "L2 writes another register",
        stepping(CLEAR, AT_MSR_DBGBVR0).set_register(MDSCR, 0)
        .run(executes(AT_MSR_DBGBVR0), sync(), debug(AT_MSR_DBGBVR0 + 4))
        .read(MDSCR, 1),
        *((0, 0), (1, 0)),
    ),
    case(
        "L2 executes what nobody knows",
        stepping(CLEAR, OUTSIDE).set_register(MDSCR, 0)
        .run(executes(OUTSIDE), sync(), debug(OUTSIDE + 4))
        .read(MDSCR, 1),
    ),
    case(
        "an unstepped write of L2's",
        Stream().set_register(MDSCR, 0).set_pc(AT_MSR_MDSCR)
        .run(executes(AT_MSR_MDSCR), irq(), eintr(AT_MSR_MDSCR + 4)).read(MDSCR, 1),
    ),
    case(
        "a breakpoint register shows the host's",
        stepping(CLEAR).set_register(DBGBVR0, 0x1000).kick(A).read(DBGBVR0, 0x5A5A_0000),
        *((0, 0), (0x5A5A_0000, 0x1000)),
    ),
    case(
        "a watchpoint register as written",
        stepping(CLEAR).set_register(DBGWCR3, 7).kick(A).read(DBGWCR3, 7),
        *((0, 0), (7, 7)),
    ),
    case(
        "L2 writes the breakpoint register",
        stepping(CLEAR, AT_MSR_DBGBVR0).set_register(DBGBVR0, 1)
        .run(executes(AT_MSR_DBGBVR0), sync(), debug(AT_MSR_DBGBVR0 + 4)).read(DBGBVR0, 5),
        (0, 0),
    ),
    case(
        "breakpoint registers are UNKNOWN at reset",
        stepping(CLEAR).set_register(DBGBVR0, 1).vcpu_init().read(DBGBVR0, 5),
    ),
    case(
        "all 64 bits count",
        stepping(CLEAR).set_register(DBGBVR0, 0).kick(A).read(DBGBVR0, 1 << 63),
        *((0, 0), (1 << 63, 0)),
    ),
    case("other registers have no rule", stepping(CLEAR).set_register(X8, 1).read(X8, 2)),
    case("nothing", Stream()),
)  # fmt: skip


@pytest.mark.parametrize("one", [*PSTATE_SS, *DEBUG_REGISTERS], ids=lambda one: one.name)
def test_reads(oracle: Oracle, one: Case) -> None:
    assert tuple((read.read, read.own) for read in oracle(one.stream)) == one.held


def test_no_two_cases_have_one_name() -> None:
    names = [one.name for one in (*PSTATE_SS, *DEBUG_REGISTERS)]
    assert len(set(names)) == len(names)


def test_a_read_says_where_and_against_what(oracle: Oracle) -> None:
    stream = (
        one_step(Stream().step_on().set_pc(A).kick(A).set_pstate(CLEAR), CLEAR)
        .step_off()
        .set_register(MDSCR, 4)
        .note(RecordKind.PASS)
        .read(MDSCR, 5)
    )
    step, read = oracle(stream)
    assert step == Read(4, 1, A + 4, REGISTER_PSTATE, 0, 0, origin=3, stepping=True)
    assert read == Read(8, 1, A + 4, MDSCR, 5, 4, origin=6, stepping=False)


def test_before_everything_nobody_knows_where_l2_stands(oracle: Oracle) -> None:
    (read,) = oracle(Stream().set_register(MDSCR, 0).read(MDSCR, 1))
    assert (read.run, read.pc) == (-1, None)


def test_the_job_s_pc_is_where_l2_stands(oracle: Oracle) -> None:
    (read,) = oracle(Stream().set_register(MDSCR, 0).set_pc(A).read(MDSCR, 1))
    assert read.pc == A


# --- kinds, names and parts ---


def test_registers_have_names() -> None:
    assert REGISTERS[REGISTER_PSTATE] == "PSTATE.SS"
    assert REGISTERS[MDSCR] == "MDSCR_EL1"
    assert REGISTERS[DBGBVR0] == "DBGBVR0_EL1"
    assert REGISTERS[DBGWCR3] == "DBGWCR3_EL1"
    assert len(REGISTERS) == 2 + 4 * 16


@pytest.mark.parametrize(
    ("register", "read", "expected", "kind"),
    [
        (REGISTER_PSTATE, SS, True, ViolationKind.SS_LEAK),
        (REGISTER_PSTATE, 1 << 30, True, ViolationKind.STATE_MISMATCH),
        (REGISTER_PSTATE, SS | 1, True, ViolationKind.STATE_MISMATCH),
        (REGISTER_PSTATE, 1, True, ViolationKind.STATE_MISMATCH),
        (REGISTER_PSTATE, 1, False, ViolationKind.SS_LEAK),
        (MDSCR, 1, False, ViolationKind.STATE_MISMATCH),
        (MDSCR, SS, True, ViolationKind.STATE_MISMATCH),
    ],
)
def test_kinds(register: int, read: int, expected: bool, kind: ViolationKind) -> None:
    """A job names the whole of PSTATE; what else is known of it is SS alone, 0 or 1."""
    one = np.array([7])
    value, none = np.array([read], np.uint64), np.array([0], np.uint64)
    origin = one if expected else one - 1
    off = np.array([False])
    state = StateReads(one, one, one, np.array([register]), value, none, origin, off)
    assert state.kinds(slice(None)) == [kind]
    assert state.kinds(state.broken) == [kind]


def test_every_exemption_has_a_source() -> None:
    assert all(one.source for one in EXEMPTIONS)
    assert {one.name for one in EXEMPTIONS} == {"eret", "svc", "undefined", "brk"}


def test_parts_are_joined_in_order() -> None:
    program = tables_of(WORDS)
    parts = [
        state_reads(stream.records, stream.truth, stream.phantom, program)
        for stream in (one_step(stepping(CLEAR), SET), one_step(stepping(SET), SET))
    ]
    whole = join_reads([parts[0], NO_READS, parts[1]])
    assert whole.read.tolist() == [1, 1]
    assert whole.broken.tolist() == [True, False]
    assert [getattr(whole, name).dtype for name in ("record", "own", "stepping")] == [
        np.int64,
        np.uint64,
        np.bool_,
    ]


# --- at random ---


def of_simulation(oracle: str, one: Simulated) -> list[Read]:
    stream = one.stream
    if oracle == "arrays":
        program = tables_of(one.words, BASE, one.irq_base)
        return as_reads(state_reads(stream.records, stream.truth, stream.phantom, program))
    code = code_of(one.words, BASE, one.irq_base)
    return read_slowly(list(stream.records), list(stream.truth), stream.phantom.tolist(), code)


@settings(max_examples=EXAMPLES, deadline=None)
@given(simulations([Bug.NONE, Bug.REARMS, Bug.DROPS_REPORT]))
def test_a_kernel_that_keeps_state_violates_nothing(one: Simulated) -> None:
    assert [read for read in of_simulation("arrays", one) if read.read != read.own] == []


@settings(max_examples=2 * EXAMPLES, deadline=None)
@given(simulations([Bug.LEAKS_SS, Bug.CLEARS_SS, Bug.LEAKS_MDSCR]))
def test_what_is_called_a_leak_is_one(one: Simulated) -> None:
    told = {read.record: read.read != read.own for read in of_simulation("arrays", one)}
    assert {record for record, broken in told.items() if broken} == one.leaks & set(told)


@settings(max_examples=EXAMPLES, deadline=None)
@given(simulations(list(Bug)))
def test_arrays_and_model_agree_on_simulations(one: Simulated) -> None:
    assert of_simulation("arrays", one) == of_simulation("model", one)


@settings(max_examples=2 * EXAMPLES, deadline=None)
@given(garbage())
def test_arrays_and_model_agree_on_garbage(one: Garbage) -> None:
    records, truth = one.records, one.truth
    try:
        program = tables_of(one.words, one.vectors, one.irq_base)
        arrays = as_reads(state_reads(records, truth, one.phantom, program))
    except CorruptDataError:
        arrays = None
    try:
        code = code_of(one.words, one.vectors, one.irq_base)
        model = read_slowly(list(records), list(truth), one.phantom.tolist(), code)
    except CorruptDataError:
        model = None
    assert arrays == model
