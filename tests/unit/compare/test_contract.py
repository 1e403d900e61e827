"""The step contract: every case by hand, and arrays against the reference model at random."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray
from reference_model import (
    LOST_STEP,
    OK,
    PC_VALUES,
    SPURIOUS_STEP,
    WRONG_PC,
    Report,
    judge_slowly,
)
from streams import (
    ADD,
    BASE,
    BRK,
    EL0,
    EL1H,
    EL1T,
    ENABLED_ONLY,
    ERET,
    FMOV,
    HVC,
    IRQ_MASK,
    LDR,
    MRS,
    NOP,
    SMC,
    STEPPING_ON,
    SUB,
    SVC,
    UDF,
    WITH_HARDWARE,
    X8,
    Bug,
    Garbage,
    Return,
    Simulated,
    Stream,
    TruthRow,
    at_vector,
    b,
    b_cond,
    bl,
    br,
    cbz,
    code_of,
    debug,
    eintr,
    executes,
    garbage,
    hypercall,
    irq,
    learns_vectors,
    leaves_through,
    marks,
    mmio,
    phantom,
    redirected,
    simulations,
    sync,
    tables_of,
    tbz,
)

from qemu_diff.abi import (
    KVM_EXIT_DEBUG,
    REGISTER_PSTATE,
    STEP_RECORD,
    TRUTH_RECORD,
    ExceptionClass,
    Mark,
    RecordKind,
    StepRecords,
    TruthRecords,
)
from qemu_diff.compare.contract import Judged, judge
from qemu_diff.compare.decode import NO_SUCCESSOR
from qemu_diff.compare.slices import UNKNOWN_PC, executed_in, executions, group_slices, slice_truth
from qemu_diff.errors import CorruptDataError
from qemu_diff.model import ViolationKind

EXAMPLES = 150

WORDS = (
    *(NOP, NOP, ADD, NOP),
    *(HVC, NOP, NOP),
    *(MRS, NOP, NOP),
    *(LDR, NOP, FMOV, NOP),
    b(0),
    *(b(8), NOP, NOP),
    *(bl(8), NOP, NOP),
    *(b_cond(8), NOP, NOP),
    *(cbz(8), NOP, NOP),
    *(tbz(8), NOP, NOP),
    *(br(), NOP, NOP),
    *(BRK, NOP, SMC, NOP),
    *(ERET, NOP),
    *(SVC, NOP, UDF, NOP),
    *(SUB, SUB, NOP, NOP),
)
"""The program of the streams by hand. After each instruction come enough plain ones to go wrong."""


def _at(word: int) -> int:
    return BASE + 4 * WORDS.index(word)


A = BASE
AT_HVC, AT_MRS, AT_LDR, AT_FMOV = (_at(word) for word in (HVC, MRS, LDR, FMOV))
AT_B, AT_BL, AT_B_COND = (_at(encode(8)) for encode in (b, bl, b_cond))
AT_CBZ, AT_TBZ, AT_BR = _at(cbz(8)), _at(tbz(8)), _at(br())
AT_BRK, AT_SMC, AT_ERET, ITSELF = (_at(word) for word in (BRK, SMC, ERET, b(0)))
AT_SVC, AT_UDF = _at(SVC), _at(UDF)
OUTSIDE = BASE + 4 * len(WORDS)
AT_VECTORS = BASE - 0x800
IRQ_FROM_EL1H = _at(SUB)
IRQ_BASE = IRQ_FROM_EL1H - 0x280
IRQ_FROM_EL0 = IRQ_BASE + 0x480
BASES = AT_VECTORS, IRQ_BASE
"""The vectors for interrupts: the one for EL1h lies in the program."""
FROM_EL1T, FROM_EL1H, FROM_EL0 = AT_VECTORS, AT_VECTORS + 0x200, AT_VECTORS + 0x400

BREAKPOINT, WATCHPOINT = ExceptionClass.BREAKPOINT, ExceptionClass.WATCHPOINT
BREAK_INSTRUCTION = ExceptionClass.BRK
HIGHEST_PC = PC_VALUES - 1


Bases = tuple[int | None, int | None]
"""VBAR_EL1: of the payload itself, and while it takes interrupts."""
NO_VECTORS: Bases = (None, None)


class Oracle(Protocol):
    """Something that judges."""

    def __call__(
        self,
        records: StepRecords,
        truth: TruthRecords,
        phantoms: NDArray[np.bool_],
        words: Sequence[int],
        bases: Bases = NO_VECTORS,
    ) -> list[Report]: ...


def judged_by_arrays(
    records: StepRecords,
    truth: TruthRecords,
    phantoms: NDArray[np.bool_],
    words: Sequence[int],
    bases: Bases = NO_VECTORS,
) -> list[Report]:
    """What ``judge`` says, as the reference model says it."""
    program = tables_of(words, *bases)
    steps = judge(records, truth, phantoms, program)
    groups = group_slices(records)
    done = executions(truth, phantoms, slice_truth(records, truth, groups), program)
    group_of_run = groups.of_run
    return [
        Report(
            run=int(steps.run[index]),
            outcome=_name(Judged(int(steps.outcome[index]))),
            executed=_unsigned(executed_in(done, int(group_of_run[steps.run[index]]))),
            previous_pc=_known(int(steps.previous_pc[index])),
            reported_pc=int(steps.reported_pc[index]) % PC_VALUES,
            active_pending=bool(steps.active_pending[index]),
            irq_exits=int(steps.irq_exits[index]),
            redirects=int(steps.redirects[index]),
        )
        for index in range(len(steps))
    ]


def judged_by_model(
    records: StepRecords,
    truth: TruthRecords,
    phantoms: NDArray[np.bool_],
    words: Sequence[int],
    bases: Bases = NO_VECTORS,
) -> list[Report]:
    """What the reference model says."""
    code = code_of(words, *bases)
    return judge_slowly(list(records), list(truth), phantoms.tolist(), code)


def judged(oracle: Oracle, stream: Stream) -> list[Report]:
    """What an oracle says about a stream by hand."""
    return oracle(stream.records, stream.truth, stream.phantom, WORDS, BASES)


def _name(outcome: Judged) -> str:
    return OK if outcome is Judged.OK else outcome.violation.value


def _unsigned(pcs: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(pc % PC_VALUES for pc in pcs)


def _known(pc: int) -> int | None:
    return None if pc == UNKNOWN_PC else pc % PC_VALUES


@pytest.fixture(params=[judged_by_arrays, judged_by_model])
def oracle(request: pytest.FixtureRequest) -> Oracle:
    """Both judges, one after the other: a stream by hand holds the model to account too."""
    found: Oracle = request.param
    return found


@dataclass(frozen=True)
class Case:
    """A stream by hand, and the outcome of each judged report."""

    name: str
    stream: Stream
    outcomes: tuple[str, ...]


def case(name: str, stream: Stream, *outcomes: str) -> Case:
    """A case; without outcomes, nothing is judged."""
    return Case(name, stream, outcomes)


def stepping(pc: int = A) -> Stream:
    """Stepping is on, and L2 stands at ``pc``."""
    return Stream().step_on().set_pc(pc)


def stepped(*pcs: int) -> Stream:
    """Each of these PCs is executed and reported as the next."""
    stream = stepping(pcs[0])
    for pc, following in pairwise(pcs):
        stream.run(executes(pc), sync(), debug(following))
    return stream


# --- plain instructions --------------------------------------------------------------------------

PLAIN = (
    case("three steps", stepped(A, A + 4, A + 8, A + 12), OK, OK, OK),
    case(
        "async-first, a correct kernel: the interrupt, then the step exception",
        stepping().run(executes(A), irq(), phantom(A + 4), sync(), debug(A + 4)),
        OK,
    ),
    case(
        "async-first, an unfixed kernel: the interrupt, then another instruction",
        stepping().run(executes(A), irq(), executes(A + 4), sync(), debug(A + 8)),
        LOST_STEP,
    ),
    case(
        "async-first twice, a correct kernel",
        stepping().run(executes(A), irq(), irq(), phantom(A + 4), sync(), debug(A + 4)),
        OK,
    ),
    case(
        "two steps lost at once",
        stepping().run(
            executes(A), irq(), executes(A + 4), irq(), executes(A + 8), sync(), debug(A + 12)
        ),
        LOST_STEP,
    ),
    case(
        "an interrupt before the instruction",
        stepping().run(irq(), executes(A), sync(), debug(A + 4)),
        OK,
    ),
    case(
        "a lost step spoils no other",
        stepping()
        .run(executes(A, A + 4), sync(), debug(A + 8))
        .run(executes(A + 8), sync(), debug(A + 12)),
        *(LOST_STEP, OK),
    ),
    case("the wrong PC, too far", stepping().run(executes(A), sync(), debug(A + 8)), WRONG_PC),
    case("the wrong PC, not on", stepping().run(executes(A), sync(), debug(A)), WRONG_PC),
    case(
        "the wrong PC, outside",
        stepping().run(executes(A), sync(), debug(A + 0x10_0000)),
        WRONG_PC,
    ),
    case(
        "the wrong PC, all ones",
        stepping().run(executes(A), sync(), debug(HIGHEST_PC)),
        WRONG_PC,
    ),
    case(
        "the wrong PC, all ones, after a branch",
        stepping(AT_B).run(executes(AT_B), sync(), debug(HIGHEST_PC)),
        WRONG_PC,
    ),
    case("the job writes all ones to PC",
        stepped(A, A + 4).set_pc(HIGHEST_PC).run(executes(A + 4), sync(), debug(A + 8)),
        *(OK, WRONG_PC),
    ),
    case(
        "an instruction outside of the program",
        stepping(OUTSIDE).run(executes(OUTSIDE), sync(), debug(OUTSIDE + 4)),
        WRONG_PC,
    ),
    case(
        "an instruction outside of the program, the report inside",
        stepping(OUTSIDE).run(executes(OUTSIDE), sync(), debug(A + 4)),
        WRONG_PC,
    ),
    case(
        "the wrong PC, the number that stands for no target",
        stepping().run(executes(A), sync(), debug(NO_SUCCESSOR % PC_VALUES)),
        WRONG_PC,
    ),
    case(
        "the wrong PC, the number that stands for no fall-through",
        stepping(AT_B).run(executes(AT_B), sync(), debug(NO_SUCCESSOR % PC_VALUES)),
        WRONG_PC,
    ),
    case(
        "an instruction before the program",
        stepping(BASE - 4).run(executes(BASE - 4), sync(), debug(BASE)),
        WRONG_PC,
    ),
    case(
        "an instruction between two words",
        stepping(A + 2).run(executes(A + 2), sync(), debug(A + 6)),
        WRONG_PC,
    ),
)  # fmt: skip

# --- nothing executed ----------------------------------------------------------------------------

SPURIOUS = (
    case("without an entry", stepping().run(debug(A)), SPURIOUS_STEP),
    case("entered in Active-pending", stepping().run(phantom(A), sync(), debug(A)), SPURIOUS_STEP),
    case("after an interrupt", stepping().run(irq(), debug(A)), SPURIOUS_STEP),
    case("whatever the PC is", stepping().run(phantom(A), sync(), debug(A + 4)), SPURIOUS_STEP),
    case(
        "a report twice",
        stepped(A, A + 4).run(phantom(A + 4), sync(), debug(A + 4)),
        *(OK, SPURIOUS_STEP),
    ),
    case(
        "a report of no known exception class",
        stepping().run(debug(A, 0x3F)),
        SPURIOUS_STEP,
    ),
)

# --- instructions that leave L2 by themselves ----------------------------------------------------

EXITS = (
    case(
        "HVC, an unfixed kernel: the next instruction too",
        stepping(AT_HVC).run(
            executes(AT_HVC), sync(), executes(AT_HVC + 4), sync(), debug(AT_HVC + 8)
        ),
        LOST_STEP,
    ),
    case(
        "HVC, executed twice",
        stepping(AT_HVC).run(
            executes(AT_HVC), sync(), executes(AT_HVC), sync(), phantom(AT_HVC + 4), sync(),
            debug(AT_HVC + 4),
        ),
        LOST_STEP,
    ),
    case(
        "HVC, a correct kernel: a phantom, not counted",
        stepping(AT_HVC).run(
            executes(AT_HVC), sync(), phantom(AT_HVC + 4), sync(), debug(AT_HVC + 4)
        ),
        OK,
    ),
    case(
        "HVC, a correct kernel, an interrupt at the Active-pending entry",
        stepping(AT_HVC).run(
            executes(AT_HVC), sync(), irq(), phantom(AT_HVC + 4), sync(), debug(AT_HVC + 4)
        ),
        OK,
    ),
    case(
        "SMC, a correct kernel",
        stepping(AT_SMC).run(
            executes(AT_SMC), sync(), phantom(AT_SMC + 4), sync(), debug(AT_SMC + 4)
        ),
        OK,
    ),
    case(
        "HVC to user space: the slices are one step",
        stepping(AT_HVC)
        .run(executes(AT_HVC), sync(), hypercall(AT_HVC + 4))
        .run(phantom(AT_HVC + 4), sync(), debug(AT_HVC + 4)),
        OK,
    ),
    case(
        "HVC to user space, and the step is lost",
        stepping(AT_HVC)
        .run(executes(AT_HVC), sync(), hypercall(AT_HVC + 4))
        .run(executes(AT_HVC + 4), sync(), debug(AT_HVC + 8)),
        LOST_STEP,
    ),
    case(
        "a trapped MRS, quiet",
        stepping(AT_MRS).run(
            executes(AT_MRS), sync(), phantom(AT_MRS + 4), sync(), debug(AT_MRS + 4)
        ),
        OK,
    ),
    case(
        "a trapped MRS, an interrupt at the Active-pending entry, a correct kernel",
        stepping(AT_MRS).run(
            executes(AT_MRS), sync(), irq(), phantom(AT_MRS + 4), sync(), debug(AT_MRS + 4)
        ),
        OK,
    ),
    case(
        "a trapped MRS, an interrupt at the Active-pending entry, an unfixed kernel",
        stepping(AT_MRS).run(
            executes(AT_MRS), sync(), irq(), executes(AT_MRS + 4), sync(), debug(AT_MRS + 8)
        ),
        LOST_STEP,
    ),
    case(
        "a load faults in stage 2 and executes again",
        stepping(AT_LDR).run(
            executes(AT_LDR), sync(), executes(AT_LDR), sync(), debug(AT_LDR + 4)
        ),
        OK,
    ),
    case(
        "a load faults twice",
        stepping(AT_LDR).run(
            executes(AT_LDR), sync(), executes(AT_LDR), sync(), executes(AT_LDR), sync(),
            debug(AT_LDR + 4),
        ),
        OK,
    ),
    case(
        "a load faults, an interrupt comes, it executes again",
        stepping(AT_LDR).run(
            executes(AT_LDR), sync(), irq(), executes(AT_LDR), sync(), debug(AT_LDR + 4)
        ),
        OK,
    ),
    case(
        "a load faults, a signal comes, it executes again",
        stepping(AT_LDR)
        .run(executes(AT_LDR), sync(), eintr(AT_LDR))
        .run(executes(AT_LDR), sync(), debug(AT_LDR + 4)),
        OK,
    ),
    case(
        "a load that executes twice without a fault",
        stepping(AT_LDR).run(
            executes(AT_LDR), irq(), executes(AT_LDR), sync(), debug(AT_LDR + 4)
        ),
        LOST_STEP,
    ),
    case(
        "a load faults and executes again, and the step is lost",
        stepping(AT_LDR).run(
            executes(AT_LDR), sync(), executes(AT_LDR), irq(), executes(AT_LDR + 4), sync(),
            debug(AT_LDR + 8),
        ),
        LOST_STEP,
    ),
    case(
        "the first use of floating point",
        stepping(AT_FMOV).run(
            executes(AT_FMOV), sync(), executes(AT_FMOV), sync(), debug(AT_FMOV + 4)
        ),
        OK,
    ),
    case(
        "a load's step exception is dropped, and L2 is put back",
        stepping(AT_LDR).run(
            executes(AT_LDR), irq(), phantom(AT_LDR + 4), sync(),
            executes(AT_LDR), sync(), debug(AT_LDR + 4),
        ),
        LOST_STEP,
    ),
    case(
        "a synchronous exit in another group excuses nothing",
        stepped(A, A + 4).run(executes(A + 4), irq(), executes(A + 4), sync(), debug(A + 8)),
        *(OK, LOST_STEP),
    ),
    case(
        "a fault through the AArch32 slot",
        stepping(AT_LDR).run(
            executes(AT_LDR), leaves_through(0x600), executes(AT_LDR), sync(), debug(AT_LDR + 4)
        ),
        OK,
    ),
    case(
        "an SError is no fault of the instruction",
        stepping(AT_LDR).run(
            executes(AT_LDR), leaves_through(0x580), executes(AT_LDR), sync(), debug(AT_LDR + 4)
        ),
        LOST_STEP,
    ),
)  # fmt: skip

# --- branches ------------------------------------------------------------------------------------


def branch(pc: int, following: int, register: int | None = None) -> Stream:
    """One stepped branch, and the step after it."""
    return (
        stepping(pc)
        .run(executes(pc), sync(), debug(following), branch_register=register)
        .run(executes(following), sync(), debug(following + 4))
    )


BRANCHES = (
    case("b, to its target", branch(AT_B, AT_B + 8), OK, OK),
    case("b never falls through", branch(AT_B, AT_B + 4), WRONG_PC, OK),
    case("bl, to its target", branch(AT_BL, AT_BL + 8), OK, OK),
    case("bl never falls through", branch(AT_BL, AT_BL + 4), WRONG_PC, OK),
    case("b.ne, taken", branch(AT_B_COND, AT_B_COND + 8), OK, OK),
    case("b.ne, not taken", branch(AT_B_COND, AT_B_COND + 4), OK, OK),
    case("b.ne, to itself", branch(AT_B_COND, AT_B_COND), WRONG_PC, OK),
    case("cbz, taken", branch(AT_CBZ, AT_CBZ + 8), OK, OK),
    case("cbz, not taken", branch(AT_CBZ, AT_CBZ + 4), OK, OK),
    case("cbz, beyond", branch(AT_CBZ, AT_TBZ + 4), WRONG_PC, OK),
    case("tbz, taken", branch(AT_TBZ, AT_TBZ + 8), OK, OK),
    case("tbz, not taken", branch(AT_TBZ, AT_TBZ + 4), OK, OK),
    case("tbz, beyond", branch(AT_TBZ, AT_BRK + 4), WRONG_PC, OK),
    case("br, to its register", branch(AT_BR, A, register=A), OK, OK),
    case("br, elsewhere", branch(AT_BR, A + 4, register=A), WRONG_PC, OK),
    case("br never falls through", branch(AT_BR, AT_BR + 4, register=A), WRONG_PC, OK),
    case("br, the register unknown", branch(AT_BR, A), WRONG_PC, OK),
    case(
        "br, the register unknown, zero",
        stepping(AT_BR).run(executes(AT_BR), sync(), debug(0)),
        WRONG_PC,
    ),
    case(
        "br, the register unknown, all ones",
        stepping(AT_BR).run(executes(AT_BR), sync(), debug(HIGHEST_PC)),
        WRONG_PC,
    ),
    case(
        "br, a signal before it",
        stepping(AT_BR)
        .run(irq(), eintr(AT_BR), branch_register=A)
        .run(executes(AT_BR), sync(), debug(A), branch_register=A),
        OK,
    ),
    case(
        "br, a signal after it",
        stepping(AT_BR)
        .run(executes(AT_BR), irq(), eintr(A), branch_register=A)
        .run(phantom(A), sync(), debug(A)),
        OK,
    ),
    case(
        "br, the job writes its register after a signal",
        stepping(AT_BR)
        .run(irq(), eintr(AT_BR), branch_register=A)
        .set_register(X8, A + 8)
        .run(executes(AT_BR), sync(), debug(A + 8), branch_register=A + 8),
        OK,
    ),
    case(
        "a plain instruction goes to no register",
        stepping().run(executes(A), sync(), debug(A + 8), branch_register=A + 8),
        WRONG_PC,
    ),
    case(
        "a conditional branch that went the other way: the next slice tells",
        stepping(AT_CBZ)
        .run(executes(AT_CBZ), sync(), debug(AT_CBZ + 8))
        .run(executes(AT_CBZ + 4), sync(), debug(AT_CBZ + 8)),
        *(WRONG_PC, OK),
    ),
    case("eret, to its register", branch(AT_ERET, A, register=A), OK, OK),
    case("eret, elsewhere", branch(AT_ERET, A + 4, register=A), WRONG_PC, OK),
    case("eret never falls through", branch(AT_ERET, AT_ERET + 4, register=A), WRONG_PC, OK),
    case("eret, the register unknown", branch(AT_ERET, AT_ERET + 4), WRONG_PC, OK),
)

# --- exceptions that L2 takes itself -------------------------------------------------------------


def calls(*, from_pstate: int | None, to: int, word_at: int = AT_SVC) -> Stream:
    """A stepped SVC or UDF. TCG shows the vector's first instruction without an exit before it."""
    stream = stepping(word_at)
    if from_pstate is not None:
        stream.set_pstate(from_pstate)
    return stream.run(executes(word_at), phantom(to), sync(), debug(to))


