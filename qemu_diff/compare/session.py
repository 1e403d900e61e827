"""What a user of gdb was told, held against what L2 executed.

The truth is cut at the commands: what lies between its counts before and after a command is what
that command let L2 execute. Repeats across a synchronous exit count once, as
:mod:`qemu_diff.compare.contract` has it. Of each command:

- ``stepi N`` executes N instructions, ``nexti N`` likewise, a called function counting as one,
  unless a breakpoint, a watchpoint or Ctrl-C ends it earlier. A step that takes an interrupt may
  execute none: L2 then stands at its vector.
- Whatever lets L2 run executes no instruction that a breakpoint is at, but the first, from which it
  goes on, without a stop being reported there.
- After an instruction that changes what is watched, a stop is reported.
- ``finish``, ``until`` and ``advance`` stop at their place when it is come to first.
- L2 goes on where gdb says that it stands, and came there from the instruction before.

A software breakpoint is a BRK in L2's memory (QEMU target/arm/kvm64.c,
``kvm_arch_insert_sw_breakpoint()``): the truth has it at the breakpoint's address, and it does not
retire. Where gdb goes on from there, the instruction itself follows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qemu_diff.abi import TruthKind, TruthRecords
from qemu_diff.compare.decode import Program
from qemu_diff.compare.slices import Slices, executed_in, executions
from qemu_diff.drive.session import CommandKind
from qemu_diff.drive.session_run import Done
from qemu_diff.model import Payload, ViolationKind

STEPPED = "end-stepping-range"
_OVER = (CommandKind.NEXTI, CommandKind.STEP, CommandKind.NEXT, CommandKind.UNTIL)
"""They step over functions: into one, and on to where it returns to."""

_WATCH_REASONS = ("watchpoint-trigger", "access-watchpoint-trigger", "watchpoint-scope")
_WATCH_KINDS = ("watchpoint", "hw watchpoint", "acc watchpoint")


@dataclass(frozen=True)
class SessionFinding:
    """A command after which gdb's user was told what is not so.

    :param command: index into the session's.
    :param message: one sentence, as the user would say it.
    :param executed: PCs that the selected vCPU executed, in order.
    :param legal: where it should stand then; empty where that can't be told.
    """

    command: int
    kind: ViolationKind
    message: str
    executed: tuple[int, ...]
    legal: tuple[int, ...] = ()


def judge_session(
    done: Sequence[Done],
    truth: TruthRecords,
    phantom: NDArray[np.bool_],
    program: Program,
    payload: Payload,
    *,
    writers: Sequence[tuple[str, int]] = (),
) -> tuple[SessionFinding, ...]:
    """Every command that broke its promise, in order; of each the first that is broken.

    :param truth: shape (t,), dtype ``TRUTH_RECORD``.
    :param phantom: shape (t,): truth records of instructions that did not execute.
    :param payload: its labels ``vcpuN_begin`` and ``vcpuN_end`` bound what vCPU N executes; all
        else is vCPU 0's.
    :param writers: instructions that change what is watched, as (label, offset).
    """
    places = _Places(payload)
    written = frozenset(places.address(*one) for one in writers)
    commands = [
        _Judge(index, one, _path(one, truth, phantom, program, places), program, places, written)
        for index, one in enumerate(done)
    ]
    found = [next(command.findings(), None) for command in commands]
    _check_going_on(commands, found)
    return tuple(one for one in found if one is not None)


class _Places:
    """Addresses of a payload by name, and the other way round."""

    def __init__(self, payload: Payload) -> None:
        self._labels = payload.labels
        self._addresses = {label: address for address, label in payload.labels}

    def address(self, label: str, offset: int) -> int:
        """An address that no payload has, if there is no such label."""
        return self._addresses.get(label, -1 - offset) + offset

    def of_vcpu(self, pc: NDArray[np.int64], vcpu: int) -> NDArray[np.bool_]:
        """Which PCs are a vCPU's."""
        others = [n for n in range(1, 1 + len(self._labels)) if f"vcpu{n}_begin" in self._addresses]
        if vcpu:
            return self._between(pc, vcpu) if vcpu in others else np.ones(len(pc), dtype=bool)
        mine = np.ones(len(pc), dtype=bool)
        for other in others:
            mine &= ~self._between(pc, other)
        return mine

    def _between(self, pc: NDArray[np.int64], vcpu: int) -> NDArray[np.bool_]:
        begin = self._addresses[f"vcpu{vcpu}_begin"]
        end = self._addresses.get(f"vcpu{vcpu}_end", begin)
        return np.asarray((pc >= begin) & (pc < end))

    def name(self, pc: int) -> str:
        """``second_hvc+0x4 (0x5a5a0020)``."""
        before = [(address, label) for address, label in self._labels if address <= pc]
        if not before:
            return f"{pc:#x}"
        address, label = before[-1]
        offset = f"+{pc - address:#x}" if pc != address else ""
        return f"{label}{offset} ({pc:#x})"


