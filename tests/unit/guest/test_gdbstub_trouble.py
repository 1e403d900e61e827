"""What the client says of a gdbstub that does not do as it must: one line, in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from fakes.gdbstub import FakeGdbStub, FakeMachine
from fakes.unix_server import Serve, answering, closing, endless, mute, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_diff.errors import GdbStubClosedError, GdbStubError
from qemu_diff.guest.gdbstub import Breakpoint, GdbStub, connected, opened
from qemu_diff.guest.packet import PacketLog, PacketReader, encode_packet, read_packet_log

SHORT_S = 0.15


@contextmanager
def client(
    serve: Serve, directory: Path, cancel: threading.Event | None = None, patience_s: float = 10
) -> Iterator[GdbStub]:
    """Connected, but not started; answers must come in ``SHORT_S``, all of it in ``patience_s``."""
    path, deadline = directory / "gdb", time.monotonic() + patience_s
    cancel = cancel or threading.Event()
    with serving(path, serve), opened(path, deadline, cancel) as connection:
        yield GdbStub(connection, deadline, cancel, answer_s=SHORT_S)


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        (mute, "no answer of the gdbstub to 'm5a5a0000,4' in time"),
        (
            answering(b"+$1f20"),
            "no answer of the gdbstub to 'm5a5a0000,4' in time, only '$1f20'",
        ),
        (answering(b"+$#"), "no answer of the gdbstub to 'm5a5a0000,4' in time, only '$#'"),
        (closing(b"+"), "the gdbstub went away"),
        (closing(b"+$1f20"), "the gdbstub went away in the middle of a packet"),
        (closing(b"+$1f2003d5#f"), "the gdbstub went away in the middle of a packet"),
        (answering(b"x" * 5000), "the gdbstub sent garbage: '" + "x" * 40 + "...'"),
        (answering(b"+" + b"x" * 5000), "the gdbstub sent garbage: '" + "x" * 40 + "...'"),
        (
            endless(b"$", b"0" * 4096),
            "the gdbstub sent a packet of more than 262,144 bytes",
        ),
        (answering(b"$1f#00", b"$1f#00"), "the gdbstub sent a wrong checksum: '1f'"),
        (answering(b"-", b"-"), "the gdbstub does not understand 'm5a5a0000,4'"),
        (answering(encode_packet(b"1f2003d")), "the gdbstub sent no hexadecimal bytes: '1f2003d'"),
        (answering(encode_packet(b"\xff")), r"the gdbstub sent no hexadecimal bytes: '\xff'"),
        (answering(encode_packet(b"1f20")), "the gdbstub gave 2 bytes of memory, not 4"),
        (answering(encode_packet(b"")), "the gdbstub gave 0 bytes of memory, not 4"),
        (answering(encode_packet(b"E14")), "the gdbstub refused 'm5a5a0000,4': 'E14'"),
        (answering(encode_packet(b"E.no")), "the gdbstub refused 'm5a5a0000,4': 'E.no'"),
        (answering(b"$0*\x1c#76"), r"the gdbstub sent a damaged packet: '0*\x1c'"),
    ],
)  # fmt: skip
def test_trouble_is_told_in_one_line(tmp_path: Path, serve: Serve, message: str) -> None:
    begun = time.monotonic()
    with client(serve, tmp_path) as gdb, pytest.raises(GdbStubError) as caught:
        gdb.read_memory(0x5A5A_0000, 4)
    assert str(caught.value) == message
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"", "the gdbstub gave 0 bytes for register 32"),
        (b"00" * 16, "the gdbstub gave 16 bytes for register 32"),
        (b"00" * 3, "the gdbstub gave 3 bytes for register 32"),
        (b"00" * 9000, "the gdbstub gave 9000 bytes for register 32"),
        (b"xxxxxxxxxxxxxxxx", "the gdbstub sent no hexadecimal bytes: 'xxxxxxxxxxxxxxxx'"),
    ],
)
def test_a_register_of_an_absurd_size_is_refused(
    tmp_path: Path, reply: bytes, message: str
) -> None:
    with (
        client(answering(encode_packet(reply)), tmp_path) as gdb,
        pytest.raises(GdbStubError) as caught,
    ):
        gdb.read_register(32)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (b"l<feature>", "the gdbstub's aarch64-core.xml makes no sense: no element found"),
        (b"l\xff", "the gdbstub's aarch64-core.xml makes no sense: not well-formed"),
        (b'l<f><reg name="x0" regnum="one"/></f>', "makes no sense: invalid literal for int()"),
        (b'l<f><reg name="x0" bitsize="4"/></f>', "the gdbstub describes a register of 0 bytes"),
        (b'l<f><reg name="x0" bitsize="99999999"/></f>', "describes a register of 12499999 bytes"),
        (b"m", "the gdbstub describes no aarch64-core.xml"),
        (b"E00", "the gdbstub refused"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(
    tmp_path: Path, description: bytes, message: str
) -> None:
    with (
        client(answering(encode_packet(description)), tmp_path) as gdb,
        pytest.raises(GdbStubError) as caught,
    ):
        gdb.read_core_registers("pc")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_registers_that_end_early_are_refused(tmp_path: Path) -> None:
    described = encode_packet(b'l<f><reg name="x0"/><reg name="pc"/></f>')
    with (
        client(answering(described, encode_packet(b"00" * 12)), tmp_path) as gdb,
        pytest.raises(GdbStubError, match="gave 12 bytes of registers, which end early"),
    ):
        gdb.read_core_registers("pc")


def test_threads_without_an_end_are_refused(tmp_path: Path) -> None:
    with (
        client(answering(encode_packet(b"m01"), encode_packet(b"x")), tmp_path) as gdb,
        pytest.raises(GdbStubError, match="lists no threads: 'x'"),
    ):
        gdb.threads()


def test_a_damaged_answer_is_asked_for_again(tmp_path: Path) -> None:
    received: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        for answer in (b"+$1f2003d5#00", encode_packet(b"1f2003d5"), encode_packet(b"00")):
            received.append(connection.recv(4096))
            connection.sendall(answer)
        mute(connection)

    with client(serve, tmp_path) as gdb:
        assert gdb.read_memory(0, 4) == bytes.fromhex("1f2003d5")
        assert gdb.read_memory(0, 1) == b"\0"
    assert received == [b"$m0,4#fd", b"-", b"+$m0,1#fa"]


def test_a_request_that_was_damaged_is_sent_again(tmp_path: Path) -> None:
    with client(answering(b"-", b"+" + encode_packet(b"00")), tmp_path) as gdb:
        assert gdb.read_memory(0, 1) == b"\0"


def test_without_acknowledgements_a_wrong_checksum_is_an_error(tmp_path: Path) -> None:
    sound = {b"qS": b"", b"QS": b"OK", b"qX": b"l<target/>"}

    def serve(connection: socket.socket) -> None:
        reader = PacketReader()
        while data := connection.recv(4096):
            for request in reader.feed(data):
                answer = sound.get(request[:2])
                connection.sendall(b"$00#00" if answer is None else encode_packet(answer))

    with client(serve, tmp_path) as gdb:
        gdb.start()
        with pytest.raises(GdbStubError, match=r"^the gdbstub sent a wrong checksum: '00'$"):
            gdb.read_memory(0, 1)


def test_console_output_and_notifications_do_not_disturb_a_stop(tmp_path: Path) -> None:
    notification = b"%" + encode_packet(b"Stop:T05")[1:]
    stream = b"+" + encode_packet(b"O6869") + notification
    with client(answering(stream + encode_packet(b"T05thread:01;")), tmp_path) as gdb:
        gdb.request_step(1)
        assert gdb.await_stop().thread == 1


def test_a_stop_that_does_not_come_is_waited_for_as_long_as_was_said(tmp_path: Path) -> None:
    with client(answering(b"+"), tmp_path) as gdb:
        gdb.request_step(1)
        with pytest.raises(GdbStubError, match="no answer of the gdbstub to 'vCont;s:1' in time"):
            gdb.await_stop(SHORT_S)


def test_a_stop_that_nobody_asked_for_is_passed_over(tmp_path: Path) -> None:
    stop = encode_packet(b"T02thread:01;")
    with client(answering(b"+" + encode_packet(b"00") + stop, encode_packet(b"01")), tmp_path) as g:
        assert g.read_memory(0, 1) == b"\0"
        assert g.read_memory(0, 1) == b"\1"


def test_an_answer_that_comes_too_late_is_not_the_next_one(tmp_path: Path) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        time.sleep(2 * SHORT_S)
        connection.sendall(encode_packet(b"11"))
        mute(connection)

    with client(serve, tmp_path) as gdb:
        with pytest.raises(GdbStubError, match="no answer"):
            gdb.read_memory(0, 1)
        time.sleep(2 * SHORT_S)
        with pytest.raises(GdbStubError, match="did not stop, but said '11'"):
            gdb.read_memory(4, 1)


def test_an_end_is_told_at_the_next_request(tmp_path: Path) -> None:
    with client(closing(b"+" + encode_packet(b"00") + encode_packet(b"W00")), tmp_path) as gdb:
        assert gdb.read_memory(0, 1) == b"\0"
        with pytest.raises(GdbStubClosedError, match="the machine has ended"):
            gdb.read_memory(0, 1)


def test_the_first_answer_may_take_until_the_deadline(tmp_path: Path) -> None:
    begun = time.monotonic()
    with (
        client(mute, tmp_path, patience_s=3 * SHORT_S) as gdb,
        pytest.raises(GdbStubError, match="to 'qSupported"),
    ):
        gdb.start()
    assert time.monotonic() - begun >= 3 * SHORT_S


def test_a_wait_sees_that_it_is_called_off(tmp_path: Path) -> None:
    cancel, begun = threading.Event(), time.monotonic()
    threading.Timer(0.1, cancel.set).start()
    with client(mute, tmp_path, cancel) as gdb:
        gdb.request_continue()
        with pytest.raises(GdbStubClosedError, match=r"^called off$"):
            gdb.await_stop()
        assert time.monotonic() - begun < 0.5


def test_requests_that_nobody_takes_are_an_error() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        gdb = GdbStub(ours, time.monotonic() + 1, threading.Event(), answer_s=SHORT_S)
        # Nobody reads: sooner or later the socket's buffer is full.
        with pytest.raises(GdbStubError, match=r"no answer of the gdbstub to 'vCont;c' in time"):  # noqa: PT012
            while True:
                gdb.request_continue()


def test_every_packet_is_in_the_log(tmp_path: Path) -> None:
    machine = FakeMachine(path=[], acknowledged=True)
    path = tmp_path / "gdb"
    with (
        PacketLog(tmp_path / "rsp.log") as log,
        FakeGdbStub(machine, path),
        connected(path, time.monotonic() + 10, threading.Event(), log=log) as gdb,
    ):
        gdb.set_breakpoint(0x5A5A_0004, Breakpoint.ACCESS_WATCH, 8)
        assert gdb.last_stop().signal == 5
        gdb.interrupt()
    packets = read_packet_log(tmp_path / "rsp.log")
    sent = [packet.payload for packet in packets if packet.direction == ">"]
    assert sent == [*machine.requests, b"\x03"]
    assert sent[-3:-1] == [b"Z4,5a5a0004,8", b"?"]
    assert [p.payload for p in packets if p.direction == "<"][-2:] == [b"OK", b"T05thread:01;"]


@settings(max_examples=60, deadline=None)
@given(answer=st.binary(max_size=60) | st.binary(max_size=60).map(encode_packet))
def test_whatever_comes_is_an_answer_or_an_error_of_ours(answer: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        gdb = GdbStub(ours, time.monotonic() + 1, threading.Event(), answer_s=SHORT_S)
        for ask in (gdb.last_stop, gdb.threads, gdb.await_stop, lambda: gdb.read_register(1)):
            with suppress(GdbStubError):
                ask()
