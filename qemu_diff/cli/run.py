"""Commands that plan campaigns and run them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from qemu_diff.campaign.estimate import estimate, longest_first
from qemu_diff.campaign.executor import executor
from qemu_diff.campaign.identity import cell_identities
from qemu_diff.campaign.ledger import Ledger, PastDuration, RunLog, default_ledger
from qemu_diff.campaign.nights import nights
from qemu_diff.campaign.outcome import ExitCode, bisect_exit_code, exit_code
from qemu_diff.campaign.plan import plan
from qemu_diff.campaign.prepare import Places, Prepared, pinned_kernels, prepare
from qemu_diff.campaign.resume import (
    Start,
    check_resumable,
    finding_ids,
    new_start,
    resumed_start,
)
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
from qemu_diff.cli.selection import AS_CAMPAIGN, TreeOptions, print_cells, selected
from qemu_diff.cli.terminal import (
    at_once_of,
    checked_jobs,
    console_here,
    print_meaning,
    warn,
)
from qemu_diff.config.project import project_root
from qemu_diff.errors import LedgerError, NoLedgerError
from qemu_diff.kernels import cache_directory
from qemu_diff.model import Campaign, CampaignResult, Cell, Estimate, Nights, PastRun
from qemu_diff.report.history import print_nights
from qemu_diff.report.progress import show_progress
from qemu_diff.report.results import (
    CELLS,
    JUNIT,
    REPORT,
    VerdictsFile,
    check_results,
    holds_results,
    open_results,
    read_results,
    set_aside,
    stored_findings,
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
    files: Files = NO_FILES,
    scheduler: str | None = None,
    ledger_file: Annotated[Path | None, Parameter(name="--ledger")] = None,
    resume: bool = False,
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
        Boots side by side on this machine; default: as many as CPUs and memory have room for.
    only
        A glob over cell ids, as `list` shows them; may be given several times: a cell is run if any
        of them matches.
    set_
        KEY=VALUE over the campaign file, with dotted keys; may be given several times.
    scheduler
        Run the cells on the workers of a Dask cluster: its scheduler's address, or scheduler file.
    ledger_file
        Where the run is remembered for `history`; default: $QEMU_DIFF_LEDGER, else
        qemu-diff/ledger.sqlite3 in the user's state directory (XDG).
    resume
        Go on with what OUT has, after a cut at whatever moment: cells that were judged stay, unless
        something has changed that they depend on.
    dry_run
        Say what would be run, and how long it would take as past runs tell, and stop.
    bisect_exit
        Exit as `git bisect run` wants it: 0 as expected, 1 not, 125 not testable (the kernel does
        not build, cells were lost, nothing was judged); more than 127, which ends it: a mistake in
        what was asked for, an interruption.
    """
    loaded, cells = selected(campaign, only, set_, trees)
    checked_jobs(jobs)
    if dry_run:
        print_cells(loaded, cells, _estimate(loaded, cells, ledger_file, at_once_of(jobs)))
        return ExitCode.AS_EXPECTED
    loaded = pinned_kernels(loaded, cells)
    directory = (out or Path("results") / loaded.name).absolute()
    check_results(directory)
    if resume:
        _earlier(directory, loaded, cells)
    check_files(files)
    places = Places(project_root() / "guest_images", cache_directory("guest"), directory / CELLS)
    console = console_here()

    ledger = Ledger(ledger_file or default_ledger())
    past = _past_runs(ledger, loaded.name, named=ledger_file is not None)
    log = RunLog(ledger, directory)
    planned = {cell.id for cell in plan(loaded)}
    side_by_side = bool(scheduler) or at_once_of(jobs) > 1

    def since(result: CampaignResult) -> Nights:
        return nights(past, result, planned)

    publisher = Publisher(directory, files, log, since)

    with show_progress(console), executor(scheduler, jobs) as cells_run_by:
        # Results that are there stay until it is sure that there will be new ones.
        prepared = prepare(loaded, cells, places)
        with open_results(directory, resume=resume):
            start = _start(loaded, cells, only or (), prepared, places, resume=resume)
            result = run_campaign(
                loaded,
                cells,
                places,
                prepared,
                executor=cells_run_by,
                publish=publisher.publish,
                start=start,
                in_turn=_longest_first(loaded, cells, ledger_file) if side_by_side else cells,
            )
            publisher.finish(result)
            append_files(files, Told(result, nights=since(result)))
            log.finish(result)
    print_result(result, console)
    print_nights(since(result), console)
    console.print(f"Results: {directory}", markup=False, soft_wrap=True)
    if not bisect_exit:
        print_meaning(exit_code(result), console)
    _warn_of_ledger(log, directory, ledger_file)
    return bisect_exit_code(result) if bisect_exit else exit_code(result)


def _longest_first(
    campaign: Campaign, cells: tuple[Cell, ...], ledger_file: Path | None
) -> tuple[Cell, ...]:
    """What a past run took longest for comes first: no worker is left with it at the end."""
    return longest_first(cells, _estimate(campaign, cells, ledger_file, at_once=1).cells)


