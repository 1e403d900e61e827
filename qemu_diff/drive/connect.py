"""A debugger for each driver from outside, connected to the QEMU in L1."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket

from qemu_diff.drive.debugger import Debugger, Position
from qemu_diff.drive.gdb import gdb_debugger
from qemu_diff.drive.monitor import Monitor, MonitorDebugger
from qemu_diff.drive.relay import relayed
from qemu_diff.drive.rsp import RspDebugger
from qemu_diff.guest.gdbstub import ANSWER_S, GdbStub
from qemu_diff.guest.nested import GDBSTUB, MONITOR, STUB_CHARDEV
from qemu_diff.guest.packet import PacketLog
from qemu_diff.guest.process import private_socket
from qemu_diff.model import Driver, Payload

PACKET_LOG = "rsp.log"
"""What was asked of the gdbstub and what it answered: enough to ask the same again."""

STOP_EACH = 3
"""The driver ``monitor`` stops one of so many steps on its way."""


@dataclass(frozen=True)
class Connected:
    """A debugger of L2, and who else says where L2 stands.

    :param witness: the gdbstub's or the monitor's view, whichever the debugger does not have.
    :param relay: where gdb connects to; of gdb only.
    :param transcript: what gdb's user has seen so far, line by line; of gdb only.
    """

    debugger: Debugger
    witness: Callable[[], Position]
    monitor: Monitor
    relay: Path | None = None
    transcript: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Call:
    """What a connection needs.

    :param ports: connected to L1's QEMU, by number.
    :param directory: gets the packets.
    :param deadline: of :func:`time.monotonic`, for all that follows.
    """

    ports: Sequence[socket]
    payload: Payload
    directory: Path
    deadline: float
    cancel: threading.Event


@contextmanager
def connected(driver: Driver, call: Call) -> Iterator[Connected]:
    """The debugger of a driver; L2 stands at its first instruction.

    :raises DebuggerError: see :class:`~qemu_diff.drive.debugger.Debugger`.
    :raises MissingToolError: there is no gdb.
    """
    monitor = Monitor(call.ports[MONITOR], call.deadline, call.cancel, answer_s=ANSWER_S)
    monitor.start()
    with ExitStack() as stack:
        if driver is Driver.GDB:
            yield _with_gdb(call, monitor, stack)
            return
        if driver is Driver.MONITOR:
            monitor.start_gdbserver(f"chardev:{STUB_CHARDEV}")
        log = stack.enter_context(PacketLog(call.directory / PACKET_LOG))
        stub = GdbStub(call.ports[GDBSTUB], call.deadline, call.cancel, answer_s=ANSWER_S, log=log)
        stub.start()
        steps = RspDebugger(stub, ANSWER_S)
        if driver is Driver.RSP:
            yield Connected(steps, monitor.registers, monitor)
        else:
            yield Connected(MonitorDebugger(monitor, steps, STOP_EACH), steps.position, monitor)


def _with_gdb(call: Call, monitor: Monitor, stack: ExitStack) -> Connected:
    transcript: list[str] = []
    path = stack.enter_context(private_socket()).with_name("stub")
    relay = stack.enter_context(relayed(call.ports[GDBSTUB], path))
    debugger = stack.enter_context(
        gdb_debugger(
            relay,
            call.payload.program,
            call.deadline,
            call.cancel,
            say=transcript.append,
            log=call.directory / PACKET_LOG,
        )
    )
    return Connected(debugger, monitor.registers, monitor, relay, transcript)
