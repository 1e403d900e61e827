"""A client of QEMU's gdbstub, for what the emulated machine must do before or between steps.

It speaks the remote serial protocol (GDB manual, appendix E) as far as QEMU's ``gdbstub`` does:
one connection, all-stop, hardware breakpoints, which in TCG are free of any change of memory.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from xml.etree import ElementTree

from qemu_diff.errors import GdbStubClosedError, GdbStubError

PC, CPSR = 32, 33
"""Register numbers of the AArch64 core feature (QEMU gdb-xml/aarch64-core.xml)."""

POLL_S = 0.05
CHUNK = 0xF00
"""Bytes of a target description that are asked for at once."""

_ESCAPE, _ESCAPED = 0x7D, 0x20
_REPEAT, _REPEAT_BASE = 0x2A, 29


def encode_packet(payload: bytes) -> bytes:
    """A packet with its framing and checksum."""
    escaped = bytearray()
    for byte in payload:
        escaped += bytes((_ESCAPE, byte ^ _ESCAPED)) if byte in b"$#}*" else bytes((byte,))
    return b"$%b#%02x" % (bytes(escaped), sum(escaped) & 0xFF)


def decode_payload(raw: bytes) -> bytes:
    """What stands between ``$`` and ``#``, with escapes and repeats resolved.

    :raises GdbStubError: a repeat without a byte to repeat, or a cut escape.
    """
    decoded = bytearray()
    bytes_of = iter(raw)
    for byte in bytes_of:
        if byte not in (_ESCAPE, _REPEAT):
            decoded.append(byte)
            continue
        following = next(bytes_of, None)
        if following is None or (byte == _REPEAT and (not decoded or following < _REPEAT_BASE)):
            raise GdbStubError(f"the gdbstub sent a damaged packet: {raw[:40]!r}")
        if byte == _ESCAPE:
            decoded.append(following ^ _ESCAPED)
        else:
            decoded += decoded[-1:] * (following - _REPEAT_BASE)
    return bytes(decoded)


class PacketReader:
    """Packets out of a stream that may be cut anywhere."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The payloads of all packets that are complete now; acknowledgements are dropped.

        :raises GdbStubError: a checksum does not match.
        """
        self._buffer += data
        while (packet := self._next()) is not None:
            yield packet

    def _next(self) -> bytes | None:
        start = self._buffer.find(b"$")
        end = self._buffer.find(b"#", start + 1)
        if start < 0 or end < 0 or len(self._buffer) < end + 3:
            return None
        raw, checksum = self._buffer[start + 1 : end], self._buffer[end + 1 : end + 3]
        self._buffer = self._buffer[end + 3 :]
        if b"%02x" % (sum(raw) & 0xFF) != checksum.lower():
            raise GdbStubError(f"the gdbstub sent a wrong checksum: {raw[:40]!r}")
        return decode_payload(raw)


class GdbStub:
    """A connection to a stopped or running machine.

    Every method raises :class:`~qemu_diff.errors.GdbStubError` where the gdbstub refuses, falls
    silent until the deadline, or goes away.
    """

    def __init__(self, connection: socket.socket, deadline: float, cancel: threading.Event) -> None:
        """
        :param deadline: of :func:`time.monotonic`, for all that follows.
        :param cancel: set it to make every wait end.
        """
        self._connection = connection
        self._deadline = deadline
        self._cancel = cancel
        self._reader = PacketReader()
        self._packets: list[bytes] = []
        self._system_registers: dict[str, int] | None = None

    def start(self) -> None:
        """Agree on the protocol; the target description makes registers readable at all."""
        self._ask(b"qSupported:xmlRegisters=aarch64;hwbreak+")
        if self._ask(b"QStartNoAckMode") == b"OK":
            self._connection.sendall(b"+")
        self._describe("target.xml")

    @property
    def system_registers(self) -> dict[str, int]:
        """System register name → number; which there are depends on the CPU model."""
        if self._system_registers is None:
            tree = ElementTree.fromstring(self._describe("system-registers.xml"))
            self._system_registers = {
                register.get("name", ""): int(register.get("regnum", "0"))
                for register in tree.iter("reg")
            }
        return self._system_registers

    def read_register(self, number: int) -> int:
        """A register of up to 64 bits."""
        return int.from_bytes(bytes.fromhex(self._ask(b"p%x" % number).decode()), "little")

    def read_system_register(self, name: str) -> int:
        """:raises GdbStubError: this CPU has none of that name, too."""
        if name not in self.system_registers:
            raise GdbStubError(f"this CPU model has no {name}")
        return self.read_register(self.system_registers[name])

    def write_register(self, number: int, value: int) -> None:
        """A 64-bit register."""
        self._expect_ok(b"P%x=%b" % (number, value.to_bytes(8, "little").hex().encode()))

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes at a virtual address, as the CPU's current exception level sees it."""
        return bytes.fromhex(self._ask(b"m%x,%x" % (address, size)).decode())

    def write_memory(self, address: int, data: bytes) -> None:
        """Bytes to a virtual address; access permissions don't matter to a debugger."""
        self._expect_ok(b"M%x,%x:%b" % (address, len(data), data.hex().encode()))

    @contextmanager
    def physical_memory(self) -> Iterator[None]:
        """Inside, addresses are physical (QEMU docs/system/gdb.rst, ``Qqemu.PhyMemMode``)."""
        self._expect_ok(b"Qqemu.PhyMemMode:1")
        try:
            yield
        finally:
            self._expect_ok(b"Qqemu.PhyMemMode:0")

    def set_breakpoint(self, address: int) -> None:
        """A hardware breakpoint."""
        self._expect_ok(b"Z1,%x,4" % address)

    def clear_breakpoint(self, address: int) -> None:
        """Undo :meth:`set_breakpoint`."""
        self._expect_ok(b"z1,%x,4" % address)

    def run_until_stop(self) -> int:
        """Let the machine run until it stops; the PC that it stops at."""
        return self._stopped(self._ask(b"c"))

    def step(self) -> int:
        """Let the machine execute one instruction, by QEMU's own single-step; the PC after it."""
        return self._stopped(self._ask(b"s"))

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

    # --- the protocol ---

    def _stopped(self, reply: bytes) -> int:
        if reply.startswith((b"W", b"X")):
            raise GdbStubClosedError("the machine has ended")
        if not reply.startswith((b"T", b"S")):
            raise GdbStubError(f"the gdbstub did not stop, but said {reply[:40]!r}")
        return self.read_register(PC)

    def _describe(self, annex: str) -> str:
        text = b""
        while True:
            request = b"qXfer:features:read:%b:%x,%x" % (annex.encode(), len(text), CHUNK)
            reply = self._ask(request)
            if reply[:1] not in (b"m", b"l"):
                raise GdbStubError(f"the gdbstub describes no {annex}")
            text += reply[1:]
            if reply[:1] == b"l":
                return text.decode()

    def _expect_ok(self, request: bytes) -> None:
        reply = self._ask(request)
        if reply != b"OK":
            raise GdbStubError(f"the gdbstub refused {request[:40]!r}: {reply[:40]!r}")

    def _ask(self, request: bytes) -> bytes:
        try:
            self._connection.sendall(encode_packet(request))
            reply = self._receive()
        except OSError as error:
            raise GdbStubClosedError(f"the gdbstub went away: {error.strerror}") from error
        if reply[:1] == b"E" and len(reply) == len(b"E22"):
            raise GdbStubError(f"the gdbstub refused {request[:40]!r}: {reply.decode()}")
        return reply

    def _receive(self) -> bytes:
        while not self._packets:
            if self._cancel.is_set():
                raise GdbStubClosedError("called off")
            if time.monotonic() > self._deadline:
                raise GdbStubError("no answer of the gdbstub in time")
            ready, _, _ = select.select([self._connection], [], [], POLL_S)
            if not ready:
                continue
            data = self._connection.recv(65536)
            if not data:
                raise GdbStubClosedError("the gdbstub went away")
            self._packets.extend(self._reader.feed(data))
        return self._packets.pop(0)


@contextmanager
def connected(path: Path, deadline: float, cancel: threading.Event) -> Iterator[GdbStub]:
    """A client of the gdbstub behind a Unix socket; waits until QEMU has made it.

    :param deadline: see :class:`GdbStub`.
    :raises GdbStubError: see :class:`GdbStub`.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        _connect(connection, path, deadline, cancel)
        stub = GdbStub(connection, deadline, cancel)
        stub.start()
        yield stub


def _connect(
    connection: socket.socket, path: Path, deadline: float, cancel: threading.Event
) -> None:
    while True:
        with suppress(FileNotFoundError, ConnectionRefusedError):
            connection.connect(str(path))
            return
        if cancel.wait(POLL_S / 5):
            raise GdbStubClosedError("called off")
        if time.monotonic() > deadline:
            raise GdbStubError("QEMU opened no gdbstub in time")
