"""Every point at which a run changes what others can see, with a fault at each of them; and what
else befalls runs at night. About 40 minutes on two free CPUs.

``MEASURE_STRIDE`` takes only every so manieth point, ``MEASURE_CROWD`` another number than 64.
``MEASURE_JOURNAL`` names a file: a walk that was cut off goes on there, and strikes again where it
had found something wrong.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

import psutil
from benchmarks.conditions import conditions
from benchmarks.measured import Claim, Measured, Table
from faults.injection import (
    ROOT,
    Ended,
    Fault,
    Place,
    Point,
    Reference,
    compiled,
    files_of,
    reference,
    troubles,
    troubles_after,
)

from qemu_diff.abi import SharedState
from qemu_diff.config import load_campaign
from qemu_diff.errors import CorruptDataError
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.guest.shared import read_header
from qemu_diff.kernels import build_kernel
from qemu_diff.kernels.cache import digest_file

QUICKSTART = ROOT / "configs" / "quickstart.toml"
FAKELINUX = ROOT / "tests" / "fakes" / "fakelinux"

SIDE_BY_SIDE = 2
CROWD = 64
BUSY_LOOPS = 20
BUDGET_S, STOPPED_S = 30, 35
A_YEAR_S = 365 * 86400

CELLS = """
[[pair]]
baseline = "unpatched"
candidate = "patched"
[[scenario]]
payload = "hvc"
flood = {{ count = {passes} }}
expect = {{ unpatched = {{ hvc = "lost-step" }} }}
"""
"""Two cells: five boots, a finding, its confirmation, a pair."""

FEW, MANY = 3, 1500
"""Passes: as few as show the bug, and so many that a boot can be met while it steps."""

TAKES_ROOM = ("open", "mkdir", "write", "fsync", "fallocate", "bind")

STAGES: tuple[tuple[str, str], ...] = (
    ("results/verdicts.json", "verdicts"),
    ("results/junit.xml", "reports"),
    ("results/report.html", "reports"),
    ("results/cells", "boots and their analysis"),
    ("results/*", "findings: confirmed, kept"),
    ("results/findings", "findings: confirmed, kept"),
    ("results", "results directory"),
    ("state", "ledger"),
    ("cache/trees", "kernel: tree, patches, configuration, build"),
    ("cache/kernels", "kernel: storing"),
    ("cache", "cache"),
    ("tmp", "sockets, temporary files"),
)


@dataclass(frozen=True)
class Site:
    """A place, what is run there, and what that leaves when it is not disturbed."""

    place: Place
    campaign: Path
    known: Reference
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of one fault.

    :param fault: in words: ``SIGKILL``.
    :param stage: in words.
    :param where: the point itself.
    :param fired: whether it was come to.
    :param left: whether something temporary lay there until the next run.
    :param wrong: what must not be.
    """

    fault: str
    stage: str
    where: str
    fired: bool
    left: bool
    wrong: tuple[str, ...]


class Journal:
    """Outcomes of walks, each kept as it comes."""

    def __init__(self, path: Path | None) -> None:
        """
        :param path: JSON, a line for each; need not be there. None: nothing is kept.
        """
        self._path = path
        self._right: dict[tuple[str, str, str], Outcome] = {}
        self._one = threading.Lock()
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                told = json.loads(line)
                name = told.pop("walk")
                self._note(name, Outcome(**{**told, "wrong": tuple(told["wrong"])}))
        self.earlier = len(self._right)

    def of(self, name: str, fault: Fault) -> Outcome | None:
        """What came of a fault in a walk, if nothing was wrong."""
        return self._right.get((name, fault.what, str(fault.point)))

    def keep(self, name: str, outcome: Outcome) -> None:
        """:param name: of the walk."""
        with self._one:
            self._note(name, outcome)
            if self._path is not None:
                with self._path.open("a") as file:
                    file.write(json.dumps({"walk": name, **asdict(outcome)}) + "\n")

    def _note(self, name: str, outcome: Outcome) -> None:
        key = name, outcome.fault, outcome.where
        if outcome.wrong:
            self._right.pop(key, None)
        else:
            self._right[key] = outcome


# --- the campaign --------------------------------------------------------------------------------


