"""Isolation: the QEMU of every driver, looked at from outside while it runs. About 60 s."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from benchmarks.conditions import conditions
from benchmarks.measured import Claim, Measured, Table

from qemu_diff.confinement import Confinement, confine, offered
from qemu_diff.guest.qemu import QEMU_PROGRAM, find_qemu
from qemu_diff.model import Driver

CAMPAIGN = """
[campaign]
name = "isolation"
[kernels.patched]
source = "debian:linux-source-6.1"
[[scenario]]
payload = "hvc"
flood = {{ count = 1000 }}
[[scenario]]
payload = "hvc"
flood = {{ count = 30 }}
driver = [{drivers}]
[[scenario]]
payload = "debug-exceptions"
driver = "selftest"
flood = {{ count = 20 }}
"""
OUTSIDE = (Driver.GDB, Driver.RSP, Driver.MONITOR)
DRIVERS = (Driver.IN_GUEST, *OUTSIDE, Driver.SELFTEST)

POLL_S = 0.05
SETTLED_S = 0.7
"""After so long a QEMU has opened all that it opens."""


@dataclass(frozen=True)
class Looked:
    """The last look at one QEMU: one that is about to set itself up lacks things.

    :param found: property → what is wrong, or nothing.
    """

    driver: str
    found: dict[str, str]


@dataclass
class Seen:
    """What was seen of the QEMUs of one run.

    :ivar faults: property → one line for each QEMU that lacks it.
    :ivar looked_at: driver → QEMUs that were looked at.
    :ivar status: the run's exit status.
    """

    faults: dict[str, list[str]] = field(default_factory=dict)
    looked_at: dict[str, int] = field(default_factory=dict)
    status: int = -1
    output: str = ""

    def add(self, looked: Looked) -> None:
        """Count a QEMU."""
        self.looked_at[looked.driver] = self.looked_at.get(looked.driver, 0) + 1
        for name, fault in looked.found.items():
            if fault:
                self.faults[name].append(f"{looked.driver}: {fault}")


Look = Callable[[psutil.Process, Path], str]
"""(QEMU, results directory) → what is wrong, or nothing."""


def _proc(qemu: psutil.Process, name: str) -> str:
    return Path(f"/proc/{qemu.pid}/{name}").read_text()


def _sockets(qemu: psutil.Process, _: Path) -> str:
    open_ones = []
    for one in (qemu, *qemu.parents()[:1], *psutil.Process(qemu.ppid()).children(recursive=True)):
        open_ones += one.net_connections(kind="inet")
    return f"{len(open_ones)} sockets of TCP or UDP" if open_ones else ""


def _network(qemu: psutil.Process, _: Path) -> str:
    if Path(f"/proc/{qemu.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
        return "it has our network"
    names = re.findall(r"^\s*(\w+):", _proc(qemu, "net/dev"), re.MULTILINE)
    lines = [_proc(qemu, f"net/{kind}").splitlines()[1:] for kind in ("tcp", "tcp6", "udp")]
    return f"{names}" if names != ["lo"] else f"{lines}" if any(lines) else ""


def _every_thread(qemu: psutil.Process, key: str, wanted: str) -> str:
    found = set()
    for task in Path(f"/proc/{qemu.pid}/task").iterdir():
        status = (task / "status").read_text()
        found.add(re.findall(rf"^{key}:\s*(\S+)", status, re.MULTILINE)[0])
    return "" if found == {wanted} else f"{key}: {sorted(found)}"


def _seccomp(qemu: psutil.Process, _: Path) -> str:
    return _every_thread(qemu, "Seccomp", "2")


def _privileges(qemu: psutil.Process, _: Path) -> str:
    return _every_thread(qemu, "NoNewPrivs", "1")


def _capabilities(qemu: psutil.Process, _: Path) -> str:
    left = int(re.findall(r"CapEff:\s*(\S+)", _proc(qemu, "status"))[0], 16) & ~0b110
    return f"CapEff: {left:x}" if left else ""


def _runtime_directory(qemu: psutil.Process, _: Path) -> str:
    wrong = []
    for word in qemu.cmdline():
        for path in re.findall(r"(?:^unix:|,path=)(/[^,]+)", word):
            socket, directory = Path(path).stat(), Path(path).parent.stat()
            modes = (stat.S_IMODE(directory.st_mode), stat.S_IMODE(socket.st_mode) & 0o077)
            if modes != (0o700, 0) or not stat.S_ISSOCK(socket.st_mode):
                wrong.append(f"{path}: {modes[0]:o}, {modes[1]:o}")
    return ", ".join(wrong)


def _environment(qemu: psutil.Process, _: Path) -> str:
    allowed = {"HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TERM", "TMPDIR", "TZ"}
    return ", ".join(sorted(qemu.environ().keys() - allowed))


def _descriptors(qemu: psutil.Process, results: Path) -> str:
    """Files that are open for writing, beside its own results, its terminal and what is no file."""
    own = (str(results), "/dev/pts/", "/dev/null", "/dev/ptmx", "anon_inode:", "socket:", "pipe:")
    elsewhere = []
    for entry in Path(f"/proc/{qemu.pid}/fd").iterdir():
        target = str(entry.readlink())
        flags = re.findall(r"flags:\s*(\d+)", _proc(qemu, f"fdinfo/{entry.name}"))[0]
        if int(flags, 8) & os.O_ACCMODE and not target.startswith((*own, "/memfd:")):
            elsewhere.append(target)
    return ", ".join(elsewhere)


def _limits(qemu: psutil.Process, _: Path) -> str:
    wanted = {
        psutil.RLIMIT_CORE: 0,
        psutil.RLIMIT_AS: 8 << 30,
        psutil.RLIMIT_FSIZE: 1 << 30,
        psutil.RLIMIT_NOFILE: 256,
    }
    return ", ".join(
        f"limit {kind}: {hard}"
        for kind, most in wanted.items()
        for _, hard in (qemu.rlimit(kind),)
        if hard == psutil.RLIM_INFINITY or hard > most
    )


PROPERTIES: dict[str, tuple[str, Look]] = {
    "no TCP or UDP socket": (
        "descriptors of qemu-diff, QEMU and gdb against /proc/net", _sockets,
    ),
    "a network of its own, with nothing in it": (
        "/proc/PID/ns/net, /proc/PID/net/{dev,tcp,tcp6,udp}", _network,
    ),
    "seccomp filter on every thread": ("Seccomp: 2 in /proc/PID/task/*/status", _seccomp),
    "no new privileges": ("NoNewPrivs: 1 in /proc/PID/task/*/status", _privileges),
    "no capabilities but for reading files": ("CapEff in /proc/PID/status", _capabilities),
    "sockets are Unix sockets, for us alone, in a directory of mode 0700": (
        "the paths of its command line", _runtime_directory,
    ),
    "no secrets of our environment": ("/proc/PID/environ", _environment),
    "writes to its own results only": (
        "flags of what it has open: /proc/PID/fd, /proc/PID/fdinfo", _descriptors,
    ),
    "limits on memory, files, descriptors, core dumps": ("/proc/PID/limits", _limits),
}  # fmt: skip
"""Property → how it is observed, and by what."""


def look(results: Path, drivers: tuple[Driver, ...] = DRIVERS) -> Seen:
    """Run a cell of each driver, and look at each QEMU until nothing is wrong with it.

    One that is gone before that has what was wrong with it last.

    :param results: gets the campaign and its results.
    """
    campaign = results.parent / "isolation.toml"
    named = ", ".join(f'"{one}"' for one in drivers if one in OUTSIDE)
    text = CAMPAIGN.format(drivers=named)
    if Driver.SELFTEST not in drivers:
        text = text[: text.rindex("[[scenario]]")]
    campaign.write_text(text)
    seen = Seen({name: [] for name in PROPERTIES})
    command = [sys.executable, "-m", "qemu_diff", "run", str(campaign), "--out", str(results)]
    environment = {**os.environ, "CI": "true", "A_SECRET": "of ours"}
    with (results.parent / "output").open("w+") as output:
        run = subprocess.Popen(
            [*command, "--jobs", "1"], stdout=output, stderr=output, env=environment
        )
        latest: dict[int, Looked] = {}
        while run.poll() is None:
            done = {pid for pid, looked in latest.items() if not any(looked.found.values())}
            for qemu in _qemus(run.pid, done):
                if looked := _look_at(qemu, results):
                    latest[qemu.pid] = looked
            time.sleep(POLL_S)
        seen.status = run.returncode
        for looked in latest.values():
            seen.add(looked)
        output.seek(0)
        seen.output = output.read()
    return seen


def _qemus(parent: int, done: set[int]) -> Iterator[psutil.Process]:
    try:
        for one in psutil.Process(parent).children(recursive=True):
            boots = one.pid not in done and "-kernel" in one.cmdline()
            if boots and time.time() - one.create_time() > SETTLED_S:
                yield one
    except psutil.NoSuchProcess:
        return


def _look_at(qemu: psutil.Process, results: Path) -> Looked | None:
    """What it lacks; None where it was not there to be looked at: files that it closes meanwhile
    are another try."""
    try:
        command = " ".join(qemu.cmdline())
        outside = re.search(r"driver-([a-z]+)", command)
        driver = outside[1] if outside else Driver.IN_GUEST.value
        return Looked(
            driver, {name: wrong(qemu, results) for name, (_, wrong) in PROPERTIES.items()}
        )
    except (psutil.NoSuchProcess, OSError):
        return None


ATTEMPTS = {
    "writing a file of ours": "open('{other}', 'a')",
    "removing a file of ours": "import os; os.unlink('{other}')",
    "a symbolic link among its own files": "import os; os.symlink('{other}', 'records.bin')",
    "another file beside its own": "open('another', 'w')",
    "a pipe among its own files": "import os; os.mkfifo('truth.bin')",
    "listening on TCP": "import socket; socket.socket().bind(('127.0.0.1', 0))",
    "sending UDP": "import socket; socket.socket(type=2).sendto(b'x', ('127.0.0.1', 9))",
    "a signal to us": "import os; os.kill({us}, 0)",
    "3 GiB of memory more than its bound": "bytearray(4 << 30)",
    "a file of 2 MiB where 1 MiB is the bound": "open('mine', 'wb').write(bytes(1 << 21))",
}
"""What a child with QEMU's confinement tries."""


