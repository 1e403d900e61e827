"""The frozen dataclasses that flow from the campaign file to the report.

Times are ns of virtual time (the guest's 1 GHz system counter under ``-icount shift=0``) where a
name ends in ``_ns``, and wall-clock seconds where it ends in ``_s``. Addresses are L2's guest
physical addresses: payloads run with the MMU off, so PC is an IPA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

# --- kernels -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DebianSource:
    """A Debian package of Linux, got through apt by name: ``linux-source-6.1``, which is built, or
    ``linux-image-cloud-arm64``, which is built already.

    :param suite: the Debian suite that has it; empty for what this machine's own apt offers.
    """

    package: str
    suite: str = ""


@dataclass(frozen=True)
class TreeSource:
    """A directory with a Linux tree. It is read, never written to."""

    path: Path


@dataclass(frozen=True)
class GitSource:
    """A revision of a git repository. The repository is read, never written to.

    :param repository: the path of a work tree or a bare repository, or an URL that git fetches.
    :param rev: whatever names one commit: a branch, a tag, a SHA, ``HEAD~3``.
    """

    repository: str
    rev: str = "HEAD"


@dataclass(frozen=True)
class ImageSource:
    """A kernel that is built already: an arm64 ``Image``, and its ``vmlinux`` if there is one."""

    image: Path
    vmlinux: Path | None = None


KernelSource = DebianSource | TreeSource | GitSource | ImageSource


@dataclass(frozen=True)
class KernelSpec:
    """One kernel variant of a campaign: a source, reverted commits, patches in order, and kconfig
    fragments.

    :param patches: plain diffs, mailboxes, or directories with a series; applied after ``reverts``.
    :param reverts: of a ``GitSource``: commits that are taken out, in this order.
    :param optional: where its source can't be had, its cells are skipped, and nothing is wrong.
    """

    name: str
    source: KernelSource
    patches: tuple[Path, ...] = ()
    kconfig: tuple[Path, ...] = ()
    optional: bool = False
    reverts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Build:
    """A kernel that is ready to boot. All paths lie in the content-addressed cache, but for an
    ``ImageSource``, whose files are used where they are.

    :param source: see :class:`KernelIdentity`.
    """

    kernel: str
    key: str
    image: Path
    vmlinux: Path | None
    config: Path | None
    log: Path | None
    release: str
    cached: bool
    duration_s: float
    source: str = ""


# --- the campaign --------------------------------------------------------------------------------


class KvmMode(StrEnum):
    """``kvm-arm.mode``: where L1's own kernel runs."""

    VHE = "vhe"
    NVHE = "nvhe"
    PROTECTED = "protected"
    """pKVM: nVHE, with L1's own kernel kept out of EL2's memory."""


class ExceptionOrder(StrEnum):
    """What a CPU takes first: a Software Step exception, or an interrupt that is pending.

    Not defined by the architecture (DDI 0487, D1.3.5.5 "Synchronous exception prioritization").
    """

    TCG = "tcg"
    """As QEMU does: the step exception first, but the interrupt at an entry in Active-pending."""
    ASYNC_FIRST = "async_first"
    """The interrupt first."""


class Pending(StrEnum):
    """What is pending when ``async_first`` turns a Software Step exception into an interrupt."""

    SGI = "sgi"
    """An SGI that the CPU sends to itself: a real interrupt."""
    SPURIOUS = "spurious"
    """Nothing: L1 finds that no interrupt is there."""
    FLOOD = "flood"
    """The flood's interrupt, or L1's own: where none is, the step exception stays what it is."""
    SPI = "spi"
    """INTID 33, made pending in the GIC from outside; at chosen instructions only."""
    PPI = "ppi"
    """INTID 23, likewise."""


class FloodSource(StrEnum):
    """What interrupts the stepped guest."""

    NONE = "none"
    HOST_TIMER = "host_timer"
    """A one-shot timer of L1: its interrupt alone; where L2 has another CPU, an IPI to that."""
    SIGNAL = "signal"
    """The same, and a signal to the vCPU thread: KVM_RUN returns to user space with EINTR."""
    SPI_EDGE = "spi_edge"
    """An edge-triggered SPI into L2, by KVM_IRQ_LINE from another thread of the VMM."""
    SPI_LEVEL = "spi_level"
    """A level-triggered SPI, likewise; it is lowered when L2's handler asks its device to."""
    IRQFD = "irqfd"
    """An SPI into L2 by an eventfd."""
    PPI = "ppi"
    """A PPI into L2, by KVM_IRQ_LINE."""
    LPI = "lpi"
    """An LPI into L2 through its ITS, by KVM_SIGNAL_MSI."""
    VTIMER = "vtimer"
    """L2's own virtual timer."""
    MEMSLOT = "memslot"
    """Another thread makes, or deletes, a memory slot that L2 does not use. Its timer is what
    interrupts: where L2 has another CPU, nothing does."""
    DIRTY_LOG = "dirty_log"
    """Another thread turns dirty logging of L2's memory on, or off; likewise."""
    DEVICE = "device"
    """A device interrupt of L1, pended in its GIC from outside: not deterministic."""


