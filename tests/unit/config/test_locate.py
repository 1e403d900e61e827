"""Every located position really holds its key: fixed cases, and any document tomli accepts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import tomli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qemu_diff.config.locate import KeyPath, Position, closest, locate

DOCUMENT = '''\
# [comment.is.no.table]
top = 1
"quoted key" = 'x = 2'

[a.b]          # a comment = 3
c.d = { e = [ 10, { f = 2 } ], "g.h" = """
[not.a.table]
i = 1""" }

[[t]]
[[t]]
x = [
  1, # two = 2
  "]",
]
[t.sub]
y = 1979-05-27 07:32:00
'''


@pytest.mark.parametrize(
    ("path", "line", "column"),
    [
        (("top",), 2, 1),
        (("quoted key",), 3, 1),
        (("a",), 5, 2),
        (("a", "b"), 5, 4),
        (("a", "b", "c"), 6, 1),
        (("a", "b", "c", "d"), 6, 3),
        (("a", "b", "c", "d", "e"), 6, 9),
        (("a", "b", "c", "d", "e", 0), 6, 15),
        (("a", "b", "c", "d", "e", 1), 6, 19),
        (("a", "b", "c", "d", "e", 1, "f"), 6, 21),
        (("a", "b", "c", "d", "g.h"), 6, 32),
        (("t",), 10, 3),
        (("t", 0), 10, 3),
        (("t", 1), 11, 3),
        (("t", 1, "x"), 12, 1),
        (("t", 1, "x", 0), 13, 3),
        (("t", 1, "x", 1), 14, 3),
        (("t", 1, "sub"), 16, 4),
        (("t", 1, "sub", "y"), 17, 1),
    ],
)
def test_known_positions(path: KeyPath, line: int, column: int) -> None:
    assert locate(DOCUMENT)[path] == Position(line, column)


def test_known_document_has_no_other_keys() -> None:
    assert set(locate(DOCUMENT)) == set(paths_of(tomli.loads(DOCUMENT)))


def test_windows_line_ends_count_once() -> None:
    assert locate("a = 1\r\nb = [\r\n2]\r\n")[("b", 0)] == Position(3, 1)


def test_closest_falls_back_to_what_encloses_a_key() -> None:
    positions = locate("[a]\nb = 1\n")
    assert closest(positions, ("a", "b")) == Position(2, 1)
    assert closest(positions, ("a", "missing", 3)) == Position(1, 2)
    assert closest(positions, ("missing",)) is None


# --- any document --------------------------------------------------------------------------------

# Time says nothing here: kernels may be building beside the tests.
on_a_busy_machine = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

BARE = re.compile(r"[A-Za-z0-9_-]+")
KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
keys = st.text("ab-_1", min_size=1, max_size=2) | st.sampled_from(
    ["", " ", "a.b", "#", "]", '"', "'", "\\", "é", "\n", "x = 1", "[[t]]", "\t"]
)
SCALARS = [
    "1",
    "0x1F",
    "1e3",
    "inf",
    "nan",
    "true",
    '""',
    "''",
    '"a # b"',
    '"\\"] \\\\"',
    "'[x]\\'",
    '"""\n[t]\nk = 1"""',
    '"""a"""""',
    '"""\\""" \\\\"""',
    "'''\n]}, '' \\'''",
    "'''a'''''",
    "1979-05-27 07:32:00",
    "07:32:00",
]
comments = st.sampled_from(["# c", "# k = 1", "# [t]", '# """', "#"])
spaces = st.sampled_from(["", " ", "\t ", "  "])


