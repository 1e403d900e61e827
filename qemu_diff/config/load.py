"""A campaign file → a :class:`Campaign`, or every mistake in it at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tomli
from pydantic import ValidationError

from qemu_diff.config.checks import Surroundings, meaning_problems
from qemu_diff.config.locate import KeyPath, Position, closest, locate
from qemu_diff.config.overrides import Override, OverrideError, apply, parsed
from qemu_diff.config.paths import SearchPath
from qemu_diff.config.problems import Problem, shape_problems
from qemu_diff.config.project import job_names, payload_names, project_root, session_names
from qemu_diff.config.resolve import resolved
from qemu_diff.config.schema import CampaignFile
from qemu_diff.config.tree_option import TreeOption, tree_override
from qemu_diff.errors import ConfigError
from qemu_diff.model import Campaign


def load_campaign(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    trees: Sequence[TreeOption] = (),
    root: Path | None = None,
) -> Campaign:
    """Read, check and resolve a campaign file.

    Mistakes of shape (unknown keys, wrong types) are reported together; so are mistakes of meaning
    (unknown kernels, missing files), once the shape is right.

    :param overrides: ``KEY=VALUE``, as given with ``--set``; later ones win.
    :param trees: as given with ``--tree``; they come after the overrides.
    :param root: the project's root directory; found by :func:`project_root` where it is None.
    :raise ConfigError: the file can't be read or used; ``str()`` has one line for each mistake.
    :raise UserError: the project's own files are not there.
    """
    root = root or project_root()
    text = _read(path)
    document = _parse(path, text)
    applied = _override(path, overrides, trees, document)
    blame = _Blame(path, locate(text), applied)
    try:
        file = CampaignFile.model_validate(document)
    except ValidationError as error:
        raise blame.for_all(shape_problems(error, document)) from None
    paths = SearchPath(campaign=path.absolute().parent, project=root.absolute())
    beside = paths.campaign
    around = Surroundings(
        paths,
        payload_names(root, beside),
        job_names(root, beside),
        session_names(root, beside),
    )
    if problems := tuple(meaning_problems(file, around)):
        raise blame.for_all(problems)
    return resolved(file, path.absolute(), paths)


class _Blame:
    """Turns problems into errors that name a place: a line of the file, or a ``--set``."""

    def __init__(
        self, path: Path, positions: Mapping[KeyPath, Position], overrides: Sequence[Override]
    ) -> None:
        self._path = path
        self._positions = positions
        self._overrides = overrides

    def for_all(self, problems: Iterable[Problem]) -> ConfigError:
        """One error for all problems, in the order of the file."""
        errors = sorted(map(self._error, problems), key=lambda error: (error.line, error.column))
        first, others = errors[0], tuple(errors[1:])
        return ConfigError(
            first.path, first.line, first.column, first.problem, first.remedy, others=others
        )

    def _error(self, problem: Problem) -> ConfigError:
        if override := self._override_of(problem.path):
            text = f"{override.text}: {problem.text}"
            return ConfigError(self._path, 0, 0, text, problem.remedy)
        at = closest(self._positions, problem.path) or Position(0, 0)
        return ConfigError(self._path, at.line, at.column, problem.text, problem.remedy)

    def _override_of(self, path: KeyPath) -> Override | None:
        """The last override that set this key or a key above it."""
        for override in reversed(self._overrides):
            if path[: len(override.path)] == override.path:
                return override
        return None


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


def _override(
    path: Path, texts: Sequence[str], trees: Sequence[TreeOption], document: dict[str, Any]
) -> tuple[Override, ...]:
    given = [(f"--set {text}", partial(parsed, text)) for text in texts]
    given += [(f"--tree {tree.text}", partial(tree_override, tree)) for tree in trees]
    applied = []
    for option, read in given:
        try:
            override = read(document)
        except OverrideError as error:
            raise ConfigError(path, 0, 0, f"{option}: {error}") from None
        apply(override, document)
        applied.append(override)
    return tuple(applied)
