"""Boots: one kernel, one job, one payload, stepped by the step VMM inside L1."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qemu_diff.confinement import FILE_BYTES
from qemu_diff.drive.async_first import Redirector, plan_of
from qemu_diff.drive.device import DevicePender
from qemu_diff.drive.job import Job
from qemu_diff.drive.recorded_job import RecordedJob
from qemu_diff.drive.session_run import Done
from qemu_diff.errors import CorruptDataError, InfrastructureError
from qemu_diff.guest.image import LOAD_ADDRESS, MEMORY_BYTES, StepVmm, initramfs
from qemu_diff.guest.machine import SHARED_BYTES, MachineFiles, Recording, argv
from qemu_diff.guest.process import GuestExit, RunningTime, private_socket, run_guest
from qemu_diff.guest.qemu import Qemu
from qemu_diff.guest.shared import (
    RECORD_CAPACITY,
    SharedHeader,
    read_header,
    reserve,
    seal_log,
    trim,
)
from qemu_diff.model import Build, MachineSpec, Payload
from qemu_diff.truth.plugin import TruthPlugin
from qemu_diff.truth.reader import trim_truth, truth_bytes

RECORDS = "records.bin"
TRUTH = "truth.bin"
TIMER_LOG = "timer.log"
INITRAMFS = "initramfs"

TRUTH_RECORDS_PER_RUN = 10
"""Room in the truth for each record of a return from KVM_RUN; a step takes 3 to 8."""

RECORDING_BYTES = 4 << 30
"""QEMU's recording of a boot has each access to its clock, and each interrupt."""

TRUTH_CAPACITY = RECORD_CAPACITY * TRUTH_RECORDS_PER_RUN


@dataclass(frozen=True)
class Tools:
    """What every boot needs, prepared once.

    :param guest_images: the directory of our own sources for guests.
    :param cache: where what is compiled of them is kept.
    """

    qemu: Qemu
    plugin: TruthPlugin
    stepvmm: StepVmm
    guest_images: Path
    cache: Path


@dataclass(frozen=True)
class Boot:
    """What one boot left behind: files in its directory, under the names above.

    :param header: the record file's header at the end; None where it was never written.
    :param idle_s: wall-clock seconds since KVM_RUN last returned.
    :param redirector: why ``async_first`` could not be kept up, or nothing.
    :param redirects: steps of chosen instructions that were redirected.
    :param device: why no more interrupts could be made pending from outside, or nothing.
    :param device_interrupts: those that were.
    :param device_held_back: those that would have been one with the one before.
    :param stepping_s: wall-clock seconds from the first report to the last, to a tenth.
    :param debugger: of a boot that a debugger drove: why it could not go on, or nothing.
    :param witnessed: stops at which the gdbstub and the monitor showed the same.
    :param stopped_on_the_way: steps that a monitor's ``stop`` ended.
    :param transcript: what gdb's user was shown, line by line.
    :param shown: how many of these lines there were at each stop.
    :param commands: of a session with gdb.
    :param damage: what is wrong with the record file's header, which L1 alone writes; or nothing.
    :param timed: whether L1 ever programmed a timer, as each kernel that gets anywhere does.
    """

    directory: Path
    exit: GuestExit
    header: SharedHeader | None
    idle_s: float
    redirector: str = ""
    redirects: int = 0
    device: str = ""
    device_interrupts: int = 0
    device_held_back: int = 0
    stepping_s: float = 0.0
    debugger: str = ""
    witnessed: int = 0
    stopped_on_the_way: int = 0
    transcript: tuple[str, ...] = ()
    shown: tuple[int, ...] = ()
    commands: tuple[Done, ...] = ()
    damage: str = ""
    timed: bool = False


class _Pulse:
    """The heartbeat, and when it last moved."""

    def __init__(self, records: Path) -> None:
        """
        :param records: the file that the step VMM counts in.
        """
        self._records = records
        self.heartbeat = 0
        self._clock = RunningTime()
        self._begun = self._moved = 0.0

    def read(self) -> int:
        """What it is now.

        :raises CorruptDataError: the file has no header.
        """
        return read_header(self._records).heartbeat

    def beat(self) -> None:
        """:raises CorruptDataError: see :meth:`read`."""
        heartbeat, now = self.read(), self._clock.seconds()
        if heartbeat != self.heartbeat:
            self._moved = now
            if not self.heartbeat:
                self._begun = self._moved
            self.heartbeat = heartbeat

    @property
    def idle_s(self) -> float:
        return self._clock.seconds() - self._moved

    @property
    def stepping_s(self) -> float:
        return self._moved - self._begun


