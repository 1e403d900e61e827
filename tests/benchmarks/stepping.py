"""Boots that step, and what a step costs: programs in L1, kernels and QEMU's options differ."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median

from benchmarks.pages import ROOT
from qemu.qmp import QMPClient, QMPError

from qemu_diff.confinement import cut_off
from qemu_diff.drive.in_guest import TRUTH_CAPACITY
from qemu_diff.drive.job import compiled, quiet_job
from qemu_diff.drive.script import read_script, script_path
from qemu_diff.errors import CorruptDataError, InfrastructureError
from qemu_diff.guest.host_qemu import qemu_of
from qemu_diff.guest.image import (
    LOAD_ADDRESS,
    MEMORY_BYTES,
    StepVmm,
    build_payload,
    build_stepvmm,
    initramfs,
)
from qemu_diff.guest.initramfs import pack
from qemu_diff.guest.machine import SHARED_BYTES, MachineFiles, argv
from qemu_diff.guest.qemu import Qemu
from qemu_diff.guest.shared import read_header, reserve
from qemu_diff.guest.toolchain import CROSS_COMPILER, compile_cached
from qemu_diff.kernels import build_kernel
from qemu_diff.kernels.cache import cache_directory
from qemu_diff.kernels.pages import with_pages
from qemu_diff.model import DebianSource, KernelSpec, MachineSpec, Payload, QemuSpec
from qemu_diff.truth.plugin import TruthPlugin, prepare_plugin
from qemu_diff.truth.reader import truth_bytes

GUEST_IMAGES = ROOT / "guest_images"
SOURCE = DebianSource("linux-source-6.1")
PAYLOAD = "straightline"
JOB = "step"
PASSES = 720
"""Over the payload: about thirty thousand steps, some two seconds."""

FLOOR_STEPS = 30_000
FIRST_STEPS = 600
"""They translate L1's code: they are left out."""

ATTEMPTS = 4
POLL_S = 0.002
BUDGET_S = 120.0
KERNEL = "benchmark"
JIT_COUNTS = ("TLB full flushes", "TLB partial flushes", "TLB elided flushes")
"""Lines of ``info jit`` (QEMU accel/tcg/monitor.c)."""

BEGIN, END = b"floor: begin", b"floor: end"
"""What floor.c says."""


@dataclass(frozen=True)
class Way:
    """One way to step.

    :param passes: of the step VMM over the payload; the floor's steps are fixed.
    :param floor: floor.c is PID 1 of L1, and not the step VMM.
    :param pstate: it reads PSTATE, too, as the step VMM does.
    :param kconfig: fragments over our own.
    :param suite: of L0's QEMU; empty: the one on ``PATH``.
    :param options: instead of those that L0 has: name → value; None: it is left out.
    :param more: options at the end.
    :param around: what starts QEMU.
    """

    name: str
    passes: int = PASSES
    floor: bool = False
    pstate: bool = False
    plugin: bool = False
    icount: bool = False
    machine: MachineSpec = field(default_factory=MachineSpec)
    kconfig: tuple[Path, ...] = ()
    suite: str = ""
    options: tuple[tuple[str, str | None], ...] = ()
    more: tuple[str, ...] = ()
    around: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pace:
    """What stepping cost in one boot, without its first steps.

    :param cpu_s: of QEMU, all its threads.
    """

    steps: int
    wall_s: float
    cpu_s: float

    @property
    def per_cpu_s(self) -> float:
        """Steps for each second of QEMU's CPU time: another load of the machine changes little."""
        return self.steps / self.cpu_s


@dataclass(frozen=True)
class _Moment:
    """:param steps: so far."""

    steps: int
    wall_s: float
    cpu_s: float


