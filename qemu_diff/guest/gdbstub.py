"""A client of QEMU's gdbstub, for what the emulated machine must do before or between steps.

It speaks the remote serial protocol (GDB manual, appendix E) as far as QEMU's ``gdbstub`` does:
one connection, all-stop, hardware breakpoints, which in TCG are free of any change of memory.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from xml.etree import ElementTree

from qemu_diff.errors import GdbStubClosedError, GdbStubError
from qemu_diff.guest.packet import (
    FROM_STUB,
    TO_STUB,
    ChecksumError,
    PacketLog,
    PacketReader,
    StopReply,
    decode_hex,
    encode_packet,
    is_console_output,
    parse_stop,
    parse_thread,
    shown,
)

PC, CPSR = 32, 33
"""Register numbers of the AArch64 core feature (QEMU gdb-xml/aarch64-core.xml)."""

POLL_S = 0.05
"""How often a wait looks at whether it was called off."""

ANSWER_S = 30.0
"""Seconds that one answer may take."""

CHUNK = 0xF00
"""Bytes of a target description that are asked for at once."""

MEMORY_CHUNK = 0x400
"""Bytes of memory that are asked for at once; QEMU refuses more than half a packet."""

MAX_DESCRIPTION = 1 << 20
"""Bytes of a target description; QEMU's longest, of the system registers, has some 40,000."""

_INTERRUPT = b"\x03"
_RECEIVED = 1 << 16


class Breakpoint(IntEnum):
    """Kinds of the requests ``Z`` and ``z``."""

    SOFTWARE = 0
    HARDWARE = 1
    WRITE_WATCH = 2
    READ_WATCH = 3
    ACCESS_WATCH = 4


@dataclass(frozen=True)
class Register:
    """A register of the core feature.

    :param size: bytes.
    :param offset: bytes, in the answer to ``g``.
    """

    number: int
    size: int
    offset: int


