"""The drivers ``rsp`` and ``monitor`` against a real QEMU on this machine, without a guest kernel.

Its single-step is TCG's own; nothing is judged here but that both sides speak the same protocols.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qemu_diff.drive import monitor as hmp
from qemu_diff.drive.debugger import SIGINT, SIGTRAP, Debugger, Position, Stop
from qemu_diff.drive.monitor import Monitor, MonitorDebugger
from qemu_diff.drive.rsp import RspDebugger
from qemu_diff.errors import DebuggerError
from qemu_diff.guest.gdbstub import Breakpoint, GdbStub
from qemu_diff.guest.gdbstub import connected as gdb_connected
from qemu_diff.guest.packet import PacketLog, read_packet_log
from qemu_diff.guest.qemu import find_qemu

pytestmark = pytest.mark.integration

ENTRY = 0x4020_0000
"""Above the device tree, which stands at the begin of the board's memory."""

NOP, MOVZ_X0_0X85, BRANCH_BACK = 0xD503_201F, 0xD280_10A0, 0x17FF_FFFD
PROGRAM = (NOP, NOP, MOVZ_X0_0X85, NOP, BRANCH_BACK)
PSTATE = 0x4000_03C5
"""EL1h, DAIF set, Z: QEMU's reset value (target/arm/cpu.c, ``arm_cpu_reset_hold``)."""


@contextmanager
def machine(directory: Path, *options: str) -> Iterator[None]:
    """A stopped board with two vCPUs, whose gdbstub and monitor listen in ``directory``."""
    program = directory / "program"
    program.write_bytes(b"".join(word.to_bytes(4, "little") for word in PROGRAM))
    argv = [
        str(find_qemu().program), "-M", "virt", "-cpu", "cortex-a57", "-smp", "2", "-m", "64",
        "-nodefaults", "-display", "none", "-S",
        "-device", f"loader,file={program},addr={ENTRY:#x},cpu-num=0,force-raw=on",
        "-chardev", f"socket,id=gdb,path={directory / 'gdb'},server=on,wait=off",
        "-chardev", f"socket,id=hmp,path={directory / 'hmp'},server=on,wait=off",
        "-mon", "chardev=hmp,mode=readline", *options,
    ]  # fmt: skip
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as qemu:
        try:
            yield
        finally:
            qemu.kill()


@contextmanager
def both(directory: Path) -> Iterator[tuple[Monitor, GdbStub]]:
    """The monitor, and the gdbstub that it has started."""
    deadline, cancel = time.monotonic() + 60, threading.Event()
    with machine(directory), hmp.connected(directory / "hmp", deadline, cancel) as monitor:
        assert monitor.status() == "paused (prelaunch)"
        monitor.start_gdbserver("chardev:gdb")
        with gdb_connected(directory / "gdb", deadline, cancel) as stub:
            yield monitor, stub


def exercise(debugger: Debugger) -> None:
    """The same for all: what a debugger of L2 offers."""
    assert debugger.position() == Position(ENTRY, PSTATE)
    assert debugger.step() == Stop(0, SIGTRAP, Position(ENTRY + 4, PSTATE))
    debugger.request_step()
    assert debugger.await_stop().position.pc == ENTRY + 8
    assert debugger.run_to(ENTRY + 12) == Stop(0, SIGTRAP, Position(ENTRY + 12, PSTATE))
    assert debugger.read_register("x0") == 0x85
    debugger.write_register("pc", ENTRY)
    debugger.write_register("cpsr", 0x3C5)
    debugger.write_register("sp", 0x4100_0000)
    assert debugger.read_register("sp") == 0x4100_0000
    assert debugger.position() == Position(ENTRY, 0x3C5)
    assert debugger.read_register("ELR_EL1") == debugger.read_register("SPSR_EL1") == 0
    code = debugger.read_memory(ENTRY, 4 * len(PROGRAM))
    assert code == b"".join(word.to_bytes(4, "little") for word in PROGRAM)
    debugger.leave()


def test_packets_alone_drive_a_real_gdbstub(tmp_path: Path) -> None:
    deadline, cancel = time.monotonic() + 60, threading.Event()
    with (
        machine(tmp_path, "-gdb", "chardev:gdb"),
        PacketLog(tmp_path / "rsp.log") as log,
        gdb_connected(tmp_path / "gdb", deadline, cancel, log=log) as stub,
    ):
        exercise(RspDebugger(stub))
        assert stub.threads() == [1, 2]
        for kind in Breakpoint:
            stub.set_breakpoint(ENTRY + 0x1000, kind, 4)
            stub.clear_breakpoint(ENTRY + 0x1000, kind, 4)
    sent = [packet.payload for packet in read_packet_log(tmp_path / "rsp.log")]
    assert sent.count(b"vCont;s:1") == 2


def test_the_monitor_shows_where_steps_end(tmp_path: Path) -> None:
    with both(tmp_path) as (monitor, stub):
        exercise(MonitorDebugger(monitor, RspDebugger(stub)))


def test_two_vcpus_are_told_apart(tmp_path: Path) -> None:
    with both(tmp_path) as (monitor, stub):
        rsp = RspDebugger(stub)
        assert rsp.position(1) == monitor.registers(1)
        assert rsp.position(0) == monitor.registers(0) == Position(ENTRY, PSTATE)
        assert rsp.position(1).pc == 0
        with pytest.raises(DebuggerError, match="the monitor refused 'cpu 2'"):
            monitor.registers(2)


def test_what_runs_is_stopped_by_either(tmp_path: Path) -> None:
    with both(tmp_path) as (monitor, stub):
        rsp = RspDebugger(stub)
        stub.request_continue()
        assert monitor.status() == "running"
        rsp.interrupt()
        assert rsp.await_stop().signal == SIGINT
        monitor.cont()
        assert monitor.status() == "running"
        monitor.stop()
        assert monitor.status() == "paused"
        # Up to 8.0 QEMU tells gdb of this stop, which has not asked for one.
        assert rsp.step().signal == SIGTRAP


def test_a_step_and_a_stop_have_one_end(tmp_path: Path) -> None:
    with both(tmp_path) as (monitor, stub):
        debugger = MonitorDebugger(monitor, RspDebugger(stub))
        for _ in range(20):
            debugger.request_step_and_stop(after_s=0)
            assert debugger.await_stop().signal in (SIGINT, SIGTRAP)
        assert debugger.step().signal == SIGTRAP


def test_a_machine_that_is_quit_is_gone(tmp_path: Path) -> None:
    with both(tmp_path) as (monitor, stub):
        rsp = RspDebugger(stub)
        monitor.quit()
        with pytest.raises(DebuggerError, match=r"the gdbstub went away|the machine has ended"):
            rsp.await_stop()
