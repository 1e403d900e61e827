"""One boot in words: findings of steps and of registers, and whose interrupt they go with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from reference_model import SS
from streams import (
    BASE,
    DBGBVR0,
    EL0,
    EL1H,
    NOP,
    SVC,
    Stream,
    debug,
    eintr,
    executes,
    irq,
    mmio,
    payload_of,
    phantom,
    redirected,
    sync,
)

from qemu_diff.abi import REGISTER_MDSCR_EL1, ExceptionClass, RecordKind
from qemu_diff.compare.decode import program_of
from qemu_diff.compare.observation import Observation, attribution, merge, observe
from qemu_diff.compare.placements import NOT_DELIVERED
from qemu_diff.compare.returns import return_name
from qemu_diff.model import Finding, ViolationKind
from qemu_diff.trace.listing import Listing
from qemu_diff.trace.trace import Trace

A = BASE
AT_SVC = BASE + 12
AT_VECTORS = BASE + 0x800
PAYLOAD = replace(
    payload_of([NOP, NOP, NOP, SVC, NOP]),
    labels=((A, "entry"), (A + 8, "third"), (AT_VECTORS, "vectors")),
)
SET, CLEAR = EL1H | SS, EL1H


def observed(stream: Stream, boot: str = "run") -> Observation:
    trace = Trace(stream.records, stream.truth, stream.phantom, np.zeros(0, np.uint64))
    return observe(trace, program_of(PAYLOAD), Listing(PAYLOAD), boot)


def begun() -> Stream:
    return Stream().step_on().note(RecordKind.PASS).set_pstate(CLEAR).set_pc(A)


def findings(stream: Stream) -> tuple[Finding, ...]:
    return observed(stream).findings


# --- registers ---


def test_a_leak_is_told_in_one_sentence() -> None:
    stream = begun().run(executes(A), sync(), debug(A + 4)).run(irq(), eintr(A + 4), pstate=SET)
    (leak,) = findings(stream)
    assert leak.message == (
        "user space reads PSTATE.SS = 1 at 0x5a5a0004 entry+0x4 after EINTR, while stepping; "
        "its own value is 0, written before report 0"
    )
    assert leak.kind is ViolationKind.SS_LEAK
    assert (leak.register, leak.read_value, leak.own_value) == ("PSTATE.SS", 1, 0)
    assert (leak.own_from, leak.stepping) == ("written before report 0", True)
    assert (leak.boot, leak.report, leak.pass_number) == ("run", 1, 0)
    assert leak.instruction.label == "entry+0x4"
    assert leak.attributed_to == "no-interrupt"


def test_a_mismatch_that_the_job_reads() -> None:
    stream = Stream().read(DBGBVR0, 0x1000).step_on().set_pstate(CLEAR).set_pc(A).kick(A)
    (wrong,) = findings(stream.step_off().read(DBGBVR0, 0x5A5A0000))
    assert wrong.message == (
        "user space reads DBGBVR0_EL1 = 0x5a5a0000 at 0x5a5a0000 entry when the job asks for it, "
        "while not stepping; its own value is 0x1000, read before report 0"
    )
    assert wrong.kind is ViolationKind.STATE_MISMATCH


def test_a_mismatch_after_a_reset_before_anything_is_known() -> None:
    (wrong,) = findings(Stream().vcpu_init().read(REGISTER_MDSCR_EL1, 1))
    assert wrong.message == (
        "user space reads MDSCR_EL1 = 1 at an unknown PC when the job asks for it, "
        "while not stepping; its own value is 0, reset by KVM_ARM_VCPU_INIT before report 0"
    )
    assert (wrong.report, wrong.pass_number) == (0, 0)


def test_the_first_of_each_register_and_place_is_a_finding() -> None:
    stream = begun().set_register(REGISTER_MDSCR_EL1, 0).set_register(DBGBVR0, 0)
    for _ in range(3):
        stream.run(irq(), eintr(A), pstate=SET)
        stream.read(REGISTER_MDSCR_EL1, 1).read(DBGBVR0, 1)
    stream.run(executes(A), sync(), debug(A + 4), pstate=SET)
    seen = [(one.register, one.report, one.instruction.address) for one in findings(stream)]
    assert sorted(seen) == [
        ("DBGBVR0_EL1", 0, A),
        ("MDSCR_EL1", 0, A),
        ("PSTATE.SS", 0, A),
        ("PSTATE.SS", 3, A + 4),
    ]
    again = merge([observed(stream, "first"), observed(stream, "second")])
    assert [one.boot for one in again.findings] == ["first"] * 4
    assert len(again.state) == 2 * len(observed(stream).state)


def test_a_leak_goes_with_the_interrupt_of_its_step() -> None:
    stream = (
        begun()
        .run(executes(A), redirected(), eintr(A + 4), pstate=SET)
        .run(phantom(A + 4), sync(), debug(A + 4))
        .run(executes(A + 4), sync(), debug(A + 8), pstate=SET)
    )
    assert [one.attributed_to for one in findings(stream)] == ["redirect", "no-interrupt"]


def test_a_leak_in_nobody_s_step_goes_with_no_interrupt() -> None:
    stream = begun().run(executes(A), redirected(), eintr(A + 4), pstate=SET)
    assert [one.attributed_to for one in findings(stream)] == ["no-interrupt"]


# --- steps ---


def test_a_redirected_step_that_is_lost() -> None:
    stream = (
        begun()
        .run(irq(), executes(A), irq(), executes(A + 4), sync(), debug(A + 8))
        .set_pc(A)
        .run(executes(A), redirected(), executes(A + 4), sync(), debug(A + 8))
    )
    assert [one.attributed_to for one in findings(stream)] == ["redirect", "no-interrupt"]
    whole = merge([observed(stream)])
    assert [one.attributed_to for one in whole.findings] == ["redirect", "no-interrupt"]


@pytest.mark.parametrize(
    ("ticks", "delivered", "redirects", "whose"),
    [
        (0, NOT_DELIVERED, 0, "no-interrupt"),
        (0, NOT_DELIVERED, 1, "redirect"),
        (1, NOT_DELIVERED, 1, "redirect"),
        (0, 5, 0, "placement"),
        (0, 5, 1, "placement"),
        (1, 5, 0, "l1-tick"),
        (1, 5, 1, "l1-tick"),
        (1, NOT_DELIVERED, 0, "l1-tick"),
    ],
)
def test_attributions(ticks: int, delivered: int, redirects: int, whose: str) -> None:
    assert attribution(ticks, delivered, redirects) == whose


def test_what_was_due_after_an_exception_depends_on_the_level_before() -> None:
    stream = Stream().step_on().set_pstate(EL0).set_pc(AT_SVC)
    stream.run(executes(AT_SVC), irq(), eintr(AT_SVC), pstate=EL1H)
    (wrong,) = findings(stream.run(phantom(AT_SVC), sync(), debug(AT_SVC)))
    assert [one.label for one in wrong.legal_pcs] == ["vectors+0x400"]


def test_what_was_due_after_a_register_branch_is_what_was_recorded_before_it() -> None:
    br = 0xD61F0100
    payload = payload_of([br, NOP, NOP])
    stream = Stream().step_on().set_pc(A)
    stream.run(executes(A), irq(), eintr(A + 8), branch_register=A + 8)
    stream.run(phantom(A + 8), sync(), debug(A + 4))
    trace = Trace(stream.records, stream.truth, stream.phantom, np.zeros(0, np.uint64))
    (wrong,) = observe(trace, program_of(payload), Listing(payload), "run").findings
    assert [one.address for one in wrong.legal_pcs] == [A + 8]


# --- names of returns ---


@pytest.mark.parametrize(
    ("returned", "name"),
    [
        (debug(A), "KVM_EXIT_DEBUG Software Step"),
        (debug(A, ExceptionClass.BRK), "KVM_EXIT_DEBUG BRK"),
        (debug(A, 0x3F), "KVM_EXIT_DEBUG EC 0x3f"),
        (eintr(A), "EINTR"),
        (replace(eintr(A), error=9999), "errno 9999"),
        (mmio(A), "KVM_EXIT_MMIO"),
        (replace(mmio(A), reason=99), "exit reason 99"),
    ],
)
def test_names_of_returns(returned, name: str) -> None:
    assert return_name(Stream().run(returned).records[0]) == name
