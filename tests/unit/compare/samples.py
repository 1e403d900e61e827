"""Steps and placements of a few instructions, made by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qemu_diff.compare.contract import Judged, Steps
from qemu_diff.compare.placements import Placements
from qemu_diff.model import Instruction

PC = 0x5A5A_0004
NEXT_PC = PC + 4
NAMES = {
    PC: Instruction(PC, "trapped_read", "mrs x0, id_aa64pfr0_el1"),
    NEXT_PC: Instruction(NEXT_PC, "trapped_read+0x4", "nop"),
}

OK, LOST, WRONG = Judged.OK, Judged.LOST_STEP, Judged.WRONG_PC

OFFSET = 360
"""From arming to the entry into KVM_RUN, and a little more: requested minus delivered."""


def column(values: Iterable[int]) -> NDArray[np.int64]:
    return np.fromiter(values, np.int64)


def steps(number: int, **arrays: Any) -> Steps:
    """So many steps of which only what is given matters."""
    empty = {field.name: np.zeros(number, np.int64) for field in fields(Steps)}
    return Steps(**{**empty, **arrays})


def samples(
    outcome_at: Iterable[tuple[int, int]], pc: int = PC, ticks: int = 0
) -> tuple[Steps, Placements]:
    """Steps with one interrupt each: (delivered time, outcome), requested ``OFFSET`` later."""
    rows = list(outcome_at)
    times = column(time for time, _ in rows)
    judged = steps(
        len(rows),
        first_executed=np.full(len(rows), pc),
        outcome=column(outcome for _, outcome in rows),
    )
    return judged, Placements(
        times + OFFSET, times, np.full(len(rows), ticks), np.full(len(rows), 4000)
    )


def together(*parts: tuple[Steps, Placements]) -> tuple[Steps, Placements]:
    judged, placements = zip(*parts, strict=True)
    return _joined(Steps, judged), _joined(Placements, placements)


def _joined(kind: Any, parts: Iterable[Any]) -> Any:
    rows = list(parts)
    return kind(
        **{
            field.name: np.concatenate([getattr(one, field.name) for one in rows])
            for field in fields(kind)
        }
    )


def grid(first: int, last: int, broken: Iterable[int] = (), outcome: int = LOST) -> dict[int, int]:
    """Outcome at every ns from first to last."""
    lost = set(broken)
    return {time: outcome if time in lost else OK for time in range(first, last + 1)}