class Stepping:
    """What all boots need, made once."""

    def __init__(self) -> None:
        self.cache = cache_directory("guest")
        self.stepvmm: StepVmm = build_stepvmm(GUEST_IMAGES, self.cache)
        self.payload: Payload = build_payload(PAYLOAD, GUEST_IMAGES, self.cache)
        self._plugins: dict[str, TruthPlugin] = {}

    @cached_property
    def floor(self) -> bytes:
        """floor.c, compiled as the step VMM is."""
        program = compile_cached(
            [CROSS_COMPILER, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static"],
            sources=[Path(__file__).with_name("floor.c")],
            inputs=[],
            cache=self.cache / "floor",
            name="floor",
        )
        return program.read_bytes()

    def qemu(self, way: Way) -> Qemu:
        """L0's QEMU."""
        return qemu_of(QemuSpec(way.suite, suite=way.suite) if way.suite else None)

    def prepare(self, way: Way) -> None:
        """Build its kernel and fetch its QEMU, unless they are there.

        :raises QemuDiffError: they can't be had here.
        """
        self._kernel(way)
        self.qemu(way)

    def pace(self, way: Way) -> Pace:
        """Boot once; again, where a busy machine did not let us look often enough.

        :raises InfrastructureError: L1 did not come to the end.
        """
        for _ in range(ATTEMPTS):
            if (pace := self._pace(way)) is not None:
                return pace
        raise InfrastructureError(f"{way.name}: nothing was seen of {ATTEMPTS} boots")

    def _pace(self, way: Way) -> Pace | None:
        with self._started(way) as (qemu, directory):
            steps = _floor_steps if way.floor else _recorded_steps
            moments = list(_moments(qemu, directory, steps))
            said = (directory / "console").read_text(errors="replace")
        after = [one for one in moments if one.steps >= FIRST_STEPS]
        if qemu.returncode or not moments:
            last = (said.strip().splitlines() or ["nothing"])[-1]
            raise InfrastructureError(f"{way.name}: exit status {qemu.returncode}: {last}")
        if len(after) < 2:
            return None
        begin, end = after[0], after[-1]
        return Pace(end.steps - begin.steps, end.wall_s - begin.wall_s, end.cpu_s - begin.cpu_s)

    def counted(self, way: Way) -> dict[str, float]:
        """What QEMU's ``info jit`` counts, for each step: of the step VMM, in the midst of a boot.

        :raises InfrastructureError: it ended before.
        """
        with self._started(way) as (_, directory):
            pages = [_jit_at(directory, steps) for steps in (FIRST_STEPS, 10 * FIRST_STEPS)]
        (first, before), (last, after) = pages
        return {name: (after[name] - before[name]) / (last - first) for name in JIT_COUNTS}

    @contextmanager
    def _started(self, way: Way) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """QEMU, and its directory: both are gone afterwards."""
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qemu-diff-")))
            command = self._command(way, directory)
            console = stack.enter_context((directory / "console").open("wb"))
            qemu = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
                preexec_fn=cut_off(os.getpid()),  # noqa: PLW1509 - it calls nothing that locks
            )  # fmt: skip
            stack.callback(qemu.wait)
            stack.callback(qemu.kill)
            yield qemu, directory

    def _command(self, way: Way, directory: Path) -> list[str]:
        initrd, shared, truth = (directory / name for name in ("initramfs", "shared", "truth"))
        initrd.write_bytes(self._archive(way))
        reserve(shared, SHARED_BYTES)
        files = MachineFiles(
            kernel=self._kernel(way),
            initramfs=initrd,
            shared=shared,
            timer_log=directory / "timer.log",
            qmp_socket=directory / "qmp",
            plugin=self._plugin_argument(way, truth) if way.plugin else None,
        )
        command = argv(self.qemu(way), way.machine, files, seed=1)
        if not way.icount:
            command = with_option(command, "-icount", None)
        for name, value in way.options:
            command = with_option(command, name, value)
        return [*way.around, *command, *way.more]

    def _kernel(self, way: Way) -> Path:
        spec = KernelSpec(KERNEL, SOURCE, kconfig=way.kconfig)
        return build_kernel(with_pages(spec, way.machine.page_kib)).image

    def _archive(self, way: Way) -> bytes:
        if not way.floor:
            script = read_script(script_path(GUEST_IMAGES, JOB))
            job = quiet_job(compiled(script, self.payload), way.passes)
            return initramfs(self.stepvmm, job.encode(self.payload), self.payload)
        numbers = (
            LOAD_ADDRESS, MEMORY_BYTES, self.payload.entry, self.payload.end,
            FIRST_STEPS, FLOOR_STEPS, int(way.pstate),
        )  # fmt: skip
        job = " ".join(map(str, numbers))
        return pack({"init": self.floor, "job": job.encode(), "payload": self.payload.blob})

    def _plugin_argument(self, way: Way, truth: Path) -> str:
        reserve(truth, truth_bytes(TRUTH_CAPACITY))
        if way.suite not in self._plugins:
            qemu = self.qemu(way)
            self._plugins[way.suite] = prepare_plugin(qemu, GUEST_IMAGES, self.cache)
        end, marks = LOAD_ADDRESS + MEMORY_BYTES, self.stepvmm.marks
        return self._plugins[way.suite].argument(truth, TRUTH_CAPACITY, LOAD_ADDRESS, end, marks)


