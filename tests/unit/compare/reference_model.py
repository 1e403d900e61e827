"""The step contract, slow and obvious: one record after the other, in plain Python.

Written from the contract and the architecture, without a look at ``qemu_diff.compare``: it has its
own grouping, and its branch decoder is capstone's. Speed does not matter here; being easy to check
does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import capstone

from qemu_diff.abi import (
    KVM_EXIT_DEBUG,
    REGISTER_PC,
    ExceptionClass,
    Mark,
    RecordFlag,
    RecordKind,
    TruthKind,
)
from qemu_diff.errors import CorruptDataError

OK = "ok"
LOST_STEP = "lost-step"
SPURIOUS_STEP = "spurious-step"
WRONG_PC = "wrong-pc"

PC_VALUES = 1 << 64
STEPPING_CONTROL = 0b11
"""KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP (Linux include/uapi/linux/kvm.h)."""

EXIT_TYPES = {0x000: "sync", 0x080: "irq", 0x100: "fiq", 0x180: "serror"}
"""Offset of a vector within its group of four (DDI 0487, table D1-6)."""

BRANCHES = frozenset({"b", "bl", "br", "blr", "ret", "cbz", "cbnz", "tbz", "tbnz"})
ALWAYS_TAKEN = frozenset({"b", "bl"})
REGISTER_BRANCHES = frozenset({"br", "blr", "ret"})

NO_SUCCESSOR = frozenset(
    {"eret", "eretaa", "eretab", "drps", "svc", "brk", "hlt", "dcps1", "dcps2", "dcps3", "udf"}
    | {f"{branch}{key}" for branch in ("bra", "blra") for key in ("a", "b", "az", "bz")}
    | {"retaa", "retab"}
)
"""Instructions that retire to a PC that the records don't hold, or that never retire."""


@dataclass(frozen=True)
class Report:
    """What became of one judged report."""

    run: int
    outcome: str
    executed: tuple[int, ...]
    previous_pc: int | None
    reported_pc: int
    active_pending: bool
    irq_exits: int


@dataclass(frozen=True)
class Row:
    """One truth record; ``what`` is "executed", "phantom", an exit's type or "other".

    :param run: number of the return from KVM_RUN that it belongs to.
    """

    what: str
    pc: int
    run: int

    @property
    def is_instruction(self) -> bool:
        """A phantom is one too: it says where L2 stands."""
        return self.what in ("executed", "phantom")


