"""The driver ``monitor``: where L2 stands is what QEMU's human monitor (HMP) shows.

Steps are asked of the gdbstub all the same: HMP has no command for one. What HMP adds is a second
mouth of the same QEMU, and one that can stop L2 while a step is under way.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
from pexpect.socket_pexpect import SocketSpawn

from qemu_diff.drive.debugger import Position, Stop
from qemu_diff.drive.rsp import RspDebugger
from qemu_diff.errors import DebuggerError
from qemu_diff.guest.gdbstub import ANSWER_S, POLL_S, opened

MAX_OUTPUT = 1 << 20
"""Bytes of one answer: ``info registers`` of a vCPU with SVE has some 10,000."""

_PROMPT = rb"\(qemu\) \Z"
_MATCHED, _CLOSED = 0, 1
_SEARCHED = 64
"""Bytes at the end of what came, where a prompt or the end of an echo may stand."""

_ESCAPE_SEQUENCE = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")
_ECHO_END = b"\x1b[K"
"""What QEMU's readline writes behind the line that is being typed (util/readline.c,
``readline_update``): it shows each key by going back, writing the line anew, and this."""

_UP = "\x1b[A"
"""The cursor key that brings back the last command. Typed, each key of it is a write to L1's port
and an interrupt of L0's; brought back, the line is one of them: 5.1 ms become 2.3."""

_PC = re.compile(r"^ PC=([0-9a-f]{16}) ", re.MULTILINE)
_PSTATE = re.compile(r"^PSTATE=([0-9a-f]{16}|[0-9a-f]{8}) ", re.MULTILINE)
"""QEMU target/arm/cpu.c, ``aarch64_cpu_dump_state``; PSTATE has 32 bits in 7.2, 64 later."""

_STATUS = re.compile(r"VM status: ([a-z][a-z() -]*)")
_TYPEABLE = re.compile(r"[ -~]+")


def parse_registers(text: str) -> Position:
    """PC and PSTATE of one vCPU, out of what ``info registers`` prints.

    :raises DebuggerError: it isn't that of one vCPU in AArch64.
    """
    pc, pstate = _PC.findall(text), _PSTATE.findall(text)
    if len(pc) != 1 or len(pstate) != 1:
        raise DebuggerError(f"the monitor shows no registers of one AArch64 vCPU: {_line(text)}")
    return Position(int(pc[0], 16), int(pstate[0], 16))


def strip_echo(typed: str, shown: bytes) -> str:
    """What a command has printed.

    :param shown: all that came from the command's first key to the next prompt.
    :raises DebuggerError: it doesn't begin with the echo of what was typed.
    """
    echo, newline, output = shown.partition(b"\r\n")
    if not newline or not echo.endswith(typed.encode() + _ECHO_END):
        raise DebuggerError(f"the monitor did not take {typed!r}: {_line(_plain(shown))}")
    return _plain(output)


STOP_AFTER_S = 0.001
"""See :meth:`MonitorDebugger.request_step_and_stop`: nearly always while the step is under way."""


