"""Which QEMU there is, and what it offers. Features are probed, never inferred from a version."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from qemu_diff.errors import InfrastructureError, MissingToolError

QEMU_PROGRAM = "qemu-system-aarch64"
QEMU_INSTALL = "apt-get install qemu-system-arm"
TIMER_EVENT = "arm_gt_recalc"


@dataclass(frozen=True)
class Qemu:
    """A QEMU binary.

    :param identity: hex digest of the binary: results of self-tests are kept under it.
    :param sandbox: whether it has ``-sandbox``.
    """

    program: Path
    identity: str
    sandbox: bool


def find_qemu() -> Qemu:
    """The QEMU to use: ``$QEMU_DIFF_QEMU``, else ``qemu-system-aarch64`` on ``PATH``.

    :raises MissingToolError: it is not there, has no TCG plugins, or can't log its timers.
    """
    wanted = os.environ.get("QEMU_DIFF_QEMU", QEMU_PROGRAM)
    found = shutil.which(wanted)
    if found is None:
        raise MissingToolError(wanted, QEMU_INSTALL)
    return _probe(Path(found).resolve())


@cache
def _probe(program: Path) -> Qemu:
    help_text = _output(program, "-help")
    if "-plugin " not in help_text:
        raise MissingToolError(f"TCG plugin support in {program}", QEMU_INSTALL)
    if TIMER_EVENT not in _output(program, "-trace", "help").split():
        raise MissingToolError(f"trace event {TIMER_EVENT} in {program}", QEMU_INSTALL)
    with program.open("rb") as binary:
        identity = hashlib.file_digest(binary, "blake2b").hexdigest()[:32]
    return Qemu(program, identity, sandbox="-sandbox " in help_text)


def _output(program: Path, *arguments: str) -> str:
    command = [str(program), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InfrastructureError(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise InfrastructureError(f"{' '.join(command)}: {reason[0]}")
    return done.stdout
