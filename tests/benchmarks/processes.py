"""Every process that a command starts, killed as it is born and in the middle of its life, and the
command itself at moments all over its own. About 20 minutes on two free CPUs.

Beside ``faults``, which walks the points of a run: here are gdb and its QEMU in L1, git, gcc, what
`replay` and `minimize` boot.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from benchmarks.conditions import conditions
from benchmarks.faults import CELLS, FAKELINUX, FEW, QUICKSTART, Outcome, corrupt
from benchmarks.measured import Claim, Measured, Table
from faults.injection import Ended, Place, cells_of, files_of

from qemu_diff.config import load_campaign
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.kernels import build_kernel

POLL_S = 0.002

MOMENTS = 8
"""Of the command's own life at which it is killed."""

COMM = 15
"""Characters that Linux keeps of a program's name (proc_pid_comm(5))."""

SIDE_BY_SIDE = 2

SHORT_S = 0.05
"""A life that is over by then has no middle."""

OF_A_KIND = 4
"""Processes of one program that are killed, from the first to the last, evenly."""

LOG = "build.log"

GDB = """
[[scenario]]
payload = "hvc"
driver = "gdb"
flood = {{ count = {passes} }}
expect = {{ unpatched = {{ hvc = "lost-step" }} }}
"""


@dataclass(frozen=True)
class Life:
    """A process of an undisturbed command.

    :param nth: of those of its program, from 1, in the order in which they were born.
    """

    program: str
    nth: int
    lived_s: float


@dataclass(frozen=True)
class Strike:
    """A SIGKILL.

    :param program: whose; empty: the command's own process.
    :param after_s: of its life, or of the command's.
    :param when: the same in words.
    """

    program: str
    nth: int
    after_s: float
    when: str


@dataclass(frozen=True)
class Command:
    """What is disturbed.

    :param arguments: of ``qemu-diff``.
    :param forget: makes its place what it was before.
    :param made: what it leaves that must be the same each time.
    """

    name: str
    place: Place
    arguments: tuple[str, ...]
    forget: Callable[[], None]
    made: Callable[[], object]


@dataclass
class _Watched:
    """The processes below one, as far as they were seen.

    :param seen: by pid, what program each is by now, and when it was first and last there.
    """

    root: int
    seen: dict[int, tuple[str, float, float]] = field(default_factory=dict)

    def look(self) -> list[psutil.Process]:
        now, found = time.monotonic(), []
        with suppress(psutil.Error):
            for one in psutil.Process(self.root).children(recursive=True):
                with suppress(psutil.Error):
                    _, born, _ = self.seen.get(one.pid, ("", now, now))
                    self.seen[one.pid] = one.name()[:COMM], born, now
                    found.append(one)
        return found

    def nth(self, pid: int) -> int:
        """Which of its program it is."""
        program = self.seen[pid][0]
        same = [one for one, (name, _, _) in self.seen.items() if name == program]
        return same.index(pid) + 1

    def lives(self) -> tuple[Life, ...]:
        return tuple(
            Life(program, self.nth(pid), last - born)
            for pid, (program, born, last) in self.seen.items()
        )


def undisturbed(command: Command) -> tuple[Ended, tuple[Life, ...]]:
    """Run a command, and see what processes it has."""
    found: list[_Watched] = []

    def watch(process: subprocess.Popen[str]) -> None:
        found.append(_Watched(process.pid))
        while process.poll() is None:
            found[0].look()
            time.sleep(POLL_S)

    command.forget()
    ended = command.place.run(*command.arguments, meanwhile=watch)
    return ended, found[0].lives()


def strikes(lives: Sequence[Life], wall_s: float) -> Iterator[Strike]:
    """Where a command is struck."""
    for moment in range(MOMENTS):
        share = (2 * moment + 1) / (2 * MOMENTS)
        yield Strike("", 1, share * wall_s, f"after {share:.0%}")
    for program in dict.fromkeys(one.program for one in lives):
        same = [one for one in lives if one.program == program]
        chosen = {round(at * (len(same) - 1) / (OF_A_KIND - 1)) for at in range(OF_A_KIND)}
        for one in (same[at] for at in sorted(chosen)):
            yield Strike(program, one.nth, 0.0, "as it is born")
            if one.lived_s > SHORT_S:
                yield Strike(program, one.nth, one.lived_s / 2, "in the middle of its life")