class GdbStub:
    """A connection to a stopped or running machine.

    Every method raises :class:`~qemu_diff.errors.GdbStubError` where the gdbstub refuses, talks
    nonsense, falls silent until the deadline, or goes away.
    """

    def __init__(
        self,
        connection: socket.socket,
        deadline: float,
        cancel: threading.Event,
        *,
        answer_s: float = ANSWER_S,
        log: PacketLog | None = None,
    ) -> None:
        """
        :param deadline: of :func:`time.monotonic`, for all that follows.
        :param cancel: set it to make every wait end.
        :param answer_s: seconds that one answer may take, but for the first, which a machine that
            has yet to start gives, and a run's; these have until ``deadline``.
        :param log: gets every packet.
        """
        connection.setblocking(False)
        self._connection = connection
        self._deadline = deadline
        self._cancel = cancel
        self._answer_s = answer_s
        self._log = log
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(connection, select.POLLIN)
        self._writable.register(connection, select.POLLOUT)
        self._reader = PacketReader()
        self._packets: deque[bytes] = deque()
        self._acknowledging = True
        self._acknowledgement = b""
        self._request = b""
        self._resent = False
        self._asked_again = False
        self._system_registers: dict[str, int] | None = None
        self._core_registers: dict[str, Register] | None = None

    def start(self) -> None:
        """Agree on the protocol; the target description makes registers readable at all."""
        self._ask(b"qSupported:xmlRegisters=aarch64;hwbreak+", self._deadline)
        if self._ask(b"QStartNoAckMode") == b"OK":
            self._transmit(b"+", self._answer_by())
            self._acknowledging, self._acknowledgement = False, b""
        self._describe("target.xml")

    # --- registers and memory ---

    @property
    def system_registers(self) -> dict[str, int]:
        """System register name → number; which there are depends on the CPU model."""
        if self._system_registers is None:
            found = self._described_registers("system-registers.xml")
            self._system_registers = {name: register.number for name, register in found.items()}
        return self._system_registers

    @property
    def core_registers(self) -> dict[str, Register]:
        """``x0`` … ``x30``, ``sp``, ``pc``, ``cpsr``."""
        if self._core_registers is None:
            self._core_registers = self._described_registers("aarch64-core.xml")
        return self._core_registers

    def read_register(self, number: int) -> int:
        """A register of up to 64 bits."""
        value = decode_hex(self._ask(b"p%x" % number))
        if len(value) not in (1, 2, 4, 8):
            raise GdbStubError(f"the gdbstub gave {len(value)} bytes for register {number}")
        return int.from_bytes(value, "little")

    def read_core_registers(self, *names: str) -> list[int]:
        """Some of :attr:`core_registers`, in one round trip (``g``).

        QEMU's stub gives the core feature first there (gdbstub.c, ``handle_read_all_regs``).
        """
        registers = [self._core_register(name) for name in names]
        content = decode_hex(self._ask(b"g"))
        return [self._cut_out(register, content) for register in registers]

    def read_system_register(self, name: str) -> int:
        """:raises GdbStubError: this CPU has none of that name, too."""
        if name not in self.system_registers:
            raise GdbStubError(f"this CPU model has no {name}")
        return self.read_register(self.system_registers[name])

    def write_register(self, number: int, value: int, size: int = 8) -> None:
        """A register of so many bytes."""
        self._expect_ok(b"P%x=%b" % (number, value.to_bytes(size, "little").hex().encode()))

    def write_core_register(self, name: str, value: int) -> None:
        """One of :attr:`core_registers`."""
        register = self._core_register(name)
        if value < 0 or value >> 8 * register.size:
            raise GdbStubError(f"{value:#x} does not fit into {name}")
        self.write_register(register.number, value, register.size)

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes at a virtual address, as the CPU's current exception level sees it."""
        content = b""
        while len(content) < size:
            length = min(size - len(content), MEMORY_CHUNK)
            part = decode_hex(self._ask(b"m%x,%x" % (address + len(content), length)))
            if len(part) != length:
                raise GdbStubError(f"the gdbstub gave {len(part)} bytes of memory, not {length}")
            content += part
        return content

    def write_memory(self, address: int, data: bytes) -> None:
        """Bytes to a virtual address; access permissions don't matter to a debugger."""
        for begin in range(0, len(data), MEMORY_CHUNK):
            part = data[begin : begin + MEMORY_CHUNK]
            request = b"M%x,%x:%b" % (address + begin, len(part), part.hex().encode())
            self._expect_ok(request)

    @contextmanager
    def physical_memory(self) -> Iterator[None]:
        """Inside, addresses are physical (QEMU docs/system/gdb.rst, ``Qqemu.PhyMemMode``)."""
        self._expect_ok(b"Qqemu.PhyMemMode:1")
        try:
            yield
        finally:
            self._expect_ok(b"Qqemu.PhyMemMode:0")

    # --- running ---

    def set_breakpoint(
        self, address: int, kind: Breakpoint = Breakpoint.HARDWARE, size: int = 4
    ) -> None:
        """A breakpoint, or a watchpoint of so many bytes."""
        self._expect_ok(b"Z%d,%x,%x" % (kind, address, size))

    def clear_breakpoint(
        self, address: int, kind: Breakpoint = Breakpoint.HARDWARE, size: int = 4
    ) -> None:
        """Undo :meth:`set_breakpoint`."""
        self._expect_ok(b"z%d,%x,%x" % (kind, address, size))

    def threads(self) -> list[int]:
        """Ids of the vCPUs: QEMU numbers them from 1 (gdbstub, ``gdb_get_cpu_index``)."""
        threads: list[int] = []
        reply = self._ask(b"qfThreadInfo")
        while reply[:1] == b"m":
            threads += [parse_thread(text) for text in reply[1:].split(b",")]
            if len(threads) > MAX_DESCRIPTION:
                break
            reply = self._ask(b"qsThreadInfo")
        if reply != b"l":
            raise GdbStubError(f"the gdbstub lists no threads: {shown(reply)}")
        return threads

    def select_thread(self, thread: int) -> None:
        """Whose registers are meant from now on; a stop selects the thread that it names."""
        self._expect_ok(b"Hg%x" % thread)

    def last_stop(self) -> StopReply:
        """Why the machine stands still (``?``)."""
        return parse_stop(self._ask(b"?"))

    def request_step(self, thread: int) -> None:
        """Let one vCPU execute one instruction; :meth:`await_stop` has what came of it."""
        self._send(b"vCont;s:%x" % thread, self._answer_by())

    def request_continue(self) -> None:
        """Let the machine run; :meth:`await_stop` has what came of it."""
        self._send(b"vCont;c", self._answer_by())

    def interrupt(self) -> None:
        """Have a machine stopped that runs (Ctrl-C); :meth:`await_stop` has what came of it.

        One that stands still takes no notice.
        """
        if self._log:
            self._log.write(TO_STUB, _INTERRUPT)
        # With an answer unacknowledged, QEMU passes over all but an acknowledgement or a request.
        self._transmit(self._acknowledgement + _INTERRUPT, self._answer_by())
        self._acknowledgement = b""

    def await_stop(self, within_s: float = float("inf")) -> StopReply:
        """Wait for the machine to stand still.

        :param within_s: seconds that it may take; never more than until the deadline of all.
        """
        by = min(self._deadline, time.monotonic() + within_s)
        return parse_stop(self._receive_stop(by))

    def run_until_stop(self) -> int:
        """Let the machine run until it stops; the PC that it stops at."""
        return self._stopped(b"c")

    def step(self) -> int:
        """Let the machine execute one instruction, by QEMU's own single-step; the PC after it."""
        return self._stopped(b"s")

    def run_to(self, address: int) -> None:
        """Let the machine run until it is about to execute an address."""
        self.set_breakpoint(address)
        stopped = self.run_until_stop()
        self.clear_breakpoint(address)
        if stopped != address:
            raise GdbStubError(f"the machine stopped at {stopped:#x}, not at {address:#x}")

    def detach(self) -> None:
        """Let the machine run on without us."""
        self._expect_ok(b"D")

    # --- what the answers mean ---

    def _stopped(self, request: bytes) -> int:
        self._send(request, self._answer_by())
        self.await_stop()
        return self.read_register(PC)

    def _core_register(self, name: str) -> Register:
        if name not in self.core_registers:
            raise GdbStubError(f"the gdbstub describes no register {name}")
        return self.core_registers[name]

    @staticmethod
    def _cut_out(register: Register, content: bytes) -> int:
        value = content[register.offset : register.offset + register.size]
        if len(value) != register.size:
            raise GdbStubError(
                f"the gdbstub gave {len(content)} bytes of registers, which end early"
            )
        return int.from_bytes(value, "little")

    def _described_registers(self, annex: str) -> dict[str, Register]:
        """A register without a number of its own has the one after its predecessor's
        (GDB manual G.2.6, ``regnum``)."""
        registers: dict[str, Register] = {}
        number, offset = -1, 0
        try:
            for element in ElementTree.fromstring(self._describe(annex)).iter("reg"):
                number = int(element.get("regnum", number + 1))
                size = int(element.get("bitsize", "64")) // 8
                if not 0 < size <= MEMORY_CHUNK:
                    raise GdbStubError(f"the gdbstub describes a register of {size} bytes")
                registers[element.get("name", "")] = Register(number, size, offset)
                offset += size
        except (ElementTree.ParseError, ValueError) as error:
            raise GdbStubError(f"the gdbstub's {annex} makes no sense: {error}") from error
        return registers

    def _describe(self, annex: str) -> str:
        text = b""
        while len(text) < MAX_DESCRIPTION:
            request = b"qXfer:features:read:%b:%x,%x" % (annex.encode(), len(text), CHUNK)
            reply = self._ask(request)
            if reply[:1] not in (b"m", b"l") or reply == b"m":
                raise GdbStubError(f"the gdbstub describes no {annex}")
            text += reply[1:]
            if reply[:1] == b"l":
                return text.decode(errors="replace")
        raise GdbStubError(f"the gdbstub's {annex} has no end")

    def _expect_ok(self, request: bytes) -> None:
        reply = self._ask(request)
        if reply != b"OK":
            raise GdbStubError(f"the gdbstub refused {shown(request)}: {shown(reply)}")

    def _ask(self, request: bytes, deadline: float | None = None) -> bytes:
        by = self._answer_by() if deadline is None else deadline
        self._send(request, by)
        reply = self._receive(by)
        if reply[:1] == b"E" and (len(reply) == len(b"E22") or reply[1:2] == b"."):
            raise GdbStubError(f"the gdbstub refused {shown(request)}: {shown(reply)}")
        return reply

    # --- packets ---

    def _answer_by(self) -> float:
        return min(self._deadline, time.monotonic() + self._answer_s)

    def _send(self, request: bytes, deadline: float) -> None:
        self._pass_over_stops()
        if self._log:
            self._log.write(TO_STUB, request)
        self._request, self._resent, self._asked_again = request, False, False
        # The acknowledgement of the answer before rides along: a byte of its own would cost L1 an
        # interrupt, and one that comes while the machine runs would stop it (QEMU gdbstub.c,
        # gdb_read_byte: "when the CPU is running, we cannot do anything except stop it").
        self._transmit(self._acknowledgement + encode_packet(request), deadline)
        self._acknowledgement = b""

    def _receive_stop(self, deadline: float) -> bytes:
        payload = self._receive(deadline)
        while is_console_output(payload):
            decode_hex(payload[1:])
            payload = self._receive(deadline)
        return payload

    def _receive(self, deadline: float) -> bytes:
        while not self._packets:
            self._await(self._readable, deadline)
            self._take(self._read(), deadline)
            if self._reader.resend_requests:
                self._resend(deadline)
        return self._packets.popleft()

    def _pass_over_stops(self) -> None:
        """Forget stops that nobody has asked for: QEMU's monitor can run the machine and stop it,
        and before commit 758370052fb6 ("gdbstub: only send stop-reply packets when allowed to") (in
        8.1) gdb is told of that, too.

        :raises GdbStubClosedError: the machine has ended meanwhile.
        :raises GdbStubError: something else has come, as the answer that another wait gave up.
        """
        self._forget_stops()
        if self._readable.poll(0):
            self._take(self._read(), self._answer_by())
            self._reader.resend_requests = 0
            self._forget_stops()

    def _forget_stops(self) -> None:
        while self._packets:
            payload = self._packets.popleft()
            if not is_console_output(payload):
                parse_stop(payload)

    def _take(self, data: bytes, deadline: float) -> None:
        try:
            for payload in self._reader.feed(data):
                if self._log:
                    self._log.write(FROM_STUB, payload)
                self._packets.append(payload)
                self._acknowledgement = b"+" if self._acknowledging else b""
        except ChecksumError:
            if not self._acknowledging or self._asked_again:
                raise
            self._asked_again = True
            self._transmit(b"-", deadline)
            self._take(b"", deadline)

    def _resend(self, deadline: float) -> None:
        self._reader.resend_requests = 0
        if not self._acknowledging or self._resent:
            raise GdbStubError(f"the gdbstub does not understand {shown(self._request)}")
        self._resent = True
        self._transmit(encode_packet(self._request), deadline)

    def _read(self) -> bytes:
        try:
            data = self._connection.recv(_RECEIVED)
        except OSError as error:
            raise GdbStubClosedError(f"the gdbstub went away: {error.strerror}") from error
        if not data:
            amid = " in the middle of a packet" if self._reader.unfinished else ""
            raise GdbStubClosedError(f"the gdbstub went away{amid}")
        return data

    def _transmit(self, data: bytes, deadline: float) -> None:
        while data:
            try:
                data = data[self._connection.send(data) :]
            except BlockingIOError:
                self._await(self._writable, deadline)
            except OSError as error:
                raise GdbStubClosedError(f"the gdbstub went away: {error.strerror}") from error

    def _await(self, ready: select.poll, deadline: float) -> None:
        while True:
            if self._cancel.is_set():
                raise GdbStubClosedError("called off")
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise GdbStubError(self._silence())
            if ready.poll(1000 * min(POLL_S, left_s)):
                return

    def _silence(self) -> str:
        asked = f" to {shown(self._request)}" if self._request else ""
        unfinished = self._reader.unfinished
        rest = f", only {shown(unfinished)}" if unfinished else ""
        return f"no answer of the gdbstub{asked} in time{rest}"


