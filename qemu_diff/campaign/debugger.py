"""gdb on a finding, stopped just before the step that goes wrong.

The finding's job is booted twice: once recorded by QEMU, and once replayed from that recording. A
gdb that stops a machine under ``-icount sleep=off`` moves its virtual time on to the next timer,
and the step that an interrupt had broken comes out right: a debugger that hides the bug. While QEMU
replays, virtual time comes from the recording, whoever stops it.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np

from qemu_diff.abi import TruthKind
from qemu_diff.campaign.finding_directory import PAYLOAD_SOURCE, StoredFinding
from qemu_diff.campaign.fresh_boot import Bench, FreshBoot, fresh_boot
from qemu_diff.compare.slices import run_of_truth
from qemu_diff.drive.async_first import PSTATE_EL, SYNCHRONOUS_SLOT, lay_stub, plan_of
from qemu_diff.drive.in_guest import boot
from qemu_diff.errors import (
    GdbStubError,
    InfrastructureError,
    QemuDiffError,
    SourceError,
    UserError,
)
from qemu_diff.guest.gdb import require_gdb
from qemu_diff.guest.gdbstub import CPSR, PC, GdbStub, connected
from qemu_diff.guest.image import LOAD_ADDRESS, assemble
from qemu_diff.guest.machine import Recording
from qemu_diff.guest.process import Cancelled, private_socket
from qemu_diff.guest.qcow2 import empty_image
from qemu_diff.model import ExceptionOrder, Finding, Instruction, KvmMode
from qemu_diff.trace.listing import Listing
from qemu_diff.trace.symbols import Symbols, read_symbols

WHERE, INIT = "WHERE.txt", "init.gdb"

SESSION_S = 7 * 86_400.0
"""Wall-clock seconds after which a forgotten session ends."""

TO_STOP_S = 300.0
"""Wall-clock seconds to the place where gdb takes over."""

SNAPSHOT_BYTES = 1 << 20

SERVING = {
    "hvc": ("handle_hvc", "kvm_hvc_call_handler", "kvm_smccc_call_handler"),
    "sysreg": ("kvm_handle_sys_reg", "kvm_skip_instr"),
    "smc": ("handle_smc",),
    "load": ("kvm_handle_guest_abort", "kvm_handle_mmio_return"),
    "store": ("kvm_handle_guest_abort", "kvm_handle_mmio_return"),
}
"""Class of the instruction → functions of L1's kernel that may serve its exit (Linux
arch/arm64/kvm/handle_exit.c); those that the kernel has are named."""

EVERY_STEP = ("kvm_handle_guest_debug", "kvm_arm_setup_debug", "kvm_vcpu_load_debug")


@dataclass(frozen=True)
class Stop:
    """Where gdb takes over.

    :param address: of L2's instruction that is executed next.
    :param hits: how often L2 stands there up to then, this time included.
    """

    address: int
    hits: int


@dataclass(frozen=True)
class Session:
    """What the user wants of gdb.

    :param command: a file of gdb commands, or None.
    :param batch: gdb ends with its commands.
    :param reverse: whether gdb shall be able to go backwards.
    """

    command: Path | None = None
    batch: bool = False
    reverse: bool = False


def debug(
    stored: StoredFinding,
    bench: Bench,
    session: Session,
    out: Path,
    say: Callable[[str], None],
) -> int | None:
    """Hand a finding over to gdb.

    :param out: gets ``WHERE.txt``, gdb's first commands, the console.
    :param say: gets ``WHERE.txt`` before gdb begins.
    :returns: gdb's exit status; None where the finding does not come out.
    :raises UserError: gdb is not there, or the finding needs the gdbstub for itself.
    :raises InfrastructureError: the machine did not come to the place.
    """
    _check(stored, session)
    out.mkdir(parents=True, exist_ok=True)
    snapshot = out / "snapshot.qcow2" if session.reverse else None
    if snapshot:
        empty_image(snapshot, SNAPSHOT_BYTES)
    log = out / "recording"
    log.touch()
    done = fresh_boot(bench, stored.job, out / "recorded", Recording(False, log, snapshot))
    record = stored.record
    finding = done.finding(record.cell, bench.payload, record.signature)
    if finding is None:
        return None
    stop, symbols = stop_of(done, finding), _symbols(bench.build.vmlinux)
    with _replayed(stored, bench, out / "replayed", Recording(True, log, snapshot)) as socket:
        vectors = _run_to(stop, stored, bench, socket)
        text = where_text(
            stored, bench, finding, stop, vectors, symbols=symbols, reverse=session.reverse
        )
        (out / WHERE).write_text(text)
        say(text)
        init = _init_commands(stored, bench, out, socket)
        return _gdb(init, session)


def _check(stored: StoredFinding, session: Session) -> None:
    require_gdb()
    if session.command is not None and not session.command.is_file():
        raise UserError(f"--command {session.command}: no such file")
    machine = stored.record.cell.machine
    if machine.redirect_at:
        raise UserError(
            f"{stored.record.id}: redirect_at needs L0's gdbstub for itself, so gdb can't have it"
        )
    if session.reverse and machine.exception_order is ExceptionOrder.ASYNC_FIRST:
        raise UserError(
            f"{stored.record.id}: --reverse goes back to before async_first was laid over KVM's "
            "vectors; debug it without"
        )


def stop_of(done: FreshBoot, finding: Finding) -> Stop:
    """The last place before a finding's step goes wrong, as L2's PC and how often it is there.

    A breakpoint also stops at an entry in Active-pending, where nothing is executed: the truth has
    these as phantoms, and they count.

    :raises InfrastructureError: L2 never ran before.
    """
    trace, steps = done.trace, done.observation.steps
    run = run_of_truth(trace.records, trace.truth)
    shown = (trace.truth["kind"] == TruthKind.INSTRUCTION) & (run <= finding.report)
    rows = np.flatnonzero(shown)
    if finding.executed:
        first = steps.first_run[steps.run == finding.report]
        executed = rows[(run[rows] >= first[0]) & ~trace.phantom[rows]]
        there = executed[trace.truth["pc"][executed] == finding.executed[0].address][:1]
    else:
        there = rows[-1:]
    if not len(there):
        raise InfrastructureError("L2 executed nothing before the step that went wrong")
    address = int(trace.truth["pc"][there[0]])
    hits = np.sum(trace.truth["pc"][rows[rows <= there[0]]] == address)
    return Stop(address, int(hits))


# --- the machine ---------------------------------------------------------------------------------


@contextmanager
def _replayed(
    stored: StoredFinding, bench: Bench, directory: Path, recording: Recording
) -> Iterator[Path]:
    """QEMU before its first instruction, replaying; its gdbstub's socket. Gone afterwards."""
    cancel = threading.Event()

    def run(socket: Path) -> None:
        with suppress(Cancelled, QemuDiffError):
            boot(
                bench.tools,
                bench.build,
                bench.payload,
                stored.job,
                machine=bench.cell.machine,
                seed=bench.cell.seed,
                directory=directory,
                budget_s=SESSION_S,
                cancel=cancel,
                recording=recording,
                debugger=socket,
            )

    with private_socket() as beside:
        socket = beside.with_name("gdb")
        thread = threading.Thread(target=run, args=(socket,), name="debugged", daemon=True)
        thread.start()
        try:
            yield socket
        finally:
            cancel.set()
            thread.join()