@dataclass
class Group:
    """Returns from KVM_RUN that are judged as one step, or not at all.

    :param stands_at: where L2 must begin: the report before, or what the job wrote.
    :param pc_written: whether the job wrote it.
    :param unjudged: the job interfered in mid-step.
    """

    stands_at: int | None
    pc_written: bool = False
    unjudged: bool = False
    closed: bool = False
    runs: list[tuple[int, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    outcome: str = OK

    @property
    def report(self) -> Any:
        """The record that closes the group."""
        return self.runs[-1][1]

    @property
    def reported_pc(self) -> int:
        """PC of that record."""
        return int(self.report["pc"])


def judge_slowly(
    records: Sequence[Any], truth: Sequence[Any], phantom: Sequence[bool], words: Mapping[int, int]
) -> list[Report]:
    """Every judged report, in order.

    :param words: PC → instruction word of the program.
    :raises CorruptDataError: there is not one mark for each return from KVM_RUN.
    """
    rows = rows_of_runs(records, truth, phantom)
    groups = groups_of(records, rows)
    for group in groups:
        group.outcome = outcome_of(group, words)
    blame_breaks_in_the_chain(groups)
    return [report_of(group, words) for group in groups if group.closed and not group.unjudged]


# --- slices --------------------------------------------------------------------------------------


def rows_of_runs(
    records: Sequence[Any], truth: Sequence[Any], phantom: Sequence[bool]
) -> list[list[Row]]:
    """Cut the truth at the marks: what happened in each KVM_RUN."""
    returns = sum(1 for record in records if record["kind"] == RecordKind.RUN)
    slices: list[list[Row]] = [[]]
    for record, is_phantom in zip(truth, phantom, strict=True):
        if record["kind"] == TruthKind.MARK and record["detail"] == Mark.RETURNED:
            slices.append([])
        else:
            slices[-1].append(row_of(record, bool(is_phantom), len(slices) - 1))
    if len(slices) - 1 != returns:
        raise CorruptDataError(f"{len(slices) - 1} marks, {returns} returns from KVM_RUN")
    return slices[:-1]


def row_of(record: Any, is_phantom: bool, run: int) -> Row:
    """One truth record in words."""
    what = "other"
    if record["kind"] == TruthKind.INSTRUCTION:
        what = "phantom" if is_phantom else "executed"
    elif record["kind"] == TruthKind.EXIT:
        what = EXIT_TYPES[int(record["detail"]) & 0x180]
    return Row(what, int(record["pc"]), run)


def groups_of(records: Sequence[Any], rows: list[list[Row]]) -> list[Group]:
    """Join the slices that belong to one step.

    A step is spent once an instruction was executed with stepping on. Up to its report, the job may
    not write PC or turn stepping off and on and still have this step judged: a correct kernel
    reports the spent step where PC was written to, and forgets it when stepping is turned off
    (Linux arch/arm64/kvm/guest.c, kvm_arch_vcpu_ioctl_set_guest_debug()).
    """
    groups = [Group(stands_at=None)]
    spent = False
    run = 0
    for record in records:
        current = groups[-1]
        if writes_pc(record):
            written = int(record["detail"][1])
            groups.append(Group(stands_at=written, pc_written=True, unjudged=spent))
        elif stops_stepping(record):
            current.unjudged = bool(current.runs)
            spent = False
        elif record["kind"] == RecordKind.RUN:
            current.runs.append((run, record))
            current.rows.extend(rows[run])
            if record["flags"] & RecordFlag.STEPPING:
                spent = spent or any(row.what == "executed" for row in rows[run])
            else:
                current.unjudged = True
            if closes_a_step(record):
                current.closed = True
                groups.append(Group(stands_at=int(record["pc"])))
                spent = False
            run += 1
    return [group for group in groups if group.runs]


def writes_pc(record: Any) -> bool:
    """The job put L2 somewhere else."""
    return bool(
        record["kind"] == RecordKind.SET_REGISTER and int(record["detail"][0]) == REGISTER_PC
    )


def stops_stepping(record: Any) -> bool:
    """The job asked for no steps any more."""
    return bool(
        record["kind"] == RecordKind.DEBUG_CONTROL
        and int(record["detail"][0]) & STEPPING_CONTROL != STEPPING_CONTROL
    )


def closes_a_step(record: Any) -> bool:
    """Only a debug exception does; signals, MMIO and hypercalls join what comes next."""
    return bool(record["exit_reason"] == KVM_EXIT_DEBUG and record["error"] == 0)


# --- what was executed ---------------------------------------------------------------------------


def executed_by(group: Group, words: Mapping[int, int]) -> list[Row]:
    """Executed instructions; one that was executed again after a fault counts once, at its end."""
    done: list[Row] = []
    faulted = False
    last: Row | None = None
    for row in group.rows:
        if row.what == "sync" and last is not None:
            faulted = faulted or not is_step_exception(last, words)
        elif row.is_instruction:
            if row.what == "executed":
                if done and done[-1].pc == row.pc and faulted:
                    done.pop()
                done.append(row)
                faulted = False
            last = row
    return done


def is_step_exception(last: Row, words: Mapping[int, int]) -> bool:
    """Whether a synchronous exit right after this instruction must be the Software Step exception.

    After a phantom it must: that is an entry in Active-pending. After a branch it must: branches
    raise no exception of their own, so one that shows up again was executed again.
    """
    return last.what == "phantom" or is_branch(words.get(last.pc), last.pc)


# --- the verdict on one group --------------------------------------------------------------------


def outcome_of(group: Group, words: Mapping[int, int]) -> str:
    """The contract, but for where the next group begins."""
    if not group.closed:
        return OK
    done = executed_by(group, words)
    exception = int(group.report["esr"]) >> 26
    if exception == ExceptionClass.BREAKPOINT:
        return outcome_of_breakpoint(group, done)
    if len(done) >= 2:
        return LOST_STEP
    if not done:
        return SPURIOUS_STEP
    return OK if group.reported_pc in legal_pcs(group, done[0], exception, words) else WRONG_PC


def outcome_of_breakpoint(group: Group, done: list[Row]) -> str:
    """A breakpoint reports the same PC with nothing executed.

    After an executed instruction the Software Step exception is pending and has priority over a
    breakpoint (DDI 0487, "Synchronous exception types and priorities"), so that step was lost.
    """
    if done:
        return LOST_STEP
    return OK if group.stands_at in (None, group.reported_pc) else WRONG_PC


def legal_pcs(group: Group, done: Row, exception: int, words: Mapping[int, int]) -> set[int]:
    """Where a report with one executed instruction may stand."""
    if exception in (ExceptionClass.WATCHPOINT, ExceptionClass.BRK):
        return {done.pc}
    if exception == ExceptionClass.SOFTWARE_STEP:
        return successors(done.pc, words.get(done.pc), branch_register(group, done))
    return set()


def branch_register(group: Group, done: Row) -> int | None:
    """The branch register's value before the KVM_RUN that executed the branch."""
    record = dict(group.runs)[done.run]
    if record["flags"] & RecordFlag.BRANCH_REGISTER:
        return int(record["branch_register"])
    return None


def blame_breaks_in_the_chain(groups: Sequence[Group]) -> None:
    """L2 must go on where the report says that it is, and where the job put it."""
    for index, group in enumerate(groups):
        begins = first_pc(group.rows)
        if group.stands_at is None or begins is None or begins == group.stands_at:
            continue
        blamed = group if group.pc_written else groups[index - 1]
        if blamed.outcome == OK:
            blamed.outcome = WRONG_PC


def first_pc(rows: Iterable[Row]) -> int | None:
    """Where L2 began."""
    return next((row.pc for row in rows if row.is_instruction), None)


def report_of(group: Group, words: Mapping[int, int]) -> Report:
    """What a judged group comes to."""
    return Report(
        run=group.runs[-1][0],
        outcome=group.outcome,
        executed=tuple(row.pc for row in executed_by(group, words)),
        previous_pc=group.stands_at,
        reported_pc=group.reported_pc,
        active_pending=any(row.what == "phantom" for row in group.rows),
        irq_exits=sum(1 for row in group.rows if row.what == "irq"),
    )


# --- A64, by capstone ----------------------------------------------------------------------------

_CAPSTONE = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
_CAPSTONE.detail = True


@cache
def mnemonic_and_target(word: int, pc: int) -> tuple[str, int | None]:
    """The mnemonic, and a direct branch's target. An unallocated word has mnemonic ""."""
    for instruction in _CAPSTONE.disasm(word.to_bytes(4, "little"), pc):
        name = instruction.mnemonic
        is_direct = is_branch_name(name) and name not in REGISTER_BRANCHES
        target = instruction.operands[-1].imm % PC_VALUES if is_direct else None
        return name, target
    return "", None


def is_branch_name(name: str) -> bool:
    """Every branch that a stepping range may hold."""
    return name in BRANCHES or name.startswith(("b.", "bc."))


def is_branch(word: int | None, pc: int) -> bool:
    """The same, of a word."""
    return word is not None and is_branch_name(mnemonic_and_target(word, pc)[0])


def successors(pc: int, word: int | None, register: int | None) -> set[int]:
    """Where the PC may be after one instruction."""
    name, target = mnemonic_and_target(word, pc) if word is not None else ("", None)
    if not name or name in NO_SUCCESSOR:
        return set()
    if name in REGISTER_BRANCHES:
        return set() if register is None else {register}
    found = set() if name in ALWAYS_TAKEN else {(pc + 4) % PC_VALUES}
    return found if target is None else found | {target}
