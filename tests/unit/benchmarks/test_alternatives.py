"""What is made of what alternatives showed: aims are held against what was measured, and fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks.alternatives import (
    _Clean,
    _clean_claims,
    _Detection,
    _detection_claims,
    _detection_table,
    _matrix_claim,
    _pace_claim,
)
from benchmarks.by_debugger import Step, Walk
from benchmarks.known_bad import OURS, RIGHT, SELFTEST, WAYS, Matrix, Outcome, Said

CAUGHT, MISSED = Said(Outcome.CAUGHT, "PC moved by 8"), Said(Outcome.MISSED, "44 steps are right")
GDB = WAYS[2]


def paces(ours: float, gdb: float) -> dict[str, list[float]]:
    return {way: [ours if way == OURS else gdb] * 3 for way in WAYS}


@pytest.mark.parametrize(("ours", "reached"), [(5000.0, True), (4900.0, False)])
def test_pace_is_a_ratio_of_each_round(ours: float, reached: bool) -> None:
    assert _pace_claim(paces(ours, 50.0)).reached is reached


SEEDS = tuple(0.5 for _ in range(20))
OURS_FIRST = _Detection(f"{OURS}: hvc", SEEDS, SEEDS)
SELFTEST_LATER = _Detection(SELFTEST, tuple(1.0 for _ in SEEDS))


def test_the_slowest_of_our_cells_counts() -> None:
    slow = replace(OURS_FIRST, seconds=tuple(1.5 for _ in SEEDS))
    assert _detection_claims([OURS_FIRST, SELFTEST_LATER])[0].reached
    assert not _detection_claims([OURS_FIRST, slow, SELFTEST_LATER])[0].reached


def test_a_seed_that_shows_nothing_is_no_detection() -> None:
    blind = replace(OURS_FIRST, seconds=SEEDS[1:])
    claim = _detection_claims([blind, SELFTEST_LATER])[0]
    assert not claim.reached
    assert "did not detect it with every seed" in claim.why
    never = replace(OURS_FIRST, seconds=())
    assert not _detection_claims([never, SELFTEST_LATER])[0].reached
    assert _detection_table([never]).rows[0][1] == "0 of 20"


@pytest.mark.parametrize(
    ("seconds", "complete", "reached"), [(7.0, True, True), (8.0, True, False), (1.0, False, False)]
)
def test_a_clean_verdict_counts_where_it_is_complete(
    seconds: float, complete: bool, reached: bool
) -> None:
    theirs = _Clean(SELFTEST, (150.0,), "pass", 660_000, complete=False)
    ours = _Clean(f"{OURS}: selftest_loop", (seconds, seconds), "pass", 25_000, complete)
    (claim,) = _clean_claims([theirs, ours])
    assert claim.reached is reached


def matrix(**bad: dict[str, Said]) -> Matrix:
    rows = {name: dict.fromkeys(WAYS, MISSED) | said for name, said in bad.items()}
    return Matrix({**rows, RIGHT: dict.fromkeys(WAYS, MISSED)})


def test_what_an_alternative_catches_ours_must_catch() -> None:
    both = {OURS: CAUGHT, GDB: CAUGHT}
    assert _matrix_claim(matrix(one=both, two={OURS: CAUGHT})).reached
    claim = _matrix_claim(matrix(one=both, two={SELFTEST: CAUGHT}))
    assert not claim.reached
    assert claim.measured == "1: two"


def test_the_right_kernel_is_no_bad_one() -> None:
    found = matrix(one={OURS: CAUGHT})
    assert found.caught_by(OURS) == {"one"}
    assert found.table().rows[-1][:2] == ("1 known-bad kernels, caught", "1")


def test_a_debugger_s_user_knows_one_rule() -> None:
    assert Step(0x1000, 0x1004).right
    assert not Step(0x1000, 0x1008).right
    assert not Step(0x1000, 0x1000).right
    seen = Walk(10.0, ((11.0, 0x1004), (12.0, 0x100C), (13.0, 0x1010)), 1, "")
    assert seen.detected_s == 2.0
    assert seen.steps_per_s == 1.0
    assert replace(seen, wrong=None).detected_s is None
