"""The ledger: one SQLite file that remembers every run, night after night.

Results stand by themselves; the ledger is the log beside them. A run writes each cell as it
finishes, in a transaction and through a connection of its own: what happens to the file between two
cells costs no more than the next try, and other runs may write meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from qemu_diff.errors import LedgerError, NoLedgerError
from qemu_diff.model import (
    CampaignResult,
    Cell,
    CellResult,
    CellVerdict,
    PairResult,
    PastCell,
    PastRun,
    ViolationKind,
)
from qemu_diff.report.words import signature_name

APPLICATION_ID = 0x71656D75
"""``qemu``: tells our files from other programs' (SQLite, "PRAGMA application_id")."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE run (
            id TEXT PRIMARY KEY,
            campaign TEXT NOT NULL,
            started TEXT NOT NULL,
            ended TEXT NOT NULL,
            complete INTEGER NOT NULL,
            only_globs TEXT NOT NULL,
            tool TEXT NOT NULL,
            qemu TEXT NOT NULL,
            qemu_identity TEXT NOT NULL,
            out TEXT NOT NULL
        )""",
        "CREATE INDEX run_by_campaign ON run (campaign, started)",
        "CREATE INDEX run_by_start ON run (started)",
        """CREATE TABLE kernel (
            run TEXT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
            name TEXT NOT NULL,
            key TEXT NOT NULL,
            release TEXT NOT NULL,
            source TEXT NOT NULL,
            PRIMARY KEY (run, name)
        ) WITHOUT ROWID""",
        """CREATE TABLE cell (
            run TEXT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
            id TEXT NOT NULL,
            identity TEXT NOT NULL,
            workload TEXT NOT NULL,
            kernel TEXT NOT NULL,
            verdict TEXT NOT NULL,
            expected TEXT NOT NULL,
            as_expected INTEGER NOT NULL,
            duration_s REAL NOT NULL,
            attempts INTEGER NOT NULL,
            violations TEXT NOT NULL,
            signatures TEXT NOT NULL,
            costs TEXT NOT NULL,
            PRIMARY KEY (run, id)
        ) WITHOUT ROWID""",
        """CREATE TABLE pair (
            run TEXT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
            baseline TEXT NOT NULL,
            candidate TEXT NOT NULL,
            outcome TEXT NOT NULL,
            alarming INTEGER NOT NULL,
            PRIMARY KEY (run, baseline, candidate)
        ) WITHOUT ROWID""",
    ),
)
"""Statements that make version n + 1 of version n; an empty file is version 0."""

SCHEMA = len(MIGRATIONS)

WAIT_S = 5.0
"""How long another writer may hold the ledger: a transaction takes milliseconds."""

_RETRY_S = 0.02

REMEMBERED = 30
"""Runs of a campaign that the next one is held against."""


def default_ledger() -> Path:
    """``$QEMU_DIFF_LEDGER``, else ``ledger.sqlite3`` in the user's state directory."""
    if chosen := os.environ.get("QEMU_DIFF_LEDGER"):
        return Path(chosen).expanduser().absolute()
    # XDG Base Directory Specification: a relative path in the variable is to be ignored.
    xdg = Path(os.environ.get("XDG_STATE_HOME", ""))
    state = xdg if xdg.is_absolute() else Path.home() / ".local" / "state"
    return state / "qemu-diff" / "ledger.sqlite3"


def workload(cell: Cell) -> str:
    """What a cell's duration depends on most, as a digest: what is stepped, how, and by whom."""
    work = repr((cell.payload, cell.job, cell.session, cell.flood, cell.driver.value))
    return hashlib.blake2b(work.encode(errors="replace"), digest_size=8).hexdigest()


@dataclass(frozen=True)
class PastDuration:
    """How long a judged cell took, in wall-clock seconds."""

    id: str
    workload: str
    duration_s: float


