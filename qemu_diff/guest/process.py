"""One boot, from QEMU's start to its end: console, progress, budget, and nothing left behind."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

import pexpect
from qemu.qmp import QMPClient, QMPError

from qemu_diff.errors import InfrastructureError
from qemu_diff.scratch import scratch_directory

# A QEMU that can't be asked any more is no news: what became of it is said in the cell's reason.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())

POLL_S = 0.1
"""How often cancellation, budget and progress are looked at."""

MOST_BETWEEN_LOOKS_S = 5.0
"""On a machine that is busy looks come late; later than this, we did not run at all."""

AFTER_OOPS_S = 10.0
"""How long a kernel that has panicked may take to go down by itself."""

PR_SET_PDEATHSIG = 1
"""Linux include/uapi/linux/prctl.h."""

_FOUND, _CONSOLE_ENDED = 0, 1
"""Indexes into what is waited for on the console."""

_LIBC = ctypes.CDLL(None)
"""Loaded before any fork: a child of a process with threads must not load libraries."""

KERNEL_DEATH = (
    rb"Kernel panic - not syncing: [^\r\n]*",
    rb"Internal error: [^\r\n]*",
    rb"Unable to handle kernel [^\r\n]*",
    rb"kernel BUG at [^\r\n]*",
    rb"\bBUG: [^\r\n]*",
)
KERNEL_WARNING = (rb"WARNING: CPU: [^\r\n]*",)
STEPVMM_LINE = (rb"stepvmm: [^\r\n]*",)

_DEATH = re.compile(b"|".join(KERNEL_DEATH))
_WARNING = re.compile(b"|".join(KERNEL_WARNING))
_INTERESTING = re.compile(b"|".join((*KERNEL_DEATH, *KERNEL_WARNING, *STEPVMM_LINE)))


class Ending(StrEnum):
    """How a QEMU process ended."""

    EXITED = "exited"
    DIED = "died"
    OUT_OF_BUDGET = "out-of-budget"
    GIVEN_UP = "given-up"


class RunningTime:
    """Seconds in which we ran. A process that was stopped (SIGSTOP, a frozen container) has seen
    nothing of its guest meanwhile, and holds nothing against it."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._seconds = 0.0

    def seconds(self) -> float:
        """Since it was made. It has to be looked at a few times a second."""
        now = time.monotonic()
        self._seconds += min(now - self._last, MOST_BETWEEN_LOOKS_S)
        self._last = now
        return self._seconds


class GivenUp(Exception):  # noqa: N818 - what was wrong is told by who gave it up
    """Raised by a ``watch``: nothing more can come of this guest."""


class Cancelled(Exception):  # noqa: N818 - it is no error: the user asked for it
    """The run was called off; the guest is gone."""


@dataclass(frozen=True)
class GuestExit:
    """The end of one boot.

    :param status: exit status, or minus the signal's number.
    :param death: the console's first line of a dying kernel, or nothing.
    :param warnings: the console's WARN() lines.
    :param registers: the vCPU's registers, where QEMU was still there when the budget ran out.
    :param last_line: the last line of the console or of QEMU's own messages.
    :param wall_s: seconds from start to end.
    """

    ending: Ending
    status: int
    death: str
    warnings: tuple[str, ...]
    registers: str
    last_line: str
    wall_s: float


def how_ended(status: int) -> str:
    """A process's status in words, as :mod:`subprocess` has it: ``signal 9``, ``exit status 1``."""
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def run_guest(
    argv: list[str],
    console: Path,
    qmp_socket: Path,
    *,
    budget_s: float,
    cancel: threading.Event,
    watch: Callable[[], None] = lambda: None,
) -> GuestExit:
    """Start QEMU and stay with it until it is gone.

    :param argv: QEMU's command line; its console is its standard input and output.
    :param console: file that gets everything it prints.
    :param qmp_socket: the Unix socket that ``argv`` names.
    :param budget_s: wall-clock seconds; QEMU is asked for its registers and killed after that.
    :param cancel: set it to call the run off.
    :param watch: called a few times a second; it may raise :class:`GivenUp`.
    :raises InfrastructureError: QEMU can't be started, or the console can't be written.
    :raises Cancelled: ``cancel`` was set.
    """
    started = time.monotonic()
    with _opened(console) as log, _spawned(argv, log) as qemu:
        ending, registers = _wait(qemu, qmp_socket, budget_s, cancel, watch)
        _reap(qemu)
        log.flush()
        status = -qemu.signalstatus if qemu.signalstatus else qemu.exitstatus or 0
    text = console.read_bytes()
    if ending is Ending.EXITED and status != 0:
        ending = Ending.DIED
    death = _DEATH.search(text)
    return GuestExit(
        ending=ending,
        status=status,
        death=death[0].decode(errors="replace") if death else "",
        warnings=tuple(found.decode(errors="replace") for found in _WARNING.findall(text)),
        registers=registers,
        last_line=_last_line(text),
        wall_s=time.monotonic() - started,
    )


