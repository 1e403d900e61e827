"""Cells on the workers of a real Dask cluster, on this machine: the verdict is the same wherever a
cell ran, and whatever became of its workers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from integration.cli_run import CliRun, command, environment, run_campaign
from integration.conftest import write_campaign

from qemu_diff.model import Build

pytestmark = pytest.mark.integration

DASK = Path(sys.executable).with_name("dask")

CELLS = """
[[pair]]
baseline = "unpatched"
candidate = "patched"
[[scenario]]
payload = "hvc"
machine = { kvm_mode = ["vhe", "nvhe"] }
expect = { unpatched = { hvc = "lost-step" } }
[[scenario]]
payload = "straightline"
[[scenario]]
payload = "trapped_sysreg"
flood = { source = "host_timer", placement = "sweep", first_ns = 2800, last_ns = 3600, step_ns = 8 }
expect = { unpatched = { trapped_sysreg = "lost-step" } }
"""

LONG = """
[[scenario]]
payload = "trapped_sysreg"
machine = { kvm_mode = ["vhe", "nvhe"] }
flood = { source = "host_timer", placement = "sweep", first_ns = 2000, last_ns = 60000 }
"""

KERNELS: dict[str, str | Path] = {"unpatched": "unpatched", "patched": "patched"}

UNLIKE = ("duration_s", "stepping_s", "attempts")
"""What may differ between two runs of the same cell."""


# --- processes -----------------------------------------------------------------------------------


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    try:
        threads = Path(f"/proc/{pid}/task").iterdir()
        return [int(one) for thread in threads for one in (thread / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid: int) -> list[int]:
    return [one for child in children(pid) for one in (child, *descendants(child))]


def boots(pid: int) -> list[int]:
    """The QEMUs below a process that boot a cell; one that is only asked something is none."""
    found = []
    for one in descendants(pid):
        try:
            words = Path(f"/proc/{one}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"qemu-system" in words[0] and b"-initrd" in words:
            found.append(one)
    return found


@contextmanager
def started(*words: str | Path, log: Path, **extra: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*map(str, words)], stdout=output, stderr=output, env=environment(**extra)
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# --- clusters ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cluster:
    """A scheduler, and what processes of its workers there were."""

    file: Path
    workers: list[subprocess.Popen[bytes]]
    stack: ExitStack

    def run(self, campaign: Path, out: Path, *more: str) -> CliRun:
        return run_campaign(campaign, out, "--scheduler", str(self.file), *more)

    def add(self, *before: str, slots: int = 1) -> subprocess.Popen[bytes]:
        """One worker more, with a cache of its own, as on a machine of its own."""
        place = self.file.with_name(f"worker-{len(self.workers)}")
        worker = self.stack.enter_context(
            started(
                *before,
                *(DASK, "worker", "--scheduler-file", self.file, "--resources", f"QEMU={slots}"),
                *("--host", "127.0.0.1", "--no-dashboard", "--nthreads", "2"),
                *("--local-directory", place),
                log=place.with_suffix(".log"),
                QEMU_DIFF_CACHE=str(place.with_name(f"{place.name}-cache")),
            )
        )
        self.workers.append(worker)
        return worker


@contextmanager
def scheduler(place: Path) -> Iterator[Cluster]:
    place.mkdir()
    file = place / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", file)
    log = place / "scheduler.log"
    with started(DASK, "scheduler", *options, log=log), ExitStack() as stack:
        wait_for(file.exists)
        yield Cluster(file, [], stack)


@pytest.fixture(scope="module")
def small(builds: dict[str, Build], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight cells, three of them with findings."""
    path = tmp_path_factory.mktemp("small") / "campaign.toml"
    return write_campaign(path, builds, KERNELS, CELLS)


@dataclass(frozen=True)
class Vain:
    """Clients that wait in vain, which takes them a while: they do so beside the other tests.

    :param no_scheduler: there is none, and there are results of an earlier run.
    :param no_worker: the scheduler has none.
    """

    no_scheduler: subprocess.Popen[str]
    no_worker: subprocess.Popen[str]
    empty: Cluster
    results: Path