def _run_to(stop: Stop, stored: StoredFinding, bench: Bench, socket: Path) -> int:
    """Let the machine come to the place, and leave it there; VBAR_EL2."""
    tools = bench.tools
    plan = plan_of(stored.record.cell.machine, bench.payload, tools.guest_images, tools.cache)
    with connected(socket, time.monotonic() + TO_STOP_S, bench.cancel) as gdb:
        if plan is not None:
            lay_stub(gdb, plan)
        hits = 0
        while hits < stop.hits:
            gdb.run_to(stop.address)
            # A program of L1's may be linked to the same address.
            if gdb.read_register(CPSR) & PSTATE_EL or _in_l2(gdb):
                hits += 1
            if hits < stop.hits:
                gdb.step()
        if gdb.read_register(PC) != stop.address:
            raise GdbStubError(f"the machine is not at {stop.address:#x}")
        return gdb.read_system_register("VBAR_EL2")


def _in_l2(gdb: GdbStub) -> bool:
    """Whether EL0 is a guest's: HCR_EL2.TGE is 0 there (DDI 0487, HCR_EL2), and VM is 1."""
    hcr = gdb.read_system_register("HCR_EL2")
    return not hcr >> 27 & 1 and bool(hcr & 1)


# --- gdb -----------------------------------------------------------------------------------------


def _init_commands(stored: StoredFinding, bench: Bench, out: Path, socket: Path) -> list[str]:
    """gdb's command line up to where the user's commands begin."""
    lines = ["set confirm off", "set architecture aarch64"]
    if bench.build.vmlinux is not None:
        lines.append(f"file {bench.build.vmlinux}")
    program = _payload_program(stored, out)
    if program is not None:
        lines.append(f"add-symbol-file {program} {LOAD_ADDRESS:#x}")
    lines.append(f"target remote {socket}")
    (out / INIT).write_text("\n".join(lines) + "\n")
    return [require_gdb(), "--nx", "--quiet", "-x", str(out / INIT)]


