"""The command line. Every outcome becomes an exit code; no user's mistake becomes a traceback."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from fnmatch import fnmatch
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.table import Table

from qemu_diff.campaign.cell_sequence import cell_sequence
from qemu_diff.campaign.debugger import Session
from qemu_diff.campaign.debugger import debug as debug_finding
from qemu_diff.campaign.finding_directory import read_finding
from qemu_diff.campaign.minimize import minimize as minimize_finding
from qemu_diff.campaign.minimize import minimize_sentences
from qemu_diff.campaign.outcome import ExitCode, exit_code
from qemu_diff.campaign.plan import plan
from qemu_diff.campaign.prepare import Places, prepare
from qemu_diff.campaign.replay import KernelChoice, Outcome, bench_of, replay_sentences
from qemu_diff.campaign.replay import replay as replay_finding
from qemu_diff.campaign.runner import run_campaign
from qemu_diff.config import load_campaign
from qemu_diff.config.project import project_root
from qemu_diff.doctor import all_needed, checks, print_checks
from qemu_diff.errors import QemuDiffError, UnavailableSourceError, UserError
from qemu_diff.events import stage
from qemu_diff.kernels import build_kernel, cache_directory, cached_kernels, prune
from qemu_diff.model import Campaign, CampaignResult, Cell
from qemu_diff.report.html import html
from qemu_diff.report.junit import junit
from qemu_diff.report.matrix import markdown, matrix
from qemu_diff.report.picture import Picture, pictures, svg
from qemu_diff.report.png import png
from qemu_diff.report.progress import show_progress
from qemu_diff.report.results import (
    CELLS,
    JUNIT,
    REPORT,
    VerdictsFile,
    check_results,
    in_directory,
    open_results,
    read_results,
    stored_findings,
    write_whole,
)
from qemu_diff.report.sequence import render
from qemu_diff.report.terminal import print_matrix, print_result
from qemu_diff.report.words import finding_lines

MarkdownFile = Annotated[Path | None, Parameter(name="--markdown")]
HtmlFile = Annotated[Path | None, Parameter(name="--html")]
SvgDirectory = Annotated[Path | None, Parameter(name="--svg")]
PngDirectory = Annotated[Path | None, Parameter(name="--png")]

KernelOptions = Annotated[KernelChoice, Parameter(name="*")]
FROM_CACHE = KernelChoice()

app = App(
    name="qemu-diff",
    help="Judges KVM/arm64 guest single-step, kernel against kernel, and both against the truth.",
    help_epilogue=(
        "Exit status: 0 everything as expected, expected failures seen included; 1 an unexpected "
        "finding, an expectation not met, or a regression; 2 a mistake in what was asked for; "
        "3 nothing judged, or infrastructure lost."
    ),
    version_flags=[],
    default_parameter=Parameter(negative=()),
)
kernels = App(name="kernels", help="The kernels that campaigns boot, in the cache.")
app.command(kernels)


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
    """
    loaded, cells = _selected(campaign, only, set_)
    if dry_run:
        _print_cells(cells)
        return ExitCode.AS_EXPECTED
    at_once = _at_once(jobs)
    directory = (out or Path("results") / loaded.name).absolute()
    check_results(directory)
    if junit_file is not None and not os.access(junit_file.absolute().parent, os.W_OK):
        raise UserError(f"--junit {junit_file}: its directory is not there, or can't be written")
    places = Places(project_root() / "guest_images", cache_directory("guest"), directory / CELLS)
    console = _console()

    publisher = _Publisher(directory, junit_file)

    with show_progress(console):
        # Results that are there stay until it is sure that there will be new ones.
        prepared = prepare(loaded, cells, places)
        with open_results(directory):
            result = run_campaign(
                loaded, cells, places, prepared, jobs=at_once, publish=publisher.publish
            )
            publisher.finish(result)
    with _reader_may_leave():
        print_result(result, console)
        console.print(f"Results: {directory}", markup=False, soft_wrap=True)
    return exit_code(result)


JUNIT_SHARE = 20
"""JUnit's text and the page are made anew each time: of a run's time, one part in so many may go
into them."""


class _Publisher:
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
    _print_cells(_selected(campaign, only, set_)[1])
    return ExitCode.AS_EXPECTED


@app.command
def show(results: Path, /, *, details: bool = False) -> int:
    """Show the results of a run again; the exit status is the run's.

    Parameters
    ----------
    results
        A results directory.
    details
        Every cell in sentences, however many there are.
    """
    result = read_results(results)
    with _reader_may_leave():
        print_result(result, _console(), details=details)
    return exit_code(result)


