"""The command about many runs: what the ledger knows."""

from __future__ import annotations

from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from qemu_diff.campaign.ledger import Ledger, default_ledger
from qemu_diff.campaign.nights import history as history_of
from qemu_diff.campaign.outcome import ExitCode
from qemu_diff.cli.app import app
from qemu_diff.cli.terminal import console_here
from qemu_diff.config.problems import listing, suggestion
from qemu_diff.errors import UserError
from qemu_diff.report.history import print_history
from qemu_diff.report.results import VERDICTS, read_results

DEFAULT_NIGHTS = 20
MOST_RUNS = 2**63 - 1
"""SQLite's largest number."""


@app.command
def history(
    campaign: str | None = None,
    /,
    *,
    cell: list[str] | None = None,
    limit: int = DEFAULT_NIGHTS,
    ledger_file: Annotated[Path | None, Parameter(name="--ledger")] = None,
    add: list[Path] | None = None,
) -> int:
    """Show a campaign's verdicts night after night: when they changed, and which are flaky.

    Parameters
    ----------
    campaign
        A campaign's name, as its file has it; default: the one that was run last.
    cell
        A glob over cell ids; may be given several times; all where none is given.
    limit
        So many runs, the last ones.
    ledger_file
        The ledger; default: $QEMU_DIFF_LEDGER, else qemu-diff/ledger.sqlite3 in the user's state
        directory (XDG).
    add
        A results directory that the ledger lacks: it is added, and nothing is shown. What is there
        already is not added twice; may be given several times.
    """
    ledger = Ledger(ledger_file or default_ledger())
    if add:
        for results in add:
            _add(ledger, results)
        return ExitCode.AS_EXPECTED
    if limit < 1:
        raise UserError(f"--limit {limit}: at least one run")
    name, others = _chosen(ledger, campaign)
    found = history_of(ledger.past_runs(name, min(limit, MOST_RUNS)))
    known = list(dict.fromkeys(one.id for run in reversed(found.runs) for one in run.cells))
    globs = cell or ["*"]
    for glob in globs:
        if cell and not any(fnmatch(one, glob) for one in known):
            raise UserError(f"--cell {glob}: no cell of campaign {name!r} in the ledger matches")
    ids = [one for one in known if any(fnmatch(one, glob) for glob in globs)]
    console = console_here()
    print_history(name, found, ids, console)
    if others and campaign is None:
        line = f"Also in the ledger: {', '.join(others)}"
        console.print(line, markup=False, soft_wrap=True)
    return ExitCode.AS_EXPECTED


def _chosen(ledger: Ledger, campaign: str | None) -> tuple[str, tuple[str, ...]]:
    """The campaign that is meant, and the others.

    :raises UserError: the ledger has none, or not this one.
    """
    names = ledger.campaigns()
    if not names:
        raise UserError(f"{ledger.path}: nothing was run yet, or with another --ledger")
    name = names[0] if campaign is None else campaign
    if name not in names:
        near = suggestion(name, names) or f"there are {listing(names)}"
        raise UserError(f"{ledger.path}: no run of a campaign {name!r}; {near}")
    return name, tuple(one for one in names if one != name)


def _add(ledger: Ledger, results: Path) -> None:
    """
    :raises ResultsError: they can't be read.
    :raises LedgerError: it can't be written.
    """
    result = read_results(results)
    written = datetime.fromtimestamp((results / VERDICTS).stat().st_mtime, UTC)
    ended = written.strftime("%Y-%m-%dT%H:%M:%SZ") if result.complete else ""
    ledger.record(result, result.cells, result.pairs, results.absolute(), ended=ended)
    line = f"{results}: {len(result.cells)} cells of {result.name!r}, run {result.run[:12]}"
    console_here().print(f"{line}, are in {ledger.path}", markup=False, soft_wrap=True)
