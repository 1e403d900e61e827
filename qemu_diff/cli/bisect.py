"""The command that finds the commit which brought a bug."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from qemu_diff.campaign.bisect import LOG, PAGE, Inquiry, bisect, own_directory
from qemu_diff.campaign.bisect_commit import CommitBench
from qemu_diff.campaign.bisect_git import check_ends
from qemu_diff.campaign.bisect_log import BisectionLog, read_log
from qemu_diff.campaign.outcome import bisection_exit_code
from qemu_diff.campaign.prepare import Places
from qemu_diff.cli.app import app
from qemu_diff.cli.selection import selected
from qemu_diff.cli.terminal import at_once_of, console_here, reader_may_leave
from qemu_diff.config.project import project_root
from qemu_diff.errors import UserError
from qemu_diff.kernels import cache_directory, open_repository
from qemu_diff.model import Campaign, PairOf
from qemu_diff.report.bisection import bisection_markdown, print_bisection
from qemu_diff.report.progress import show_progress
from qemu_diff.report.results import check_results, write_whole


@app.command(
    name="bisect",
    help_epilogue=(
        "Exit status: 0 found, and confirmed; 1 an end is not what it was said to be, or what git "
        "found is not confirmed; 2 a mistake in what was asked for; 3 only skipped commits are "
        "left, an end can't be tested, or infrastructure is lost."
    ),
)
def bisect_command(
    campaign: Path,
    /,
    *paths: str,
    tree: str,
    good: list[str],
    bad: str,
    only: list[str] | None = None,
    out: Path | None = None,
    resume: bool = False,
    replay: Path | None = None,
    any_function: bool = False,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    jobs: Annotated[int | None, Parameter(name=["--jobs", "-j"])] = None,
    confirm: int = 2,
) -> int:
    """Find the commit that brought a bug: git's bisection, each commit built and booted.

    Parameters
    ----------
    campaign
        A campaign file (TOML); what it expects is what good commits do.
    paths
        After --: only commits that touch these paths, as git bisect has it; arch/arm64/kvm, say.
    tree
        [NAME=]PATH: the git repository, or its URL, whose commits take the place of kernel NAME's
        source; default: the kernel `candidate`, else the candidate of the first pair of kernels,
        else the only kernel.
    good
        A revision that is as the campaign expects; may be given several times.
    bad
        A revision that is not.
    only
        A glob over cell ids: what the ends are tested with; may be given several times.
    out
        Directory for the log, the page and each commit's results; default results/NAME-bisect. What
        is there is kept as OUT.previous.
    resume
        Go on with the bisection in OUT, after a cut at whatever moment.
    replay
        A log of ours or of `git bisect log`: what it says of commits is believed.
    any_function
        The same kind at the same class of instruction is the same bug, whatever function of the
        kernel served the exit.
    set_
        KEY=VALUE over the campaign file, with dotted keys; may be given several times.
    jobs
        Boots side by side; default: the CPUs.
    confirm
        How often the first bad commit and its parents are tested anew at the end.
    """
    loaded, cells = selected(campaign, only, set_)
    if confirm < 1:
        raise UserError(f"--confirm {confirm}: at least once")
    if resume and replay:
        raise UserError("--resume goes on with OUT's own log: --replay is for another one's")
    name, place = _kernel_and_place(tree, loaded)
    chosen = tuple(cell for cell in cells if cell.kernel == name)
    if not chosen:
        raise UserError(f"--only: no cell of kernel {name} matches; see qemu-diff list")
    repository = open_repository(place)
    ends = repository.commit(bad), tuple(dict.fromkeys(map(repository.commit, good)))
    check_ends(repository, *ends)
    directory = (out or Path("results") / f"{loaded.name}-bisect").absolute()
    check_results(directory)
    places = Places(project_root() / "guest_images", cache_directory("guest"), directory)
    spec = next(one for one in loaded.kernels if one.name == name)
    bench = CommitBench(loaded, spec, place, chosen, places, at_once_of(jobs))
    inquiry = Inquiry(loaded.name, name, repository, *ends, paths, any_function, confirm, directory)
    read_from = directory / LOG if resume else replay
    known = BisectionLog(paths)
    if read_from is not None and (read_from.exists() or replay):
        known = _known(read_from, inquiry, {cell.id for cell in chosen})
    console = console_here()
    with show_progress(console), own_directory(directory, resume=resume):
        result = bisect(inquiry, known, bench.try_commit)
        write_whole(directory / PAGE, bisection_markdown(result))
    with reader_may_leave():
        print_bisection(result, console)
        console.print(f"Results: {directory}", markup=False, soft_wrap=True)
    return bisection_exit_code(result.ending)


def _kernel_and_place(tree: str, campaign: Campaign) -> tuple[str, str]:
    """(kernel, repository) of ``--tree``.

    :raises UserError: which kernel is meant can't be told.
    """
    names = [spec.name for spec in campaign.kernels]
    head, equals, place = tree.partition("=")
    if equals and head in names:
        return head, place
    of_pairs = [pair.candidate for pair in campaign.pairs if pair.of is PairOf.KERNEL]
    meant = [name for name in ("candidate", *of_pairs) if name in names]
    if not meant and len(names) > 1:
        raise UserError(f"--tree {tree}: whose source is it? --tree NAME=PATH: {', '.join(names)}")
    return (meant or names)[0], tree


def _known(path: Path, inquiry: Inquiry, cells: set[str]) -> BisectionLog:
    """What a log knows of this bisection.

    :raises UserError: it is about another one.
    """
    log = read_log(path)
    commit = inquiry.repository.commit
    steps = tuple(replace(step, sha=commit(step.sha)) for step in log.steps)
    found = replace(log, steps=steps)
    if found.bad != inquiry.bad:
        raise UserError(f"{path}: its bad end is {found.bad[:12]}, not {inquiry.bad[:12]}")
    if log.paths != inquiry.paths:
        raise UserError(f"{path}: it is about these paths: {' '.join(log.paths) or 'all'}")
    if gone := [cell for cell in log.cells if cell not in cells]:
        raise UserError(f"{path}: cell {gone[0]} is not one of those that were asked for")
    return found