TAKEN = (
    case("svc in EL1h", calls(from_pstate=EL1H, to=FROM_EL1H), OK),
    case("svc in EL1t", calls(from_pstate=EL1T, to=FROM_EL1T), OK),
    case("svc in EL0", calls(from_pstate=EL0, to=FROM_EL0), OK),
    case("svc in EL1h, as if from EL0", calls(from_pstate=EL1H, to=FROM_EL0), WRONG_PC),
    case("svc in EL0, as if from EL1h", calls(from_pstate=EL0, to=FROM_EL1H), WRONG_PC),
    case("svc in EL0, as if from EL1t", calls(from_pstate=EL0, to=FROM_EL1T), WRONG_PC),
    case("svc anywhere, as if from EL0", calls(from_pstate=None, to=FROM_EL0), OK),
    case("svc anywhere, as if from EL1h", calls(from_pstate=None, to=FROM_EL1H), OK),
    case("svc anywhere, as if from EL1t", calls(from_pstate=None, to=FROM_EL1T), OK),
    case("svc anywhere, to no vector", calls(from_pstate=None, to=FROM_EL1H + 4), WRONG_PC),
    case("svc anywhere, to an IRQ's vector", calls(from_pstate=None, to=AT_VECTORS + 0x280),
         WRONG_PC),
    case("svc in a mode that A64 does not have", calls(from_pstate=0x10, to=FROM_EL0), OK),
    case("svc never falls through", calls(from_pstate=EL1H, to=AT_SVC + 4), WRONG_PC),
    case("udf in EL1h", calls(from_pstate=EL1H, to=FROM_EL1H, word_at=AT_UDF), OK),
    case("udf in EL0", calls(from_pstate=EL0, to=FROM_EL0, word_at=AT_UDF), OK),
    case("udf in EL0, as if from EL1h", calls(from_pstate=EL0, to=FROM_EL1H, word_at=AT_UDF),
         WRONG_PC),
    case("udf never falls through", calls(from_pstate=EL1H, to=AT_UDF + 4, word_at=AT_UDF),
         WRONG_PC),
    case(
        "svc, the level as the report before shows it",
        stepping(AT_SVC - 4)
        .set_pstate(EL1H)
        .run(executes(AT_SVC - 4), sync(), debug(AT_SVC), pstate=EL0)
        .run(executes(AT_SVC), sync(), debug(FROM_EL0)),
        *(OK, OK),
    ),
    case(
        "svc, the level as a signal before it shows it",
        stepping(AT_SVC).run(irq(), eintr(AT_SVC), pstate=EL0)
        .run(executes(AT_SVC), sync(), debug(FROM_EL1H), pstate=EL1H),
        WRONG_PC,
    ),
    case(
        "svc, a signal after it: what counts is the level before",
        stepping(AT_SVC).set_pstate(EL0)
        .run(executes(AT_SVC), irq(), eintr(FROM_EL0), pstate=EL1H)
        .run(phantom(FROM_EL0), sync(), debug(FROM_EL0), pstate=EL1H),
        OK,
    ),
    case(
        "svc, the level as the job reads it",
        stepping(AT_SVC).read(REGISTER_PSTATE, EL0)
        .run(executes(AT_SVC), sync(), debug(FROM_EL1H)),
        WRONG_PC,
    ),
    case(
        "svc after a reset: EL1h",
        stepping(AT_SVC).set_pstate(EL0).vcpu_init().set_pc(AT_SVC)
        .run(executes(AT_SVC), sync(), debug(FROM_EL0)),
        WRONG_PC,
    ),
    case(
        "svc, an interrupt at the vector, a correct kernel",
        stepping(AT_SVC)
        .run(executes(AT_SVC), irq(), phantom(FROM_EL1H), sync(), debug(FROM_EL1H)),
        OK,
    ),
    case(
        "svc, an interrupt at the vector, an unfixed kernel",
        stepping(AT_SVC)
        .run(executes(AT_SVC), irq(), executes(FROM_EL1H), sync(), debug(FROM_EL1H + 4)),
        LOST_STEP,
    ),
    case(
        "svc executes once, whatever exit follows",
        stepping(AT_SVC).run(
            executes(AT_SVC), sync(), executes(AT_SVC), sync(), debug(FROM_EL1H)
        ),
        LOST_STEP,
    ),
    case(
        "udf executes once, whatever exit follows",
        stepping(AT_UDF).run(
            executes(AT_UDF), sync(), executes(AT_UDF), sync(), debug(FROM_EL1H)
        ),
        LOST_STEP,
    ),
    case(
        "eret executes once, whatever exit follows",
        stepping(AT_ERET).run(
            executes(AT_ERET), sync(), executes(AT_ERET), sync(), debug(AT_ERET),
            branch_register=AT_ERET,
        ),
        LOST_STEP,
    ),
    case(
        "brk executes once for a report",
        stepping(AT_BRK).run(
            executes(AT_BRK), sync(), executes(AT_BRK), sync(), debug(AT_BRK, BREAK_INSTRUCTION)
        ),
        LOST_STEP,
    ),
)  # fmt: skip