@dataclass(frozen=True)
class _Path:
    """What one command let the selected vCPU execute.

    :param executed: PCs, repeats collapsed, without BRKs that stand for breakpoints.
    :param begins: the first PC that is seen at all, a phantom included; None where there is none.
    """

    executed: tuple[int, ...]
    begins: int | None


def _path(
    done: Done,
    truth: TruthRecords,
    phantom: NDArray[np.bool_],
    program: Program,
    places: _Places,
) -> _Path:
    rows, off = truth[slice(*done.truth)], phantom[slice(*done.truth)]
    pc = rows["pc"].astype(np.int64)
    shown = (rows["kind"] == TruthKind.INSTRUCTION) & places.of_vcpu(pc, done.vcpu)
    keep = shown | (rows["kind"] == TruthKind.EXIT) | (rows["kind"] == TruthKind.REDIRECT)
    rows, off, first = rows[keep], off[keep], pc[shown][:1]
    whole = Slices(np.array([len(rows)]), np.zeros(1, dtype=np.int64), np.zeros(1, dtype=bool))
    executed = executed_in(executions(rows, off, whole, program), 0)
    calls = program.is_of(np.array(executed, dtype=np.int64), "branch-link")
    returns = {pc + 4 for pc, is_call in zip(executed, calls, strict=True) if is_call}
    return _Path(_without_brk(executed, done, returns), int(first[0]) if len(first) else None)


def _without_brk(executed: tuple[int, ...], done: Done, returns: set[int]) -> tuple[int, ...]:
    """Without the BRKs that gdb has put in the place of instructions: for breakpoints, for the
    place where a command has to stop, and where a function that it steps over returns to."""
    put = {one.address for one in done.breakpoints if one.kind == "breakpoint"}
    put |= returns if done.command.kind in _OVER else set()
    put |= set() if done.due is None else {done.due}
    stands = {one.pc for one in done.halts}
    kept: list[int] = []
    for index, pc in enumerate(executed):
        following = executed[index + 1] if index + 1 < len(executed) else None
        goes_on_from_it = index == 0 and pc == done.start.pc
        is_brk = (
            pc in put
            and not goes_on_from_it
            and (following == pc or (following is None and pc in stands))
        )
        if not is_brk:
            kept.append(pc)
    return tuple(kept)


