"""The way of the kernel's own selftest: what its console said, and when."""

from __future__ import annotations

import shlex
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.cells import POLL_S

from qemu_diff.drive.peer import PeerRun, PeerTools, run_peer
from qemu_diff.guest.process import CONSOLE
from qemu_diff.kernels.selftest import Selftest
from qemu_diff.model import Build, MachineSpec

BEGIN, WRONG, EXIT = b"peer: begin", b"Unexpected pc", b"peer: exit"
"""What is waited for: of guest_images/peer/init.c, and the selftest's complaint."""

UPSTREAM_ITERATIONS = 10_000

COUNTED_ITERATIONS, COUNTING_BUDGET_S = 20, 600.0

STEP_EXCEPTION = b"with ESR 0x32/"
"""QEMU's `-d int` (target/arm/helper.c, ``arm_log_exception()``): a Software Step exception from a
lower EL (DDI 0487, ESR_ELx.EC 0x32)."""

_WITH_LOG = """#!/bin/sh
# Traces go to QEMU's log, where there is one: the last file that is named has both.
for option; do
    shift
    case "$option" in *,file=/dev/null) option="${{option%/dev/null}}{log}" ;; esac
    set -- "$@" "$option"
done
exec {qemu} "$@" -d int
"""


@dataclass(frozen=True)
class Said:
    """One run.

    :param power_on: QEMU's start; all moments are of :func:`time.monotonic`.
    :param at: what was waited for → when it was on the console.
    """

    run: PeerRun
    power_on: float
    at: Mapping[bytes, float]

    @property
    def detected_s(self) -> float | None:
        """From power-on to the complaint."""
        return self.at[WRONG] - self.power_on if WRONG in self.at else None

    @property
    def running_s(self) -> float:
        """The selftest alone: without L1's boot."""
        return self.at[EXIT] - self.at[BEGIN]


@dataclass(frozen=True)
class SelftestBench:
    """What runs of it need.

    :param directory: gets a directory for each run.
    """

    tools: PeerTools
    program: Selftest
    directory: Path
    machine: MachineSpec

    def run(
        self, build: Build, iterations: int, *, seed: int, wake_ns: int, budget_s: float
    ) -> Said:
        """Run it once.

        :param wake_ns: see :func:`qemu_diff.drive.peer.run_peer`.
        :raises InfrastructureError: QEMU can't be started.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        return self._run(
            build, iterations, directory, seed=seed, wake_ns=wake_ns, budget_s=budget_s
        )

    def _run(
        self,
        build: Build,
        iterations: int,
        directory: Path,
        *,
        seed: int,
        wake_ns: int,
        budget_s: float,
    ) -> Said:
        with _Listening(directory / CONSOLE) as heard:
            power_on = time.monotonic()
            done = run_peer(
                self.tools,
                build,
                self.program,
                iterations=iterations,
                machine=self.machine,
                seed=seed,
                directory=directory,
                budget_s=budget_s,
                cancel=threading.Event(),
                wake_ns=wake_ns,
            )
        return Said(done, power_on, heard.at)

    def steps_per_iteration(self, build: Build) -> float:
        """Software Step exceptions of one iteration: QEMU logs each exception that is taken."""
        counts = [self._step_exceptions(build, number * COUNTED_ITERATIONS) for number in (1, 2)]
        return (counts[1] - counts[0]) / COUNTED_ITERATIONS

    def _step_exceptions(self, build: Build, iterations: int) -> int:
        # QEMU may write beside its console, and nowhere else.
        directory = self.directory / f"counted-{iterations}"
        directory.mkdir(parents=True)
        log, logging = directory / "exceptions.log", directory / "qemu-logging"
        logging.write_text(
            _WITH_LOG.format(log=log, qemu=shlex.quote(str(self.tools.qemu.program)))
        )
        logging.chmod(0o755)
        log.touch()
        tools = replace(self.tools, qemu=replace(self.tools.qemu, program=logging))
        bench = replace(self, tools=tools)
        bench._run(build, iterations, directory, seed=1, wake_ns=0, budget_s=COUNTING_BUDGET_S)
        with log.open("rb") as lines:
            return sum(STEP_EXCEPTION in line for line in lines)


class _Listening(ExitStack):
    """Looks at a console while the context lasts."""

    def __init__(self, console: Path) -> None:
        super().__init__()
        self.at: dict[bytes, float] = {}
        self._console = console
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="listening", daemon=True)
        self._thread.start()
        self.callback(self._thread.join)
        self.callback(self._over.set)

    def _listen(self) -> None:
        more = True
        while more:
            more = not self._over.wait(POLL_S)
            with suppress(FileNotFoundError):
                said = self._console.read_bytes()
                for words in (BEGIN, WRONG, EXIT):
                    if words in said:
                        self.at.setdefault(words, time.monotonic())