# --- step exceptions that a stub turns into interrupts -------------------------------------------

REDIRECTED = (
    case(
        "redirected, a correct kernel",
        stepping().run(executes(A), redirected(), phantom(A + 4), sync(), debug(A + 4)),
        OK,
    ),
    case(
        "redirected twice, a correct kernel",
        stepping().run(
            executes(A), redirected(), phantom(A + 4), redirected(), phantom(A + 4), sync(),
            debug(A + 4),
        ),
        OK,
    ),
    case(
        "redirected, an unfixed kernel",
        stepping().run(executes(A), redirected(), executes(A + 4), sync(), debug(A + 8)),
        LOST_STEP,
    ),
    case(
        "a redirected exit is no fault: what runs again was put back",
        stepping(AT_LDR).run(
            executes(AT_LDR), redirected(), executes(AT_LDR), sync(), debug(AT_LDR + 4)
        ),
        LOST_STEP,
    ),
    case(
        "a fault, and the step exception after it is redirected",
        stepping(AT_LDR).run(
            executes(AT_LDR), sync(), executes(AT_LDR), redirected(), phantom(AT_LDR + 4), sync(),
            debug(AT_LDR + 4),
        ),
        OK,
    ),
    case(
        "a redirected exit beside a fault takes no excuse from it",
        stepping(AT_LDR).run(
            executes(AT_LDR), sync(), irq(), executes(AT_LDR), redirected(), irq(),
            phantom(AT_LDR + 4), sync(), debug(AT_LDR + 4),
        ),
        OK,
    ),
    case(
        "redirected before a signal",
        stepping()
        .run(executes(A), redirected(), eintr(A + 4))
        .run(phantom(A + 4), sync(), debug(A + 4)),
        OK,
    ),
)  # fmt: skip

