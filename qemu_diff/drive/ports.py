"""The host's ends of the virtio-serial ports that L1's QEMU is reached by."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from socket import AF_UNIX, socket

from qemu.qmp import QMPClient, QMPError

from qemu_diff.errors import DebuggerError

POLL_S = 0.01

ANSWER_S = 30.0


@contextmanager
def connected_ports(
    paths: Sequence[Path], deadline: float, cancel: threading.Event
) -> Iterator[tuple[socket, ...]]:
    """All ports, connected as soon as L0 has made them, for as long as L0 lives.

    A guest reads the end of the stream from a port that nobody is connected to (Linux
    drivers/char/virtio_console.c, ``port_fops_read()``), and QEMU's chardev ``pipe`` never reads
    again after that: who comes later finds it mute.

    :param deadline: of :func:`time.monotonic`.
    :raises DebuggerError: L0 made none in time.
    """
    with ExitStack() as stack:
        connections = tuple(stack.enter_context(socket(AF_UNIX)) for _ in paths)
        for connection, path in zip(connections, paths, strict=True):
            _connect(connection, path, deadline, cancel)
        yield connections


def _connect(connection: socket, path: Path, deadline: float, cancel: threading.Event) -> None:
    while True:
        with suppress(FileNotFoundError, ConnectionRefusedError):
            connection.connect(str(path))
            return
        if cancel.wait(POLL_S):
            raise DebuggerError("called off")
        if time.monotonic() > deadline:
            raise DebuggerError("QEMU made no virtio-serial ports in time")


def end_nested(connection: socket) -> None:
    """Ask L1's QEMU to end, over its QMP.

    :raises DebuggerError: it does not answer as QMP does.
    """
    try:
        asyncio.run(asyncio.wait_for(_quit(connection), ANSWER_S))
    except TimeoutError as error:
        silent = f"nothing came for {ANSWER_S:g} s"
        raise DebuggerError(f"L1's QEMU does not answer on its QMP: {silent}") from error
    except (QMPError, OSError) as error:
        raise DebuggerError(f"L1's QEMU does not answer on its QMP: {error}") from error


async def _quit(connection: socket) -> None:
    client = QMPClient("qemu-diff")
    await client.connect(connection)
    with suppress(QMPError):
        await client.execute("quit")
    with suppress(QMPError, EOFError):
        await client.disconnect()
