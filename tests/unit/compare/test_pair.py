"""Two kernels held against each other: outcomes, words, and PCs side by side."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from streams import (
    BASE,
    NOP,
    Stream,
    debug,
    eintr,
    executes,
    irq,
    payload_of,
    phantom,
    sync,
    tables_of,
)

from qemu_diff.abi import RecordKind
from qemu_diff.compare.pair import (
    CONTEXT,
    PassOfSteps,
    pair_result,
    pass_of_steps,
    side_by_side,
)
from qemu_diff.compare.verdict import pair_outcome
from qemu_diff.model import (
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    Expectation,
    FloodSpec,
    Instruction,
    MachineSpec,
    PairOutcome,
    SideBySide,
)
from qemu_diff.trace.listing import Listing
from qemu_diff.trace.trace import Trace

A, B, C, D, E, F, G, H = (BASE + 4 * index for index in range(8))
PROGRAM = (A, B, C, D, E, F, G, H)
LISTING = Listing(payload_of([NOP] * len(PROGRAM)))
TABLES = tables_of([NOP] * len(PROGRAM))

PASS, FAIL, HANG, OOPS, LOST, SKIPPED = (
    CellVerdict.PASS,
    CellVerdict.FAIL,
    CellVerdict.HANG,
    CellVerdict.KERNEL_OOPS,
    CellVerdict.LOST,
    CellVerdict.SKIPPED,
)


def pass_with(executed: tuple[int, ...], reported: tuple[int, ...]) -> PassOfSteps:
    """A pass in which each report comes when L2 next stands at its PC."""
    before, reports = 0, []
    for pc in reported:
        before = executed.index(pc, before + 1) if pc in executed[before + 1 :] else before
        reports.append((before, pc))
    return PassOfSteps(executed, tuple(reports))


def trace(stream: Stream) -> Trace:
    return Trace(stream.records, stream.truth, stream.phantom, np.zeros(0, np.uint64))


def begins_pass(stream: Stream) -> Stream:
    return stream.note(RecordKind.PASS).set_pc(A)


def steps(stream: Stream, *path: int) -> Stream:
    """Right steps along a path of PCs, from its first to its last."""
    for before, after in pairwise(path):
        stream.run(executes(before), sync(), debug(after))
    return stream


def loses(stream: Stream, first: int, second: int, reported: int) -> Stream:
    """One report for two executed instructions."""
    return stream.run(executes(first), irq(), executes(second), sync(), debug(reported))


# --- one pass ---


def test_a_pass_is_what_ran_and_what_was_reported() -> None:
    stream = steps(begins_pass(Stream().step_on()), A, B, C, D)
    assert pass_of_steps(trace(stream), TABLES, 0) == pass_with((A, B, C, D), (B, C, D))


def test_a_lost_step_was_executed_but_not_reported() -> None:
    stream = steps(begins_pass(Stream().step_on()), A, B)
    steps(loses(stream, B, C, D), D, E)
    assert pass_of_steps(trace(stream), TABLES, 0) == pass_with((A, B, C, D, E), (B, D, E))


def test_a_phantom_did_not_run() -> None:
    stream = begins_pass(Stream().step_on())
    stream.run(executes(A), sync(), phantom(B), sync(), debug(B))
    assert pass_of_steps(trace(stream), TABLES, 0) == pass_with((A, B), (B,))


def test_each_pass_is_for_itself() -> None:
    stream = steps(begins_pass(Stream().step_on()), A, B, C)
    loses(begins_pass(stream), A, B, C)
    steps(begins_pass(stream), A, B, C)
    assert pass_of_steps(trace(stream), TABLES, 0) == pass_with((A, B, C), (B, C))
    assert pass_of_steps(trace(stream), TABLES, 1) == pass_with((A, B, C), (C,))
    assert pass_of_steps(trace(stream), TABLES, 2) == pass_with((A, B, C), (B, C))


def test_a_pass_that_was_never_begun_is_empty() -> None:
    stream = steps(begins_pass(Stream().step_on()), A, B, C)
    assert pass_of_steps(trace(stream), TABLES, 1) == pass_with((), ())


def test_a_return_for_a_signal_is_no_report() -> None:
    stream = begins_pass(Stream().step_on())
    stream.run(executes(A), irq(), eintr(B))
    steps(stream.run(phantom(B), sync(), debug(B)), B, C)
    assert pass_of_steps(trace(stream), TABLES, 0) == pass_with((A, B, C), (B, C))


# --- side by side ---


def shown(rows: SideBySide) -> list[tuple[int, bool, bool]]:
    return [(one.address, first, second) for one, first, second in rows.rows]


def stepped(*path: int) -> PassOfSteps:
    """A pass in which every step was reported."""
    return pass_with(path, path[1:])


def test_a_lost_step_is_a_gap_in_one_column() -> None:
    loses_c = pass_with((A, B, C, D, E), (B, D, E))
    right = stepped(A, B, C, D, E)
    assert shown(side_by_side(loses_c, right, C, LISTING)) == [
        (A, True, True),
        (B, True, True),
        (C, False, True),
        (D, True, True),
        (E, True, True),
    ]
    assert shown(side_by_side(right, loses_c, C, LISTING))[2] == (C, True, False)


def test_instructions_are_named() -> None:
    rows = side_by_side(stepped(A, B), stepped(A, B), A, LISTING).rows
    assert [one for one, _, _ in rows] == [
        Instruction(A, f"{A:#x}", "nop"),
        Instruction(B, f"{B:#x}", "nop"),
    ]


def test_only_what_lies_around_the_difference_is_shown() -> None:
    path = tuple(BASE + 4 * index for index in range(30))
    loses_20 = pass_with(path, tuple(pc for pc in path[1:] if pc != path[20]))
    rows = shown(side_by_side(loses_20, stepped(*path), path[20], LISTING))
    assert rows == [(pc, pc != path[20], True) for pc in path[20 - CONTEXT : 20 + CONTEXT + 1]]


def test_the_difference_that_was_asked_for_is_shown() -> None:
    path = tuple(BASE + 4 * index for index in range(30))
    lost = {path[5], path[20]}
    loses_two = pass_with(path, tuple(pc for pc in path[1:] if pc not in lost))
    for pc in sorted(lost):
        rows = shown(side_by_side(loses_two, stepped(*path), pc, LISTING))
        assert rows[CONTEXT] == (pc, False, True)
    elsewhere = side_by_side(loses_two, stepped(*path), path[10], LISTING)
    assert shown(elsewhere)[CONTEXT] == (path[5], False, True)


def test_a_loop_s_lost_step_is_shown_in_the_round_in_which_it_was_lost() -> None:
    rounds = (A, B, C, B, C, B, C, D)
    loses_second_b = pass_with(rounds, (B, C, C, B, C, D))
    assert shown(side_by_side(loses_second_b, stepped(*rounds), B, LISTING)) == [
        (A, True, True),
        (B, True, True),
        (C, True, True),
        (B, False, True),
        (C, True, True),
        (B, True, True),
        (C, True, True),
    ]


def test_a_lost_step_at_the_end_of_a_loop_moves_no_other() -> None:
    rounds = (A, B, C, B, C, D)
    loses_last_c = pass_with(rounds, (B, C, B, D))
    assert shown(side_by_side(stepped(*rounds), loses_last_c, C, LISTING))[-3:] == [
        (B, True, True),
        (C, True, False),
        (D, True, True),
    ]


def test_a_branch_to_itself_that_loses_a_step_is_reported_less_often() -> None:
    rows = side_by_side(pass_with((A, A, A, A), (A, A)), stepped(A, A, A, A), A, LISTING).rows
    assert [sum(column) for column in ([one[1] for one in rows], [one[2] for one in rows])] == [
        3,
        4,
    ]


def test_kernels_that_do_the_same_are_shown_around_the_finding() -> None:
    same = stepped(*PROGRAM)
    assert shown(side_by_side(same, same, E, LISTING)) == [
        (pc, True, True) for pc in PROGRAM[4 - CONTEXT : 4 + CONTEXT + 1]
    ]


def test_a_kernel_that_left_no_such_pass_reported_nothing_of_it() -> None:
    rows = shown(side_by_side(stepped(A, B, C), pass_with((), ()), B, LISTING))
    assert rows == [(A, True, True), (B, True, False), (C, True, False)]
    assert shown(side_by_side(pass_with((), ()), pass_with((), ()), B, LISTING)) == []


@pytest.mark.parametrize("reported", [(H, C, D, E), (B, B, C, D, E)])
def test_a_wrong_or_spurious_report_leaves_the_later_ones_in_place(
    reported: tuple[int, ...],
) -> None:
    right = stepped(A, B, C, D, E)
    rows = shown(side_by_side(right, pass_with((A, B, C, D, E), reported), B, LISTING))
    assert rows[2:] == [(C, True, True), (D, True, True), (E, True, True)]


@pytest.mark.parametrize(
    ("executed", "reported"),
    [
        ((A, B, C, D, E), ((1, E), (2, C), (3, D), (4, E))),  # wrong: B was due
        ((A, B, C, B, C, D), ((1, B), (1, B), (2, C), (3, B), (4, C), (5, D))),  # spurious
    ],
)
def test_a_bad_report_of_a_pc_that_comes_later_leaves_the_ones_between_in_place(
    executed: tuple[int, ...], reported: tuple[tuple[int, int], ...]
) -> None:
    rows = shown(side_by_side(stepped(*executed), PassOfSteps(executed, reported), B, LISTING))
    assert rows[2:] == [(pc, True, True) for pc in executed[2 : 1 + CONTEXT + 1]]


# --- outcomes ---


def result(kernel: str, verdict: CellVerdict, steps: int = 0, reason: str = "") -> CellResult:
    cell = Cell(
        id=f"{kernel}.hvc.vhe.quiet",
        kernel=kernel,
        payload="hvc",
        machine=MachineSpec(),
        flood=FloodSpec(),
        driver=Driver.IN_GUEST,
        seed=1,
        expected=(Expectation.PASS,),
    )
    return CellResult(cell, verdict, steps=steps, reason=reason)


OUTCOMES = {
    (PASS, PASS): PairOutcome.SAME,
    (PASS, FAIL): PairOutcome.REGRESSED,
    (PASS, HANG): PairOutcome.REGRESSED,
    (PASS, OOPS): PairOutcome.REGRESSED,
    (FAIL, PASS): PairOutcome.FIXED,
    (HANG, PASS): PairOutcome.FIXED,
    (OOPS, PASS): PairOutcome.FIXED,
    **dict.fromkeys(product((FAIL, HANG, OOPS), repeat=2), PairOutcome.BOTH_FAIL),
    **dict.fromkeys(product((LOST, SKIPPED), CellVerdict), PairOutcome.INCONCLUSIVE),
    **dict.fromkeys(product(CellVerdict, (LOST, SKIPPED)), PairOutcome.INCONCLUSIVE),
}


@pytest.mark.parametrize(("baseline", "candidate"), [*product(CellVerdict, repeat=2)])
def test_the_outcome_of_a_pair(baseline: CellVerdict, candidate: CellVerdict) -> None:
    expected = OUTCOMES[baseline, candidate]
    assert pair_outcome(baseline, candidate) is expected
    pair = pair_result(result("old", baseline), result("new", candidate))
    assert (pair.baseline.kernel, pair.candidate.kernel) == ("old", "new")
    assert pair.outcome is expected


def test_a_pair_carries_its_rows() -> None:
    rows = side_by_side(stepped(A, B), stepped(A, B), A, LISTING)
    assert pair_result(result("old", PASS), result("new", PASS), rows).side_by_side is rows
    assert pair_result(result("old", PASS), result("new", PASS)).side_by_side is None


LOST_STEPS = "100 lost-step in 350 steps"
PANIC = "Kernel panic - not syncing: x"


@pytest.mark.parametrize(
    ("baseline", "candidate", "words"),
    [
        (
            result("old", PASS, steps=450),
            result("new", PASS, steps=450),
            "old and new both keep the step contract",
        ),
        (
            result("old", FAIL, steps=350, reason=LOST_STEPS),
            result("new", PASS, steps=450),
            "old: 100 lost-step in 350 steps; new: none in 450 steps",
        ),
        (
            result("old", PASS, steps=450),
            result("new", FAIL, steps=350, reason=LOST_STEPS),
            "new: 100 lost-step in 350 steps; old: none in 450 steps",
        ),
        (
            result("old", OOPS, reason=PANIC),
            result("new", FAIL, steps=350, reason=LOST_STEPS),
            "old: Kernel panic - not syncing: x; new: 100 lost-step in 350 steps",
        ),
        (
            result("old", HANG),
            result("new", PASS, steps=450),
            "old: hang; new: none in 450 steps",
        ),
        (
            result("old", PASS, steps=450),
            result("new", LOST, reason="QEMU died (signal 9)"),
            "nothing was learnt from new (QEMU died (signal 9))",
        ),
        (
            result("old", LOST, reason="QEMU died (signal 9)"),
            result("new", LOST, reason="no room on the disk"),
            "nothing was learnt from old (QEMU died (signal 9)) and new (no room on the disk)",
        ),
        (
            result("old", SKIPPED, reason="no such suite"),
            result("new", PASS, steps=450),
            "skipped: old (no such suite)",
        ),
        (
            result("old", SKIPPED, reason="no such suite"),
            result("new", LOST, reason="no room on the disk"),
            "nothing was learnt from old (no such suite) and new (no room on the disk)",
        ),
    ],
)
def test_the_words_of_a_pair(baseline: CellResult, candidate: CellResult, words: str) -> None:
    assert pair_result(baseline, candidate).message == words


def test_only_what_was_lost_taught_nothing() -> None:
    pair = pair_result(result("old", OOPS, reason=PANIC), result("new", LOST, reason="no room"))
    assert pair.message == "nothing was learnt from new (no room)"
