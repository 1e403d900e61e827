"""The host's ends of the virtio-serial ports that L1's QEMU is reached by."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from socket import AF_UNIX, socket
from typing import TypeVar

from qemu.qmp import ExecInterruptedError, QMPClient, QMPError

from qemu_diff.errors import DebuggerError
from qemu_diff.guest.gdbstub import ANSWER_S

POLL_S = 0.01

MACHINE_DEVICES = "/machine/unattached"
"""Where QOM has what nobody named (QEMU hw/core/qdev.c, ``device_set_realized``)."""

_Answer = TypeVar("_Answer")


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


class NestedQmp:
    """The QMP of L1's QEMU. Use it as a context manager.

    Every method raises :class:`~qemu_diff.errors.DebuggerError` where it does not answer as QMP
    does.
    """

    def __init__(self, connection: socket) -> None:
        self._connection = connection
        self._client = QMPClient("L1's QEMU")
        self._runner = asyncio.Runner()

    def __enter__(self) -> NestedQmp:
        self._run(self._client.connect(self._connection))
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(DebuggerError, EOFError):
            self._run(self._client.disconnect())
        self._runner.close()

    def device(self, of_type: str) -> str:
        """QOM path of the one device of a type that the machine itself made."""
        made = self._execute("qom-list", {"path": MACHINE_DEVICES})
        for one in made if isinstance(made, list) else []:
            if isinstance(one, dict) and one.get("type") == f"child<{of_type}>":
                return f"{MACHINE_DEVICES}/{one['name']}"
        raise DebuggerError(f"L1's QEMU has no {of_type}")

    def uses_kvm(self) -> bool:
        """Whether L2 runs under KVM, and not under TCG."""
        answer = self._execute("query-kvm")
        return isinstance(answer, dict) and bool(answer.get("enabled"))

    def quit(self) -> None:
        """Ask it to end; it may be gone before it has answered."""

        async def leave() -> None:
            with suppress(ExecInterruptedError):
                await self._client.execute("quit")

        self._run(leave())

    def _execute(self, command: str, arguments: dict[str, object] | None = None) -> object:
        return self._run(self._client.execute(command, arguments))

    def _run(self, answer: Coroutine[object, object, _Answer]) -> _Answer:
        try:
            return self._runner.run(asyncio.wait_for(answer, ANSWER_S))
        except TimeoutError:
            raise DebuggerError(f"the QMP of L1's QEMU was silent for {ANSWER_S:g} s") from None
        except (QMPError, OSError) as error:
            words = " ".join(str(error).split())
            raise DebuggerError(f"the QMP of L1's QEMU: {words}") from error
