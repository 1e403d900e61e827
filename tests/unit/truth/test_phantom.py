"""Which truth records are phantoms, by each rule."""

from __future__ import annotations

import numpy as np
import pytest

from qemu_diff.abi import TRUTH_RECORD, StepState, TruthKind, TruthRecords
from qemu_diff.truth.phantom import PhantomRule, applicable, phantoms

PENDING, NOT_PENDING = StepState.ACTIVE_PENDING, StepState.ACTIVE_NOT_PENDING
UNKNOWN, INACTIVE = StepState.UNKNOWN, StepState.INACTIVE


def truth(*rows: tuple[TruthKind, int, StepState]) -> TruthRecords:
    """Records of (kind, size, step state)."""
    records = np.zeros(len(rows), TRUTH_RECORD)
    for index, (kind, size, state) in enumerate(rows):
        records[index] = (0x5A5A0000, 0, kind, 0, size, state)
    return records


@pytest.mark.parametrize(
    ("rule", "size", "state", "is_phantom"),
    [
        (PhantomRule.INSN_SIZE, 0, UNKNOWN, True),
        (PhantomRule.INSN_SIZE, 4, UNKNOWN, False),
        (PhantomRule.INSN_SIZE, 0, NOT_PENDING, True),
        (PhantomRule.INSN_SIZE, 4, PENDING, False),
        (PhantomRule.STEP_STATE, 4, PENDING, True),
        (PhantomRule.STEP_STATE, 0, PENDING, True),
        (PhantomRule.STEP_STATE, 4, NOT_PENDING, False),
        (PhantomRule.STEP_STATE, 4, INACTIVE, False),
        (PhantomRule.STEP_STATE, 0, UNKNOWN, False),
    ],
)
def test_each_rule_looks_at_its_own_member(
    rule: PhantomRule, size: int, state: StepState, is_phantom: bool
) -> None:
    found = phantoms(rule, truth((TruthKind.INSTRUCTION, size, state)))

    assert found.tolist() == [is_phantom]


@pytest.mark.parametrize("rule", PhantomRule)
@pytest.mark.parametrize("kind", [TruthKind.EXIT, TruthKind.MARK, TruthKind.VECTOR])
def test_only_instructions_are_phantoms(rule: PhantomRule, kind: TruthKind) -> None:
    assert not phantoms(rule, truth((kind, 0, PENDING))).any()


@pytest.mark.parametrize("rule", PhantomRule)
def test_each_record_is_judged_by_itself(rule: PhantomRule) -> None:
    instruction = TruthKind.INSTRUCTION
    records = truth(
        (instruction, 4, NOT_PENDING), (instruction, 0, PENDING), (TruthKind.EXIT, 0, UNKNOWN)
    )

    assert phantoms(rule, records).tolist() == [False, True, False]


@pytest.mark.parametrize("rule", PhantomRule)
def test_no_records_no_phantoms(rule: PhantomRule) -> None:
    found = phantoms(rule, truth())

    assert found.shape == (0,)
    assert found.dtype == bool


def test_sizes_are_always_there() -> None:
    assert applicable(PhantomRule.INSN_SIZE, truth((TruthKind.INSTRUCTION, 4, UNKNOWN)))


def test_step_states_must_be_known_of_every_instruction() -> None:
    known = (TruthKind.INSTRUCTION, 4, NOT_PENDING)
    unknown = (TruthKind.INSTRUCTION, 4, UNKNOWN)

    assert applicable(PhantomRule.STEP_STATE, truth(known, known))
    assert not applicable(PhantomRule.STEP_STATE, truth(known, unknown))


def test_exits_have_no_step_state() -> None:
    records = truth((TruthKind.INSTRUCTION, 4, INACTIVE), (TruthKind.EXIT, 0, UNKNOWN))

    assert applicable(PhantomRule.STEP_STATE, records)