# --- interrupts that L2 takes ---------------------------------------------------------------------

V, V0 = IRQ_FROM_EL1H, IRQ_FROM_EL0
OPEN, OPEN_EL0 = EL1H & ~IRQ_MASK, EL0 & ~IRQ_MASK
"""PSTATE with IRQs unmasked."""


def excursion(pc: int, elr: int, *before: list[TruthRow]) -> list[list[TruthRow] | Return]:
    """L2 does this, and then stops at its interrupt's vector."""
    return [*before, phantom(pc), sync(), at_vector(pc, elr)]


INTERRUPTED = (
    case("an IRQ instead of the instruction", stepping().run(*excursion(V, A)), OK),
    case(
        "an IRQ before a load that user space has served is to be executed again",
        stepping(AT_LDR)
        .run(executes(AT_LDR), sync(), mmio(AT_LDR))
        .run(*excursion(V, AT_LDR, sync())),
        WRONG_PC,
    ),
    case(
        "HVC, executed again over an IRQ",
        stepping(AT_HVC).run(*excursion(V, AT_HVC, executes(AT_HVC), sync())),
        WRONG_PC,
    ),
    case(
        "L2 went on elsewhere from its vector, without a stop",
        stepping().run(phantom(V), sync(), executes(A + 8), sync(), debug(A + 12)),
        LOST_STEP,
    ),
    case("an IRQ after the instruction", stepping().run(*excursion(V, A + 4, executes(A))), OK),
    case(
        "an IRQ after the instruction, and no phantom at the vector",
        stepping().run(executes(A), sync(), at_vector(V, A + 4)),
        OK,
    ),
    case(
        "an IRQ instead of the instruction, and no phantom at the vector",
        stepping().run(sync(), at_vector(V, A)),
        OK,
    ),
    case(
        "a second IRQ at the vector of the first, where user space has unmasked IRQs",
        stepping()
        .run(*excursion(V, A + 4, executes(A))[:-1], eintr(V))
        .set_pstate(OPEN)
        .run(phantom(V), sync(), at_vector(V, V)),
        OK,
    ),
    case(
        "a second IRQ at the vector of the first, which nobody has unmasked",
        stepping()
        .run(*excursion(V, A + 4, executes(A))[:-1], eintr(V))
        .run(phantom(V), sync(), at_vector(V, V, EL1H)),
        WRONG_PC,
    ),
    case(
        "a second IRQ at a vector where user space has not seen L2",
        stepping()
        .run(*excursion(V, A + 4, executes(A))[:-1], eintr(A + 4))
        .run(phantom(V), sync(), at_vector(V, V)),
        WRONG_PC,
    ),
    case(
        "an IRQ from EL0",
        stepping().run(phantom(V0), sync(), at_vector(V0, A, OPEN_EL0)),
        OK,
    ),
    case(
        "an IRQ from EL0 after the instruction, PSTATE.SS of L2 set",
        stepping().run(executes(A), phantom(V0), sync(), at_vector(V0, A + 4, OPEN_EL0 | 1 << 21)),
        OK,
    ),
    case(
        "an IRQ at the payload's own vectors",
        stepping().run(*excursion(AT_VECTORS + 0x280, A)),
        OK,
    ),
    case(
        "an IRQ from EL0 at the payload's own vectors",
        stepping().run(sync(), at_vector(AT_VECTORS + 0x480, A, OPEN_EL0)),
        OK,
    ),
    case(
        "stepping on in the handler",
        stepping()
        .run(*excursion(V, A))
        .run(executes(V), sync(), debug(V + 4))
        .run(executes(V + 4), sync(), debug(V + 8)),
        *(OK, OK, OK),
    ),
    case(
        "a nested IRQ, in the handler",
        stepping()
        .run(*excursion(V, A))
        .run(executes(V), sync(), at_vector(V, V + 4))
        .run(executes(V), sync(), debug(V + 4)),
        *(OK, OK, OK),
    ),
    case(
        "an IRQ, and after the handler's ERET the next",
        stepping(AT_ERET).run(*excursion(V, A + 8, executes(AT_ERET)), branch_register=A + 8),
        OK,
    ),
    case(
        "an IRQ after an ERET that goes elsewhere",
        stepping(AT_ERET).run(*excursion(V, A + 4, executes(AT_ERET)), branch_register=A + 8),
        WRONG_PC,
    ),
    case(
        "an IRQ after a branch",
        stepping(AT_B).run(*excursion(V, AT_B + 8, executes(AT_B))),
        OK,
    ),
    case(
        "an IRQ after a branch, as if it fell through",
        stepping(AT_B).run(*excursion(V, AT_B + 4, executes(AT_B))),
        WRONG_PC,
    ),
    case(
        "an IRQ after a branch, as if it never was",
        stepping(AT_B).run(executes(AT_B), sync(), *excursion(V, AT_B)),
        WRONG_PC,
    ),
    case(
        "an IRQ after a fault: the load will be executed again",
        stepping(AT_LDR).run(executes(AT_LDR), sync(), *excursion(V, AT_LDR)),
        OK,
    ),
    case(
        "an IRQ after a fault and a physical one: likewise",
        stepping(AT_LDR).run(executes(AT_LDR), sync(), irq(), *excursion(V, AT_LDR)),
        OK,
    ),
    case(
        "an IRQ after a fault, and no phantom at the vector",
        stepping(AT_LDR).run(executes(AT_LDR), sync(), sync(), at_vector(V, AT_LDR)),
        OK,
    ),
    case(
        "an IRQ after two faults",
        stepping(AT_LDR).run(
            executes(AT_LDR), sync(), executes(AT_LDR), sync(), *excursion(V, AT_LDR)
        ),
        OK,
    ),
    case(
        "an IRQ after a load that faulted, then did not",
        stepping(AT_LDR).run(
            executes(AT_LDR), sync(), executes(AT_LDR), *excursion(V, AT_LDR + 4)
        ),
        OK,
    ),
    case(
        "a load that did not fault will not be executed again",
        stepping(AT_LDR).run(*excursion(V, AT_LDR, executes(AT_LDR))),
        WRONG_PC,
    ),
    case(
        "a load that did not fault: the step exception's exit is no fault",
        stepping(AT_LDR)
        .run(executes(AT_LDR), sync(), at_vector(V, AT_LDR))
        .run(executes(V), sync(), debug(V + 4)),
        *(WRONG_PC, OK),
    ),
    case(
        "a redirected step exception is no fault",
        stepping(AT_LDR).run(executes(AT_LDR), redirected(), *excursion(V, AT_LDR)),
        WRONG_PC,
    ),
    case(
        "an emulated instruction, then an IRQ",
        stepping(AT_MRS).run(executes(AT_MRS), sync(), *excursion(V, AT_MRS + 4)),
        OK,
    ),
    case(
        "HVC, then an IRQ",
        stepping(AT_HVC).run(executes(AT_HVC), sync(), *excursion(V, AT_HVC + 4)),
        OK,
    ),
    case(
        "the stop at the vector is lost",
        stepping().run(executes(V), sync(), debug(V + 4)),
        LOST_STEP,
    ),
    case(
        "the stop at the vector is lost, by a physical interrupt there",
        stepping().run(phantom(V), irq(), executes(V), sync(), debug(V + 4)),
        LOST_STEP,
    ),
    case(
        "the stop at the vector is lost, after the instruction",
        stepping().run(executes(A), irq(), executes(V), sync(), debug(V + 4)),
        LOST_STEP,
    ),
    case(
        "the stop at the vector is lost, after a fault",
        stepping(AT_LDR).run(executes(AT_LDR), sync(), executes(V), sync(), debug(V + 4)),
        LOST_STEP,
    ),
    case(
        "the stop at the vector is lost, and that spoils no step before",
        stepped(A, A + 4).run(executes(V), sync(), debug(V + 4)),
        *(OK, LOST_STEP),
    ),
    case(
        "the stop at the vector is lost, whatever is reported instead",
        stepping().run(executes(V), sync(), at_vector(V, A)),
        LOST_STEP,
    ),
    case(
        "the stop at the vector is lost, in the next a nested one comes",
        stepping().run(executes(V), sync(), at_vector(V, V + 4)),
        LOST_STEP,
    ),
    case(
        "two instructions, and then an IRQ",
        stepping().run(*excursion(V, A + 8, executes(A), irq(), executes(A + 4))),
        LOST_STEP,
    ),
    case("a masked IRQ", stepping().run(sync(), at_vector(V, A, EL1H)), SPURIOUS_STEP),
    case(
        "a masked IRQ from EL0",
        stepping().run(phantom(V0), sync(), at_vector(V0, A, EL0)),
        SPURIOUS_STEP,
    ),
    case(
        "a masked IRQ after the instruction",
        stepping().run(*[*excursion(V, A, executes(A))[:-1], at_vector(V, A + 4, EL1H)]),
        WRONG_PC,
    ),
    case(
        "an IRQ from EL1h at EL0's vector",
        stepping().run(sync(), at_vector(V0, A, OPEN)),
        SPURIOUS_STEP,
    ),
    case(
        "an IRQ from EL0 at EL1h's vector",
        stepping().run(sync(), at_vector(V, A, OPEN_EL0)),
        SPURIOUS_STEP,
    ),
    case(
        "an IRQ from EL1t, which has vectors of its own",
        stepping().run(sync(), at_vector(V, A, EL1T & ~IRQ_MASK)),
        SPURIOUS_STEP,
    ),
    case(
        "an IRQ from AArch32, which has vectors of its own",
        stepping().run(sync(), at_vector(V0, A, OPEN_EL0 | 0x10)),
        SPURIOUS_STEP,
    ),
    case("an IRQ, ELR one too far", stepping().run(sync(), at_vector(V, A + 4)), SPURIOUS_STEP),
    case(
        "an IRQ after the instruction, ELR one too far",
        stepping().run(*excursion(V, A + 8, executes(A))),
        WRONG_PC,
    ),
    case(
        "an IRQ after the instruction, ELR not on",
        stepping().run(*excursion(V, A, executes(A))),
        WRONG_PC,
    ),
    case(
        "a report at the vector without L2's registers",
        stepping().run(phantom(V), sync(), debug(V)),
        SPURIOUS_STEP,
    ),
    case(
        "a report beside the vector, with L2's registers",
        stepping().run(sync(), at_vector(V + 4, A)),
        SPURIOUS_STEP,
    ),
    case(
        "a report twice at the vector",
        stepping().run(*excursion(V, A)).run(*excursion(V, A)),
        *(OK, SPURIOUS_STEP),
    ),
    case(
        "another exception than the step's excuses nothing",
        stepping().run(sync(), replace(at_vector(V, A), exception=BREAKPOINT)),
        WRONG_PC,
    ),
    case(
        "nor does a watchpoint at the vector",
        stepping().run(sync(), replace(at_vector(V, A), exception=WATCHPOINT)),
        SPURIOUS_STEP,
    ),
    case(
        "registers that nobody read are not all zero",
        Stream().step_on().run(phantom(V0), sync(), debug(V0)),
        SPURIOUS_STEP,
    ),
    case(
        "where nobody stated a PC, an IRQ may have come from anywhere",
        Stream().step_on().run(*excursion(V, A + 8)),
        OK,
    ),
    case(
        "the job wrote PC: an IRQ comes from there",
        stepped(A, A + 4).set_pc(AT_B).run(*excursion(V, AT_B)),
        *(OK, OK),
    ),
    case(
        "the job wrote PC: an IRQ from elsewhere",
        stepped(A, A + 4).set_pc(AT_B).run(*excursion(V, A + 4)),
        *(OK, SPURIOUS_STEP),
    ),
    case(
        "the job puts L2 at a vector: no IRQ",
        stepping(V).run(executes(V), sync(), debug(V + 4)),
        OK,
    ),
    case(
        "a signal before an IRQ",
        stepping().run(irq(), eintr(A)).run(*excursion(V, A)),
        OK,
    ),
    case(
        "a signal at the vector, a correct kernel",
        stepping().run(executes(A), phantom(V), irq(), eintr(V)).run(*excursion(V, A + 4)),
        OK,
    ),
    case(
        "a signal at the vector, and nothing shows there before it",
        stepping().run(irq(), eintr(V)).run(*excursion(V, A)),
        OK,
    ),
    case(
        "a signal at the vector, an unfixed kernel",
        stepping().run(irq(), eintr(V)).run(executes(V), sync(), debug(V + 4)),
        LOST_STEP,
    ),
    case(
        "a signal at the vector, stepping off and on: a fresh step",
        stepping()
        .run(irq(), eintr(V))
        .step_off()
        .step_on()
        .run(executes(V), sync(), debug(V + 4)),
        OK,
    ),
    case(
        "a signal at the vector, stepping off and on: the stop is not forgotten",
        stepping().run(irq(), eintr(V)).step_off().step_on().run(*excursion(V, A)),
        SPURIOUS_STEP,
    ),
    case(
        "the job writes PC after a signal at the vector: a correct kernel reports at once",
        stepping().run(irq(), eintr(V)).set_pc(AT_B).run(phantom(AT_B), sync(), debug(AT_B)),
    ),
    case(
        "the job writes PC after a signal at a vector where L2 stood already",
        stepping(V)
        .run(irq(), eintr(V))
        .set_pc(AT_B)
        .run(executes(AT_B), sync(), debug(AT_B + 8)),
        OK,
    ),
    case(
        "unstepped, L2 may be anywhere: a vector, too",
        Stream()
        .set_pc(A)
        .run(executes(A, V), irq(), eintr(V + 4))
        .step_on()
        .run(executes(V + 4), sync(), debug(V + 8)),
        OK,
    ),
)  # fmt: skip

