"""A campaign file → a :class:`Campaign`, or every mistake in it at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qemu_diff.config.checks import Surroundings, meaning_problems
from qemu_diff.config.defaults import DEFAULTS, Inherited, with_defaults
from qemu_diff.config.document import INCLUDE, Document, read_document
from qemu_diff.config.locate import KeyPath
from qemu_diff.config.overrides import Override, OverrideError, apply, parsed
from qemu_diff.config.paths import SearchPath
from qemu_diff.config.problems import Problem, label, shape_problems
from qemu_diff.config.project import job_names, payload_names, project_root, session_names
from qemu_diff.config.resolve import resolved
from qemu_diff.config.schema import CampaignFile
from qemu_diff.config.tree_option import TreeOption, tree_override
from qemu_diff.errors import ConfigError
from qemu_diff.model import Campaign, Exclusion


def load_campaign(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    trees: Sequence[TreeOption] = (),
    root: Path | None = None,
) -> Campaign:
    """Read, check and resolve a campaign file, with the files that it includes.

    Mistakes of shape (unknown keys, wrong types) are reported together; so are mistakes of meaning
    (unknown kernels, missing files), once the shape is right.

    :param overrides: ``KEY=VALUE``, as given with ``--set``; later ones win.
    :param trees: as given with ``--tree``; they come after the overrides.
    :param root: the project's root directory; found by :func:`project_root` where it is None.
    :raise ConfigError: a file can't be read or used; ``str()`` has one line for each mistake.
    :raise UserError: the project's own files are not there.
    """
    root = root or project_root()
    document = read_document(path)
    applied = _override(path, overrides, trees, document.data)
    whole, inherited = with_defaults(document.data)
    blame = _Blame(document, applied, inherited)
    try:
        # With defaults in their places their mistakes would be told once for each scenario.
        CampaignFile.model_validate(document.data)
        file = CampaignFile.model_validate(whole)
    except ValidationError as error:
        raise blame.for_all(shape_problems(error, document.data)) from None
    paths = SearchPath(
        campaign=path.absolute().parent,
        project=root.absolute(),
        included=tuple(one.absolute().parent for one in document.files[:-1]),
    )
    beside = paths.campaign
    around = Surroundings(
        paths,
        payload_names(root, beside),
        job_names(root, beside),
        session_names(root, beside),
    )
    if problems := tuple(meaning_problems(file, around)):
        raise blame.for_all(problems)
    campaign = resolved(file, path.absolute(), paths)
    return replace(campaign, exclusions=_placed(campaign.exclusions, blame))


def _placed(exclusions: Sequence[Exclusion], blame: _Blame) -> tuple[Exclusion, ...]:
    """Whether their globs match anything is known when the cells are."""
    return tuple(
        replace(one, written_at=blame.words(("exclude", index, "cells")))
        for index, one in enumerate(exclusions)
    )


class _Blame:
    """Turns problems into errors that name a place: a line of a file, or a ``--set``."""

    def __init__(
        self, document: Document, overrides: Sequence[Override], inherited: Inherited
    ) -> None:
        self._document = document
        self._overrides = overrides
        self._inherited = inherited

    def for_all(self, problems: Iterable[Problem]) -> ConfigError:
        """One error for all problems, in the order of the files."""
        order = {path: number for number, path in enumerate(self._document.files)}
        # What is wrong with a default is wrong in each scenario that has it.
        told = dict.fromkeys(self._at_its_root(problem) for problem in problems)
        errors = sorted(
            map(self._error, told), key=lambda error: (order[error.path], error.line, error.column)
        )
        first, others = errors[0], tuple(errors[1:])
        return ConfigError(
            first.path, first.line, first.column, first.problem, first.remedy, others=others
        )

    def _error(self, problem: Problem) -> ConfigError:
        if override := self._override_of(problem.path):
            text = f"{override.text}: {problem.text}"
            return ConfigError(self._document.files[-1], 0, 0, text, problem.remedy)
        at, text = self._document.place(problem.path), problem.text
        if problem.elsewhere:
            text += f"; the other is at {self.words(problem.elsewhere)}"
        return ConfigError(at.path, at.line, at.column, text, problem.remedy)

    def words(self, path: KeyPath) -> str:
        """The place of a key, as ``FILE:LINE:COLUMN``."""
        if override := self._override_of(path):
            return override.text
        return str(self._document.place(path))

    def _at_its_root(self, problem: Problem) -> Problem:
        """A problem with what a scenario inherited is one with the default."""
        here = problem.path
        for length in range(len(here), 0, -1):
            if (origin := self._inherited.get(here[:length])) is not None:
                text = problem.text.replace(label(here[:2]), DEFAULTS, 1)
                return replace(problem, path=(*origin, *here[length:]), text=text)
        return problem

    def _override_of(self, path: KeyPath) -> Override | None:
        """The last override that set this key or a key above it."""
        for override in reversed(self._overrides):
            if path[: len(override.path)] == override.path:
                return override
        return None


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
        if override.path[0] == INCLUDE:
            raise ConfigError(path, 0, 0, f"{option}: what is included is read before")
        apply(override, document)
        applied.append(override)
    return tuple(applied)
