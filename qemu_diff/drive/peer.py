"""A peer's boot: L1 runs the kernel's own single-step selftest instead of the step VMM.

The selftest asks KVM for steps as any user-space program would, and judges them itself: the PC must
advance by 4. It is a second opinion on a kernel, from a program that shares nothing with our step
VMM, our truth and our step contract.
"""

from __future__ import annotations

import os
import random
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from qemu_diff.drive.async_first import Redirector, plan_at
from qemu_diff.errors import GdbStubError, InfrastructureError
from qemu_diff.guest.initramfs import pack
from qemu_diff.guest.machine import MachineFiles, argv
from qemu_diff.guest.process import CONSOLE, Ending, GuestExit, private_socket, run_guest
from qemu_diff.guest.qemu import Qemu
from qemu_diff.guest.toolchain import CROSS_COMPILER, compile_cached
from qemu_diff.kernels.selftest import Selftest
from qemu_diff.model import (
    Build,
    ExceptionOrder,
    FloodSource,
    FloodSpec,
    KvmMode,
    MachineSpec,
)
from qemu_diff.scratch import scratch_directory

TICK_ONLY = 0
"""``wake_ns`` of a run as upstream has it: nothing interrupts the stepped guest but L1's tick."""

# Linux tools/testing/selftests/kselftest.h, KSFT_SKIP.
_SKIPPED = 4

# Linux tools/testing/selftests/kvm/lib/assert.c, test_assert(): every complaint starts with it.
_ASSERTION = "==== Test Assertion Failure ===="

# Linux arch/arm64/kvm/arm.c, kvm_arm_init(): "VHE", "VHE+NV2", "Hyp", "Hyp nVHE", "Protected nVHE".
_MODE = re.compile(r"^peer: kernel kvm \[\d+\]: (?P<mode>.*) mode initialized successfully$")
_MODE_NAMES = {
    KvmMode.VHE: re.compile(r"VHE(\+\w+)?"),
    KvmMode.NVHE: re.compile(r"Hyp( nVHE)?"),
    KvmMode.PROTECTED: re.compile(r"Protected [hn]VHE"),
}

GUEST_ENTRY = "guest_code_ss"
"""What the selftest single-steps (its aarch64/debug-exceptions.c); L2's virtual addresses are those
of the program."""

_BEGIN = "peer: begin"
_EXIT = re.compile(r"^peer: exit (?P<status>-?[0-9]{1,10}) (?P<ns>[0-9]{1,20})$")
_FAILED = re.compile(r"^peer: failed: (?P<reason>.*)$")


