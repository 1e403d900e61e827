"""A cell in which gdb's user types commands; its boots are written by hand."""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from qemu_diff.abi import (
    TRUTH_ABI_VERSION,
    TRUTH_HEADER,
    TRUTH_HEADER_BYTES,
    TRUTH_MAGIC,
    TRUTH_RECORD,
    SharedState,
    StepState,
    TruthKind,
    VectorSlot,
)
from qemu_diff.campaign.cell import ATTEMPTS
from qemu_diff.campaign.session_cell import EXECUTED_SHOWN, SessionContext, run_session_cell
from qemu_diff.drive.debugger import Position
from qemu_diff.drive.from_outside import FromOutside
from qemu_diff.drive.in_guest import TRUTH, Boot
from qemu_diff.drive.session import Command, CommandKind, Session
from qemu_diff.drive.session_run import Done, Halt
from qemu_diff.drive.stepper import Errand
from qemu_diff.errors import LostGuestError
from qemu_diff.events import Stage
from qemu_diff.guest.process import Cancelled, Ending, GuestExit
from qemu_diff.guest.shared import SharedHeader
from qemu_diff.model import (
    Build,
    Cell,
    CellResult,
    CellVerdict,
    Driver,
    FloodSpec,
    Instruction,
    MachineSpec,
    Payload,
    ViolationKind,
)
from qemu_diff.truth.phantom import PhantomRule

BASE, PSTATE = 0x5A5A_0000, 0x3C5
NOP, HVC = 0xD503201F, 0xD4000002
WORDS = [NOP, HVC, *[NOP] * 30]
PAYLOAD = Payload(
    name="x",
    blob=b"".join(word.to_bytes(4, "little") for word in WORDS),
    load_address=BASE,
    entry=BASE,
    begin=BASE,
    end=BASE + 0x70,
    labels=((BASE, "entry"), (BASE + 4, "first_hvc")),
    classes=("hvc", "nop"),
)
CELL = Cell(
    id="k.x.session-s",
    kernel="k",
    payload="x",
    machine=MachineSpec(),
    flood=FloodSpec(),
    driver=Driver.GDB,
    seed=7,
    session="s",
)
PANIC = "Kernel panic - not syncing: Oops"


@dataclass
class Typed:
    """A session as it happened: each command runs from where the one before stopped."""

    rows: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    at: int = 0

    def stepi(self, executed: list[int], stop: int, text: str = "stepi", count: int = 1) -> Typed:
        """:param executed: offsets, as ``stop``."""
        before = len(self.rows)
        for offset in executed:
            step = (BASE + offset, 0, TruthKind.INSTRUCTION, 0, 4, StepState.ACTIVE_NOT_PENDING)
            self.rows += [step, (0, VectorSlot.SYNCHRONOUS, TruthKind.EXIT, 0, 0, 0)]
        halt = Halt(0, "end-stepping-range", BASE + stop)
        printed = f"0x{BASE + stop:016x} in entry ()\n"
        command = Command(text, CommandKind.STEPI, count)
        self._add(command, printed, (halt,), stop, before)
        self.at = stop
        return self

    def prints(self, text: str, printed: str) -> Typed:
        """A command that lets nothing run."""
        self._add(Command(text, CommandKind.OTHER), printed, (), None, len(self.rows))
        return self

    def _add(
        self, command: Command, printed: str, halts: tuple[Halt, ...], stop: int | None, before: int
    ) -> None:
        start = Position(BASE + self.at, PSTATE)
        position = None if stop is None else Position(BASE + stop, PSTATE)
        truth = (before, len(self.rows))
        self.done.append(Done(command, printed, "", (), None, halts, 0, start, position, truth))

    def sealed(self) -> bytes:
        """The plugin's file."""
        records = np.array(self.rows, TRUTH_RECORD)
        header = np.zeros(1, TRUTH_HEADER)
        header["magic"], header["version"] = TRUTH_MAGIC, TRUTH_ABI_VERSION
        header["record_bytes"], header["sealed"] = TRUTH_RECORD.itemsize, 1
        header["count"], header["crc32"] = len(records), zlib.crc32(records.tobytes())
        return header.tobytes().ljust(TRUTH_HEADER_BYTES, b"\0") + records.tobytes()


RIGHT = Typed().stepi([0], 4).stepi([4], 8)
BROKEN = (
    Typed()
    .prints("info line", "No line number information available.\n")
    .stepi([0], 4)
    .prints("x/i $pc", "=> 0x5a5a0004 <first_hvc>:\thvc\t#0x0\n")
    .stepi([4, 8], 12)
    .stepi([12], 16)
)


