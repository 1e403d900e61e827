"""``[defaults]``: what all scenarios of a campaign have that don't say otherwise. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qemu_diff.config.locate import KeyPath
from qemu_diff.model import FloodSource

DEFAULTS = "defaults"

_BY_KEY = ("machine", "flood")
"""Tables of which each key is a default of its own."""

Inherited = Mapping[KeyPath, KeyPath]
"""A scenario's key that it did not write itself → the default's key."""


def with_defaults(document: dict[str, Any]) -> tuple[dict[str, Any], Inherited]:
    """The document with its defaults in each scenario's place.

    :param document: as it was read: nothing in it is sure to have the right type. It stays as it
        is.
    """
    defaults, scenarios = document.get(DEFAULTS), document.get("scenario")
    if not isinstance(defaults, dict) or not isinstance(scenarios, list):
        return document, {}
    inherited: dict[KeyPath, KeyPath] = {}
    filled = [
        _filled(one, defaults, ("scenario", number), inherited) if isinstance(one, dict) else one
        for number, one in enumerate(scenarios)
    ]
    return {**document, "scenario": filled}, inherited


def _filled(
    scenario: dict[str, Any],
    defaults: dict[str, Any],
    at: KeyPath,
    inherited: dict[KeyPath, KeyPath],
) -> dict[str, Any]:
    filled = dict(scenario)
    for key, value in defaults.items():
        if key not in scenario:
            filled[key] = value
            inherited[(*at, key)] = (DEFAULTS, key)
        elif key in _BY_KEY and isinstance(value, dict) and isinstance(scenario[key], dict):
            own = scenario[key]
            missing = {} if _excludes(own) else _missing(own, value)
            filled[key] = {**missing, **own}
            inherited.update({(*at, key, one): (DEFAULTS, key, one) for one in missing})
    return filled


def _missing(own: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """``source`` and ``each_of`` are two ways to say the same."""
    same = {"source", "each_of"}
    told = {*own, *(same if same & {*own} else ())}
    return {key: value for key, value in default.items() if key not in told}


def _excludes(own: dict[str, Any]) -> bool:
    """Whether a scenario says that it has no flood, whatever the default."""
    return own.get("source") in (FloodSource.NONE.value, [FloodSource.NONE.value])