class Ledger:
    """A ledger file. Every method opens and closes it.

    :raises LedgerError: from every method: it can't be read or written just now.
    :raises NoLedgerError: likewise: it is none, or a newer qemu-diff's; it is left as it is.
    """

    def __init__(self, path: Path, wait_s: float = WAIT_S) -> None:
        self.path = path
        self._wait_s = wait_s

    def check(self) -> None:
        """See that runs can be written, before there is one."""
        with self._writing(self._wait_s):
            pass

    def record(
        self,
        result: CampaignResult,
        cells: Sequence[CellResult],
        pairs: Sequence[PairResult],
        out: Path,
        *,
        ended: str = "",
        wait_s: float | None = None,
    ) -> None:
        """Write some cells and pairs of a run. What is there already is not there twice, and a
        verdict never gives way to a lost cell.

        :param out: the run's results directory.
        :param ended: UTC, ISO 8601; empty: not yet.
        """
        with self._writing(self._wait_s if wait_s is None else wait_s) as database:
            _write_run(database, result, out, ended)
            run = result.run
            database.executemany(_INSERT_CELL, (_cell_row(run, one) for one in cells))
            database.executemany(_INSERT_PAIR, (_pair_row(run, one) for one in pairs))

    def cells_of(self, run: str) -> int:
        """How many cells of a run are in the ledger."""
        with self._reading() as database:
            (number,) = database.execute(
                "SELECT count(*) FROM cell WHERE run = ?", (run,)
            ).fetchone()
        return int(number)

    def campaigns(self) -> tuple[str, ...]:
        """Names of the campaigns that were run, the one that was run last first."""
        with self._reading() as database:
            rows = database.execute(
                "SELECT campaign FROM run GROUP BY campaign ORDER BY max(started) DESC"
            ).fetchall()
        return tuple(name for (name,) in rows)

    def past_runs(self, campaign: str, limit: int = REMEMBERED) -> tuple[PastRun, ...]:
        """The last runs of a campaign, in the order of time."""
        with self._reading() as database:
            runs = database.execute(
                "SELECT id, started, complete AND only_globs = '[]', tool FROM run"
                " WHERE campaign = ? ORDER BY started DESC, rowid DESC LIMIT ?",
                (campaign, limit),
            ).fetchall()
            return tuple(
                PastRun(run, started, bool(whole), _past_cells(database, run, started, tool))
                for run, started, whole, tool in reversed(runs)
            )

    def durations(self, campaign: str, limit: int = REMEMBERED) -> tuple[PastDuration, ...]:
        """How long judged cells took: in the last runs of a campaign, and in the last of any."""
        with self._reading() as database:
            rows = database.execute(
                "WITH recent AS ("
                " SELECT id FROM (SELECT id FROM run WHERE campaign = ?1"
                "  ORDER BY started DESC LIMIT ?2)"
                " UNION SELECT id FROM (SELECT id FROM run ORDER BY started DESC LIMIT ?2))"
                " SELECT cell.id, workload, duration_s FROM recent JOIN cell ON run = recent.id"
                " WHERE verdict NOT IN ('lost', 'skipped')",
                (campaign, limit),
            ).fetchall()
        return tuple(PastDuration(*row) for row in rows)

    @contextmanager
    def _writing(self, wait_s: float) -> Iterator[sqlite3.Connection]:
        """One transaction; what is raised within takes it back."""
        # One that only begins to write later could not wait for another writer.
        with self._open(wait_s) as database, _transaction(database, "BEGIN IMMEDIATE"):
            yield database

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One view, whoever writes meanwhile; a ledger that is not there is empty."""
        with self._open_to_read() as database, _transaction(database, "BEGIN"):
            yield database

    @contextmanager
    def _open(self, wait_s: float) -> Iterator[sqlite3.Connection]:
        with _one_line(self.path):
            if self.path.is_dir():
                raise NoLedgerError(f"{self.path} is a directory; name a file with --ledger")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(_connect(str(self.path), wait_s)) as database:
                _migrate(database, self.path, wait_s)
                yield database

    @contextmanager
    def _open_to_read(self) -> Iterator[sqlite3.Connection]:
        if not self.path.exists():
            with closing(_connect(":memory:", 0)) as database:
                _migrate(database, self.path, 0)
                yield database
        elif os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK):
            with self._open(self._wait_s) as database:
                yield database
        else:
            with _one_line(self.path), closing(_connect_read_only(self.path)) as database:
                _require_current(database, self.path)
                yield database


class RunLog:
    """Writes one run into the ledger as its cells finish.

    Whatever goes wrong with the ledger, the run goes on: what could not be written is tried again
    with the next cell and at the end.
    """

    def __init__(self, ledger: Ledger, out: Path) -> None:
        self._ledger = ledger
        self._out = out
        self._cells: dict[str, CellResult] = {}
        self._pairs: dict[tuple[str, str], PairResult] = {}
        self.trouble = ""
        """Why something is missing in the ledger, in one line; or nothing."""

    def publish(self, result: CampaignResult) -> None:
        """Write what is new in ``result``."""
        # Whoever holds the ledger for long is not waited for again and again.
        self._write(result, wait_s=0.0 if self.trouble else None)

    def finish(self, result: CampaignResult) -> None:
        """Write all that is missing, and that the run has ended."""
        self._write(result, ended=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        if self.trouble:
            return
        try:
            complete = self._ledger.cells_of(result.run) == len(result.cells)
        except LedgerError as error:
            self.trouble = str(error)
            return
        if not complete:  # the file was taken away, or put back from a copy
            self._cells.clear()
            self._pairs.clear()
            self._write(result, ended=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))

    def _write(
        self, result: CampaignResult, *, ended: str = "", wait_s: float | None = None
    ) -> None:
        cells = [one for one in result.cells if self._cells.get(one.cell.id) is not one]
        pairs = [one for one in result.pairs if self._pairs.get(_key(one)) is not one]
        try:
            self._ledger.record(result, cells, pairs, self._out, ended=ended, wait_s=wait_s)
        except LedgerError as error:
            self.trouble = str(error)
            return
        self.trouble = ""
        self._cells.update({one.cell.id: one for one in cells})
        self._pairs.update({_key(one): one for one in pairs})


def _key(pair: PairResult) -> tuple[str, str]:
    return pair.baseline.id, pair.candidate.id


# --- rows ----------------------------------------------------------------------------------------

_INSERT_RUN = """INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET
        ended = max(ended, excluded.ended),
        complete = excluded.complete OR (complete AND only_globs = excluded.only_globs),
        only_globs = excluded.only_globs, tool = excluded.tool, qemu = excluded.qemu,
        qemu_identity = excluded.qemu_identity, out = excluded.out"""

_INSERT_KERNEL = "INSERT OR REPLACE INTO kernel VALUES (?, ?, ?, ?, ?)"

_INSERT_CELL = """INSERT INTO cell VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (run, id) DO UPDATE SET
        identity = excluded.identity, workload = excluded.workload, kernel = excluded.kernel,
        verdict = excluded.verdict, expected = excluded.expected,
        as_expected = excluded.as_expected, duration_s = excluded.duration_s,
        attempts = excluded.attempts, violations = excluded.violations,
        signatures = excluded.signatures, costs = excluded.costs
    WHERE excluded.verdict <> 'lost' OR verdict = 'lost'"""

_INSERT_PAIR = "INSERT OR REPLACE INTO pair VALUES (?, ?, ?, ?, ?)"


def _write_run(database: sqlite3.Connection, result: CampaignResult, out: Path, ended: str) -> None:
    used = result.provenance
    # A path may hold bytes that are no UTF-8; SQLite takes text only.
    place = os.fsencode(out).decode(errors="replace")
    complete = int(result.complete)
    database.execute(
        _INSERT_RUN,
        (
            result.run,
            result.name,
            result.started,
            ended,
            complete,
            json.dumps(result.only),
            used.tool,
            used.qemu,
            used.qemu_identity,
            place,
        ),
    )
    database.executemany(
        _INSERT_KERNEL,
        ((result.run, one.name, one.key, one.release, one.source) for one in used.kernels),
    )


def _cell_row(run: str, result: CellResult) -> tuple[object, ...]:
    kinds = sorted(kind.value for kind, number in result.violations if number)
    signatures = sorted(signature_name(one.signature) for one in result.signatures)
    return (
        run,
        result.cell.id,
        result.identity,
        workload(result.cell),
        result.cell.kernel,
        result.verdict.value,
        json.dumps(result.cell.expected),
        int(result.as_expected),
        result.duration_s,
        result.attempts,
        json.dumps(kinds),
        json.dumps(signatures),
        json.dumps([asdict(one) for one in result.costs]),
    )


def _pair_row(run: str, pair: PairResult) -> tuple[object, ...]:
    return run, pair.baseline.id, pair.candidate.id, pair.outcome.value, int(pair.alarming)


def _past_cells(
    database: sqlite3.Connection, run: str, started: str, tool: str
) -> tuple[PastCell, ...]:
    rows = database.execute(
        "SELECT cell.id, verdict, as_expected, duration_s, coalesce(release, ''),"
        " coalesce(key, ''), violations, signatures"
        " FROM cell LEFT JOIN kernel ON kernel.run = cell.run AND kernel.name = cell.kernel"
        " WHERE cell.run = ? ORDER BY cell.id",
        (run,),
    )
    return tuple(
        PastCell(
            run=run,
            started=started,
            id=name,
            verdict=CellVerdict(verdict),
            as_expected=bool(as_expected),
            duration_s=duration_s,
            release=release,
            kernel_key=key,
            violations=tuple(map(ViolationKind, json.loads(violations))),
            signatures=tuple(json.loads(signatures)),
            tool=tool,
        )
        for name, verdict, as_expected, duration_s, release, key, violations, signatures in rows
    )


# --- the file ------------------------------------------------------------------------------------


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        # What Python's own checks raise has no such name.
        foreign = getattr(error, "sqlite_errorname", "") == "SQLITE_NOTADB"
        raise (NoLedgerError if foreign else LedgerError)(f"{path}: {error}") from error
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        # SQLite checks no more than its own pages.
        raise LedgerError(f"{path}: damaged: {' '.join(str(error).split())}") from error


def _connect(where: str, wait_s: float) -> sqlite3.Connection:
    database = sqlite3.connect(where, timeout=wait_s, isolation_level=None)
    database.execute("PRAGMA foreign_keys = ON")
    # With WAL a power cut may cost the last cells, which the results have; never the file.
    database.execute("PRAGMA synchronous = NORMAL")
    return database


def _connect_read_only(path: Path) -> sqlite3.Connection:
    """Without the files that WAL needs beside the ledger, where none can be made."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)


