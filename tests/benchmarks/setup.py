"""What comes before and between steps: QEMU's start, L1's boot, what a campaign does beside its
boots, kernels to be built.

About four minutes on two free CPUs; ``MEASURE_COLD_BUILD=1`` builds two kernels in an empty cache
as well, which takes minutes more.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from benchmarks.cells import Done, Life, Ready, lives, ready
from benchmarks.conditions import conditions
from benchmarks.measured import Claim, Measured, Plot, Series, Table
from benchmarks.pages import ROOT

from qemu_diff.abi import RecordKind, SharedState
from qemu_diff.cli.run import run
from qemu_diff.config import load_campaign
from qemu_diff.drive.in_guest import RECORDS, boot
from qemu_diff.drive.job import quiet_job
from qemu_diff.guest.process import CONSOLE, Ending
from qemu_diff.kernels import build_kernel
from qemu_diff.model import Driver, FloodSpec, MachineSpec, ScenarioSpec
from qemu_diff.report.results import read_results
from qemu_diff.scratch import scratch_directory
from qemu_diff.trace.records import read_records

QUICKSTART, PLACEMENT = (ROOT / "configs" / f"{name}.toml" for name in ("quickstart", "placement"))
KERNELS = ("patched", "unpatched")

BOOTS = 20
FIRST_STEP_S = 0.6

WORKERS = 2
MOST = 1.15

POWER_OFF = (0x52B0_8000, 0x7280_0100, 0xD400_0003)
"""MOVZ W0, #0x8400, LSL #16; MOVK W0, #8; SMC #0: PSCI's SYSTEM_OFF (DEN0022)."""

COLD = "MEASURE_COLD_BUILD"
COLD_S, SECOND_S = 240.0, 15.0

SLOWEST_SHOWN = 8


def measure() -> Measured:
    """See the module."""
    with _bench() as made:
        boots = _boots(made)
        bare = _bare(made)
        kernel = _kernel_says(made)
        qemu = made.prepared.tools.qemu
    campaigns = _campaigns()
    return Measured(
        name="setup",
        command="scripts/measure setup",
        conditions=conditions(qemu, f"{BOOTS} boots"),
        claims=(_first_step_claim(boots), *_campaign_claims(campaigns), *_build_claims()),
        tables=(_boot_table(boots, bare), _kernel_table(kernel), _campaign_table(campaigns)),
        plots=(_boot_plot(boots),),
    )


@contextmanager
def _bench() -> Iterator[Ready]:
    campaign = replace(
        load_campaign(QUICKSTART),
        findings=False,
        pairs=(),
        scenarios=(ScenarioSpec(("hvc",), (MachineSpec(),), FloodSpec(), Driver.IN_GUEST),),
    )
    with ready(campaign) as made:
        yield made


# --- one boot ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Boot:
    """Seconds from QEMU's start.

    :param plugin: the truth plugin is loaded.
    :param vmm: the step VMM has found the shared region.
    :param first_step: KVM_RUN has returned for the first time.
    :param last_step: likewise.
    :param gone: QEMU has ended.
    :param virtual_ns: of L1, up to its first KVM_RUN.
    """

    plugin: float
    vmm: float
    first_step: float
    last_step: float
    gone: float
    virtual_ns: int


def _boots(made: Ready) -> list[_Boot]:
    found: list[_Boot] = []
    for number in range(BOOTS):
        cell = made.cells[number % len(made.cells)]
        found.append(_boot_of(made.run(cell)))
        print(f"  boot {number + 1}: first step after {found[-1].first_step:.3f} s", flush=True)
    return found


def _boot_of(done: Done) -> _Boot:
    ((name, samples),) = done.samples.items()
    (life,) = done.lives
    records = read_records(done.directory / name / RECORDS)
    first = records[records["kind"] == RecordKind.RUN][0]
    steps = [one for one in samples if one.reports]
    return _Boot(
        plugin=next(one.at for one in samples if one.plugin) - life.began,
        vmm=next(one.at for one in samples if one.state is not SharedState.EMPTY) - life.began,
        first_step=steps[0].at - life.began,
        last_step=next(one.at for one in steps if one.reports == steps[-1].reports) - life.began,
        gone=life.ended - life.began,
        virtual_ns=int(first["entered_at"]),
    )


