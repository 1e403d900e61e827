"""A human monitor with QEMU's readline over a Unix socket, before a machine that is a dict."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

REGISTERS_7_2 = (
    "\r\nCPU#{vcpu}\r\n PC={pc:016x} X00=0000000000000000 X01=0000000000000001\r\n"
    "X29=0000000000000000 X30=0000000000000000  SP=0000000000000000\r\n"
    "PSTATE={pstate:08x} -Z-- EL1h  BTYPE=0    FPU disabled"
)
REGISTERS_10 = (
    "\r\nCPU#{vcpu}\r\n PC={pc:016x} X00=0000000000000000 X01=0000000000000001\r\n"
    "X29=0000000000000000 X30=0000000000000000  SP=0000000000000000\r\n"
    "PSTATE={pstate:08x} -Z-- NS EL1h  SVCR=00000000 --  BTYPE=0 NV NV2\r\n"
    "     FPCR=00000000 FPSR=00000000\r\nZ00=0000000000000000:0000000000000000"
)
REGISTERS_64_BIT_PSTATE = REGISTERS_10.replace("pstate:08x", "pstate:016x")


@dataclass
class FakeMonitor:
    """A ``serve`` for :func:`fakes.unix_server.serving`.

    :param pcs: of each vCPU.
    :param answers: of further commands; they win over the built-in ones.
    :param cut: what is sent comes in pieces of so many bytes.
    """

    pcs: list[int]
    pstate: int = 0x4000_03C5
    registers: str = REGISTERS_7_2
    answers: dict[str, str] = field(default_factory=dict)
    cut: int = 4096
    status: str = "paused (prelaunch)"
    selected: int = 0
    commands: list[str] = field(default_factory=list)

    def __call__(self, connection: socket.socket) -> None:
        """Serve it."""
        self._send(connection, b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ")
        line, pending = "", b""
        while data := connection.recv(4096):
            pending += data
            while pending not in (b"", b"\x1b", b"\x1b["):
                key, pending = self._key(pending)
                if key == b"\n":
                    if line == "quit":
                        self._send(connection, b"\r\n")
                        return
                    output = self._command(line).encode()
                    self._send(connection, b"\r\n" + output + b"\r\n" * bool(output) + b"(qemu) ")
                    line = ""
                    continue
                shown = len(line)
                line = self.commands[-1] if key == b"\x1b[A" else line + key.decode()
                self._send(connection, b"\x1b[D" * shown + line.encode() + b"\x1b[K")

    @staticmethod
    def _key(pending: bytes) -> tuple[bytes, bytes]:
        length = 3 if pending.startswith(b"\x1b[") else 1
        return pending[:length], pending[length:]

    def _send(self, connection: socket.socket, data: bytes) -> None:
        for begin in range(0, len(data), self.cut):
            connection.sendall(data[begin : begin + self.cut])

    def _command(self, line: str) -> str:
        self.commands.append(line)
        if line in self.answers:
            return self.answers[line]
        if line.startswith("cpu "):
            vcpu = int(line.removeprefix("cpu "))
            if vcpu >= len(self.pcs):
                return "invalid CPU index"
            self.selected = vcpu
            return ""
        if line in ("stop", "cont"):
            self.status = "paused" if line == "stop" else "running"
            return ""
        fixed = {
            "info registers": self.registers.format(
                vcpu=self.selected, pc=self.pcs[self.selected], pstate=self.pstate
            ),
            "info status": f"VM status: {self.status}",
            "gdbserver chardev:gdb": "Waiting for gdb connection on device 'chardev:gdb'",
        }
        return fixed.get(line, f"unknown command: '{line}'")