# --- b . -----------------------------------------------------------------------------------------


def round_and_round() -> list[list[TruthRow] | Return]:
    """One step of ``b .``."""
    return [executes(ITSELF), sync(), debug(ITSELF)]


AROUND = (
    case(
        "b . under step-first",
        stepping(ITSELF).run(*round_and_round()).run(*round_and_round()).run(*round_and_round()),
        *(OK, OK, OK),
    ),
    case(
        "b . under async-first: five executions for four reports, with every PC right",
        stepping(ITSELF)
        .run(*round_and_round())
        .run(executes(ITSELF), irq(), executes(ITSELF), sync(), debug(ITSELF))
        .run(*round_and_round())
        .run(*round_and_round()),
        *(OK, LOST_STEP, OK, OK),
    ),
    case(
        "b . under async-first, a correct kernel",
        stepping(ITSELF).run(
            executes(ITSELF), irq(), phantom(ITSELF), sync(), debug(ITSELF)
        ),
        OK,
    ),
    case(
        "b . under async-first, the step exception redirected behind its vector",
        stepping(ITSELF).run(
            executes(ITSELF), sync(), irq(), executes(ITSELF), sync(), debug(ITSELF)
        ),
        LOST_STEP,
    ),
    case(
        "b . with a step exception that the kernel does not report",
        stepping(ITSELF).run(executes(ITSELF), sync(), executes(ITSELF), sync(), debug(ITSELF)),
        LOST_STEP,
    ),
    case(
        "b . with a spurious report",
        stepping(ITSELF).run(phantom(ITSELF), sync(), debug(ITSELF)),
        SPURIOUS_STEP,
    ),
)  # fmt: skip

# --- slices that join ----------------------------------------------------------------------------