def _bare(made: Ready) -> list[float]:
    """QEMU's own life: the same command line, but L1's kernel is three instructions."""
    image = made.places.cells / "power-off"
    image.write_bytes(np.array(POWER_OFF, "<u4").tobytes())
    cell = made.cells[0]
    task = made.tasks[cell.id]
    assert task.payload is not None
    assert task.routine is not None
    found = []
    for number in range(BOOTS):
        done = boot(
            task.tools,
            replace(task.build, image=image),
            task.payload,
            quiet_job(task.routine, 1),
            machine=cell.machine,
            seed=cell.seed,
            directory=made.places.cells / f"bare-{number}",
            budget_s=60,
            cancel=threading.Event(),
        )
        assert done.exit.ending is Ending.EXITED, done.exit
        found.append(done.exit.wall_s)
    return found


def _first_step_claim(boots: Sequence[_Boot]) -> Claim:
    middle = median(one.first_step for one in boots)
    return Claim(
        "power-on to the first step",
        f"{middle:.2f} s",
        f"less than {FIRST_STEP_S} s",
        middle < FIRST_STEP_S,
        f"the median of {len(boots)} boots, {min(one.first_step for one in boots):.2f} to "
        f"{max(one.first_step for one in boots):.2f} s",
    )


PARTS = (
    ("QEMU, to its plugin", lambda one: one.plugin),
    ("QEMU's machine, and L1's kernel to PID 1's shared region", lambda one: one.vmm - one.plugin),
    ("the step VMM, to its first step", lambda one: one.first_step - one.vmm),
    ("seven steps", lambda one: one.last_step - one.first_step),
    ("L1's and QEMU's end", lambda one: one.gone - one.last_step),
)


def _boot_table(boots: Sequence[_Boot], bare: Sequence[float]) -> Table:
    rows = [(what, *_spread([of(one) for one in boots])) for what, of in PARTS]
    rows.append(("all of it", *_spread([one.gone for one in boots])))
    rows.append(("QEMU's own start and end, L1's kernel being three instructions", *_spread(bare)))
    virtual = median(one.virtual_ns for one in boots)
    return Table(
        "Where a boot's time goes, in ms",
        ("part", "min", "median", "max"),
        tuple(rows),
        f"L1 executes {virtual / 1e6:,.1f} million instructions up to its first KVM_RUN.",
    )


def _spread(seconds: Sequence[float]) -> tuple[str, str, str]:
    low, middle, high = (1e3 * one(seconds) for one in (min, median, max))
    return f"{low:,.0f}", f"{middle:,.0f}", f"{high:,.0f}"


def _boot_plot(boots: Sequence[_Boot]) -> Plot:
    middle = [1e3 * median(of(one) for one in boots) for _, of in PARTS]
    names = ("QEMU", "kernel", "step VMM", "steps", "end")
    series = Series("median", tuple(enumerate(middle)))
    return Plot("boot", "Where a boot's time goes", "", "ms", (series,), bars=True, ticks=names)


# --- what L1's kernel says of its boot -----------------------------------------------------------


_INITCALL = re.compile(r"initcall (\S+?)(?:\+\S+)? returned -?\d+ after (\d+) usecs")
_AT = re.compile(r"\[\s*(\d+\.\d+)\] (.*)")
_INIT = "Run /init as init process"

_TALKATIVE = """#!/bin/sh
for option; do
    shift
    case "$option" in
    *loglevel=5*)
        talks="loglevel=8 printk.time=1 initcall_debug"
        option="${{option%%loglevel=5*}}$talks${{option#*loglevel=5}}"
        ;;
    esac
    set -- "$@" "$option"
done
exec {qemu} "$@"
"""


@dataclass(frozen=True)
class _KernelBoot:
    """:param to_init_ms: of virtual time since its clock began.

    :param initcalls: (name, µs), the longest first.
    """

    to_init_ms: float
    initcalls: tuple[tuple[str, int], ...]