@contextmanager
def private_socket() -> Iterator[Path]:
    """A path for a Unix socket in a directory of its own: results may lie deeper than the 108
    bytes that a socket's path may have (unix(7))."""
    with scratch_directory() as directory:
        yield directory / "qmp"


class _Qemu(pexpect.spawn):  # type: ignore[misc]
    """A child whose console may end before it does."""

    flag_eof: bool

    def close(self, force: bool = True) -> None:
        """Close the console of a child that is gone: nobody is left to be waited for."""
        self.ptyproc.delayafterclose = 0
        super().close(force)

    def isalive(self) -> bool:
        """Whether it runs. pexpect's own waits without a limit once the console has ended."""
        ended = self.flag_eof
        self.flag_eof = False
        try:
            return bool(super().isalive())
        finally:
            self.flag_eof = ended


@contextmanager
def _opened(console: Path) -> Iterator[BinaryIO]:
    try:
        log = console.open("wb")
    except OSError as error:
        raise InfrastructureError(f"{console}: {error.strerror}") from error
    with log:
        yield log


@contextmanager
def _spawned(argv: list[str], log: BinaryIO) -> Iterator[_Qemu]:
    try:
        qemu = _Qemu(
            argv[0], argv[1:], logfile=log, echo=False, timeout=POLL_S, maxread=65536,
            preexec_fn=die_with(os.getpid()),
        )  # fmt: skip
    except (pexpect.ExceptionPexpect, OSError) as error:
        raise InfrastructureError(f"starting QEMU: {error}") from error
    try:
        yield qemu
    finally:
        _kill_group(qemu)


def die_with(parent: int) -> Callable[[], None]:
    """What the child does before it becomes QEMU.

    Whatever kills us, SIGKILL included, takes QEMU along (prctl(2), PR_SET_PDEATHSIG); and so does
    a death before that took effect.
    """

    def prepare() -> None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def _wait(
    qemu: _Qemu,
    qmp_socket: Path,
    deadline: float,
    cancel: threading.Event,
    watch: Callable[[], None],
) -> tuple[Ending, str]:
    patterns = qemu.compile_pattern_list([_INTERESTING.pattern, pexpect.EOF, pexpect.TIMEOUT])
    clock = RunningTime()
    console_open = True
    while console_open or qemu.isalive():
        if console_open:
            matched = qemu.expect_list(patterns, timeout=POLL_S)
            console_open = matched != _CONSOLE_ENDED
            if matched == _FOUND and _DEATH.match(qemu.match[0]):
                deadline = min(deadline, clock.seconds() + AFTER_OOPS_S)
        else:
            time.sleep(POLL_S / 10)
        if cancel.is_set():
            raise Cancelled
        try:
            watch()
        except GivenUp:
            return Ending.GIVEN_UP, ""
        if clock.seconds() > deadline:
            return Ending.OUT_OF_BUDGET, _registers(qmp_socket)
    return Ending.EXITED, ""


def _registers(qmp_socket: Path) -> str:
    """What QEMU says of its vCPU, as evidence beside a guest that makes no progress."""
    with suppress(QMPError, OSError, asyncio.TimeoutError):
        return asyncio.run(asyncio.wait_for(_ask_registers(qmp_socket), timeout=5))
    return ""


async def _ask_registers(qmp_socket: Path) -> str:
    client = QMPClient("qemu-diff")
    await client.connect(str(qmp_socket))
    try:
        status = await client.execute("query-status")
        text = await client.execute("human-monitor-command", {"command-line": "info registers"})
        return f"{status}\n{text}"
    finally:
        await client.disconnect()


def _reap(qemu: _Qemu) -> None:
    if qemu.isalive():
        _kill_group(qemu)
    qemu.close(force=True)


def _kill_group(qemu: _Qemu) -> None:
    # pexpect makes its child a session leader, so the group is QEMU's alone.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(qemu.pid, signal.SIGKILL)
    with suppress(pexpect.ExceptionPexpect):
        qemu.wait()


def _last_line(text: bytes) -> str:
    lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
