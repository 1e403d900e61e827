"""A session is done: each command typed, and what came of it kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu_diff.drive.debugger import Position
from qemu_diff.drive.gdb import Answer, Breakpoint, GdbDebugger, reason_of
from qemu_diff.drive.session import Command, CommandKind, Session
from qemu_diff.errors import DebuggerError
from qemu_diff.scratch import scratch_directory

PATIENCE_S = 20.0
"""Wall-clock seconds after which a user who waits for a stop presses Ctrl-C."""

RUNAWAY_RECORDS = 20_000
"""Records of the truth for one command: L2 has got past every stop and is in a loop, which would
fill the truth file in a second."""


@dataclass(frozen=True)
class Halt:
    """A stop that gdb told of while a command was done.

    :param vcpu: None, as ``pc``, for a stop that a breakpoint's ``silent`` keeps to itself.
    :param reason: gdb's (GDB manual, "GDB/MI Async Records"); empty where it gives none.
    """

    vcpu: int | None
    reason: str
    pc: int | None


@dataclass(frozen=True)
class Done:
    """A command, and what came of it.

    :param printed: what gdb's command line showed.
    :param error: gdb's complaint, or nothing.
    :param breakpoints: the user's that were enabled while it ran.
    :param due: where it has to stop: the return address for ``finish``, the location for ``until``
        and ``advance``; else None.
    :param halts: the stops, in order; more than one where a script, or a breakpoint's commands,
        let L2 run again.
    :param vcpu: the selected one before it.
    :param start: where that stood.
    :param position: where the selected one stands after it; None if L2 did not run.
    :param truth: records of the truth before it, and after it.
    """

    command: Command
    printed: str
    error: str
    breakpoints: tuple[Breakpoint, ...]
    due: int | None
    halts: tuple[Halt, ...]
    vcpu: int
    start: Position
    position: Position | None
    truth: tuple[int, int]


@dataclass(frozen=True)
class Beside:
    """What a session needs beside gdb.

    :param socket: where gdb connects to again.
    :param truth_count: so many records the truth holds now.
    :param monitor: does a command of QEMU's monitor.
    """

    socket: Path
    truth_count: Callable[[], int]
    monitor: Callable[[str], object]


def run_session(session: Session, gdb: GdbDebugger, beside: Beside) -> tuple[Done, ...]:
    """Do all commands of a session; L2 stands at its entry, and gdb is connected.

    :raises DebuggerError: gdb, or L2's QEMU, is gone, or talks nonsense. What gdb refuses is no
        error: the user sees the refusal, and goes on.
    """
    with scratch_directory() as scratch:
        runner = _Runner(gdb, beside, Path(scratch) / "block.gdb")
        return tuple(runner.run(command) for command in session.commands)


class _Runner:
    def __init__(self, gdb: GdbDebugger, beside: Beside, block: Path) -> None:
        self._gdb = gdb
        self._beside = beside
        self._block = block

    def run(self, command: Command) -> Done:
        vcpu, start = self._gdb.selected()
        breakpoints, due = self._gdb.breakpoints(), self._due(command)
        before = self._beside.truth_count()
        answer = self._do(command)
        after = self._beside.truth_count()
        ran = answer is not None and (bool(answer.stops) or after != before)
        return Done(
            command=command,
            printed=answer.printed if answer else "",
            error=answer.error if answer else "",
            breakpoints=breakpoints,
            due=due,
            halts=tuple(self._halt(stop) for stop in answer.stops) if answer else (),
            vcpu=vcpu,
            start=start,
            position=answer.position if answer and ran else None,
            truth=(before, after),
        )

    def _do(self, command: Command) -> Answer | None:
        if command.kind is CommandKind.RECONNECT:
            self._gdb.leave()
            self._gdb.connect(self._beside.socket)
            return None
        if command.kind is CommandKind.MONITOR:
            self._beside.monitor(command.text)
            return None
        if "\n" in command.text:
            self._block.write_text(command.text + "\n")
            return self._gdb.console(
                f"source {self._block}", self._enough(command), shown=command.text
            )
        return self._gdb.console(command.text, self._enough(command))

    def _enough(self, command: Command) -> Callable[[], bool]:
        """When Ctrl-C is due: as the session says, and where L2 has run away."""
        begun, before = time.monotonic(), self._beside.truth_count()
        after = PATIENCE_S if command.interrupt_after is None else command.interrupt_after

        def enough() -> bool:
            executed = self._beside.truth_count() - before
            return time.monotonic() - begun >= after or executed >= RUNAWAY_RECORDS

        return enough

    def _due(self, command: Command) -> int | None:
        if command.kind is CommandKind.FINISH:
            return self._gdb.return_address()
        if command.location:
            try:
                return self._gdb.evaluate(command.location)
            except DebuggerError:
                return None  # gdb is about to tell the user, too
        return None

    def _halt(self, stop: Mapping[str, Any]) -> Halt:
        if "frame" not in stop:
            return Halt(None, reason_of(stop), None)
        try:
            pc = int(str(stop["frame"]["addr"]), 16)
        except (KeyError, ValueError, TypeError):
            raise DebuggerError(f"gdb says not where L2 stopped: {stop}") from None
        vcpu = self._gdb.vcpu_of_thread(str(stop.get("thread-id", "")))
        return Halt(vcpu, reason_of(stop), pc)