def _kernel_says(made: Ready) -> _KernelBoot:
    """A boot whose kernel tells of all that it does; telling takes time, too."""
    cell = made.cells[0]
    task = made.tasks[cell.id]
    program = made.places.cells / "qemu-talkative"
    program.write_text(_TALKATIVE.format(qemu=shlex.quote(str(task.tools.qemu.program))))
    program.chmod(0o755)
    assert task.payload is not None
    assert task.routine is not None
    directory = made.places.cells / "talkative"
    boot(
        replace(task.tools, qemu=replace(task.tools.qemu, program=program)),
        task.build,
        task.payload,
        quiet_job(task.routine, 1),
        machine=cell.machine,
        seed=cell.seed,
        directory=directory,
        budget_s=60,
        cancel=threading.Event(),
    )
    said = (directory / CONSOLE).read_text(errors="replace")
    init = next((one[1] for one in _AT.finditer(said) if one[2].startswith(_INIT)), "nan")
    calls = [(name, int(took)) for name, took in _INITCALL.findall(said)]
    calls.sort(key=lambda call: -call[1])
    return _KernelBoot(1e3 * float(init), tuple(calls))


def _kernel_table(kernel: _KernelBoot) -> Table:
    whole = sum(took for _, took in kernel.initcalls)
    rows = [(name, f"{took / 1e3:.1f}") for name, took in kernel.initcalls[:SLOWEST_SHOWN]]
    rest = sum(took for _, took in kernel.initcalls[SLOWEST_SHOWN:])
    number = len(kernel.initcalls)
    rows.append((f"the other {max(0, number - SLOWEST_SHOWN)} initcalls", f"{rest / 1e3:.1f}"))
    return Table(
        "L1's kernel on its way to PID 1: its longest initcalls, by `initcall_debug`",
        ("initcall", "ms of virtual time"),
        tuple(rows),
        f"{whole / 1e3:.1f} ms in initcalls; PID 1 after {kernel.to_init_ms:.0f} ms of the "
        "kernel's own clock, with the time that telling takes.",
    )


# --- campaigns -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Campaign:
    """A campaign as a user runs it.

    :param wall_s: from the command's start, Python's own aside, to its end.
    :param before_s: to the first boot.
    :param after_s: from the end of the last.
    :param alone_s: between these, with fewer boots than workers.
    """

    name: str
    cells: int
    boots: int
    placements: int
    wall_s: float
    l1_s: float
    before_s: float
    after_s: float
    alone_s: float

    @property
    def ratio(self) -> float:
        """Wall-clock time against the cells' L1 time, on so many workers."""
        return self.wall_s / (self.l1_s / WORKERS)


RUNS = (
    ("quickstart, without a past", QUICKSTART, ("*",), False),
    ("quickstart, its past known", QUICKSTART, ("*",), True),
    (
        "the maps and sources of configs/placement.toml",
        PLACEMENT,
        ("*trapped*", "*.hvc.*"),
        True,
    ),
)
"""(name, file, globs, whether the ledger is kept from the run before)."""


def _campaigns() -> list[_Campaign]:
    found: list[_Campaign] = []
    with scratch_directory() as scratch:
        for number, (name, path, globs, remembered) in enumerate(RUNS):
            ledger = scratch / ("ledger" if remembered or not number else f"ledger-{number}")
            out = scratch / f"out-{number}"
            found.append(_run(name, path, list(globs), out, ledger))
            one = found[-1]
            print(
                f"  {name}: {one.wall_s:.1f} s, {one.boots} boots of {one.l1_s:.1f} s: ratio "
                f"{one.ratio:.2f}",
                flush=True,
            )
    return found


