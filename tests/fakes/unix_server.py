"""Serves one client of a Unix socket with whatever it is given, then is gone."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Serve = Callable[[socket.socket], None]


@contextmanager
def serving(path: Path, serve: Serve) -> Iterator[None]:
    """A server behind ``path``; the connection closes when ``serve`` returns.

    :param serve: gets the connection; it may wait in ``recv``, which our end closes.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        thread = threading.Thread(target=_serve_one, args=(listener, serve), daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.close()
            thread.join(timeout=5)


def _serve_one(listener: socket.socket, serve: Serve) -> None:
    connection, _ = listener.accept()
    with connection, suppress(OSError):
        serve(connection)


def mute(connection: socket.socket) -> None:
    """Takes everything, says nothing."""
    while connection.recv(4096):
        pass


def answering(*answers: bytes) -> Serve:
    """Sends one answer for each that it receives, then is mute."""

    def serve(connection: socket.socket) -> None:
        for answer in answers:
            if not connection.recv(4096):
                return
            connection.sendall(answer)
        mute(connection)

    return serve


def closing(*answers: bytes) -> Serve:
    """Sends one answer for each that it receives, then closes."""

    def serve(connection: socket.socket) -> None:
        for answer in answers:
            connection.recv(4096)
            connection.sendall(answer)

    return serve


def endless(begin: bytes, more: bytes) -> Serve:
    """Begins, and never comes to an end."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(begin)
        while True:
            connection.sendall(more)

    return serve
