"""The ledger: nothing is lost, nothing is there twice, and its trouble is never the run's."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from qemu_diff.campaign import ledger as module
from qemu_diff.campaign.ledger import SCHEMA, Ledger, RunLog, default_ledger
from qemu_diff.campaign.nights import past_run
from qemu_diff.errors import LedgerError, NoLedgerError
from qemu_diff.model import CampaignResult, CellVerdict

from .past import outcome, run_of

ROOT = Path(__file__).parents[3]
NIGHT = run_of(1, outcome("a"), outcome("b", CellVerdict.FAIL))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "state" / "ledger.sqlite3", wait_s=0.2)


def add(ledger: Ledger, result: CampaignResult, **more: str) -> None:
    ledger.record(result, result.cells, result.pairs, Path("/results"), **more)


def rows(ledger: Ledger, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(ledger.path) as database:
        return database.execute(query).fetchall()


# --- what is kept ---


def test_a_run_is_read_back_as_it_was(ledger: Ledger) -> None:
    add(ledger, NIGHT)
    assert ledger.past_runs("c") == (past_run(NIGHT),)
    assert ledger.campaigns() == ("c",)


def test_everything_of_a_run_is_there(ledger: Ledger) -> None:
    add(ledger, NIGHT, ended="2026-01-02T01:00:00Z")
    assert rows(ledger, "SELECT * FROM run") == [
        (
            *(NIGHT.run, "c", "2026-01-01T22:00:00Z", "2026-01-02T01:00:00Z", 1, "[]"),
            *("0.1.0", "QEMU 7.2", "q", "/results"),
        )
    ]
    assert rows(ledger, "SELECT * FROM kernel") == [
        (NIGHT.run, "k", "key", "6.1.192", "debian linux-source-6.1")
    ]
    columns = "id, identity, kernel, verdict, expected, as_expected, duration_s, attempts"
    assert rows(ledger, f"SELECT {columns}, violations, signatures, costs FROM cell")[1] == (
        *("k.b", "i" * 32, "k", "fail", '["pass"]', 0, 2.5, 1, '["lost-step"]'),
        '["lost-step of hvc in step/tcg"]',
        '[{"instruction": "hvc", "steps": 4, "least": 4400, "median": 4460, "most": 4500}]',
    )
    assert rows(ledger, "SELECT * FROM pair") == [(NIGHT.run, "k.a", "k.b", "same", 0)]


def test_what_is_there_is_not_added_twice(ledger: Ledger) -> None:
    for _ in range(3):
        add(ledger, NIGHT)
    assert ledger.cells_of(NIGHT.run) == 2
    assert len(rows(ledger, "SELECT * FROM pair")) == 1
    assert ledger.past_runs("c") == (past_run(NIGHT),)


def test_a_verdict_never_gives_way_to_a_lost_cell(ledger: Ledger) -> None:
    """Results of before a run went on may be added after it."""
    cut = replace(NIGHT, cells=(outcome("a", CellVerdict.LOST),), pairs=(), complete=False)
    add(ledger, cut)
    assert [one.verdict for one in ledger.past_runs("c")[0].cells] == [CellVerdict.LOST]
    add(ledger, NIGHT)
    add(ledger, cut)
    assert ledger.past_runs("c") == (past_run(NIGHT),)


def test_a_run_that_left_cells_out_is_not_whole(ledger: Ledger) -> None:
    add(ledger, replace(NIGHT, only=("k.a*",)))
    assert not ledger.past_runs("c")[0].whole
    add(ledger, replace(NIGHT, complete=False))  # it goes on with all
    assert not ledger.past_runs("c")[0].whole
    add(ledger, NIGHT)
    assert ledger.past_runs("c")[0].whole


def test_the_last_runs_come_in_the_order_of_time(ledger: Ledger) -> None:
    for number in (3, 1, 4, 2):
        add(ledger, run_of(number, outcome("a")))
    assert [one.started[8:10] for one in ledger.past_runs("c", 3)] == ["02", "03", "04"]
    assert ledger.past_runs("another") == ()


def test_durations_are_of_judged_cells(ledger: Ledger) -> None:
    add(ledger, run_of(1, outcome("a"), outcome("b", CellVerdict.LOST)))
    add(ledger, replace(run_of(2, outcome("a")), name="d"))
    assert [(one.id, one.duration_s) for one in ledger.durations("c")] == [("k.a", 2.5)] * 2


def test_a_ledger_that_is_not_there_is_empty(ledger: Ledger) -> None:
    assert ledger.past_runs("c") == ()
    assert ledger.campaigns() == ()
    assert not ledger.path.exists()


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"QEMU_DIFF_LEDGER": "/x/l.db"}, "/x/l.db"),
        ({"XDG_STATE_HOME": "/state"}, "/state/qemu-diff/ledger.sqlite3"),
        ({"XDG_STATE_HOME": "relative"}, "/home/u/.local/state/qemu-diff/ledger.sqlite3"),
        ({}, "/home/u/.local/state/qemu-diff/ledger.sqlite3"),
    ],
)
def test_where_it_is(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], place: str
) -> None:
    for name in ("QEMU_DIFF_LEDGER", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/u")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_ledger() == Path(place)


def test_odd_paths(tmp_path: Path) -> None:
    odd = Ledger(tmp_path / "50%?#\udcff" / "[l] '.db")
    odd.record(NIGHT, NIGHT.cells, (), tmp_path / "\udcff")
    assert odd.past_runs("c") == (past_run(NIGHT),)


# --- versions ---


def test_an_older_schema_is_brought_up_to_date(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(ledger, NIGHT)
    steps = ("ALTER TABLE cell ADD COLUMN host TEXT NOT NULL DEFAULT 'h'",)
    monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, steps))
    monkeypatch.setattr(module, "SCHEMA", SCHEMA + 1)
    assert ledger.past_runs("c") == (past_run(NIGHT),)
    assert rows(ledger, "SELECT host FROM cell") == [("h",), ("h",)]
    assert rows(ledger, "PRAGMA user_version") == [(SCHEMA + 1,)]


def test_a_migration_that_fails_changes_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(ledger, NIGHT)
    steps = ("ALTER TABLE cell ADD COLUMN host TEXT", "no such statement")
    monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, steps))
    monkeypatch.setattr(module, "SCHEMA", SCHEMA + 1)
    with pytest.raises(LedgerError, match="syntax error"):
        ledger.past_runs("c")
    monkeypatch.undo()
    assert ledger.past_runs("c") == (past_run(NIGHT),)


def test_a_newer_schema_is_refused_and_left_as_it_is(ledger: Ledger) -> None:
    add(ledger, NIGHT)
    with sqlite3.connect(ledger.path) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    database.close()
    before = ledger.path.read_bytes()
    for access in (lambda: add(ledger, NIGHT), lambda: ledger.past_runs("c")):
        with pytest.raises(NoLedgerError, match=f"schema version {SCHEMA + 1}, this qemu-diff"):
            access()
    assert ledger.path.read_bytes() == before


# --- what is no ledger ---


def test_what_is_no_sqlite_file_is_left_as_it_is(ledger: Ledger) -> None:
    ledger.path.parent.mkdir()
    ledger.path.write_text("my thesis\n" * 1000)
    with pytest.raises(NoLedgerError, match="file is not a database"):
        add(ledger, NIGHT)
    assert ledger.path.read_text() == "my thesis\n" * 1000


def test_another_program_s_database_is_left_as_it_is(ledger: Ledger) -> None:
    ledger.path.parent.mkdir()
    with sqlite3.connect(ledger.path) as database:
        database.execute("CREATE TABLE run (mine)")
    database.close()
    before = ledger.path.read_bytes()
    with pytest.raises(NoLedgerError, match="a database of something else"):
        add(ledger, NIGHT)
    assert ledger.path.read_bytes() == before


def test_a_directory_in_its_place(ledger: Ledger) -> None:
    ledger.path.mkdir(parents=True)
    with pytest.raises(NoLedgerError, match="is a directory"):
        add(ledger, NIGHT)


def test_a_file_in_its_directory_s_place(ledger: Ledger) -> None:
    ledger.path.parent.write_text("")
    with pytest.raises(LedgerError, match="File exists"):
        add(ledger, NIGHT)


def test_an_empty_file_becomes_one(ledger: Ledger) -> None:
    ledger.path.parent.mkdir()
    ledger.path.touch()
    add(ledger, NIGHT)
    assert ledger.past_runs("c") == (past_run(NIGHT),)


def test_a_damaged_file_is_told_in_one_line(ledger: Ledger) -> None:
    for number in range(1, 9):
        add(ledger, run_of(number, *(outcome(f"cell-{one}") for one in range(20))))
    content = bytearray(ledger.path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    ledger.path.write_bytes(content)
    with pytest.raises(LedgerError, match="malformed") as caught:
        ledger.past_runs("c")
    assert "\n" not in str(caught.value)


# --- others write, too ---

WRITER = """
import sys
from pathlib import Path
from dataclasses import replace
from campaign.past import outcome, run_of
from qemu_diff.campaign.ledger import Ledger, RunLog
path, number = Path(sys.argv[1]), int(sys.argv[2])
result = replace(run_of(number), complete=False)
log = RunLog(Ledger(path), path.parent)
sys.stdin.readline()  # all begin at once, the first of them makes the file
for one in range(40):
    result = replace(result, cells=(*result.cells, outcome(f"cell-{one}")))
    log.publish(result)
