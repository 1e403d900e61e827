"""Kbuild, run as child processes that never outlive us.

The configuration is one plain make; the build is tuxmake's, which brings what kernel CI users know:
compiler wrapper, log, reproducible environment. tuxmake runs as a program of its own, not as a
library: it installs a SIGTERM handler, which Python allows in the main thread only; and a process
group of its own lets us end make and all compilers at once.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..confinement import cut_off
from ..scratch import sweep
from . import cache, toolchain

#: Constants in place of what tuxmake and Kbuild take from the tree, the machine and the clock: the
#: same key must give the same image, and an unchanged tree nothing to rebuild.
_REPRODUCIBLE = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "qemu-diff",
    "KBUILD_BUILD_HOST": "qemu-diff",
    # Else each link counts up the "#1" of the kernel's banner (init/build-version).
    "KBUILD_BUILD_VERSION": "1",
    # Set, though empty: scripts/setlocalversion must not find a git repository around the cache.
    "LOCALVERSION": "",
}

#: What a build sees of the user's environment. The rest may steer it: ARCH, KCFLAGS, MAKEFLAGS; or
#: make it wrong: CCACHE_DEPEND overlooks files that come in through .incbin.
_INHERITED = ("PATH", "HOME", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "CCACHE_DIR")

#: How long make may take to end its compilers and remove the objects they had begun.
_GRACE_S = 10.0

_POLL_S = 0.02

#: In a directory of objects: a make is running there, or was killed there.
_RUNNING = ".qemu-diff-running"

# Kbuild's short log: "  CC      kernel/fork.o". What is counted is what takes time.
_STEP = re.compile(r"^  (?:CC|AS|LD|HOSTCC|KSYMS|OBJCOPY)\s+(?P<target>\S+)")


@dataclass(frozen=True)
class MakeRun:
    """What to run.

    :param source: the source tree.
    :param objects: Kbuild's output directory.
    :param output: tuxmake's, for its log; emptied first.
    :param jobs: parallel jobs.
    """

    source: Path
    objects: Path
    output: Path
    jobs: int

    @property
    def warm(self) -> bool:
        """Whether a kernel has been built there before."""
        return (self.objects / "vmlinux").exists()

    @property
    def log(self) -> Path:
        """Everything that make and the compilers said."""
        return self.output / "build.log"


def configure(run: MakeRun, fragment: Path) -> bool:
    """Make a ``.config`` in which all is off that ``fragment`` does not name.

    :return: whether make succeeded.
    """
    _prepare(run)
    command = [
        *("make", "--silent", f"--jobs={run.jobs}", f"--directory={run.source}"),
        *(f"O={run.objects}", "ARCH=arm64", f"CROSS_COMPILE={toolchain.CROSS_COMPILE}"),
        *(f"KCONFIG_ALLCONFIG={fragment}", "allnoconfig"),
    ]
    with run.log.open("w") as log:
        return _run(run, command, log.write)


def build_image(run: MakeRun, on_step: Callable[[str], None]) -> bool:
    """Build ``Image`` and ``vmlinux`` from the ``.config`` that lies in the objects.

    :param on_step: called with the target of each step.
    :return: whether make succeeded.
    """
    _prepare(run)
    settings = {**_REPRODUCIBLE, "KCFLAGS": f"-ffile-prefix-map={run.objects}/="}
    command = [
        *(sys.executable, "-u", "-m", "tuxmake"),
        *("--runtime=null", "--target-arch=arm64", "--toolchain=gcc"),
        *(["--wrapper=ccache"] if shutil.which("ccache") else []),
        *(f"--directory={run.source}", f"--build-dir={run.objects}", f"--output-dir={run.output}"),
        # Verbose: without it there is nothing to count. Fail-fast: the first error is the one told.
        *("--verbose", "--fail-fast", f"--jobs={run.jobs}"),
        *(f"--environment={name}={value}" for name, value in settings.items()),
        # "config" finds a configuration and leaves it alone. It is named because without any target
        # tuxmake builds its whole list.
        *("--make-target=Image", "config"),
    ]

    def follow(line: str) -> None:
        if match := _STEP.match(line):
            on_step(match["target"])

    return _run(run, command, follow)


def _prepare(run: MakeRun) -> None:
    shutil.rmtree(run.output, ignore_errors=True)
    run.output.mkdir(parents=True)
    run.objects.mkdir(parents=True, exist_ok=True)
    # Where the .config came out the same, nobody else makes one beside it again.
    sweep(run.objects)
    _discard_half_written(run.objects)


def _run(run: MakeRun, command: list[str], on_line: Callable[[str], object]) -> bool:
    """Run a command to its end; whether it succeeded."""
    marker = run.objects / _RUNNING
    with _owned([*_dies_with_us(), *command], _environment(run), marker) as process:
        assert process.stdout is not None
        for line in process.stdout:
            on_line(line)
        return process.wait() == 0


def _dies_with_us() -> list[str]:
    """If we are killed there is nobody left to end a child; the kernel then sends it SIGTERM, on
    which tuxmake ends make."""
    return ["setpriv", "--pdeathsig=TERM", "--"] if shutil.which("setpriv") else []


def _environment(run: MakeRun) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # What ccache has to compile it preprocesses as well: 40 % more CPU time. That pays where
    # variants take turns, not in a first build.
    ccache = {} if run.warm else {"CCACHE_DISABLE": "1"}
    return {
        "CCACHE_DIR": str(cache.cache_root() / "ccache"),
        **inherited,
        **ccache,
        "LC_ALL": "C",
        # Where tuxmake would look for the user's default options.
        "XDG_CONFIG_HOME": str(run.output / "no-config"),
    }


@contextmanager
def _owned(
    command: list[str], environment: dict[str, str], marker: Path
) -> Iterator[subprocess.Popen[str]]:
    """A child in a process group of its own; when the context is left nothing of it is alive.

    :param marker: there while the child runs, and afterwards if it had to be killed.
    """
    marker.touch()
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        preexec_fn=cut_off(),  # noqa: PLW1509 - what it calls is loaded
    )
    try:
        yield process
    finally:
        if _end_group(process):
            marker.unlink()


def _end_group(process: subprocess.Popen[str]) -> bool:
    """End a process group; whether all in it came to an end of their own or on SIGTERM."""
    try:
        _signal_group(process, signal.SIGTERM)
        _await_group(process)
    finally:
        # Also when a second Ctrl-C cuts the wait short.
        alive = _is_alive(process)
        if alive:
            _signal_group(process, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    return not alive


def _await_group(process: subprocess.Popen[str]) -> None:
    """Give a group time to end: its leader goes before make, which still removes what it was
    writing."""
    deadline = time.monotonic() + _GRACE_S
    while _is_alive(process) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _signal_group(process: subprocess.Popen[str], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _is_alive(process: subprocess.Popen[str]) -> bool:
    """Whether a process of the group is running. One that has ended does not count, though nobody
    may have waited for it yet: in a container PID 1 often never does."""
    return any(group == process.pid and state not in "ZX" for state, group in _states_and_groups())


def _states_and_groups() -> Iterator[tuple[str, int]]:
    """(state, process group) of every process: proc(5), /proc/pid/stat, fields 3 and 5."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name, field 2, may have blanks and parentheses in it.
            state, _, group, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            yield state, int(group)


def _discard_half_written(objects: Path) -> None:
    """Remove what a killed make may have left half-written; make makes it again.

    A make that ends, well or on a signal, removes the target that it was writing. One that is
    killed leaves an object that is newer than its source: the next make would link it.
    """
    marker = objects / _RUNNING
    if not marker.exists():
        return
    moment_ns = marker.stat().st_mtime_ns
    for parent, _, names in os.walk(objects):
        for name in names:
            path = Path(parent, name)
            if name != ".config" and path.lstat().st_mtime_ns >= moment_ns:
                path.unlink()
