"""From night to night: what broke, what mended, what is flaky and how often."""

from __future__ import annotations

import pytest

from qemu_diff.campaign.nights import history, nights, past_run
from qemu_diff.model import (
    CampaignResult,
    CellResult,
    CellVerdict,
    ChangeKind,
    Expectation,
    Nights,
    PastRun,
    Signature,
    SignatureGroup,
    ViolationKind,
)

from .past import outcome, run_of

PASS, FAIL, HANG = CellVerdict.PASS, CellVerdict.FAIL, CellVerdict.HANG
LOST, SKIPPED = CellVerdict.LOST, CellVerdict.SKIPPED


def told(*results: CampaignResult, planned: set[str] | None = None) -> Nights:
    """What the last of some runs has to say."""
    *before, now = results
    ids = {one.cell.id for one in now.cells} if planned is None else planned
    return nights([past_run(one) for one in before], now, ids)


def kinds(found: Nights) -> list[tuple[str, str]]:
    return [(change.kind.value, change.id) for change in found.changes]


@pytest.mark.parametrize(
    ("before", "now", "kind"),
    [
        (outcome("a"), outcome("a"), None),
        (outcome("a"), outcome("a", FAIL), "broke"),
        (outcome("a", FAIL), outcome("a"), "mended"),
        (outcome("a", FAIL), outcome("a", FAIL), None),
        (outcome("a", FAIL), outcome("a", HANG), "otherwise"),
        (outcome("a"), outcome("a", LOST), "lost"),
        (outcome("a"), outcome("a", SKIPPED), "lost"),
        (outcome("a", LOST), outcome("a"), "judged"),
        (outcome("a", LOST), outcome("a", SKIPPED), None),
        # A control that is seen is as expected; one that is not has broken.
        (outcome("a", FAIL, Expectation.LOST_STEP), outcome("a", PASS), None),
        (
            outcome("a", FAIL, Expectation.LOST_STEP),
            outcome("a", PASS, Expectation.LOST_STEP),
            "broke",
        ),
    ],
)
def test_one_cell(before: CellResult, now: CellResult, kind: str | None) -> None:
    expected = [(kind, "k.a")] if kind else []
    assert kinds(told(run_of(1, before), run_of(2, now))) == expected


def test_another_signature_is_another_failure() -> None:
    other = SignatureGroup(Signature("step/tcg", "sysreg", ViolationKind.LOST_STEP), 3)
    changed = outcome("a", FAIL)
    changed = CellResult(changed.cell, FAIL, violations=changed.violations, signatures=(other,))
    found = told(run_of(1, outcome("a", FAIL)), run_of(2, changed))
    assert kinds(found) == [("otherwise", "k.a")]


def test_the_worst_comes_first() -> None:
    before = run_of(1, outcome("a", FAIL), outcome("b"), outcome("c"), outcome("gone"))
    now = run_of(2, outcome("a"), outcome("b", LOST), outcome("c", FAIL), outcome("new"))
    found = told(before, now)
    assert kinds(found) == [
        ("broke", "k.c"),
        ("lost", "k.b"),
        ("mended", "k.a"),
        ("new", "k.new"),
        ("gone", "k.gone"),
    ]
    assert found.since == "2026-01-01T22:00:00Z"


def test_what_is_not_done_yet_is_not_gone() -> None:
    before = run_of(1, outcome("a"), outcome("b"))
    cut = run_of(2, outcome("a"), complete=False)
    assert kinds(told(before, cut, planned={"k.a", "k.b"})) == []


def test_it_is_held_against_the_last_whole_run() -> None:
    whole = run_of(1, outcome("a"), outcome("b"))
    cut = run_of(2, outcome("a", FAIL), complete=False)
    chosen = run_of(3, outcome("a", FAIL), only=("k.a",))
    found = told(whole, cut, chosen, run_of(4, outcome("a", FAIL), outcome("b")))
    assert found.since == whole.started
    assert kinds(found) == [("broke", "k.a")]


def test_a_lost_night_hides_nothing() -> None:
    good, lost = run_of(1, outcome("a")), run_of(2, outcome("a", LOST))
    (change,) = told(good, lost, run_of(3, outcome("a", FAIL))).changes
    assert change.kind is ChangeKind.BROKE
    assert change.before
    assert change.before.started == good.started
    assert kinds(told(good, lost, run_of(3, outcome("a")))) == [("judged", "k.a")]


def test_the_first_night_has_nothing_to_be_held_against() -> None:
    assert told(run_of(1, outcome("a", FAIL))) == Nights()


def test_a_run_that_goes_on_is_not_held_against_itself() -> None:
    before = run_of(1, outcome("a"))
    cut = run_of(2, outcome("a", FAIL), complete=True)
    assert kinds(told(before, cut, cut)) == [("broke", "k.a")]
    assert not told(cut, cut).changes


# --- flaky cells ---


def test_flaky_is_both_ways_on_one_kernel() -> None:
    runs = [
        run_of(number, outcome("a", FAIL if number % 3 == 0 else PASS)) for number in range(1, 8)
    ]
    (one,) = told(*runs).flaky
    assert (one.id, one.kernel_key, one.runs, one.unexpected) == ("k.a", "key", 7, 2)


def test_another_kernel_or_tool_is_no_flakiness() -> None:
    tool = run_of(2, outcome("a", FAIL))
    assert not told(run_of(1, outcome("a")), run_of(2, outcome("a", FAIL), key="other")).flaky
    other = past_run(tool)
    cells = tuple(type(one)(**{**vars(one), "tool": "0.2.0"}) for one in other.cells)
    assert not history([past_run(run_of(1, outcome("a"))), PastRun("r", "s", True, cells)]).flaky


def test_lost_nights_and_new_expectations_are_no_flakiness() -> None:
    assert not told(run_of(1, outcome("a")), run_of(2, outcome("a", LOST))).flaky
    expected = outcome("a", FAIL, Expectation.LOST_STEP)
    assert not told(run_of(1, outcome("a", FAIL)), run_of(2, expected)).flaky


# --- over many nights ---


def test_changes_of_each_night() -> None:
    verdicts = [PASS, PASS, FAIL, LOST, FAIL, PASS]
    runs = [past_run(run_of(n, outcome("a", one))) for n, one in enumerate(verdicts, start=1)]
    changes = history(runs).changes
    assert [(one.now.started[8:10], one.kind.value) for one in changes if one.now] == [
        ("03", "broke"),
        ("04", "lost"),
        ("05", "judged"),
        ("06", "mended"),
    ]


def test_a_cell_that_was_left_out_for_a_night_is_held_against_the_last_that_had_it() -> None:
    runs = [run_of(1, outcome("a")), run_of(2, outcome("b")), run_of(3, outcome("a", FAIL))]
    changes = history([past_run(one) for one in runs]).changes
    assert [(one.kind.value, one.id) for one in changes] == [("broke", "k.a")]
