"""The picture in a terminal: one line for each kernel of each broken instruction."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from placed import BROKEN, HOSTILE, LOST, OUTCOMES, QUICKSTART, READ, WHOLE, spans
from rich.console import Console

from qemu_diff.model import Instruction, PlacementMap, Span
from qemu_diff.report.picture import Picture, Side, pictures
from qemu_diff.report.strip import GLYPHS, cells, strips
from qemu_diff.report.terminal import print_result


def lines(picture: Picture, width: int = 116, *, ascii_only: bool = False) -> list[str]:
    return [one.plain for one in strips(picture, width, ascii_only=ascii_only, details=False)]


def test_the_baseline_stands_above_with_its_window_in_ns() -> None:
    title, unpatched, patched, guest, axis, others = lines(pictures(QUICKSTART)[0])
    assert title == "trapped_read: mrs x0, id_aa64pfr0_el1"
    assert unpatched.startswith("unpatched |·")
    assert unpatched.endswith("| lost-step 3,159 to 3,624 ns")
    assert patched.endswith("| ok")
    assert guest.split() == ["^", "^", "guest", "entered", "at", "2,399,", "3,618"]
    assert guest.index("^") == unpatched.index("|") + 1 + 2399 * (len(axis) - 11) // 4740
    assert axis.split() == ["0", "4,740", "ns"]
    assert others == "1 other instruction: ok wherever an interrupt came"


def test_bars_end_below_each_other() -> None:
    _, unpatched, patched, _, axis, _ = lines(pictures(QUICKSTART)[0])
    assert unpatched.rindex("|") == patched.rindex("|") == len(axis)


def test_where_nothing_is_broken_nothing_is_said() -> None:
    whole = Picture("p", (Side("patched", (PlacementMap(READ, 4732, WHOLE),)),))
    assert lines(whole) == []
    assert len(list(strips(whole, 116, ascii_only=False, details=True))) == 3


def test_a_terminal_without_blocks_gets_ascii() -> None:
    shown = lines(pictures(QUICKSTART)[0], ascii_only=True)
    assert "".join(shown).isascii()
    assert "#" in shown[1]


def test_no_two_outcomes_look_alike() -> None:
    assert {*OUTCOMES} < {*GLYPHS}
    for column in (0, 1):
        assert len({glyph[column] for glyph in GLYPHS.values()}) == len(GLYPHS)


def test_one_broken_ns_is_seen() -> None:
    tried = (Span(0, 499, "ok", 500), Span(500, 500, LOST, 1), Span(501, 999, "ok", 499))
    assert cells(PlacementMap(READ, 1000, tried), 1000, 40).count(LOST) == 1


@given(spans(), st.integers(30, 100))
def test_each_span_is_in_its_columns(tried: tuple[Span, ...], columns: int) -> None:
    last_ns = (tried[-1].last_ns + 1) if tried else 1
    shown = cells(PlacementMap(READ, 0, tried), last_ns, columns)
    assert len(shown) == columns
    rank = list(GLYPHS).index
    for span in tried:
        at = shown[span.first_ns * columns // last_ns]
        assert rank(at) >= rank(span.outcome)


@pytest.mark.parametrize("words", HOSTILE)
def test_labels_do_nothing_to_the_terminal(words: str) -> None:
    instruction = Instruction(4, words, words)
    spoiled = Picture(words, (Side(words, (PlacementMap(instruction, 10, BROKEN),)),))
    assert all(line.isprintable() for line in lines(spoiled))


@pytest.mark.parametrize(("encoding", "glyph"), [("utf-8", "█"), ("ascii", "#")])
def test_a_result_shows_it_as_the_terminal_can(encoding: str, glyph: str) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="replace")
    print_result(QUICKSTART, Console(file=file, width=120, highlight=False))
    file.flush()
    shown = raw.getvalue().decode(encoding)
    assert "unpatched |" in shown
    assert glyph * 3 in shown
