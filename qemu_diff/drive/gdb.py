"""The driver ``gdb``: L2 as a user of gdb sees it, step by step.

A gdb without an inferior of its own is connected to the gdbstub of L1's QEMU and spoken to in
GDB/MI; what its command line would show is kept beside.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from qemu_diff.drive.debugger import SIGINT, SIGTRAP, Position, Stop
from qemu_diff.drive.mi import MiProcess, Record, mi_process, quoted
from qemu_diff.errors import DebuggerError
from qemu_diff.guest.gdbstub import ANSWER_S, POLL_S

CONNECT_S = 600
"""``remotetimeout``, in seconds: gdb is there before L1 has booted, and waits for the first answer
without sending its question again. The driver's own deadline ends the wait earlier."""

SET_UP = (
    "-gdb-set confirm off",
    "-gdb-set pagination off",
    "-gdb-set width 0",
    "-gdb-set height 0",
    "-gdb-set architecture aarch64",
    # Else a gdb that waits for a stop reads no command, -exec-interrupt included.
    "-gdb-set mi-async on",
    f"-gdb-set remotetimeout {CONNECT_S}",
)

SIGNALS = {"SIGINT": SIGINT, "SIGTRAP": SIGTRAP}

_TARGET_ID = re.compile(r"Thread (?:\d+\.)?(\d+)\b")
"""QEMU numbers its threads by vCPU, from 1 (QEMU gdbstub.c, ``gdb_get_cpu_index()``)."""


def ignored(_line: str) -> None:
    """A transcript that nobody wants."""


@dataclass(frozen=True)
class Breakpoint:
    """A breakpoint or watchpoint of the user's, as ``-break-list`` has it.

    :param number: gdb's.
    :param address: of the instruction, or of the watched bytes; 0 where a register is watched, or
        what is no place.
    :param size: of the watched bytes; else 0.
    :param kind: ``breakpoint``, ``hw breakpoint``, ``watchpoint``, ``hw watchpoint``,
        ``read watchpoint`` or ``acc watchpoint``.
    :param conditional: a condition, an ignore count or a thread may let L2 pass.
    """

    number: int
    address: int
    size: int
    kind: str
    conditional: bool

    @property
    def watches(self) -> bool:
        """Whether it is a watchpoint."""
        return self.kind.endswith("watchpoint")


@dataclass(frozen=True)
class Answer:
    """What came of a command of gdb's command line.

    :param printed: as the command line shows it, without the last newline.
    :param error: gdb's complaint, which is in ``printed`` as well, or nothing.
    :param stops: payloads of ``*stopped``, in order.
    :param position: of the selected vCPU after it.
    """

    printed: str
    error: str
    stops: tuple[Mapping[str, Any], ...]
    position: Position


