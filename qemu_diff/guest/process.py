"""One boot, from QEMU's start to its end: console, progress, budget, and nothing left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

import pexpect
from pexpect.fdpexpect import fdspawn
from qemu.qmp import QMPClient, QMPError

from qemu_diff.confinement import FILE_BYTES, OVERHEAD_BYTES, Confinement, confine, environment
from qemu_diff.errors import InfrastructureError
from qemu_diff.events import Event, emit
from qemu_diff.scratch import scratch_directory, temporary

# A QEMU that can't be asked any more is no news: what became of it is said in the cell's reason.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())

ARGV, CONSOLE, REGISTERS = "argv", "console.log", "registers.txt"
"""What a boot leaves in its directory, whatever ran in it."""

POLL_S = 0.1
"""How often cancellation, budget and progress are looked at."""

MOST_BETWEEN_LOOKS_S = 5.0
"""On a machine that is busy looks come late; later than this, we did not run at all."""

AFTER_OOPS_S = 10.0
"""How long a kernel that has panicked may take to go down by itself."""

REGISTERS_S = 5.0
"""How long QEMU may take to say where its vCPU is."""

LINE_CHARACTERS = 400
"""Of a line of the console that is repeated in a result."""

MOST_WARNINGS = 100
"""Different ones of one boot that are repeated in a result."""

MOST_PARENT_BYTES = 64
"""Of the path of a directory in which a private directory still has room for a socket's name."""

CONSOLE_HEAD, CONSOLE_TAIL = 16 << 20, 64 << 10
"""Bytes of a console that are kept: so many of its begin, and the last so many, where a kernel says
what it died of."""

_READ_BYTES = 65536

_REST = rb"[^\r\n]{0,%d}" % LINE_CHARACTERS
KERNEL_DEATH = (
    rb"Kernel panic - not syncing: ",
    rb"Internal error: ",
    rb"Unable to handle kernel ",
    rb"kernel BUG at ",
    rb"\bBUG: ",
)

_DEATH = re.compile(b"(?:%b)%b" % (b"|".join(KERNEL_DEATH), _REST))
_WARNING = re.compile(rb"WARNING: CPU: " + _REST)


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
    :param starved_s: seconds for which QEMU's busiest thread could have run and had no CPU; None
        where this machine's kernel does not tell, or QEMU was gone.
    :param silent_s: seconds for which the console had said nothing at the end.
    """

    ending: Ending
    status: int
    death: str
    warnings: tuple[str, ...]
    registers: str
    last_line: str
    wall_s: float
    starved_s: float | None = None
    silent_s: float = 0.0


def how_ended(status: int) -> str:
    """A process's status in words, as :mod:`subprocess` has it: ``signal 9``, ``exit status 1``."""
    if status == -signal.SIGXFSZ:
        return f"signal {-status}: a file that it writes grew too long"
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def run_guest(
    argv: list[str],
    directory: Path,
    qmp_socket: Path,
    *,
    memory_mib: int,
    budget_s: float,
    cancel: threading.Event,
    watch: Callable[[], None] = lambda: None,
    writable: Sequence[Path] = (),
    file_bytes: int = FILE_BYTES,
) -> GuestExit:
    """Start QEMU and stay with it until it is gone.

    :param argv: QEMU's command line; its console is its standard output.
    :param directory: gets ``argv``, the console, without its middle where that is too much, and
        the vCPU's registers, where there are any: see :class:`GuestExit`.
    :param qmp_socket: the Unix socket that ``argv`` names.
    :param memory_mib: the guest's.
    :param budget_s: wall-clock seconds; QEMU is asked for its registers and killed after that.
    :param cancel: set it to call the run off.
    :param watch: called a few times a second; it may raise :class:`GivenUp`.
    :param writable: where QEMU may write beside ``directory`` and the socket's.
    :param file_bytes: of each file that it writes.
    :raises InfrastructureError: QEMU can't be started, or ``directory`` can't be written to.
    :raises Cancelled: ``cancel`` was set.
    """
    started = time.monotonic()
    confinement = Confinement(
        (directory, qmp_socket.parent, Path(os.devnull), *writable),
        (memory_mib << 20) + OVERHEAD_BYTES,
        file_bytes,
    )
    _write(directory / ARGV, shlex.join(argv) + "\n")
    console = directory / CONSOLE
    with _opened(console) as file, _spawned(argv, ConsoleLog(file), confinement) as qemu:
        ending, registers, silent_s = _wait(qemu, qmp_socket, budget_s, cancel, watch)
        starved_s = _starved_s(qemu.process.pid)
        _kill_group(qemu.process)
        cut = qemu.log.finish()
        status = qemu.process.returncode
    wall_s = time.monotonic() - started
    emit(Event("boot", str(directory), "exited", wall_s=wall_s))
    if registers:
        _write(directory / REGISTERS, registers)
    text = console.read_bytes()
    if ending is Ending.EXITED and status != 0:
        ending = Ending.DIED
    death, warnings, last_line = console_findings(text, cut)
    return GuestExit(
        ending=ending,
        status=status,
        death=death,
        warnings=warnings,
        registers=registers,
        last_line=last_line,
        wall_s=wall_s,
        starved_s=starved_s,
        silent_s=silent_s,
    )


def _starved_s(pid: int) -> float | None:
    """What its busiest thread waited for a CPU (Linux Documentation/scheduler/sched-stats.rst)."""
    with suppress(OSError, ValueError):
        threads = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        ran_ns, waited_ns, _ = max([int(word) for word in text.split()] for text in threads)
        return waited_ns / 1e9 if ran_ns else None
    return None