def struck(command: Command, known: Ended, made: object, strike: Strike) -> Outcome:
    """Run a command with one of its processes killed, and then once more without."""
    fired: list[int] = []

    def kill(process: subprocess.Popen[str]) -> None:
        watched, began = _Watched(process.pid), time.monotonic()
        while process.poll() is None and not fired:
            if not strike.program:
                if time.monotonic() - began >= strike.after_s:
                    process.kill()
                    fired.append(process.pid)
            else:
                fired.extend(_kill(watched, strike))
            time.sleep(POLL_S)

    command.forget()
    ended = command.place.run(*command.arguments, meanwhile=kill)
    left = bool(command.place.left())
    wrong = [f"orphan {name}" for name in ended.orphans]
    if "Traceback" in ended.said or "a bug of ours" in ended.said:
        wrong.append(f"traceback: {ended.said.strip()[-200:]}")
    if strike.program and ended.status not in (known.status, 2, 3):
        wrong.append(f"status {ended.status}: {ended.said.strip()[-200:]}")
    if ended.status == known.status and command.made() != made:
        wrong.append("it came to something else")
    wrong += _again(command, known, made)
    whose = f"{strike.program} #{strike.nth}" if strike.program else "the command itself"
    where = f"{whose}, {strike.when}"
    stage = f"{command.name}: {strike.program or 'the command itself'}"
    return Outcome("SIGKILL", stage, where, bool(fired), left, tuple(wrong))


def _kill(watched: _Watched, strike: Strike) -> Iterator[int]:
    for one in watched.look():
        program, born, now = watched.seen[one.pid]
        its = program == strike.program and watched.nth(one.pid) == strike.nth
        if its and now - born >= strike.after_s:
            with suppress(psutil.NoSuchProcess):
                one.kill()
                yield one.pid


def _again(command: Command, known: Ended, made: object) -> Iterator[str]:
    """The next one finds nothing of what was killed in its way, and leaves nothing of it."""
    command.forget()
    after = command.place.run(*command.arguments)
    yield from (f"then: orphan {name}" for name in after.orphans)
    if after.status != known.status:
        yield f"then: status {after.status}: {after.said.strip()[-200:]}"
    elif command.made() != made:
        yield "then: it came to something else"
    if left := command.place.left():
        yield f"left: {left[0]} and {len(left) - 1} more"


# --- the commands --------------------------------------------------------------------------------


def commands(directory: Path, library: Path) -> Iterator[Command]:
    """Each in a place of its own, with a warm cache where a cold one is not the point."""
    yield _gdb(Place(_made(directory / "gdb"), library))
    found = Place(_made(directory / "found"), library)
    (found.directory / "campaign.toml").write_text(_campaign(CELLS))
    campaign = str(found.directory / "campaign.toml")
    ran = found.run("run", campaign, "--out", str(found.results), "--jobs", "1")
    (finding,) = (found.results / "findings").iterdir()
    if ran.status:
        raise RuntimeError(f"no finding: status {ran.status}: {ran.said}")
    for name in ("replay", "minimize"):
        place = Place(_made(directory / name), library)
        shutil.copytree(finding, place.directory / finding.name)
        shutil.copytree(found.cache, place.cache)
        yield _of_a_finding(name, place, place.directory / finding.name)
    yield _kernel(Place(_made(directory / "kernel"), library))


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _campaign(scenarios: str) -> str:
    lines = ["[campaign]", 'name = "processes"', "budget_s = 120"]
    for kernel in load_campaign(QUICKSTART).kernels:
        image = build_kernel(kernel).image
        source = f'{{ image = "{image}", vmlinux = "{image.with_name("vmlinux")}" }}'
        lines += [f"[kernels.{kernel.name}]", f"source = {source}"]
    return "\n".join(lines) + scenarios.format(passes=FEW)


def _gdb(place: Place) -> Command:
    campaign = place.directory / "campaign.toml"
    campaign.write_text(_campaign(GDB))

    def made() -> object:
        cells = cells_of(place.results)
        # What gdb prints names the sockets of that run.
        return {name: (cell["verdict"], cell["lost_steps"]) for name, cell in cells.items()}

    arguments = ("run", str(campaign), "--out", str(place.results), "--jobs", "1")
    return Command("gdb", place, arguments, place.forget_run, made)


