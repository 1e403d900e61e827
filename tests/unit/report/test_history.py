"""Nights on a terminal, and in a pipe: the words and the letters."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from qemu_diff.model import (
    CellVerdict,
    Change,
    ChangeKind,
    Flakiness,
    History,
    Nights,
    PastCell,
    PastRun,
    ViolationKind,
)
from qemu_diff.report.history import (
    LEGEND,
    change_words,
    night_symbol,
    print_history,
    print_nights,
    since_sentence,
)

KEYS = {"6.1.192": "77a1ffdea3591c1a1c9b", "6.12.5": "c12c6bbf25099b88dbcd"}


def past(
    night: int, verdict: CellVerdict, *, expected: bool = True, release: str = "6.1.192"
) -> PastCell:
    kinds = (ViolationKind.LOST_STEP,) if verdict is CellVerdict.FAIL else ()
    started = f"2026-01-{night:02}T22:05:00Z"
    return PastCell(
        str(night), started, "k.a", verdict, expected, 1.0, release, KEYS[release], kinds
    )


NIGHTS = (
    past(1, CellVerdict.PASS),
    past(2, CellVerdict.LOST, expected=False),
    past(3, CellVerdict.FAIL, expected=False, release="6.12.5"),
)
BROKE = Change(ChangeKind.BROKE, "k.a", NIGHTS[0], NIGHTS[2])
FLAKY = Flakiness("k.a", KEYS["6.1.192"], runs=17, unexpected=3)


def printed(width: int = 200, terminal: bool = False) -> tuple[Console, StringIO]:
    stream = StringIO()
    return Console(file=stream, width=width, force_terminal=terminal, highlight=False), stream


@pytest.mark.parametrize(
    ("one", "symbol"),
    [
        (None, "."),
        (past(1, CellVerdict.PASS), "p"),
        (past(1, CellVerdict.PASS, expected=False), "P"),
        (past(1, CellVerdict.FAIL), "f"),
        (past(1, CellVerdict.HANG, expected=False), "H"),
        (past(1, CellVerdict.KERNEL_OOPS, expected=False), "O"),
        (past(1, CellVerdict.LOST, expected=False), "?"),
        (past(1, CellVerdict.SKIPPED, expected=False), "-"),
    ],
)
def test_letters(one: PastCell | None, symbol: str) -> None:
    assert night_symbol(one) == symbol


def test_every_verdict_has_a_letter_that_the_legend_explains() -> None:
    for verdict in CellVerdict:
        assert f"{night_symbol(past(1, verdict))} {verdict}" in LEGEND


def test_a_change_names_both_kernels() -> None:
    assert change_words(BROKE) == (
        "pass → fail (lost-step), kernel 6.1.192 77a1ffdea359 → 6.12.5 c12c6bbf2509"
    )
    same = Change(ChangeKind.LOST, "k.a", NIGHTS[0], NIGHTS[1])
    assert change_words(same) == "pass → lost, on the same kernel (6.1.192 77a1ffdea359)"


def test_history_in_a_pipe() -> None:
    runs = tuple(PastRun(one.run, one.started, True, (one,)) for one in NIGHTS)
    console, stream = printed()
    print_history("c", History(runs, (BROKE,), (FLAKY,)), ["k.a"], console)
    assert stream.getvalue().splitlines() == [
        "c: 3 nights, 2026-01-01 22:05 to 2026-01-03 22:05 (UTC)",
        " month 01 01 01",
        "   day 01 02 03",
        "k.a     p  ?  F",
        LEGEND,
        "",
        "changes",
        "  2026-01-03 22:05 broke k.a: pass → fail (lost-step), kernel 6.1.192 77a1ffdea359"
        " → 6.12.5 c12c6bbf2509",
        "",
        "flaky",
        "  k.a: 3 of 17 runs on the same kernel (77a1ffdea359) not as expected, 95 % interval"
        " 6 to 41 %",
    ]


def test_nights_of_one_day_are_told_apart() -> None:
    one = past(1, CellVerdict.PASS)
    runs = (
        PastRun("1", "2026-01-01T09:05:00Z", True, (one,)),
        PastRun("2", "2026-01-01T22:07:00Z", True, (one,)),
    )
    console, stream = printed()
    print_history("c", History(runs, (), ()), ["k.a"], console)
    assert stream.getvalue().splitlines()[3:5] == ["  hour 09 22", "minute 05 07"]


def test_a_narrow_terminal_shows_the_last_nights() -> None:
    runs = tuple(
        PastRun(str(night), f"2026-01-{night:02}T22:00:00Z", True, (past(night, CellVerdict.PASS),))
        for night in range(1, 31)
    )
    console, stream = printed(width=40, terminal=True)
    print_history("c", History(runs, (), ()), ["k.a"], console)
    assert "11 nights, 2026-01-20 22:00 to 2026-01-30" in stream.getvalue()


def test_only_the_cells_that_are_meant() -> None:
    runs = tuple(PastRun(one.run, one.started, True, (one,)) for one in NIGHTS)
    console, stream = printed()
    print_history("c", History(runs, (BROKE,), (FLAKY,)), [], console)
    assert "k.a" not in stream.getvalue()


def test_since_last_night() -> None:
    other = [
        Change(ChangeKind.NEW, f"k.{number}", None, past(3, CellVerdict.PASS))
        for number in range(3)
    ]
    nights = Nights("2026-01-02T22:05:00Z", (BROKE, *other), (FLAKY,))
    console, stream = printed()
    print_nights(nights, console)
    assert stream.getvalue().splitlines() == [
        "",
        "since 2026-01-02 22:05 UTC: 1 broke, 3 new",
        f"  broke k.a: {change_words(BROKE)}",
        "  flaky k.a: 3 of 17 runs on the same kernel (77a1ffdea359) not as expected, 95 % interval"
        " 6 to 41 %",
    ]


def test_a_long_list_is_cut_and_says_so() -> None:
    changes = tuple(
        Change(ChangeKind.BROKE, f"k.{number}", NIGHTS[0], NIGHTS[2]) for number in range(25)
    )
    console, stream = printed()
    print_nights(Nights("2026-01-02T22:05:00Z", changes), console)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2 + 10 + 1
    assert lines[-1] == "  and 15 more: qemu-diff history"


def test_the_first_night_says_nothing() -> None:
    console, stream = printed()
    print_nights(Nights(), console)
    assert stream.getvalue() == ""
    assert since_sentence(Nights("2026-01-02T22:05:00Z")) == (
        "since 2026-01-02 22:05 UTC: nothing changed"
    )
