"""Boots in which a debugger drives L2: a QEMU in L1, reached from outside.

Truth, oracle and flood are those of every boot. But the debugger's requests come when the host
sends them, not when virtual time says: no two runs are bit-identical, and what is needed to send
the same requests again is written down.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

from qemu_diff.abi import SharedState
from qemu_diff.drive.async_first import Redirector, plan_of
from qemu_diff.drive.connect import Call, Connected, connected
from qemu_diff.drive.debugged_job import DebuggedJob
from qemu_diff.drive.debugger import Debugger
from qemu_diff.drive.device import DevicePender
from qemu_diff.drive.gdb import GdbDebugger
from qemu_diff.drive.in_guest import RECORDS, TIMER_LOG, TRUTH, TRUTH_CAPACITY, Boot, Tools
from qemu_diff.drive.lines import GIC_TYPE, Lines, Qtest, lines_for
from qemu_diff.drive.out_of_reach import BrokenOff, why_out_of_reach
from qemu_diff.drive.peer import mean_wake_ns, parse_console, wakeups_file
from qemu_diff.drive.ports import NestedQmp, connected_ports
from qemu_diff.drive.session import Session
from qemu_diff.drive.session_run import Beside, Done, run_session
from qemu_diff.drive.stepper import Errand
from qemu_diff.drive.stop_records import StopRecords
from qemu_diff.errors import DebuggerError, InfrastructureError, QemuDiffError
from qemu_diff.guest.image import LOAD_ADDRESS, MEMORY_BYTES
from qemu_diff.guest.initramfs import extend
from qemu_diff.guest.machine import MachineFiles, argv
from qemu_diff.guest.nested import QMP, QTEST, Nested, devices, nested_argv
from qemu_diff.guest.process import CONSOLE, GivenUp, GuestExit, private_socket, run_guest
from qemu_diff.guest.qemu_bundle import QemuBundle
from qemu_diff.guest.shared import read_header, reserve, seal_log, write_records
from qemu_diff.model import Driver, FloodSource
from qemu_diff.truth.reader import TruthCount, mark_truth, trim_truth, truth_bytes

INITRAMFS = "initramfs"
TRANSCRIPT = "transcript.txt"

GRACE_S = 3.0
"""How long L1 may take to end by itself, and say why, once its QEMU is out of reach; and how long
a debugger may take to see that L1 is gone."""

EARLIER_S = 0.5
"""The debugger's budget ends so much before L0's, to say what it waits for, not that L0 is gone."""


class _Session(threading.Thread):
    """The debugger's side of a boot."""

    def __init__(self, driver: Driver, errand: Errand, ports: tuple[Path, ...]) -> None:
        super().__init__(name="debugger", daemon=True)
        self._driver = driver
        self._errand = errand
        self._ports = ports
        self._deadline = time.monotonic() + errand.budget_s - EARLIER_S
        self._over = threading.Event()
        self._ended_at = 0.0
        self._moved_at = time.monotonic()
        self._seen = 0
        self._bug: BaseException | None = None
        self.records = StopRecords(lambda: 0)
        self.transcript: list[str] = []
        self.commands: tuple[Done, ...] = ()
        self.complaint = ""

    @property
    def stops(self) -> int:
        """So far."""
        return len(self.records.returns)

    @property
    def broken_off(self) -> BrokenOff:
        """What there is to say of it, where there is a complaint."""
        late = self._ended_at >= self._deadline
        return BrokenOff(self.complaint, self.stops, self._ended_at - self._moved_at, late)

    def check(self) -> None:
        """:raises GivenUp: it can't go on, and L1 does not end by itself."""
        if self.stops != self._seen:
            self._seen, self._moved_at = self.stops, time.monotonic()
        if self._bug or (self.complaint and time.monotonic() > self._ended_at + GRACE_S):
            raise GivenUp

    def finish(self) -> None:
        """Wait for its end: L0's QEMU is gone, and with it what the ports lead to."""
        self.join(GRACE_S)
        self._over.set()
        self.join()
        if self._bug:
            raise self._bug

    def run(self) -> None:
        try:
            self._drive()
        except (QemuDiffError, OSError) as error:
            self._ended_at = time.monotonic()
            self.complaint = str(error)
        except BaseException as bug:
            self._bug = bug

    def seal(self) -> None:
        """Everything that was measured stays, whatever ended it."""
        directory = self._errand.directory
        (directory / INITRAMFS).unlink()
        seal_log(directory / TIMER_LOG)
        if self.transcript:
            (directory / TRANSCRIPT).write_text("\n".join(self.transcript) + "\n")
        state = SharedState.FAILED if self.complaint else SharedState.DONE
        write_records(directory / RECORDS, self.records.records, state, self.complaint)
        trim_truth(directory / TRUTH)

    def boot(self, ended: GuestExit, **others: Any) -> Boot:
        """What is left of the boot; the guest is gone.

        :param others: of :class:`Boot`: what other threads did.
        :raises LostGuestError: L0 did not end in order, although the session did.
        """
        directory, records = self._errand.directory, self.records
        if not self.complaint and not self.commands:
            mark_truth(directory / TRUTH, records.returns)
        return Boot(
            directory,
            ended,
            read_header(directory / RECORDS),
            idle_s=0.0,
            debugger=self._why_broken_off(ended),
            stepping_s=records.stepping_s,
            witnessed=records.witnessed,
            stopped_on_the_way=records.stopped_on_the_way,
            transcript=tuple(self.transcript),
            shown=tuple(records.shown),
            commands=self.commands,
            **others,
        )

    def _why_broken_off(self, ended: GuestExit) -> str:
        if not self.complaint:
            return ""
        console = parse_console((self._errand.directory / CONSOLE).read_text(errors="replace"))
        return why_out_of_reach(self.broken_off, ended, console, self._errand.budget_s)

    def _drive(self) -> None:
        errand = self._errand
        with (
            connected_ports(self._ports, self._deadline, self._over) as ports,
            TruthCount(errand.directory / TRUTH) as count,
            connected(
                self._driver,
                Call(ports, errand.payload, errand.directory, self._deadline, self._over),
            ) as l2,
            NestedQmp(ports[QMP]) as qmp,
        ):
            if not qmp.uses_kvm():
                raise DebuggerError("L1's QEMU does not use KVM")
            self.transcript = l2.transcript
            self.records = StopRecords(count, l2.transcript)
            if errand.session is not None:
                self.commands = self._type(errand.session, l2, count)
            else:
                lines = self._lines(ports, qmp, l2.debugger) if len(ports) > QTEST else None
                job = DebuggedJob(l2.debugger, l2.witness, errand.payload, self.records, lines)
                job.run(errand.job)
            self.records.check_agreement()
            l2.debugger.leave()
            qmp.quit()

    def _type(self, session: Session, l2: Connected, count: Callable[[], int]) -> tuple[Done, ...]:
        assert isinstance(l2.debugger, GdbDebugger), "the campaign's checks let no other through"
        assert l2.relay is not None
        if l2.debugger.position().pc != self._errand.payload.entry:
            l2.debugger.write_register("pc", self._errand.payload.entry)
        return run_session(session, l2.debugger, Beside(l2.relay, count, l2.monitor.command))

    def _lines(self, ports: tuple[socket, ...], qmp: NestedQmp, debugger: Debugger) -> Lines:
        return Lines(
            Qtest(ports[QTEST], qmp.device(GIC_TYPE)),
            self._errand.payload,
            debugger.read_memory,
            random.Random(self._errand.seed),
            lines_for(self._errand.flood.sources),
        )