def _run(name: str, path: Path, globs: list[str], out: Path, ledger: Path) -> _Campaign:
    began = time.monotonic()
    with lives() as boots, redirect_stdout(io.StringIO()):
        run(path, out=out, jobs=WORKERS, only=globs, ledger_file=ledger)
        ended = time.monotonic()
    cells = read_results(out).cells
    first, last = min(one.began for one in boots), max(one.ended for one in boots)
    return _Campaign(
        name=name,
        cells=len(cells),
        boots=len(boots),
        placements=sum(one.placements for one in cells),
        wall_s=ended - began,
        l1_s=sum(one.ended - one.began for one in boots),
        before_s=first - began,
        after_s=ended - last,
        alone_s=_alone_s(boots),
    )


def _alone_s(boots: Sequence[Life]) -> float:
    """Seconds between the first boot and the last with fewer of them than workers."""
    changes = sorted([(one.began, 1) for one in boots] + [(one.ended, -1) for one in boots])
    running, since, alone = 0, changes[0][0], 0.0
    for at, change in changes:
        if running < WORKERS:
            alone += at - since
        running, since = running + change, at
    return alone


def _campaign_claims(campaigns: Sequence[_Campaign]) -> tuple[Claim, ...]:
    largest = max(campaigns, key=lambda one: one.boots)
    pace = largest.placements / largest.wall_s
    return (
        Claim(
            "placements for each second of a campaign, boots and confirmations included",
            f"{pace:,.0f}",
            why=f"{largest.name}: {largest.placements:,} placements in {largest.wall_s:,.0f} s",
        ),
        Claim(
            f"a campaign's wall-clock time against its cells' L1 time on {WORKERS} workers",
            f"{largest.ratio:.2f}",
            f"at most {MOST}",
            largest.ratio <= MOST,
            f"{largest.name}; L1 time is QEMU's, from its start to its end, summed over all boots "
            f"and divided by {WORKERS}",
        ),
    )


def _campaign_table(campaigns: Sequence[_Campaign]) -> Table:
    rows = tuple(
        (
            one.name, f"{one.cells}", f"{one.boots}", f"{one.placements:,}", f"{one.wall_s:.1f}",
            f"{one.l1_s:.1f}", f"{one.ratio:.2f}", f"{one.before_s:.1f}", f"{one.alone_s:.1f}",
            f"{one.after_s:.1f}",
        )
        for one in campaigns
    )  # fmt: skip
    return Table(
        f"Campaigns on {WORKERS} workers; times in s",
        (
            "campaign", "cells", "boots", "placements", "wall", "L1, summed", "ratio",
            "before the first boot", "a worker without a boot", "after the last",
        ),
        rows,
    )  # fmt: skip


# --- kernels -------------------------------------------------------------------------------------


def _build_claims() -> tuple[Claim, Claim]:
    cold, second = "a kernel, cold: source, configuration, compilers", "a second variant of it"
    aims = f"less than {COLD_S / 60:g} min on two free CPUs", f"at most {SECOND_S:g} s"
    if os.environ.get(COLD) != "1":
        why = f"not built here; `{COLD}=1 scripts/measure setup` builds both in an empty cache"
        return Claim(cold, "", aims[0], why=why), Claim(second, "", aims[1], why=why)
    first_s, second_s = _build_cold()
    print(f"  cold build: {first_s:.0f} s; second variant: {second_s:.1f} s", flush=True)
    why = "wall-clock seconds; nothing in the cache, nor in ccache"
    return (
        Claim(cold, f"{first_s:.0f} s", aims[0], first_s < COLD_S, why),
        Claim(second, f"{second_s:.1f} s", aims[1], second_s <= SECOND_S, "the same cache"),
    )


def _build_cold() -> tuple[float, float]:
    specs = {one.name: one for one in load_campaign(QUICKSTART).kernels}
    kept = os.environ.get("QEMU_DIFF_CACHE")
    with scratch_directory() as cache:
        os.environ["QEMU_DIFF_CACHE"] = str(cache)
        try:
            first, second = (build_kernel(specs[name]) for name in KERNELS)
        finally:
            os.environ.pop("QEMU_DIFF_CACHE")
            if kept is not None:
                os.environ["QEMU_DIFF_CACHE"] = kept
    assert not first.cached
    return first.duration_s, second.duration_s