class PeerVerdict(StrEnum):
    """What the selftest says of a kernel; ``lost`` says nothing of it."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"
    KERNEL_OOPS = "kernel-oops"
    LOST = "lost"


@dataclass(frozen=True)
class PeerTools:
    """What every run needs, prepared once.

    :param init: PID 1 (guest_images/peer), a static aarch64 ELF file.
    :param guest_images: the directory of our own sources for guests.
    :param cache: where what is compiled of them is kept.
    """

    qemu: Qemu
    init: Path
    guest_images: Path
    cache: Path


@dataclass(frozen=True)
class PeerConsole:
    """What a console says of a run.

    :param status: the selftest's exit status, or minus the signal that ended it; None where it did
        not come to an end.
    :param virtual_ns: ns of virtual time that it ran for, or None.
    :param words: what it printed itself, without empty lines.
    :param failure: why PID 1 could not run it; may be empty.
    :param kvm_mode: how L1's kernel names the mode that KVM came up in; empty if it does not.
    """

    status: int | None
    virtual_ns: int | None
    words: tuple[str, ...]
    failure: str
    kvm_mode: str


@dataclass(frozen=True)
class PeerRun:
    """One run of the selftest.

    :param reason: why, in one line, where the verdict is not ``pass``.
    :param status: see :class:`PeerConsole`; so are ``words``, ``virtual_ns`` and ``kvm_mode``.
    :param iterations: of its single-step loop, as asked for.
    :param iterations_reached: those that it did; None where that is not known: a selftest that
        stops at an unexpected PC does not say in which iteration.
    :param wall_s: seconds from QEMU's start to its end.
    """

    verdict: PeerVerdict
    reason: str
    status: int | None
    words: tuple[str, ...]
    iterations: int
    iterations_reached: int | None
    virtual_ns: int | None
    kvm_mode: str
    wall_s: float


def prepare_peer(qemu: Qemu, guest_images: Path, cache: Path) -> PeerTools:
    """Compile PID 1.

    :raises MissingToolError: the cross compiler is missing.
    :raises CompileError: it refuses.
    """
    init = compile_cached(
        [
            CROSS_COMPILER, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror",
            "-static", "-no-pie",
        ],
        sources=sorted((guest_images / "peer").glob("*.c")),
        inputs=[],
        cache=cache / "peer",
        name="init",
    )  # fmt: skip
    return PeerTools(qemu, init, guest_images, cache)


def run_peer(
    tools: PeerTools,
    build: Build,
    selftest: Selftest,
    *,
    iterations: int,
    machine: MachineSpec,
    seed: int,
    directory: Path,
    budget_s: float,
    cancel: threading.Event,
    wake_ns: int = TICK_ONLY,
) -> PeerRun:
    """Boot a kernel and let the selftest judge it.

    :param iterations: of the selftest's single-step loop; upstream's default is 10,000.
    :param seed: of QEMU and of the wakeups: the same seed, the same run.
    :param directory: gets the command line, the arguments and the console.
    :param budget_s: wall-clock seconds for the boot.
    :param cancel: set it to call the run off.
    :param wake_ns: PID 1 wakes up at random moments, so many ns of virtual time apart on average,
        and each wakeup interrupts the stepped guest; or ``TICK_ONLY``.
    :raises InfrastructureError: no room on the disk, or QEMU can't be started, or ``async_first``
        can't be kept up.
    :raises Cancelled: ``cancel`` was set.
    """
    contents = initramfs_files(iterations, wake_ns, seed)
    programs = {"init": tools.init.read_bytes(), "peer": selftest.program.read_bytes()}
    with private_socket() as qmp_socket, _scratch(directory) as scratch:
        plan = None
        if machine.exception_order is ExceptionOrder.ASYNC_FIRST:
            plan = plan_at(machine, _guest_entry(selftest), tools.guest_images, tools.cache)
        redirector = Redirector(plan, qmp_socket.with_name("gdb"), budget_s, cancel)
        files = MachineFiles(
            kernel=build.image,
            initramfs=scratch / "initramfs",
            shared=None,
            # Nothing is placed, so nobody asks when L1's timers fired.
            timer_log=Path(os.devnull),
            qmp_socket=qmp_socket,
            plugin=None,
            gdb_socket=redirector.socket,
        )
        command = argv(tools.qemu, machine, files, seed)
        _write(files.initramfs, pack({**programs, **contents}))
        for name, content in contents.items():
            _write(directory / name, content)
        redirector.start()
        ended = run_guest(
            command,
            directory,
            qmp_socket,
            memory_mib=machine.memory_mib,
            budget_s=budget_s,
            cancel=cancel,
            watch=redirector.check,
        )
        if complaint := redirector.finish():
            raise GdbStubError(complaint)
    console = parse_console((directory / CONSOLE).read_text(errors="replace"))
    return judge(console, ended, machine.kvm_mode, iterations)


def _guest_entry(selftest: Selftest) -> int:
    try:
        with selftest.program.open("rb") as file:
            table = ELFFile(file).get_section_by_name(".symtab")
            found = None
            if isinstance(table, SymbolTableSection):
                found = table.get_symbol_by_name(GUEST_ENTRY)
    except ELFError as error:
        raise InfrastructureError(f"{selftest.program}: no ELF file: {error}") from error
    if not found:
        raise InfrastructureError(f"{selftest.program}: the selftest has no {GUEST_ENTRY}")
    return int(found[0]["st_value"])


def initramfs_files(iterations: int, wake_ns: int, seed: int) -> dict[str, bytes]:
    """The files that tell PID 1 what to run, by name (guest_images/peer/init.c)."""
    return {
        "arguments": f"/peer\n-i\n{iterations}\n".encode(),
        "wakeups": wakeups_file(wake_ns, seed),
    }


def wakeups_file(wake_ns: int, seed: int) -> bytes:
    """What makes PID 1 wake up at random moments, or not (guest_images/peer/init.c).

    :param wake_ns: ns of virtual time from one to the next, on average; or ``TICK_ONLY``.
    """
    # Its generator stands still at 0, and starts slowly from a small number.
    random_seed = random.Random(seed).getrandbits(64) | 1
    return f"{wake_ns} {random_seed}\n".encode() if wake_ns else b""


def mean_wake_ns(flood: FloodSpec) -> int:
    """The mean of the delays that a flood of ``host_timer`` draws from, in ns; or ``TICK_ONLY``."""
    if FloodSource.HOST_TIMER not in flood.sources:
        return TICK_ONLY
    assert flood.last_ns is not None, "the campaign's checks let no such flood without it through"
    return max(1, (flood.first_ns + flood.last_ns) // 2)


def parse_console(text: str) -> PeerConsole:
    """What guest_images/peer/init.c and the selftest said.

    :param text: the whole console, the kernel's own messages included.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    status = virtual_ns = None
    words: list[str] = []
    failure = kvm_mode = ""
    begun = False
    for line in lines:
        if found := _EXIT.match(line):
            status, virtual_ns = int(found["status"]), int(found["ns"])
            break
        if found := _FAILED.match(line):
            failure = found["reason"]
            break
        if begun:
            words.append(line)
        elif found := _MODE.match(line):
            kvm_mode = found["mode"]
        begun = begun or line == _BEGIN
    return PeerConsole(status, virtual_ns, tuple(words), failure, kvm_mode)