class GdbDebugger:
    """A gdb that is connected to L2's QEMU; see :class:`~qemu_diff.drive.debugger.Debugger`."""

    def __init__(self, mi: MiProcess, say: Callable[[str], None] = ignored) -> None:
        """
        :param say: gets each line of what gdb's command line would show.
        """
        self._mi = mi
        self._say = say
        self._running = False
        self._connected = False
        self._failure = ""
        self._stops: list[Mapping[str, Any]] = []
        self._printed: list[str] = []
        self._threads: dict[str, int] = {}
        self._pc_and_pstate = ""

    # --- set-up ---

    def start(self, program: Path | None = None, log: Path | None = None) -> None:
        """Make gdb ready.

        :param program: the payload's ELF file, for its labels.
        :param log: gets every packet.
        """
        if log is not None:
            self._ask(f"-gdb-set remotelogfile {log}")
        for command in SET_UP:
            self._ask(command)
        if program is not None:
            self._ask(f"-file-symbol-file {mi_string(str(program))}")
        with _understood("list of registers"):
            names = self._ask("-data-list-register-names")["register-names"]
            self._pc_and_pstate = f"{names.index('pc')} {names.index('cpsr')}"
        self._take_printed()

    def connect(self, socket: Path) -> None:
        """Connect to the gdbstub, whose first answer may be long in coming."""
        self._say(f"(gdb) target remote {socket}")
        self._ask(f"-target-select remote {socket}")
        self._connected = True
        with _understood("list of threads"):
            threads = self._ask("-thread-info")["threads"]
            self._threads = {one["id"]: _vcpu_of(one["target-id"]) for one in threads}
        self._stops.clear()
        self._show()

    def leave(self) -> None:
        """Disconnect, and leave L2 as it stands; gdb's ``kill`` would end it."""
        self._say("(gdb) disconnect")
        self._connected = False
        self._ask("-target-disconnect")
        self._show()

    # --- Debugger ---

    def position(self, vcpu: int = 0) -> Position:
        """Where L2 stands."""
        return _position(self._ask(f"{self._read_position(vcpu)} x {self._pc_and_pstate}"))

    def read_register(self, name: str) -> int:
        """A register of vCPU 0 by gdb's name, of 64 bits or fewer."""
        return self._evaluate(f"(unsigned long)${name}")

    def write_register(self, name: str, value: int) -> None:
        """A general register, ``sp``, ``pc`` or ``cpsr`` of vCPU 0."""
        self._say(f"(gdb) set var ${name} = {value:#x}")
        self._evaluate(f"(unsigned long)(${name} = {value:#x})")

    def read_memory(self, address: int, size: int) -> bytes:
        """L2's memory; its MMU is off."""
        with _understood("memory"):
            found = self._ask(f"-data-read-memory-bytes {address:#x} {size}")["memory"]
            content = b"".join(bytes.fromhex(one["contents"]) for one in found)
        if len(content) != size:
            raise DebuggerError(f"gdb read {len(content)} bytes at {address:#x}, not {size}")
        return content

    def request_step(self) -> None:
        """Ask for one instruction; it is done when :meth:`await_stop` returns."""
        self._say("(gdb) stepi")
        self._resume("-exec-step-instruction")

    def await_stop(self) -> Stop:
        """Wait for L2 to stand still again."""
        while not self._stops:
            self._note(self._mi.receive(ANSWER_S))
        payload = self._stops.pop()
        self._stops.clear()
        self._show(payload)
        vcpu = self.vcpu_of_thread(str(payload.get("thread-id", "1")))
        read = self._ask(f"{self._read_position(vcpu)} x {self._pc_and_pstate}")
        return Stop(vcpu, _signal(payload), _position(read))

    def step(self) -> Stop:
        """:meth:`request_step`, :meth:`await_stop`."""
        self.request_step()
        return self.await_stop()

    def run_to(self, address: int) -> Stop:
        """Let L2 run until it is about to execute an address, the next time if it stands there."""
        self._say(f"(gdb) thbreak *{address:#x}")
        self._ask(f"-break-insert -t -h *{address:#x}")
        self._show()
        self._say("(gdb) continue")
        self._resume("-exec-continue")
        return self.await_stop()

    # --- sessions ---

    def console(
        self, command: str, enough: Callable[[], bool] = lambda: False, *, shown: str = ""
    ) -> Answer:
        """A command as a user types it, until it has come to its end and L2 stands still.

        :param enough: asked every 50 ms, or more often, while L2 runs: whether it is time for
            Ctrl-C, which is pressed once.
        :param shown: what the transcript has in its stead: the lines that it sources.
        """
        for prompt, line in zip(_prompts(), (shown or command).splitlines(), strict=False):
            self._say(f"{prompt}{line}")
        self._stops.clear()
        token = self._mi.send(f"-interpreter-exec console {mi_string(command)}")
        self._failure = ""
        result = self._result(token)
        if result.message == "running":
            self._await_end(enough)
        position = self._settle(enough)
        error = _message(result) if result.message == "error" else self._failure
        if error and f"{error}\n" not in self._printed:
            self._printed.append(f"{error}\n")
        stops = tuple(self._stops)
        self._stops.clear()
        return Answer(self._show(), error, stops, position)

    def selected(self) -> tuple[int, Position]:
        """The selected vCPU, and where it stands."""
        thread = str(self._ask("-thread-info")["current-thread-id"])
        read = self._ask(f"-data-list-register-values x {self._pc_and_pstate}")
        return self.vcpu_of_thread(thread), _position(read)

    def breakpoints(self) -> tuple[Breakpoint, ...]:
        """The user's breakpoints and watchpoints that are enabled."""
        with _understood("list of breakpoints"):
            rows = self._ask("-break-list")["BreakpointTable"]["body"]
            enabled = [row for row in rows if row.get("enabled") == "y"]
            found = [self._breakpoint(row) for row in enabled]
        return tuple(one for one in found if one is not None)

    def evaluate(self, expression: str) -> int:
        """An integer or address.

        :raises DebuggerError: gdb can't tell its value, too.
        """
        return self._evaluate(f"(unsigned long)({expression})")

    def return_address(self) -> int | None:
        """Where the selected frame returns to; None for the outermost."""
        try:
            stack = self._ask("-stack-list-frames 1 1")["stack"]
        except DebuggerError:
            return None  # "Not enough frames in stack."
        with _understood("stack"):
            return int(stack[0]["addr"], 0) if stack else None

    def _breakpoint(self, row: Mapping[str, Any]) -> Breakpoint | None:
        kind = str(row.get("type", ""))
        conditional = any(key in row for key in ("cond", "ignore", "thread", "task"))
        number = int(str(row["number"]).partition(".")[0])
        if not kind.endswith("watchpoint"):
            address = str(row.get("addr", ""))
            if not address.startswith("0x"):
                return None  # a catchpoint; <PENDING>; <MULTIPLE>
            return Breakpoint(number, int(address, 16), 0, kind, conditional)
        what = str(row["what"]).removeprefix("-location ")
        try:
            watched, size = self.evaluate(f"&({what})"), self.evaluate(f"sizeof({what})")
        except DebuggerError:
            watched, size = 0, 0
        return Breakpoint(number, watched, size, kind, conditional)

    def _await_end(self, enough: Callable[[], bool]) -> None:
        """Wait for a stop that ends what runs."""
        pressed = False
        while (self._running or not self._stops) and not self._failure:
            if not pressed and enough():
                self._mi.interrupt()
                pressed = True
            record = self._mi.poll(POLL_S)
            if record is not None:
                self._note(record)

    def _settle(self, enough: Callable[[], bool]) -> Position:
        """The position when nothing runs any more. A script, and a breakpoint's commands, may let
        L2 run again after a stop; gdb reads this question when they are done."""
        while True:
            token = self._mi.send(f"-data-list-register-values x {self._pc_and_pstate}")
            result = self._result(token)
            if not self._running:
                return _position(self._payload(result, "info registers"))
            self._await_end(enough)

    # --- the protocol ---

    def _read_position(self, vcpu: int) -> str:
        thread = next((name for name, of in self._threads.items() if of == vcpu), None)
        if thread is None:
            raise DebuggerError(f"gdb knows no thread for vCPU {vcpu}")
        return f"-data-list-register-values --thread {thread} --frame 0"

    def vcpu_of_thread(self, thread: str) -> int:
        """The vCPU that gdb means by a thread's number."""
        if thread not in self._threads:
            raise DebuggerError(f"gdb names a thread {thread}, which L2 has not")
        return self._threads[thread]

    def _evaluate(self, expression: str) -> int:
        value = str(self._ask(f"-data-evaluate-expression {mi_string(expression)}")["value"])
        try:
            return int(value.split(maxsplit=1)[0], 0)
        except (ValueError, IndexError):
            raise DebuggerError(f"gdb says {expression} is {quoted(value)}") from None

    def _resume(self, command: str) -> None:
        self._stops.clear()
        result = self._result(self._mi.send(command))
        if result.message != "running":
            raise DebuggerError(f"gdb refused {command}: {quoted(_message(result))}")

    def _ask(self, command: str) -> Mapping[str, Any]:
        return self._payload(self._result(self._mi.send(command), ANSWER_S), command)

    def _payload(self, result: Record, command: str) -> Mapping[str, Any]:
        if result.message == "error":
            raise DebuggerError(f"gdb refused {command}: {quoted(_message(result))}")
        return _Payload(result.payload, command)

    def _result(self, token: int, within_s: float = float("inf")) -> Record:
        """The result of a command; what comes before it is noted."""
        while True:
            record = self._mi.receive(within_s)
            if record.kind == "result" and record.token == token:
                return record
            self._note(record)

    def _note(self, record: Record) -> None:
        if record.kind in ("console", "log", "output"):
            self._printed.append(record.text if record.kind != "output" else f"{record.text}\n")
        elif record.message == "running":
            self._running = True
        elif record.message == "stopped":
            self._running = False
            self._stops.append(record.payload)
        elif record.kind == "result" and record.message == "error":
            # The second result of a command that had begun to run: L2 has stopped without a word.
            self._running = False
            self._failure = _message(record)
        elif record.message == "thread-group-exited" and self._connected:
            said = " ".join("".join(self._printed).split())
            raise DebuggerError("gdb has lost L2" + (f": {quoted(said)}" if said else ""))

    # --- the transcript ---

    def _take_printed(self) -> str:
        text = "".join(self._printed)
        self._printed.clear()
        return text

    def _show(self, stop: Mapping[str, Any] | None = None) -> str:
        """Say what was printed; of a stop that MI says nothing of on the console, its frame."""
        text = self._take_printed().rstrip("\n")
        if stop is not None and "frame" in stop and not text:
            text = frame_text(stop["frame"])
        for line in text.splitlines():
            self._say(line)
        return text


