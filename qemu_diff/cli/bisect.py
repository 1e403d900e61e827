"""The command that finds the commit which brought a bug."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from qemu_diff.campaign.bisect import PAGE, Inquiry, begun_log, bisect, own_directory
from qemu_diff.campaign.bisect_commit import CommitBench
from qemu_diff.campaign.bisect_git import check_ends
from qemu_diff.campaign.bisect_log import BisectionLog, read_log
from qemu_diff.campaign.outcome import bisection_exit_code
from qemu_diff.campaign.prepare import Places
from qemu_diff.cli.app import app
from qemu_diff.cli.selection import TreeChoice, selected
from qemu_diff.cli.terminal import at_once_of, console_here
from qemu_diff.config.project import project_root
from qemu_diff.config.tree_option import TreeOption, read_tree_option
from qemu_diff.errors import UserError
from qemu_diff.kernels import Repository, cache_directory, open_repository, pinned
from qemu_diff.model import Campaign, GitSource, KernelSpec
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
        [NAME=]PATH_OR_URL: the git repository whose commits take the place of what the campaign
        says of the kernel NAME; without NAME: of `candidate`, or the first pair's candidate, or the
        only kernel.
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
    if confirm < 1:
        raise UserError(f"--confirm {confirm}: at least once")
    if resume and replay:
        raise UserError("--resume goes on with OUT's own log: --replay is for another one's")
    option, repository = _tree(tree)
    ends = repository.commit(bad), tuple(dict.fromkeys(map(repository.commit, good)))
    check_ends(repository, *ends)
    loaded, cells = selected(campaign, only, set_, TreeChoice([f"{tree}@{ends[0]}"]))
    spec = pinned(_kernel_of(loaded, option.kernel, GitSource(option.repository, ends[0])))
    chosen = tuple(one for one in cells if one.kernel == spec.name and not one.excluded)
    if not chosen:
        raise UserError(f"--only: no cell of kernel {spec.name} matches; see qemu-diff list")
    directory = (out or Path("results") / f"{loaded.name}-bisect").absolute()
    check_results(directory)
    places = Places(project_root() / "guest_images", cache_directory("guest"), directory)
    bench = CommitBench(loaded, spec, option.repository, chosen, places, at_once_of(jobs))
    inquiry = Inquiry(
        loaded.name, spec.name, repository, *ends, paths, any_function, confirm, directory
    )
    read_from = begun_log(directory) if resume else replay
    known = _known(read_from, inquiry, {cell.id for cell in chosen})
    console = console_here()
    with show_progress(console), own_directory(directory, resume=resume):
        result = bisect(inquiry, known, bench.try_commit)
        write_whole(directory / PAGE, bisection_markdown(result))
    print_bisection(result, console)
    console.print(f"Results: {directory}", markup=False, soft_wrap=True)
    return bisection_exit_code(result.ending)


def _tree(option: str) -> tuple[TreeOption, Repository]:
    """:raises UserError: it is no repository, or names a revision."""
    read = read_tree_option(option)
    if read.rev:
        raise UserError(f"--tree {option}: its revisions are those of --good and --bad")
    return read, open_repository(read.repository)


def _kernel_of(campaign: Campaign, name: str, source: GitSource) -> KernelSpec:
    """The kernel that ``--tree`` stands for; ``name`` is empty where it doesn't say."""
    meant = (one for one in campaign.kernels if one.source == source)
    return next(one for one in meant if not name or one.name == name)


def _known(path: Path | None, inquiry: Inquiry, cells: set[str]) -> BisectionLog:
    """What a log knows of this bisection; nothing, where there is none.

    :raises UserError: it is about another one.
    """
    if path is None:
        return BisectionLog(inquiry.paths)
    log = read_log(path)
    commit = inquiry.repository.commit
    steps = tuple(replace(step, sha=commit(step.sha)) for step in log.steps)
    found = replace(log, steps=steps)
    if log.steps and found.bad != inquiry.bad:
        raise UserError(f"{path}: its bad end is {found.bad[:12]}, not {inquiry.bad[:12]}")
    if log.paths != inquiry.paths:
        raise UserError(f"{path}: it is about these paths: {' '.join(log.paths) or 'all'}")
    if gone := [cell for cell in log.cells if cell not in cells]:
        raise UserError(f"{path}: cell {gone[0]} is not one of those that were asked for")
    return found
