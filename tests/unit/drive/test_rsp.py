"""The debugger that speaks the remote serial protocol itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes.gdbstub import CPSR, PC, SYSTEM_REGISTERS, FakeGdbStub, FakeMachine

from qemu_diff.drive.debugger import SIGTRAP, Debugger, Position, Stop
from qemu_diff.drive.rsp import RspDebugger
from qemu_diff.errors import DebuggerError, GdbStubClosedError
from qemu_diff.guest.gdbstub import connected

ENTRY, PSTATE = 0x5A5A_0000, 0x4000_03C5


def machine(*path: int, acknowledged: bool = True) -> FakeMachine:
    return FakeMachine(
        path=list(path),
        registers={PC: ENTRY, CPSR: PSTATE, 7: 0x77, SYSTEM_REGISTERS["ESR_EL2"]: 0x5600_0000},
        memory={ENTRY + i: i % 256 for i in range(3000)},
        acknowledged=acknowledged,
    )


@contextmanager
def debugging(served: FakeMachine, directory: Path) -> Iterator[RspDebugger]:
    path, deadline = directory / "gdb", time.monotonic() + 10
    with FakeGdbStub(served, path), connected(path, deadline, threading.Event()) as stub:
        yield RspDebugger(stub)


@pytest.mark.parametrize("acknowledged", [True, False])
def test_a_step_is_one_request_and_one_for_where(tmp_path: Path, acknowledged: bool) -> None:
    served = machine(ENTRY + 4, ENTRY + 8, acknowledged=acknowledged)
    with debugging(served, tmp_path) as rsp:
        assert rsp.position() == Position(ENTRY, PSTATE)
        del served.requests[:]
        assert rsp.step() == Stop(0, SIGTRAP, Position(ENTRY + 4, PSTATE))
        assert rsp.step() == Stop(0, SIGTRAP, Position(ENTRY + 8, PSTATE))
    assert served.requests == [b"vCont;s:1", b"g"] * 2


def test_registers_and_memory_by_name(tmp_path: Path) -> None:
    served = machine()
    with debugging(served, tmp_path) as rsp:
        assert rsp.read_register("x7") == 0x77
        assert rsp.read_register("cpsr") == PSTATE
        assert rsp.read_register("ESR_EL2") == 0x5600_0000
        assert rsp.read_memory(ENTRY, 3000) == bytes(i % 256 for i in range(3000))
        rsp.write_register("pc", ENTRY + 16)
        rsp.write_register("cpsr", 0x3C5)
        assert rsp.position() == Position(ENTRY + 16, 0x3C5)
        with pytest.raises(DebuggerError, match="this CPU model has no ELR_EL1"):
            rsp.read_register("ELR_EL1")
        with pytest.raises(DebuggerError, match="0x100000000 does not fit into cpsr"):
            rsp.write_register("cpsr", 1 << 32)
        with pytest.raises(DebuggerError, match="describes no register x31"):
            rsp.write_register("x31", 0)
    assert served.requests[-1].startswith(b"g")


def test_a_run_ends_where_it_was_to(tmp_path: Path) -> None:
    served = machine(ENTRY + 4, ENTRY + 8, ENTRY + 12)
    with debugging(served, tmp_path) as rsp:
        debugger: Debugger = rsp
        assert debugger.run_to(ENTRY + 8).position.pc == ENTRY + 8
        debugger.leave()
    assert not served.breakpoints
    assert not served.detached


def test_a_vcpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with debugging(machine(), tmp_path) as rsp, pytest.raises(DebuggerError, match="no vCPU 1"):
        rsp.step(1)


def test_a_machine_that_ends_is_told_as_such(tmp_path: Path) -> None:
    with debugging(machine(), tmp_path) as rsp, pytest.raises(GdbStubClosedError):
        rsp.step()


def test_after_leaving_nothing_is_asked(tmp_path: Path) -> None:
    with debugging(machine(ENTRY), tmp_path) as rsp:
        rsp.leave()
        with pytest.raises(DebuggerError, match="no vCPU 0"):
            rsp.step()
