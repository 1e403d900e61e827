"""The phantom rule that a QEMU's self-test proves, on records by hand."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from qemu_diff.abi import TRUTH_RECORD, StepState, TruthKind, TruthRecords, VectorSlot
from qemu_diff.errors import NoPhantomRuleError
from qemu_diff.truth.phantom import PhantomRule
from qemu_diff.truth.selftest import (
    ENTRIES,
    FRESH_0,
    FRESH_1,
    INACTIVE,
    executed_by_entry,
    rule_for,
)

SIZE, STATE = PhantomRule.INSN_SIZE, PhantomRule.STEP_STATE
PROGRAM = "/usr/bin/qemu-system-aarch64"

PENDING, NOT_PENDING = StepState.ACTIVE_PENDING, StepState.ACTIVE_NOT_PENDING
UNKNOWN = StepState.UNKNOWN

Row = tuple[int, int, StepState]
"""An instruction: (pc, size, step state)."""

TARGETS = (
    INACTIVE[0],
    *(FRESH_0, FRESH_0, FRESH_0),
    *(FRESH_1, FRESH_1),
    INACTIVE[0],
    *(FRESH_1, FRESH_0),
)
"""Where each entry of active_pending.S goes."""


def recorded(entries: Iterable[Iterable[Row]]) -> TruthRecords:
    """What a plugin records of these entries; each ends with an exit."""
    rows: list[tuple[int, ...]] = []
    for entry in entries:
        rows.extend((pc, 0, TruthKind.INSTRUCTION, 0, size, state) for pc, size, state in entry)
        rows.append((0x40200C00, VectorSlot.SYNCHRONOUS, TruthKind.EXIT, 0, 0, 0))
    return np.array(rows, dtype=TRUTH_RECORD)


def right_entries(phantom_size: int, states_known: bool) -> list[list[Row]]:
    """Entries as the architecture demands, with a phantom where nothing executes.

    :param phantom_size: what QEMU says of a phantom's size.
    """
    entries: list[list[Row]] = []
    for target, executed in zip(TARGETS, ENTRIES, strict=True):
        state = StepState.INACTIVE if target == INACTIVE[0] else NOT_PENDING
        rows = [(pc, 4, state) for pc in executed] or [(target, phantom_size, PENDING)]
        entries.append([(pc, size, one if states_known else UNKNOWN) for pc, size, one in rows])
    return entries


def test_entries_go_where_the_program_says() -> None:
    assert len(TARGETS) == len(ENTRIES)
    assert all(not done or done[0] == target for target, done in zip(TARGETS, ENTRIES, strict=True))


def test_phantoms_without_a_size() -> None:
    assert rule_for(recorded(right_entries(0, states_known=False)), PROGRAM) is SIZE


def test_phantoms_with_a_size_need_the_step_state() -> None:
    assert rule_for(recorded(right_entries(4, states_known=True)), PROGRAM) is STATE


def test_where_both_rules_hold_the_size_is_enough() -> None:
    assert rule_for(recorded(right_entries(0, states_known=True)), PROGRAM) is SIZE


def test_no_phantoms_at_all_need_no_rule() -> None:
    entries = [[row for row in entry if row[1]] for entry in right_entries(0, states_known=False)]

    assert rule_for(recorded(entries), PROGRAM) is SIZE


def test_phantoms_with_a_size_and_no_step_state_have_no_rule() -> None:
    with pytest.raises(NoPhantomRuleError, match="nothing can be judged on this QEMU") as raised:
        rule_for(recorded(right_entries(4, states_known=False)), PROGRAM)

    assert PROGRAM in str(raised.value)
    assert all(rule in str(raised.value) for rule in PhantomRule)


def test_one_instruction_without_a_step_state_takes_the_rule_away() -> None:
    entries = right_entries(4, states_known=True)
    pc, size, _ = entries[0][0]
    entries[0][0] = (pc, size, UNKNOWN)

    with pytest.raises(NoPhantomRuleError):
        rule_for(recorded(entries), PROGRAM)


@pytest.mark.parametrize("number", range(len(ENTRIES)))
def test_each_entry_must_execute_what_the_architecture_demands(number: int) -> None:
    entries = right_entries(0, states_known=True)
    entries[number].append((FRESH_0, 4, NOT_PENDING))

    with pytest.raises(NoPhantomRuleError):
        rule_for(recorded(entries), PROGRAM)


@pytest.mark.parametrize("number", range(len(ENTRIES)))
def test_no_entry_may_be_missing(number: int) -> None:
    entries = right_entries(0, states_known=True)
    del entries[number]

    with pytest.raises(NoPhantomRuleError):
        rule_for(recorded(entries), PROGRAM)


def test_one_entry_too_many_is_no_proof() -> None:
    entries = [*right_entries(0, states_known=True), [(FRESH_0, 4, NOT_PENDING)]]

    with pytest.raises(NoPhantomRuleError):
        rule_for(recorded(entries), PROGRAM)


def test_no_records_are_no_proof() -> None:
    with pytest.raises(NoPhantomRuleError):
        rule_for(np.zeros(0, TRUTH_RECORD), PROGRAM)


def test_an_entry_ends_at_its_exit() -> None:
    records = recorded([[(FRESH_0, 4, NOT_PENDING)], [], [(FRESH_1, 0, PENDING)]])

    assert executed_by_entry(SIZE, records) == ((FRESH_0,), (), ())
    assert executed_by_entry(STATE, records) == ((FRESH_0,), (), ())


def test_vectors_and_marks_are_passed_over() -> None:
    entries = recorded(right_entries(0, states_known=False))
    others = np.array(
        [(0x40200800, 0, TruthKind.VECTOR, 0, 0, 0), (0x1000, 0, TruthKind.MARK, 0, 0, 0)],
        dtype=TRUTH_RECORD,
    )

    assert rule_for(np.insert(entries, [1, 3], others), PROGRAM) is SIZE
