"""``--set KEY=VALUE``: a campaign file's keys, changed from the command line.

KEY is dotted as in TOML, and an element of an array is named by its number, from 0:
``scenario.0.flood.step_ns=4``. VALUE is read as TOML; what is not TOML is a string:
``--set scenario.0.payload=hvc``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tomli

from qemu_diff.config.locate import KeyPath
from qemu_diff.config.problems import label, shown


class OverrideError(ValueError):
    """An override that can't be applied; ``str()`` says why."""


@dataclass(frozen=True)
class Override:
    """One option, read.

    :param text: the option, as the user wrote it.
    :param path: the key that it sets.
    """

    text: str
    path: KeyPath
    value: object


def parsed(text: str, document: dict[str, Any]) -> Override:
    """Read one ``KEY=VALUE`` against the document that it is for.

    :raise OverrideError: it has no ``=``, or its key is no dotted key or leads through a scalar.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise OverrideError("expected KEY=VALUE")
    return Override(f"--set {text}", _path(_keys(key), document), _value(value))


def apply(override: Override, document: dict[str, Any]) -> None:
    """Set one value in the document, and the tables above it where they are missing."""
    node: Any = document
    for part in override.path[:-1]:
        if isinstance(node, dict):
            node.setdefault(part, {})
        node = node[part]
    node[override.path[-1]] = override.value


def _keys(text: str) -> list[str]:
    try:
        node: Any = tomli.loads(f"{text} = 0")
    except tomli.TOMLDecodeError:
        raise OverrideError(f"{text.strip()!r} is not a dotted key") from None
    except RecursionError:  # tomli's own bound
        raise OverrideError("a key of more parts than TOML's reader takes") from None
    keys = []
    while isinstance(node, dict):
        if len(node) != 1:
            raise OverrideError(f"{text.strip()!r} is not a dotted key")
        key, node = next(iter(node.items()))
        keys.append(key)
    return keys


def _value(text: str) -> object:
    try:
        read = tomli.loads(f"value = {text}")
    except (ValueError, RecursionError):  # ValueError: tomli's, or an integer beyond Python's limit
        return text
    return read["value"] if len(read) == 1 else text


def _path(keys: list[str], document: dict[str, Any]) -> KeyPath:
    path: KeyPath = ()
    node: Any = document
    for key in keys:
        part: str | int = key
        if isinstance(node, list):
            part = _element(path, key, node)
            node = node[part]
        elif isinstance(node, dict):
            node = node.get(key, {})
        else:
            raise OverrideError(f"{label(path)} is {shown(node)}, and holds no key {key!r}")
        path = (*path, part)
    return path


def _element(path: KeyPath, key: str, array: list[Any]) -> int:
    if key.isascii() and key.isdigit() and int(key) < len(array):
        return int(key)
    held = f"0 to {len(array) - 1}" if array else "none"
    raise OverrideError(
        f"{label(path)} is an array, and {key!r} is not the number of an element ({held})"
    )
