"""One run of thousands of boots: what its process holds, and what it leaves on the disk.

``MEASURE_BOOTS`` says how many (2,000: 30 to 40 minutes on two free CPUs).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
from benchmarks.conditions import conditions
from benchmarks.measured import Claim, Measured, Plot, Series, Table
from benchmarks.pages import ROOT

from qemu_diff.config import load_campaign
from qemu_diff.guest.qemu import find_qemu
from qemu_diff.kernels import build_kernel
from qemu_diff.report.results import read_results

BOOTS = 2000
SAMPLE_S = 5.0
QUICKSTART = ROOT / "configs" / "quickstart.toml"

SCENARIOS = (
    ("quiet", 'payload = "hvc"'),
    (
        "a timer placed",
        'payload = "trapped_sysreg"\nflood = { source = "host_timer", placement = "sweep", '
        "first_ns = 2400, last_ns = 4400, step_ns = 50 }",
    ),
    (
        "async_first, through QEMU's gdbstub",
        'payload = "straightline"\nmachine = { exception_order = "async_first" }',
    ),
    (
        "a device, through qtest",
        'payload = "straightline"\n'
        'flood = { source = "device", placement = "random", count = 300 }',
    ),
)
"""Each holds other things while it boots: a console and QMP all, and what is named."""


@dataclass(frozen=True)
class Sample:
    """What a run held at one moment.

    :param boots: that it had begun.
    :param memory_mib: resident.
    :param children: processes below it.
    :param scratch_mib: under ``TMPDIR``.
    :param scratch: files and directories under ``TMPDIR``.
    """

    boots: int
    memory_mib: float
    descriptors: int
    threads: int
    children: int
    scratch: int
    scratch_mib: float


FIGURES = (
    ("memory_mib", "resident memory, MiB"),
    ("descriptors", "open descriptors"),
    ("threads", "threads"),
    ("children", "child processes"),
    ("scratch", "files under TMPDIR"),
    ("scratch_mib", "MiB under TMPDIR"),
)


@dataclass(frozen=True)
class Soak:
    """A run that has ended.

    :param left: processes that outlived it, by name.
    :param left_files: under ``TMPDIR``.
    :param verdicts: verdict → how many cells.
    :param lost: why something was lost → how many cells.
    :param results_mib: of its results directory.
    :param results_memory_mib: what a fresh process grows by that reads the results and makes the
        reports of them.
    """

    status: int
    wall_s: float
    samples: tuple[Sample, ...]
    left: tuple[str, ...]
    left_files: tuple[str, ...]
    verdicts: Counter[str]
    lost: Counter[str]
    results_mib: float
    results_memory_mib: float


def campaign(path: Path, boots: int) -> None:
    """A campaign of so many boots of a correct kernel, one for each cell."""
    kernel = next(one for one in load_campaign(QUICKSTART).kernels if one.name == "patched")
    image = build_kernel(kernel).image
    lines = ["[campaign]", 'name = "soak"', "findings = false", "[kernels.patched]"]
    lines.append(f'source = {{ image = "{image}" }}')
    for number, (_, scenario) in enumerate(SCENARIOS):
        seeds = range(number, boots, len(SCENARIOS))
        lines += ["[[scenario]]", scenario, f"seeds = {[seed + 1 for seed in seeds]}"]
    path.write_text("\n".join(lines) + "\n")


def soak(boots: int, directory: Path, jobs: int, every_s: float = SAMPLE_S) -> Soak:
    """Run the campaign in a process of its own, and look at that from outside.

    :param directory: empty; gets the campaign, its results and what is temporary.
    :param every_s: seconds from one look to the next.
    """
    scratch = directory / "tmp"
    scratch.mkdir()
    campaign(directory / "soak.toml", boots)
    results = directory / "results"
    command = [
        sys.executable, "-m", "qemu_diff", "run", str(directory / "soak.toml"),
        "--out", str(results), "--jobs", str(jobs), "--ledger", str(directory / "ledger.sqlite3"),
    ]  # fmt: skip
    environment = {**os.environ, "CI": "true", "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)}
    started = time.monotonic()
    with (directory / "said").open("wb") as said:
        process = psutil.Popen(command, env=environment, stdout=said, stderr=said)
    samples, seen = _watched(process, results, scratch, boots, every_s)
    status = process.wait()
    left = tuple(one.name() for one in seen if one.is_running())
    found = tuple(str(path.relative_to(scratch)) for path in sorted(scratch.rglob("*")))
    cells = read_results(results).cells
    verdicts = Counter(cell.verdict.value for cell in cells)
    lost = Counter(f"{cell.reason} ({cell.cell.flood.placement})" for cell in cells if cell.reason)
    wall_s = time.monotonic() - started
    return Soak(
        status, wall_s, tuple(samples), left, found, verdicts, lost,
        _usage(results)[0] / (1 << 20), _memory_of(results),
    )  # fmt: skip


READ = """
import sys, psutil
from pathlib import Path
from qemu_diff.cli.report_files import ReportFiles, Told, write_files
from qemu_diff.model import CampaignResult
from qemu_diff.report.results import VerdictsFile, read_results
results, scratch = map(Path, sys.argv[1:])
files = ReportFiles(junit=scratch / "junit.xml", html=scratch / "report.html")
def write(result):
    VerdictsFile(scratch).write(result)
    write_files(files, Told(result))
