"""A command with a fault put into it: what came of it, and what it left behind.

``inject.c`` names the points of a command, and kills a program or fails a call at one of them.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from qemu_diff.errors import QemuDiffError
from qemu_diff.report.results import VERDICTS, holds_results, read_results

ROOT = Path(__file__).resolve().parents[2]
GRACE_S = 5.0
"""How long children may outlive a runner that was killed."""

LIMIT_S = 300.0

MARK = "QEMU_DIFF_FAULT"
"""In the environment of all that one command starts."""

JUDGED = ("pass", "fail", "hang", "kernel-oops")
TIMES = ("duration_s", "stepping_s", "attempts")


@dataclass(frozen=True)
class Point:
    """Where a fault is put.

    :param name: program, operation, path, as ``inject.c`` writes them.
    :param nth: which of those that are called so, from 1.
    """

    name: str
    nth: int

    def __str__(self) -> str:
        return f"{self.name} #{self.nth}"

    @property
    def program(self) -> str:
        return self.name.split(" ")[0]

    @property
    def operation(self) -> str:
        return self.name.split(" ")[1]

    @property
    def path(self) -> str:
        return self.name.split(" ", 2)[2]


@dataclass(frozen=True)
class Fault:
    """What happens at a point.

    :param error: errno of this call and of all later ones that take room; 0: SIGKILL.
    """

    point: Point
    error: int = 0

    @property
    def what(self) -> str:
        return errno.errorcode[self.error] if self.error else "SIGKILL"


@dataclass(frozen=True)
class Ended:
    """A command that has ended.

    :param orphans: names of processes of its that were there some seconds later.
    """

    status: int
    said: str
    orphans: tuple[str, ...]
    wall_s: float


def compiled(directory: Path) -> Path:
    """The library that puts faults into programs."""
    library = directory / "inject.so"
    source = Path(__file__).with_name("inject.c")
    flags = ["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", str(library), str(source), "-ldl"], check=True)
    return library


@dataclass(frozen=True)
class Place:
    """Where commands run that leave nothing anywhere else.

    :param library: see :func:`compiled`.
    """

    directory: Path
    library: Path

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    @property
    def scratch(self) -> Path:
        return self.directory / "tmp"

    @property
    def results(self) -> Path:
        return self.directory / "results"

    @property
    def ledger(self) -> Path:
        return self.directory / "state" / "ledger.sqlite3"

    def environment(self, **more: str) -> dict[str, str]:
        self.scratch.mkdir(exist_ok=True)
        return {
            **os.environ,
            "CI": "true",
            "PYTHONPATH": str(ROOT),
            "QEMU_DIFF_CACHE": str(self.cache),
            "QEMU_DIFF_LEDGER": str(self.ledger),
            "TMPDIR": str(self.scratch),
            **more,
        }

    def run(
        self,
        *arguments: str,
        fault: Fault | None = None,
        log: Path | None = None,
        meanwhile: Callable[[subprocess.Popen[str]], None] = lambda _: None,
        **more: str,
    ) -> Ended:
        """Run ``qemu-diff`` to its end, with a fault or without.

        :param log: gets the points that it comes to.
        :param meanwhile: is called when it has been started.
        :param more: for its environment.
        """
        mark = uuid.uuid4().hex
        if log is not None:
            log.touch()
            more |= self.injecting(INJECT_LOG=str(log))
        if fault is not None:
            more |= self._struck_by(fault)
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "qemu_diff", *arguments],
            env=self.environment(**more, **{MARK: mark}),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            preexec_fn=_listens,  # noqa: PLW1509 - it calls nothing that locks
        )  # fmt: skip
        meanwhile(process)
        said, _ = process.communicate(timeout=LIMIT_S)
        wall_s = time.monotonic() - started
        return Ended(process.returncode, said, orphans(mark, self.directory), wall_s)

    def injecting(self, **variables: str) -> dict[str, str]:
        """The environment that has ``inject.c`` do something."""
        return {"LD_PRELOAD": str(self.library), **variables}

    def _struck_by(self, fault: Fault) -> dict[str, str]:
        counter = self.directory / "counter"
        counter.write_bytes(bytes(8))
        failing = {"INJECT_ERROR": str(fault.error)} if fault.error else {}
        return self.injecting(
            INJECT_POINT=self.absolute(fault.point.name),
            INJECT_NTH=str(fault.point.nth),
            INJECT_COUNTER=str(counter),
            **failing,
        )

    def points(self, log: Path) -> tuple[Point, ...]:
        """The points that a command has noted, in order; paths relative to this place."""
        count: Counter[str] = Counter()
        found = []
        for line in log.read_text().splitlines():
            name = line.replace(f"{self.directory}/", "")
            count[name] += 1
            found.append(Point(name, count[name]))
        return tuple(found)

    def absolute(self, name: str) -> str:
        program, operation, path = name.split(" ", 2)
        inside = path and not path.startswith("/")
        return f"{program} {operation} {self.directory}/{path}" if inside else name

    def fired(self) -> bool:
        """Whether the last fault's point was come to."""
        return any((self.directory / "counter").read_bytes())

    def left(self) -> tuple[str, ...]:
        """What lies in the directory for what is temporary."""
        return tuple(sorted(str(one.relative_to(self.scratch)) for one in _below(self.scratch)))

    def forget_run(self) -> None:
        """Begin anew: without results, and without what is temporary."""
        for directory in (self.results, self.scratch):
            shutil.rmtree(directory, ignore_errors=True)