@app.command
def report(
    results: Path,
    /,
    *,
    markdown_file: MarkdownFile = None,
    html_file: HtmlFile = None,
    svg_directory: SvgDirectory = None,
    png_directory: PngDirectory = None,
) -> int:
    """Show the table of a run, scenario by kernel; or write a report. The exit status is the run's.

    Parameters
    ----------
    results
        A results directory.
    markdown_file
        Write the table there, as Markdown.
    html_file
        Write the whole result there, as one page that needs no other file and no network.
    svg_directory
        Write a picture of each scenario there: what came of an interrupt at each ns of each
        instruction's step, kernel above kernel.
    png_directory
        The same as PNG.
    """
    result = read_results(results)
    if markdown_file is not None:
        write_whole(markdown_file, markdown(matrix(result)))
    if html_file is not None:
        write_whole(html_file, html(result, stored_findings(results)))
    _write_pictures(pictures(result), svg_directory, png_directory)
    if not any((markdown_file, html_file, svg_directory, png_directory)):
        with _reader_may_leave():
            print_matrix(matrix(result), result.name, _console())
    return exit_code(result)


def _write_pictures(
    found: tuple[Picture, ...], svg_directory: Path | None, png_directory: Path | None
) -> None:
    """:raises UserError: there is nothing to draw, or nothing to draw words with."""
    if (svg_directory or png_directory) and not found:
        raise UserError("there is no picture to draw: no cell has placed an interrupt")
    for picture in found:
        drawn = svg(picture)
        if svg_directory is not None:
            write_whole(_picture_file(svg_directory, picture, "svg"), drawn)
        if png_directory is not None:
            write_whole(_picture_file(png_directory, picture, "png"), png(drawn))


def _picture_file(directory: Path, picture: Picture, kind: str) -> Path:
    return in_directory(directory, f"{picture.name}.{kind}")


@app.command
def sequence(
    results: Path,
    cell: str,
    /,
    *,
    boot: str | None = None,
    pass_number: Annotated[int | None, Parameter(name="--pass")] = None,
) -> int:
    """Show one pass of a cell, event by event, with the software step state at each entry and exit.

    Parameters
    ----------
    results
        A results directory.
    cell
        The id of one of its cells, as qemu-diff list shows it.
    boot
        A boot of that cell; default: that of its first finding, else its first.
    pass_number
        The pass over the payload, from 0; default: that of the first finding, else 0.
    """
    result = read_results(results)
    guest_images, cache = project_root() / "guest_images", cache_directory("guest")
    title, rows = cell_sequence(
        result,
        results,
        cell,
        boot=boot,
        number=pass_number,
        guest_images=guest_images,
        cache=cache,
    )
    with _reader_may_leave():
        console = _console()
        console.print(title, style="bold", highlight=False)
        for line in render(rows):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return ExitCode.AS_EXPECTED


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
    console = _console()
    with _kept(out) as directory, show_progress(console):
        done = replay_finding(stored, kernel, directory, guest_images, cache)
    with _reader_may_leave():
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
    console = _console()
    with tempfile.TemporaryDirectory(prefix="qemu-diff-") as scratch, show_progress(console):
        bench = bench_of(stored, kernel, guest_images, cache)
        with stage("minimize", stored.record.id) as running:
            done = minimize_finding(stored, bench, directory, Path(scratch), running.progress)
    with _reader_may_leave():
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
    with _kept(out) as directory:
        bench = bench_of(stored, kernel, guest_images, cache)
        status = debug_finding(stored, bench, session, directory)
    if status is None:
        _console().print(f"{stored.record.id}: not reproduced", markup=False, soft_wrap=True)
        return ExitCode.UNEXPECTED
    return ExitCode.UNEXPECTED if batch and status else ExitCode.AS_EXPECTED


