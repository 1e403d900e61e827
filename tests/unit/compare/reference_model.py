"""The step contract and the state rules, slow and obvious: record after record, in plain Python.

Written from the contract and the architecture, without a look at ``qemu_diff.compare``: it has its
own grouping, and its branch decoder is capstone's. Speed does not matter here; being easy to check
does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import Any

import capstone

from qemu_diff.abi import (
    KVM_EXIT_DEBUG,
    REGISTER_MDSCR_EL1,
    REGISTER_PC,
    REGISTER_PSTATE,
    ExceptionClass,
    Mark,
    RecordFlag,
    RecordKind,
    TruthKind,
    system_register,
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
BY_REGISTER = REGISTER_BRANCHES | {"eret"}
TO_VECTORS = frozenset({"svc", "udf"})
NEVER_AGAIN = TO_VECTORS | {"eret", "brk", "hvc"}
"""Beside branches: what is not executed again because of a synchronous exit after it."""

KVM_EXIT_MMIO = 6
"""Linux include/uapi/linux/kvm.h"""

IRQ_VECTORS = {0b00000: 0x480, 0b00101: 0x280}
"""PSTATE.M → offset of the IRQ's vector, from EL0t and EL1h (DDI 0487, table D1-6)."""

IRQS_MASKED = 0x80
"""PSTATE.I in the layout of SPSR_ELx."""

RESET_MODE = 0b00101
"""EL1h: VCPU_RESET_PSTATE_EL1 (Linux arch/arm64/kvm/reset.c)"""

SS = 1 << 21