@dataclass(frozen=True)
class _Judge:
    """One command against what it let L2 execute."""

    index: int
    done: Done
    path: _Path
    program: Program
    places: _Places
    written: frozenset[int]

    def findings(self) -> Iterator[SessionFinding]:
        """What is wrong with it, the plainest first."""
        if self.done.position is None:
            return
        yield from self._passed_breakpoints()
        yield from self._passed_watchpoints()
        yield from self._passed_place()
        yield from self._steps()
        yield from self._arrival()

    def _finding(
        self, kind: ViolationKind, what: str, legal: tuple[int, ...] = ()
    ) -> SessionFinding:
        said = f"{self.done.command.first_line} {what}"
        return SessionFinding(self.index, kind, said, self.path.executed, legal)

    def _passed_breakpoints(self) -> Iterator[SessionFinding]:
        stood = Counter(one.pc for one in self.done.halts[:-1])
        # A silent stop says not where it was.
        silent = sum(one.pc is None for one in self.done.halts)
        executed = Counter(self.path.executed)
        if self.path.executed[:1] == (self.done.start.pc,):
            executed[self.done.start.pc] -= 1
        for one in self.done.breakpoints:
            passed = executed[one.address] - stood[one.address] - silent
            if not one.watches and not one.conditional and passed > 0:
                where = self.places.name(one.address)
                yield self._finding(
                    ViolationKind.LOST_STEP,
                    f"ran over the breakpoint at {where} without stopping", (one.address,),
                )  # fmt: skip

    def _passed_watchpoints(self) -> Iterator[SessionFinding]:
        watches = any(
            one.kind in _WATCH_KINDS and not one.conditional for one in self.done.breakpoints
        )
        writes = [pc for pc in self.path.executed if pc in self.written]
        stops = sum(one.reason in _WATCH_REASONS for one in self.done.halts)
        if watches and len(writes) > stops:
            where = self.places.name(writes[stops])
            yield self._finding(
                ViolationKind.LOST_STEP, f"ran on after {where} had changed what is watched",
                self.program.successors(writes[stops]),
            )  # fmt: skip
        elif watches and writes and stops and self.path.executed[-1] != writes[-1]:
            late, changed = self.places.name(self.path.executed[-1]), self.places.name(writes[-1])
            yield self._finding(
                ViolationKind.LOST_STEP,
                f"tells of a change only after {late}, but {changed} made it",
                self.program.successors(writes[-1]),
            )  # fmt: skip

    def _passed_place(self) -> Iterator[SessionFinding]:
        due, executed = self.done.due, self.path.executed
        if due is None:
            return
        passed = executed[1:] if executed[:1] == (self.done.start.pc,) else executed
        if due in passed:
            where = self.places.name(due)
            yield self._finding(
                ViolationKind.LOST_STEP, f"ran over {where}, where it had to stop", (due,)
            )

    def _steps(self) -> Iterator[SessionFinding]:
        count = self._count()
        if count is None:
            return
        over = self.done.command.kind is CommandKind.NEXTI
        units = _units(self._stepped(), self.program, over)
        if len(units) > count == 1:
            also = self.places.name(units[1])
            yield self._finding(
                ViolationKind.LOST_STEP,
                f"executed {also} as well, without a stop there",
                units[1:2],
            )
        elif len(units) > count:
            yield self._finding(
                ViolationKind.LOST_STEP, f"executed {_instructions(len(units))}, not {count}"
            )
        elif len(units) + self._interrupts() < count and not self._ended_early():
            yield self._finding(
                ViolationKind.SPURIOUS_STEP, f"executed {_instructions(len(units))}, not {count}"
            )

    def _count(self) -> int | None:
        """So many instructions were to be executed; None where that is not said."""
        command, halts = self.done.command, self.done.halts
        if command.kind is CommandKind.STEPI and command.count is None:
            return sum(one.reason == STEPPED for one in halts)
        if self._steps_in_commands():
            return len(halts) - 1
        if command.kind in (CommandKind.STEPI, CommandKind.NEXTI) and len(halts) == 1:
            return command.count
        if command.kind is CommandKind.UNTIL and not command.location and self._is_plain():
            return 1
        return None

    def _stepped(self) -> tuple[int, ...]:
        """What was executed in steps: all, or where a breakpoint's commands step, what came after
        L2 had got there."""
        executed = self.path.executed
        if not self._steps_in_commands():
            return executed
        places = {one.address for one in self.done.breakpoints if not one.watches}
        begin = int(executed[:1] == (self.done.start.pc,))
        there = (index for index, pc in enumerate(executed) if index >= begin and pc in places)
        return executed[next(there, len(executed)) :]

    def _steps_in_commands(self) -> bool:
        """Whether a breakpoint's commands have stepped after ``continue``."""
        reasons = [one.reason for one in self.done.halts]
        return (
            self.done.command.kind is CommandKind.CONTINUE
            and len(reasons) > 1
            and reasons[0] != STEPPED
            and all(one == STEPPED for one in reasons[1:])
        )

    def _is_plain(self) -> bool:
        """Whether ``until`` can only go to the next instruction."""
        start = self.done.start.pc
        return self.program.successors(start) == (start + 4,)

    def _interrupts(self) -> int:
        """Interrupts that L2 took: a step may end at the vector, and execute nothing."""
        assert self.done.position is not None
        seen = (*self.path.executed, self.done.position.pc)
        return int(np.sum(self.program.is_irq_vector(np.array(seen, dtype=np.int64))))

    def _ended_early(self) -> bool:
        return self.done.halts[-1:] != () and self.done.halts[-1].reason != STEPPED

    def _arrival(self) -> Iterator[SessionFinding]:
        """gdb says that L2 stands where the last instruction leads to."""
        assert self.done.position is not None
        pc, executed = self.done.position.pc, self.path.executed
        # `set $pc` in a script or in a breakpoint's commands, or another vCPU that stopped.
        stopped = [one.pc for one in self.done.halts if one.vcpu == self.done.vcpu]
        if not executed or stopped[-1:] != [pc] or "\n" in self.done.command.text:
            return
        legal = self.program.successors(executed[-1])
        at_vector = bool(self.program.is_irq_vector(np.array([pc], dtype=np.int64))[0])
        if legal and pc not in legal and not at_vector and not self._by_register(executed[-1]):
            yield self._finding(
                ViolationKind.WRONG_PC,
                f"says that L2 stands at {self.places.name(pc)}, which does not follow on "
                f"{self.places.name(executed[-1])}", legal,
            )  # fmt: skip

    def _by_register(self, pc: int) -> bool:
        index = (pc - self.program.load_address) // 4
        return bool(self.program.by_register[index])