def write_campaign(path: Path, passes: int) -> Path:
    """The campaign that is disturbed, over kernels that are built."""
    lines = ["[campaign]", 'name = "faults"', f"budget_s = {BUDGET_S if passes == MANY else 120}"]
    for kernel in load_campaign(QUICKSTART).kernels:
        image = build_kernel(kernel).image
        vmlinux = image.with_name("vmlinux")
        lines += [
            f"[kernels.{kernel.name}]",
            f'source = {{ image = "{image}", vmlinux = "{vmlinux}" }}',
        ]
    path.write_text("\n".join(lines) + CELLS.format(passes=passes))
    return path


def run_arguments(place: Place, campaign: Path) -> tuple[str, ...]:
    """A run of the campaign, one boot after the other."""
    return ("run", str(campaign), "--out", str(place.results), "--jobs", "1")


def site(directory: Path, campaign: Path) -> Site:
    """A place of its own with a warm cache, what a run leaves there, and its points."""
    directory.mkdir()
    place = Place(directory, compiled(directory))
    for log in (None, directory / "points"):
        place.forget_run()
        done = place.run(*run_arguments(place, campaign), log=log)
        if done.status:
            raise RuntimeError(f"an undisturbed run: status {done.status}: {done.said}")
    points = place.points(directory / "points")
    return Site(place, campaign, reference(place, done.status), points)


def stage_of(point: Point) -> str:
    """The stage that a point is in, by what it is about."""
    if point.operation == "exec":
        return "start of a program"
    if not point.path:
        return "end of a program"
    return next((words for part, words in STAGES if point.path.startswith(part)), "elsewhere")


def gone_on(site: Site, ended: Ended, fault: Fault | None = None) -> tuple[bool, tuple[str, ...]]:
    """Whether a disturbed run left something temporary, and what is wrong with it, or with the
    run that goes on with it."""
    wrong, left = troubles(site.place, ended, site.known, fault), bool(site.place.left())
    after = site.place.run(*run_arguments(site.place, site.campaign), "--resume")
    return left, wrong + troubles_after(site.place, after, site.known)


# --- every point ---------------------------------------------------------------------------------


def disturbed(site: Site, fault: Fault) -> Outcome:
    """A run with a fault, and one without that goes on with it."""
    site.place.forget_run()
    ended = site.place.run(*run_arguments(site.place, site.campaign), fault=fault)
    fired = site.place.fired()
    left, wrong = gone_on(site, ended, fault)
    return _outcome(fault, fired, left, wrong)


def _outcome(fault: Fault, fired: bool, left: bool, wrong: tuple[str, ...]) -> Outcome:
    return Outcome(fault.what, stage_of(fault.point), str(fault.point), fired, left, wrong)


def walk(
    name: str,
    sites: Sequence[Site],
    faults: Iterable[Fault],
    strike: Callable[[Site, Fault], Outcome],
    journal: Journal,
) -> list[Outcome]:
    """Put each of the faults into a run of its own, side by side at all the sites.

    :param name: of the walk, in the journal.
    """
    free: SimpleQueue[Site] = SimpleQueue()
    for one in sites:
        free.put(one)

    def struck(fault: Fault) -> Outcome:
        if known := journal.of(name, fault):
            return known
        site = free.get()
        try:
            outcome = _said(strike(site, fault))
        finally:
            free.put(site)
        journal.keep(name, outcome)
        return outcome

    with ThreadPoolExecutor(len(sites)) as pool:
        return list(pool.map(struck, faults))


def _said(outcome: Outcome) -> Outcome:
    reached = "" if outcome.fired else "not come to; "
    what = "; ".join(outcome.wrong) or ("left until the next" if outcome.left else "nothing left")
    print(f"  {outcome.fault} {outcome.where}: {reached}{what}", flush=True)
    return outcome


def ours(points: Iterable[Point]) -> list[Point]:
    """Points of all programs but QEMU, which is confined: nothing of ours is loaded into it."""
    stride = int(os.environ.get("MEASURE_STRIDE", "1"))
    return [one for one in points if not one.program.startswith("qemu-")][::stride]


# --- kernels -------------------------------------------------------------------------------------


