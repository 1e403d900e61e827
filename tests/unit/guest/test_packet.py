"""Packets of the remote serial protocol: whatever comes, packets or an error of ours."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.errors import GdbStubClosedError, GdbStubError
from qemu_diff.guest.packet import (
    FROM_STUB,
    MAX_GARBAGE,
    MAX_PACKET,
    TO_STUB,
    ChecksumError,
    PacketLog,
    PacketReader,
    StopReply,
    decode_hex,
    decode_payload,
    encode_packet,
    is_console_output,
    parse_stop,
    parse_thread,
    read_packet_log,
)


def notification(payload: bytes) -> bytes:
    return b"%" + encode_packet(payload)[1:]


BETWEEN = st.sampled_from([b"", b"+", b"+++", notification(b"Stop:T05")])


def with_repeats(payload: bytes) -> bytes:
    """The payload as a stub that compresses runs sends it (GDB manual E.1)."""
    raw, at = bytearray(), 0
    while at < len(payload):
        byte = payload[at]
        run = 1
        while run < 97 and payload[at + run : at + run + 1] == bytes((byte,)):
            run += 1
        while run > 3 and chr(run - 1 + 29) in "$#+-":
            run -= 1
        raw += encode_packet(bytes((byte,)))[1:-3]
        raw += bytes((0x2A, run - 1 + 29)) if run > 3 else b""
        at += run if run > 3 else 1
    return bytes(raw)


@given(
    st.lists(st.tuples(st.binary(max_size=60), BETWEEN, st.binary(max_size=20))),
    st.lists(st.integers(1, 40), max_size=40),
)
def test_packets_survive_any_cut_among_acknowledgements_and_notifications(
    packets: list[tuple[bytes, bytes, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(
        between + notification(event) + encode_packet(payload)
        for payload, between, event in packets
    )
    reader, found, begin = PacketReader(), [], 0
    for cut in [*cuts, len(stream) + 1]:
        found += reader.feed(stream[begin : begin + cut])
        begin += cut
    assert found == [payload for payload, _, _ in packets]
    assert reader.unfinished == b""


@given(st.lists(st.tuples(st.sampled_from(b"0af}$#*"), st.integers(1, 200)), max_size=8))
def test_runs_are_expanded_to_what_they_were(runs: list[tuple[int, int]]) -> None:
    payload = b"".join(bytes((byte,)) * length for byte, length in runs)
    # A run of an escaped byte repeats the escaped one: decoders work on what is decoded.
    assert decode_payload(with_repeats(payload)) == payload


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_any_stream_is_packets_or_an_error_of_ours(chunks: list[bytes]) -> None:
    reader = PacketReader()
    for chunk in chunks:
        with suppress(GdbStubError):
            list(reader.feed(chunk))


@given(
    st.lists(st.sampled_from([b"$", b"#", b"%", b"+", b"-", b"0", b"}", b"*", b"00", b"$OK#9a"]))
)
def test_any_stream_of_the_protocol_s_own_bytes_is_taken(chunks: list[bytes]) -> None:
    reader = PacketReader()
    for chunk in chunks:
        with suppress(GdbStubError):
            for payload in reader.feed(chunk):
                assert isinstance(payload, bytes)


def test_after_a_wrong_checksum_the_next_packet_is_read() -> None:
    reader = PacketReader()
    with pytest.raises(ChecksumError, match=r"^the gdbstub sent a wrong checksum: 'OK'$"):
        list(reader.feed(b"$OK#00$OK#9a"))
    assert list(reader.feed(b"")) == [b"OK"]


def test_garbage_and_packets_without_an_end_are_bounded() -> None:
    assert list(PacketReader().feed(b"boot\r\n" + encode_packet(b"OK"))) == [b"OK"]
    with pytest.raises(GdbStubError, match="sent garbage: 'xxx"):
        list(PacketReader().feed(b"x" * (MAX_GARBAGE + 1)))
    with pytest.raises(GdbStubError, match="a packet of more than 262,144 bytes"):
        list(PacketReader().feed(b"$" + b"0" * (MAX_PACKET + 1)))
    assert list(PacketReader().feed(b"+" * (MAX_GARBAGE + 1))) == []


def test_requests_to_send_again_are_counted() -> None:
    reader = PacketReader()
    assert list(reader.feed(b"-+$OK#9a-")) == [b"OK"]
    assert reader.resend_requests == 2


@pytest.mark.parametrize(
    ("payload", "reply"),
    [
        (b"S05", StopReply(5)),
        (b"T05thread:01;", StopReply(5, 1)),
        (b"T02thread:p01.0a;", StopReply(2, 10)),
        (b"T05thread:02;watch:ffffffc008000000;", StopReply(5, 2, "watch", 0xFFFFFFC008000000)),
        (b"T05rwatch:10;thread:1;", StopReply(5, 1, "rwatch", 16)),
        (b"T05awatch:10;20:0000;core:1;", StopReply(5, 0, "awatch", 16)),
    ],
)
def test_stops_are_understood(payload: bytes, reply: StopReply) -> None:
    assert parse_stop(payload) == reply


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"N", "the gdbstub has no thread left that runs"),
        (b"OK", "the gdbstub did not stop, but said 'OK'"),
        (b"", "the gdbstub did not stop, but said ''"),
        (b"S5", "the gdbstub did not stop, but said 'S5'"),
        (b"S+5", "the gdbstub sent no number: 'S+5'"),
        (b"T0", "the gdbstub did not stop, but said 'T0'"),
        (b"T05thread:01", "the gdbstub sent a cut stop: 'T05thread:01'"),
        (b"T05thread;", "the gdbstub sent a damaged stop: 'T05thread;'"),
        (b"T05thread:00;", "the gdbstub named no thread: '00'"),
        (b"T05thread:-1;", "the gdbstub sent no number: '-1'"),
        (b"T05watch:;", "the gdbstub sent no number: 'T05watch:;'"),
        (b"\xff", r"the gdbstub did not stop, but said '\xff'"),
    ],
)
def test_what_is_no_stop_is_said_in_one_line(payload: bytes, message: str) -> None:
    with pytest.raises(GdbStubError) as caught:
        parse_stop(payload)
    assert str(caught.value) == message


@pytest.mark.parametrize("payload", [b"W00", b"X09", b"W00;process:1"])
def test_an_end_is_an_error_of_its_own(payload: bytes) -> None:
    with pytest.raises(GdbStubClosedError, match="the machine has ended"):
        parse_stop(payload)


@given(st.binary(max_size=40) | st.binary(max_size=30).map(lambda rest: b"T05" + rest))
def test_any_stop_is_parsed_or_an_error_of_ours(payload: bytes) -> None:
    with suppress(GdbStubError):
        parse_stop(payload)
    with suppress(GdbStubError):
        parse_thread(payload)
    with suppress(GdbStubError):
        decode_hex(payload)


@pytest.mark.parametrize("digits", [b"0", b"0g", b"00 0", b"\xff\xff", b"xxxx"])
def test_what_is_not_hexadecimal_is_an_error_of_ours(digits: bytes) -> None:
    with pytest.raises(GdbStubError, match="no hexadecimal bytes"):
        decode_hex(digits)


def test_console_output_is_told_from_ok() -> None:
    assert is_console_output(b"O6869")
    assert not is_console_output(b"OK")


@given(payloads=st.lists(st.binary(max_size=40)))
def test_a_log_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("log") / "rsp.log"
    with PacketLog(path) as log:
        for payload in payloads:
            log.write(TO_STUB, payload)
            log.write(FROM_STUB, payload)
    packets = read_packet_log(path)
    assert [packet.payload for packet in packets[::2]] == payloads
    assert [packet.payload for packet in packets[1::2]] == payloads
    assert {packet.direction for packet in packets} <= {TO_STUB, FROM_STUB}
    assert sorted(packet.time_s for packet in packets) == [packet.time_s for packet in packets]