def refused(attempt: str, directory: Path) -> bool:
    """Whether a confined Python can't do what QEMU must not."""
    own, other = directory / "own", directory / "other"
    own.mkdir(exist_ok=True)
    other.write_text("ours")
    (own / "mine").touch()
    code = ATTEMPTS[attempt].format(other=other, us=os.getpid())
    prepare = confine(Confinement((own,), 1 << 30, 1 << 20), os.getpid())
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, preexec_fn=prepare, cwd=own, capture_output=True, check=False)
    return done.returncode != 0 and other.read_text() == "ours"


def measure() -> Measured:
    """See the module."""
    with tempfile.TemporaryDirectory() as scratch:
        print(f"isolation: a cell of each of {len(DRIVERS)} drivers", flush=True)
        seen = look(Path(scratch) / "results")
        print(f"isolation: {sum(seen.looked_at.values())} QEMUs looked at", flush=True)
        tried = {what: refused(what, Path(scratch)) for what in ATTEMPTS}
    here = offered()
    whole = sum(seen.looked_at.values())
    holds = sum(not faults for faults in seen.faults.values())
    return Measured(
        name="isolation",
        command="scripts/measure isolation",
        conditions=conditions(
            find_qemu(), f"Landlock version {here.landlock}, network namespaces: {here.no_network}"
        ),
        claims=(
            Claim(
                "properties that held for every QEMU",
                f"{holds} of {len(PROPERTIES)}",
                "all",
                holds == len(PROPERTIES) and seen.status == 0,
                f"{whole} QEMUs of {len(seen.looked_at)} drivers",
            ),
            Claim(
                "attempts of a confined child that were refused",
                f"{sum(tried.values())} of {len(tried)}",
                "all",
                all(tried.values()),
                ", ".join(what for what, kept in tried.items() if not kept),
            ),
        ),
        tables=(
            Table(
                f"What {QEMU_PROGRAM} is left with, driver by driver",
                ("property", "observed in", "QEMUs", "without it"),
                tuple(
                    (name, how, str(whole), "; ".join(seen.faults[name]) or "none")
                    for name, (how, _) in PROPERTIES.items()
                ),
                "QEMUs looked at: "
                + ", ".join(f"{name} {number}" for name, number in sorted(seen.looked_at.items())),
            ),
            Table(
                "What a child with the same confinement tried",
                ("attempt", "result"),
                tuple((what, "refused" if kept else "**done**") for what, kept in tried.items()),
            ),
        ),
    )
