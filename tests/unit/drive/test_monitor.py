"""The human monitor, against one that has QEMU's readline; and the debugger that believes it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from fakes.gdbstub import CPSR, PC, FakeGdbStub, FakeMachine
from fakes.monitor import REGISTERS_7_2, REGISTERS_10, REGISTERS_64_BIT_PSTATE, FakeMonitor
from fakes.unix_server import Serve, answering, endless, mute, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_diff.drive import monitor as hmp
from qemu_diff.drive.debugger import SIGTRAP, Debugger, Position, Stop
from qemu_diff.drive.monitor import Monitor, MonitorDebugger, parse_registers, strip_echo
from qemu_diff.drive.rsp import RspDebugger
from qemu_diff.errors import DebuggerError
from qemu_diff.guest.gdbstub import connected as gdb_connected
from qemu_diff.guest.gdbstub import opened

ENTRY, PSTATE = 0x5A5A_0000, 0x4000_03C5
SHORT_S = 0.15
PROMPT = b"(qemu) "
FORMATS = (REGISTERS_7_2, REGISTERS_10, REGISTERS_64_BIT_PSTATE)


@contextmanager
def monitoring(serve: Serve, directory: Path) -> Iterator[Monitor]:
    path = directory / "hmp"
    with (
        serving(path, serve),
        hmp.connected(path, time.monotonic() + 10, threading.Event()) as monitor,
    ):
        yield monitor


@contextmanager
def unstarted(
    serve: Serve, directory: Path, cancel: threading.Event | None = None
) -> Iterator[Monitor]:
    path, deadline = directory / "hmp", time.monotonic() + 3 * SHORT_S
    cancel = cancel or threading.Event()
    with serving(path, serve), opened(path, deadline, cancel) as connection:
        yield Monitor(connection, deadline, cancel, answer_s=SHORT_S)


@pytest.mark.parametrize("cut", [1, 7, 4096])
@pytest.mark.parametrize("registers", FORMATS)
def test_commands_and_registers(tmp_path: Path, cut: int, registers: str) -> None:
    fake = FakeMonitor([ENTRY, ENTRY + 4], PSTATE, registers, cut=cut)
    with monitoring(fake, tmp_path) as monitor:
        assert monitor.status() == "paused (prelaunch)"
        assert monitor.registers() == Position(ENTRY, PSTATE)
        assert monitor.registers(1) == Position(ENTRY + 4, PSTATE)
        assert monitor.registers(0) == Position(ENTRY, PSTATE)
        monitor.cont()
        assert monitor.status() == "running"
        monitor.stop()
        assert monitor.status() == "paused"
        monitor.start_gdbserver("chardev:gdb")
        assert monitor.command("bogus") == "unknown command: 'bogus'"
        monitor.quit()
    assert fake.commands[:5] == [
        "info status", "info status", "info registers", "cpu 1", "info registers",
    ]  # fmt: skip


def test_a_refusal_names_the_command_and_does_no_harm(tmp_path: Path) -> None:
    answers = {"cont": "Error: Resetting the Virtual Machine is required", "info status": "none"}
    fake = FakeMonitor([ENTRY], answers=answers)
    refusals: list[tuple[Callable[[Monitor], object], str]] = [
        (lambda m: m.registers(7), "the monitor refused 'cpu 7': 'invalid CPU index'"),
        (lambda m: m.cont(), "the monitor refused 'cont': 'Error: Resetting the Virtual Machine"),
        (lambda m: m.start_gdbserver("x"), "refused 'gdbserver x': \"unknown command: 'gdbserver"),
        (lambda m: m.status(), "the monitor tells no status: 'none'"),
        (lambda m: m.command("a\nb"), r"the monitor can't be told 'a\nb'"),
        (lambda m: m.command(""), "the monitor can't be told ''"),
        (lambda m: m.enter(), "no command of the monitor is prepared"),
    ]
    with monitoring(fake, tmp_path) as monitor:
        for refused, message in refusals:
            with pytest.raises(DebuggerError) as caught:
                refused(monitor)
            assert message in str(caught.value)
        assert monitor.registers().pc == ENTRY


def test_a_prepared_command_is_one_key_away(tmp_path: Path) -> None:
    fake = FakeMonitor([ENTRY], status="running")
    with monitoring(fake, tmp_path) as monitor:
        monitor.prepare("stop")
        assert fake.status == "running"
        with pytest.raises(DebuggerError, match="waits for the end of 'stop'"):
            monitor.status()
        assert monitor.enter() == ""
        assert fake.status == "paused"
        assert monitor.registers().pc == ENTRY


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        (mute, "no answer of the monitor in time"),
        (lambda connection: connection.sendall(b"QE"), "the monitor went away"),
        (lambda connection: connection.sendall(b"x\r\n" + PROMPT), "the monitor went away"),
        (endless(b"Q", b"x" * 4096), "the monitor printed more than 1,048,576 bytes"),
    ],
)
def test_trouble_is_told_in_one_line(tmp_path: Path, serve: Serve, message: str) -> None:
    begun = time.monotonic()
    with unstarted(serve, tmp_path) as monitor:
        with pytest.raises(DebuggerError) as caught:
            monitor.start()
        assert str(caught.value) == message
        with pytest.raises(DebuggerError, match="the monitor is of no use any more: "):
            monitor.status()
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"info registers\x1b[K\r\nCPU#0", "no answer of the monitor in time: 'info registers CPU"),
        (PROMPT, "the monitor did not take 'info registers': ''"),
        (b"info regi\x1b[K\r\n" + PROMPT, "the monitor did not take 'info registers': 'info regi'"),
        (b"\xff\xfe\x1b[9;9H\r\n" + PROMPT, "the monitor did not take 'info registers': "),
    ],
)
def test_nonsense_is_told_in_one_line(tmp_path: Path, answer: bytes, message: str) -> None:
    with unstarted(answering(answer), tmp_path) as monitor:
        with pytest.raises(DebuggerError) as caught:
            monitor.registers()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        with pytest.raises(DebuggerError, match="of no use any more"):
            monitor.registers()


def test_a_wait_sees_that_it_is_called_off(tmp_path: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    with (
        unstarted(mute, tmp_path, cancel) as monitor,
        pytest.raises(DebuggerError, match=r"^called off$"),
    ):
        monitor.start()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "CPU#0\nR00=00000000 R01=00000000\nPSR=400001d3 -Z-- A S svc32",
        " PC=000000005a5a0000 X00=0\n",
        " PC=5a5a0000 \nPSTATE=400003c5 -Z-- EL1h",
        " PC=000000005a5a0000 X00\nPSTATE=400003c5 \n PC=000000005a5a0000 X00\nPSTATE=400003c5 ",
        "the CPU registers are confidential to the realm",
    ],
)
def test_what_is_not_one_vcpu_s_registers_is_refused(text: str) -> None:
    with pytest.raises(DebuggerError, match="shows no registers of one AArch64 vCPU"):
        parse_registers(text)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.sampled_from(FORMATS))
def test_every_position_is_read_as_it_is_shown(pc: int, pstate: int, form: str) -> None:
    shown = form.format(vcpu=0, pc=pc, pstate=pstate).encode()
    typed = "info registers"
    echo = b"".join(b"\x1b[D" * i + typed[: i + 1].encode() + b"\x1b[K" for i in range(len(typed)))
    text = strip_echo(typed, echo + b"\r\n" + shown + b"\r\n")
    assert parse_registers(text) == Position(pc, pstate)


PIECES = st.sampled_from(
    [b" PC=000000005a5a0000 ", b"PSTATE=400003c5 ", b"\r\n", b"info registers", b"\x1b[K", b"\x1b[",
     b"\x1b[D", b"(qemu) ", b"CPU#0"]
)  # fmt: skip


@given(st.lists(PIECES | st.binary(max_size=20), max_size=12).map(b"".join))
def test_whatever_is_shown_is_a_position_or_an_error_of_ours(shown: bytes) -> None:
    with suppress(DebuggerError):
        parse_registers(strip_echo("info registers", shown))
    with suppress(DebuggerError):
        parse_registers(shown.decode(errors="replace"))


@settings(max_examples=50, deadline=None)
@given(st.lists(PIECES | st.binary(max_size=20), max_size=12).map(b"".join))
def test_whatever_comes_is_an_answer_or_an_error_of_ours(stream: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(stream)
        theirs.shutdown(socket.SHUT_WR)
        monitor = Monitor(ours, time.monotonic() + 1, threading.Event(), answer_s=SHORT_S)
        for ask in (monitor.start, monitor.registers, monitor.quit):
            with suppress(DebuggerError):
                ask()


@contextmanager
def debugging(
    fake: FakeMonitor, machine: FakeMachine, directory: Path
) -> Iterator[MonitorDebugger]:
    path, deadline = directory / "gdb", time.monotonic() + 10
    with (
        monitoring(fake, directory) as monitor,
        FakeGdbStub(machine, path),
        gdb_connected(path, deadline, threading.Event()) as stub,
    ):
        yield MonitorDebugger(monitor, RspDebugger(stub))


def test_the_position_is_the_monitor_s(tmp_path: Path) -> None:
    machine = FakeMachine([ENTRY + 4, ENTRY + 8], {PC: ENTRY, CPSR: PSTATE, 3: 33})
    fake = FakeMonitor([ENTRY + 0x100], 0x3C5)
    where = Position(ENTRY + 0x100, 0x3C5)
    with debugging(fake, machine, tmp_path) as shown:
        debugger: Debugger = shown
        assert debugger.position() == where
        assert debugger.step() == Stop(0, SIGTRAP, where)
        assert debugger.read_register("pc") == where.pc
        assert debugger.read_register("cpsr") == where.pstate
        assert debugger.read_register("x3") == 33
        with pytest.raises(DebuggerError, match="stopped at 0x5a5a0100 with signal 5, not at"):
            debugger.run_to(ENTRY + 8)
        debugger.leave()


def test_a_step_and_a_stop_are_asked_for_in_that_order(tmp_path: Path) -> None:
    machine = FakeMachine([ENTRY + 4], {PC: ENTRY, CPSR: PSTATE})
    fake = FakeMonitor([ENTRY + 4], PSTATE)
    with debugging(fake, machine, tmp_path) as debugger:
        debugger.request_step_and_stop(after_s=0)
        assert debugger.await_stop() == Stop(0, SIGTRAP, Position(ENTRY + 4, PSTATE))
    assert fake.commands[-2:] == ["stop", "info registers"]