def boot_of(typed: Typed | None, **changes: Any) -> Boot:
    ended = GuestExit(Ending.EXITED, 0, "", (), "", "Booting Linux", 1.0)
    header = SharedHeader(SharedState.DONE, 0, 0, 0, 0, 10**9, "")
    commands = tuple(typed.done) if typed else ()
    return replace(Boot(Path(), ended, header, 0.0, commands=commands), **changes)


GONE = boot_of(None, debugger="gdb went away, after 7 stops")
"""A boot of which nothing can be judged."""


Booted = tuple[Typed | None, Boot]


@dataclass
class Steppers:
    """Boots, one after the other; an exception is raised."""

    boots: list[Booted | BaseException]
    errands: list[Errand] = field(default_factory=list)
    tools: Any = field(
        default_factory=lambda: SimpleNamespace(plugin=SimpleNamespace(rule=PhantomRule.INSN_SIZE))
    )

    def boot(self, errand: Errand) -> Boot:
        self.errands.append(errand)
        one = self.boots.pop(0)
        if isinstance(one, BaseException):
            raise one
        typed, boot = one
        errand.directory.mkdir(parents=True)
        if typed is not None:
            (errand.directory / TRUTH).write_bytes(typed.sealed())
        return replace(boot, directory=errand.directory)


def _booted(one: Typed | Boot | Booted | BaseException) -> Booted | BaseException:
    if isinstance(one, Typed):
        return one, boot_of(one)
    return (None, one) if isinstance(one, Boot) else one


def run(
    directory: Path, *boots: Typed | Boot | Booted | BaseException
) -> tuple[CellResult, Steppers]:
    stepper = Steppers([_booted(one) for one in boots])
    commands = next((one.done for one in boots if isinstance(one, Typed)), [])
    context = SessionContext(
        build=Build("k", "key", directory, None, None, None, "6.1", cached=True, duration_s=0.0),
        payload=PAYLOAD,
        session=Session(Path("s.gdb"), "x", 1, False, (), tuple(one.command for one in commands)),
        stepper=cast("FromOutside", stepper),
        directory=directory / "cell",
        budget_s=60.0,
        cancel=threading.Event(),
    )
    return run_session_cell(CELL, context, Stage("cell", CELL.id)), stepper


# --- what is judged ------------------------------------------------------------------------------


def test_a_session_whose_user_was_told_the_truth_passes(tmp_path: Path) -> None:
    result, stepper = run(tmp_path, RIGHT)
    assert (result.verdict, result.steps, result.attempts) == (CellVerdict.PASS, 2, 1)
    assert (result.findings, result.violations, result.reason) == ((), (), "")
    (errand,) = stepper.errands
    assert errand.directory == tmp_path / "cell" / "session-1"
    assert errand.session is not None
    assert (errand.job.operations, errand.seed, errand.budget_s) == ((), 7, 60.0)


def test_only_commands_that_ran_l2_are_steps(tmp_path: Path) -> None:
    result, _ = run(tmp_path, Typed().prints("x/i $pc", "…").stepi([0], 4).prints("p 1", "$1 = 1"))
    assert result.steps == 1


def test_a_broken_promise_is_a_finding(tmp_path: Path) -> None:
    result, _ = run(tmp_path, BROKEN)
    assert result.verdict is CellVerdict.FAIL
    assert result.steps == 3
    assert result.violations == ((ViolationKind.LOST_STEP, 1),)
    (finding,) = result.findings
    assert result.reason == finding.message
    assert finding.message.startswith("stepi ")
    assert (finding.kind, finding.boot, finding.report) == (ViolationKind.LOST_STEP, "session-1", 3)
    hvc = Instruction(BASE + 4, "first_hvc", "hvc #0")
    behind = Instruction(BASE + 8, "first_hvc+0x4", "nop")
    assert finding.previous_pc == finding.executed[0] == finding.instruction == hvc
    assert finding.executed == (hvc, behind)
    assert finding.reported_pc == Instruction(BASE + 12, "first_hvc+0x8", "nop")
    assert finding.legal_pcs == finding.missed == (behind,)
    assert finding.attributed_to == "stepi"
    assert (finding.pass_number, finding.requested_ns, finding.delivered_ns) == (0, None, None)


def test_the_transcript_is_the_command_and_the_two_before(tmp_path: Path) -> None:
    result, _ = run(tmp_path, BROKEN)
    assert result.findings[0].transcript == (
        "(gdb) stepi",
        "0x000000005a5a0004 in entry ()",
        "(gdb) x/i $pc",
        "=> 0x5a5a0004 <first_hvc>:\thvc\t#0x0",
        "(gdb) stepi",
        "0x000000005a5a000c in entry ()",
    )


