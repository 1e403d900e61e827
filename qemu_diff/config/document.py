"""A campaign file with all that it includes, as one TOML document that knows where each key stands.

What a file includes comes first, in the order of ``include``. Tables of ``[kernels]`` and
``[qemu]`` are told apart by name, and a later one of the same name takes the place of the earlier;
arrays of tables are put one behind the other; of ``[campaign]`` and ``[defaults]`` each key is
replaced by a later file's, and of ``machine`` and ``flood`` therein each key likewise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

from qemu_diff.config.locate import KeyPath, Position, closest, locate
from qemu_diff.config.problems import shown
from qemu_diff.errors import ConfigError

INCLUDE = "include"

_BY_KEY = (("campaign",), ("defaults",), ("defaults", "machine"), ("defaults", "flood"))
_BY_NAME = (("kernels",), ("qemu",))


@dataclass(frozen=True)
class Place:
    """A file, and a position in it; line 0: the file as a whole."""

    path: Path
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}" if self.line else str(self.path)


@dataclass(frozen=True)
class Document:
    """A campaign file and what it includes.

    :param files: each once, in the order in which they are merged: the campaign file is the last.
    :param data: the merged document.
    :param positions: where each key of it stands, in which file.
    """

    files: tuple[Path, ...]
    data: dict[str, Any]
    positions: Mapping[KeyPath, tuple[Path, Position]]

    def place(self, path: KeyPath) -> Place:
        """Where a key stands, else the nearest key above it."""
        found = closest(self.positions, path)
        if found is None:
            return Place(self.files[-1], 0, 0)
        file, position = found
        return Place(file, position.line, position.column)


def read_document(path: Path) -> Document:
    """Read a campaign file and what it includes.

    :raise ConfigError: a file can't be read, is not TOML, is not there, or includes itself.
    """
    return _read_document(path, (), {})


def _read_document(path: Path, within: tuple[Path, ...], done: dict[Path, Document]) -> Document:
    """
    :param within: the files that are being read, resolved, outermost first.
    :param done: those that were read; each is merged once, where it is first included.
    """
    text = _read(path)
    data = _parse(path, text)
    found = {key: (path, position) for key, position in locate(text).items()}
    own = Document((path,), data, found)
    merged = Document((), {}, {})
    for number, named in enumerate(_included(own)):
        at = own.place((INCLUDE, number))
        target = path.parent / Path(named).expanduser()
        _check_include(target, named, at, (*within, path.resolve()))
        if target.resolve() not in done:
            inner = _read_document(target, (*within, path.resolve()), done)
            done[target.resolve()] = inner
            merged = _merged(merged, inner)
    return _merged(merged, own)


def _included(own: Document) -> Iterable[str]:
    named = own.data.pop(INCLUDE, [])
    at = own.place((INCLUDE,))
    for number, one in enumerate(named if isinstance(named, list) else [None]):
        if not isinstance(one, str):
            value = shown(named if one is None else one)
            if isinstance(named, list):
                at = own.place((INCLUDE, number))
            text = f"{INCLUDE}: expected an array of paths, got {value}"
            raise ConfigError(at.path, at.line, at.column, text)
        yield one


def _check_include(target: Path, named: str, at: Place, within: tuple[Path, ...]) -> None:
    text = ""
    if target.resolve() in within:
        chain = (*within[within.index(target.resolve()) :], target)
        text = f"{named!r} includes itself: {' → '.join(one.name for one in chain)}"
    elif not target.is_file():
        text = f"{named!r} does not exist in {target.parent}"
        if target.is_dir():
            text = f"{named!r} is a directory, not a campaign file"
    if text:
        raise ConfigError(at.path, at.line, at.column, f"{INCLUDE}: {text}")


def _merged(first: Document, second: Document) -> Document:
    """Two documents as one; neither is to be used any more."""
    positions = dict(first.positions)
    data = first.data
    shifts: dict[str, int] = {}
    for key, value in second.data.items():
        here = data.get(key)
        if isinstance(here, list) and isinstance(value, list):
            shifts[key] = len(here)
            data[key] = [*here, *value]
        else:
            _put(data, (key,), value, positions)
    for path, place in second.positions.items():
        positions[_shifted(path, shifts)] = place
    return Document((*first.files, *second.files), data, positions)


def _put(node: dict[str, Any], path: KeyPath, value: object, positions: dict[KeyPath, Any]) -> None:
    """Put a value over what is there; what stands no more has no place any more."""
    key = path[-1]
    here = node.get(str(key))
    mergeable = path in _BY_KEY or path in _BY_NAME
    if mergeable and isinstance(here, dict) and isinstance(value, dict):
        for inner, one in value.items():
            _put(here, (*path, inner), one, positions)
        return
    if str(key) in node:
        for known in [one for one in positions if one[: len(path)] == path]:
            del positions[known]
    node[str(key)] = value


def _shifted(path: KeyPath, shifts: Mapping[str, int]) -> KeyPath:
    """The key path that an array's element has behind those of another document."""
    match path:
        case (str(key), int(number), *rest) if key in shifts:
            return (key, number + shifts[key], *rest)
    return path


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(path, 0, 0, "there is no such campaign file") from None
    except IsADirectoryError:
        raise ConfigError(path, 0, 0, "is a directory, not a campaign file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(path, 0, 0, f"can't be read: {reason}") from None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, data, error.start) from None


def _not_utf8(path: Path, data: bytes, offset: int) -> ConfigError:
    before = data[:offset].decode()
    line = before.count("\n") + 1
    column = len(before) - (before.rfind("\n") + 1) + 1
    return ConfigError(path, line, column, f"byte 0x{data[offset]:02x} is not UTF-8")


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        message = error.msg[:1].lower() + error.msg[1:]
        raise ConfigError(path, error.lineno, error.colno, f"not TOML: {message}") from None
    except (RecursionError, ValueError) as error:  # ValueError: an integer beyond Python's limit
        raise ConfigError(path, 0, 0, f"not read as TOML: {error}") from None