def boot(
    tools: Tools,
    build: Build,
    payload: Payload,
    job: Job | RecordedJob,
    *,
    machine: MachineSpec,
    seed: int,
    directory: Path,
    budget_s: float,
    cancel: threading.Event,
    device: bool = False,
    progress: Callable[[int], None] = lambda _: None,
    landmarks: tuple[int, ...] = (),
    recording: Recording | None = None,
    debugger: Path | None = None,
) -> Boot:
    """Boot a kernel, let it run a job, and collect what is left.

    :param directory: gets the job, the command line, the console and all records.
    :param budget_s: wall-clock seconds for the boot.
    :param cancel: set it to call the boot off.
    :param device: whether a device of L1 interrupts it, from outside.
    :param progress: called a few times a second with the returns from KVM_RUN so far.
    :param landmarks: addresses of L1's that the truth tells of as well; the boot is slower for it.
    :param recording: what QEMU records, or replays.
    :param debugger: a Unix socket: the machine waits there for a debugger, which also has to do
        what ``async_first`` takes.
    :raises InfrastructureError: no room on the disk, or QEMU can't be started.
    :raises Cancelled: ``cancel`` was set.
    """
    with private_socket() as qmp_socket:
        encoded = job.encode(payload, machine.cpus - 1)
        _write_inputs(directory, encoded, initramfs(tools.stepvmm, encoded, payload))
        plan = None
        if debugger is None:
            plan = plan_of(machine, payload, tools.guest_images, tools.cache)
        redirector = Redirector(plan, qmp_socket.with_name("gdb"), budget_s, cancel)
        pulse = _Pulse(directory / RECORDS)
        qtest = qmp_socket.with_name("qtest")
        pender = DevicePender(device, qtest, seed, cancel, pulse.read)
        files = MachineFiles(
            kernel=build.image,
            initramfs=directory / INITRAMFS,
            shared=directory / RECORDS,
            timer_log=directory / TIMER_LOG,
            qmp_socket=qmp_socket,
            plugin=_plugin_argument(tools, directory / TRUTH, landmarks),
            gdb_socket=debugger or redirector.socket,
            qtest_socket=pender.listens_at,
            recording=recording,
        )
        command = argv(tools.qemu, machine, files, seed)

        def watch() -> None:
            redirector.check()
            with suppress(CorruptDataError):
                pulse.beat()
                if pulse.heartbeat:
                    pender.stepping()
                progress(pulse.heartbeat)

        redirector.start()
        pender.start()
        ended = run_guest(
            command,
            directory,
            qmp_socket,
            memory_mib=machine.memory_mib,
            budget_s=budget_s,
            cancel=cancel,
            watch=watch,
            writable=[path.parent for path in (debugger, recording and recording.log) if path],
            file_bytes=RECORDING_BYTES if recording else FILE_BYTES,
        )
        return _left(directory, ended, pulse, redirector, pender)


def _left(
    directory: Path,
    ended: GuestExit,
    pulse: _Pulse,
    redirector: Redirector,
    pender: DevicePender,
) -> Boot:
    """What a boot left behind, and what those say who worked beside it."""
    complaints = redirector.finish(), pender.finish()
    header, damage = _tidied(directory)
    return Boot(
        directory,
        ended,
        header,
        pulse.idle_s,
        damage=damage,
        timed=(directory / TIMER_LOG).exists() and (directory / TIMER_LOG).stat().st_size > 0,
        stepping_s=pulse.stepping_s,
        redirector=complaints[0],
        redirects=redirector.redirects,
        device=complaints[1],
        device_interrupts=pender.sent,
        device_held_back=pender.held_back,
    )


def _tidied(directory: Path) -> tuple[SharedHeader | None, str]:
    """A boot's files, cut to what they hold and sealed; the record file's header, or what is wrong
    with it."""
    header, damage = _final_header(directory / RECORDS)
    if header is not None:
        trim(directory / RECORDS)
    with suppress(CorruptDataError):
        trim_truth(directory / TRUTH)
    (directory / INITRAMFS).unlink()
    seal_log(directory / TIMER_LOG)
    return header, damage


def _write_inputs(directory: Path, job: bytes, archive: bytes) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # QEMU appends to a log that is there; one that it makes nobody else may read.
        (directory / TIMER_LOG).write_bytes(b"")
        (directory / "job").write_bytes(job)
        (directory / INITRAMFS).write_bytes(archive)
    except OSError as error:
        raise InfrastructureError(f"{directory}: {error.strerror}") from error
    reserve(directory / RECORDS, SHARED_BYTES)
    try:
        reserve(directory / TRUTH, truth_bytes(TRUTH_CAPACITY))
    except InfrastructureError:
        # A disk that is full must not be kept so by a boot that never was.
        (directory / RECORDS).unlink()
        raise


def _plugin_argument(tools: Tools, truth: Path, landmarks: tuple[int, ...]) -> str:
    end, marks = LOAD_ADDRESS + MEMORY_BYTES, tools.stepvmm.marks
    return tools.plugin.argument(
        truth, TRUTH_CAPACITY, LOAD_ADDRESS, end, marks, landmarks=landmarks
    )


def _final_header(shared: Path) -> tuple[SharedHeader | None, str]:
    try:
        return read_header(shared), ""
    except CorruptDataError as error:
        return None, str(error)