class _Payload(dict[str, Any]):
    """A result's payload, of which nothing may be missing."""

    def __init__(self, payload: Mapping[str, Any], command: str) -> None:
        super().__init__(payload)
        self._command = command

    def __missing__(self, key: str) -> Any:
        raise DebuggerError(f"gdb's answer to {self._command} holds no {key}")


@contextmanager
def _understood(what: str) -> Iterator[None]:
    """Inside, a record that is none of this kind is an error of gdb's."""
    try:
        yield
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise DebuggerError(f"gdb's {what} makes no sense") from error


def _prompts() -> Iterator[str]:
    """Of a command's first line, and of those that follow it."""
    return chain(["(gdb) "], repeat(" >"))


def mi_string(text: str) -> str:
    """A C string of GDB/MI (GDB manual, "GDB/MI Input Syntax")."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def frame_text(frame: Mapping[str, Any]) -> str:
    """A frame as gdb's command line shows it after ``stepi``."""
    return f"{frame.get('addr', '0x?')} in {frame.get('func', '??')} ()"


def _position(payload: Mapping[str, Any]) -> Position:
    try:
        pc, pstate = (int(one["value"], 16) for one in payload["register-values"])
    except (ValueError, KeyError, TypeError):
        raise DebuggerError(f"gdb shows no PC and PSTATE: {quoted(str(payload))}") from None
    return Position(pc, pstate & 0xFFFF_FFFF)