NO_SUCCESSOR = frozenset(
    {"eretaa", "eretab", "drps", "brk", "hlt", "dcps1", "dcps2", "dcps3"}
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
    redirects: int = 0


@dataclass(frozen=True)
class Row:
    """One truth record; ``what`` is "executed", "phantom", an exit's type, "redirected" (the exit
    for a step exception that becomes an interrupt), "redirect", "mark" or "other".

    :param run: number of the return from KVM_RUN that it belongs to.
    """

    what: str
    pc: int
    run: int

    @property
    def leaves(self) -> bool:
        """L2 is left, or is not there at all."""
        return self.what in (*EXIT_TYPES.values(), "redirected", "mark")

    @property
    def is_instruction(self) -> bool:
        """A phantom is one too: it says where L2 stands."""
        return self.what in ("executed", "phantom")


@dataclass
class Group:
    """Returns from KVM_RUN that are judged as one step, or not at all.

    :param stands_at: where L2 must begin: where user space saw it last, or what the job wrote.
    :param blames: who is wrong if L2 begins elsewhere: "this" step, or the report "before" it.
    :param unjudged: the job interfered in mid-step.
    :param runs: (number, record, PSTATE.M before it).
    """

    stands_at: int | None
    blames: str = "this"
    unjudged: bool = False
    closed: bool = False
    runs: list[tuple[int, Any, int | None]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    outcome: str = OK

    @property
    def served(self) -> set[int]:
        """Returns with MMIO for user space: it completes what L2 did last."""
        return {
            number
            for number, record, _ in self.runs
            if record["exit_reason"] == KVM_EXIT_MMIO and not record["error"]
        }

    @property
    def report(self) -> Any:
        """The record that closes the group."""
        return self.runs[-1][1]

    @property
    def reported_pc(self) -> int:
        """PC of that record."""
        return int(self.report["pc"])


@dataclass(frozen=True)
class Code:
    """The program: PC → instruction word, and VBAR_EL1 if it is known.

    :param irq_bases: what VBAR_EL1 may be where L2 takes interrupts.
    """

    words: Mapping[int, int]
    vectors: int | None = None
    irq_bases: tuple[int, ...] = ()

    def name(self, pc: int) -> str:
        """The mnemonic at a PC; "" outside."""
        word = self.words.get(pc)
        return "" if word is None else mnemonic_and_target(word, pc)[0]

    @property
    def irq_vectors(self) -> dict[int, set[int]]:
        """PC of an IRQ's vector → PSTATE.M that it is for."""
        found: dict[int, set[int]] = {}
        for base in self.irq_bases:
            for mode, offset in IRQ_VECTORS.items():
                found.setdefault(base + offset, set()).add(mode)
        return found


def judge_slowly(
    records: Sequence[Any], truth: Sequence[Any], phantom: Sequence[bool], code: Code
) -> list[Report]:
    """Every judged report, in order.

    :raises CorruptDataError: there is not one mark for each return from KVM_RUN.
    """
    rows = rows_of_runs(records, truth, phantom)
    groups = groups_of(records, rows, code)
    for group in groups:
        group.outcome = outcome_of(group, code)
    blame_breaks_in_the_chain(groups, code)
    return [report_of(group, code) for group in groups if group.closed and not group.unjudged]


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
            continue
        here = slices[-1]
        if record["kind"] == TruthKind.REDIRECT and here and here[-1].what == "sync":
            here[-1] = replace(here[-1], what="redirected")
        here.append(row_of(record, bool(is_phantom), len(slices) - 1))
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
    elif record["kind"] == TruthKind.REDIRECT:
        what = "redirect"
    elif record["kind"] == TruthKind.MARK:
        what = "mark"
    return Row(what, int(record["pc"]), run)


def groups_of(records: Sequence[Any], rows: list[list[Row]], code: Code) -> list[Group]:
    """Join the slices that belong to one step."""
    grouping = Grouping(rows, code)
    for record in records:
        grouping.take(record)
    return [group for group in grouping.groups if group.runs]


@dataclass
class Grouping:
    """What user space knows, record after record.

    A step is spent once an instruction was executed with stepping on, or L2 took an interrupt. If
    the job writes PC before its report, a correct kernel reports the spent step there. If it turns
    stepping off and on, the step is forgotten (Linux arch/arm64/kvm/guest.c,
    kvm_arch_vcpu_ioctl_set_guest_debug()), and so it is by KVM_ARM_VCPU_INIT: what comes then is a
    step of its own.

    :param seen: where user space knows L2 to stand.
    :param stepping: whether the last KVM_RUN stepped.
    :param unfinished: it returned for an MMIO access, which the next KVM_RUN completes.
    """

    rows: list[list[Row]]
    code: Code
    groups: list[Group] = field(default_factory=lambda: [Group(stands_at=None)])
    run: int = 0
    spent: bool = False
    seen: int | None = None
    mode: int | None = None
    stepping: bool | None = None
    unfinished: bool = False

    def take(self, record: Any) -> None:
        """The next record."""
        if writes_pc(record):
            self.seen = int(record["detail"][1])
            self.groups.append(Group(stands_at=self.seen, unjudged=self.spent))
        elif record["kind"] == RecordKind.VCPU_INIT:
            self.seen, self.spent, self.unfinished = None, False, False
            self.mode = RESET_MODE
            self.groups.append(Group(stands_at=None))
        elif tells(record, REGISTER_PSTATE):
            self.mode = int(record["detail"][1]) & 0x1F
        elif stops_stepping(record):
            self.forget()
        elif record["kind"] == RecordKind.RUN:
            self.kvm_run(record)

    def forget(self) -> None:
        """KVM forgets a step that is spent; what comes is a new one, if it has not begun yet."""
        self.spent = False
        if self.groups[-1].runs:
            self.groups.append(Group(stands_at=self.seen))
        self.groups[-1].unjudged = False

    def kvm_run(self, record: Any) -> None:
        """A return from KVM_RUN."""
        stepping = bool(record["flags"] & RecordFlag.STEPPING)
        if self.stepping not in (None, stepping):
            self.forget()
        current = self.groups[-1]
        current.unjudged |= not stepping or (self.unfinished and not current.runs)
        current.runs.append((self.run, record, self.mode))
        current.rows.extend(self.rows[self.run])
        self.spent |= stepping and any(row.what == "executed" for row in self.rows[self.run])
        came = int(record["pc"]) != self.seen and int(record["pc"]) in self.code.irq_vectors
        self.spent |= stepping and came
        self.seen, self.mode = int(record["pc"]), int(record["pstate"]) & 0x1F
        self.unfinished = bool(record["exit_reason"] == KVM_EXIT_MMIO and record["error"] == 0)
        self.stepping = stepping
        self.run += 1
        if closes_a_step(record):
            current.closed = True
            self.spent = False
            self.groups.append(Group(stands_at=self.seen, blames="before"))


def writes_pc(record: Any) -> bool:
    """The job put L2 somewhere else."""
    return bool(
        record["kind"] == RecordKind.SET_REGISTER and int(record["detail"][0]) == REGISTER_PC
    )


def tells(record: Any, register: int) -> bool:
    """The job writes or reads this register."""
    return bool(
        record["kind"] in (RecordKind.SET_REGISTER, RecordKind.REGISTER)
        and int(record["detail"][0]) == register
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


def executed_by(group: Group, code: Code) -> list[Row]:
    """Executed instructions; one that was executed again after a fault counts once, at its end."""
    done: list[Row] = []
    faulted = False
    last: Row | None = None
    for row in group.rows:
        if row.what == "sync" and last is not None:
            faulted = faulted or not (excuses_nothing(last, code) or is_served(last, group))
        elif row.is_instruction:
            if row.what == "executed":
                if done and done[-1].pc == row.pc and faulted:
                    done.pop()
                done.append(row)
                faulted = False
            last = row
    return done


def is_served(row: Row, group: Group) -> bool:
    """User space completes this instruction: it is the last before the return with its MMIO."""
    here = [one for one in group.rows if one.is_instruction and one.run == row.run]
    return row.run in group.served and here[-1] is row


def excuses_nothing(last: Row, code: Code) -> bool:
    """Whether a synchronous exit right after this instruction can't be a fault of its own.

    After a phantom it is the Software Step exception: that is an entry in Active-pending. Branches,
    SVC, UDF and ERET raise no exception to EL2, a BRK's is reported, and PC is behind an HVC before
    its own is taken: one of these that shows up again was executed again.
    """
    name = code.name(last.pc)
    return last.what == "phantom" or is_branch_name(name) or name in NEVER_AGAIN


# --- the verdict on one group --------------------------------------------------------------------


def outcome_of(group: Group, code: Code) -> str:
    """The contract, but for where the next group begins."""
    if not group.closed:
        return OK
    done = executed_by(group, code)
    exception = int(group.report["esr"]) >> 26
    missed = done and goes_on_at_irq_vector(group, code)
    if exception == ExceptionClass.BREAKPOINT and not missed:
        return outcome_of_breakpoint(group, done)
    if missed or len(done) >= 2:
        return LOST_STEP
    if exception == ExceptionClass.SOFTWARE_STEP and stops_for_irq(group, done, code):
        return OK
    if not done:
        return SPURIOUS_STEP
    return OK if group.reported_pc in legal_pcs(group, done[0], exception, code) else WRONG_PC


def outcome_of_breakpoint(group: Group, done: list[Row]) -> str:
    """A breakpoint reports the same PC with nothing executed.

    After an executed instruction the Software Step exception is pending and has priority over a
    breakpoint (DDI 0487, "Synchronous exception types and priorities"), so that step was lost.
    """
    if done:
        return LOST_STEP
    return OK if group.stands_at in (None, group.reported_pc) else WRONG_PC


def goes_on_at_irq_vector(group: Group, code: Code) -> bool:
    """The first that L2 does is at an IRQ's vector, and it did not stand there: it took one.

    The stop was due there.
    """
    begins = first_pc(group.rows)
    return begins in code.irq_vectors and begins != group.stands_at


def stops_for_irq(group: Group, done: Sequence[Row], code: Code) -> bool:
    """The report is where an IRQ goes, and L2's own registers say that it was allowed to come.

    SPSR_EL1 holds the PSTATE that was interrupted, ELR_EL1 the instruction that is next: after the
    one that was executed, that itself if it faulted, or where L2 stood if none was. A second IRQ
    interrupts the first one's handler, where user space saw L2 at its vector and unmasked IRQs.
    """
    record = group.report
    if not record["flags"] & RecordFlag.AT_VECTOR:
        return False
    elr, spsr = int(record["detail"][0]), int(record["detail"][1])
    modes = code.irq_vectors.get(group.reported_pc, set())
    if spsr & 0x1F not in modes or spsr & IRQS_MASKED:
        return False
    if len(group.runs) > 1 and elr in code.irq_vectors and elr == int(group.runs[-2][1]["pc"]):
        return True
    if not done:
        return group.stands_at in (None, elr)
    again = {done[0].pc} if faults_at_last(group, code) else set()
    return elr in again | legal_pcs(group, done[0], ExceptionClass.SOFTWARE_STEP, code)


def faults_at_last(group: Group, code: Code) -> bool:
    """A synchronous exit follows the last executed instruction, beside the one that is reported."""
    executed = [index for index, row in enumerate(group.rows) if row.what == "executed"]
    if not executed or excuses_nothing(group.rows[executed[-1]], code):
        return False
    if is_served(group.rows[executed[-1]], group):
        return False
    exits = 0
    for row in group.rows[executed[-1] + 1 :]:
        if row.is_instruction:
            return exits > 0
        exits += row.what == "sync"
    return exits > 1


def legal_pcs(group: Group, done: Row, exception: int, code: Code) -> set[int]:
    """Where a report with one executed instruction may stand."""
    if exception in (ExceptionClass.WATCHPOINT, ExceptionClass.BRK):
        return {done.pc}
    if exception != ExceptionClass.SOFTWARE_STEP:
        return set()
    record, mode = next((record, mode) for run, record, mode in group.runs if run == done.run)
    known = record["flags"] & RecordFlag.BRANCH_REGISTER
    register = int(record["branch_register"]) if known else None
    return successors(done.pc, code.words.get(done.pc), register, code.vectors, mode)


def blame_breaks_in_the_chain(groups: Sequence[Group], code: Code) -> None:
    """L2 must go on where user space saw it, and where the job put it, or at an IRQ's vector."""
    for index, group in enumerate(groups):
        begins = first_pc(group.rows)
        if group.stands_at is None or begins is None or begins == group.stands_at:
            continue
        if goes_on_at_irq_vector(group, code):
            continue
        blamed = group if group.blames == "this" else groups[index - 1]
        if blamed.outcome == OK:
            blamed.outcome = WRONG_PC


def first_pc(rows: Iterable[Row]) -> int | None:
    """Where L2 began."""
    return next((row.pc for row in rows if row.is_instruction), None)


def report_of(group: Group, code: Code) -> Report:
    """What a judged group comes to."""
    return Report(
        run=group.runs[-1][0],
        outcome=group.outcome,
        executed=tuple(row.pc for row in executed_by(group, code)),
        previous_pc=group.stands_at,
        reported_pc=group.reported_pc,
        active_pending=entered_pending(group.rows, takes_irq_by(group, code)),
        irq_exits=sum(1 for row in group.rows if row.what == "irq"),
        redirects=sum(1 for row in group.rows if row.what == "redirect"),
    )


def takes_irq_by(group: Group, code: Code) -> int | None:
    """Index of the row with which L2 took an IRQ instead of what it was entered for.

    Where the step's instruction was not completed, the IRQ spends the step by itself: a phantom at
    the vector is then no entry in Active-pending.
    """
    done = executed_by(group, code)
    record = group.report
    again = record["flags"] & RecordFlag.AT_VECTOR and faults_at_last(group, code)
    if done and not (again and int(record["detail"][0]) == done[-1].pc):
        return None
    for index, row in enumerate(group.rows):
        if row.is_instruction and row.pc in code.irq_vectors and row.pc != group.stands_at:
            return index
    return None


def entered_pending(rows: Sequence[Row], irq: int | None) -> bool:
    """Whether L2 was entered in Active-pending: a phantom not right behind an execution.

    :param irq: index of a row that is none.
    """
    last: Row | None = None
    for index, row in enumerate(rows):
        if last is not None and last.run != row.run:
            last = None
        behind = last is not None and last.what == "executed"
        if row.what == "phantom" and not behind and index != irq:
            return True
        if row.is_instruction or row.leaves:
            last = row
    return False


# --- the state rules -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """User space read a register whose own value is known.

    :param origin: index of the record that the own value comes from.
    """

    record: int
    run: int
    pc: int | None
    register: int
    read: int
    own: int
    origin: int
    stepping: bool


DEBUG_REGISTERS = frozenset(
    {REGISTER_MDSCR_EL1}
    | {system_register(2, 0, 0, number, op2) for number in range(16) for op2 in (4, 5, 6, 7)}
)
RESET_VALUES = {REGISTER_PSTATE: 0, REGISTER_MDSCR_EL1: 0}


def read_slowly(
    records: Sequence[Any], truth: Sequence[Any], phantom: Sequence[bool], code: Code
) -> list[Read]:
    """Every read of a register whose own value is known, in order."""
    machine = Registers(rows_of_runs(records, truth, phantom), code)
    for index, record in enumerate(records):
        machine.take(index, record)
    return machine.reads


@dataclass
class Registers:
    """The registers' own values, record after record.

    :param own: register → (its own value, where that comes from); None where it is unknown. What is
        not there was never told.
    """

    rows: list[list[Row]]
    code: Code
    reads: list[Read] = field(default_factory=list)
    own: dict[int, tuple[int, int] | None] = field(default_factory=dict)
    run: int = 0
    pc: int | None = None
    asked: bool = False
    """Stepping was asked for."""

    def take(self, index: int, record: Any) -> None:
        """The next record."""
        register, value = int(record["detail"][0]), int(record["detail"][1])
        if record["kind"] == RecordKind.RUN:
            self.kvm_run(index, record)
        elif record["kind"] == RecordKind.VCPU_INIT:
            self.pc = None
            for one in DEBUG_REGISTERS | {REGISTER_PSTATE}:
                self.own[one] = (RESET_VALUES[one], index) if one in RESET_VALUES else None
        elif record["kind"] == RecordKind.DEBUG_CONTROL:
            self.asked = not stops_stepping(record)
        elif writes_pc(record):
            self.pc = value
        elif not is_watched(register):
            return
        elif record["kind"] == RecordKind.SET_REGISTER:
            self.own[register] = (part(register, value), index)
        elif record["kind"] == RecordKind.REGISTER:
            self.read(index, register, value, self.asked)
            if register not in self.own and self.run == 0:
                self.own[register] = (part(register, value), index)

    def kvm_run(self, index: int, record: Any) -> None:
        """What L2 did may have changed registers; then user space reads PSTATE."""
        stepping = bool(record["flags"] & RecordFlag.STEPPING)
        if not stepping and not record["flags"] & RecordFlag.KICKED:
            # The entry clears PSTATE.SS where software step is not active.
            told = self.own.get(REGISTER_PSTATE)
            if told is not None and told[0]:
                self.own[REGISTER_PSTATE] = None
        for row in self.rows[self.run]:
            if row.what == "executed":
                self.executes(row.pc, stepping, record)
            if row.is_instruction:
                self.stands_at(row.pc)
        self.stands_at(int(record["pc"]))
        self.run += 1
        self.pc = int(record["pc"])
        for one in DEBUG_REGISTERS | {REGISTER_PSTATE}:
            self.own.setdefault(one, None)
        self.read(index, REGISTER_PSTATE, int(record["pstate"]), stepping)

    def executes(self, pc: int, stepping: bool, record: Any) -> None:
        """An instruction of L2."""
        if pc not in self.code.words:
            self.own.update(dict.fromkeys(DEBUG_REGISTERS | {REGISTER_PSTATE}))
            return
        name = self.code.name(pc)
        out_of_l2 = closes_a_step(record) and int(record["esr"]) >> 26 == ExceptionClass.BRK
        if not stepping or name in ("svc", "udf", "eret") or (name == "brk" and not out_of_l2):
            self.own[REGISTER_PSTATE] = None
        written = msr_register(self.code.words[pc])
        if written in DEBUG_REGISTERS:
            self.own[written] = None

    def stands_at(self, pc: int) -> None:
        """At a vector of its own, L2 has taken an exception."""
        bases = {self.code.vectors, *self.code.irq_bases} - {None}
        if any(pc in range(base, base + 0x800, 0x80) for base in bases if base is not None):
            self.own[REGISTER_PSTATE] = None

    def read(self, index: int, register: int, value: int, stepping: bool) -> None:
        """User space reads a register."""
        told = self.own.get(register)
        if told is not None:
            own, origin = told
            read = part(register, value)
            self.reads.append(
                Read(index, self.run - 1, self.pc, register, read, own, origin, stepping)
            )


def is_watched(register: int) -> bool:
    """Whether a rule holds for it."""
    return register == REGISTER_PSTATE or register in DEBUG_REGISTERS


def part(register: int, value: int) -> int:
    """What of the register's value the rule is about."""
    return int(bool(value & SS)) if register == REGISTER_PSTATE else value


def msr_register(word: int) -> int | None:
    """What ``msr <register>, xN`` writes, bit by bit as in the encoding."""
    bits = f"{word:032b}"
    if bits[:12] != "110101010001":
        return None
    o0, op1, crn, crm, op2 = (int(bits[a:b], 2) for a, b in pairwise((12, 13, 16, 20, 24, 27)))
    return system_register(2 + o0, op1, crn, crm, op2)


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


VECTOR_OFFSETS = {"EL1t": 0x000, "EL1h": 0x200, "EL0t": 0x400}
"""Synchronous exceptions to EL1, by where they come from (DDI 0487, table D1-6)."""

MODES = {0b00000: "EL0t", 0b00100: "EL1t", 0b00101: "EL1h"}


def successors(
    pc: int,
    word: int | None,
    register: int | None,
    vectors: int | None = None,
    mode: int | None = None,
) -> set[int]:
    """Where the PC may be after one instruction."""
    name, target = mnemonic_and_target(word, pc) if word is not None else ("", None)
    if not name or name in NO_SUCCESSOR:
        return set()
    if name in BY_REGISTER:
        return set() if register is None else {register}
    if name in TO_VECTORS:
        modes = [MODES[mode]] if mode in MODES else MODES.values()
        return set() if vectors is None else {vectors + VECTOR_OFFSETS[one] for one in modes}
    found = set() if name in ALWAYS_TAKEN else {(pc + 4) % PC_VALUES}
    return found if target is None else found | {target}
