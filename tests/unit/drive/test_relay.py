"""The relay: one connection to the gdbstub, and clients that come and go."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qemu_diff.drive.relay import relayed
from qemu_diff.errors import InfrastructureError


@contextmanager
def relay(directory: Path) -> Iterator[tuple[socket.socket, Path]]:
    """The gdbstub's end, and where clients connect to."""
    ours, stub = socket.socketpair()
    with ours, stub, relayed(ours, directory / "relay") as path:
        stub.settimeout(5)
        yield stub, path


@contextmanager
def client(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        yield connection


def received(connection: socket.socket, size: int) -> bytes:
    """So many bytes; MSG_WAITALL does not wait where a socket has a timeout."""
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


def test_clients_one_after_the_other(tmp_path: Path) -> None:
    with relay(tmp_path) as (stub, path):
        for word in (b"first", b"second", b"x" * 200_000):
            with client(path) as gdb:
                sender = threading.Thread(target=gdb.sendall, args=(word,))
                sender.start()
                assert received(stub, len(word)) == word
                sender.join()
                stub.sendall(word[::-1][:1000])
                assert received(gdb, len(word[:1000])) == word[::-1][:1000]


def test_what_nobody_hears_is_not_kept_for_the_next(tmp_path: Path) -> None:
    with relay(tmp_path) as (stub, path):
        stub.sendall(b"$T02thread:01;#db")
        time.sleep(0.3)
        with client(path) as gdb:
            gdb.sendall(b"?")
            assert stub.recv(1) == b"?"
            stub.sendall(b"+")
            assert gdb.recv(100) == b"+"


def test_a_client_sees_the_end_of_the_stub(tmp_path: Path) -> None:
    with relay(tmp_path) as (stub, path), client(path) as gdb:
        gdb.sendall(b"+")
        assert stub.recv(1) == b"+"
        stub.close()
        assert gdb.recv(1) == b""


def test_a_place_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "relay").touch()
    with pytest.raises(InfrastructureError, match="Address already in use"), relay(tmp_path):
        pass
