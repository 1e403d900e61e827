"""Taking instructions out of a payload's source."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemu_diff.guest.payload_source import payload_source_of

PAYLOADS = Path(__file__).parents[3] / "guest_images" / "payloads"

SOURCE = """\
/* A comment
 * of two lines: nop */
\t.include "payload.inc"
\tclasses\talu, nop
\t.text
\trange_begin
\tnop\t\t/* not needed */
here:
\tmov\tx0, #1\t// needed
/* nop
   nop */
there:\tadd\tx0, x0, #1
\t.balign\t8
\trange_end
leaf:
\tret
"""


def test_instructions_of_the_range_are_found() -> None:
    source = payload_source_of(SOURCE)
    assert [source.lines[number].split()[0] for number in source.instructions] == [
        "nop", "mov", "there:",
    ]  # fmt: skip
    assert [source.lines[number] for number in source.tail] == ["leaf:", "\tret"]
    assert source.text == SOURCE


def test_labels_stay_where_their_instruction_goes() -> None:
    source = payload_source_of(SOURCE)
    less = source.without({*source.instructions, *source.tail})
    assert less.instructions == ()
    assert {"here:", "there:"} <= {*less.lines}
    assert "leaf:" in less.lines
    assert "ret" not in less.text
    assert "/* not needed */" not in less.text


def test_classes_are_stated_anew() -> None:
    assert "\tclasses\thvc\n" in payload_source_of(SOURCE).stating(["hvc"]).text


@pytest.mark.parametrize("path", sorted(PAYLOADS.glob("*.S")), ids=lambda path: path.stem)
def test_every_payload_of_ours_can_be_taken_apart(path: Path) -> None:
    source = payload_source_of(path.read_text())
    assert source.text == path.read_text()
    assert source.instructions
    assert source.without(source.instructions).instructions == ()