def interleaved(
    stepping: Stepping, ways: Sequence[Way], rounds: int
) -> dict[str, tuple[Pace, ...]]:
    """A B C B C A C A B …: what slows the machine down for a while slows all of them, and none
    always comes first.

    :raises InfrastructureError: see :meth:`Stepping.pace`.
    """
    paces: dict[str, list[Pace]] = {way.name: [] for way in ways}
    for number in range(rounds):
        first = number * len(ways) // rounds
        for way in (*ways[first:], *ways[:first]):
            pace = stepping.pace(way)
            paces[way.name].append(pace)
            print(f"  {number + 1}/{rounds} {way.name}: {pace.per_cpu_s:,.0f} steps/s", flush=True)
    return {name: tuple(those) for name, those in paces.items()}


def per_cpu_s(paces: Iterable[Pace]) -> float:
    """The median of :attr:`Pace.per_cpu_s`."""
    return median(pace.per_cpu_s for pace in paces)


def with_option(command: Sequence[str], name: str, value: str | None) -> list[str]:
    """QEMU's command line with another value of an option.

    :param value: None: without the option.
    """
    at = command.index(name)
    return [*command[:at], *(() if value is None else (name, value)), *command[at + 2 :]]


def _moments(
    qemu: subprocess.Popen[bytes], directory: Path, steps: Callable[[Path], int]
) -> Iterator[_Moment]:
    """Each time that there are more steps.

    :raises InfrastructureError: it does not end.
    """
    # Linux include/linux/posix-timers.h: CPUCLOCK_SCHED, of a whole process.
    clock = ~qemu.pid << 3 | 2
    begun, seen = time.monotonic(), 0
    while qemu.poll() is None:
        now = steps(directory)
        if now != seen:
            seen = now
            with suppress(OSError):
                yield _Moment(now, time.monotonic(), time.clock_gettime(clock))
        if time.monotonic() - begun > BUDGET_S:
            raise InfrastructureError(f"no end within {BUDGET_S:g} s")
        time.sleep(POLL_S)


def _jit_at(directory: Path, steps: int) -> tuple[int, dict[str, int]]:
    """What ``info jit`` counts after so many steps, and how many there were then.

    :raises InfrastructureError: it ended before.
    """
    deadline = time.monotonic() + BUDGET_S
    while (now := _recorded_steps(directory)) < steps:
        if time.monotonic() > deadline:
            raise InfrastructureError(f"{steps} steps took more than {BUDGET_S:g} s")
        time.sleep(POLL_S)
    try:
        said = asyncio.run(asyncio.wait_for(_ask(directory / "qmp", "info jit"), timeout=BUDGET_S))
    except (TimeoutError, QMPError, OSError) as error:
        raise InfrastructureError(f"QEMU's monitor: {error}") from error
    found = {name: re.search(rf"^{name}\s+(\d+)", said, re.MULTILINE) for name in JIT_COUNTS}
    return now, {name: int(match[1]) for name, match in found.items() if match}


async def _ask(socket: Path, command: str) -> str:
    client = QMPClient("qemu-diff")
    await client.connect(str(socket))
    try:
        said = await client.execute("human-monitor-command", {"command-line": command})
        return str(said)
    finally:
        await client.disconnect()


def _recorded_steps(directory: Path) -> int:
    with suppress(CorruptDataError):
        return read_header(directory / "shared").heartbeat
    return 0


def _floor_steps(directory: Path) -> int:
    said = (directory / "console").read_bytes()
    return FIRST_STEPS * (BEGIN in said) + FLOOR_STEPS * (END in said)
