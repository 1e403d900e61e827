"""Which QEMU there is, and what it offers. Features are probed, never inferred from a version."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from qemu_diff.errors import MissingToolError, UserError, refuse_killed
from qemu_diff.model import QemuSpec

QEMU_PROGRAM = "qemu-system-aarch64"
QEMU_APT = "qemu-system-arm"
QEMU_DNF = "qemu-system-aarch64-core"
TIMER_EVENT = "arm_gt_recalc"

_SAID_CHARACTERS = 60

ANSWER_S = 60.0
"""A QEMU that is only asked something answers in a fraction of a second."""


@dataclass(frozen=True)
class Qemu:
    """A QEMU binary.

    :param identity: hex digest of the binary and its version line: results of self-tests are kept
        under it.
    :param version: its version line, for people.
    :param sandbox: whether it has ``-sandbox``.
    :param cpus: the CPU models of its ``virt`` machine.
    :param qtest: whether it has ``-qtest``.
    :param spec: what the campaign means by it; None: the one on ``PATH``.
    """

    program: Path
    identity: str
    version: str
    sandbox: bool
    cpus: tuple[str, ...]
    qtest: bool = True
    spec: QemuSpec | None = None


@dataclass(frozen=True)
class Answer:
    """What a QEMU said and how it ended.

    :param complaint: its last message, or how it ended; one line.
    """

    status: int
    text: str
    complaint: str


def ask(program: Path, *arguments: str) -> Answer:
    """Run a QEMU that ends by itself.

    :raises UserError: it can't be started, or does not end.
    :raises InfrastructureError: it was killed.
    """
    command = [str(program), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False,
            stdin=subprocess.DEVNULL, timeout=ANSWER_S,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"{program} is no QEMU that can be used: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{program}: no answer within {ANSWER_S:g} s") from error
    refuse_killed(str(program), done.returncode)
    lines = (done.stderr or done.stdout).strip().splitlines()
    return Answer(
        done.returncode, done.stdout, lines[-1] if lines else f"exit status {done.returncode}"
    )


def find_qemu() -> Qemu:
    """The QEMU to use: ``$QEMU_DIFF_QEMU``, else ``qemu-system-aarch64`` on ``PATH``.

    :raises MissingToolError: it is not there, has no TCG plugins, or can't log its timers.
    :raises UserError: it is no QEMU.
    """
    return named_qemu(os.environ.get("QEMU_DIFF_QEMU") or QEMU_PROGRAM)


def named_qemu(wanted: str) -> Qemu:
    """A QEMU by its path, or by its name on ``PATH``.

    :raises MissingToolError: see :func:`find_qemu`; so with the others.
    """
    found = shutil.which(wanted)
    if found is None and Path(wanted).exists():
        raise UserError(f"{wanted} is there, but is no program that can be executed")
    if found is None:
        raise MissingToolError(wanted, apt=QEMU_APT, dnf=QEMU_DNF)
    return _probe(Path(found).resolve())


@cache
def _probe(program: Path) -> Qemu:
    help_text = _text(program, "-help")
    if not help_text.startswith("QEMU emulator "):
        said = help_text.partition("\n")[0][:_SAID_CHARACTERS]
        raise UserError(f"{program} is no QEMU that can be used: its help begins with {said!r}")
    if "-plugin " not in help_text:
        raise MissingToolError(f"TCG plugin support in {program}", apt=QEMU_APT, dnf=QEMU_DNF)
    if TIMER_EVENT not in _text(program, "-trace", "help").split():
        what = f"trace event {TIMER_EVENT} in {program}"
        raise MissingToolError(what, apt=QEMU_APT, dnf=QEMU_DNF)
    version = _text(program, "--version").partition("\n")[0]
    digest = hashlib.blake2b(version.encode(), digest_size=16)
    digest.update(program.read_bytes())
    cpus = tuple(_text(program, "-M", "virt", "-cpu", "help").split())
    # -help does not name it; without an argument it is refused in another way than what is unknown.
    qtest = "invalid option" not in ask(program, "-qtest").complaint
    return Qemu(program, digest.hexdigest(), version, "-sandbox " in help_text, cpus, qtest)


def check_cpu(qemu: Qemu, cpu: str) -> None:
    """:raises UserError: this QEMU has no such CPU model."""
    if cpu not in qemu.cpus:
        raise UserError(f"{qemu.program} has no CPU {cpu!r}; see {qemu.program.name} -cpu help")


def check_qtest(qemu: Qemu) -> None:
    """:raises UserError: this QEMU has no qtest."""
    if not qemu.qtest:
        raise UserError(f"{qemu.program} has no -qtest, which a flood's source device needs")


def _text(program: Path, *arguments: str) -> str:
    answer = ask(program, *arguments)
    if answer.status:
        raise UserError(f"{program} is no QEMU that can be used: {answer.complaint}")
    return answer.text
