"""A gdbstub that speaks the protocol over a Unix socket, before a machine that is a list of PCs."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

from qemu_diff.guest.gdbstub import CPSR, PC
from qemu_diff.guest.packet import PacketReader, encode_packet

SYSTEM_REGISTERS = {"VBAR_EL2": 100, "ESR_EL2": 101, "IFSR32_EL2": 102}
CORE_REGISTERS = [*((f"x{i}", 8) for i in range(31)), ("sp", 8), ("pc", 8), ("cpsr", 4)]
DESCRIPTIONS = {
    "target.xml": '<target><xi:include href="system-registers.xml"/></target>',
    "aarch64-core.xml": '<?xml version="1.0"?><!DOCTYPE feature SYSTEM "gdb-target.dtd"><feature>'
    + "".join(f'<reg name="{name}" bitsize="{8 * size}"/>' for name, size in CORE_REGISTERS)
    + "</feature>",
    "system-registers.xml": "<feature>"
    + "".join(
        f'<reg name="{name}" bitsize="64" regnum="{number}"/>'
        for name, number in SYSTEM_REGISTERS.items()
    )
    + "</feature>",
}


@dataclass
class FakeMachine:
    """What the gdbstub serves.

    :param path: PCs that the machine passes, in order; it ends after the last.
    :param registers: by number.
    :param memory: address → byte; other addresses are refused.
    :param refused: prefixes of requests that are answered with an error.
    :param cut: every answer comes in pieces of so many bytes.
    :param acknowledged: the gdbstub has no QStartNoAckMode, as QEMU's.
    """

    path: list[int]
    registers: dict[int, int] = field(default_factory=dict)
    memory: dict[int, int] = field(default_factory=dict)
    refused: tuple[bytes, ...] = ()
    cut: int = 4096
    breakpoints: set[int] = field(default_factory=set)
    requests: list[bytes] = field(default_factory=list)
    physical: list[tuple[int, bytes]] = field(default_factory=list)
    physical_mode: bool = False
    detached: bool = False
    acknowledged: bool = False


class FakeGdbStub:
    """Serves one client, then is gone. Use it as a context manager."""

    def __init__(self, machine: FakeMachine, path: Path) -> None:
        self.machine = machine
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> FakeMachine:
        self._thread.start()
        return self.machine

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join(timeout=5)

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        reader = PacketReader()
        with connection:
            while data := connection.recv(4096):
                for request in reader.feed(data):
                    self.machine.requests.append(request)
                    answer = self._answer(request)
                    if answer is None:
                        return
                    packet = encode_packet(answer)
                    for begin in range(0, len(packet), self.machine.cut):
                        connection.sendall(packet[begin : begin + self.machine.cut])

    def _answer(self, request: bytes) -> bytes | None:  # noqa: PLR0911 - a protocol's table
        machine = self.machine
        if request.startswith(machine.refused):
            return b"E22"
        if request.startswith(b"qXfer:features:read:"):
            return self._describe(request)
        if request in (b"c", b"vCont;c"):
            return self._run()
        if request in (b"s", b"vCont;s:1"):
            if not machine.path:
                return None
            machine.registers[PC] = machine.path.pop(0)
            return b"T05thread:01;"
        if request == b"D":
            machine.detached = True
            return b"OK"
        kind, rest = chr(request[0]), request[1:]
        if kind in "pP":
            return self._register(kind, rest)
        if kind in "mM":
            return self._memory(kind, rest)
        if kind in "zZ":
            address = int(rest.split(b",")[1], 16)
            (machine.breakpoints.add if kind == "Z" else machine.breakpoints.discard)(address)
            return b"OK"
        if request.startswith(b"Qqemu.PhyMemMode:"):
            machine.physical_mode = request.endswith(b"1")
            return b"OK"
        return self._fixed(request)

    def _fixed(self, request: bytes) -> bytes:
        if request == b"g":
            return b"".join(
                self.machine.registers.get(number, 0).to_bytes(size, "little").hex().encode()
                for number, (_, size) in enumerate(CORE_REGISTERS)
            )
        answers = {
            b"Hg1": b"OK",
            b"Hg2": b"E22",
            b"?": b"T05thread:01;",
            b"qfThreadInfo": b"m01",
            b"qsThreadInfo": b"l",
            b"QStartNoAckMode": b"" if self.machine.acknowledged else b"OK",
        }
        return answers.get(request, b"")

    def _describe(self, request: bytes) -> bytes:
        _, _, _, annex, span = request.decode().split(":")
        offset, length = (int(number, 16) for number in span.split(","))
        text = DESCRIPTIONS[annex].encode()
        # Half of what was asked for: a client must go on asking.
        part = text[offset : offset + max(1, length // 32)]
        return (b"l" if offset + len(part) >= len(text) else b"m") + part

    def _run(self) -> bytes | None:
        while self.machine.path:
            self.machine.registers[PC] = self.machine.path.pop(0)
            if self.machine.registers[PC] in self.machine.breakpoints:
                return b"T05thread:01;"
        return None

    def _register(self, kind: str, rest: bytes) -> bytes:
        if kind == "p":
            return self.machine.registers.get(int(rest, 16), 0).to_bytes(8, "little").hex().encode()
        number, _, value = rest.partition(b"=")
        self.machine.registers[int(number, 16)] = int.from_bytes(
            bytes.fromhex(value.decode()), "little"
        )
        return b"OK"

    def _memory(self, kind: str, rest: bytes) -> bytes:
        machine = self.machine
        where, _, content = rest.partition(b":")
        address, length = (int(number, 16) for number in where.split(b","))
        if kind == "M" and machine.physical_mode:
            machine.physical.append((address, bytes.fromhex(content.decode())))
            return b"OK"
        if any(byte not in machine.memory for byte in range(address, address + length)):
            return b"E14"
        if kind == "m":
            return bytes(machine.memory[address + i] for i in range(length)).hex().encode()
        for i, byte in enumerate(bytes.fromhex(content.decode())):
            machine.memory[address + i] = byte
        return b"OK"


__all__ = ["CPSR", "PC", "SYSTEM_REGISTERS", "FakeGdbStub", "FakeMachine"]