@contextmanager
def private_socket() -> Iterator[Path]:
    """A path for a Unix socket, and room for others beside it, in a directory of its own: results,
    and ``TMPDIR``, may lie deeper than the 108 bytes that a socket's path may have (unix(7))."""
    deep = len(os.fsencode(temporary())) > MOST_PARENT_BYTES
    with scratch_directory(Path("/tmp") if deep else None) as directory:
        yield directory / "qmp"


class ConsoleLog:
    """What a guest prints, as a file that it can't make longer than it may be."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._room = CONSOLE_HEAD
        self._tail = b""
        self._passed_over = 0

    def write(self, data: bytes) -> None:
        """:raises OSError: the disk refuses."""
        self._file.write(data[: self._room])
        rest = data[self._room :]
        self._room -= len(data) - len(rest)
        if rest:
            kept = self._tail + rest
            self._tail = kept[-CONSOLE_TAIL:]
            self._passed_over += len(kept) - len(self._tail)

    def flush(self) -> None:
        """The file's."""
        self._file.flush()

    def finish(self) -> int:
        """Write the end; how many bytes before it were left out.

        :raises OSError: the disk refuses.
        """
        if self._passed_over:
            self._file.write(b"\r\n[qemu-diff: %d bytes left out]\r\n" % self._passed_over)
        self._file.write(self._tail)
        self._file.flush()
        return self._passed_over


@dataclass(frozen=True)
class _Qemu:
    """A child, and the pipe that its console comes through. No terminal: pexpect's reader of one
    takes a child that ends just after a wait for output has timed out for one that said nothing
    more (pexpect pty_spawn.py, ``read_nonblocking()``), and its last line is lost."""

    process: subprocess.Popen[bytes]
    console: fdspawn
    log: ConsoleLog

    def is_gone(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise InfrastructureError(f"{path}: {error.strerror}") from error


@contextmanager
def _opened(console: Path) -> Iterator[BinaryIO]:
    try:
        log = console.open("wb")
    except OSError as error:
        raise InfrastructureError(f"{console}: {error.strerror}") from error
    with log:
        yield log


@contextmanager
def _spawned(argv: list[str], log: ConsoleLog, confinement: Confinement) -> Iterator[_Qemu]:
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment(os.environ), start_new_session=True,
            preexec_fn=confine(confinement, os.getpid()),  # noqa: PLW1509 - what it calls is loaded
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError) as error:
        raise InfrastructureError(f"starting QEMU: {error}") from error
    assert process.stdout is not None
    with process.stdout as console:
        try:
            yield _Qemu(process, fdspawn(console, logfile=log), log)
        finally:
            _kill_group(process)


def _wait(
    qemu: _Qemu,
    qmp_socket: Path,
    deadline: float,
    cancel: threading.Event,
    watch: Callable[[], None],
) -> tuple[Ending, str, float]:
    seen = b""
    clock = RunningTime()
    spoke = clock.seconds()
    while True:
        # Asked for before the console is read: what a child has said is in the pipe when it ends.
        gone = qemu.is_gone()
        console_open, said = _read(qemu.console)
        if gone and not (console_open and said):
            return Ending.EXITED, "", clock.seconds() - spoke
        if not console_open:
            time.sleep(POLL_S / 10)
        # A line may come in pieces.
        seen = seen[-LINE_CHARACTERS:] + said
        spoke = clock.seconds() if said else spoke
        if _DEATH.search(seen):
            deadline = min(deadline, clock.seconds() + AFTER_OOPS_S)
        if cancel.is_set():
            raise Cancelled
        try:
            watch()
        except GivenUp:
            return Ending.GIVEN_UP, "", clock.seconds() - spoke
        if clock.seconds() > deadline:
            return Ending.OUT_OF_BUDGET, _registers(qmp_socket), clock.seconds() - spoke


def _read(console: fdspawn) -> tuple[bool, bytes]:
    """What the console prints until ``POLL_S`` have passed, and whether it is still open."""
    said = b""
    until = time.monotonic() + POLL_S
    while (left_s := until - time.monotonic()) > 0:
        try:
            said += console.read_nonblocking(_READ_BYTES, left_s)
        except pexpect.TIMEOUT:
            break
        except pexpect.EOF:
            return False, said
    return True, said


def console_findings(text: bytes, cut: int) -> tuple[str, tuple[str, ...], str]:
    """A console's ``death``, ``warnings`` and ``last_line``, as :class:`GuestExit` has them.

    :param cut: bytes that were left out of it.
    """
    death = _DEATH.search(text)
    said = death[0].decode(errors="replace") if death else ""
    return said, _warnings(text, cut), _last_line(text)


def _warnings(text: bytes, cut: int) -> tuple[str, ...]:
    found = [one.decode(errors="replace") for one in _WARNING.findall(text)]
    kept = list(dict.fromkeys(found))
    if len(kept) > MOST_WARNINGS:
        kept[MOST_WARNINGS:] = [f"{len(kept) - MOST_WARNINGS:,} more warnings"]
    if cut:
        kept.append(f"its console is not kept whole: {cut:,} bytes are left out")
    return tuple(kept)


def _registers(qmp_socket: Path) -> str:
    """What QEMU says of its vCPU, as evidence beside a guest that makes no progress."""
    with suppress(QMPError, OSError, asyncio.TimeoutError):
        return asyncio.run(asyncio.wait_for(_ask_registers(qmp_socket), timeout=REGISTERS_S))
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


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    # It leads a session of its own, so the group is QEMU's alone.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(text: bytes) -> str:
    lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:LINE_CHARACTERS] if lines else ""