@dataclass
class Writer:
    """Writes a random document: the same keys in any of the ways that TOML has."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    lines: list[str] = field(default_factory=list)

    def document(self) -> str:
        self.body((), depth=2)
        return "".join(line + self.line_end() for line in self.lines)

    def line_end(self) -> str:
        comment = self.draw(st.just("") | comments)
        after = self.draw(st.sampled_from(["", "\n", "# x\n"]))
        return f"{self.draw(spaces)}{comment}\n{after}"

    def body(self, table: tuple[str, ...], depth: int) -> None:
        names = self.names()
        forms = [self.draw(st.integers(0, 4 if depth else 2)) for _ in names]
        for name, form in zip(names, forms, strict=True):
            if form <= 2:
                self.lines.append(self.assignment([name] if form else [name, *self.names(1)]))
        for name, form in zip(names, forms, strict=True):
            if form == 3:
                self.lines.append(f"[{self.dotted([*table, name])}]")
                self.body((*table, name), depth - 1)
            elif form == 4:
                for _ in range(self.draw(st.integers(1, 2))):
                    self.lines.append(f"[[{self.dotted([*table, name])}]]")
                    self.body((*table, name), depth - 1)

    def names(self, least: int = 0) -> list[str]:
        return list(self.draw(st.lists(keys, min_size=least, max_size=3, unique=True)))

    def assignment(self, path: list[str], depth: int = 2) -> str:
        return f"{self.dotted(path)}{self.space()}={self.space()}{self.value(depth)}"

    def dotted(self, path: list[str]) -> str:
        return ".".join(f"{self.space()}{self.key(name)}{self.space()}" for name in path)

    def key(self, name: str) -> str:
        spellings = ['"' + "".join(f"\\u{ord(letter):04x}" for letter in name) + '"']
        if BARE.fullmatch(name):
            spellings += [name, f'"{name}"']
        if "'" not in name and name.isprintable():
            spellings.append(f"'{name}'")
        return str(self.draw(st.sampled_from(spellings)))

    def value(self, depth: int) -> str:
        form = self.draw(st.integers(0, 3)) if depth else 0
        if form == 1:
            return self.array(depth - 1)
        if form == 2:
            return self.inline_table(depth - 1)
        return str(self.draw(st.sampled_from(SCALARS)))

    def array(self, depth: int) -> str:
        items = [self.value(depth) for _ in range(self.draw(st.integers(0, 3)))]
        trailing = self.draw(st.sampled_from(["", ","])) if items else ""
        joined = ",".join(f"{self.gap()}{item}{self.gap()}" for item in items)
        return f"[{joined}{trailing}{self.gap()}]"

    def inline_table(self, depth: int) -> str:
        pairs = (self.assignment([name], depth) for name in self.names())
        return "{" + ",".join(f"{self.space()}{pair}{self.space()}" for pair in pairs) + "}"

    def space(self) -> str:
        return str(self.draw(spaces))

    def gap(self) -> str:
        return str(self.draw(st.sampled_from(["", " ", "\n", " # ], k = 1\n", "\t"])))


@st.composite
def documents(draw: Callable[[st.SearchStrategy[Any]], Any]) -> str:
    return Writer(draw).document()


def paths_of(node: object, above: KeyPath = ()) -> Iterator[KeyPath]:
    children: list[tuple[str | int, object]] = []
    if isinstance(node, dict):
        children = list(node.items())
    elif isinstance(node, list):
        children = list(enumerate(node))
    for part, child in children:
        yield (*above, part)
        yield from paths_of(child, (*above, part))


def offset_of(text: str, position: Position) -> int:
    lines = text.split("\n")
    return sum(len(line) + 1 for line in lines[: position.line - 1]) + position.column - 1


def key_at(text: str, offset: int) -> str:
    token = KEY.match(text, offset)
    assert token
    return next(iter(tomli.loads(f"{token.group()} = 1")))


def value_at(document: object, path: KeyPath) -> Any:
    for part in path:
        document = document[part]  # type: ignore[index]
    return document


@on_a_busy_machine
@given(documents())
def test_every_key_of_any_document_is_located(text: str) -> None:
    assert set(locate(text)) == set(paths_of(tomli.loads(text)))


@on_a_busy_machine
@given(documents())
def test_the_text_at_each_position_is_the_key_itself(text: str) -> None:
    for path, position in locate(text).items():
        if isinstance(path[-1], str):
            assert key_at(text, offset_of(text, position)) == path[-1]


@on_a_busy_machine
@given(documents())
def test_a_mark_written_before_an_element_lands_in_its_array(text: str) -> None:
    """Insert an element at each position; tomli must find it at that index of that array."""
    document = tomli.loads(text)
    for path, position in locate(text).items():
        offset = offset_of(text, position)
        if isinstance(path[-1], str) or stands_in_header(text, path, offset):
            continue
        marked = tomli.loads(f'{text[:offset]}"mark",{text[offset:]}')
        assert value_at(marked, path) == "mark"
        assert len(value_at(marked, path[:-1])) == len(value_at(document, path[:-1])) + 1


@on_a_busy_machine
@given(documents())
def test_renaming_a_leaf_key_at_its_position_renames_that_leaf(text: str) -> None:
    document = tomli.loads(text)
    for path, position in locate(text).items():
        value = value_at(document, path)
        if isinstance(path[-1], int) or isinstance(value, dict | list):
            continue
        offset = offset_of(text, position)
        token = KEY.match(text, offset)
        assert token
        renamed = tomli.loads(f"{text[:offset]}renamed{text[token.end() :]}")
        assert same(value_at(renamed, (*path[:-1], "renamed")), value)


def stands_in_header(text: str, path: KeyPath, offset: int) -> bool:
    """Whether an element is one of an array of tables: located at the last key of ``[[a.b]]``.

    No other element of a named array can have ``]]`` behind it.
    """
    token = KEY.match(text, offset)
    return isinstance(path[-2], str) and bool(
        token and re.compile(r"[ \t]*\]\]").match(text, token.end())
    )


def same(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return left == right