JOINED = (
    case(
        "a signal before the instruction",
        stepping().run(irq(), eintr(A)).run(executes(A), sync(), debug(A + 4)),
        OK,
    ),
    case(
        "a signal in Active-pending, a correct kernel",
        stepping().run(executes(A), irq(), eintr(A + 4)).run(phantom(A + 4), sync(), debug(A + 4)),
        OK,
    ),
    case(
        "a signal in Active-pending, an unfixed kernel",
        stepping().run(executes(A), irq(), eintr(A + 4)).run(executes(A + 4), sync(), debug(A + 8)),
        LOST_STEP,
    ),
    case(
        "three signals",
        stepping()
        .run(irq(), eintr(A))
        .run(eintr(A))
        .run(executes(A), irq(), eintr(A + 4))
        .run(phantom(A + 4), sync(), debug(A + 4)),
        OK,
    ),
    case(
        "a load from a device in user space",
        stepping(AT_LDR)
        .run(executes(AT_LDR), sync(), mmio(AT_LDR))
        .run(phantom(AT_LDR + 4), sync(), debug(AT_LDR + 4)),
        OK,
    ),
    case(
        "a load from a device in user space, and the step is lost",
        stepping(AT_LDR)
        .run(executes(AT_LDR), sync(), mmio(AT_LDR))
        .run(irq(), executes(AT_LDR + 4), sync(), debug(AT_LDR + 8)),
        LOST_STEP,
    ),
    case(
        "a load that user space has served is executed again",
        stepping(AT_LDR)
        .run(executes(AT_LDR), sync(), mmio(AT_LDR))
        .run(executes(AT_LDR), sync(), mmio(AT_LDR))
        .run(phantom(AT_LDR + 4), sync(), debug(AT_LDR + 4)),
        LOST_STEP,
    ),
    case(
        "a load that faulted before user space had to serve it",
        stepping(AT_LDR)
        .run(executes(AT_LDR), sync(), executes(AT_LDR), sync(), mmio(AT_LDR))
        .run(phantom(AT_LDR + 4), sync(), debug(AT_LDR + 4)),
        OK,
    ),
    case("a signal and no report after it", stepping().run(executes(A), irq(), eintr(A + 4))),
    case(
        "a failed KVM_RUN closes nothing, whatever kvm_run holds from before",
        stepping()
        .run(Return(A, KVM_EXIT_DEBUG, ExceptionClass.SOFTWARE_STEP, errno.EFAULT))
        .run(executes(A), sync(), debug(A + 4)),
        OK,
    ),
    case(
        "a signal, then the next slice begins elsewhere",
        stepped(A, A + 4).run(irq(), eintr(A + 4)).run(executes(A + 8), sync(), debug(A + 12)),
        *(WRONG_PC, OK),
    ),
)

# --- the other debug exceptions ------------------------------------------------------------------

DEBUG_EXCEPTIONS = (
    case(
        "a hardware breakpoint: the same PC, nothing executed",
        stepped(A, A + 4).run(sync(), debug(A + 4, BREAKPOINT)),
        *(OK, OK),
    ),
    case(
        "a hardware breakpoint at the first PC, which nobody stated",
        Stream().step_on().run(sync(), debug(A, BREAKPOINT)),
        OK,
    ),
    case(
        "a hardware breakpoint at another PC, nothing executed",
        stepped(A, A + 4).run(sync(), debug(A + 8, BREAKPOINT)),
        *(OK, WRONG_PC),
    ),
    case(
        "a hardware breakpoint does not come before a pending step exception",
        stepping(AT_HVC).run(
            executes(AT_HVC), sync(), sync(), debug(AT_HVC + 4, BREAKPOINT)
        ),
        LOST_STEP,
    ),
    case(
        "a hardware breakpoint excuses no two instructions",
        stepping().run(executes(A), irq(), executes(A + 4), sync(), debug(A + 8, BREAKPOINT)),
        LOST_STEP,
    ),
    case(
        "stepping on from a hardware breakpoint",
        stepping().run(sync(), debug(A, BREAKPOINT)).run(executes(A), sync(), debug(A + 4)),
        *(OK, OK),
    ),
    case(
        "a watchpoint: the load is recorded and does not retire",
        stepping(AT_LDR)
        .run(executes(AT_LDR), sync(), debug(AT_LDR, WATCHPOINT))
        .run(executes(AT_LDR), sync(), debug(AT_LDR + 4)),
        *(OK, OK),
    ),
    case(
        "a watchpoint at another PC",
        stepping(AT_LDR).run(executes(AT_LDR), sync(), debug(AT_LDR + 4, WATCHPOINT)),
        WRONG_PC,
    ),
    case(
        "a watchpoint with nothing executed",
        stepping(AT_LDR).run(sync(), debug(AT_LDR, WATCHPOINT)),
        SPURIOUS_STEP,
    ),
    case(
        "a watchpoint after a fault of the same load",
        stepping(AT_LDR).run(
            executes(AT_LDR), sync(), executes(AT_LDR), sync(), debug(AT_LDR, WATCHPOINT)
        ),
        OK,
    ),
    case(
        "a watchpoint excuses no instruction before it",
        stepping(AT_LDR - 4).run(
            executes(AT_LDR - 4), irq(), executes(AT_LDR), sync(), debug(AT_LDR, WATCHPOINT)
        ),
        LOST_STEP,
    ),
    case(
        "BRK: recorded, not retired, again and again",
        stepping(AT_BRK)
        .run(executes(AT_BRK), sync(), debug(AT_BRK, BREAK_INSTRUCTION))
        .run(executes(AT_BRK), sync(), debug(AT_BRK, BREAK_INSTRUCTION)),
        *(OK, OK),
    ),
    case(
        "BRK, and the job steps over it",
        stepping(AT_BRK)
        .run(executes(AT_BRK), sync(), debug(AT_BRK, BREAK_INSTRUCTION))
        .set_pc(AT_BRK + 4)
        .run(executes(AT_BRK + 4), sync(), debug(AT_BRK + 8)),
        *(OK, OK),
    ),
    case(
        "BRK excuses no instruction before it",
        stepping(AT_BRK - 4).run(
            executes(AT_BRK - 4), irq(), executes(AT_BRK), sync(), debug(AT_BRK, BREAK_INSTRUCTION)
        ),
        LOST_STEP,
    ),
    case(
        "BRK does not retire, so nothing steps over it",
        stepping(AT_BRK).run(executes(AT_BRK), sync(), debug(AT_BRK + 4)),
        WRONG_PC,
    ),
    case(
        "a report of no known exception class is no step",
        stepping().run(executes(A), sync(), debug(A + 4, 0x3F)),
        WRONG_PC,
    ),
    case(
        "a report of no known exception class excuses no second instruction",
        stepping().run(executes(A), irq(), executes(A + 4), sync(), debug(A + 8, 0x3F)),
        LOST_STEP,
    ),
)  # fmt: skip

# --- where L2 goes on, and what the job does -----------------------------------------------------