@pytest.fixture(scope="module", autouse=True)
def vain(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vain]:
    place = tmp_path_factory.mktemp("vain")
    results = place / "earlier"
    results.mkdir()
    (results / "verdicts.json").write_text("earlier results")

    def client(address: str | Path, out: Path) -> subprocess.Popen[str]:
        words = command("run", small, "--out", out, "--scheduler", address)
        return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment())

    with scheduler(place / "empty") as empty:
        vain = Vain(
            client("tcp://127.0.0.1:9", results), client(empty.file, place / "none"), empty, results
        )
        yield vain
        for process in (vain.no_scheduler, vain.no_worker):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers with one slot each."""
    with scheduler(tmp_path_factory.mktemp("dask") / "cluster") as cluster:
        for _ in range(2):
            cluster.add()
        yield cluster


def likeness(run: CliRun) -> dict[str, Any]:
    """All that was measured and judged, but for how long it took."""
    cells = {one["id"]: one["result"] for one in run.verdicts["cells"]}
    for result in cells.values():
        for name in UNLIKE:
            del result[name]
    pairs = {one["cell"]: one["result"] for one in run.verdicts["pairs"]}
    return {"cells": cells, "pairs": pairs}


def files(directory: Path, *but: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name not in but
    }


# --- the same wherever it ran --------------------------------------------------------------------


def test_the_verdict_is_the_same_wherever_a_cell_ran(
    cluster: Cluster, small: Path, tmp_path: Path
) -> None:
    """One of two workers is killed in the midst of a cell, with all that it is made of."""
    here = run_campaign(small, tmp_path / "here")
    assert here.status == 0, here.said
    out = tmp_path / "there"
    arguments = command("run", small, "--out", out, "--scheduler", str(cluster.file))
    client = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    nanny = cluster.workers[0]
    qemus = wait_for(lambda: boots(nanny.pid))
    below = descendants(nanny.pid)
    assert {*qemus} <= {*below}
    nanny.kill()
    nanny.wait()
    wait_for(lambda: not any(alive(one) for one in below), seconds=10)
    stdout, stderr = client.communicate(timeout=120)
    there = CliRun(client.returncode, stdout, stderr, out)
    assert there.status == 0, there.said
    assert likeness(there) == likeness(here)
    assert all(one["fingerprint"] for one in there.verdicts["cells"])
    assert len(list((out / "findings").iterdir())) == 3
    assert files(out / "findings") == files(here.results / "findings")
    # Command lines name the directories of the machine that they were used on.
    assert files(out / "cells", "argv") == files(here.results / "cells", "argv")


def test_what_a_worker_has_is_not_sent_again(cluster: Cluster, small: Path, tmp_path: Path) -> None:
    """After the test above the worker that is left has run a cell of each kind."""
    log = cluster.file.with_name("worker-1.log")
    wait_for(lambda: "Run out-of-band function 'take'" in log.read_text())
    sent = log.read_text().count("'take'")
    assert cluster.run(small, tmp_path / "again", "--only", "*.hvc.vhe.*").status == 0
    assert log.read_text().count("'take'") == sent


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_client_that_goes_leaves_no_qemu(
    cluster: Cluster, builds: dict[str, Build], tmp_path: Path, how: signal.Signals
) -> None:
    campaign = write_campaign(tmp_path / "campaign.toml", builds, KERNELS, LONG)
    out = tmp_path / "out"
    client = subprocess.Popen(
        command("run", campaign, "--out", out, "--scheduler", str(cluster.file)),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    worker = cluster.workers[-1]
    qemus = wait_for(lambda: boots(worker.pid))
    client.send_signal(how)
    _, stderr = client.communicate(timeout=30)
    if how == signal.SIGKILL:
        wait_for(lambda: not any(alive(qemu) for qemu in qemus), seconds=20)
    else:
        assert client.returncode == 3, stderr
        assert not any(alive(qemu) for qemu in qemus)
        assert not json.loads((out / "verdicts.json").read_text())["complete"]
    time.sleep(1)
    assert not boots(worker.pid)


# --- what is not there, or not as it must be -----------------------------------------------------


def one_line(done: CliRun) -> str:
    (line,) = done.stderr.strip().splitlines()
    return line


def test_a_scheduler_that_is_not_there(vain: Vain) -> None:
    stderr = vain.no_scheduler.communicate(timeout=60)[1]
    assert vain.no_scheduler.returncode == 2
    (line,) = stderr.strip().splitlines()
    assert "--scheduler tcp://127.0.0.1:9: no Dask scheduler answers there" in line
    assert files(vain.results) == {"verdicts.json": b"earlier results"}


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nowhere.json", "--scheduler nowhere.json: No such file or directory"),
        ("/dev/null", "--scheduler /dev/null: no scheduler file"),
        ("tcp://127.0.0.1", "no Dask scheduler answers there"),
        ("no:address", "no Dask scheduler answers there"),
    ],
)
def test_what_is_no_address(small: Path, tmp_path: Path, address: str, words: str) -> None:
    done = run_campaign(small, tmp_path / "out", "--scheduler", address)
    assert done.status == 2
    assert words in one_line(done)


def test_jobs_are_for_this_machine(small: Path, tmp_path: Path) -> None:
    done = run_campaign(small, tmp_path / "out", "--scheduler", "tcp://127.0.0.1:9", "--jobs", "2")
    assert done.status == 2
    assert "--jobs is for this machine" in one_line(done)


def test_no_worker_with_slots(vain: Vain) -> None:
    stderr = vain.no_worker.communicate(timeout=60)[1]
    assert vain.no_worker.returncode == 2
    (line,) = stderr.strip().splitlines()
    assert "no worker with QEMU slots came within 20 s; start some: dask worker tcp:" in line


def test_workers_that_can_not_stand_in(vain: Vain, small: Path, tmp_path: Path) -> None:
    """One has another QEMU; one has no room, as a limit on file sizes fails the same reservation
    that a full disk fails."""
    other = tmp_path / "qemu-system-aarch64"
    other.write_text('#!/bin/sh\nexec qemu-system-aarch64 "$@"\n')
    other.chmod(0o755)
    assert vain.no_worker.wait(timeout=60) == 2
    vain.empty.add("env", f"QEMU_DIFF_QEMU={other}")
    done = vain.empty.run(small, tmp_path / "out")
    assert done.status == 2
    line = one_line(done)
    assert ": worker tcp://127.0.0.1:" in line
    assert "its QEMU is another one: QEMU emulator version" in line
    assert not (tmp_path / "out" / "verdicts.json").exists()

    vain.empty.add("prlimit", f"--fsize={16 << 20}")
    wait_for(lambda: "Registered to" in vain.empty.file.with_name("worker-1.log").read_text())
    done = vain.empty.run(small, tmp_path / "full", "--only", "patched.hvc.vhe.*")
    assert done.status == 3, done.said
    assert ": skipped in 0.0 s: its QEMU is another one" in done.said
    (cell,) = done.verdicts["cells"]
    assert cell["verdict"] == "lost"
    assert "records.bin: 64 MiB: File too large" in cell["result"]["reason"]
