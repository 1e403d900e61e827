"""What gdb's user is told, against what L2 executed: by hand, and against a reference model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qemu_diff.abi import TRUTH_RECORD, TruthKind, TruthRecords, VectorSlot
from qemu_diff.compare.decode import program_of
from qemu_diff.compare.session import SessionFinding, judge_session
from qemu_diff.drive.debugger import Position
from qemu_diff.drive.gdb import Breakpoint
from qemu_diff.drive.session import parsed
from qemu_diff.drive.session_run import Done, Halt
from qemu_diff.model import GuestInterrupts, Payload, ViolationKind

BASE = 0x5A5A_0000
NOP, HVC, RET = 0xD503201F, 0xD4000002, 0xD65F03C0
STEPPED, HIT, WATCH, CTRL_C = (
    "end-stepping-range", "breakpoint-hit", "watchpoint-trigger", "signal-received",
)  # fmt: skip

# 0 nop, 4 nop, 8 hvc, c nop, 10 bl 20, 14 nop, 18 nop, 1c nop; 20: nop, 24: ret
WORDS = [NOP, NOP, HVC, NOP, 0x94000004, NOP, NOP, NOP, NOP, RET]
VECTORS = BASE + 0x800


def payload(*extra: tuple[int, str]) -> Payload:
    words = WORDS + [NOP] * (0x400 - len(WORDS))
    labels = [(BASE, "entry"), (BASE + 8, "first_hvc"), (BASE + 0x20, "function")]
    return Payload(
        name="x",
        blob=b"".join(word.to_bytes(4, "little") for word in words),
        load_address=BASE,
        entry=BASE,
        begin=BASE,
        end=BASE + 0x20,
        labels=tuple(sorted([*labels, *extra])),
        classes=("branch-link", "hvc", "nop"),
        interrupts=GuestInterrupts(setup=BASE, handler=(BASE, BASE), vectors=VECTORS, counters=0),
    )


PROGRAM = program_of(payload())


@dataclass
class Told:
    """A session as it happened: truth and commands, written by hand.

    What a command executed is a list of offsets; "x" is an exit, (offset,) a phantom.
    """

    rows: list[tuple[int, int, int]] = field(default_factory=list)
    phantom: list[bool] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)

    def command(
        self,
        text: str,
        start: int,
        executed: Sequence[int | str | tuple[int]],
        position: int | None,
        *reasons: str,
        breakpoints: tuple[Breakpoint, ...] = (),
        due: int | None = None,
        at: Sequence[int | None] = (),
        vcpu: int = 0,
    ) -> Told:
        """Add a command; its stops were ``at``, or all at ``position``."""
        before = len(self.rows)
        for one in executed:
            if isinstance(one, str):
                self.rows.append((0, VectorSlot.SYNCHRONOUS, TruthKind.EXIT))
            else:
                offset = one[0] if isinstance(one, tuple) else one
                self.rows.append((BASE + offset, 0, TruthKind.INSTRUCTION))
            self.phantom.append(isinstance(one, tuple))
        places = at or [position] * len(reasons)
        self.done.append(
            Done(
                command=parsed(f"#! payload x\n{text}\n", Path("x.gdb")).commands[0],
                printed="",
                error="",
                breakpoints=breakpoints,
                due=None if due is None else BASE + due,
                halts=tuple(
                    Halt(None, reason, None) if pc is None else Halt(vcpu, reason, BASE + pc)
                    for reason, pc in zip(reasons, places, strict=True)
                ),
                vcpu=vcpu,
                start=Position(BASE + start, 0x3C5),
                position=None if position is None else Position(BASE + position, 0x3C5),
                truth=(before, len(self.rows)),
            )
        )
        return self

    @property
    def truth(self) -> TruthRecords:
        rows = [(pc, detail, kind, 0, 4, 0) for pc, detail, kind in self.rows]
        return np.array(rows, dtype=TRUTH_RECORD)

    @property
    def phantoms(self) -> NDArray[np.bool_]:
        return np.array(self.phantom, dtype=bool)

    def judged(
        self, *labels: tuple[int, str], writers: Sequence[tuple[str, int]] = ()
    ) -> tuple[SessionFinding, ...]:
        of = payload(*labels)
        return judge_session(self.done, self.truth, self.phantoms, PROGRAM, of, writers=writers)


def breakpoint_at(
    offset: int, kind: str = "breakpoint", *, conditional: bool = False
) -> Breakpoint:
    size = 8 if kind.endswith("watchpoint") else 0
    return Breakpoint(1, BASE + offset, size, kind, conditional)


B4, B8, BC = (breakpoint_at(offset) for offset in (4, 8, 12))
WATCHED = breakpoint_at(0x100, "hw watchpoint")

RIGHT = [
    Told().command("stepi", 0, [0, "x"], 4, STEPPED).command("stepi", 4, [4, "x"], 8, STEPPED),
    Told().command("stepi 3", 0, [0, "x", 4, "x", 8, "x", (12,), "x"], 12, STEPPED),
    # A fault: executed again.
    Told().command("stepi", 4, [4, "x", 4, "x"], 8, STEPPED),
    # A breakpoint ends it earlier; the BRK is seen.
    Told().command("stepi 3", 0, [0, "x", 4, "x"], 4, HIT, breakpoints=(B4,)),
    Told().command("continue", 0, [0, 4, "x"], 4, HIT, breakpoints=(B4,)),
    # On from a breakpoint.
    Told().command("continue", 8, [8, "x", (12,), "x", 12, "x"], 12, HIT, breakpoints=(B8, BC)),
    # A condition that is false: BRK, then the instruction itself.
    Told().command(
        "continue", 0, [0, 4, "x", 4, "x", 8, "x", 12, "x"], 12, HIT,
        breakpoints=(breakpoint_at(4, conditional=True), BC),
    ),
    Told().command("nexti", 0x10, [0x10, "x", 0x20, 0x24, 0x14, "x"], 0x14, STEPPED, due=0x14),
    Told().command("nexti", 0x10, [0x10, "x", 0x20, 0x24], 0x14, STEPPED),
    Told().command("finish", 0x20, [0x20, 0x24, 0x14, "x"], 0x14, "function-finished", due=0x14),
    Told().command("stepi", 4, [(0xA80,), "x"], 0xA80, STEPPED),
    Told().command("stepi 2", 4, [4, "x", (0xA80,), "x"], 0xA80, STEPPED),
    Told().command("continue", 0, [0, 4], 8, WATCH, breakpoints=(WATCHED,)),
    Told().command("continue", 0, [0, 4, 8, "x", 12], 16, CTRL_C),
    Told().command("info threads", 0, [], None),
    Told().command("until", 4, [4, "x"], 8, STEPPED),
    Told().command("advance *first_hvc", 0, [0, 4, 8, "x"], 8, "location-reached", due=8),
    Told().command("while 1\nstepi\nend", 0, [0, "x", 4, "x"], 8, STEPPED, STEPPED, at=(4, 8)),
    Told().command("continue", 0, [0, 4, "x", 4, "x"], 8, "", STEPPED, at=(None, 8),
                   breakpoints=(B4,)),
    Told().command("stepi", 0, [0, "x"], 4, STEPPED).command("stepi", 8, [8, "x"], 12, STEPPED),
]  # fmt: skip


@pytest.mark.parametrize("told", RIGHT)
def test_what_is_right(told: Told) -> None:
    assert told.judged(writers=[("entry", 4)]) == ()


LOST, SPURIOUS, WRONG = (
    ViolationKind.LOST_STEP, ViolationKind.SPURIOUS_STEP, ViolationKind.WRONG_PC,
)  # fmt: skip

WRONG_ONES = [
    (
        Told().command("stepi", 8, [8, "x", 12, "x"], 16, STEPPED),
        LOST, "stepi executed first_hvc+0x4 (0x5a5a000c) as well, without a stop there",
    ),
    (
        Told().command("stepi 3", 0, [0, "x", 4, "x", 8, "x", 12, "x"], 16, STEPPED),
        LOST, "stepi 3 executed 4 instructions, not 3",
    ),
    (
        Told().command("stepi 2", 0, [0, "x"], 4, STEPPED),
        SPURIOUS, "stepi 2 executed 1 instruction, not 2",
    ),
    (
        Told().command("continue", 8, [8, "x", 12, "x", 16, 0x20], 0x24, CTRL_C,
                       breakpoints=(B8, BC)),
        LOST, "continue ran over the breakpoint at first_hvc+0x4 (0x5a5a000c) without stopping",
    ),
    (
        Told().command("continue", 0, [0, 4], 8, CTRL_C, breakpoints=(WATCHED,)),
        LOST, "continue ran on after entry+0x4 (0x5a5a0004) had changed what is watched",
    ),
    (
        Told().command("continue", 0, [0, 4, 8, "x"], 12, WATCH, breakpoints=(WATCHED,)),
        LOST, "continue tells of a change only after first_hvc (0x5a5a0008), but entry+0x4 "
        "(0x5a5a0004) made it",
    ),
    (
        Told().command("finish", 0x20, [0x20, 0x24, 0x14], 0x18, CTRL_C, due=0x14),
        LOST, "finish ran over first_hvc+0xc (0x5a5a0014), where it had to stop",
    ),
    (
        Told().command("nexti", 0x10, [0x10, 0x20, 0x24, 0x14], 0x18, STEPPED),
        LOST, "nexti executed first_hvc+0xc (0x5a5a0014) as well, without a stop there",
    ),
    (
        Told().command("until", 8, [8, "x", 12, "x"], 16, STEPPED),
        LOST, "until executed first_hvc+0x4 (0x5a5a000c) as well, without a stop there",
    ),
    (
        Told().command("continue", 0, [0, 4, "x", 4, "x", 8, "x"], 12, "", STEPPED, at=(None, 12),
                       breakpoints=(B4,)),
        LOST, "continue executed first_hvc (0x5a5a0008) as well, without a stop there",
    ),
    (
        Told().command("while 1\nstepi\nend", 0, [0, "x", 4, 8], 12, STEPPED, STEPPED, at=(4, 12)),
        LOST, "while 1 executed 3 instructions, not 2",
    ),
    (
        Told().command("stepi", 0, [0, "x"], 8, STEPPED),
        WRONG, "stepi says that L2 stands at first_hvc (0x5a5a0008), which does not follow on "
        "entry (0x5a5a0000)",
    ),
    (
        Told().command("stepi", 0, [0, "x"], 4, STEPPED).command("stepi", 4, [8, "x"], 12, STEPPED),
        WRONG, "stepi says that L2 stands at entry+0x4 (0x5a5a0004), but it goes on at first_hvc "
        "(0x5a5a0008)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("told", "kind", "message"), WRONG_ONES)
def test_what_is_wrong(told: Told, kind: ViolationKind, message: str) -> None:
    (finding,) = told.judged(writers=[("entry", 4)])
    assert (finding.command, finding.kind, finding.message) == (0, kind, message)


def test_what_another_vcpu_executes_is_its_own() -> None:
    labels = [(BASE + 0x100, "vcpu1_begin"), (BASE + 0x200, "vcpu1_end")]
    told = Told().command("stepi", 0, [0x100, 0, 0x104, "x", 0x108], 4, STEPPED)
    assert told.judged(*labels) == ()
    told.command("stepi", 0x10C, [4, 0x10C, "x", 8], 0x110, STEPPED, vcpu=1)
    assert told.judged(*labels) == ()
    told.command("stepi", 0x110, [12, 0x110, 0x114, "x"], 0x118, STEPPED, vcpu=1)
    (finding,) = told.judged(*labels)
    assert (finding.command, finding.executed) == (2, (BASE + 0x110, BASE + 0x114))


# --- a reference model: a straight line of NOPs under a kernel that loses steps ------------------

MOST = 0x200 // 4
COMMANDS = st.lists(
    st.one_of(
        st.tuples(st.just("stepi"), st.integers(1, 5)),
        st.tuples(st.just("continue"), st.integers(1, 1)),
    ),
    min_size=1,
    max_size=8,
)


def simulate(
    commands: list[tuple[str, int]], breakpoints: set[int], loses: set[int], *, masked: bool
) -> tuple[Told, list[int]]:
    """A session on addresses from 0x200 on, and the commands that lied.

    :param breakpoints: numbers of instructions.
    :param loses: instructions whose step is lost: the next one is executed as well.
    :param masked: whether a breakpoint behind such an instruction stops L2 nevertheless.
    """
    told, lied, now = Told(), [], 0
    inserted = tuple(breakpoint_at(0x200 + 4 * one, "hw breakpoint") for one in breakpoints)
    for index, (name, count) in enumerate(commands):
        rows: list[int | str | tuple[int]] = []
        begun, reason, stepped, lie = now, STEPPED, 0, False
        while True:
            # stepi, and the first of continue where a breakpoint is: a single step.
            single = name == "stepi" or now == begun
            rows += [0x200 + 4 * now, *(["x"] if single else [])]
            lost = single and now in loses
            now += 1
            if lost and not (masked and now in breakpoints):
                rows += [0x200 + 4 * now, "x"]
                lie |= name == "stepi" or now in breakpoints
                now += 1
            stepped += 1
            if now in breakpoints or now >= MOST:
                reason = HIT if now in breakpoints else CTRL_C
                break
            if name == "stepi" and stepped == count:
                break
        typed = f"stepi {count}" if name == "stepi" else name
        told.command(typed, 0x200 + 4 * begun, rows, 0x200 + 4 * now, reason, breakpoints=inserted)
        # A breakpoint or Ctrl-C where stepi had to end anyhow, or earlier, says nothing of how many
        # stops came before: gdb's user sees the last alone, and what was executed was asked for.
        as_asked = name == "stepi" and reason is not STEPPED and now - begun <= count
        if lie and not (as_asked and breakpoints.isdisjoint(range(begun + 1, now))):
            lied.append(index)
        if now >= MOST:
            break
    return told, lied


@settings(deadline=None)
@given(
    COMMANDS,
    st.sets(st.integers(1, MOST - 1), max_size=4),
    st.sets(st.integers(0, MOST), max_size=12),
    st.booleans(),
)
@example([("stepi", 3)], {2}, {0}, False)
@example([("continue", 1), ("stepi", 4)], {124}, {124}, False)
def test_every_lie_is_found_and_nothing_else(
    commands: list[tuple[str, int]], breakpoints: set[int], loses: set[int], masked: bool
) -> None:
    told, lied = simulate(commands, breakpoints, loses, masked=masked)
    assert [one.command for one in told.judged()] == lied


@settings(deadline=None)
@given(COMMANDS, st.sets(st.integers(1, MOST - 1), max_size=4))
def test_a_kernel_that_loses_nothing_is_never_blamed(
    commands: list[tuple[str, int]], breakpoints: set[int]
) -> None:
    told, lied = simulate(commands, breakpoints, set(), masked=False)
    assert (told.judged(), lied) == ((), [])