def kernel_site(directory: Path) -> Site:
    """A place where a small tree is built that has all of Linux's stages."""
    directory.mkdir()
    place = Place(directory, compiled(directory))
    shutil.copytree(FAKELINUX, directory / "linux")
    campaign = directory / "campaign.toml"
    campaign.write_text(
        '[campaign]\nname = "kernels"\n[kernels.one]\n'
        f'source = {{ tree = "{directory / "linux"}" }}\n[[scenario]]\npayload = "hvc"\n'
    )
    log = directory / "points"
    done = place.run("kernels", "build", str(campaign), log=log)
    if done.status:
        raise RuntimeError(f"an undisturbed build: status {done.status}: {done.said}")
    known = Reference(done.status, {}, frozenset(), files_of(place.cache))
    return Site(place, campaign, known, place.points(log))


def disturbed_build(site: Site, fault: Fault) -> Outcome:
    """A build with a fault in an empty cache, and one without after it."""
    place = site.place
    for directory in (place.cache, place.scratch):
        shutil.rmtree(directory, ignore_errors=True)
    ended = place.run("kernels", "build", str(site.campaign), fault=fault)
    fired, left = place.fired(), bool(place.left())
    wrong = troubles(place, ended, site.known, fault)
    after = place.run("kernels", "build", str(site.campaign))
    if after.status:
        wrong += (f"the next build: status {after.status}: {after.said.strip()[-200:]}",)
    if other := sorted(files_of(place.cache) ^ site.known.cache):
        wrong += (f"cache: {other[0]} and {len(other) - 1} more differ",)
    wrong += tuple(f"corrupt: {entry.name}" for entry in corrupt(place.cache))
    return _outcome(fault, fired, left, wrong)


def corrupt(cache: Path) -> list[Path]:
    """Kernels in a cache whose files are not what their metadata says."""
    found = []
    for entry in (cache / "kernels").glob("[!.]*"):
        files = json.loads((entry / "metadata.json").read_text())["files"]
        if any(asdict(digest_file(entry / name)) != digest for name, digest in files.items()):
            found.append(entry)
    return found


# --- QEMU, at each of its stages -----------------------------------------------------------------


def qemus(runner: int) -> list[psutil.Process]:
    """QEMUs of a runner that boot something, and don't just answer a question."""
    found = []
    for one in psutil.Process(runner).children(recursive=True):
        try:
            if "-kernel" in one.cmdline():
                found.append(one)
        except psutil.Error:
            continue
    return found


def _heartbeat(boot: Path) -> tuple[int, SharedState]:
    try:
        header = read_header(boot / "records.bin")
    except (OSError, CorruptDataError):
        return 0, SharedState.EMPTY
    return header.heartbeat, header.state


QEMU_STAGES: tuple[tuple[str, Callable[[Path, Path], bool]], ...] = (
    ("before its sockets", lambda _, __: True),
    ("with its sockets", lambda _, scratch: any(scratch.glob("*/qmp"))),
    ("L1 boots", lambda boot, _: (boot / "console.log").stat().st_size > 0),
    ("L1 steps L2", lambda boot, _: _heartbeat(boot)[0] > 100),
    ("the job is done", lambda boot, _: _heartbeat(boot)[1] is SharedState.DONE),
)


def killed_qemu(site: Site, boot: str, stage: str) -> Outcome:
    """A run in which one boot's QEMU is killed when it has come to a stage.

    :param boot: the last part of the boot's directory.
    """
    reached = dict(QEMU_STAGES)[stage]
    killed: list[int] = []

    def kill(process: subprocess.Popen[str]) -> None:
        while process.poll() is None and not killed:
            for one in qemus_at(process.pid, boot, site.place, reached):
                one.kill()
                killed.append(one.pid)
            time.sleep(0.002)

    site.place.forget_run()
    ended = site.place.run(*run_arguments(site.place, site.campaign), meanwhile=kill)
    left, wrong = gone_on(site, ended)
    where = f"QEMU of {boot}"
    return _said(Outcome("SIGKILL", f"QEMU: {stage}", where, bool(killed), left, wrong))


def qemus_at(
    runner: int, boot: str, place: Place, reached: Callable[[Path, Path], bool]
) -> Iterator[psutil.Process]:
    """The QEMU of a boot, when it has come to a stage."""
    for one in qemus(runner):
        try:
            console = next(Path(word) for word in one.cmdline() if f"/{boot}/initramfs" in word)
            if reached(console.parent, place.scratch):
                yield one
        except (StopIteration, OSError, psutil.Error):
            continue