INTO_GUEST = frozenset(
    {
        FloodSource.SPI_EDGE,
        FloodSource.SPI_LEVEL,
        FloodSource.IRQFD,
        FloodSource.PPI,
        FloodSource.LPI,
        FloodSource.VTIMER,
    }
)
"""Virtual interrupts."""


class Placement(StrEnum):
    """How interrupts are placed in virtual time."""

    NONE = "none"
    SWEEP = "sweep"
    """One pass for each delay of a grid."""
    ADAPTIVE = "adaptive"
    """A coarse grid of passes, and more of them around each change of the verdict."""
    PAIRS = "pairs"
    """Two interrupts in each step, over a grid of both delays."""
    RANDOM = "random"
    PERIODIC = "periodic"
    """One interrupt each so many ns, whatever is stepped meanwhile."""
    BURST = "burst"
    """Several, one after the other, from a random delay on."""


ADAPTIVE_STEP_NS = 32
"""The grid of ``adaptive`` where a campaign names none: narrower than any window that is known."""

ADAPTIVE_PROBES = 64
"""Its random probes, likewise."""


class Driver(StrEnum):
    """Who asks for steps."""

    IN_GUEST = "in_guest"
    """Our step VMM, in L1."""
    GDB = "gdb"
    """A real gdb, at the gdbstub of a real QEMU in L1."""
    RSP = "rsp"
    """Our own client of the remote serial protocol, at the same gdbstub."""
    MONITOR = "monitor"
    """The same client; but that QEMU's monitor starts the gdbstub, stops L2 in the midst of steps,
    and says where it stands."""
    SELFTEST = "selftest"
    """The kernel's own single-step test, in L1: a peer, which judges by itself."""


FROM_OUTSIDE = frozenset({Driver.GDB, Driver.RSP, Driver.MONITOR})
"""Drivers of L2 under a real QEMU in L1, from outside of both."""

SELFTEST_PAYLOAD = "debug-exceptions"
"""What stands for the payload where the driver is the kernel's own selftest: the test's name."""


STOCK_QEMU = "stock"
"""What people call the QEMU on ``PATH``."""


@dataclass(frozen=True)
class MachineSpec:
    """The L0 machine of a cell.

    :param cpu: QEMU's ``-cpu`` model name.
    :param memory_mib: L1's memory.
    :param cpus: of L1. Interrupts come from the first, L2's vCPU runs on the last.
    :param pending: of ``async_first``: what is pending when a step is redirected.
    :param redirects: of ``async_first``: at most so many in a row of the same step.
    :param redirect_at: of ``async_first``: labels of the instructions whose steps are redirected;
        empty: all.
    :param nested_qemu: the Debian suite that L1's QEMU is from; empty: this machine's own.
    :param gic_version: of L1, and with it of L2's vgic: 2 or 3.
    :param page_kib: L1's page size: 4, 16 or 64.
    :param qemu: the name of the L0 QEMU, as the campaign's ``[qemu.NAME]`` has it; empty: the one
        on ``PATH``.
    """

    kvm_mode: KvmMode = KvmMode.VHE
    cpu: str = "max"
    memory_mib: int = 256
    cpus: int = 1
    exception_order: ExceptionOrder = ExceptionOrder.TCG
    pending: Pending = Pending.SGI
    redirects: int = 1
    redirect_at: tuple[str, ...] = ()
    nested_qemu: str = ""
    gic_version: int = 3
    page_kib: int = 4
    qemu: str = ""


@dataclass(frozen=True)
class QemuSpec:
    """An L0 QEMU of a campaign, beside the one on ``PATH``.

    :param program: a path, or a name on ``PATH``; empty where a suite is named.
    :param suite: the Debian suite whose QEMU is fetched into the cache; or empty.
    :param optional: where it can't be had, its cells are skipped, and nothing is wrong.
    """

    name: str
    program: str = ""
    suite: str = ""
    optional: bool = False


@dataclass(frozen=True)
class FloodSpec:
    """A flood and its placement.

    A ``sweep`` makes one pass over the payload for each requested delay of ``first_ns``,
    ``first_ns + step_ns``, … ``last_ns``; ``last_ns = None`` means the longest step window that a
    quiet run of the same cell shows. ``random`` makes ``count`` passes and draws each step's delay
    from the same interval; without a flood ``count`` passes are stepped as they are. ``adaptive``
    is a ``sweep`` of a coarse ``step_ns`` with ``count`` random delays between, refined.

    :param sources: several are mixed: each step draws one.
    :param period_ns: of ``periodic`` and ``burst``: from one interrupt to the next.
    :param burst: of ``burst``: interrupts of one burst.
    """

    sources: tuple[FloodSource, ...] = ()
    placement: Placement = Placement.NONE
    first_ns: int = 0
    last_ns: int | None = None
    step_ns: int = 1
    count: int = 1
    period_ns: int = 0
    burst: int = 1

    @property
    def into_guest(self) -> bool:
        """Whether L2's handler hears of it: then the payload is assembled with one."""
        return any(source in INTO_GUEST for source in self.sources)

    @property
    def source(self) -> str:
        """What people call the sources: ``host_timer``, ``ppi+signal``; empty for none."""
        return "+".join(self.sources)