def _of_a_finding(name: str, place: Place, finding: Path) -> Command:
    out = place.directory / "out"
    kernel = next(one for one in load_campaign(QUICKSTART).kernels if one.name == "unpatched")
    image = build_kernel(kernel).image
    arguments = (name, str(finding), "--out", str(out), "--image", str(image))

    def forget() -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(place.scratch, ignore_errors=True)

    def made() -> object:
        return files_of(out)

    return Command(name, place, arguments, forget, made)


def _kernel(place: Place) -> Command:
    """A tree's commit, patched and built in an empty cache."""
    tree = place.directory / "linux"
    shutil.copytree(FAKELINUX, tree)
    identity = ("-c", "user.name=n", "-c", "user.email=n@example.org")
    for words in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-q", "-m", "one")):
        subprocess.run(["git", "-C", str(tree), *words], check=True)
    campaign = place.directory / "campaign.toml"
    campaign.write_text(
        '[campaign]\nname = "kernels"\n[kernels.one]\n'
        f'source = {{ git = "{tree}", rev = "HEAD" }}\n[[scenario]]\npayload = "hvc"\n'
    )

    def forget() -> None:
        for one in (place.cache, place.scratch):
            shutil.rmtree(one, ignore_errors=True)

    def made() -> object:
        metadata = (place.cache / "kernels").glob("[!.]*/metadata.json")
        files = [json.loads(one.read_text())["files"] for one in metadata]
        # What make's jobs say comes in the order in which they are done.
        digests = [{name: each for name, each in one.items() if name != LOG} for one in files]
        return digests, [one.name for one in corrupt(place.cache)]

    return Command("kernels build", place, ("kernels", "build", str(campaign)), forget, made)


# --- all of it -----------------------------------------------------------------------------------


def measure() -> Measured:
    """All commands, one after the other."""
    with tempfile.TemporaryDirectory(prefix="processes-") as name:
        outcomes = list(_all(Path(name)))
    return Measured(
        "processes",
        "scripts/measure processes",
        conditions(find_qemu(), f"{MOMENTS} moments of a command, {OF_A_KIND} of each program"),
        claims=(_claim(outcomes),),
        tables=(_table(outcomes),),
    )


def _all(directory: Path) -> Iterator[Outcome]:
    every = list(commands(directory, directory / "no-library"))
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for outcomes in pool.map(_walked, every):
            yield from outcomes


def _walked(command: Command) -> list[Outcome]:
    command.forget()
    command.place.run(*command.arguments)  # the caches
    ended, lives = undisturbed(command)
    made = command.made()
    outcomes = []
    for strike in strikes(lives, ended.wall_s):
        outcome = struck(command, ended, made, strike)
        what = "; ".join(outcome.wrong) or "nothing wrong"
        reached = "" if outcome.fired else "not come to; "
        print(f"  {command.name}: {outcome.where}: {reached}{what}", flush=True)
        outcomes.append(outcome)
    return outcomes


def _claim(outcomes: Sequence[Outcome]) -> Claim:
    bad = [one for one in outcomes if one.wrong]
    missed = sum(not one.fired for one in outcomes)
    return Claim(
        "processes of other commands: something lost, invented or left behind",
        f"{len(bad)} of {len(outcomes)} kills",
        "none",
        not bad,
        f"{missed} processes were not met again" if missed else "",
    )


def _table(outcomes: Sequence[Outcome]) -> Table:
    rows = []
    for stage in dict.fromkeys(one.stage for one in outcomes):
        of_it = [one for one in outcomes if one.stage == stage]
        fired, left = sum(one.fired for one in of_it), sum(one.left for one in of_it)
        wrong = [one for one in of_it if one.wrong]
        said = "; ".join(f"{one.where}: {one.wrong[0]}" for one in wrong[:2]) or "none"
        rows.append((stage, str(len(of_it)), str(fired), str(left), said))
    columns = ("command: process", "kills", "met", "left until the next", "wrong")
    return Table("Processes of other commands", columns, tuple(rows))
