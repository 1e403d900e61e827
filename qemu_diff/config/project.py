"""Where the project's own files lie: guest sources, kernel patches, campaigns."""

from __future__ import annotations

import os
import re
from pathlib import Path

from qemu_diff.errors import UserError

ROOT_VARIABLE = "QEMU_DIFF_ROOT"
_LANDMARK = "guest_images"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def project_root() -> Path:
    """Directory that holds ``guest_images/`` and ``configs/``.

    The checkout that this package is imported from wins; an installed package has none beside it
    and asks ``$QEMU_DIFF_ROOT``.

    :raise UserError: neither is there.
    """
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / _LANDMARK).is_dir():
        return checkout
    named = os.environ.get(ROOT_VARIABLE, "")
    if not named:
        raise UserError(
            f"qemu-diff's {_LANDMARK}/ is not beside the installed package;"
            f" set {ROOT_VARIABLE} to a checkout of qemu-diff"
        )
    root = Path(named).expanduser().absolute()
    if not (root / _LANDMARK).is_dir():
        raise UserError(
            f"{ROOT_VARIABLE}={named} holds no {_LANDMARK}/; set it to a checkout of qemu-diff"
        )
    return root


def payload_names(root: Path, beside: Path | None = None) -> tuple[str, ...]:
    """The payloads that a campaign may name: the stems of ``guest_images/payloads/*.S``, and of
    ``payloads/*.S`` beside the campaign file.

    :param beside: the campaign file's directory.
    """
    return _names(root, beside, "payloads", "*.S")


def job_names(root: Path, beside: Path | None = None) -> tuple[str, ...]:
    """The jobs that a campaign may name: ``jobs/*.job``, in the same two places."""
    return _names(root, beside, "jobs", "*.job")


def session_names(root: Path, beside: Path | None = None) -> tuple[str, ...]:
    """The sessions that a campaign may name: ``sessions/*.gdb``, in the same two places."""
    return _names(root, beside, "sessions", "*.gdb")


def _names(root: Path, beside: Path | None, folder: str, pattern: str) -> tuple[str, ...]:
    own = (root / _LANDMARK / folder).glob(pattern)
    users = (beside / folder).glob(pattern) if beside else ()
    # A cell's id is made of names, and told apart at its dots.
    named = {path.stem for path in users if _NAME.fullmatch(path.stem)}
    return tuple(sorted(named | {path.stem for path in own}))