class ViolationKind(StrEnum):
    """How the step contract was broken."""

    LOST_STEP = "lost-step"
    SPURIOUS_STEP = "spurious-step"
    WRONG_PC = "wrong-pc"
    SS_LEAK = "ss-leak"
    """The guest or user space sees, or loses, a PSTATE.SS that is not its own."""
    STATE_MISMATCH = "state-mismatch"
    """A register that user space wrote, or never touched, reads as something else."""
    LOST_INTERRUPT = "lost-interrupt"
    """An interrupt was sent to L2, which never handled it."""
    SPURIOUS_INTERRUPT = "spurious-interrupt"
    """L2 was interrupted, and nobody had sent it anything."""


class Expectation(StrEnum):
    """What a campaign expects of a cell: a verdict, or violations that must be seen."""

    PASS = "pass"
    LOST_STEP = "lost-step"
    SPURIOUS_STEP = "spurious-step"
    WRONG_PC = "wrong-pc"
    HANG = "hang"
    KERNEL_OOPS = "kernel-oops"
    SS_LEAK = "ss-leak"
    STATE_MISMATCH = "state-mismatch"
    LOST_INTERRUPT = "lost-interrupt"
    SPURIOUS_INTERRUPT = "spurious-interrupt"
    FAIL = "fail"
    """It fails, whatever is broken: a peer does not tell how; an exit that no job expects, or
    records that L1 wrote over, are no step's fault."""


DEFAULT_JOB = "step"
"""The job of a scenario that names none: ``guest_images/jobs/step.job``."""


@dataclass(frozen=True)
class Cell:
    """One point of the matrix. ``id`` is stable: it names the cell's directory and its testcase.

    :param expected: every kind of violation that must be seen, and no other, ascending; or
        ``pass``, ``hang``, ``kernel-oops`` or ``fail`` alone.
    :param job: name of a job file in ``guest_images/jobs``.
    :param session: name of a session file in ``guest_images/sessions``, which then takes the place
        of the job; or empty.
    :param excluded: why the campaign leaves it out; empty: it does not.
    """

    id: str
    kernel: str
    payload: str
    machine: MachineSpec
    flood: FloodSpec
    driver: Driver
    seed: int
    expected: tuple[Expectation, ...] = (Expectation.PASS,)
    job: str = DEFAULT_JOB
    session: str = ""
    excluded: str = ""


class PairOf(StrEnum):
    """What differs between the two sides of a pair."""

    KERNEL = "kernel"
    DRIVER = "driver"
    QEMU = "qemu"
    """L0's. The baseline may be empty: the one on ``PATH``."""


@dataclass(frozen=True)
class PairSpec:
    """Two kernels, two drivers or two QEMUs, to be held against each other, cell by cell."""

    baseline: str
    candidate: str
    of: PairOf = PairOf.KERNEL


@dataclass(frozen=True)
class ScenarioSpec:
    """One ``[[scenario]]`` of a campaign; each payload meets each job or session, machine and
    kernel.

    :param expect: (kernel, payload or ``payload/job``) → what must be seen; the latter wins, and
        everything else must pass.
    :param kernels: those of the campaign that it is for; empty: all.
    :param seeds: each makes cells of its own; empty: the campaign's alone.
    """

    payloads: tuple[str, ...]
    machines: tuple[MachineSpec, ...]
    flood: FloodSpec
    driver: Driver
    expect: tuple[tuple[str, str, tuple[Expectation, ...]], ...] = ()
    jobs: tuple[str, ...] = (DEFAULT_JOB,)
    kernels: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ("",)
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Exclusion:
    """Cells of the matrix that are not run.

    :param cells: a glob over cell ids.
    :param reason: one line; reports show it.
    :param written_at: FILE:LINE:COLUMN, for messages.
    """

    cells: str
    reason: str
    written_at: str = ""