@contextmanager
def _kept(out: Path | None) -> Iterator[Path]:
    """A directory for a boot's files: one that the user named, or one that goes when we do."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="qemu-diff-") as scratch:
            yield Path(scratch) / "boot"
        return
    check_results(out.absolute())
    yield out.absolute()


@app.command
def doctor() -> int:
    """Say what this machine lacks, with the command that mends it; exit status 2 then."""
    done = checks()
    print_checks(done, _console())
    return ExitCode.AS_EXPECTED if all_needed(done) else ExitCode.USER_ERROR


@kernels.command(name="build")
def build(campaign: Path, /, *names: str, jobs: int | None = None) -> int:
    """Build the kernels of a campaign, or those that are named.

    Parameters
    ----------
    campaign
        A campaign file (TOML).
    names
        Kernels of that campaign; default: all.
    jobs
        Compilers side by side; default: the CPUs.
    """
    loaded = load_campaign(campaign)
    known = {spec.name: spec for spec in loaded.kernels}
    for name in names:
        if name not in known:
            raise UserError(f"{campaign}: no kernel {name!r}; there are {', '.join(known)}")
    console = _console()
    at_once = _at_once(jobs)
    builds = []
    with show_progress(console):
        for name in names or known:
            try:
                builds.append(build_kernel(known[name], jobs=at_once))
            except UnavailableSourceError as error:
                if name in names or not known[name].optional:
                    raise
                console.print(f"{name}: skipped: {error}", markup=False, soft_wrap=True)
    table = Table("kernel", "release", "key", "image")
    for one in builds:
        table.add_row(one.kernel, one.release, one.key, str(one.image))
    console.print(table)
    return ExitCode.AS_EXPECTED


@kernels.command(name="list")
def list_kernels() -> int:
    """Show the kernels in the cache."""
    table = Table("kernel", "release", "key", "MiB", "last used")
    for one in cached_kernels():
        used = datetime.fromtimestamp(one.last_used).strftime("%Y-%m-%d %H:%M")
        table.add_row(", ".join(one.names), one.release, one.key, f"{one.size >> 20:,}", used)
    _console().print(table)
    return ExitCode.AS_EXPECTED


@kernels.command(name="prune")
def prune_kernels(
    *, keep: int | None = None, older_than_days: float | None = None, everything: bool = False
) -> int:
    """Remove kernels from the cache.

    Parameters
    ----------
    keep
        Keep so many, the last used ones.
    older_than_days
        Remove what was not used for so many days.
    everything
        Remove all kernels, and with them source trees, build directories, downloads and ccache.
    """
    if keep is None and older_than_days is None and not everything:
        raise UserError("say what to remove: --keep, --older-than-days or --everything")
    report = prune(keep=keep, older_than_days=older_than_days, everything=everything)
    trees = f" and {len(report.trees)} source trees" if report.trees else ""
    busy = f"; {len(report.busy)} in use, left alone" if report.busy else ""
    freed = f"{report.freed >> 20:,} MiB"
    _console().print(f"removed {len(report.kernels)} kernels{trees}: {freed} freed{busy}")
    return ExitCode.AS_EXPECTED


def main() -> NoReturn:
    """Entry point of the ``qemu-diff`` program."""
    # A terminal that lacks a character must not end a run.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    # An ordinary kill must stop guests and leave whole results, just as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupted)
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    complaints = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    status: int | None = ExitCode.AS_EXPECTED
    try:
        with _reader_may_leave():
            status = app(
                arguments, exit_on_error=False, print_error=False, result_action="return_value"
            )
    except CycloptsError as error:
        complaints.print(f"qemu-diff: {' '.join(str(error).split())}; see qemu-diff --help")
        return ExitCode.USER_ERROR
    except QemuDiffError as error:
        complaints.print(f"qemu-diff: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        complaints.print("qemu-diff: interrupted")
        return ExitCode.LOST
    except Exception as error:  # whatever it is, it is ours, and no verdict about a kernel
        report = Path(tempfile.gettempdir()) / f"qemu-diff-crash-{os.getpid()}.txt"
        report.write_text(traceback.format_exc(), encoding="utf-8")
        complaints.print(f"qemu-diff: a bug of ours: {error!r}; the traceback is in {report}")
        return ExitCode.LOST
    return int(status or 0)


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """The reader of our output may go, `| head` say: that changes no verdict."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _at_once(jobs: int | None) -> int:
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: at least one at a time")
    return jobs or os.cpu_count() or 1


def _interrupted(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _selected(
    campaign: Path, only: list[str] | None, overrides: list[str] | None
) -> tuple[Campaign, tuple[Cell, ...]]:
    """The cells that any of the globs matches; all where there is none.

    :raises UserError: a glob matches nothing: it is misspelt.
    """
    loaded = load_campaign(campaign, overrides or ())
    cells = plan(loaded)
    globs = only or ["*"]
    for glob in globs:
        if not any(fnmatch(cell.id, glob) for cell in cells):
            raise UserError(f"--only {glob}: no cell of {campaign} matches; see qemu-diff list")
    chosen = (cell for cell in cells if any(fnmatch(cell.id, glob) for glob in globs))
    return loaded, tuple(chosen)


def _print_cells(cells: tuple[Cell, ...]) -> None:
    table = Table()
    table.add_column("cell", overflow="fold")
    table.add_column("expected", no_wrap=True)
    table.add_column("seed", no_wrap=True)
    for cell in cells:
        table.add_row(cell.id, ", ".join(cell.expected), str(cell.seed))
    _console().print(table)


def _console() -> Console:
    quiet = bool(os.environ.get("CI"))
    width = None if sys.stdout.isatty() else 120
    return Console(width=width, force_terminal=False if quiet else None, highlight=False)
