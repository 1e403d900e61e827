"""Commands about one finding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from qemu_diff.campaign.debugger import Session
from qemu_diff.campaign.debugger import debug as debug_finding
from qemu_diff.campaign.finding_directory import FINDING, read_finding
from qemu_diff.campaign.minimize import minimize as minimize_finding
from qemu_diff.campaign.minimize import minimize_sentences
from qemu_diff.campaign.outcome import ExitCode
from qemu_diff.campaign.replay import KernelChoice, Outcome, bench_of, replay_sentences
from qemu_diff.campaign.replay import replay as replay_finding
from qemu_diff.cli.app import app
from qemu_diff.cli.terminal import console_here
from qemu_diff.config.project import project_root
from qemu_diff.errors import UserError
from qemu_diff.events import stage
from qemu_diff.kernels import cache_directory
from qemu_diff.report.progress import show_progress
from qemu_diff.report.results import (
    check_results,
)
from qemu_diff.report.words import finding_lines
from qemu_diff.scratch import scratch_directory

KernelOptions = Annotated[KernelChoice, Parameter(name="*")]
FROM_CACHE = KernelChoice()


@app.command
def replay(
    finding: Path,
    /,
    *,
    out: Path | None = None,
    kernel: KernelOptions = FROM_CACHE,
) -> int:
    """Boot a finding again: exit status 0 if the same comes out, 1 if it does not.

    Parameters
    ----------
    finding
        A finding's directory: RESULTS/findings/ID, wherever it lies now.
    out
        A directory that gets what the boot leaves; default: nothing is kept.
    """
    stored = read_finding(finding)
    guest_images, cache = project_root() / "guest_images", cache_directory("guest")
    console = console_here()
    with kept(out) as directory, show_progress(console):
        done = replay_finding(stored, kernel, directory, guest_images, cache)
    for line in replay_sentences(stored, done):
        console.print(line, markup=False, soft_wrap=True)
    for line in finding_lines(done.finding) if done.finding else ():
        console.print(f"    {line}", markup=False, soft_wrap=True)
    lost = done.outcome is Outcome.NOT_REPRODUCED
    return ExitCode.UNEXPECTED if lost else ExitCode.AS_EXPECTED


@app.command
def minimize(
    finding: Path,
    /,
    *,
    out: Path | None = None,
    kernel: KernelOptions = FROM_CACHE,
) -> int:
    """Shrink a finding to a payload of few instructions, and a campaign that shows it.

    Parameters
    ----------
    finding
        A finding's directory: RESULTS/findings/ID, wherever it lies now.
    out
        The directory that is made; default: minimized/ID.
    """
    stored = read_finding(finding)
    guest_images, cache = project_root() / "guest_images", cache_directory("guest")
    directory = out or Path("minimized") / stored.record.id
    console = console_here()
    with scratch_directory() as scratch, show_progress(console):
        bench = bench_of(stored, kernel, guest_images, cache)
        with stage("minimize", stored.record.id) as running:
            done = minimize_finding(stored, bench, directory, scratch, running.progress)
    if done is None:
        console.print(
            f"{stored.record.id}: not reproduced by one pass", markup=False, soft_wrap=True
        )
        return ExitCode.UNEXPECTED
    for line in minimize_sentences(stored.record, done, directory):
        console.print(line, markup=False, soft_wrap=True)
    return ExitCode.AS_EXPECTED


@app.command
def debug(
    finding: Path,
    /,
    *,
    command: Path | None = None,
    batch: bool = False,
    reverse: bool = False,
    out: Path | None = None,
    kernel: KernelOptions = FROM_CACHE,
) -> int:
    """Hand a finding over to gdb, stopped just before the step that goes wrong.

    Parameters
    ----------
    finding
        A finding's directory: RESULTS/findings/ID, wherever it lies now.
    command
        A file of gdb commands, executed first.
    batch
        End gdb after its commands; exit status 1 if one of them fails.
    reverse
        Let gdb go backwards, too: QEMU keeps a snapshot of the machine's begin.
    out
        A directory that gets WHERE.txt, gdb's first commands and the recording; default: nothing
        is kept.
    """
    stored = read_finding(finding)
    guest_images, cache = project_root() / "guest_images", cache_directory("guest")
    session = Session(command, batch, reverse)
    with kept(out) as directory:
        bench = bench_of(stored, kernel, guest_images, cache)
        status = debug_finding(stored, bench, session, directory, _say)
    if status is None:
        console_here().print(f"{stored.record.id}: not reproduced", markup=False, soft_wrap=True)
        return ExitCode.UNEXPECTED
    return ExitCode.UNEXPECTED if batch and status else ExitCode.AS_EXPECTED


def _say(text: str) -> None:
    console_here().print(text, markup=False, soft_wrap=True)


@contextmanager
def kept(out: Path | None) -> Iterator[Path]:
    """A directory for a boot's files: one that the user named, or one that goes when we do."""
    if out is None:
        with scratch_directory() as scratch:
            yield scratch / "boot"
        return
    if (out / FINDING).exists():
        raise UserError(f"--out {out}: that is a finding itself; name another directory")
    check_results(out.absolute())
    yield out.absolute()
