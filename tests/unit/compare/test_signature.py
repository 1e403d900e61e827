"""Broken steps with one signature are one entry."""

from __future__ import annotations

from dataclasses import replace

from streams import ADD, BASE, HVC, MRS, NOP, payload_of

from qemu_diff.compare.signature import grouped, instruction_class, signature
from qemu_diff.model import (
    Breakdown,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    ExceptionOrder,
    FloodSpec,
    Instruction,
    MachineSpec,
    Signature,
    SignatureGroup,
    ViolationKind,
    Window,
)

LOST, LEAK = ViolationKind.LOST_STEP, ViolationKind.SS_LEAK
PAYLOAD = payload_of([HVC, NOP, HVC, MRS, ADD])
CELL = Cell("a.b.vhe.quiet", "a", "b", MachineSpec(), FloodSpec(), Driver.IN_GUEST, 1, job="kick")


def at(index: int) -> Instruction:
    return Instruction(BASE + 4 * index, f"l{index}", "?")


def broken(index: int, kind: ViolationKind, times: int) -> Breakdown:
    return Breakdown(at(index), kind, times, 100)


def test_a_signature_names_job_order_class_and_kind() -> None:
    assert signature(CELL, PAYLOAD, BASE, LOST) == Signature("kick/tcg", "hvc", LOST)
    machine = MachineSpec(exception_order=ExceptionOrder.ASYNC_FIRST)
    other = signature(replace(CELL, machine=machine), PAYLOAD, BASE + 12, LOST, "kvm_skip_instr")
    assert other == Signature("kick/async_first", "sysreg", LOST, "kvm_skip_instr")


def test_what_is_no_instruction_of_the_payload_is_of_no_class() -> None:
    for address in (0, BASE - 4, BASE + 20, 1 << 63):
        assert instruction_class(PAYLOAD, address) == "unknown"


def test_the_most_frequent_comes_first_and_windows_are_joined() -> None:
    result = CellResult(
        CELL,
        CellVerdict.FAIL,
        breakdown=(
            broken(0, LOST, 30), broken(2, LOST, 20), broken(0, LEAK, 5), broken(3, LOST, 60),
        ),
        windows=(
            Window(at(0), LOST, 100, 120, 21, complete=True),
            Window(at(2), LOST, 90, 95, 6, complete=True),
            Window(at(3), LOST, 500, 510, 11, complete=True),
        ),
    )  # fmt: skip
    assert grouped(result, PAYLOAD) == (
        SignatureGroup(Signature("kick/tcg", "sysreg", LOST), 60, 500, 510),
        SignatureGroup(Signature("kick/tcg", "hvc", LOST), 50, 90, 120),
        SignatureGroup(Signature("kick/tcg", "hvc", LEAK), 5),
    )


def test_a_cell_without_violations_has_no_signatures() -> None:
    assert grouped(CellResult(CELL, CellVerdict.PASS), PAYLOAD) == ()
