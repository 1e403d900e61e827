"""Two drivers held against each other over one kernel: outcomes, words, and what they reported."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.abi import STEP_RECORD, RecordFlag, RecordKind, StepRecords
from qemu_diff.compare.pair import digest_of_passes, pair_result, reported_passes
from qemu_diff.model import (
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    FloodSource,
    FloodSpec,
    MachineSpec,
    PairOutcome,
    Placement,
)

PASS, FAIL, HANG, OOPS, LOST, SKIPPED = (
    CellVerdict.PASS,
    CellVerdict.FAIL,
    CellVerdict.HANG,
    CellVerdict.KERNEL_OOPS,
    CellVerdict.LOST,
    CellVerdict.SKIPPED,
)
FLOODED = FloodSpec((FloodSource.DEVICE,), Placement.RANDOM, count=3)
STEP = RecordFlag.STEPPING


# --- what was reported ---


def report(pc: int, flags: int = STEP, reason: int = 4, error: int = 0) -> dict[str, int]:
    kind = RecordKind.RUN
    return {"kind": kind, "pc": pc, "flags": flags, "exit_reason": reason, "error": error}


BEGIN = {"kind": RecordKind.PASS}
SIGNAL = report(8, STEP | RecordFlag.EINTR, 10, -4)
UNSTEPPED = report(8, 0)
MMIO = report(8, STEP, 6)
WROTE = {"kind": RecordKind.SET_REGISTER, "pc": 8}


def recorded(*rows: dict[str, int]) -> StepRecords:
    made = np.zeros(len(rows), STEP_RECORD)
    for index, row in enumerate(rows):
        for name, value in row.items():
            made[index][name] = value
    return made


def test_a_pass_is_its_reports_in_order() -> None:
    made = recorded(BEGIN, report(4), report(8), BEGIN, report(8), report(4))
    assert reported_passes(made) == {(4, 8), (8, 4)}


def test_passes_that_are_alike_count_once() -> None:
    assert reported_passes(recorded(*[BEGIN, report(4), report(8)] * 3)) == {(4, 8)}


@pytest.mark.parametrize("other", [SIGNAL, UNSTEPPED, MMIO, WROTE])
def test_only_a_step_s_report_counts(other: dict[str, int]) -> None:
    made = recorded(other, BEGIN, report(4), other, report(12), other)
    assert reported_passes(made) == {(4, 12)}


PASSES = st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=4).map(tuple), max_size=4)


@given(PASSES, PASSES)
def test_digests_are_those_of_sets_of_passes(
    some: list[tuple[int, ...]], others: list[tuple[int, ...]]
) -> None:
    alike = {*some} == {*others}
    assert (digest_of_passes({*some}) == digest_of_passes({*others})) is alike


@pytest.mark.parametrize("order", [*permutations([(4, 8), (4,), (8, 4)])])
def test_no_order_of_passes_matters(order: tuple[tuple[int, ...], ...]) -> None:
    assert digest_of_passes(order) == digest_of_passes([(4,), (4, 8), (8, 4)])


def test_where_a_pass_ends_matters() -> None:
    assert digest_of_passes([(4, 8)]) != digest_of_passes([(4,), (8,)])
    assert digest_of_passes([(1, 2), (3,)]) != digest_of_passes([(1,), (2, 3)])


# --- outcomes ---


def result(
    driver: Driver, verdict: CellVerdict = PASS, step_pcs: str = "aa", reason: str = ""
) -> CellResult:
    cell = Cell(
        id=f"mine.hvc.vhe.quiet.driver-{driver}",
        kernel="mine",
        payload="hvc",
        machine=MachineSpec(),
        flood=FloodSpec(),
        driver=driver,
        seed=1,
    )
    return CellResult(cell, verdict, steps=90, step_pcs=step_pcs, reason=reason)


def outcome(baseline: CellVerdict, candidate: CellVerdict) -> PairOutcome:
    return pair_result(result(Driver.RSP, baseline), result(Driver.GDB, candidate)).outcome


OUTCOMES = {
    (PASS, PASS): PairOutcome.SAME,
    **dict.fromkeys(product((FAIL, HANG, OOPS), (PASS,)), PairOutcome.ONE_FAILS),
    **dict.fromkeys(product((PASS,), (FAIL, HANG, OOPS)), PairOutcome.ONE_FAILS),
    **dict.fromkeys(product((FAIL, HANG, OOPS), repeat=2), PairOutcome.BOTH_FAIL),
    **dict.fromkeys(product((LOST, SKIPPED), CellVerdict), PairOutcome.INCONCLUSIVE),
    **dict.fromkeys(product(CellVerdict, (LOST, SKIPPED)), PairOutcome.INCONCLUSIVE),
}


@pytest.mark.parametrize(("baseline", "candidate"), [*product(CellVerdict, repeat=2)])
def test_the_outcome_of_a_pair_of_drivers(baseline: CellVerdict, candidate: CellVerdict) -> None:
    assert outcome(baseline, candidate) is OUTCOMES[baseline, candidate]


def different(flood: FloodSpec, verdict: CellVerdict = PASS) -> tuple[CellResult, CellResult]:
    left, right = result(Driver.RSP, verdict), result(Driver.GDB, verdict, step_pcs="bb")
    return (
        replace(left, cell=replace(left.cell, flood=flood)),
        replace(right, cell=replace(right.cell, flood=flood)),
    )


def test_quiet_steps_are_the_same_for_all() -> None:
    assert pair_result(*different(FloodSpec(count=9))).outcome is PairOutcome.DIFFERENT
    assert pair_result(*different(FLOODED)).outcome is PairOutcome.SAME


def test_who_fails_is_not_told_by_what_it_reported() -> None:
    assert pair_result(*different(FloodSpec(), FAIL)).outcome is PairOutcome.BOTH_FAIL


def test_kernels_may_report_what_they_like() -> None:
    left, right = different(FloodSpec())
    right = replace(right, cell=replace(left.cell, kernel="other"))
    assert pair_result(left, right).outcome is PairOutcome.SAME


def test_only_what_nobody_can_expect_is_alarming() -> None:
    assert [one.value for one in PairOutcome if one.alarming] == ["regressed", "different"]


# --- words ---

RSP = result(Driver.RSP)


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (result(Driver.GDB), "mine by rsp and mine by gdb both keep the step contract"),
        (
            result(Driver.IN_GUEST, step_pcs="bb"),
            "mine by rsp and mine by in_guest report different PCs for the same steps",
        ),
        (
            result(Driver.GDB, FAIL, reason="2 lost-step in 90 steps"),
            "mine by gdb: 2 lost-step in 90 steps; mine by rsp: none in 90 steps",
        ),
        (
            result(Driver.GDB, LOST, reason="gdb went away"),
            "nothing was learnt from mine by gdb (gdb went away)",
        ),
        (
            result(Driver.GDB, SKIPPED, reason="no suite"),
            "skipped: mine by gdb (no suite)",
        ),
    ],
)
def test_the_words_of_a_pair_of_drivers_name_both(candidate: CellResult, words: str) -> None:
    assert pair_result(RSP, candidate).message == words


def test_where_both_fail_the_baseline_comes_first() -> None:
    left, right = (result(one, FAIL, reason=f"r-{one}") for one in (Driver.RSP, Driver.GDB))
    assert pair_result(left, right).message == "mine by rsp: r-rsp; mine by gdb: r-gdb"


# --- QEMUs ---


def on(
    qemu: str, verdict: CellVerdict = PASS, step_pcs: str = "aa", reason: str = ""
) -> CellResult:
    usual = result(Driver.IN_GUEST, verdict, step_pcs, reason)
    return replace(usual, cell=replace(usual.cell, machine=MachineSpec(qemu=qemu)))


@pytest.mark.parametrize(
    ("candidate", "outcome", "words"),
    [
        (
            on("new"),
            PairOutcome.SAME,
            "mine on QEMU stock and mine on QEMU new both keep the step contract",
        ),
        (
            on("new", step_pcs="bb"),
            PairOutcome.DIFFERENT,
            "mine on QEMU stock and mine on QEMU new report different PCs for the same steps; QEMU"
            " differs here, and not the kernel",
        ),
        (
            on("new", FAIL, reason="2 lost-step in 90 steps"),
            PairOutcome.ONE_FAILS,
            "mine on QEMU new: 2 lost-step in 90 steps; mine on QEMU stock: none in 90 steps; QEMU"
            " differs here, and not the kernel",
        ),
        (
            on("new", LOST, reason="it went away"),
            PairOutcome.INCONCLUSIVE,
            "nothing was learnt from mine on QEMU new (it went away)",
        ),
    ],
)
def test_a_pair_of_qemus_is_about_qemu(
    candidate: CellResult, outcome: PairOutcome, words: str
) -> None:
    pair = pair_result(on(""), candidate)
    assert (pair.outcome, pair.message) == (outcome, words)