JOB = (
    case(
        "the report is right, but L2 goes on elsewhere",
        stepped(A, A + 4).run(executes(A + 8), sync(), debug(A + 12)),
        *(WRONG_PC, OK),
    ),
    case(
        "a phantom tells where L2 goes on, too",
        stepped(A, A + 4).run(phantom(A + 8), sync(), debug(A + 8)),
        *(WRONG_PC, SPURIOUS_STEP),
    ),
    case(
        "the job writes PC: L2 goes on there",
        stepped(A, A + 4).set_pc(AT_B).run(executes(AT_B), sync(), debug(AT_B + 8)),
        *(OK, OK),
    ),
    case(
        "the job writes PC twice: the last counts",
        stepped(A, A + 4).set_pc(AT_LDR).set_pc(AT_B).run(executes(AT_B), sync(), debug(AT_B + 8)),
        *(OK, OK),
    ),
    case(
        "the job writes PC, L2 goes on elsewhere: the new step is wrong, not the old",
        stepped(A, A + 4).set_pc(AT_B).run(executes(A + 4), sync(), debug(A + 8)),
        *(OK, WRONG_PC),
    ),
    case(
        "the job writes another register",
        stepped(A, A + 4).set_register(X8, AT_B).run(executes(A + 4), sync(), debug(A + 8)),
        *(OK, OK),
    ),
    case(
        "the job writes PC to where L2 stands",
        stepped(A, A + 4).set_pc(A + 4).run(executes(A + 4), sync(), debug(A + 8)),
        *(OK, OK),
    ),
    case(
        "the job writes PC after a signal that came before the instruction",
        stepping().run(irq(), eintr(A)).set_pc(AT_B).run(executes(AT_B), sync(), debug(AT_B + 8)),
        OK,
    ),
    case(
        "the job writes PC after a signal in Active-pending: a correct kernel reports at once",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .set_pc(AT_B)
        .run(phantom(AT_B), sync(), debug(AT_B)),
    ),
    case(
        "the job writes PC in mid-step, and the step after that is judged again",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .set_pc(A)
        .run(phantom(A), sync(), debug(A))
        .run(executes(A), irq(), executes(A + 4), sync(), debug(A + 8)),
        LOST_STEP,
    ),
    case(
        "the job writes PC twice in mid-step, with a signal between",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .set_pc(AT_B)
        .run(irq(), eintr(AT_B))
        .set_pc(AT_LDR)
        .run(phantom(AT_LDR), sync(), debug(AT_LDR)),
    ),
    case(
        "the job writes PC in mid-step, then stepping off and on, then PC again: a fresh step",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .set_pc(AT_B)
        .run(irq(), eintr(AT_B))
        .step_off()
        .step_on()
        .set_pc(A)
        .run(executes(A), sync(), debug(A + 4)),
        OK,
    ),
    case(
        "hardware breakpoints asked for besides, in mid-step: no interference",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .control(STEPPING_ON | WITH_HARDWARE)
        .run(phantom(A + 4), sync(), debug(A + 4)),
        OK,
    ),
    case(
        "hardware breakpoints asked for instead, in mid-step: stepping is off",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .control(ENABLED_ONLY | WITH_HARDWARE)
        .step_on()
        .run(executes(A + 4), sync(), debug(A + 8)),
        OK,
    ),
    case(
        "hardware breakpoints asked for instead, in mid-step: what was spent is remembered",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .control(ENABLED_ONLY | WITH_HARDWARE)
        .step_on()
        .run(phantom(A + 4), sync(), debug(A + 4)),
        SPURIOUS_STEP,
    ),
    case(
        "stepping turned off and on between two steps",
        stepped(A, A + 4).step_off().step_on().run(executes(A + 4), sync(), debug(A + 8)),
        *(OK, OK),
    ),
    case(
        "stepping turned off and on in mid-step: the spent step is forgotten",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .step_off()
        .step_on()
        .run(executes(A + 4), sync(), debug(A + 8)),
        OK,
    ),
    case(
        "stepping turned off and on in mid-step: the spent step is not forgotten",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .step_off()
        .step_on()
        .run(phantom(A + 4), sync(), debug(A + 4)),
        SPURIOUS_STEP,
    ),
    case(
        "stepping turned off and on in mid-step: the step after it is lost",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .step_off()
        .step_on()
        .run(executes(A + 4), irq(), executes(A + 8), sync(), debug(A + 12)),
        LOST_STEP,
    ),
    case(
        "stepping turned off and on in mid-step: L2 goes on elsewhere, and no report said where",
        stepped(A, A + 4)
        .run(executes(A + 4), irq(), eintr(A + 8))
        .step_off()
        .step_on()
        .run(executes(A + 12), sync(), debug(A + 16)),
        *(OK, WRONG_PC),
    ),
    case(
        "stepping turned off and on in mid-step, a signal before the fresh step",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .step_off()
        .step_on()
        .run(irq(), eintr(A + 4))
        .run(executes(A + 4), sync(), debug(A + 8)),
        OK,
    ),
    case(
        "stepping turned off and on before the instruction",
        stepping().run(irq(), eintr(A)).step_off().step_on().run(executes(A), sync(), debug(A + 4)),
        OK,
    ),
    case(
        "stepping turned off in mid-step, unstepped, stepped from there",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .step_off()
        .run(executes(A + 4, A + 8), irq(), eintr(A + 12))
        .step_on()
        .run(executes(A + 12), sync(), debug(A + 16))
        .run(executes(A + 16), irq(), executes(A + 20), sync(), debug(A + 24)),
        *(OK, LOST_STEP),
    ),
    case(
        "a fault, stepping off and on: the instruction executes again, in a step of its own",
        stepping(AT_LDR)
        .run(executes(AT_LDR), sync(), eintr(AT_LDR))
        .step_off()
        .step_on()
        .run(executes(AT_LDR), sync(), debug(AT_LDR + 4)),
        OK,
    ),
    case(
        "MMIO, stepping off and on: the access is completed by the next KVM_RUN, nobody's step",
        stepping(AT_LDR)
        .run(executes(AT_LDR), sync(), mmio(AT_LDR))
        .step_off()
        .step_on()
        .run(phantom(AT_LDR + 4), sync(), debug(AT_LDR + 4))
        .run(executes(AT_LDR + 4), sync(), debug(AT_LDR + 8)),
        OK,
    ),
    case(
        "MMIO unstepped, then stepped: likewise",
        Stream()
        .set_pc(AT_LDR)
        .run(executes(AT_LDR), sync(), mmio(AT_LDR))
        .step_on()
        .run(phantom(AT_LDR + 4), sync(), debug(AT_LDR + 4)),
    ),
    case(
        "MMIO completed by a kick, stepping off and on: a fresh step",
        stepping(AT_LDR)
        .run(executes(AT_LDR), sync(), mmio(AT_LDR))
        .kick(AT_LDR + 4)
        .step_off()
        .step_on()
        .run(executes(AT_LDR + 4), sync(), debug(AT_LDR + 8)),
        OK,
    ),
    case(
        "MMIO and a reset: a new machine",
        stepping(AT_LDR)
        .run(executes(AT_LDR), sync(), mmio(AT_LDR))
        .vcpu_init()
        .set_pc(A)
        .run(phantom(A + 4), sync(), debug(A + 4)),
        SPURIOUS_STEP,
    ),
    case(
        "a kick in Active-pending, a correct kernel",
        stepping(AT_LDR)
        .run(executes(AT_LDR), sync(), mmio(AT_LDR))
        .kick(AT_LDR + 4)
        .run(phantom(AT_LDR + 4), sync(), debug(AT_LDR + 4)),
        OK,
    ),
    case(
        "a kick after an emulated instruction, and the step is lost",
        stepping(AT_LDR)
        .run(executes(AT_LDR), sync(), mmio(AT_LDR))
        .kick(AT_LDR + 4)
        .run(executes(AT_LDR + 4), sync(), debug(AT_LDR + 8)),
        LOST_STEP,
    ),
    case(
        "a kick before the step",
        stepping().kick(A).run(executes(A), sync(), debug(A + 4)),
        OK,
    ),
    case(
        "a reset in mid-step: a new machine, from the PC that the job wrote",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .vcpu_init()
        .set_pc(AT_B)
        .run(executes(AT_B), sync(), debug(AT_B + 8)),
        OK,
    ),
    case(
        "a reset in mid-step: the spent step is remembered",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .vcpu_init()
        .set_pc(AT_B)
        .run(phantom(AT_B), sync(), debug(AT_B)),
        SPURIOUS_STEP,
    ),
    case(
        "a reset in mid-step after PC was written: only what is written after it counts",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .set_pc(AT_B)
        .vcpu_init()
        .run(executes(A), sync(), debug(A + 4)),
        OK,
    ),
    case(
        "a reset between two steps",
        stepped(A, A + 4).vcpu_init().set_pc(A).run(executes(A), sync(), debug(A + 4)),
        *(OK, OK),
    ),
    case(
        "a reset, and L2 goes on where it was: the new step is wrong",
        stepped(A, A + 4).vcpu_init().set_pc(A).run(executes(A + 4), sync(), debug(A + 8)),
        *(OK, WRONG_PC),
    ),
    case(
        "PC written in mid-step, then stepping off and on: a fresh step",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .set_pc(AT_B)
        .step_off()
        .step_on()
        .run(executes(AT_B), sync(), debug(AT_B + 8)),
        OK,
    ),
    case(
        "PC written in mid-step, a signal, then a reset: a fresh step",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .set_pc(AT_B)
        .run(irq(), eintr(AT_B))
        .vcpu_init()
        .set_pc(A)
        .run(executes(A), sync(), debug(A + 4)),
        OK,
    ),
    case(
        "stepping turned on again is no interference",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .step_on()
        .run(phantom(A + 4), sync(), debug(A + 4)),
        OK,
    ),
    case(
        "unstepped up to a signal, then stepped from there",
        Stream()
        .set_pc(A)
        .run(executes(A, A + 4), irq(), eintr(A + 8))
        .step_on()
        .run(executes(A + 8), sync(), debug(A + 12))
        .run(executes(A + 12), irq(), executes(A + 16), sync(), debug(A + 20)),
        *(OK, LOST_STEP),
    ),
    case(
        "unstepped up to a signal, then stepped from elsewhere",
        Stream()
        .set_pc(A)
        .run(executes(A, A + 4), irq(), eintr(A + 8))
        .step_on()
        .run(executes(A + 4), sync(), debug(A + 8)),
        WRONG_PC,
    ),
    case(
        "unstepped, PC written, stepped",
        Stream()
        .run(executes(A, A + 4), irq(), eintr(A + 8))
        .step_on()
        .set_pc(A)
        .run(executes(A), sync(), debug(A + 4)),
        OK,
    ),
    case(
        "a spent step, stepping off and on, PC written: a fresh step",
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .step_off()
        .step_on()
        .set_pc(AT_B)
        .run(executes(AT_B), sync(), debug(AT_B + 8)),
        OK,
    ),
    case(
        "only unstepped runs",
        Stream()
        .set_pc(A)
        .run(executes(A, A + 4), sync(), debug(A + 8))
        .run(executes(A + 8), sync(), mmio(A + 8)),
    ),
    case(
        "other records are passed over",
        stepped(A, A + 4)
        .note(RecordKind.PASS)
        .note(RecordKind.REGISTER)
        .run(executes(A + 4), sync(), debug(A + 8)),
        *(OK, OK),
    ),
    case(
        "other truth is passed over",
        Stream()
        .happens(marks(Mark.JOB_BEGIN))
        .step_on()
        .set_pc(A)
        .run(executes(A), learns_vectors(), sync(), debug(A + 4))
        .happens(marks(Mark.JOB_END), executes(A + 32)),
        OK,
    ),
    case("nothing at all", Stream()),
    case("no return from KVM_RUN", Stream().step_on().set_pc(A).step_off()),
)

CASES = (
    *PLAIN,
    *SPURIOUS,
    *EXITS,
    *BRANCHES,
    *TAKEN,
    *REDIRECTED,
    *INTERRUPTED,
    *AROUND,
    *JOINED,
    *DEBUG_EXCEPTIONS,
    *JOB,
)


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name)
def test_outcomes(oracle: Oracle, one: Case) -> None:
    reports = judged(oracle, one.stream)

    assert tuple(report.outcome for report in reports) == one.outcomes