write(CampaignResult("empty", (), (), complete=True))
before = psutil.Process().memory_info().rss
result = read_results(results)
write(result)
print(psutil.Process().memory_info().rss - before)
"""


def _memory_of(results: Path) -> float:
    """What the results of all cells and their reports take of a process that boots nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [sys.executable, "-c", READ, str(results), scratch],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
    return int(done.stdout) / (1 << 20)


def _watched(
    process: psutil.Popen, results: Path, scratch: Path, boots: int, every_s: float
) -> tuple[list[Sample], set[psutil.Process]]:
    """Samples until the process ends, and every child that was seen."""
    samples: list[Sample] = []
    seen: set[psutil.Process] = set()
    said = 0
    while process.poll() is None:
        try:
            children = process.children(recursive=True)
            seen.update(children)
            samples.append(_sample(process, len(children), results, scratch))
        except psutil.NoSuchProcess:
            break
        if samples[-1].boots >= said + max(boots // 20, 1):
            said = samples[-1].boots
            print(f"  {samples[-1]}", flush=True)
        time.sleep(every_s)
    return samples, seen


def _sample(process: psutil.Popen, children: int, results: Path, scratch: Path) -> Sample:
    used, files = _usage(scratch)
    with process.oneshot():
        return Sample(
            boots=sum(1 for _ in (results / "cells").glob("*")),
            memory_mib=process.memory_info().rss / (1 << 20),
            descriptors=process.num_fds(),
            threads=process.num_threads(),
            children=children,
            scratch=files,
            scratch_mib=used / (1 << 20),
        )


def _usage(directory: Path) -> tuple[int, int]:
    """(bytes on the disk, number) of all that is below a directory."""
    used = [status for status in map(_lstat, directory.rglob("*")) if status is not None]
    return sum(status.st_blocks * 512 for status in used), len(used)


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


# --- what it shows -------------------------------------------------------------------------------


def ends(samples: Sequence[Sample], figure: str) -> tuple[float, float, float]:
    """(early median, late median, most) of a figure: of the second tenth and of the last."""
    tenth = max(len(samples) // 10, 1)
    values = [float(getattr(one, figure)) for one in samples]
    return median(values[tenth : 2 * tenth] or values), median(values[-tenth:]), max(values)


def _plots(samples: Sequence[Sample]) -> Iterator[Plot]:
    step = max(len(samples) // 200, 1)
    thinned = samples[::step]
    for figure, words in FIGURES:
        if figure in ("memory_mib", "descriptors", "scratch"):
            points = tuple((float(one.boots), float(getattr(one, figure))) for one in thinned)
            yield Plot(figure, f"{words}, over one run", "boots", words, (Series(words, points),))


def _claims(done: Soak, boots: int) -> Iterator[Claim]:
    judged = done.verdicts["pass"]
    yield Claim(
        "boots by one process, all judged",
        f"{judged:,} of {boots:,}",
        f"at least {BOOTS:,}, none lost",
        judged == boots >= BOOTS and done.status == 0,
        f"of each {done.wall_s / boots:.2f} s of wall time, "
        f"{done.results_mib * 1024 / boots:.0f} KiB of results"
        + "".join(f"; {count} times {reason}" for reason, count in done.lost.most_common(3)),
    )
    early, late, _ = ends(done.samples, "memory_mib")
    grown = late - early
    yield Claim(
        "resident memory, last tenth less second tenth",
        f"{grown:.1f} MiB of {early:.0f}, {grown * 1024 / boots:.1f} KiB for each boot",
        f"at most {done.results_memory_mib:.1f} MiB",
        grown <= done.results_memory_mib,
        "the results of all cells are in memory until the end: by the aim's figure a process grows "
        "that only reads them and writes their reports",
    )
    for figure, words in FIGURES[1:5]:
        half = len(done.samples) // 2
        early, late = (
            max((getattr(one, figure) for one in part), default=0)
            for part in (done.samples[:half], done.samples[half:])
        )
        yield Claim(
            f"{words}, at most: first half, second half",
            f"{early}, {late}",
            "at most 2 more",
            late <= early + 2,
        )
    yield Claim(
        "left behind: processes, files under TMPDIR",
        f"{len(done.left)}, {len(done.left_files)}",
        "none",
        not done.left and not done.left_files,
        ", ".join([*done.left, *done.left_files][:5]),
    )


def _table(samples: Sequence[Sample]) -> Table:
    rows = []
    for figure, words in FIGURES:
        early, late, most = ends(samples, figure)
        rows.append((words, f"{early:.4g}", f"{late:.4g}", f"{most:.4g}"))
    columns = ("held", "second tenth, median", "last tenth, median", "most")
    return Table(f"{len(samples):,} samples of one run", columns, tuple(rows))


def measure() -> Measured:
    """One run of ``MEASURE_BOOTS`` boots, two side by side."""
    boots = int(os.environ.get("MEASURE_BOOTS", BOOTS))
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        done = soak(boots, Path(name), jobs=2)
    kinds = ", ".join(words for words, _ in SCENARIOS)
    return Measured(
        "soak",
        "scripts/measure soak",
        conditions(find_qemu(), f"{boots:,} boots in turns: {kinds}"),
        claims=tuple(_claims(done, boots)),
        tables=(_table(done.samples),),
        plots=tuple(_plots(done.samples)),
    )