class Monitor:
    """QEMU's human monitor with its readline (``-mon mode=readline``), behind a socket.

    Every method raises :class:`~qemu_diff.errors.DebuggerError` where the monitor refuses, talks
    nonsense, falls silent, or goes away. After silence or nonsense it is not asked again: whose
    answer comes next could not be told.
    """

    def __init__(
        self,
        connection: socket.socket,
        deadline: float,
        cancel: threading.Event,
        *,
        answer_s: float = ANSWER_S,
    ) -> None:
        """
        :param deadline: of :func:`time.monotonic`, for all that follows.
        :param cancel: set it to make every wait end.
        :param answer_s: seconds that one answer may take, but for the first.
        """
        connection.settimeout(answer_s)
        self._spawn = _Connection(connection, maxread=1 << 16, searchwindowsize=_SEARCHED)
        self._prompt = self._spawn.compile_pattern_list([_PROMPT, pexpect.EOF, pexpect.TIMEOUT])
        self._deadline = deadline
        self._cancel = cancel
        self._answer_s = answer_s
        self._lost = ""
        self._prepared = ""
        self._previous = ""
        self._vcpu = 0

    def start(self) -> None:
        """Wait for a monitor that answers. It shows its prompt seconds before it takes a command:
        QEMU makes the monitor first, then the machine, then runs its main loop."""
        self._expect(self._prompt, self._deadline)
        self._command("info status", self._deadline)

    def command(self, text: str) -> str:
        """What a command prints; errors are text, too."""
        return self._command(text, self._answer_by())

    def prepare(self, text: str) -> None:
        """Type a command, all but its last key: the rest is one byte then, which is on its way
        sooner than readline could echo a line."""
        self._type(text, b"")
        echoed = re.escape(text.encode() + _ECHO_END) + rb"\Z"
        patterns = self._spawn.compile_pattern_list([echoed, pexpect.EOF, pexpect.TIMEOUT])
        self._expect(patterns, self._answer_by())
        self._prepared = text

    def enter(self) -> str:
        """The last key of :meth:`prepare`, and what the command prints."""
        typed, self._prepared = self._prepared, ""
        self._previous = typed
        if not typed:
            raise DebuggerError("no command of the monitor is prepared")
        self._send(b"\n")
        shown = self._expect(self._prompt, self._answer_by())
        return self._output(typed, typed.encode() + _ECHO_END + shown)

    def registers(self, vcpu: int = 0) -> Position:
        """Where a vCPU stands; QEMU stops it for a moment where it runs."""
        if vcpu != self._vcpu:
            self._quietly(f"cpu {vcpu}")
            self._vcpu = vcpu
        return parse_registers(self.command("info registers"))

    def status(self) -> str:
        """``running``, ``paused``, ``paused (debug)``, ``paused (prelaunch)`` …"""
        text = self.command("info status")
        found = _STATUS.search(text)
        if not found:
            raise DebuggerError(f"the monitor tells no status: {_line(text)}")
        return found[1]

    def stop(self) -> None:
        """Have L2 stand still; nothing where it does already."""
        self._quietly("stop")

    def cont(self) -> None:
        """Let L2 run: freely, whatever the gdbstub has asked for before (see
        :class:`MonitorDebugger`)."""
        self._quietly("cont")

    def start_gdbserver(self, device: str) -> None:
        """Have the gdbstub listen on a device, as ``chardev:ID`` on a chardev that is there; with
        one that is open it can be asked at once. It stops L2."""
        self._announced(f"gdbserver {device}", "Waiting for gdb connection")

    def quit(self) -> None:
        """End QEMU. It is on its way when this returns; the port may outlive it."""
        self._type("quit", b"\n")
        patterns = self._spawn.compile_pattern_list(
            [rb"\r\n(\(qemu\) )?\Z", pexpect.EOF, pexpect.TIMEOUT]
        )
        self._expect(patterns, self._answer_by(), may_close=True)
        self._lost = "it was quit"

    # --- keys and prompts ---

    def _command(self, text: str, deadline: float) -> str:
        self._type(text, b"\n")
        self._previous = text
        return self._output(text, self._expect(self._prompt, deadline))

    def _output(self, typed: str, shown: bytes) -> str:
        try:
            return strip_echo(typed, shown)
        except DebuggerError as error:
            self._lost = str(error)
            raise

    def _quietly(self, text: str) -> None:
        printed = self.command(text)
        if printed:
            raise DebuggerError(f"the monitor refused {text!r}: {_line(printed)}")

    def _announced(self, text: str, announcement: str) -> None:
        printed = self.command(text)
        if not printed.startswith(announcement):
            raise DebuggerError(f"the monitor refused {text!r}: {_line(printed)}")

    def _type(self, text: str, last_key: bytes) -> None:
        if not _TYPEABLE.fullmatch(text):
            raise DebuggerError(f"the monitor can't be told {text!r}")
        if self._prepared:
            raise DebuggerError(f"the monitor waits for the end of {self._prepared!r}")
        self._send((_UP if text == self._previous else text).encode() + last_key)

    def _send(self, keys: bytes) -> None:
        if self._lost:
            raise DebuggerError(f"the monitor is of no use any more: {self._lost}")
        try:
            self._spawn.send(keys)
        except OSError as error:
            raise self._failed("the monitor went away") from error

    def _answer_by(self) -> float:
        return min(self._deadline, time.monotonic() + self._answer_s)

    def _expect(self, patterns: list[object], deadline: float, may_close: bool = False) -> bytes:
        """What came before what was waited for."""
        while True:
            found = self._look(patterns)
            if found == _MATCHED or (found == _CLOSED and may_close):
                return bytes(self._spawn.before)
            if found == _CLOSED:
                raise self._failed("the monitor went away")
            if self._cancel.is_set():
                raise self._failed("called off")
            if len(self._spawn.before) > MAX_OUTPUT:
                raise self._failed(f"the monitor printed more than {MAX_OUTPUT:,} bytes")
            if time.monotonic() > deadline:
                last = _plain(bytes(self._spawn.before)[-200:])
                said = f": {_line(last)}" if last.strip() else ""
                raise self._failed(f"no answer of the monitor in time{said}")

    def _look(self, patterns: list[object]) -> int:
        try:
            return int(self._spawn.expect_list(patterns, timeout=POLL_S))
        except OSError as error:
            raise self._failed("the monitor went away") from error

    def _failed(self, reason: str) -> DebuggerError:
        self._lost = reason
        return DebuggerError(reason)


class _Connection(SocketSpawn):  # type: ignore[misc]
    def read_nonblocking(self, size: int = 1, timeout: float = -1) -> bytes:
        """pexpect counts its timeout by the wall clock, which may be set; and 0 would be an error
        instead of a timeout."""
        return bytes(super().read_nonblocking(size, min(max(timeout, 0.001), POLL_S)))


