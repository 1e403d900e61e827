"""A relay that holds the connection to the gdbstub of L1's QEMU, whoever comes and goes.

A port of a virtio-serial device is open only while somebody is connected on the host's side: when
he leaves, L1's QEMU sees its end hang up, and its gdbstub is mute from then on (QEMU
chardev/char-pipe.c knows no second opening). So one connection stays for all of L1's life, and each
gdb connects to the relay.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qemu_diff.errors import InfrastructureError

POLL_S = 0.1
CHUNK = 65536


class Relay:
    """Bytes in both directions, from a thread of its own; one client at a time."""

    def __init__(self, stub: socket.socket, listener: socket.socket) -> None:
        self._stub = stub
        self._listener = listener
        self._ended = threading.Event()

    def serve(self) -> None:
        """Until :meth:`end` or the gdbstub's own end, which a client sees as its end."""
        while not self._ended.is_set():
            client = self._accept()
            if client is not None:
                with client:
                    self._forward(client)

    def end(self) -> None:
        """Make :meth:`serve` return."""
        self._ended.set()

    def _accept(self) -> socket.socket | None:
        ready, _, _ = select.select([self._stub, self._listener], [], [], POLL_S)
        # What nobody hears would be taken for the answer to the next client's first question.
        if self._stub in ready and not _received(self._stub):
            self._ended.set()
        return self._listener.accept()[0] if self._listener in ready else None

    def _forward(self, client: socket.socket) -> None:
        """Until one of both ends."""
        others = {self._stub: client, client: self._stub}
        while not self._ended.is_set():
            for source in select.select([self._stub, client], [], [], POLL_S)[0]:
                data = _received(source)
                if source is self._stub and not data:
                    self._ended.set()
                if not data or not _sent(others[source], data):
                    return


def _received(source: socket.socket) -> bytes:
    with suppress(ConnectionError):
        return source.recv(CHUNK)
    return b""


def _sent(target: socket.socket, data: bytes) -> bool:
    with suppress(ConnectionError):
        target.sendall(data)
        return True
    return False


@contextmanager
def relayed(stub: socket.socket, path: Path) -> Iterator[Path]:
    """A Unix socket that leads to the gdbstub, as often as one likes.

    :param stub: connected to the port, before L1's QEMU opens it.
    :param path: of the socket to make.
    :raises InfrastructureError: it can't be made.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(str(path))
        except OSError as error:
            raise InfrastructureError(f"{path}: {error.strerror}") from error
        listener.listen(1)
        relay = Relay(stub, listener)
        thread = threading.Thread(target=relay.serve, name="gdb-relay", daemon=True)
        thread.start()
        try:
            yield path
        finally:
            relay.end()
            thread.join()