def _warn_of_ledger(log: RunLog, directory: Path, ledger_file: Path | None) -> None:
    """Say what the ledger lacks, and how it gets that later."""
    if not log.trouble:
        return
    again = f"qemu-diff history --add {shlex.quote(str(directory))}"
    again += f" --ledger {shlex.quote(str(ledger_file))}" if ledger_file else ""
    warn(f"the ledger lacks some of this run ({log.trouble}); add it later: {again}")


def _past_runs(ledger: Ledger, name: str, *, named: bool) -> tuple[PastRun, ...]:
    """Earlier runs of a campaign; without a ledger there are none, and the run goes on.

    :param named: the user has named the ledger.
    :raises NoLedgerError: what the user has named is none.
    """
    with _without_ledger(named=named):
        return ledger.past_runs(name)
    return ()


def _estimate(
    campaign: Campaign, cells: tuple[Cell, ...], ledger_file: Path | None, at_once: int
) -> Estimate:
    past: tuple[PastDuration, ...] = ()
    with _without_ledger(named=ledger_file is not None):
        past = Ledger(ledger_file or default_ledger()).durations(campaign.name)
    return estimate(cells, past, at_once)


@contextmanager
def _without_ledger(*, named: bool) -> Iterator[None]:
    """Do without the past, if need be: a run tells at its end that it could not be remembered."""
    try:
        yield
    except NoLedgerError:
        if named:
            raise
    except LedgerError:
        pass


def _earlier(directory: Path, campaign: Campaign, cells: tuple[Cell, ...]) -> CampaignResult | None:
    """What a run that is to go on has left; None where there is nothing.

    :raises ResultsError: it can't be read, or this run can't go on from it.
    """
    if not holds_results(directory):
        return None
    earlier = read_results(directory)
    planned = {cell.id for cell in plan(campaign)}
    check_resumable(earlier, campaign.name, cells, planned, directory)
    return earlier


def _start(
    campaign: Campaign,
    cells: tuple[Cell, ...],
    only: Sequence[str],
    prepared: Prepared,
    places: Places,
    *,
    resume: bool,
) -> Start:
    """What the run begins with; in a results directory that is ours by now."""
    directory = places.cells.parent
    identities = cell_identities(campaign, cells, prepared, places.guest_images)
    earlier = _earlier(directory, campaign, cells) if resume else None
    if earlier is None:
        return new_start(only, identities)
    start = resumed_start(earlier, cells, only, identities, directory)
    judged = {one.cell.id for one in earlier.cells if one.verdict.judged}
    findings = finding_ids(start.finished.values())
    again = len(judged - start.finished.keys())
    set_aside(directory, start.finished.keys(), findings, keep=bool(again))
    changed = f", {again} of the others for what they depend on has changed" if again else ""
    line = f"goes on: {len(start.finished)} of {len(cells)} cells stay{changed}"
    console_here().print(line, markup=False, soft_wrap=True)
    return start


REPORTS_SHARE = 20
"""Reports are made anew each time: of a run's time, one part in so many may go into them."""


class Publisher:
    """Writes the results after each cell, and at the end."""

    def __init__(
        self,
        directory: Path,
        files: ReportFiles,
        log: RunLog,
        since: Callable[[CampaignResult], Nights],
    ) -> None:
        self._directory = directory
        self._verdicts = VerdictsFile(directory)
        self._files = files, ReportFiles(junit=directory / JUNIT, html=directory / REPORT)
        self._next_reports = 0.0
        self._log = log
        self._since = since

    def publish(self, result: CampaignResult) -> None:
        """:raises InfrastructureError: they can't be written."""
        self._verdicts.write(result)
        self._log.publish(result)
        began = time.monotonic()
        if began >= self._next_reports:
            self.finish(result)
            ended = time.monotonic()
            self._next_reports = ended + REPORTS_SHARE * (ended - began)

    def finish(self, result: CampaignResult) -> None:
        """:raises InfrastructureError: they can't be written."""
        told = Told(result, findings=stored_findings(self._directory), nights=self._since(result))
        for files in self._files:
            write_files(files, told)


@app.command(name="list")
def list_(
    campaign: Path,
    /,
    *,
    only: list[str] | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    trees: TreeOptions = AS_CAMPAIGN,
    ledger_file: Annotated[Path | None, Parameter(name="--ledger")] = None,
) -> int:
    """Show the cells of a campaign, what is expected of each, and how long it will take.

    Parameters
    ----------
    campaign
        A campaign file (TOML).
    only
        A glob over cell ids; may be given several times; all where none is given.
    set_
        KEY=VALUE over the campaign file, with dotted keys; may be given several times.
    ledger_file
        Where past runs are remembered; as for `run`.
    """
    loaded, cells = selected(campaign, only, set_, trees)
    print_cells(loaded, cells, _estimate(loaded, cells, ledger_file, at_once_of(None)))
    return ExitCode.AS_EXPECTED
