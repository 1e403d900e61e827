"""What happened in a stretch of a boot, with the software step state at every border."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from reference_model import SS
from streams import (
    BASE,
    BRK,
    DBGBVR0,
    EL1H,
    HVC,
    LDR,
    MRS,
    NOP,
    SMC,
    STEPPING_ON,
    SVC,
    WITH_HARDWARE,
    X8,
    Bug,
    Simulated,
    Stream,
    debug,
    eintr,
    executes,
    hypercall,
    irq,
    leaves_through,
    mmio,
    payload_of,
    phantom,
    redirected,
    simulations,
    sync,
)

from qemu_diff.abi import STEP_RECORD, ExceptionClass, RecordKind, StepState, TruthKind
from qemu_diff.compare.decode import program_of
from qemu_diff.compare.sequence import (
    Event,
    SequenceRow,
    job_words,
    sequence,
    sequence_of_pass,
    sequence_of_step,
)
from qemu_diff.trace.listing import Listing
from qemu_diff.trace.trace import Trace

WORDS = (NOP, NOP, MRS, NOP, HVC, NOP, SMC, NOP, LDR, NOP, SVC, NOP, BRK, NOP)
A, AT_MRS, AT_HVC, AT_SMC, AT_LDR, AT_SVC, AT_BRK = (
    BASE + 4 * WORDS.index(word) for word in (NOP, MRS, HVC, SMC, LDR, SVC, BRK)
)
AT_VECTORS = BASE + 0x800
PAYLOAD = replace(payload_of(WORDS), labels=((A, "entry"), (AT_VECTORS, "vectors")))

FRESH, SPENT, OFF = "not-pending", "pending", "inactive"
NAMES = {
    StepState.UNKNOWN: "",
    StepState.INACTIVE: OFF,
    StepState.ACTIVE_NOT_PENDING: FRESH,
    StepState.ACTIVE_PENDING: SPENT,
}


def trace(stream: Stream) -> Trace:
    return Trace(stream.records, stream.truth, stream.phantom, np.zeros(0, np.uint64))


def rows(stream: Stream, first: int = 0, last: int | None = None) -> tuple[SequenceRow, ...]:
    runs = int((stream.records["kind"] == RecordKind.RUN).sum())
    end = runs - 1 if last is None else last
    return sequence(trace(stream), program_of(PAYLOAD), Listing(PAYLOAD), first, end)


def states(stream: Stream) -> list[str]:
    """``event state``, of all that happens in L2."""
    found = []
    for row in rows(stream):
        if row.event not in (Event.JOB, Event.RETURN):
            found.append(f"{row.event} {NAMES[row.state]}{'' if row.certain else '?'}")
    return found


def stepping(pc: int = A) -> Stream:
    return Stream().step_on().set_pc(pc)


STEP = [f"entry {FRESH}", f"execute {FRESH}", f"exit {SPENT}"]
PENDING_STEP = [f"entry {SPENT}", f"exit {SPENT}"]
TRAP = [f"entry {FRESH}", f"execute {FRESH}", f"exit {FRESH}"]

CASES = {
    "a plain step": (stepping().run(executes(A), sync(), debug(A + 4)), STEP),
    "an interrupt after the instruction, a correct kernel": (
        stepping().run(executes(A), irq(), phantom(A + 4), sync(), debug(A + 4)),
        [*STEP, *PENDING_STEP],
    ),
    "an interrupt after the instruction, an unfixed kernel": (
        stepping().run(executes(A), irq(), executes(A + 4), sync(), debug(A + 8)),
        [*STEP, *STEP],
    ),
    "an interrupt at the first entry": (
        stepping().run(irq(), executes(A), sync(), debug(A + 4)),
        [f"entry {FRESH}?", f"exit {FRESH}?", *STEP],
    ),
    "interrupts at an entry in Active-pending": (
        stepping().run(executes(A), irq(), irq(), phantom(A + 4), sync(), debug(A + 4)),
        [*STEP, f"entry {SPENT}?", f"exit {SPENT}?", *PENDING_STEP],
    ),
    "a signal in Active-pending": (
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .run(irq(), phantom(A + 4), sync(), debug(A + 4)),
        [*STEP, f"entry {SPENT}?", f"exit {SPENT}?", *PENDING_STEP],
    ),
    "stepping off and on in Active-pending": (
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .step_off()
        .step_on()
        .run(irq(), executes(A + 4), sync(), debug(A + 8)),
        [*STEP, f"entry {FRESH}?", f"exit {FRESH}?", *STEP],
    ),
    "hardware breakpoints added in Active-pending": (
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .control(STEPPING_ON | WITH_HARDWARE)
        .run(irq(), eintr(A + 4)),
        [*STEP, f"entry {SPENT}?", f"exit {SPENT}?"],
    ),
    "a reset in Active-pending": (
        stepping().run(executes(A), irq(), eintr(A + 4)).vcpu_init().run(irq(), eintr(A)),
        [*STEP, f"entry {FRESH}?", f"exit {FRESH}?"],
    ),
    "HVC has completed": (
        stepping(AT_HVC).run(
            executes(AT_HVC), sync(), irq(), phantom(AT_HVC + 4), sync(), debug(AT_HVC + 4)
        ),
        [*STEP, f"entry {SPENT}?", f"exit {SPENT}?", *PENDING_STEP],
    ),
    "HVC to user space": (
        stepping(AT_HVC).run(executes(AT_HVC), sync(), hypercall(AT_HVC + 4)),
        STEP,
    ),
    "SMC has not": (stepping(AT_SMC).run(executes(AT_SMC), sync(), hypercall(AT_SMC)), TRAP),
    "a trapped MRS is skipped, which completes it": (
        stepping(AT_MRS).run(
            executes(AT_MRS), sync(), irq(), phantom(AT_MRS + 4), sync(), debug(AT_MRS + 4)
        ),
        [*TRAP, f"entry {SPENT}?", f"exit {SPENT}?", *PENDING_STEP],
    ),
    "a load faults and executes again": (
        stepping(AT_LDR).run(
            executes(AT_LDR), sync(), irq(), executes(AT_LDR), sync(), debug(AT_LDR + 4)
        ),
        [*TRAP, f"entry {FRESH}?", f"exit {FRESH}?", *STEP],
    ),
    "a load from a device": (stepping(AT_LDR).run(executes(AT_LDR), sync(), mmio(AT_LDR)), TRAP),
    "a watchpoint": (
        stepping(AT_LDR).run(executes(AT_LDR), sync(), debug(AT_LDR, ExceptionClass.WATCHPOINT)),
        TRAP,
    ),
    "BRK": (
        stepping(AT_BRK).run(executes(AT_BRK), sync(), debug(AT_BRK, ExceptionClass.BRK)),
        TRAP,
    ),
    "BRK that the job wrote over another instruction": (
        stepping().run(executes(A), sync(), debug(A, ExceptionClass.BRK)),
        TRAP,
    ),
    "a step exception that is not reported": (
        stepping().run(executes(A), sync(), executes(A + 4), sync(), debug(A + 8)),
        [*STEP, *STEP],
    ),
    "an SVC that is interrupted by its own step exception, unreported": (
        stepping(AT_SVC).run(executes(AT_SVC), sync(), eintr(AT_VECTORS)),
        STEP,
    ),
    "SVC comes to its vector without an entry": (
        stepping(AT_SVC).run(
            executes(AT_SVC), phantom(AT_VECTORS + 0x200), sync(), debug(AT_VECTORS + 0x200)
        ),
        STEP,
    ),
    "a redirected step exception": (
        stepping().run(executes(A), redirected(), phantom(A + 4), sync(), debug(A + 4)),
        [*STEP, f"redirect {SPENT}", f"exit {SPENT}", *PENDING_STEP],
    ),
    "redirected twice, from an entry in Active-pending": (
        stepping().run(
            executes(A), redirected(), phantom(A + 4), redirected(), phantom(A + 4), sync(),
            debug(A + 4),
        ),
        [
            *STEP, f"redirect {SPENT}", f"exit {SPENT}",
            *PENDING_STEP, f"redirect {SPENT}", f"exit {SPENT}", *PENDING_STEP,
        ],
    ),
    "an interrupt right after a redirect": (
        stepping().run(executes(A), redirected(), irq(), eintr(A + 4)),
        [*STEP, f"redirect {SPENT}", f"exit {SPENT}", f"entry {SPENT}?", f"exit {SPENT}?"],
    ),
    "a step exception that nothing shows but the report": (
        stepping().run(sync(), debug(A)),
        [f"entry {SPENT}", f"exit {SPENT}"],
    ),
    "a breakpoint at once": (
        stepping().run(sync(), debug(A, ExceptionClass.BREAKPOINT)),
        [f"entry {FRESH}?", f"exit {FRESH}?"],
    ),
    "unstepped": (
        Stream().set_pc(A).run(executes(A, A + 4), irq(), irq(), eintr(A + 8)),
        [f"entry {OFF}", f"execute {OFF}", f"execute {OFF}", f"exit {OFF}",
         f"entry {OFF}", f"exit {OFF}"],
    ),
    "unstepped, then an interrupt at the first stepped entry": (
        Stream().set_pc(A).run(irq(), eintr(A)).step_on().run(irq(), eintr(A)),
        [f"entry {OFF}", f"exit {OFF}", f"entry {FRESH}?", f"exit {FRESH}?"],
    ),
    "a kick never enters": (stepping().kick(A), []),
    "an exit that the truth does not show": (
        stepping().run(executes(A), eintr(A + 4)),
        [f"entry {FRESH}", f"execute {FRESH}"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("stream", "expected"), CASES.values(), ids=CASES)
def test_states(stream: Stream, expected: list[str]) -> None:
    assert states(stream) == expected


def test_what_the_truth_says_of_the_state_counts() -> None:
    stream = Stream().set_pc(A).run(executes(A), irq(), eintr(A + 4))
    whole = trace(stream)
    whole.truth["step_state"][0] = StepState.ACTIVE_NOT_PENDING
    found = sequence(whole, program_of(PAYLOAD), Listing(PAYLOAD), 0, 0)
    entry, execute = (row for row in found if row.event in (Event.ENTRY, Event.EXECUTE))
    assert (entry.state, execute.state) == (StepState.ACTIVE_NOT_PENDING,) * 2


def test_rows_say_where_l2_stands() -> None:
    stream = stepping(AT_MRS).run(
        executes(AT_MRS), sync(), irq(), phantom(AT_MRS + 4), sync(), debug(AT_MRS + 4)
    )
    at = [(row.event, row.instruction.address) for row in rows(stream) if row.instruction]
    assert at == [
        (Event.JOB, AT_MRS),
        (Event.ENTRY, AT_MRS),
        (Event.EXECUTE, AT_MRS),
        (Event.EXIT, AT_MRS),
        (Event.ENTRY, AT_MRS + 4),
        (Event.EXIT, AT_MRS + 4),
        (Event.ENTRY, AT_MRS + 4),
        (Event.EXIT, AT_MRS + 4),
        (Event.RETURN, AT_MRS + 4),
    ]


def test_exits_are_named() -> None:
    stream = (
        stepping(AT_HVC)
        .run(executes(AT_HVC), sync(), leaves_through(0x500), eintr(AT_HVC + 4))
        .run(leaves_through(0x580), phantom(AT_HVC + 4), sync(), debug(AT_HVC + 4))
        .set_pc(AT_LDR)
        .run(executes(AT_LDR), leaves_through(0x600), executes(AT_LDR), redirected(), eintr(A))
    )
    assert [row.note for row in rows(stream) if row.event in (Event.EXIT, Event.REDIRECT)] == [
        "synchronous: HVC, which has completed",
        "FIQ",
        "SError",
        "synchronous: Software Step exception",
        "synchronous: a trap or fault, not completed",
        "synchronous: Software Step exception",
        "to the IRQ vector",
        "IRQ",
    ]


def test_returns_are_named_with_what_user_space_reads() -> None:
    stream = (
        Stream()
        .run(eintr(A), pstate=EL1H)
        .step_on()
        .kick(A)
        .run(executes(A), sync(), debug(A + 4), pstate=EL1H | SS)
    )
    returns = [row for row in rows(stream) if row.event is Event.RETURN]
    assert [(row.report, row.note, row.pstate_ss) for row in returns] == [
        (0, "EINTR, not stepping", 0),
        (1, "EINTR (immediate_exit)", 0),
        (2, "KVM_EXIT_DEBUG Software Step", 1),
    ]


def test_only_what_was_asked_for_is_told() -> None:
    stream = (
        stepping()
        .run(executes(A), irq(), eintr(A + 4))
        .set_pstate(EL1H)
        .run(irq(), eintr(A + 4))
        .run(phantom(A + 4), sync(), debug(A + 4))
        .step_off()
    )
    middle = rows(stream, 1, 1)
    assert [row.report for row in middle] == [1] * 4
    assert [row.event for row in middle] == [Event.JOB, Event.ENTRY, Event.EXIT, Event.RETURN]
    # What the exit of report 0 left is known, though it is not shown.
    assert middle[1].state is StepState.ACTIVE_PENDING
    assert rows(stream, 2, 1) == rows(stream, 3, 3) == rows(stream, -1, 0) == ()


def test_a_step_is_all_that_was_joined() -> None:
    stream = (
        stepping()
        .run(executes(A), sync(), debug(A + 4))
        .run(executes(A + 4), irq(), eintr(A + 8))
        .run(phantom(A + 8), sync(), debug(A + 8))
    )
    of_step = [
        sequence_of_step(trace(stream), program_of(PAYLOAD), Listing(PAYLOAD), report)
        for report in range(4)
    ]
    assert [{row.report for row in one} for one in of_step] == [{0}, {1}, {1, 2}, set()]


def test_a_pass() -> None:
    stream = Stream().step_on()
    for _ in range(2):
        stream.note(RecordKind.PASS).set_pc(A).run(executes(A), sync(), debug(A + 4))
    of_pass = [
        sequence_of_pass(trace(stream), program_of(PAYLOAD), Listing(PAYLOAD), number)
        for number in range(3)
    ]
    assert [{row.report for row in one} for one in of_pass] == [{0}, {1}, set()]
    assert [row.note for row in of_pass[1]][:2] == ["pass 0", f"set pc {A:#x}"]


def note_of(stream: Stream) -> str:
    return job_words(stream.records[-1])


def test_the_job_s_words() -> None:
    assert note_of(Stream().set_pstate(EL1H | SS)) == "set pstate 0x2003c5"
    assert note_of(Stream().set_register(X8, 1)) == f"set register {X8:#x} 0x1"
    assert note_of(Stream().read(DBGBVR0, 5)) == "read DBGBVR0_EL1: 0x5"
    assert note_of(Stream().step_on()) == "debug ENABLE|SINGLESTEP"
    assert note_of(Stream().step_off()) == "debug off"
    assert note_of(Stream().control(STEPPING_ON | WITH_HARDWARE)) == (
        "debug ENABLE|SINGLESTEP|USE_HW, DBGBVR0 0x0, DBGBCR0 0x0"
    )
    assert note_of(Stream().vcpu_init()) == "KVM_ARM_VCPU_INIT"
    assert note_of(Stream().note(RecordKind.UNMAP)) == (
        "take the memory slot away and give it back"
    )
    record = np.zeros((), STEP_RECORD)
    record["kind"], record["detail"] = RecordKind.WRITE, (A, NOP, BRK, 0)
    assert job_words(record) == "write 0x5a5a0000: 0xd503201f becomes 0xd4200000"
    record["kind"] = 77
    assert job_words(record) == "record of kind 77"


@settings(max_examples=100, deadline=None)
@given(simulations(list(Bug)))
def test_every_simulation_has_a_sequence(one: Simulated) -> None:
    payload = payload_of(one.words, BASE, one.irq_base)
    whole = trace(one.stream)
    runs = int((whole.records["kind"] == RecordKind.RUN).sum())
    found = sequence(whole, program_of(payload), Listing(payload), 0, runs - 1)
    last = int(np.flatnonzero(whole.records["kind"] == RecordKind.RUN)[-1]) if runs else -1
    assert count(found, Event.JOB) == last + 1 - runs
    assert count(found, Event.RETURN) == runs
    if runs:
        executed = (whole.truth["kind"] == TruthKind.INSTRUCTION) & ~whole.phantom
        assert count(found, Event.EXECUTE) == int(executed.sum())
        assert count(found, Event.EXIT) == int((whole.truth["kind"] == TruthKind.EXIT).sum())
        redirects = int((whole.truth["kind"] == TruthKind.REDIRECT).sum())
        assert count(found, Event.REDIRECT) == redirects
        assert count(found, Event.ENTRY) == count(found, Event.EXIT) - redirects


def count(found: tuple[SequenceRow, ...], event: Event) -> int:
    return sum(row.event is event for row in found)
