"""Successors and classes of A64 instructions, against capstone and against the payloads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import capstone
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference_model import NO_SUCCESSOR as NOBODY_KNOWS
from reference_model import TO_VECTORS, mnemonic_and_target, msr_register, successors
from streams import (
    ADD,
    BASE,
    BRK,
    DBGBVR0,
    DBGWCR3,
    ERET,
    FMOV,
    HVC,
    LDR,
    MRS,
    MSR_DBGBVR0,
    MSR_DBGWCR3,
    MSR_MDSCR,
    NOP,
    SMC,
    SVC,
    UDF,
    b,
    b_cond,
    br,
    cbz,
    payload_of,
    tbz,
)

from qemu_diff.abi import REGISTER_MDSCR_EL1
from qemu_diff.compare.decode import (
    BRANCH_REGISTER,
    CLASSES,
    NO_SUCCESSOR,
    Program,
    branch_offset,
    classify,
    program_of,
    written_register,
)
from qemu_diff.errors import CompileError
from qemu_diff.guest.image import build_payload
from qemu_diff.model import Payload

EXAMPLES = 400
GUEST_IMAGES = Path(__file__).parents[3] / "guest_images"
PAYLOADS = sorted(path.stem for path in (GUEST_IMAGES / "payloads").glob("*.S"))
REGISTER = BASE + 0x40
"""What every branch register holds here."""
VECTORS_AT = BASE + 0x1000
DRPS = 0xD6BF03E0

LISTING = (
    (0x14000002, "b #0x5a5a0008", "branch"),
    (0x97FFFFFF, "bl #0x5a59fffc", "branch-link"),
    (0x54000041, "b.ne #0x5a5a0008", "branch-conditional"),
    (0xB4000040, "cbz x0, #0x5a5a0008", "compare-branch"),
    (0x35FFFFE1, "cbnz w1, #0x5a59fffc", "compare-branch"),
    (0x36080040, "tbz w0, #1, #0x5a5a0008", "test-branch"),
    (0xB7F80040, "tbnz x0, #0x3f, #0x5a5a0008", "test-branch"),
    (0xD61F0100, "br x8", "branch-register"),
    (0xD63F0100, "blr x8", "branch-register"),
    (0xD65F03C0, "ret", "branch-register"),
    (0xD69F03E0, "eret", "eret"),
    (0xD69F0BFF, "eretaa", "branch-opaque"),
    (0xD6BF03E0, "drps", "branch-opaque"),
    (0xD65F0BFF, "retaa", "branch-opaque"),
    (0xD71F0801, "braa x0, x1", "branch-opaque"),
    (0xD63F081F, "blraaz x0", "branch-opaque"),
    (0xD4000001, "svc #0", "svc"),
    (0xD4000002, "hvc #0", "hvc"),
    (0xD4000003, "smc #0", "smc"),
    (0xD4200000, "brk #0", "brk"),
    (0xD4400000, "hlt #0", "exception"),
    (0xD4A00001, "dcps1", "exception"),
    (0xD503201F, "nop", "nop"),
    (0xD503207F, "wfi", "hint"),
    (0xD503233F, "paciasp", "hint"),
    (0xD5033F9F, "dsb sy", "barrier"),
    (0xD5033FDF, "isb", "barrier"),
    (0xD5380400, "mrs x0, id_aa64pfr0_el1", "sysreg"),
    (0xD5184100, "msr sp_el0, x0", "sysreg"),
    (0xD50342DF, "msr daifset, #2", "system"),
    (0xD50B7420, "dc zva, x0", "system"),
    (0x58000040, "ldr x0, #0x5a5a0008", "load"),
    (0xA9400C22, "ldp x2, x3, [x1]", "load"),
    (0xA9000C22, "stp x2, x3, [x1]", "store"),
    (0xC85F7C20, "ldxr x0, [x1]", "exclusive"),
    (0x88DFFC20, "ldar w0, [x1]", "exclusive"),
    (0xF9000022, "str x2, [x1]", "store"),
    (0x39008020, "strb w0, [x1, #0x20]", "store"),
    (0xF9400023, "ldr x3, [x1]", "load"),
    (0x00000000, "udf #0", "undefined"),
    (0x91000400, "add x0, x0, #1", "alu"),
    (0x10000040, "adr x0, #0x5a5a0008", "alu"),
    (0xD2824680, "mov x0, #0x1234", "alu"),
    (0xEB03005F, "cmp x2, x3", "alu"),
    (0x9AC2082D, "udiv x13, x1, x2", "alu"),
    (0x1E6E1000, "fmov d0, #1.00000000", "fp"),
    (0x4E228420, "add v0.16b, v1.16b, v2.16b", "fp"),
    (0x04E00000, "add z0.d, z0.d, z0.d", "unknown"),
)

OF_A_CLASS = st.sampled_from(CLASSES).flatmap(
    lambda one: st.integers(0, (1 << 32) - 1).map(lambda bits: bits & ~one.mask | one.value)
)
WORDS = st.integers(0, (1 << 32) - 1) | OF_A_CLASS


# --- classes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "text", "name"), LISTING)
def test_classes(word: int, text: str, name: str) -> None:
    assert classify(word).name == name
    assert disassembled(word) == text


def test_the_listing_has_every_class() -> None:
    assert {name for _, _, name in LISTING} == {one.name for one in CLASSES} | {"unknown"}


@settings(max_examples=EXAMPLES, deadline=None)
@given(OF_A_CLASS)
def test_the_first_class_that_matches_counts(word: int) -> None:
    first = next(one for one in CLASSES if word & one.mask == one.value)

    assert classify(word) is first


def disassembled(word: int) -> str:
    """The word as capstone prints it at ``BASE``."""
    decoder = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    (one,) = decoder.disasm(word.to_bytes(4, "little"), BASE)
    return f"{one.mnemonic} {one.op_str}".strip()


# --- successors ----------------------------------------------------------------------------------


def legal_successors(word: int) -> set[int]:
    """By the tables of a program of this one word, if a range may hold it at all."""
    return set(program_of(payload_of([word])).successors(BASE, REGISTER))


def follow(program: Program, mode: int) -> set[int]:
    """The same by its arrays: what it may be of all that it could be."""
    candidates = {BASE + 4, REGISTER, BASE, NO_SUCCESSOR, *range(VECTORS_AT, VECTORS_AT + 0x800, 4)}
    candidates |= {int(program.target[0]), int(program.fall_through[0])}
    pcs = np.array(sorted(candidates))
    same = np.full(len(pcs), BASE)
    legal = program.follows(
        same, pcs, np.full(len(pcs), REGISTER), np.ones(len(pcs), bool), np.full(len(pcs), mode)
    )
    return set(pcs[legal].tolist())


@settings(max_examples=EXAMPLES, deadline=None)
@given(WORDS, st.sampled_from([-1, 0, 4, 5, 8, 0x10]))
def test_successors_are_capstone_s(word: int, mode: int) -> None:
    one = classify(word)
    assume((one.decidable or one.to_vector) and mnemonic_and_target(word, BASE)[0])
    program = program_of(payload_of([word], VECTORS_AT))

    expected = successors(BASE, word, REGISTER, VECTORS_AT, mode)
    assert set(program.successors(BASE, REGISTER, mode)) == expected
    assert follow(program, mode) == expected


@settings(max_examples=EXAMPLES, deadline=None)
@given(WORDS | st.integers(0, (1 << 20) - 1).map(lambda bits: 0xD5100000 | bits))
def test_written_registers_are_bit_by_bit_right(word: int) -> None:
    assert written_register(word) == msr_register(word)


@pytest.mark.parametrize(
    ("word", "register"),
    [
        (MSR_MDSCR, REGISTER_MDSCR_EL1),
        (MSR_DBGBVR0, DBGBVR0),
        (MSR_DBGWCR3, DBGWCR3),
        (0xD5300240, None),  # mrs x0, mdscr_el1
        (0xD50342DF, None),  # msr daifset, #2
        (NOP, None),
    ],
)
def test_registers_that_are_written(word: int, register: int | None) -> None:
    assert written_register(word) == register


@settings(max_examples=EXAMPLES, deadline=None)
@given(WORDS)
def test_branch_targets_are_capstone_s(word: int) -> None:
    name, target = mnemonic_and_target(word, BASE)
    assume(name)

    offset = branch_offset(word, classify(word))

    assert (None if offset is None else BASE + offset) == target


@settings(max_examples=EXAMPLES, deadline=None)
@given(WORDS)
def test_what_goes_nobody_knows_where_is_not_decidable(word: int) -> None:
    name, _ = mnemonic_and_target(word, BASE)

    if classify(word).decidable:
        # BRK never retires: it is reported by itself.
        assert name not in NOBODY_KNOWS - {"brk"}
        assert name not in TO_VECTORS


@pytest.mark.parametrize("word", [DRPS, SVC, UDF, BRK], ids=["drps", "svc", "udf", "brk"])
def test_what_goes_nobody_knows_where_has_no_successor(word: int) -> None:
    assert legal_successors(word) == set()


@pytest.mark.parametrize("offset", [-(1 << 20), -8, -4, 0, 4, 8, (1 << 20) - 4])
def test_offsets_are_signed(offset: int) -> None:
    assert legal_successors(b_cond(offset)) == {BASE + 4, BASE + offset}
    assert legal_successors(cbz(offset)) == {BASE + 4, BASE + offset}
    assert legal_successors(b(offset)) == {BASE + offset}


@pytest.mark.parametrize("offset", [-(1 << 15), (1 << 15) - 4])
def test_test_branches_reach_32_kib(offset: int) -> None:
    assert legal_successors(tbz(offset, bit=33)) == {BASE + 4, BASE + offset}


def test_successors_ascend() -> None:
    program = program_of(payload_of([NOP, NOP, b_cond(-8)]))

    assert program.successors(BASE + 8) == (BASE, BASE + 12)


@pytest.mark.parametrize("pc", [BASE - 4, BASE + 8, BASE + 2, 0])
def test_a_pc_outside_has_no_successor(pc: int) -> None:
    assert program_of(payload_of([NOP, NOP])).successors(pc) == ()


def test_bytes_after_the_last_word_are_no_instruction() -> None:
    payload = Payload(
        "odd", NOP.to_bytes(4, "little") + b"\0\0", BASE, BASE, BASE, BASE, labels=(), classes=()
    )

    assert program_of(payload).end == BASE + 4


@pytest.mark.parametrize("word", [b(0), cbz(4), br(), ERET, SVC, UDF, BRK, HVC])
def test_what_executes_once_is_told(word: int) -> None:
    pcs = np.array([BASE, BASE + 4, BASE - 4, BASE + 8])
    program = program_of(payload_of([word, NOP]))

    assert program.executes_once(pcs).tolist() == [True, False, False, False]


@pytest.mark.parametrize("word", [SMC, LDR, MRS, FMOV])
def test_what_may_execute_again_is_told(word: int) -> None:
    assert not program_of(payload_of([word])).executes_once(np.array([BASE])).any()


def test_classes_are_told_by_name() -> None:
    program = program_of(payload_of([SVC, ERET, UDF, BRK, NOP, 0x04E00000]))
    pcs = BASE + 4 * np.arange(-1, 7)

    told = {name: program.is_of(pcs, name).tolist() for name in ("svc", "eret", "undefined", "brk")}

    assert {name: one.index(True) for name, one in told.items()} == {
        "svc": 1,
        "eret": 2,
        "undefined": 3,
        "brk": 4,
    }
    assert all(sum(one) == 1 for one in told.values())


def test_a_program_without_words_holds_nothing() -> None:
    program = program_of(payload_of([]))

    assert not program.holds(np.array([BASE])).any()


# --- payloads ------------------------------------------------------------------------------------


def ranged(words: list[int], begin: int, end: int, *classes: str) -> Payload:
    """A payload whose stepping range is [begin, end), in words."""
    first, last = BASE + 4 * begin, BASE + 4 * end
    whole = payload_of(words)
    return Payload("test", whole.blob, BASE, first, first, last, labels=(), classes=classes)


REFUSED = {
    "svc": (SVC, "svc"),
    "udf": (UDF, "undefined"),
    "drps": (DRPS, "branch-opaque"),
    "eretaa": (0xD69F0BFF, "branch-opaque"),
    "braa": (0xD71F0801, "branch-opaque"),
    "hlt": (0xD4400000, "exception"),
    "sve": (0x04E00000, "unknown"),
}


@pytest.mark.parametrize(("word", "name"), REFUSED.values(), ids=REFUSED)
def test_a_range_may_not_hold_what_goes_nobody_knows_where(word: int, name: str) -> None:
    payload = ranged([NOP, word, NOP], 0, 3, "nop", name)

    with pytest.raises(CompileError, match=rf"payload test: {word:#010x} at 0x5a5a0004 \({name}\)"):
        program_of(payload)


@pytest.mark.parametrize(("word", "name"), [(SVC, "svc"), (UDF, "undefined")])
def test_with_vectors_a_range_may_hold_what_goes_there(word: int, name: str) -> None:
    payload = ranged([word, NOP], 0, 2, "nop", name)

    program_of(replace(payload, labels=((VECTORS_AT, "vectors"),)))
    with pytest.raises(CompileError, match="it has no label 'vectors'"):
        program_of(replace(payload, labels=((VECTORS_AT, "vectorz"),)))


def test_vectors_must_be_aligned() -> None:
    payload = replace(payload_of([NOP]), labels=((BASE + 0x400, "vectors"),))

    with pytest.raises(CompileError, match=r"payload test: vectors is at 0x5a5a0400.*align"):
        program_of(payload)


def test_a_range_may_hold_eret() -> None:
    program_of(ranged([ERET, NOP], 0, 2, "nop", "eret"))


@pytest.mark.parametrize("word", [DRPS, SVC, UDF])
def test_outside_of_the_range_it_may_lie(word: int) -> None:
    program_of(ranged([word, NOP, word], 1, 2, "nop"))


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ((), "holds alu, nop; it states "),
        (("nop",), "holds alu, nop; it states nop"),
        (("alu", "nop", "hvc"), "holds alu, nop; it states alu, hvc, nop"),
        (("alu", "nops"), "holds alu, nop; it states alu, nops"),
    ],
)
def test_classes_must_be_stated_as_they_are(stated: tuple[str, ...], named: str) -> None:
    with pytest.raises(CompileError, match=named):
        program_of(ranged([NOP, ADD, HVC], 0, 2, *stated))


def test_classes_are_those_of_the_range() -> None:
    program_of(ranged([HVC, NOP, ADD, br()], 1, 3, "alu", "nop"))


@pytest.mark.parametrize("name", PAYLOADS)
def test_payloads_agree_with_capstone(name: str, tmp_path: Path) -> None:
    payload = build_payload(name, GUEST_IMAGES, tmp_path)
    program = program_of(payload)

    for pc in range(payload.begin, payload.end, 4):
        word = word_at(payload, pc)
        expected = successors(pc, word, REGISTER, program.vectors)
        assert set(program.successors(pc, REGISTER)) == expected, hex(pc)
        assert register_branch_at(program, pc) == (classify(word).name in (BRANCH_REGISTER, "eret"))


def word_at(payload: Payload, pc: int) -> int:
    """An instruction word of a payload."""
    offset = pc - payload.load_address
    return int.from_bytes(payload.blob[offset : offset + 4], "little")


def register_branch_at(program: Program, pc: int) -> bool:
    """Whether a register decides, by the tables."""
    index = (pc - program.load_address) // 4
    if program.by_register[index]:
        assert program.fall_through[index] == program.target[index] == NO_SUCCESSOR
    return bool(program.by_register[index])