def judge(console: PeerConsole, ended: GuestExit, mode: KvmMode, iterations: int) -> PeerRun:
    """The verdict of a run that has come to an end.

    :param mode: the KVM mode that was asked for.
    """
    verdict, reason = _verdict(console, ended, mode)
    return PeerRun(
        verdict=verdict,
        reason=reason,
        status=console.status,
        words=console.words,
        iterations=iterations,
        iterations_reached=iterations if verdict is PeerVerdict.PASS else None,
        virtual_ns=console.virtual_ns,
        kvm_mode=console.kvm_mode,
        wall_s=ended.wall_s,
    )


def _verdict(console: PeerConsole, ended: GuestExit, mode: KvmMode) -> tuple[PeerVerdict, str]:
    if ended.death:
        return PeerVerdict.KERNEL_OOPS, ended.death
    if lost := _loss(console, ended) or _wrong_mode(console, mode):
        return PeerVerdict.LOST, lost
    last = console.words[-1] if console.words else ""
    if console.status == 0:
        return PeerVerdict.PASS, ""
    if console.status == _SKIPPED:
        return PeerVerdict.SKIP, last
    if _ASSERTION in console.words:
        return PeerVerdict.FAIL, last
    how = f"ended with status {console.status} and no assertion"
    return PeerVerdict.LOST, f"the selftest {how}" + (f": {last}" if last else "")


def _loss(console: PeerConsole, ended: GuestExit) -> str:
    """Why nothing was learnt, or nothing."""
    if console.failure:
        return console.failure
    if ended.ending is Ending.OUT_OF_BUDGET:
        return f"no end within {ended.wall_s:.0f} s"
    if ended.ending is Ending.DIED:
        return f"QEMU died with status {ended.status}: {ended.last_line}"
    return "" if console.status is not None else f"the guest went away: {ended.last_line}"


def _wrong_mode(console: PeerConsole, mode: KvmMode) -> str:
    """A kernel that did not do as it was told is not the one to be judged; one that is silent
    about its mode is believed."""
    if not console.kvm_mode or _MODE_NAMES[mode].fullmatch(console.kvm_mode):
        return ""
    return f"KVM came up in mode {console.kvm_mode!r}, not in {mode.value}"


@contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    """A directory for what is large, and of no use after the boot."""
    with ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            scratch = stack.enter_context(scratch_directory(directory))
        except OSError as error:
            raise InfrastructureError(f"{directory}: {error.strerror}") from error
        yield scratch


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InfrastructureError(f"{path}: {error.strerror}") from error
