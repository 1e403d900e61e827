"""Key path → line and column in a TOML text, for error messages.

The TOML parsers at hand give values or styles but no positions. This scanner finds them. It reads
only text that tomli has parsed already, so it recognises where tokens end and checks nothing.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import tomli

Where = TypeVar("Where")

KeyPath = tuple[str | int, ...]
"""Keys, and positions in arrays from 0: ``("scenario", 0, "payload")``."""

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
_SPACE = re.compile(r"[ \t]*")
_SCALAR = re.compile(
    # TOML v1.0.0, "String": up to two quotation marks may stand just before the closing delimiter.
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'"
    r"|[^,\]}#\n]*",
    re.DOTALL,
)


@dataclass(frozen=True)
class Position:
    """Line and column in a text, both from 1; columns count characters."""

    line: int
    column: int


def locate(text: str) -> Mapping[KeyPath, Position]:
    """Where each key and each array element of a TOML text stands.

    A key that is mentioned several times (``[a.b]``, ``[a.c]``) is located at its first mention;
    an element of an array of tables at the last key of its ``[[header]]``.

    :param text: valid TOML.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return scanner.positions()


def closest(positions: Mapping[KeyPath, Where], path: KeyPath) -> Where | None:
    """Position of ``path``, else of the nearest enclosing key that has one."""
    for length in range(len(path), 0, -1):
        if found := positions.get(path[:length]):
            return found
    return None


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._offsets: dict[KeyPath, int] = {}
        self._elements: dict[KeyPath, int] = {}

    def positions(self) -> Mapping[KeyPath, Position]:
        starts = [0, *(match.end() for match in re.finditer("\n", self._text))]
        found = {}
        for path, offset in self._offsets.items():
            line = bisect_right(starts, offset)
            found[path] = Position(line, offset - starts[line - 1] + 1)
        return found

    def document(self) -> None:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._peek("["):
                table = self._header()
            else:
                self._key_value(table)
            self._skip(_BLANK)

    def _header(self) -> KeyPath:
        of_array = self._peek("[[")
        self._at += 2 if of_array else 1
        keys = self._dotted_key()
        self._at += 2 if of_array else 1
        path: KeyPath = ()
        for key, offset in keys[:-1]:
            path = self._newest_element(self._record((*path, key), offset))
        key, offset = keys[-1]
        path = self._record((*path, key), offset)
        if not of_array:
            return path
        self._elements[path] = self._elements.get(path, 0) + 1
        return self._record(self._newest_element(path), offset)

    def _newest_element(self, path: KeyPath) -> KeyPath:
        """TOML v1.0.0, "Array of Tables": a header below one means its last defined element."""
        count = self._elements.get(path)
        return path if count is None else (*path, count - 1)

    def _key_value(self, table: KeyPath) -> None:
        path = table
        for key, offset in self._dotted_key():
            path = self._record((*path, key), offset)
        self._at += len("=")
        self._skip(_SPACE)
        self._value(path)

    def _dotted_key(self) -> list[tuple[str, int]]:
        keys = []
        while True:
            self._skip(_SPACE)
            offset = self._at
            keys.append((_decoded(self._take(_KEY)), offset))
            self._skip(_SPACE)
            if not self._peek("."):
                return keys
            self._at += len(".")

    def _value(self, path: KeyPath) -> None:
        if self._peek("["):
            self._array(path)
        elif self._peek("{"):
            self._inline_table(path)
        else:
            self._skip(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._open()
        index = 0
        while not self._peek("]"):
            self._value(self._record((*path, index), self._at))
            self._separator()
            index += 1
        self._at += len("]")

    def _inline_table(self, path: KeyPath) -> None:
        self._open()
        while not self._peek("}"):
            self._key_value(path)
            self._separator()
        self._at += len("}")

    def _open(self) -> None:
        self._at += 1
        self._skip(_BLANK)

    def _separator(self) -> None:
        self._skip(_BLANK)
        if self._peek(","):
            self._at += len(",")
            self._skip(_BLANK)

    def _record(self, path: KeyPath, offset: int) -> KeyPath:
        self._offsets.setdefault(path, offset)
        return path

    def _peek(self, token: str) -> bool:
        return self._text.startswith(token, self._at)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._take(pattern)

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        assert match, f"tomli accepted what this scanner can't read at offset {self._at}"
        self._at = match.end()
        return match.group()


def _decoded(token: str) -> str:
    """A key as tomli reads it: quoted keys lose their quotes and escapes."""
    return next(iter(tomli.loads(f"{token} = 0")))