def _signal(payload: Mapping[str, Any]) -> int:
    if reason_of(payload) != "signal-received":
        return SIGTRAP
    name = str(payload.get("signal-name"))
    if name not in SIGNALS:
        raise DebuggerError(f"gdb says that L2 got {name}")
    return SIGNALS[name]


def reason_of(stop: Mapping[str, Any]) -> str:
    """Why L2 stopped (GDB manual, "GDB/MI Async Records"); empty where gdb gives no reason.

    Ctrl-C during a step has two in one record: pygdbmi makes a list of them.
    """
    reason = stop.get("reason", "")
    return str(reason[0] if isinstance(reason, list) else reason)


def _vcpu_of(target_id: str) -> int:
    match = _TARGET_ID.search(target_id)
    if match is None:
        raise DebuggerError(f"gdb names a thread {quoted(target_id)}, which is no vCPU's")
    return int(match[1]) - 1


def _message(result: Record) -> str:
    return str(result.payload.get("msg", result.message))


@contextmanager
def gdb_debugger(
    socket: Path,
    program: Path | None,
    deadline: float,
    cancel: threading.Event,
    *,
    say: Callable[[str], None] = ignored,
    log: Path | None = None,
) -> Iterator[GdbDebugger]:
    """A gdb that is connected to a gdbstub; L2 is left where it stands when gdb goes.

    :param socket: has to be there; what is behind it may be silent yet.
    :param program: the payload's ELF file, for its labels.
    :param deadline: of :func:`time.monotonic`, for all that follows.
    :param log: gets every packet; or None.
    :raises MissingToolError: there is no gdb.
    :raises DebuggerError: see :class:`~qemu_diff.drive.debugger.Debugger`.
    """
    with mi_process(deadline, cancel) as mi:
        debugger = GdbDebugger(mi, say)
        debugger.start(program, log)
        debugger.connect(socket)
        yield debugger
