"""Packets of the remote serial protocol (GDB manual, appendix E): framing, and what a stop says.

Nothing here touches a socket; :mod:`qemu_diff.guest.gdbstub` does.
"""

from __future__ import annotations

import binascii
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from qemu_diff.errors import GdbStubClosedError, GdbStubError

MAX_PACKET = 1 << 18
"""Bytes between ``$`` and ``#``. QEMU's MAX_PACKET_LENGTH is 4,096, and 131,104 in later ones
(gdbstub/internals.h); escapes may double it."""

MAX_GARBAGE = 4096
"""Bytes outside of packets in a row that are passed over."""

_ESCAPE, _ESCAPED = 0x7D, 0x20
_REPEAT, _REPEAT_BASE = 0x2A, 29
_SHOWN = 40


class ChecksumError(GdbStubError):
    """A packet that was damaged on its way; the reader stands behind it and can go on."""


def shown(data: bytes) -> str:
    """The begin of some bytes, fit for one line of a message."""
    return repr(data if len(data) <= _SHOWN else data[:_SHOWN] + b"...")[1:]


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
    if _ESCAPE not in raw and _REPEAT not in raw:
        return raw
    decoded = bytearray()
    bytes_of = iter(raw)
    for byte in bytes_of:
        if byte not in (_ESCAPE, _REPEAT):
            decoded.append(byte)
            continue
        following = next(bytes_of, None)
        if following is None or (byte == _REPEAT and (not decoded or following < _REPEAT_BASE)):
            raise GdbStubError(f"the gdbstub sent a damaged packet: {shown(raw)}")
        if byte == _ESCAPE:
            decoded.append(following ^ _ESCAPED)
        else:
            decoded += decoded[-1:] * (following - _REPEAT_BASE)
    return bytes(decoded)


def decode_hex(digits: bytes) -> bytes:
    """Bytes that are written as pairs of hexadecimal digits.

    :raises GdbStubError: they are not.
    """
    try:
        return binascii.unhexlify(digits)
    except ValueError as error:
        raise GdbStubError(f"the gdbstub sent no hexadecimal bytes: {shown(digits)}") from error


