"""The client of QEMU's gdbstub, against one that speaks the protocol."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from fakes.gdbstub import SYSTEM_REGISTERS, FakeGdbStub, FakeMachine
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.errors import GdbStubClosedError, GdbStubError
from qemu_diff.guest.gdbstub import PC, GdbStub, connected
from qemu_diff.guest.packet import PacketReader, decode_payload
from qemu_diff.guest.packet import encode_packet as encode

ENTRY, ELSEWHERE = 0x5A5A_0000, 0xFFFF_8000


@contextmanager
def client(machine: FakeMachine, directory: Path) -> Iterator[GdbStub]:
    path = directory / "gdb"
    deadline = time.monotonic() + 10
    with FakeGdbStub(machine, path), connected(path, deadline, threading.Event()) as gdb:
        yield gdb


@given(st.binary(max_size=200), st.lists(st.integers(1, 40), max_size=30))
def test_a_packet_survives_the_way_however_it_is_cut(payload: bytes, cuts: list[int]) -> None:
    stream = b"+" + encode(payload) + b"++" + encode(b"OK")
    reader, found, begin = PacketReader(), [], 0
    for cut in [*cuts, len(stream)]:
        found += reader.feed(stream[begin : begin + cut])
        begin += cut
    assert found == [payload, b"OK"]


@given(st.binary(max_size=80))
def test_garbage_is_packets_or_an_error_of_ours(stream: bytes) -> None:
    with suppress(GdbStubError):
        list(PacketReader().feed(stream))


@given(st.binary(min_size=1, max_size=60), st.integers(0, 7), st.data())
def test_a_flipped_bit_never_passes_as_the_same_length(
    payload: bytes, bit: int, data: st.DataObject
) -> None:
    packet = bytearray(encode(payload))
    where = data.draw(st.integers(1, len(packet) - 4))
    packet[where] ^= 1 << bit
    try:
        found = list(PacketReader().feed(bytes(packet)))
    except GdbStubError:
        return
    assert found != [payload]


def test_repeats_are_expanded() -> None:
    assert decode_payload(b"0* ") == b"0000"


@pytest.mark.parametrize("damaged", [b"*!", b"0*\x1c", b"a}"])
def test_a_damaged_repeat_or_escape_is_said_to_be_one(damaged: bytes) -> None:
    with pytest.raises(GdbStubError, match="damaged"):
        decode_payload(damaged)


@pytest.mark.parametrize("cut", [1, 7, 4096])
def test_registers_memory_and_stops(tmp_path: Path, cut: int) -> None:
    machine = FakeMachine(
        path=[ELSEWHERE, ENTRY, ENTRY + 4],
        registers={SYSTEM_REGISTERS["VBAR_EL2"]: 0xFFFF_FFC0_0804_C000},
        memory={ENTRY + i: i for i in range(16)},
        cut=cut,
    )
    with client(machine, tmp_path) as gdb:
        gdb.run_to(ENTRY)
        assert gdb.read_register(PC) == ENTRY
        assert gdb.read_system_register("VBAR_EL2") == 0xFFFF_FFC0_0804_C000
        assert gdb.read_memory(ENTRY, 4) == bytes(range(4))
        gdb.write_memory(ENTRY, b"}$#*")
        assert gdb.read_memory(ENTRY, 5) == b"}$#*\x04"
        gdb.write_register(PC, ELSEWHERE)
        gdb.detach()
    assert machine.registers[PC] == ELSEWHERE
    assert machine.detached
    assert not machine.breakpoints


def test_physical_memory_is_left_again(tmp_path: Path) -> None:
    machine = FakeMachine(path=[])
    with client(machine, tmp_path) as gdb:
        with gdb.physical_memory():
            gdb.write_memory(0x0800_0204, b"\x02\0\0\0")
        assert not machine.physical_mode
    assert machine.physical == [(0x0800_0204, b"\x02\0\0\0")]


def test_a_machine_that_ends_is_told_from_a_refusal(tmp_path: Path) -> None:
    with client(FakeMachine(path=[ELSEWHERE]), tmp_path) as gdb, pytest.raises(GdbStubClosedError):
        gdb.run_to(ENTRY)


@pytest.mark.parametrize(
    ("refused", "asked"),
    [(b"m", lambda gdb: gdb.read_memory(ENTRY, 4)), (b"Z1", lambda gdb: gdb.run_to(ENTRY))],
)
def test_a_refusal_is_an_error_that_names_the_request(
    tmp_path: Path, refused: bytes, asked: Callable[[GdbStub], object]
) -> None:
    machine = FakeMachine(path=[ENTRY], refused=(refused,))
    with client(machine, tmp_path) as gdb, pytest.raises(GdbStubError, match="refused") as caught:
        asked(gdb)
    assert refused.decode() in str(caught.value)
    assert not isinstance(caught.value, GdbStubClosedError)


def test_a_register_that_this_cpu_lacks_is_named(tmp_path: Path) -> None:
    with (
        client(FakeMachine(path=[]), tmp_path) as gdb,
        pytest.raises(GdbStubError, match="SCXTNUM_EL2"),
    ):
        gdb.read_system_register("SCXTNUM_EL2")


def test_a_gdbstub_that_never_comes_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    with (
        pytest.raises(GdbStubError, match="no gdbstub"),
        connected(tmp_path / "none", time.monotonic() + 0.1, threading.Event()),
    ):
        pass


def test_cancelling_ends_the_wait(tmp_path: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    with (
        pytest.raises(GdbStubClosedError),
        connected(tmp_path / "none", time.monotonic() + 60, cancel),
    ):
        pass
