"""Cells side by side: as many as there are CPUs and memory, and none once it is called off."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from qemu_diff.campaign import executor
from qemu_diff.campaign.cell_task import CellTask
from qemu_diff.campaign.executor import QEMU_MIB, Local
from qemu_diff.campaign.prepare import Places
from qemu_diff.compare.verdict import unjudged_cell
from qemu_diff.drive.in_guest import Tools
from qemu_diff.guest.image import StepVmm
from qemu_diff.guest.process import Cancelled
from qemu_diff.guest.qemu import Qemu
from qemu_diff.model import Build, Cell, CellResult, CellVerdict, Driver, FloodSpec, MachineSpec
from qemu_diff.truth.phantom import PhantomRule
from qemu_diff.truth.plugin import TruthPlugin

NOWHERE = Path("/nowhere")
PLACES = Places(NOWHERE, NOWHERE, NOWHERE / "cells")
TOOLS = Tools(
    Qemu(NOWHERE, "id", "QEMU 1.0", sandbox=False, cpus=()),
    TruthPlugin(NOWHERE, 1, PhantomRule.INSN_SIZE),
    StepVmm(NOWHERE, ()),
    NOWHERE,
    NOWHERE,
)
BUILD = Build("k", "key", NOWHERE, None, None, None, "6.1", True, 0.0)


def task(name: str, memory_mib: int = 256) -> CellTask:
    machine = MachineSpec(memory_mib=memory_mib)
    cell = Cell(name, "k", "hvc", machine, FloodSpec(), Driver.IN_GUEST, 1)
    return CellTask(cell, 1.0, True, BUILD, TOOLS)


class Boots:
    """In place of what runs a cell: each lasts until it is let go, or called off."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.most = 0
        self.let_go = threading.Event()
        self._lock = threading.Lock()

    def __call__(
        self, one: CellTask, directory: Path, findings: Path, cancel: threading.Event
    ) -> CellResult:
        assert directory == NOWHERE / "cells" / one.cell.id
        assert findings == NOWHERE / "findings"
        with self._lock:
            self.running.add(one.cell.id)
            self.most = max(self.most, len(self.running))
        try:
            while not self.let_go.wait(0.005):
                if cancel.is_set():
                    raise Cancelled
        finally:
            with self._lock:
                self.running.discard(one.cell.id)
        return unjudged_cell(one.cell, CellVerdict.LOST, "none ran")


@pytest.fixture
def boots(monkeypatch: pytest.MonkeyPatch) -> Boots:
    boots = Boots()
    monkeypatch.setattr(executor, "run_task", boots)
    return boots


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def submitted(local: Local, *tasks: CellTask) -> list[Future[CellResult]]:
    return [local.submit(one, PLACES) for one in tasks]


def test_no_more_than_there_are_cpus(boots: Boots) -> None:
    local = Local(2, memory_mib=None)
    futures = submitted(local, *(task(f"c{number}") for number in range(5)))
    until(lambda: len(boots.running) == 2)
    boots.let_go.set()
    assert [future.result(10).cell.id for future in futures] == ["c0", "c1", "c2", "c3", "c4"]
    assert boots.most == 2
    local.cancel()


def test_no_more_than_memory_has_room_for(boots: Boots) -> None:
    local = Local(4, memory_mib=2 * (256 + QEMU_MIB) + 255)
    futures = submitted(local, *(task(f"c{number}") for number in range(4)))
    until(lambda: len(boots.running) == 2)
    time.sleep(0.05)
    assert len(boots.running) == 2
    boots.let_go.set()
    assert all(future.result(10) for future in futures)
    assert boots.most == 2
    local.cancel()


def test_a_machine_that_is_too_large_runs_alone(boots: Boots) -> None:
    local = Local(2, memory_mib=1024)
    futures = submitted(local, task("large", memory_mib=4096), task("small"))
    until(lambda: bool(boots.running))
    time.sleep(0.05)
    assert boots.most == 1
    boots.let_go.set()
    assert all(future.result(10) for future in futures)
    local.cancel()


def test_nothing_runs_any_more_once_it_is_called_off(boots: Boots) -> None:
    """One runs, one waits for memory, one for a CPU."""
    local = Local(2, memory_mib=256 + QEMU_MIB)
    futures = submitted(local, *(task(f"c{number}") for number in range(3)))
    until(lambda: len(boots.running) == 1)
    local.cancel()
    assert not boots.running
    assert all(future.done() for future in futures)
    for future in futures[:2]:
        with pytest.raises(Cancelled):
            future.result()
    assert futures[2].cancelled()
