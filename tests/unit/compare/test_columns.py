"""What each kernel reported, beside what L2 executed."""

from __future__ import annotations

from streams import BASE, NOP, payload_of

from qemu_diff.compare.columns import MOST_ROWS, Column, column_lines, columns
from qemu_diff.compare.pair import PassOfSteps
from qemu_diff.trace.listing import Listing

A, B, C, END = (BASE + 4 * index for index in range(4))
LISTING = Listing(payload_of([NOP] * 2000))
TRUTH = PassOfSteps((A, B, C, END), ((2, C), (3, END)))
RIGHT = PassOfSteps((A, B, C, END), ((1, B), (2, C), (3, END)))


def test_a_lost_step_has_a_dash() -> None:
    shown = columns(TRUTH, [("old", TRUTH), ("new", RIGHT)], B, LISTING)
    assert shown.kernels == (
        Column("old", (True, False, True, True)),
        Column("new", (True, True, True, True)),
    )
    lines = column_lines(shown)
    assert lines[0].split() == ["old", "new", "L2", "executed"]
    assert lines[2].split()[:3] == ["-", f"{B:#x}", f"{B:#x}"]
    assert lines[-1].endswith("(the pass ends here)")


def test_of_a_long_pass_what_is_around_the_broken_step_is_shown() -> None:
    executed = tuple(BASE + 4 * index for index in range(1001))
    reported = tuple((index, executed[index]) for index in range(1, 1001) if index != 700)
    truth = PassOfSteps(executed, reported)
    shown = columns(truth, [("old", truth)], executed[700], LISTING)
    assert len(shown.truth) == MOST_ROWS
    (column,) = shown.kernels
    assert shown.truth[column.stops.index(False)].address == executed[700]


def test_a_pass_that_is_not_there_has_no_rows() -> None:
    nothing = PassOfSteps((), ())
    assert columns(nothing, [("old", nothing)], A, LISTING).truth == ()
