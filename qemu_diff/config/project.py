"""Where the project's own files lie: guest sources, kernel patches, campaigns."""

from __future__ import annotations

import os
from pathlib import Path

from qemu_diff.errors import UserError

ROOT_VARIABLE = "QEMU_DIFF_ROOT"
_LANDMARK = "guest_images"


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


def payload_names(root: Path) -> tuple[str, ...]:
    """The payloads that a project has, by name: the stems of ``guest_images/payloads/*.S``."""
    return tuple(sorted(source.stem for source in (root / _LANDMARK / "payloads").glob("*.S")))


def job_names(root: Path) -> tuple[str, ...]:
    """The jobs that a project has, by name: the stems of ``guest_images/jobs/*.job``."""
    return tuple(sorted(script.stem for script in (root / _LANDMARK / "jobs").glob("*.job")))