@contextmanager
def _transaction(database: sqlite3.Connection, begin: str) -> Iterator[None]:
    database.execute(begin)
    try:
        yield
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _version(database: sqlite3.Connection, path: Path) -> int:
    """The schema's version.

    :raises NoLedgerError: another program's file, or a newer qemu-diff's.
    """
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (version or application or tables):
        raise NoLedgerError(f"{path}: a database of something else; name another with --ledger")
    if version > SCHEMA:
        raise NoLedgerError(
            f"{path}: a ledger of schema version {version}, this qemu-diff writes {SCHEMA}; "
            "name another with --ledger"
        )
    return int(version)


def _require_current(database: sqlite3.Connection, path: Path) -> None:
    version = _version(database, path)
    if version < SCHEMA:
        raise LedgerError(
            f"{path}: a ledger of schema version {version}, which can't be brought to {SCHEMA}: "
            "it can't be written"
        )


def _migrate(database: sqlite3.Connection, path: Path, wait_s: float) -> None:
    """Bring the schema up to date, in one transaction."""
    version = _version(database, path)
    if version == SCHEMA:
        return
    if not version:
        _use_wal(database, wait_s)
    with _transaction(database, "BEGIN IMMEDIATE"):
        # Another process may have been faster.
        for number in range(_version(database, path), SCHEMA):
            for statement in MIGRATIONS[number]:
                database.execute(statement)
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {SCHEMA}")


def _use_wal(database: sqlite3.Connection, wait_s: float) -> None:
    """The mode stays with the file; where a file system can't have it, SQLite keeps the old one."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # SQLite does not wait by itself here: it could be for ever.
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_S)
        else:
            return
