"""gdb as a process that speaks GDB/MI (GDB manual, chapter 27), parsed by pygdbmi.

pygdbmi's own ``IoManager`` reads until nothing came for 0.2 s, which every command would cost, and
formats each record for a log that nobody reads. Here a reader stops at the record that it waits
for; pygdbmi's parser says what a record holds.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

from pygdbmi.gdbmiparser import parse_response, response_is_finished

from qemu_diff.confinement import cut_off, environment
from qemu_diff.errors import DebuggerError, InfrastructureError
from qemu_diff.guest.gdb import require_gdb
from qemu_diff.guest.gdbstub import POLL_S

MOST_QUOTED = 200
"""Characters of gdb's that an error repeats."""

_STRUCTURED = re.compile(r"\d*[\^*=+]")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SCRIPT = re.compile(r'script=\{((?:"(?:[^"\\]|\\.)*",?)*)\}')
"""A breakpoint's commands, which only MI version 4 makes a list (GDB NEWS, 13)."""

_PAIR = r'[A-Za-z_][\w-]*=""'
_TUPLE = re.compile(rf"\{{(?:{_PAIR}(?:,{_PAIR})*)?\}}")
_LIST = re.compile(rf'\[(?:(?:""|{_PAIR})(?:,(?:""|{_PAIR}))*)?\]')
_RECORD = re.compile(rf"\d*[\^*=+][a-z-]+(?:,{_PAIR})*")


@dataclass(frozen=True)
class Record:
    """A record of GDB/MI (GDB manual, "GDB/MI Output Syntax").

    :param kind: ``result``, ``notify``, ``console``, ``log``, ``target``, or ``output`` for a line
        that is no record.
    :param message: ``done``, ``running``, ``error``, ``stopped`` …; empty for text.
    :param token: of the command that a result answers, or -1.
    :param payload: of a result or a notification.
    :param text: of all others.
    """

    kind: str
    message: str = ""
    token: int = -1
    payload: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


def record_of(line: str) -> Record:
    """The record on one line.

    :raises DebuggerError: it is cut, or damaged: pygdbmi's parser never returns from some of these.
    """
    if _STRUCTURED.match(line):
        line = _SCRIPT.sub(r"script=[\1]", line)
        if not _is_record(line):
            raise DebuggerError(f"gdb sent a damaged record: {quoted(line)}")
    try:
        found = cast("dict[str, Any]", parse_response(line))
    except (TypeError, IndexError, AssertionError, ValueError) as error:
        raise DebuggerError(f"gdb sent a damaged record: {quoted(line)}") from error
    payload = found["payload"]
    token = found.get("token")
    return Record(
        kind=found["type"],
        message=found["message"] or "",
        token=-1 if token is None else token,
        payload=payload if isinstance(payload, dict) else {},
        text=payload if isinstance(payload, str) else "",
    )


def _is_record(line: str) -> bool:
    """Whether a line follows the syntax: values are reduced to strings, from the inside."""
    reduced, before = _STRING.sub('""', line), ""
    while reduced != before:
        before = reduced
        reduced = _LIST.sub('""', _TUPLE.sub('""', reduced))
    return _RECORD.fullmatch(reduced) is not None


def quoted(text: str) -> str:
    """What gdb said, for a message of one line."""
    return repr(" ".join(text.split())[:MOST_QUOTED])


class MiProcess:
    """A running gdb. Every method raises :class:`~qemu_diff.errors.DebuggerError` where it has
    ended, sends what is no record, refuses, or says nothing until the deadline."""

    def __init__(
        self, process: subprocess.Popen[bytes], deadline: float, cancel: threading.Event
    ) -> None:
        """
        :param process: with pipes that are not buffered.
        :param deadline: of :func:`time.monotonic`, for all that follows.
        :param cancel: set it to make every wait end.
        """
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._to, self._from = process.stdin.fileno(), process.stdout.fileno()
        self._deadline = deadline
        self._cancel = cancel
        self._partial = b""
        self._records: deque[Record] = deque()
        self._token = 0
        self._asked = ""
        self._last_said = ""

    @property
    def pid(self) -> int:
        """gdb's process, and its group."""
        return self._process.pid

    def send(self, command: str) -> int:
        """Send a command; the token of its result."""
        self._token += 1
        self._asked = command
        data = f"{self._token}{command}\n".encode()
        try:
            while data:
                data = data[os.write(self._to, data) :]
        except OSError:
            raise self._ended() from None
        return self._token

    def interrupt(self) -> None:
        """Ctrl-C: while L2 runs for a command of gdb's command line, gdb reads no other."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)

    def receive(self, within_s: float = float("inf")) -> Record:
        """The next record.

        :param within_s: seconds that it may take; never more than until the deadline of all.
        """
        by = time.monotonic() + within_s
        while not self._records:
            if time.monotonic() > by:
                raise self._silent()
            self._read(POLL_S)
        return self._records.popleft()

    def poll(self, seconds: float) -> Record | None:
        """The next record, or None where none came for so long; at most :data:`POLL_S`."""
        if not self._records:
            self._read(min(max(seconds, 0), POLL_S))
        return self._records.popleft() if self._records else None

    def _read(self, seconds: float) -> None:
        """Wait so long for more of gdb's output."""
        if self._cancel.is_set():
            raise DebuggerError("called off")
        if time.monotonic() > self._deadline:
            raise self._silent()
        ready, _, _ = select.select([self._from], [], [], seconds)
        if not ready:
            return
        data = os.read(self._from, 65536)
        if not data:
            raise self._ended()
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            if text and not response_is_finished(text):
                self._last_said = text
                self._records.append(record_of(text))

    def _silent(self) -> DebuggerError:
        asked = f" to {quoted(self._asked)}" if self._asked else ""
        return DebuggerError(f"no answer of gdb{asked} in time")

    def _ended(self) -> DebuggerError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=POLL_S)
        last = self._partial.decode(errors="replace").strip() or self._last_said
        if _STRUCTURED.match(last):
            last = ""  # no words of its own: what it did last
        status = self._process.returncode
        how = "" if status is None else f" with status {status}"
        if status is not None and status < 0:
            how = f" by {signal.Signals(-status).name}"
        return DebuggerError(f"gdb has ended{how}" + (f": {quoted(last)}" if last else ""))


@contextmanager
def mi_process(deadline: float, cancel: threading.Event, command: str = "") -> Iterator[MiProcess]:
    """gdb, without anybody's start-up files, in a process group of its own; gone afterwards.

    :param command: another gdb than :func:`~qemu_diff.guest.gdb.require_gdb`'s.
    :raises MissingToolError: there is no gdb.
    :raises InfrastructureError: it can't be started.
    """
    argv = [command or require_gdb(), "--nx", "--quiet", "--interpreter=mi3"]
    try:
        # What it calls was loaded before any thread began.
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            bufsize=0, start_new_session=True, env=environment(os.environ),
            preexec_fn=cut_off(os.getpid()),  # noqa: PLW1509
        )  # fmt: skip
    except OSError as error:
        raise InfrastructureError(f"starting {argv[0]}: {error.strerror}") from error
    with process:
        try:
            yield MiProcess(process, deadline, cancel)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    # gdb began a session, so the group is its own.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