def test_no_two_cases_have_one_name() -> None:
    assert len({one.name for one in CASES}) == len(CASES)


# --- what else a step says -----------------------------------------------------------------------


def test_a_lost_step_names_what_was_executed(oracle: Oracle) -> None:
    stream = stepped(A, A + 4).run(executes(A + 4), irq(), executes(A + 8), sync(), debug(A + 12))

    lost = judged(oracle, stream)[1]

    assert lost == Report(
        run=1,
        outcome=LOST_STEP,
        executed=(A + 4, A + 8),
        previous_pc=A + 4,
        reported_pc=A + 12,
        active_pending=False,
        irq_exits=1,
    )


def test_an_active_pending_entry_is_told(oracle: Oracle) -> None:
    stream = stepping(AT_HVC).run(
        executes(AT_HVC), sync(), irq(), irq(), phantom(AT_HVC + 4), sync(), debug(AT_HVC + 4)
    )

    (report,) = judged(oracle, stream)

    assert report.active_pending
    assert report.irq_exits == 2
    assert report.executed == (AT_HVC,)


def test_a_vector_is_reached_without_an_entry_in_active_pending(oracle: Oracle) -> None:
    (quiet,) = judged(oracle, calls(from_pstate=EL1H, to=FROM_EL1H))
    interrupted = stepping(AT_SVC).run(
        executes(AT_SVC), irq(), phantom(FROM_EL1H), sync(), debug(FROM_EL1H)
    )
    (entered,) = judged(oracle, interrupted)

    assert (quiet.active_pending, entered.active_pending) == (False, True)


def test_an_irq_that_spends_the_step_is_no_entry_in_active_pending(oracle: Oracle) -> None:
    """L2 was entered to execute what it did not, or not to its end; but where the instruction was
    completed before, or L1 came between, it was entered in Active-pending."""
    taken = [phantom(V), sync(), at_vector(V, A)]
    faulted = [executes(AT_LDR), sync(), phantom(V), sync(), at_vector(V, AT_LDR)]
    completed = [executes(AT_HVC), sync(), phantom(V), sync(), at_vector(V, AT_HVC + 4)]
    again = [phantom(V), irq(), *taken]
    stands_there = [phantom(V), sync(), debug(V)]
    found = [
        judged(oracle, stepping(pc).run(*rows))[0].active_pending
        for pc, rows in (
            (A, taken),
            (AT_LDR, faulted),
            (AT_HVC, completed),
            (A, again),
            (V, stands_there),
        )
    ]
    assert found == [False, False, True, True, True]


def test_redirects_are_counted(oracle: Oracle) -> None:
    twice = stepping().run(
        executes(A), redirected(), phantom(A + 4), redirected(), phantom(A + 4), sync(),
        debug(A + 4),
    )  # fmt: skip

    assert [report.redirects for report in judged(oracle, twice)] == [2]
    assert [report.irq_exits for report in judged(oracle, twice)] == [2]


def test_without_vectors_nobody_knows_where_an_exception_goes(oracle: Oracle) -> None:
    stream = calls(from_pstate=EL1H, to=FROM_EL1H)

    (report,) = oracle(stream.records, stream.truth, stream.phantom, WORDS)

    assert report.outcome == WRONG_PC


@pytest.mark.parametrize("outcome_of", [OK, SPURIOUS_STEP])
def test_l2_takes_interrupts_only_where_it_has_a_handler(oracle: Oracle, outcome_of: str) -> None:
    stream = stepping().run(*excursion(AT_VECTORS + 0x280, A))
    irq_base = IRQ_BASE if outcome_of == OK else None

    (report,) = oracle(
        *(stream.records, stream.truth, stream.phantom, WORDS), (AT_VECTORS, irq_base)
    )

    assert report.outcome == outcome_of


def test_after_unstepped_runs_a_step_begins_where_user_space_saw_l2_last(oracle: Oracle) -> None:
    stream = Stream().set_pc(A).run(executes(A, A + 4), irq(), eintr(A + 8)).step_on()

    (report,) = judged(oracle, stream.run(executes(A + 8), sync(), debug(A + 12)))

    assert report.previous_pc == A + 8


def test_after_a_reset_nobody_knows_where_l2_stands(oracle: Oracle) -> None:
    stream = stepping().vcpu_init().run(executes(A), sync(), debug(A + 4))

    (report,) = judged(oracle, stream)

    assert report.previous_pc is None


def test_a_joined_step_is_numbered_by_the_run_that_closes_it(oracle: Oracle) -> None:
    stream = stepping().run(irq(), eintr(A)).run(executes(A), sync(), debug(A + 4))

    (report,) = judged(oracle, stream)

    assert report.run == 1
    assert report.previous_pc == A


def test_the_first_step_may_have_no_previous_pc(oracle: Oracle) -> None:
    (report,) = judged(oracle, Stream().step_on().run(executes(A), sync(), debug(A + 4)))

    assert report.previous_pc is None
    assert report.outcome == OK


def test_groups_name_their_first_run() -> None:
    stream = stepping().run(irq(), eintr(A)).run(executes(A), sync(), debug(A + 4))

    steps = judge(stream.records, stream.truth, stream.phantom, tables_of(WORDS))

    assert steps.first_run.tolist() == [0]
    assert steps.run.tolist() == [1]


def test_every_outcome_but_ok_is_a_violation() -> None:
    of_steps = {outcome.violation for outcome in Judged if outcome is not Judged.OK}
    of_others = {
        *(ViolationKind.SS_LEAK, ViolationKind.STATE_MISMATCH),
        *(ViolationKind.LOST_INTERRUPT, ViolationKind.SPURIOUS_INTERRUPT),
    }
    assert of_steps == set(ViolationKind) - of_others
    with pytest.raises(KeyError):
        _ = Judged.OK.violation


# --- truth that does not fit ---------------------------------------------------------------------

MISFITS = {
    "a mark too many": stepped(A, A + 4).happens(marks(Mark.RETURNED)),
    "a mark without any report": Stream().happens(marks(Mark.RETURNED)),
}


@pytest.mark.parametrize("stream", MISFITS.values(), ids=MISFITS)
def test_marks_that_do_not_match_are_corrupt(oracle: Oracle, stream: Stream) -> None:
    with pytest.raises(CorruptDataError, match="marks"):
        judged(oracle, stream)


def test_truth_that_stops_early_is_corrupt(oracle: Oracle) -> None:
    stream = stepped(A, A + 4, A + 8)

    with pytest.raises(CorruptDataError, match="1 marks"):
        oracle(stream.records, stream.truth[:3], stream.phantom[:3], WORDS)


def test_empty_arrays_judge_nothing(oracle: Oracle) -> None:
    nothing = np.zeros(0, dtype=bool)

    assert oracle(np.zeros(0, STEP_RECORD), np.zeros(0, TRUTH_RECORD), nothing, WORDS) == []


# --- at random -----------------------------------------------------------------------------------

BROKEN = [bug for bug in Bug if bug is not Bug.NONE]


@settings(max_examples=EXAMPLES, deadline=None)
@given(simulations([Bug.NONE]))
def test_a_correct_kernel_violates_nothing(one: Simulated) -> None:
    reports = simulated(judged_by_arrays, one)

    assert [report.outcome for report in reports] == [OK] * len(one.expected)


@settings(max_examples=EXAMPLES, deadline=None)
@given(simulations(BROKEN))
def test_a_broken_kernel_violates_what_it_violates(one: Simulated) -> None:
    reports = simulated(judged_by_arrays, one)

    assert [report.outcome for report in reports] == list(one.expected)


@settings(max_examples=EXAMPLES, deadline=None)
@given(simulations(list(Bug)))
def test_the_model_knows_the_simulation(one: Simulated) -> None:
    reports = simulated(judged_by_model, one)

    assert [report.outcome for report in reports] == list(one.expected)


@settings(max_examples=EXAMPLES, deadline=None)
@given(simulations(list(Bug)))
def test_arrays_and_model_agree_on_simulations(one: Simulated) -> None:
    assert simulated(judged_by_arrays, one) == simulated(judged_by_model, one)


@settings(max_examples=2 * EXAMPLES, deadline=None)
@given(garbage())
def test_arrays_and_model_agree_on_garbage(one: Garbage) -> None:
    assert told(judged_by_arrays, one) == told(judged_by_model, one)


def simulated(oracle: Oracle, one: Simulated) -> list[Report]:
    """What an oracle says about a simulation."""
    arrays = one.stream.records, one.stream.truth, one.stream.phantom
    return oracle(*arrays, one.words, (BASE, one.irq_base))


def told(oracle: Oracle, one: Garbage) -> list[Report] | None:
    """What an oracle says about garbage; None where it refuses. It may raise nothing else."""
    try:
        arrays = one.records, one.truth, one.phantom
        return oracle(*arrays, one.words, (one.vectors, one.irq_base))
    except CorruptDataError:
        return None