def _units(executed: tuple[int, ...], program: Program, over: bool) -> tuple[int, ...]:
    """The instructions that count: all, or those outside of the functions that are called."""
    if not over:
        return executed
    found: list[int] = []
    returns: int | None = None
    calls = program.is_of(np.array(executed, dtype=np.int64), "branch-link")
    for pc, is_call in zip(executed, calls, strict=True):
        if returns is not None and pc != returns:
            continue
        returns = pc + 4 if is_call else None
        found.append(pc)
    return tuple(found)


def _instructions(number: int) -> str:
    return f"{number} instruction" + ("s" if number != 1 else "")


def _check_going_on(commands: list[_Judge], found: list[SessionFinding | None]) -> None:
    """L2 goes on where gdb said that it stands; the command that said it is to blame."""
    said: dict[int, _Judge] = {}
    for judge in commands:
        begins, start = judge.path.begins, judge.done.start.pc
        before = said.get(judge.done.vcpu)
        if begins is not None and begins != start and before is not None:
            at_vector = bool(judge.program.is_irq_vector(np.array([begins], dtype=np.int64))[0])
            told = before.done.position is not None and before.done.position.pc == start
            if told and not at_vector and found[before.index] is None:
                found[before.index] = SessionFinding(
                    before.index,
                    ViolationKind.WRONG_PC,
                    f"{before.done.command.first_line} says that L2 stands at "
                    f"{judge.places.name(start)}, but it goes on at {judge.places.name(begins)}",
                    before.path.executed,
                    (begins,),
                )
        if judge.done.position is not None:
            said[judge.done.vcpu] = judge