# --- signals, clocks, load, crowds ---------------------------------------------------------------


def _when_booting(place: Place) -> None:
    deadline = time.monotonic() + 120
    while not list(place.results.glob("cells/*/run/console.log")):
        if time.monotonic() > deadline:
            raise RuntimeError("no boot has begun")
        time.sleep(0.02)


def signalled(site: Site, first: signal.Signals, second: signal.Signals, apart_s: float) -> Outcome:
    """Two signals to a run that boots."""

    def send(process: subprocess.Popen[str]) -> None:
        _when_booting(site.place)
        process.send_signal(first)
        time.sleep(apart_s)
        if process.poll() is None:
            process.send_signal(second)

    site.place.forget_run()
    ended = site.place.run(*run_arguments(site.place, site.campaign), meanwhile=send)
    left, wrong = gone_on(site, ended)
    if ended.status != 3:
        wrong += (f"status {ended.status}",)
    where = f"{first.name}, {second.name} {apart_s} s later"
    return _said(Outcome("signals", "in a boot", where, True, left, wrong))


def stopped(site: Site) -> Outcome:
    """The runner stands still for longer than a boot may take."""

    def stop(process: subprocess.Popen[str]) -> None:
        _when_booting(site.place)
        process.send_signal(signal.SIGSTOP)
        for one in qemus(process.pid):
            one.suspend()
        time.sleep(STOPPED_S)
        for one in qemus(process.pid):
            one.resume()
        process.send_signal(signal.SIGCONT)

    return _undisturbed("stopped", f"for {STOPPED_S} s, budget {BUDGET_S} s", site, stop)


def jumping(site: Site) -> Outcome:
    """The wall clock jumps a year forth and back, three times a second."""
    clock = site.place.injecting(INJECT_CLOCK=str(A_YEAR_S))
    return _undisturbed("clock", "a year forth and back", site, **clock)


def loaded(site: Site) -> Outcome:
    """A machine with something else to do."""
    with busy(BUSY_LOOPS):
        return _undisturbed("load", f"{BUSY_LOOPS} busy loops beside it", site)


def _undisturbed(
    fault: str,
    where: str,
    site: Site,
    meanwhile: Callable[[subprocess.Popen[str]], None] = lambda _: None,
    **more: str,
) -> Outcome:
    """A run that is to come to the same at once."""
    site.place.forget_run()
    ended = site.place.run(*run_arguments(site.place, site.campaign), meanwhile=meanwhile, **more)
    wrong = troubles_after(site.place, ended, site.known)
    return _said(Outcome(fault, "a whole run", where, True, False, wrong))


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """So many processes that do nothing but take the CPU."""
    spin = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(spin) for _ in range(loops)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def crowded(site: Site, crowd: int) -> list[Outcome]:
    """So many runs at once, on one cache without guest programs and with one ledger."""
    place = site.place
    place.forget_run()
    shutil.rmtree(place.cache / "guest")

    def one(number: int) -> Outcome:
        results = place.directory / f"results-{number}"
        own = OnePlace(place.directory, place.library, results)
        ended = own.run(*run_arguments(own, site.campaign), "--only", "patched.*")
        known = Reference(
            0, {name: cell for name, cell in site.known.cells.items() if name[:7] == "patched"},
            frozenset(), frozenset(),
        )  # fmt: skip
        wrong = troubles(own, ended, known, None)
        if ended.status:
            wrong += (f"status {ended.status}: {ended.said.strip()[-200:]}",)
        shutil.rmtree(results, ignore_errors=True)
        return _said(Outcome("crowd", f"{crowd} at once", f"run {number}", True, False, wrong))

    with ThreadPoolExecutor(crowd) as pool:
        outcomes = list(pool.map(one, range(crowd)))
    after = _undisturbed("crowd", "one after them, on their cache", site)
    return [*outcomes, after]


@dataclass(frozen=True)
class OnePlace(Place):
    """A place that shares all with others but its results."""

    own_results: Path

    @property
    def results(self) -> Path:
        return self.own_results


# --- all of it -----------------------------------------------------------------------------------