@dataclass(frozen=True)
class Campaign:
    """A campaign file, checked and resolved: every path absolute, every name known.

    :param budget_s: wall-clock budget of one boot.
    :param findings: whether what is found is confirmed from a fresh boot, and kept to be replayed.
    :param exclusions: the first that matches a cell is its reason.
    :param cost_change: a candidate's cost per step may differ from its baseline's by so much of it,
        0.1 for a tenth; more is as bad as a regression. None: it is shown, and never bad.
    """

    path: Path
    name: str
    seed: int
    budget_s: float
    kernels: tuple[KernelSpec, ...]
    pairs: tuple[PairSpec, ...]
    scenarios: tuple[ScenarioSpec, ...]
    findings: bool = True
    qemus: tuple[QemuSpec, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
    cost_change: float | None = None


# --- payloads ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GuestInterrupts:
    """Where a payload that takes interrupts has what belongs to them.

    :param setup: PC from which L2 sets up its GIC; it then says that it is done.
    :param handler: [begin, end) of the handler.
    :param vectors: VBAR_EL1 after the set-up.
    :param counters: ``struct guest_counters`` (guest_images/include/step_abi.h).
    """

    setup: int
    handler: tuple[int, int]
    vectors: int
    counters: int


@dataclass(frozen=True)
class Payload:
    """An assembled L2 program.

    :param blob: the bytes that lie at ``load_address``.
    :param entry: PC of the first stepped instruction.
    :param begin: first address of the stepping range.
    :param end: address after the stepping range; stepping stops when a report shows it.
    :param labels: (address, name), ascending.
    :param classes: the instruction classes that its source states for the range.
    :param interrupts: None where L2 takes none.
    :param program: the ELF file, with symbols.
    """

    name: str
    blob: bytes
    load_address: int
    entry: int
    begin: int
    end: int
    labels: tuple[tuple[int, str], ...]
    classes: tuple[str, ...]
    interrupts: GuestInterrupts | None = None
    program: Path | None = None


# --- findings and verdicts -----------------------------------------------------------------------


class CellVerdict(StrEnum):
    """What became of one cell."""

    PASS = "pass"
    FAIL = "fail"
    HANG = "hang"
    KERNEL_OOPS = "kernel-oops"
    LOST = "lost"
    SKIPPED = "skipped"
    """The campaign excludes it; or its kernel or QEMU is optional, and can't be had here."""

    @property
    def judged(self) -> bool:
        """Whether anything was learnt about the kernel."""
        return self not in (CellVerdict.LOST, CellVerdict.SKIPPED)


class PairOutcome(StrEnum):
    """A candidate held against its baseline."""

    SAME = "same"
    FIXED = "fixed"
    REGRESSED = "regressed"
    BOTH_FAIL = "both-fail"
    DIFFERENT = "different"
    """Of two drivers or QEMUs: both kept the step contract, and reported different PCs."""
    ONE_FAILS = "one-fails"
    """Of two drivers or QEMUs: one met a bug of the kernel that the other did not."""
    INCONCLUSIVE = "inconclusive"

    @property
    def alarming(self) -> bool:
        """Whether nobody's expectations of the two sides cover it."""
        return self in (PairOutcome.REGRESSED, PairOutcome.DIFFERENT)


@dataclass(frozen=True)
class Instruction:
    """One executed or missed instruction, ready to be printed: ``hvc_call+0x8: hvc #0``."""

    address: int
    label: str
    text: str


@dataclass(frozen=True)
class Finding:
    """One broken step, with what a reader needs to believe it.

    :param boot: the boot's directory, relative to the cell's.
    :param report: the report's number among the boot's returns from KVM_RUN, from 0.
    :param pass_number: the pass over the payload, from 0.
    :param previous_pc: where L2 stood before: the report before, or what the job had set.
    :param reported_pc: where this report says that L2 stands.
    :param legal_pcs: where the step contract allows it to stand.
    :param executed: what L2 executed for this report, in order (from the truth).
    :param missed: the instructions for which no stop was reported.
    :param requested_ns: the requested delay from arming; None without a flood.
    :param delivered_ns: when the placed interrupt came, from the entry into KVM_RUN; None if it
        did not come inside the step window.
    :param attributed_to: ``placement``, ``redirect``, ``l1-tick`` or ``no-interrupt``.
    :param register: of ``ss-leak`` and ``state-mismatch``: what was read; else empty.
    :param read_value: what user space read of it, at ``reported_pc``.
    :param own_value: what it had to be.
    :param own_from: where that comes from, in words.
    :param stepping: whether stepping was on.
    :param transcript: what gdb's user saw of it, and of the steps just before, line by line.
    """

    kind: ViolationKind
    boot: str
    report: int
    pass_number: int
    previous_pc: Instruction | None
    reported_pc: Instruction
    legal_pcs: tuple[Instruction, ...]
    executed: tuple[Instruction, ...]
    missed: tuple[Instruction, ...]
    requested_ns: int | None
    delivered_ns: int | None
    attributed_to: str
    message: str
    register: str = ""
    read_value: int | None = None
    own_value: int | None = None
    own_from: str = ""
    stepping: bool | None = None
    transcript: tuple[str, ...] = ()

    @property
    def instruction(self) -> Instruction:
        """The stepped instruction: the first executed, or where L2 stood if none was."""
        return self.executed[0] if self.executed else self.previous_pc or self.reported_pc


@dataclass(frozen=True)
class Window:
    """Placements of one instruction with one outcome, contiguous in delivered virtual time.

    ``first_ns`` and ``last_ns`` are the earliest and the latest delivered time, in ns from the
    entry into KVM_RUN; both belong to the window.

    :param placements: distinct delivered times inside.
    :param complete: every ns from first to last was delivered at least once, and so were the ns
        just before and just after.
    :param sharp: the ns just before and just after were delivered, whatever was left out inside.
    :param mixed: of these ns, those that came out both ways: L1's path to the entry into L2 is not
        always of the same length to the ns, and so an edge may be some ns wide.
    """

    instruction: Instruction
    kind: ViolationKind
    first_ns: int
    last_ns: int
    placements: int
    complete: bool
    mixed: int = 0
    sharp: bool = False


@dataclass(frozen=True)
class Breakdown:
    """How often one instruction's step was broken, and how often it was stepped at all.

    Of ``ss-leak`` and ``state-mismatch``: how often a register was wrong where user space read it
    while L2 stood there, and how often it was read there at all.
    """

    instruction: Instruction
    kind: ViolationKind
    broken: int
    stepped: int


@dataclass(frozen=True)
class Grid:
    """Which placements of one instruction were tried, in delivered virtual time.

    ``first_ns`` and ``last_ns`` are ns from the entry into KVM_RUN.

    :param placements: distinct delivered times.
    :param missing: ns between first and last at which no interrupt was delivered.
    """

    instruction: Instruction
    first_ns: int
    last_ns: int
    placements: int
    missing: int


MIXED = "mixed"
"""In :class:`Span`: the same placement came out both ways."""


@dataclass(frozen=True)
class Span:
    """Tried placements of one instruction, next to each other, that came out alike.

    :param first_ns: earliest delivered time, in ns from the entry into KVM_RUN.
    :param last_ns: latest; belongs to the span.
    :param outcome: ``ok``, a :class:`ViolationKind`, or ``MIXED``.
    :param placements: distinct delivered times tried; ``last_ns - first_ns + 1`` where none was
        left out.
    """

    first_ns: int
    last_ns: int
    outcome: str
    placements: int


@dataclass(frozen=True)
class Landmark:
    """A point of L1's path through one quiet step.

    :param at_ns: from the entry into KVM_RUN.
    :param name: ``guest entry``, ``guest exit``, or a function of L1's kernel.
    """

    at_ns: int
    name: str


@dataclass(frozen=True)
class PlacementMap:
    """Everything that was placed into one instruction's step.

    :param window_ns: from the entry into KVM_RUN to the return, without a placement; 0: not known.
    :param spans: ascending in time.
    :param landmarks: ascending in time.
    """

    instruction: Instruction
    window_ns: int
    spans: tuple[Span, ...]
    landmarks: tuple[Landmark, ...] = ()


class Method(StrEnum):
    """How placements were chosen, and with it what may be claimed."""

    FULL = "full"
    """Every ns of the window: the only one that may say `all`."""
    GRID = "grid"
    """Each so many ns."""
    ADAPTIVE = "adaptive"
    """A coarse grid, each change of the verdict refined, random probes between."""
    RANDOM = "random"


@dataclass(frozen=True)
class Coverage:
    """What was tried of a cell's placements.

    :param resolution_ns: what the counter and the timer can tell apart.
    :param tried: placed interrupts that were sent.
    :param inside: those that came inside a step window.
    :param missing: ns from an instruction's first placement to the end of its step window, summed
        over the instructions, at which none was delivered.
    :param first_ns: from here on a placement can reach each instruction's step, in ns from the
        entry into KVM_RUN: before, the timer is still being programmed.
    :param beyond_ns: those of ``missing`` that lie after an instruction's last placement.
    :param untouched: instructions that a quiet run steps, and of whose steps none had a placement.
    """

    method: Method
    resolution_ns: int
    tried: int
    inside: int
    missing: int
    first_ns: int = 0
    beyond_ns: int = 0
    untouched: int = 0


@dataclass(frozen=True)
class StepCost:
    """What L1 executes for one step of one class of instruction, without a flood.

    With ``-icount shift=0`` the virtual time from the entry into KVM_RUN to the return is L1's
    instructions, exactly; it has what EL2 and L2's one instruction take, too.

    :param instruction: its class, as payloads state classes: ``sysreg``, ``hvc``, ``load`` …
    :param steps: how many were measured.
    :param least: instructions of the shortest.
    :param median: of these steps.
    :param most: of the longest.
    """

    instruction: str
    steps: int
    least: int
    median: int
    most: int


@dataclass(frozen=True)
class CostChange:
    """The cost of one class of instruction, candidate against baseline: medians of L1
    instructions per step.

    :param alarming: it differs by more than the campaign allows.
    """

    instruction: str
    baseline: int
    candidate: int
    alarming: bool = False

    @property
    def ratio(self) -> float:
        """Candidate by baseline."""
        return self.candidate / self.baseline


@dataclass(frozen=True)
class Signature:
    """What makes two broken steps the same bug.

    :param scenario: job and exception order: ``step/tcg``.
    :param instruction: its class, as payloads state classes: ``sysreg``, ``hvc``, ``load`` …
    :param function: the function of L1's kernel that served the exit after which the step went
        wrong; empty where that is not known.
    """

    scenario: str
    instruction: str
    kind: ViolationKind
    function: str = ""


@dataclass(frozen=True)
class SourceCount:
    """What one source of interrupts did.

    :param sent: how often.
    :param held_back: how often not, since L2 had not handled the one before: they would be one.
    :param handled: by L2's own count; None where L2 hears nothing of it.
    """

    source: str
    sent: int
    held_back: int
    handled: int | None


@dataclass(frozen=True)
class InterruptCount:
    """Interrupts that L1 took, as its /proc/interrupts counts them.

    :param intid: or the number of an IPI.
    """

    name: str
    intid: int
    count: int


@dataclass(frozen=True)
class Excursions:
    """L2's interrupt handler, seen from the mainline.

    :param handled: how often the handler ran.
    :param nested: how often while it ran already.
    :param passes: over the payload.
    :param unfinished: of these, passes in which interrupts left no time for the mainline's end.
    """

    handled: int
    nested: int
    passes: int
    unfinished: int


@dataclass(frozen=True)
class Confirmation:
    """What fresh boots made of a signature that a batch of passes had shown.

    :param boots: fresh boots of one pass each.
    :param reproduced: those that showed the same signature.
    :param in_batch: no pass by itself showed it, but the whole batch did, booted once more.
    """

    boots: int
    reproduced: int
    in_batch: bool = False

    @property
    def flaky(self) -> bool:
        """Whether the same signature came out of some boots only."""
        return 0 < self.reproduced < self.boots


@dataclass(frozen=True)
class SignatureGroup:
    """All broken steps of one cell with one signature.

    :param count: how many.
    :param first_ns: of the windows that hold them: the earliest delivered time, in ns from the
        entry into KVM_RUN; None where no placement makes them.
    :param last_ns: the latest.
    :param finding_id: the directory under ``findings`` that can be replayed; empty: none was made.
    :param confirmation: None where nobody tried.
    """

    signature: Signature
    count: int
    first_ns: int | None = None
    last_ns: int | None = None
    finding_id: str = ""
    confirmation: Confirmation | None = None


@dataclass(frozen=True)
class CellResult:
    """What was measured and judged for one cell.

    :param steps: judged step reports.
    :param active_pending_entries: judged steps in which L2 was entered in Active-pending.
    :param interrupted_steps: judged steps with an interrupt delivered inside the step window.
    :param redirects: judged steps whose Software Step exception was turned into an interrupt.
    :param counted_steps: judged steps with at least one of the three.
    :param l1_ticks: interrupts inside step windows that were L1's own.
    :param placements: placed interrupts that were delivered.
    :param first_broken_step: judged steps up to the first that was broken, itself included; 0 if
        none was.
    :param fingerprint: hex digest of all that its boots recorded: equal ones, the same run.
    :param step_pcs: hex digest of the PCs that its passes reported, in order; passes that are alike
        count once.
    :param findings: the first of each (kind, instruction); counts are in ``violations``.
    :param reason: why, in one line, where the verdict is not ``pass``.
    :param warnings: what the kernel's WARN() printed, without repeats.
    :param attempts: tries of the boot that took most.
    :param maps: of each instruction that was placed into, in address order.
    :param coverage: None where nothing was placed.
    :param sources: what was sent, and what L2 handled of it.
    :param interrupts: L1's own counts, of all boots together.
    :param excursions: None where L2 takes no interrupts.
    :param signatures: what ``violations`` counts, most frequent first.
    :param exit_functions: (PC, function of L1's kernel that serves the exit of its step), where a
        boot with landmarks told.
    :param stepping_s: wall-clock seconds of its boots from the first report to the last.
    :param witnessed: a debugger's stops at which the gdbstub and the monitor showed the same PC and
        PSTATE, which truth then confirms or not.
    :param stopped_on_the_way: steps that a monitor's ``stop`` ended.
    :param costs: of each class of instruction that a quiet run steps, ascending by class.
    :param identity: hex digest of all that the cell depends on: what has the same need not be run
        again. Empty where that is not known, for a kernel that was not built, say.
    """

    cell: Cell
    verdict: CellVerdict
    steps: int = 0
    active_pending_entries: int = 0
    interrupted_steps: int = 0
    counted_steps: int = 0
    l1_ticks: int = 0
    placements: int = 0
    violations: tuple[tuple[ViolationKind, int], ...] = ()
    breakdown: tuple[Breakdown, ...] = ()
    findings: tuple[Finding, ...] = ()
    windows: tuple[Window, ...] = ()
    grids: tuple[Grid, ...] = ()
    reason: str = ""
    warnings: tuple[str, ...] = ()
    attempts: int = 1
    duration_s: float = 0.0
    redirects: int = 0
    first_broken_step: int = 0
    fingerprint: str = ""
    maps: tuple[PlacementMap, ...] = ()
    coverage: Coverage | None = None
    sources: tuple[SourceCount, ...] = ()
    interrupts: tuple[InterruptCount, ...] = ()
    excursions: Excursions | None = None
    signatures: tuple[SignatureGroup, ...] = ()
    exit_functions: tuple[tuple[int, str], ...] = ()
    step_pcs: str = ""
    stepping_s: float = 0.0
    witnessed: int = 0
    stopped_on_the_way: int = 0
    costs: tuple[StepCost, ...] = ()
    identity: str = ""

    def count(self, kind: ViolationKind) -> int:
        """Number of violations of one kind."""
        return dict(self.violations).get(kind, 0)

    @property
    def as_expected(self) -> bool:
        """Whether the cell did what its campaign expects; what was not judged never does."""
        if self.cell.expected == (Expectation.PASS,):
            return self.verdict is CellVerdict.PASS
        if self.cell.expected == (Expectation.HANG,):
            return self.verdict is CellVerdict.HANG
        if self.cell.expected == (Expectation.KERNEL_OOPS,):
            return self.verdict is CellVerdict.KERNEL_OOPS
        if self.cell.expected == (Expectation.FAIL,):
            return self.verdict is CellVerdict.FAIL
        seen = {kind.value for kind, number in self.violations if number}
        return self.verdict is CellVerdict.FAIL and seen == {*self.cell.expected}


@dataclass(frozen=True)
class SideBySide:
    """The PCs that both kernels reported around the first difference, in program order.

    ``rows`` are (instruction, baseline reported it, candidate reported it).
    """

    rows: tuple[tuple[Instruction, bool, bool], ...]


@dataclass(frozen=True)
class PairResult:
    """Two cells that differ in the kernel alone, or in the driver, or in L0's QEMU.

    :param costs: of the classes of instruction that both have, ascending by class.
    """

    baseline: Cell
    candidate: Cell
    outcome: PairOutcome
    message: str
    side_by_side: SideBySide | None = None
    costs: tuple[CostChange, ...] = ()

    @property
    def alarming(self) -> bool:
        """Whether it is worth a failure: by its outcome, or by what a step costs."""
        return self.outcome.alarming or any(one.alarming for one in self.costs)

    @property
    def sides(self) -> tuple[str, str]:
        """What tells them apart, as people call it."""
        one, other = self.baseline, self.candidate
        if one.kernel != other.kernel:
            return one.kernel, other.kernel
        if one.machine.qemu != other.machine.qemu:
            first, second = (side.machine.qemu or STOCK_QEMU for side in (one, other))
            return f"{one.kernel} on QEMU {first}", f"{other.kernel} on QEMU {second}"
        return f"{one.kernel} by {one.driver}", f"{other.kernel} by {other.driver}"


@dataclass(frozen=True)
class KernelIdentity:
    """Which kernel a name stood for.

    :param key: its content's key in the cache.
    :param source: what it was made from, in words: ``git SHA (v6.1-rc3-12-g0f1a6c5c9784)``.
    """

    name: str
    release: str
    key: str
    source: str = ""


@dataclass(frozen=True)
class Provenance:
    """What a result was measured with.

    :param qemu: its version line.
    :param qemu_identity: hex digest of the binary.
    :param phantom_rule: the rule that the self-test proved for it.
    :param nested_qemu: Debian suite and version of each QEMU that ran in L1.
    :param qemus: (name, version line) of each further L0 QEMU.
    :param phantom_rules: (name, rule) of each of them.
    :param tool: qemu-diff's own version.
    """

    kernels: tuple[KernelIdentity, ...] = ()
    qemu: str = ""
    qemu_identity: str = ""
    phantom_rule: str = ""
    nested_qemu: tuple[str, ...] = ()
    qemus: tuple[tuple[str, str], ...] = ()
    phantom_rules: tuple[tuple[str, str], ...] = ()
    tool: str = ""


@dataclass(frozen=True)
class CampaignResult:
    """Everything that a report renders.

    :param run: what the ledger knows this run by: hex, and the same after ``--resume``.
    :param started: when it was started, UTC, ISO 8601 to the second; empty: not known.
    :param only: the globs that chose its cells; empty: all cells of the campaign.
    """

    name: str
    cells: tuple[CellResult, ...]
    pairs: tuple[PairResult, ...]
    complete: bool
    provenance: Provenance = Provenance()
    run: str = ""
    started: str = ""
    only: tuple[str, ...] = ()


# --- from night to night -------------------------------------------------------------------------


@dataclass(frozen=True)
class PastCell:
    """A cell of an earlier run, as far as the ledger keeps it.

    :param started: of its run, UTC, ISO 8601 to the second.
    :param release: of its kernel; empty: not known.
    :param kernel_key: see :class:`KernelIdentity`; empty: not known.
    :param violations: the kinds that were seen, ascending.
    :param signatures: as people read them, ascending.
    """

    run: str
    started: str
    id: str
    verdict: CellVerdict
    as_expected: bool
    duration_s: float
    release: str = ""
    kernel_key: str = ""
    violations: tuple[ViolationKind, ...] = ()
    signatures: tuple[str, ...] = ()
    tool: str = ""


@dataclass(frozen=True)
class PastRun:
    """An earlier run of a campaign, as far as the ledger keeps it.

    :param started: UTC, ISO 8601 to the second.
    :param whole: it came to its end, and had all cells of its campaign.
    :param cells: ascending by id.
    """

    run: str
    started: str
    whole: bool
    cells: tuple[PastCell, ...]


class ChangeKind(StrEnum):
    """What became of a cell from one night to the next, worst first."""

    BROKE = "broke"
    """It was as expected."""
    OTHERWISE = "otherwise"
    """It is not as expected, as before, but in another way."""
    LOST = "lost"
    """It was judged, and now is not."""
    JUDGED = "judged"
    """The other way round."""
    MENDED = "mended"
    NEW = "new"
    GONE = "gone"


@dataclass(frozen=True)
class Change:
    """A cell that came out otherwise than the last time.

    :param before: None where it is new.
    :param now: None where it is gone.
    """

    kind: ChangeKind
    id: str
    before: PastCell | None
    now: PastCell | None


@dataclass(frozen=True)
class Flakiness:
    """A cell that came out both ways on the same kernel, with the same tool.

    :param runs: how often it was judged there.
    :param unexpected: how often not as expected.
    """

    id: str
    kernel_key: str
    runs: int
    unexpected: int


@dataclass(frozen=True)
class Nights:
    """What a report knows of earlier runs of the same campaign.

    :param since: when the run was started that ``changes`` are held against; empty: there is none.
    :param changes: worst first.
    :param flaky: ascending by id.
    """

    since: str = ""
    changes: tuple[Change, ...] = ()
    flaky: tuple[Flakiness, ...] = ()


@dataclass(frozen=True)
class History:
    """A campaign's runs side by side.

    :param runs: in the order of time.
    :param changes: of each cell from one run that has it to the next, in the order of time.
    :param flaky: ascending by id.
    """

    runs: tuple[PastRun, ...]
    changes: tuple[Change, ...]
    flaky: tuple[Flakiness, ...]


@dataclass(frozen=True)
class Estimate:
    """What cells will take, in wall-clock seconds.

    :param cells: id → seconds; a cell that nothing is known of is not there.
    :param unknown: how many such cells there are.
    :param at_once: boots side by side.
    """

    cells: Mapping[str, float]
    unknown: int
    at_once: int

    @property
    def duration_s(self) -> float:
        """Of all that is known of, side by side: the longest cell is not made shorter by that."""
        longest = max(self.cells.values(), default=0.0)
        return max(sum(self.cells.values()) / self.at_once, longest)


# --- bisection -----------------------------------------------------------------------------------


class CommitVerdict(StrEnum):
    """What is told to git of a commit, in git's words."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"


@dataclass(frozen=True)
class Symptom:
    """One way in which a cell is not as its campaign expects; where steps are broken, their
    signature.

    :param kind: a :class:`ViolationKind`, ``hang``, ``kernel-oops`` or ``fail``; ``no lost-step``
        where that must be seen, and is not.
    :param scenario: job, or session, and exception order: ``step/tcg``.
    :param instruction: its class; the payload, where no instruction is known.
    :param detail: of broken steps the function of L1's kernel that served the exit, of
        ``kernel-oops`` what the kernel said; empty where that is not known.
    """

    kind: str
    scenario: str
    instruction: str
    detail: str = ""


@dataclass(frozen=True)
class Commit:
    """A commit, as people read of it.

    :param author: name and address.
    :param date: the author's, ISO 8601.
    :param files: paths that it changes, against its first parent.
    """

    sha: str
    subject: str
    author: str = ""
    date: str = ""
    parents: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class BisectionStep:
    """A commit that was tested.

    :param reason: for the verdict, in one line.
    :param directory: of its results, relative to the bisection's; empty: there is none.
    :param build_s: wall-clock seconds; None where they are not known, and so for ``run_s``.
    """

    sha: str
    subject: str
    verdict: CommitVerdict
    reason: str = ""
    directory: str = ""
    build_s: float | None = None
    run_s: float | None = None


class BisectionEnding(StrEnum):
    """How a bisection ended."""

    FOUND = "found"
    NOT_CONFIRMED = "not confirmed"
    """Fresh boots of the commit that git names, or of its parents, say otherwise."""
    ONLY_SKIPPED = "only skipped commits left"
    WRONG_ENDS = "the ends are not as claimed"
    UNTESTABLE = "an end can't be tested"


@dataclass(frozen=True)
class Bisection:
    """What a bisection came to.

    :param tree: path or URL of the repository.
    :param paths: only commits that touch them were tested; empty: all.
    :param cells: ids of those that were run at each commit.
    :param symptoms: any of them makes a commit bad.
    :param steps: the ends first.
    :param message: the ending in one line.
    :param found: the first bad commit; several where only skipped ones were left.
    :param confirmations: the first bad commit and its parents, each as often as it was tested anew.
    :param sentences: (commit, what its cells showed), of the first bad commit and its parents.
    """

    campaign: str
    kernel: str
    tree: str
    paths: tuple[str, ...]
    cells: tuple[str, ...]
    symptoms: tuple[Symptom, ...]
    steps: tuple[BisectionStep, ...]
    ending: BisectionEnding
    message: str
    found: tuple[Commit, ...] = ()
    confirmations: tuple[BisectionStep, ...] = ()
    sentences: tuple[tuple[str, tuple[str, ...]], ...] = ()
