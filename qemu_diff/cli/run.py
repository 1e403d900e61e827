"""Commands that plan campaigns and run them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from qemu_diff.campaign.outcome import ExitCode, bisect_exit_code, exit_code
from qemu_diff.campaign.prepare import Places, pinned_kernels, prepare
from qemu_diff.campaign.runner import run_campaign
from qemu_diff.cli.app import app
from qemu_diff.cli.selection import AS_CAMPAIGN, TreeOptions, print_cells, selected
from qemu_diff.cli.terminal import at_once_of, console_here, reader_may_leave
from qemu_diff.config.project import project_root
from qemu_diff.errors import UserError
from qemu_diff.kernels import cache_directory
from qemu_diff.model import CampaignResult
from qemu_diff.report.html import html
from qemu_diff.report.junit import junit
from qemu_diff.report.progress import show_progress
from qemu_diff.report.results import (
    CELLS,
    JUNIT,
    REPORT,
    VerdictsFile,
    check_results,
    open_results,
    stored_findings,
    write_whole,
)
from qemu_diff.report.terminal import print_result

BISECT_EXIT = "--bisect-exit"


@app.command
def run(
    campaign: Path,
    /,
    *,
    out: Path | None = None,
    jobs: Annotated[int | None, Parameter(name=["--jobs", "-j"])] = None,
    only: list[str] | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    junit_file: Annotated[Path | None, Parameter(name="--junit")] = None,
    dry_run: bool = False,
    bisect_exit: Annotated[bool, Parameter(name=BISECT_EXIT)] = False,
    trees: TreeOptions = AS_CAMPAIGN,
) -> int:
    """Run a campaign: build its kernels, boot its cells, judge them, compare the pairs.

    Parameters
    ----------
    campaign
        A campaign file (TOML).
    out
        Results directory; default results/NAME. Results that are there are kept as OUT.previous.
    jobs
        Boots side by side; default: the CPUs.
    only
        A glob over cell ids, as `list` shows them; may be given several times: a cell is run if any
        of them matches.
    set_
        KEY=VALUE over the campaign file, with dotted keys; may be given several times.
    junit_file
        Where else to write JUnit XML; OUT/junit.xml is always written.
    dry_run
        Say what would be run, and stop.
    bisect_exit
        Exit as `git bisect run` wants it: 0 as expected, 1 not, 125 not testable (the kernel does
        not build, cells were lost, nothing was judged); more than 127, which ends it: a mistake in
        what was asked for, an interruption.
    """
    loaded, cells = selected(campaign, only, set_, trees)
    if dry_run:
        print_cells(cells)
        return ExitCode.AS_EXPECTED
    loaded = pinned_kernels(loaded, cells)
    at_once = at_once_of(jobs)
    directory = (out or Path("results") / loaded.name).absolute()
    check_results(directory)
    if junit_file is not None and not os.access(junit_file.absolute().parent, os.W_OK):
        raise UserError(f"--junit {junit_file}: its directory is not there, or can't be written")
    places = Places(project_root() / "guest_images", cache_directory("guest"), directory / CELLS)
    console = console_here()

    publisher = Publisher(directory, junit_file)

    with show_progress(console):
        # Results that are there stay until it is sure that there will be new ones.
        prepared = prepare(loaded, cells, places)
        with open_results(directory):
            result = run_campaign(
                loaded, cells, places, prepared, jobs=at_once, publish=publisher.publish
            )
            publisher.finish(result)
    with reader_may_leave():
        print_result(result, console)
        console.print(f"Results: {directory}", markup=False, soft_wrap=True)
    return bisect_exit_code(result) if bisect_exit else exit_code(result)


JUNIT_SHARE = 20
"""JUnit's text and the page are made anew each time: of a run's time, one part in so many may go
into them."""


class Publisher:
    """Writes the results after each cell, and at the end."""

    def __init__(self, directory: Path, junit_file: Path | None) -> None:
        self._directory = directory
        self._verdicts = VerdictsFile(directory)
        self._junit_files = tuple(filter(None, (directory / JUNIT, junit_file)))
        self._next_junit = 0.0

    def publish(self, result: CampaignResult) -> None:
        """:raises InfrastructureError: they can't be written."""
        self._verdicts.write(result)
        began = time.monotonic()
        if began >= self._next_junit:
            self.finish(result)
            ended = time.monotonic()
            self._next_junit = ended + JUNIT_SHARE * (ended - began)

    def finish(self, result: CampaignResult) -> None:
        """:raises InfrastructureError: they can't be written."""
        text = junit(result)
        for path in self._junit_files:
            write_whole(path, text)
        write_whole(self._directory / REPORT, html(result, stored_findings(self._directory)))


@app.command(name="list")
def list_(
    campaign: Path,
    /,
    *,
    only: list[str] | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    trees: TreeOptions = AS_CAMPAIGN,
) -> int:
    """Show the cells of a campaign, and what is expected of each.

    Parameters
    ----------
    campaign
        A campaign file (TOML).
    only
        A glob over cell ids; may be given several times; all where none is given.
    set_
        KEY=VALUE over the campaign file, with dotted keys; may be given several times.
    """
    print_cells(selected(campaign, only, set_, trees)[1])
    return ExitCode.AS_EXPECTED
