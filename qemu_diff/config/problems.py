"""What can be wrong with a campaign file, in words: one :class:`Problem` for each mistake."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from qemu_diff.config.locate import KeyPath
from qemu_diff.config.schema import NAME_CHARACTERS, NAME_LENGTH, keys_of

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Problem:
    """One mistake, not yet located.

    :param path: the key that it is about.
    :param text: what is wrong.
    :param remedy: what would be right; may be empty.
    :param elsewhere: another key that it is about.
    """

    path: KeyPath
    text: str
    remedy: str = ""
    elsewhere: KeyPath = ()


def shape_problems(error: ValidationError, document: dict[str, Any]) -> tuple[Problem, ...]:
    """Every mistake that the schema found in a document, in words.

    A key that is missing because it is misspelt is one mistake: the misspelt key is reported.
    """
    details = error.errors(include_url=False)
    misspelt = {
        (*path[:-1], nearest(str(path[-1]), keys_of(path[:-1])))
        for path in (detail["loc"] for detail in details if detail["type"] == "extra_forbidden")
    }
    return tuple(
        _shape_problem(detail, document)
        for detail in details
        if not (detail["type"] == "missing" and detail["loc"] in misspelt)
    )


def label(path: KeyPath) -> str:
    """A key path as ``--set`` spells it: ``scenario.0.payload``."""
    return ".".join(str(part) for part in path)


def nearest(wrong: str, right: Iterable[str]) -> str | None:
    """The right name that was probably meant, or None where none is near."""
    return next(iter(get_close_matches(wrong, list(right), n=1)), None)


def suggestion(wrong: str, right: Iterable[str]) -> str:
    """The nearest right name as a question, or "" where none is near."""
    near = nearest(wrong, right)
    return "" if near is None else f"did you mean {near!r}?"


def listing(names: Sequence[str]) -> str:
    """Names for a sentence: ``hvc, straightline``."""
    return ", ".join(names)


def shown(value: object) -> str:
    """A TOML value with its type, on one line: ``the string "x"``."""
    for kind, in_words in _VALUES:
        if isinstance(value, kind):
            return in_words(value)
    return f"the date or time {value}"


def _clipped(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 4] + '..."'


def _shape_problem(detail: ErrorDetails, document: dict[str, Any]) -> Problem:
    path, value, kind = detail["loc"], detail["input"], detail["type"]
    # pydantic marks the key of a mapping itself, not the value below it, by a last part "[key]".
    if kind == "string_pattern_mismatch" and path[-1] == "[key]":
        return _bad_name(path[:-1], f"the key {path[-2]!r}", of=path[:-2])
    path = _as_written(path, document)
    if kind in _EXPECTED:
        return _wrong_type(path, _EXPECTED[kind], value)
    if kind in _WORDED:
        return _WORDED[kind](path, value, detail.get("ctx", {}))
    return Problem(path, f"{label(path)}: {detail['msg']}")


def _as_written(path: KeyPath, document: dict[str, Any]) -> KeyPath:
    """A path without the element number of a single value that stands for an array of one."""
    node: Any = document
    for length, part in enumerate(path):
        if isinstance(part, int) and not isinstance(node, list):
            return path[:length]
        node = node.get(part) if isinstance(node, dict) else node[part]
    return path


def _wrong_type(path: KeyPath, expected: str, value: object) -> Problem:
    remedy = ""
    if path in (("pair",), ("scenario",), ("exclude",)) and isinstance(value, dict):
        remedy = f"write [[{path[0]}]]"
    return Problem(path, f"{label(path)}: expected {expected}, got {shown(value)}", remedy)


def _unknown_key(path: KeyPath, _value: object, _context: dict[str, Any]) -> Problem:
    key, known = str(path[-1]), keys_of(path[:-1])
    remedy = suggestion(key, known) or f"the keys here are {listing(known)}"
    return Problem(path, f"unknown key {key!r}", remedy)


def _missing_key(path: KeyPath, _value: object, _context: dict[str, Any]) -> Problem:
    return Problem(path, f"{label(path)} is missing")


def _not_a_choice(path: KeyPath, value: object, context: dict[str, Any]) -> Problem:
    options = [str(option) for option in context["options"]]
    text = f"{label(path)}: expected one of {listing(options)}; got {shown(value)}"
    return Problem(path, text, suggestion(str(value), options))


def _name_pattern(path: KeyPath, value: object, _context: dict[str, Any]) -> Problem:
    if path[-1] == "reason":
        return Problem(path, f"{label(path)}: expected one line that says why, got {shown(value)}")
    return _bad_name(path, shown(value), of=path)


def _bad_name(path: KeyPath, what: str, of: KeyPath) -> Problem:
    remedy = f"a name is 1 to {NAME_LENGTH} of the characters {NAME_CHARACTERS}"
    return Problem(path, f"{label(of)}: {what} is not a name", remedy)


def _out_of_range(word: str, bound: str) -> Callable[[KeyPath, object, dict[str, Any]], Problem]:
    def problem(path: KeyPath, value: object, context: dict[str, Any]) -> Problem:
        return Problem(path, f"{label(path)}: must be {word} {context[bound]:.12g}, got {value}")

    return problem


def _empty_array(path: KeyPath, _value: object, _context: dict[str, Any]) -> Problem:
    return Problem(path, f"{label(path)}: the array is empty", "name at least one")


def _empty_string(path: KeyPath, _value: object, _context: dict[str, Any]) -> Problem:
    return Problem(path, f"{label(path)}: the string is empty")


def _not_finite(path: KeyPath, value: object, _context: dict[str, Any]) -> Problem:
    return Problem(path, f"{label(path)}: must be a finite number, got {value}")


def _source_form(path: KeyPath, value: object, _context: dict[str, Any]) -> Problem:
    return Problem(
        path,
        f'{label(path)}: expected "debian:PACKAGE", {{ debian = PACKAGE, suite = SUITE }}, '
        f"{{ git = PATH_OR_URL, rev = REV }}, {{ tree = PATH }} or {{ image = PATH }}; "
        f"got {shown(value)}",
        _source_remedy(value),
    )


def _source_remedy(value: object) -> str:
    if not isinstance(value, str):
        return ""
    form, colon, rest = value.partition(":")
    if colon and form in ("tree", "image", "git"):
        return f"write {{ {form} = {json.dumps(rest, ensure_ascii=False)} }}"
    return suggestion(form, ["debian"]) if colon and form != "debian" else ""


def _source_none(path: KeyPath, _value: object, _context: dict[str, Any]) -> Problem:
    return Problem(path, f"{label(path)}: the table names no git, tree, image or debian package")


def _source_both(path: KeyPath, _value: object, _context: dict[str, Any]) -> Problem:
    return Problem(
        path,
        f"{label(path)}: a tree is built, an image is ready: only one can be the source",
        "keep either tree, or image with its vmlinux",
    )


def _source_git(path: KeyPath, _value: object, _context: dict[str, Any]) -> Problem:
    text = f"{label(path)}: a commit is built: git stands with rev alone"
    return Problem(path, text, "keep either git with its rev, or the other source")


def _source_rev(path: KeyPath, _value: object, _context: dict[str, Any]) -> Problem:
    return Problem(path, f"{label(path)}: rev is of a git repository", "add git, or remove rev")


def _source_debian(path: KeyPath, _value: object, _context: dict[str, Any]) -> Problem:
    return Problem(
        path,
        f"{label(path)}: a package is got by its name, a path is here already",
        "keep either debian with its suite, or the paths",
    )


def _qemu_source(path: KeyPath, _value: object, _context: dict[str, Any]) -> Problem:
    text = f"{label(path)}: a QEMU is a program that is here, or one of a Debian suite"
    return Problem(path, text, "write either program = PATH, or suite = SUITE")


def _debian_word(path: KeyPath, value: object, _context: dict[str, Any]) -> Problem:
    what = "a Debian suite" if path[-1] == "suite" else "a Debian package"
    return Problem(path, f"{label(path)}: {shown(value)} is no name of {what}")


_VALUES: tuple[tuple[type, Callable[[Any], str]], ...] = (
    (bool, lambda value: f"the boolean {str(value).lower()}"),  # before int, which it is one of
    (int, "the integer {}".format),
    (float, "the float {}".format),
    (str, lambda value: f"the string {_clipped(json.dumps(value, ensure_ascii=False))}"),
    (list, lambda _: "an array"),
    (dict, lambda _: "a table"),
)

_EXPECTED = {
    "bool_type": "a boolean",
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a string",
    "list_type": "an array",
    "dict_type": "a table",
    "model_type": "a table",
}

_WORDED: dict[str, Callable[[KeyPath, object, dict[str, Any]], Problem]] = {
    "extra_forbidden": _unknown_key,
    "missing": _missing_key,
    "choice": _not_a_choice,
    "string_pattern_mismatch": _name_pattern,
    "greater_than": _out_of_range("more than", "gt"),
    "greater_than_equal": _out_of_range("at least", "ge"),
    "less_than_equal": _out_of_range("at most", "le"),
    "too_short": _empty_array,
    "finite_number": _not_finite,
    "source_form": _source_form,
    "source_none": _source_none,
    "source_both": _source_both,
    "source_git": _source_git,
    "source_rev": _source_rev,
    "source_debian": _source_debian,
    "debian_word": _debian_word,
    "qemu_source": _qemu_source,
    "string_too_short": _empty_string,
}
