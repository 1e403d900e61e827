"""Commands that plan campaigns and run them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from qemu_diff.campaign.outcome import ExitCode, exit_code
from qemu_diff.campaign.prepare import Places, prepare
from qemu_diff.campaign.runner import run_campaign
from qemu_diff.cli.app import app
from qemu_diff.cli.report_files import (
    NO_FILES,
    Files,
    ReportFiles,
    Told,
    append_files,
    check_files,
    write_files,
)
from qemu_diff.cli.selection import print_cells, selected
from qemu_diff.cli.terminal import at_once_of, console_here, print_meaning, reader_may_leave
from qemu_diff.config.project import project_root
from qemu_diff.kernels import cache_directory
from qemu_diff.model import CampaignResult
from qemu_diff.report.progress import show_progress
from qemu_diff.report.results import (
    CELLS,
    JUNIT,
    REPORT,
    VerdictsFile,
    check_results,
    open_results,
    stored_findings,
)
from qemu_diff.report.terminal import print_result


@app.command
def run(
    campaign: Path,
    /,
    *,
    out: Path | None = None,
    jobs: Annotated[int | None, Parameter(name=["--jobs", "-j"])] = None,
    only: list[str] | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    files: Files = NO_FILES,
    dry_run: bool = False,
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
    dry_run
        Say what would be run, and stop.
    """
    loaded, cells = selected(campaign, only, set_)
    if dry_run:
        print_cells(cells)
        return ExitCode.AS_EXPECTED
    at_once = at_once_of(jobs)
    directory = (out or Path("results") / loaded.name).absolute()
    check_results(directory)
    check_files(files)
    places = Places(project_root() / "guest_images", cache_directory("guest"), directory / CELLS)
    console = console_here()

    publisher = Publisher(directory, files)

    with show_progress(console):
        # Results that are there stay until it is sure that there will be new ones.
        prepared = prepare(loaded, cells, places)
        with open_results(directory):
            result = run_campaign(
                loaded, cells, places, prepared, jobs=at_once, publish=publisher.publish
            )
            publisher.finish(result)
            append_files(files, Told(result))
    with reader_may_leave():
        print_result(result, console)
        console.print(f"Results: {directory}", markup=False, soft_wrap=True)
        print_meaning(exit_code(result), console)
    return exit_code(result)


REPORTS_SHARE = 20
"""Reports are made anew each time: of a run's time, one part in so many may go into them."""


class Publisher:
    """Writes the results after each cell, and at the end."""

    def __init__(self, directory: Path, files: ReportFiles) -> None:
        self._directory = directory
        self._verdicts = VerdictsFile(directory)
        self._files = files, ReportFiles(junit=directory / JUNIT, html=directory / REPORT)
        self._next_reports = 0.0

    def publish(self, result: CampaignResult) -> None:
        """:raises InfrastructureError: they can't be written."""
        self._verdicts.write(result)
        began = time.monotonic()
        if began >= self._next_reports:
            self.finish(result)
            ended = time.monotonic()
            self._next_reports = ended + REPORTS_SHARE * (ended - began)

    def finish(self, result: CampaignResult) -> None:
        """:raises InfrastructureError: they can't be written."""
        told = Told(result, findings=stored_findings(self._directory))
        for files in self._files:
            write_files(files, told)


@app.command(name="list")
def list_(
    campaign: Path,
    /,
    *,
    only: list[str] | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
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
    print_cells(selected(campaign, only, set_)[1])
    return ExitCode.AS_EXPECTED
