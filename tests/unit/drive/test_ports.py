"""The host's ends of the ports: connected when they come, and a QMP that is told to quit."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import AF_UNIX, socket, socketpair
from typing import Any

import pytest

from qemu_diff.drive import ports
from qemu_diff.drive.ports import NestedQmp, connected_ports
from qemu_diff.errors import DebuggerError

LONG_S = 10.0


def in_time(seconds: float = LONG_S) -> float:
    return time.monotonic() + seconds


@contextmanager
def listener(path: Path) -> Iterator[socket]:
    with socket(AF_UNIX) as one:
        one.bind(str(path))
        one.listen()
        one.settimeout(LONG_S)
        yield one


# --- connecting ---


def test_ports_are_connected_in_order_and_closed_at_the_end(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    with listener(paths[0]) as first, listener(paths[1]) as second:
        with connected_ports(paths, in_time(), threading.Event()) as (a, b):
            a.sendall(b"for a")
            b.sendall(b"for b")
            to_a, to_b = first.accept()[0], second.accept()[0]
        with to_a, to_b:
            assert (to_a.recv(99), to_b.recv(99)) == (b"for a", b"for b")
            assert (to_a.recv(99), to_b.recv(99)) == (b"", b"")


@pytest.mark.parametrize("stale", [False, True])
def test_who_comes_late_is_waited_for(tmp_path: Path, stale: bool) -> None:
    path = tmp_path / "late"
    if stale:  # a socket that nobody listens at refuses
        with socket(AF_UNIX) as dead:
            dead.bind(str(path))
    begun, done = threading.Event(), threading.Event()

    def late() -> None:
        begun.wait(LONG_S)
        time.sleep(0.1)
        path.unlink(missing_ok=True)
        with listener(path):
            done.wait(LONG_S)

    thread = threading.Thread(target=late)
    thread.start()
    begun.set()
    try:
        with connected_ports([path], in_time(), threading.Event()) as (one,):
            assert one.getpeername() == str(path)
    finally:
        done.set()
        thread.join()


def test_who_never_comes_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    deadline = in_time(0.1)
    with (
        pytest.raises(DebuggerError, match=r"^QEMU made no virtio-serial ports in time$"),
        connected_ports([tmp_path / "none"], deadline, threading.Event()),
    ):
        pytest.fail("connected to nobody")
    assert time.monotonic() > deadline


def test_waiting_can_be_called_off(tmp_path: Path) -> None:
    cancel = threading.Event()
    timer = threading.Timer(0.05, cancel.set)
    timer.start()
    begin = time.monotonic()
    with (
        pytest.raises(DebuggerError, match=r"^called off$"),
        connected_ports([tmp_path / "none"], in_time(), cancel),
    ):
        pytest.fail("connected to nobody")
    assert time.monotonic() - begin < LONG_S / 2
    timer.join()


def test_a_port_that_fails_closes_those_before_it(tmp_path: Path) -> None:
    with listener(tmp_path / "a") as first:
        with (
            pytest.raises(DebuggerError),
            connected_ports([tmp_path / "a", tmp_path / "none"], in_time(0), threading.Event()),
        ):
            pytest.fail("connected to nobody")
        with first.accept()[0] as gone:
            assert gone.recv(1) == b""


# --- ending L1's QEMU ---

GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}}
Answer = dict[str, Any] | None
SILENCE: Answer = {}
OK: Answer = {"return": {}}


class Qmp:
    """A QMP server at one end of a socket pair; what it was told is in ``commands``."""

    def __init__(self, answers: dict[str, Answer], greeting: bytes | None = None) -> None:
        """
        :param answers: to each command; None: it hangs up.
        """
        self.commands: list[str] = []
        self._answers = answers
        self._greeting = json.dumps(GREETING).encode() + b"\r\n" if greeting is None else greeting

    def serve(self, end: socket) -> None:
        with end:
            end.sendall(self._greeting)
            said = b""
            while more := end.recv(4096):
                # A client ends no line: each object is whole by itself.
                said += more
                with suppress(ValueError):
                    told, said = json.loads(said), b""
                    self.commands.append(told["execute"])
                    answer = self._answers.get(told["execute"], SILENCE)
                    if answer is None:
                        return
                    if answer:
                        identity = {"id": told["id"]} if "id" in told else {}
                        end.sendall(json.dumps({**answer, **identity}).encode() + b"\r\n")


@contextmanager
def served(server: Qmp) -> Iterator[socket]:
    ours, theirs = socketpair()
    thread = threading.Thread(target=server.serve, args=(theirs,))
    thread.start()
    try:
        with ours:
            yield ours
    finally:
        thread.join(LONG_S)
        assert not thread.is_alive()


def quit_nested(connection: socket) -> None:
    with NestedQmp(connection) as qmp:
        qmp.quit()


@pytest.mark.parametrize("quits", [OK, None], ids=["answers", "goes away at once"])
def test_l1_s_qemu_is_told_to_quit(quits: Answer) -> None:
    server = Qmp({"qmp_capabilities": OK, "quit": quits})
    with served(server) as connection:
        quit_nested(connection)
    assert server.commands == ["qmp_capabilities", "quit"]


@pytest.mark.parametrize(
    "greeting",
    [
        b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) \r\n",
        b"{}\r\n",
        b"[]\r\n",
    ],
    ids=["a monitor", "an object", "no object"],
)
def test_what_does_not_talk_qmp_is_no_qmp(greeting: bytes) -> None:
    with (
        served(Qmp({}, greeting)) as connection,
        pytest.raises(DebuggerError, match=r"^the QMP of L1's QEMU: .+"),
    ):
        quit_nested(connection)


def test_who_refuses_to_negotiate_is_no_qmp() -> None:
    refusal: Answer = {"error": {"class": "GenericError", "desc": "no"}}
    with (
        served(Qmp({"qmp_capabilities": refusal})) as connection,
        pytest.raises(DebuggerError, match=r"^the QMP of L1's QEMU: .+"),
    ):
        quit_nested(connection)


@pytest.mark.parametrize(
    "server",
    [Qmp({}, b""), Qmp({}), Qmp({"qmp_capabilities": OK})],
    ids=["no greeting", "no capabilities", "no end"],
)
def test_who_falls_silent_is_given_up(server: Qmp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "ANSWER_S", 0.2)
    begin = time.monotonic()
    with (
        served(server) as connection,
        pytest.raises(DebuggerError) as caught,
    ):
        quit_nested(connection)
    assert time.monotonic() - begin < LONG_S / 2
    assert str(caught.value) == "the QMP of L1's QEMU was silent for 0.2 s"