def measure() -> Measured:
    """All walks, one after the other."""
    kept = os.environ.get("MEASURE_JOURNAL")
    journal = Journal(Path(kept) if kept else None)
    # No name of tempfile's: such a one is no part of a point's name (inject.c, is_random()). Trees
    # are called by their paths, so a walk that goes on does so where it was.
    directory = Path(kept or Path(tempfile.gettempdir(), f"faults-{os.getpid()}"))
    directory = directory.absolute().with_name(f"{directory.name}.walk")
    directory.mkdir()
    try:
        outcomes = list(_all(directory, journal))
    finally:
        shutil.rmtree(directory)
    what = "a campaign of two cells, five boots and a finding"
    if journal.earlier:
        what += f"; {journal.earlier} points were struck in an earlier part of the walk"
    return Measured(
        "faults",
        "scripts/measure faults",
        conditions(find_qemu(), what),
        claims=tuple(_claims(outcomes)),
        tables=(_table(outcomes), *_wrong(outcomes)),
    )


def _all(directory: Path, journal: Journal) -> Iterator[Outcome]:
    campaign = write_campaign(directory / "few.toml", FEW)
    sites = [site(directory / f"site-{number}", campaign) for number in range(SIDE_BY_SIDE)]
    points = ours(sites[0].points)
    print(f"{len(points)} points of a run", flush=True)
    full = [Fault(one, errno.ENOSPC) for one in points if one.operation in TAKES_ROOM]
    yield from walk("run", sites, [*map(Fault, points), *full], disturbed, journal)
    yield from _kernels(directory, journal)
    yield from _others(directory, sites[0])


def _kernels(directory: Path, journal: Journal) -> Iterator[Outcome]:
    site = kernel_site(directory / "kernels")
    points = ours(site.points)
    print(f"{len(points)} points of a kernel's build", flush=True)
    faults = [Fault(one) for one in points]
    faults += [Fault(one, errno.ENOSPC) for one in points if one.operation in TAKES_ROOM]
    yield from walk("kernel", [site], faults, disturbed_build, journal)


def _others(directory: Path, few: Site) -> Iterator[Outcome]:
    many = site(directory / "many", write_campaign(directory / "many.toml", MANY))
    for stage, _ in QEMU_STAGES:
        yield killed_qemu(many, "run", stage)
    for boot in ("landmarks", "0", "other"):
        for stage in ("before its sockets", "with its sockets", "L1 boots"):
            yield killed_qemu(many, boot, stage)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for first in numbers:
        for second in numbers:
            yield signalled(few, first, second, 0.3)
        yield signalled(few, first, first, 0.0)
    yield stopped(many)
    yield jumping(few)
    yield loaded(few)
    yield from crowded(few, int(os.environ.get("MEASURE_CROWD", CROWD)))


def _claims(outcomes: Sequence[Outcome]) -> Iterator[Claim]:
    for fault in dict.fromkeys(one.fault for one in outcomes):
        of_it = [one for one in outcomes if one.fault == fault]
        bad = sum(bool(one.wrong) for one in of_it)
        missed = sum(not one.fired for one in of_it)
        yield Claim(
            f"{fault}: a result lost or invented, something left behind, a resume that fails",
            f"{bad} of {len(of_it):,}",
            "none",
            not bad,
            f"{missed} points were not come to" if missed else "",
        )


def _table(outcomes: Sequence[Outcome]) -> Table:
    rows = []
    for fault, stage in dict.fromkeys((one.fault, one.stage) for one in outcomes):
        of_it = [one for one in outcomes if (one.fault, one.stage) == (fault, stage)]
        fired = sum(one.fired for one in of_it)
        left = sum(one.left for one in of_it)
        bad = sum(bool(one.wrong) for one in of_it)
        rows.append((fault, stage, str(len(of_it)), str(fired), str(left), str(bad)))
    columns = ("fault", "stage", "points", "come to", "left until the next run", "wrong")
    return Table("What was disturbed, and what came of it", columns, tuple(rows))


def _wrong(outcomes: Sequence[Outcome]) -> Iterator[Table]:
    found = Counter((one.fault, one.where, one.wrong[0]) for one in outcomes if one.wrong)
    if found:
        rows = tuple(found)[:40]
        yield Table("What is wrong", ("fault", "where", "what"), rows)