def _listens() -> None:
    """Who was started in the background of a shell ignores SIGINT, and so would a run."""
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_DFL)


def orphans(mark: str, directory: Path) -> tuple[str, ...]:
    """Names of processes of a command that are still there after a while."""
    deadline = time.monotonic() + GRACE_S
    while True:
        found = tuple(sorted(one.name() for one in _of_a_command(mark, directory)))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _of_a_command(mark: str, directory: Path) -> Iterator[psutil.Process]:
    """Living processes with its mark in their environment; QEMU's is not inherited, but its files
    are in the command's directory."""
    for one in psutil.process_iter():
        try:
            own = one.environ().get(MARK) == mark or f"{directory}/" in " ".join(one.cmdline())
            if own and one.status() != psutil.STATUS_ZOMBIE:
                yield one
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def _below(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*")) if directory.exists() else []


# --- what a run has left -------------------------------------------------------------------------


def cells_of(results: Path) -> dict[str, dict[str, Any]]:
    """Cell → all that was found of it, without times."""
    found = {}
    for cell in json.loads((results / VERDICTS).read_text())["cells"]:
        found[cell["id"]] = _timeless(cell)
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [_timeless(one) for one in value]
    return value


def files_of(directory: Path) -> frozenset[str]:
    """Paths below a directory; what a killed QEMU's first try has left is meant to be there."""
    paths = (str(path.relative_to(directory)) for path in _below(directory))
    # What ccache keeps, and where, is its own affair; logs of builds that failed are meant to stay.
    return frozenset(
        path for path in paths if ".try-1" not in path and not path.startswith(("ccache", "failed"))
    )


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run leaves.

    :param status: its exit status.
    """

    status: int
    cells: dict[str, dict[str, Any]]
    results: frozenset[str]
    cache: frozenset[str]


def reference(place: Place, status: int) -> Reference:
    """What the last run has left."""
    return Reference(
        status, cells_of(place.results), files_of(place.results), files_of(place.cache)
    )


def troubles(place: Place, ended: Ended, known: Reference, fault: Fault | None) -> tuple[str, ...]:
    """What may not come of a fault: processes, tracebacks, results that are no results."""
    wrong = [f"orphan {name}" for name in ended.orphans]
    killed = ended.status == -signal.SIGKILL
    if (fault is None or fault.error) and ended.status < 0:
        wrong.append(f"status {ended.status}")
    if "Traceback" in ended.said or "a bug of ours" in ended.said:
        wrong.append("traceback: " + _last(ended.said))
    if not killed and ended.status not in (known.status, 2, 3):
        wrong.append(f"exit status {ended.status}: {_last(ended.said)}")
    if holds_results(place.results):
        try:
            read_results(place.results)
        except QemuDiffError as error:
            return (*wrong, f"results: {error}")
        for name, cell in cells_of(place.results).items():
            if cell["verdict"] in JUDGED and cell != known.cells.get(name):
                wrong.append(f"{name} is another: {cell['verdict']}")
    return tuple(wrong)


def troubles_after(place: Place, ended: Ended, known: Reference) -> tuple[str, ...]:
    """What a run that went on after a fault may not be, or leave."""
    wrong = [f"orphan {name}" for name in ended.orphans]
    if ended.status != known.status:
        return (*wrong, f"resume: exit status {ended.status}: {_last(ended.said)}")
    for name, cell in cells_of(place.results).items():
        if cell != known.cells.get(name):
            wrong.append(f"resume: {name} is another")
    for where, before, now in (
        ("results", known.results, files_of(place.results)),
        ("cache", known.cache, files_of(place.cache)),
        ("tmp", frozenset(), files_of(place.scratch)),
    ):
        if more := sorted(now - before):
            wrong.append(f"left in {where}: {more[0]} and {len(more) - 1} more")
        if less := sorted(before - now):
            wrong.append(f"missing in {where}: {less[0]} and {len(less) - 1} more")
    return tuple(wrong)


def _last(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
