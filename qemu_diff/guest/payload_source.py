"""A payload's source as lines that can be taken out: pure text, no assembler."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

_COMMENT = re.compile(r"/\*.*?\*/|//.*$")
_OPENS = re.compile(r"/\*.*$")
_LABELS = re.compile(r"^(?:\s*[A-Za-z_.$][\w.$]*:|\s*\d+:)+")
_CLASSES = re.compile(r"^\s*classes\s.*$")


@dataclass(frozen=True)
class PayloadSource:
    """The text of a payload (payloads/payload.inc).

    :param instructions: numbers of the lines of the stepping range that hold an instruction,
        ascending, from 0.
    :param tail: numbers of the lines after the stepping range.
    """

    lines: tuple[str, ...]
    instructions: tuple[int, ...]
    tail: tuple[int, ...]

    def without(self, removed: Collection[int]) -> PayloadSource:
        """The source without the instructions of these lines; their labels stay."""
        kept = (
            _label_of(line) if number in removed else line for number, line in enumerate(self.lines)
        )
        return payload_source_of("\n".join(line for line in kept if line is not None))

    def stating(self, classes: Iterable[str]) -> PayloadSource:
        """The source with another statement of its instruction classes."""
        stated = f"\tclasses\t{', '.join(classes)}"
        lines = (stated if _CLASSES.match(line) else line for line in self.lines)
        return payload_source_of("\n".join(lines))

    @property
    def text(self) -> str:
        """What an assembler reads."""
        return "\n".join(self.lines) + "\n"


def payload_source_of(text: str) -> PayloadSource:
    """The lines of a source, and what they are."""
    lines = tuple(text.rstrip("\n").split("\n"))
    instructions: list[int] = []
    tail: list[int] = []
    inside = after = commented = False
    for number, line in enumerate(lines):
        code, commented = _code(line, commented)
        statement = _LABELS.sub("", code).strip()
        if after:
            tail.append(number)
        elif statement == "range_begin":
            inside = True
        elif statement == "range_end":
            inside, after = False, True
        elif inside and statement and statement[0] not in ".#":
            instructions.append(number)
    return PayloadSource(lines, tuple(instructions), tuple(tail))


def _code(line: str, commented: bool) -> tuple[str, bool]:
    """A line without comments, and whether one goes on in the next line."""
    if commented:
        _, closed, line = line.partition("*/")
        if not closed:
            return "", True
    code = _COMMENT.sub("", line)
    return _OPENS.sub("", code), "/*" in code


def _label_of(line: str) -> str | None:
    found = _LABELS.match(line)
    return found[0] if found else None