log.finish(replace(result, complete=True))
sys.exit(log.trouble or 0)
"""


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "unit")])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_runs_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    writers = [python(WRITER, path, number) for number in range(1, 6)]
    ended = [writer.communicate("go\n", timeout=120) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 5, ended
    runs = Ledger(path).past_runs("c")
    assert [(len(run.cells), run.whole) for run in runs] == [(40, True)] * 5


def test_a_writer_that_is_killed_leaves_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    endless = WRITER.replace("range(40)", "range(10**9)").replace("import sys", "import os, sys")
    endless = endless.replace(
        "    log.publish(result)\n", "    log.publish(result)\n    print(one, flush=True)\n"
    )
    writer = python(endless, path, 1)
    assert writer.stdin
    assert writer.stdout
    writer.stdin.write("go\n")
    writer.stdin.flush()
    seen = [writer.stdout.readline() for _ in range(10)]
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert len(seen) == 10
    (run,) = Ledger(path).past_runs("c")
    assert len(run.cells) >= 10
    assert not run.whole


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """As a program does that keeps a transaction open."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    yield
    database.execute("ROLLBACK")
    database.close()


def published(log: RunLog, *results: CampaignResult) -> None:
    for result in results:
        log.publish(result)


PARTS = tuple(
    replace(NIGHT, cells=NIGHT.cells[:number], pairs=(), complete=False) for number in range(3)
)