def test_the_first_command_has_none_before_it(tmp_path: Path) -> None:
    result, _ = run(tmp_path, Typed().stepi([0, 4], 8))
    assert result.findings[0].transcript == ("(gdb) stepi", "0x000000005a5a0008 in entry ()")


def test_a_command_that_printed_nothing_is_one_line(tmp_path: Path) -> None:
    result, _ = run(tmp_path, Typed().prints("set $x = 1", "").stepi([0, 4], 8))
    assert result.findings[0].transcript[0] == "(gdb) set $x = 1"
    assert result.findings[0].transcript[1] == "(gdb) stepi"


def test_a_block_is_shown_whole_and_attributed_to_its_first_line(tmp_path: Path) -> None:
    block = "while $pc != end\nstepi\nend"
    result, _ = run(tmp_path, Typed().stepi([0, 4, 8], 8, block, 1))
    (finding,) = result.findings
    assert finding.attributed_to == "while $pc != end"
    assert finding.transcript[:3] == ("(gdb) while $pc != end", "stepi", "end")


def test_of_what_was_executed_the_begin_is_shown(tmp_path: Path) -> None:
    ran = [4 * number for number in range(21)]
    result, _ = run(tmp_path, Typed().stepi(ran, 84, "stepi 3", 3))
    (finding,) = result.findings
    assert [one.address - BASE for one in finding.executed] == ran[:EXECUTED_SHOWN]
    assert EXECUTED_SHOWN == 8


def test_each_broken_command_is_told(tmp_path: Path) -> None:
    result, _ = run(tmp_path, Typed().stepi([0, 4], 8).stepi([8], 12).stepi([12], 12))
    assert [one.report for one in result.findings] == [0, 2]
    assert [kind for kind, _ in result.violations] == sorted(
        (one.kind for one in result.findings), key=list(ViolationKind).index
    )
    assert result.reason == "; ".join(one.message for one in result.findings)


def test_what_l1_warned_of_is_kept(tmp_path: Path) -> None:
    boot = boot_of(RIGHT)
    warned = replace(boot, exit=replace(boot.exit, warnings=("WARNING: a", "WARNING: a", "b")))
    for number, lost in enumerate([(), (replace(GONE, exit=warned.exit),)]):
        result, _ = run(tmp_path / str(number), *lost, (RIGHT, warned))
        assert result.warnings == ("WARNING: a", "b")


# --- what is lost --------------------------------------------------------------------------------


def test_a_lost_boot_is_tried_once_more(tmp_path: Path) -> None:
    result, stepper = run(tmp_path, GONE, RIGHT)
    assert (result.verdict, result.attempts) == (CellVerdict.PASS, 2)
    names = [errand.directory.name for errand in stepper.errands]
    assert names == ["session-1", "session-2"]


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (GONE, "gdb went away, after 7 stops"),
        (LostGuestError("QEMU could not be started"), "QEMU could not be started"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_a_boot_that_is_lost_again_is_believed(
    tmp_path: Path, lost: Boot | Exception, reason: str
) -> None:
    result, stepper = run(tmp_path, *[lost] * ATTEMPTS)
    assert (result.verdict, result.reason) == (CellVerdict.LOST, reason)
    assert result.attempts == len(stepper.errands) == ATTEMPTS == 2
    assert (result.steps, result.findings) == (0, ())


def test_a_truth_that_is_not_there_is_lost(tmp_path: Path) -> None:
    untold = boot_of(RIGHT)
    result, _ = run(tmp_path, untold, untold)
    assert result.verdict is CellVerdict.LOST
    assert TRUTH in result.reason
    assert "\n" not in result.reason


def test_a_kernel_that_dies_is_believed_at_once(tmp_path: Path) -> None:
    died = replace(GONE, exit=replace(GONE.exit, death=PANIC))
    result, stepper = run(tmp_path, died)
    assert (result.verdict, result.reason) == (CellVerdict.KERNEL_OOPS, PANIC)
    assert len(stepper.errands) == 1


def test_a_violation_is_not_tried_again(tmp_path: Path) -> None:
    result, stepper = run(tmp_path, BROKEN)
    assert (result.verdict, len(stepper.errands)) == (CellVerdict.FAIL, 1)


def test_calling_off_ends_it(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        run(tmp_path, Cancelled("called off"), RIGHT)