class MonitorDebugger:
    """A :class:`~qemu_diff.drive.debugger.Debugger` that steps by the gdbstub, and believes the
    monitor where L2 stands.

    A step may be stopped on its way. That is legal, and what follows is this (QEMU 7.2
    gdbstub/gdbstub.c and softmmu/cpus.c; seen on 7.2 under KVM):

    - ``stop`` is ``vm_stop(RUN_STATE_PAUSED)``; where L2 runs, ``do_vm_stop`` pauses the vCPUs,
      which writes their registers back, and notifies ``gdb_vm_state_change``: gdb gets T02, SIGINT.
    - A step that was done first is ``RUN_STATE_DEBUG``: T05, SIGTRAP, and ``stop`` does nothing. So
      it is when ``stop`` is served before the request. Whatever wins, there is *one* stop.
    - T02 doesn't say whether the instruction was executed. Where L1 has one CPU it nearly always
      was (1,014 of 1,020): QEMU gives up its lock for KVM_RUN only, and one instruction is over
      before the main loop gets it. The debug request that is left then is dropped (``vm_stop`` of
      a machine that stands); no second stop follows.
    - Either stop ends with ``cpu_single_step(cpu, 0)`` ("disable single step if it was enabled"),
      which tells KVM at once. ``vCont;s`` may follow, and ``cont`` runs L2 freely. The monitor's
      ``stop`` is then one that gdb did not ask for, and that the next request passes over.
    - With several vCPUs that holds of ``c_cpu`` only, the one that stopped last. Before QEMU commit
      761e3c10881b ("gdbstub: fixes cases where wrong threads were reported to GDB on SIGINT") a T02
      may name another thread than the one that was stepped, which keeps its single-step. L2 of this
      driver has one.
    """

    def __init__(self, monitor: Monitor, steps: RspDebugger, stop_each: int = 0) -> None:
        """
        :param monitor: started.
        :param steps: of the same QEMU, whose gdbstub the monitor may have started.
        :param stop_each: of so many steps, :meth:`step` has one stopped on its way; 0: none.
        """
        self._monitor = monitor
        self._steps = steps
        self._stop_each = stop_each
        self._number = 0

    def position(self, vcpu: int = 0) -> Position:
        """See :meth:`Debugger.position`: the monitor's."""
        return self._monitor.registers(vcpu)

    def read_register(self, name: str) -> int:
        """See :meth:`Debugger.read_register`: the gdbstub's, but for ``pc`` and ``cpsr``."""
        if name in ("pc", "cpsr"):
            position = self.position()
            return position.pc if name == "pc" else position.pstate
        return self._steps.read_register(name)

    def write_register(self, name: str, value: int) -> None:
        """See :meth:`Debugger.write_register`: HMP can't."""
        self._steps.write_register(name, value)

    def read_memory(self, address: int, size: int) -> bytes:
        """See :meth:`Debugger.read_memory`: by the gdbstub."""
        return self._steps.read_memory(address, size)

    def request_step(self) -> None:
        """See :meth:`Debugger.request_step`."""
        self._steps.request_step()

    def request_step_and_stop(self, after_s: float) -> None:
        """Ask for one instruction, and for a stop while it is under way.

        :meth:`await_stop` tells which came first: ``SIGINT`` or ``SIGTRAP``.

        :param after_s: seconds of the host from the one to the other. A step of a nested L2 takes
            some 5 ms; 1 to 3 ms hit 98 of 100, 0 ms 2, 5 ms 16 (7.2 in a one-CPU L1).
        """
        self._monitor.prepare("stop")
        self._steps.request_step()
        time.sleep(after_s)
        refusal = self._monitor.enter()
        if refusal:
            raise DebuggerError(f"the monitor refused 'stop': {_line(refusal)}")

    def await_stop(self) -> Stop:
        """See :meth:`Debugger.await_stop`."""
        vcpu, signal = self._steps.await_signal()
        return Stop(vcpu, signal, self.position(vcpu))

    def step(self) -> Stop:
        """See :meth:`Debugger.step`."""
        self._number += 1
        if self._stop_each and self._number % self._stop_each == 0:
            self.request_step_and_stop(STOP_AFTER_S)
        else:
            self.request_step()
        return self.await_stop()

    def run_to(self, address: int) -> Stop:
        """See :meth:`Debugger.run_to`."""
        return self._steps.run_to_with(address, self.await_stop)

    def leave(self) -> None:
        """See :meth:`Debugger.leave`: nothing is sent, and the gdbstub is left as it is."""
        self._steps.leave()


@contextmanager
def connected(
    path: Path, deadline: float, cancel: threading.Event, *, answer_s: float = ANSWER_S
) -> Iterator[Monitor]:
    """The monitor behind a Unix socket; waits until it answers.

    :param deadline: see :class:`Monitor`, as for the rest.
    :raises DebuggerError: see :class:`Monitor`.
    """
    with opened(path, deadline, cancel) as connection:
        monitor = Monitor(connection, deadline, cancel, answer_s=answer_s)
        monitor.start()
        yield monitor


def _plain(shown: bytes) -> str:
    text = _ESCAPE_SEQUENCE.sub(b"", shown).decode(errors="replace")
    return text.replace("\r\n", "\n").strip("\r\n")


def _line(text: str) -> str:
    """The begin of what was printed, on one line."""
    words = " ".join(text.split())
    return repr(words if len(words) <= 80 else words[:80] + "…")
