"""The qtest protocol (QEMU softmmu/qtest.c): a command is a line, and so is its answer."""

from __future__ import annotations

from socket import socket

MOST_BYTES = 4096
"""Of one answer: a word or two."""


def ask(connection: socket, command: str) -> str:
    """What follows ``OK`` in the answer to a command, on one line.

    :raises ConnectionError: QEMU is gone.
    :raises OSError: it does not answer, or refuses.
    """
    connection.sendall(f"{command}\n".encode())
    answer = b""
    while not answer.endswith(b"\n"):
        data = connection.recv(MOST_BYTES)
        if not data:
            raise ConnectionResetError("it went away")
        answer += data
        if len(answer) > MOST_BYTES:
            raise OSError(f"the answer to {command!r} has no end")
    words = " ".join(answer.decode(errors="replace").split())
    status, _, rest = words.partition(" ")
    if status != "OK":
        raise OSError(f"{command!r} was refused: {words}")
    return rest