@contextmanager
def opened(path: Path, deadline: float, cancel: threading.Event) -> Iterator[socket.socket]:
    """A connection to the Unix socket that QEMU listens on; waits until QEMU has made it.

    What stands behind it, the gdbstub of this QEMU or a port into its guest, need not be there yet.

    :raises GdbStubError: see :class:`GdbStub`.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        _connect(connection, path, deadline, cancel)
        yield connection


@contextmanager
def connected(
    path: Path,
    deadline: float,
    cancel: threading.Event,
    *,
    answer_s: float = ANSWER_S,
    log: PacketLog | None = None,
) -> Iterator[GdbStub]:
    """A client of the gdbstub behind a Unix socket; waits until QEMU has made it.

    :param deadline: see :class:`GdbStub`, as for the rest.
    :raises GdbStubError: see :class:`GdbStub`.
    """
    with opened(path, deadline, cancel) as connection:
        stub = GdbStub(connection, deadline, cancel, answer_s=answer_s, log=log)
        stub.start()
        yield stub


def _connect(
    connection: socket.socket, path: Path, deadline: float, cancel: threading.Event
) -> None:
    while True:
        try:
            with suppress(FileNotFoundError, ConnectionRefusedError):
                connection.connect(str(path))
                return
        except OSError as error:
            raise GdbStubError(f"{path}: {error.strerror or error}") from error
        if cancel.wait(POLL_S / 5):
            raise GdbStubClosedError("called off")
        if time.monotonic() > deadline:
            raise GdbStubError("QEMU opened no gdbstub in time")