class PacketReader:
    """Packets out of a stream that may be cut anywhere.

    :ivar resend_requests: how often the other side has asked for our last packet again (``-``).
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._seen = 0
        self._garbage = 0
        self.resend_requests = 0

    @property
    def unfinished(self) -> bytes:
        """What has come of a packet that is not complete."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The payloads of all packets that are complete now; notifications are left out.

        :raises ChecksumError: a checksum does not match; feeding on is possible.
        :raises GdbStubError: a packet is damaged or without an end, or there is only garbage.
        """
        self._buffer += data
        while (frame := self._next_frame()) is not None:
            notification, raw = frame
            if not notification:
                yield decode_payload(raw)

    def _next_frame(self) -> tuple[bool, bytes] | None:
        """Whether it is a notification (``%``, GDB manual E.8), and its raw payload."""
        if not self._buffer[:1] or self._buffer[0] not in b"$%":
            self._pass_over(self._frame_start())
        end = self._buffer.find(b"#", self._seen)
        if (len(self._buffer) if end < 0 else end) > MAX_PACKET:
            raise GdbStubError(f"the gdbstub sent a packet of more than {MAX_PACKET:,} bytes")
        self._seen = len(self._buffer) if end < 0 else end
        if end < 0 or len(self._buffer) < end + 3:
            return None
        notification = self._buffer[0] == ord("%")
        raw, checksum = bytes(self._buffer[1:end]), bytes(self._buffer[end + 1 : end + 3])
        del self._buffer[: end + 3]
        self._seen = 0
        if b"%02x" % (sum(raw) & 0xFF) != checksum.lower():
            raise ChecksumError(f"the gdbstub sent a wrong checksum: {shown(raw)}")
        return notification, raw

    def _frame_start(self) -> int:
        starts = [at for start in b"$%" if (at := self._buffer.find(start)) >= 0]
        return min(starts, default=len(self._buffer))

    def _pass_over(self, length: int) -> None:
        outside = bytes(self._buffer[:length])
        # Acknowledgements may come in one piece with what follows them (GDB manual E.1).
        garbage = outside.translate(None, b"+-")
        self.resend_requests += outside.count(b"-")
        self._garbage += len(garbage)
        if self._garbage > MAX_GARBAGE:
            raise GdbStubError(f"the gdbstub sent garbage: {shown(garbage)}")
        del self._buffer[:length]
        self._seen = 0
        if self._buffer:
            self._garbage = 0


@dataclass(frozen=True)
class StopReply:
    """What a stop says (GDB manual E.3, "Stop Reply Packets").

    :param signal: number of the protocol.
    :param thread: id, or 0 where the packet names none.
    :param access: ``watch``, ``rwatch``, ``awatch``, or nothing where no watchpoint was hit.
    :param address: that the watchpoint saw, or 0.
    """

    signal: int
    thread: int = 0
    access: str = ""
    address: int = 0


def parse_stop(payload: bytes) -> StopReply:
    """
    :raises GdbStubClosedError: the machine has ended (``W``, ``X``).
    :raises GdbStubError: it is no stop reply.
    """
    kind, rest = payload[:1], payload[1:]
    if kind in (b"W", b"X"):
        raise GdbStubClosedError(f"the machine has ended ({shown(payload)})")
    if kind == b"N":
        raise GdbStubError("the gdbstub has no thread left that runs")
    if kind not in (b"T", b"S") or len(rest) < 2 or (kind == b"S" and len(rest) > 2):
        raise GdbStubError(f"the gdbstub did not stop, but said {shown(payload)}")
    signal = _hexadecimal(rest[:2], payload)
    return _with_pairs(StopReply(signal), rest[2:], payload)


def is_console_output(payload: bytes) -> bool:
    """Whether it is an ``O`` packet, which may come at any time while the machine runs."""
    return payload[:1] == b"O" and payload != b"OK"


def parse_thread(text: bytes) -> int:
    """A thread's id; ``pPID.TID`` too, whose process does not matter here.

    :raises GdbStubError: it is none, or means several threads.
    """
    own = text.partition(b".")[2] if text.startswith(b"p") else text
    thread = _hexadecimal(own, text)
    if thread == 0:
        raise GdbStubError(f"the gdbstub named no thread: {shown(text)}")
    return thread


def _with_pairs(reply: StopReply, pairs: bytes, payload: bytes) -> StopReply:
    if pairs and not pairs.endswith(b";"):
        raise GdbStubError(f"the gdbstub sent a cut stop: {shown(payload)}")
    for pair in pairs.split(b";")[:-1]:
        name, colon, value = pair.partition(b":")
        if not colon:
            raise GdbStubError(f"the gdbstub sent a damaged stop: {shown(payload)}")
        if name == b"thread":
            reply = StopReply(reply.signal, parse_thread(value), reply.access, reply.address)
        elif name in (b"watch", b"rwatch", b"awatch"):
            address = _hexadecimal(value, payload)
            reply = StopReply(reply.signal, reply.thread, name.decode(), address)
    return reply


def _hexadecimal(digits: bytes, whole: bytes) -> int:
    # int() alone would take signs, spaces and underscores.
    if not 1 <= len(digits) <= 16 or digits.strip(b"0123456789abcdefABCDEF"):
        raise GdbStubError(f"the gdbstub sent no number: {shown(whole)}")
    return int(digits, 16)


TO_STUB, FROM_STUB = ">", "<"
"""Directions in a packet log."""


@dataclass(frozen=True)
class LoggedPacket:
    """One line of a packet log.

    :param time_s: since the log was begun, monotonic.
    :param payload: without framing; ``b"\\x03"`` to the stub is the interrupt, which has none.
    """

    time_s: float
    direction: str
    payload: bytes


class PacketLog:
    """Every packet in both directions, one a line: time, direction, payload. A context manager.

    Bytes outside of ASCII's printable ones, and ``\\``, are written as ``\\xNN`` and ``\\\\``.
    """

    def __init__(self, path: Path) -> None:
        """:raises OSError: the file can't be made."""
        self._file: BinaryIO = path.open("wb")
        self._begun = time.monotonic()

    def __enter__(self) -> PacketLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, direction: str, payload: bytes) -> None:
        """Note one packet; it is on disk when the log is closed."""
        text = payload.decode("latin-1").encode("unicode_escape")
        passed_s = time.monotonic() - self._begun
        self._file.write(b"%.6f %b %b\n" % (passed_s, direction.encode(), text))


def read_packet_log(path: Path) -> list[LoggedPacket]:
    """What a :class:`PacketLog` has written, to send the same again."""
    packets = []
    for line in path.read_bytes().splitlines():
        passed_s, direction, text = line.split(b" ", 2)
        payload = text.decode("unicode_escape").encode("latin-1")
        packets.append(LoggedPacket(float(passed_s), direction.decode(), payload))
    return packets