def _payload_program(stored: StoredFinding, out: Path) -> Path | None:
    """The payload with its symbols; None where there is no compiler."""
    scratch = out / "payload"
    scratch.mkdir(exist_ok=True)
    source = scratch / "payload.S"
    shutil.copyfile(stored.directory / PAYLOAD_SOURCE, source)
    with suppress(InfrastructureError, UserError):
        assemble(source, (stored.directory.absolute(),), scratch)
    return next(scratch.glob("payloads/*/payload.elf"), None)


def _gdb(command: list[str], session: Session) -> int:
    """Run gdb until it ends. Ctrl-C is gdb's."""
    if session.command is not None:
        command = [*command, "-x", str(session.command)]
    if session.batch:
        command = [*command, "--batch"]
    before = signal.signal(signal.SIGINT, _left_to_gdb)
    try:
        # The terminal, or the pipe, is gdb's: what it prints is the command's own output.
        return subprocess.run(command, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)


def _left_to_gdb(_signal: int, _frame: FrameType | None) -> None:
    """A handler of ours, unlike SIG_IGN, is not inherited by gdb."""


def _symbols(vmlinux: Path | None) -> Symbols | None:
    if vmlinux is None:
        return None
    with suppress(SourceError):
        return read_symbols(vmlinux)
    return None


# --- where one is --------------------------------------------------------------------------------


def where_text(
    stored: StoredFinding,
    bench: Bench,
    finding: Finding,
    stop: Stop,
    vectors: int,
    *,
    symbols: Symbols | None,
    reverse: bool,
) -> str:
    """One page: where gdb takes over, what will happen, and what to type."""
    listing = Listing(bench.payload)
    at = listing.instruction(stop.address)
    vector = vectors + SYNCHRONOUS_SLOT
    named = symbols.name(vector) if symbols else ""
    lines = [
        f"{stored.record.id}",
        f"kernel {bench.build.kernel} {bench.build.release} (key {bench.build.key})",
        "",
        "Where you are",
        f"  guest PC      {at.address:#x}  {at.label}",
        f"  next          {at.text}    (L2 stands there for time {stop.hits} of this run)",
        f"  level         L2, the nested guest; pass {finding.pass_number}, "
        f"before report {finding.report}",
        f"  L1's kernel   waits in KVM_RUN; L2's exits arrive at {vector:#x}"
        + (f", {named}" if named else ""),
        "",
        "What will happen",
        *(f"  {line}" for line in _what_will_happen(finding)),
        "",
        "What to type",
        *(f"  {line}" for line in _useful(stored, finding, symbols, reverse)),
    ]
    return "\n".join(lines) + "\n"


def _what_will_happen(finding: Finding) -> list[str]:
    lines = [finding.message]
    if finding.delivered_ns is not None:
        lines.append(
            f"L1's timer interrupt is delivered {finding.delivered_ns:,} ns after the entry into "
            "KVM_RUN, stops of gdb or not: QEMU replays a recording"
        )
    lines.extend(f"no debugger inside sees L2 stop at {_at(one)}" for one in finding.missed)
    return lines


def _at(one: Instruction) -> str:
    return f"{one.address:#x} {one.label}: {one.text}"


def _useful(
    stored: StoredFinding, finding: Finding, symbols: Symbols | None, reverse: bool
) -> Iterator[str]:
    if symbols is None:
        yield "(no vmlinux: L1's kernel has no names here; give it with --image and --vmlinux)"
    else:
        if stored.record.cell.machine.kvm_mode is KvmMode.NVHE:
            yield "(nVHE: names are of L1's kernel at EL1; what runs at EL2 has other addresses)"
        wanted = (*SERVING.get(stored.record.signature.instruction, ()), *EVERY_STEP)
        for name in filter(symbols.holds, wanted):
            yield f"hbreak {name}"
    for one in dict.fromkeys((*finding.missed, finding.reported_pc)):
        yield f"hbreak *{one.address:#x}    # {one.label}"
    yield "continue"
    yield "stepi    # L0's own single-step: into EL2's vector and back"
    yield "p/x $ESR_EL2    # also $SPSR_EL2, $ELR_EL2, $MDSCR_EL1, $HCR_EL2"
    if reverse:
        yield "reverse-stepi    # and reverse-continue; each boots anew to where it has to be"
