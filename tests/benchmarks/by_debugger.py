"""The way of anybody who has no qemu-diff: a debugger at the gdbstub of a QEMU in L1, and the rule
that PC must have moved by one instruction. No truth, no flood, no second opinion."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from os import devnull
from pathlib import Path

from qemu_diff.campaign.cell_task import CellTask
from qemu_diff.drive.connect import Call, connected
from qemu_diff.drive.debugger import Debugger
from qemu_diff.drive.ports import NestedQmp, connected_ports
from qemu_diff.errors import InfrastructureError, QemuDiffError
from qemu_diff.guest.initramfs import extend
from qemu_diff.guest.machine import MachineFiles, argv
from qemu_diff.guest.nested import QMP, Nested, devices, nested_argv
from qemu_diff.guest.process import GivenUp, private_socket, run_guest
from qemu_diff.model import Driver, Payload

AFTER_S = 3.0
"""How long L1 may take to end by itself when the debugger is done."""


@dataclass(frozen=True)
class Walk:
    """What a debugger's user saw.

    :param stops: (moment, PC), one for each step.
    :param wrong: the first stop that was not behind the instruction before; or None.
    :param power_on: QEMU's start; all moments are of :func:`time.monotonic`.
    :param trouble: why it was not walked to its end, or nothing.
    """

    power_on: float
    stops: tuple[tuple[float, int], ...]
    wrong: int | None
    trouble: str

    @property
    def detected_s(self) -> float | None:
        """From power-on to the stop that was wrong."""
        return None if self.wrong is None else self.stops[self.wrong][0] - self.power_on

    @property
    def steps_per_s(self) -> float:
        """From the first stop to the last."""
        return (len(self.stops) - 1) / (self.stops[-1][0] - self.stops[0][0])


@dataclass(frozen=True)
class Step:
    """One step, as a user sees it."""

    before: int
    after: int

    @property
    def right(self) -> bool:
        """Nothing that is walked here branches."""
        return self.after == self.before + 4


class _Walker(threading.Thread):
    def __init__(self, task: CellTask, ports: tuple[Path, ...], directory: Path, most: int) -> None:
        super().__init__(name="walker", daemon=True)
        assert task.payload is not None
        self._driver = task.cell.driver
        self._payload: Payload = task.payload
        self._ports = ports
        self._directory = directory
        self._most = most
        self._deadline = time.monotonic() + task.budget_s
        self.over = threading.Event()
        self.stops: list[tuple[float, int]] = []
        self.wrong: int | None = None
        self.trouble = ""
        self.ended_at = 0.0

    def run(self) -> None:
        try:
            with connected_ports(self._ports, self._deadline, self.over) as ports:
                call = Call(ports, self._payload, self._directory, self._deadline, self.over)
                with connected(self._driver, call) as l2, NestedQmp(ports[QMP]) as qmp:
                    self._walk(l2.debugger)
                    l2.debugger.leave()
                    qmp.quit()
        except (QemuDiffError, OSError) as error:
            self.trouble = str(error)
        finally:
            self.ended_at = time.monotonic()

    def _walk(self, debugger: Debugger) -> None:
        stands = debugger.position().pc
        while len(self.stops) < self._most and self.wrong is None:
            if not self._payload.begin <= stands < self._payload.end:
                stands = self._payload.entry
                debugger.write_register("pc", stands)
            step = Step(stands, debugger.step().position.pc)
            self.stops.append((time.monotonic(), step.after))
            if not step.right:
                self.wrong = len(self.stops) - 1
            stands = step.after

    def check(self) -> None:
        if self.ended_at and time.monotonic() > self.ended_at + AFTER_S:
            raise GivenUp


def walk(task: CellTask, directory: Path, most: int) -> Walk:
    """Step through a payload, again and again, until a step is wrong.

    :param task: of driver ``gdb`` or ``rsp``; its flood is not looked at.
    :param directory: gets the console and the packets.
    :param most: steps.
    """
    directory.mkdir(parents=True, exist_ok=True)
    nested = Nested(gic_version=task.cell.machine.gic_version)
    with private_socket() as qmp_socket:
        ports = tuple(qmp_socket.with_name(f"port{number}") for number in range(nested.ports))
        files = MachineFiles(
            kernel=task.build.image,
            initramfs=directory / "initramfs",
            shared=None,
            timer_log=Path(devnull),
            qmp_socket=qmp_socket,
            plugin=None,
            ports=ports,
        )
        _write_initramfs(task, nested, files.initramfs)
        command = argv(task.tools.qemu, task.cell.machine, files, task.cell.seed)
        walker = _Walker(task, ports, directory, most)
        power_on = time.monotonic()
        walker.start()
        try:
            died = _run(command, task, directory, qmp_socket, watch=walker.check)
        finally:
            walker.over.set()
            walker.join()
    return Walk(power_on, tuple(walker.stops), walker.wrong, died or walker.trouble)


def _run(
    command: list[str],
    task: CellTask,
    directory: Path,
    qmp_socket: Path,
    *,
    watch: Callable[[], None],
) -> str:
    """What L1's kernel died of, or nothing."""
    with suppress(InfrastructureError):
        ended = run_guest(
            command,
            directory,
            qmp_socket,
            memory_mib=task.cell.machine.memory_mib,
            budget_s=task.budget_s,
            cancel=threading.Event(),
            watch=watch,
        )
        return ended.death
    return "QEMU could not be started"


def _write_initramfs(task: CellTask, nested: Nested, target: Path) -> None:
    assert task.bundle is not None
    assert task.peer is not None
    assert task.payload is not None
    contents = {
        "init": task.peer.init.read_bytes(),
        "payload": task.payload.blob,
        "arguments": "\n".join(nested_argv(nested, "/payload")).encode(),
        "devices": "\n".join(devices(nested)).encode(),
        "wakeups": b"",
    }
    extend(task.bundle.archive, contents, target)


DRIVERS = {Driver.GDB: "gdb `stepi`", Driver.RSP: "raw RSP"}
"""As people call them."""