@dataclass(frozen=True)
class FromOutside:
    """A debugger, at the gdbstub of a QEMU in L1: a :class:`~qemu_diff.drive.stepper.Stepper`.

    :param bundle: L1's QEMU.
    :param init: PID 1 (guest_images/peer).
    """

    driver: Driver
    tools: Tools
    bundle: QemuBundle
    init: Path

    def boot(self, errand: Errand) -> Boot:
        """See :class:`~qemu_diff.drive.stepper.Stepper`.

        A flood's ``host_timer`` wakes L1's PID 1 at random, which interrupts L2; its ``device`` is
        the same as anywhere.
        """
        with private_socket() as qmp_socket:
            return self._boot(errand, qmp_socket)

    def _boot(self, errand: Errand, qmp_socket: Path) -> Boot:
        directory, cancel = errand.directory, errand.cancel
        nested = Nested(
            vcpus=errand.session.vcpus if errand.session else 1,
            stub=self.driver is not Driver.MONITOR,
            qtest=errand.flood.into_guest,
            gic_version=errand.machine.gic_version,
        )
        plan = plan_of(errand.machine, errand.payload, self.tools.guest_images, self.tools.cache)
        redirector = Redirector(plan, qmp_socket.with_name("gdb"), errand.budget_s, cancel)
        ports = tuple(qmp_socket.with_name(f"port{number}") for number in range(nested.ports))
        session = _Session(self.driver, errand, ports)
        # L2 runs for a moment of each step: whatever L1 does meanwhile, the next may hit it.
        always = itertools.count(1).__next__
        wanted = FloodSource.DEVICE in errand.flood.sources
        pender = DevicePender(wanted, qmp_socket.with_name("qtest"), errand.seed, cancel, always)
        self._write_inputs(errand, nested)
        files = MachineFiles(
            kernel=errand.build.image,
            initramfs=directory / INITRAMFS,
            shared=None,
            timer_log=directory / TIMER_LOG,
            qmp_socket=qmp_socket,
            plugin=self._plugin_argument(directory),
            gdb_socket=redirector.socket,
            qtest_socket=pender.listens_at,
            ports=ports,
        )

        def watch() -> None:
            redirector.check()
            session.check()
            if session.stops:
                pender.stepping()
            errand.progress(session.stops)

        for one in (redirector, session, pender):
            one.start()
        try:
            ended = self._run(errand, files, watch)
        finally:
            session.finish()
            session.seal()
        return session.boot(
            ended,
            redirector=redirector.finish(),
            redirects=redirector.redirects,
            device=pender.finish(),
            device_interrupts=pender.sent,
            device_held_back=pender.held_back,
        )

    def _run(self, errand: Errand, files: MachineFiles, watch: Callable[[], None]) -> GuestExit:
        return run_guest(
            argv(self.tools.qemu, errand.machine, files, errand.seed),
            errand.directory,
            files.qmp_socket,
            memory_mib=errand.machine.memory_mib,
            budget_s=errand.budget_s,
            cancel=errand.cancel,
            watch=watch,
        )

    def _plugin_argument(self, directory: Path) -> str:
        end = LOAD_ADDRESS + MEMORY_BYTES
        return self.tools.plugin.argument(
            directory / TRUTH, TRUTH_CAPACITY, LOAD_ADDRESS, end, marks=()
        )

    def _write_inputs(self, errand: Errand, nested: Nested) -> None:
        directory, wake_ns = errand.directory, mean_wake_ns(errand.flood)
        contents = {
            "init": self.init.read_bytes(),
            "payload": errand.payload.blob,
            "arguments": "\n".join(nested_argv(nested, "/payload")).encode(),
            "devices": "\n".join(devices(nested)).encode(),
            "wakeups": wakeups_file(wake_ns, errand.seed),
        }
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # QEMU appends to a log that is there; one that it makes nobody else may read.
            (directory / TIMER_LOG).write_bytes(b"")
            extend(self.bundle.archive, contents, directory / INITRAMFS)
        except OSError as error:
            raise InfrastructureError(f"{directory}: {error.strerror}") from error
        reserve(directory / TRUTH, truth_bytes(TRUTH_CAPACITY))