def test_a_lock_for_a_while_costs_nothing(ledger: Ledger, tmp_path: Path) -> None:
    log = RunLog(ledger, tmp_path)
    log.publish(PARTS[0])
    with locked(ledger.path):
        began = time.monotonic()
        published(log, *PARTS[1:], *PARTS[1:])
        assert "database is locked" in log.trouble
        assert time.monotonic() - began < 3 * 0.2  # waited for once
    log.finish(NIGHT)
    assert not log.trouble
    assert ledger.past_runs("c") == (past_run(NIGHT),)


def test_a_lock_to_the_end_is_told(ledger: Ledger, tmp_path: Path) -> None:
    log = RunLog(ledger, tmp_path)
    log.publish(PARTS[0])
    with locked(ledger.path):
        published(log, *PARTS[1:])
        log.finish(NIGHT)
    assert log.trouble == f"{ledger.path}: database is locked"
    add(ledger, NIGHT)
    assert ledger.past_runs("c") == (past_run(NIGHT),)


def test_a_ledger_that_is_taken_away_is_written_anew(ledger: Ledger, tmp_path: Path) -> None:
    log = RunLog(ledger, tmp_path)
    published(log, *PARTS[:2])
    ledger.path.unlink()
    log.finish(NIGHT)
    assert not log.trouble
    assert ledger.past_runs("c") == (past_run(NIGHT),)


FULL = """
import sys
from pathlib import Path
from campaign.past import outcome, run_of
from qemu_diff.campaign.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
for number in range(1, 29):
    result = run_of(number, *(outcome(f"cell-{one}") for one in range(50)))
    ledger.record(result, result.cells, (), Path("/r"))
"""


IN_A_SMALL_FILE_SYSTEM = (
    'mount -t tmpfs -o size=256k none "$1" && '
    '{ "$2" -c "$3" "$1/ledger.sqlite3"; cp "$1"/ledger.sqlite3* "$0"; }'
)
WITH_SMALL_FILES = 'prlimit --fsize=200000 "$2" -c "$3" "$1/ledger.sqlite3"; cp "$1"/* "$0"'
OWN_MOUNTS = ["unshare", "--map-root-user", "--mount"]
MAY_MOUNT = subprocess.run([*OWN_MOUNTS, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("around", "script"),
    [
        ([], WITH_SMALL_FILES),
        pytest.param(
            OWN_MOUNTS,
            IN_A_SMALL_FILE_SYSTEM,
            marks=pytest.mark.skipif(not MAY_MOUNT, reason="no name spaces for users here"),
        ),
    ],
)
def test_a_full_disk_is_told_and_the_file_stays_whole(
    tmp_path: Path, around: list[str], script: str
) -> None:
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    kept.mkdir()
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "unit")])
    done = subprocess.run(
        [*around, "sh", "-c", script, kept, small, sys.executable, FULL],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("qemu_diff.errors.LedgerError: "), done.stderr
    assert "full" in last or "disk I/O error" in last
    runs = Ledger(kept / "ledger.sqlite3").past_runs("c")
    assert runs
    assert {len(run.cells) for run in runs} == {50}
