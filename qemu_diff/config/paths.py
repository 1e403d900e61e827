"""Paths in a campaign file: what a relative one is relative to."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path

# git-clone(1), "Git URLs": with a scheme, or scp's form, which has no slash before its colon.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[^/:]+@[^/:]+:")


@dataclass(frozen=True)
class SearchPath:
    """Where a campaign's relative paths are looked up, in this order.

    :param campaign: directory of the campaign file.
    :param project: the project's root directory.
    :param included: directories of the files that the campaign file includes.
    """

    campaign: Path
    project: Path
    included: tuple[Path, ...] = ()

    def resolve(self, named: str) -> Path:
        """The absolute path that a campaign means: the first that exists, else the first."""
        candidates = [directory / expanded(named) for directory in self._directories()]
        return next((path for path in candidates if mode(path) is not None), candidates[0])

    def looked_in(self, named: str) -> str:
        """The directories that :meth:`resolve` tried, for a message; "" for an absolute path."""
        if expanded(named).is_absolute():
            return ""
        return " or ".join(str(directory) for directory in self._directories())

    def _directories(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys((self.campaign, *self.included, self.project)))


def mode(path: Path) -> int | None:
    """``st_mode``, or None where nothing can be found."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # ValueError: the name has a null byte
        return None


def is_directory(path: Path) -> bool:
    """Whether a directory can be found there."""
    found = mode(path)
    return found is not None and stat.S_ISDIR(found)


def is_url(repository: str) -> bool:
    """Whether a git repository's name is an URL, and no path."""
    return _URL.match(repository) is not None


def expanded(named: str) -> Path:
    """A path with its ``~`` replaced."""
    try:
        return Path(named).expanduser()
    except RuntimeError:  # "~name" of a user that this machine does not know is a plain name
        return Path(named)
