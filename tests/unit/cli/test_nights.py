"""``run --resume``, ``--ledger`` and ``history``: a mistake is one line, before any boot."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from qemu_diff.campaign.ledger import SCHEMA
from qemu_diff.cli.main import _Interruption, _run

CAMPAIGN = """
[campaign]
name = "test"
[kernels.good]
source = "debian:linux-source-6.1"
[[scenario]]
payload = ["hvc", "straightline"]
"""

Say = Callable[..., str]


@pytest.fixture
def mistake(capsys: pytest.CaptureFixture[str]) -> Say:
    """What is said of a mistake: one line, exit status 2."""

    def said(*arguments: str | Path) -> str:
        assert _run([str(one) for one in arguments], _Interruption(3)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return said


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    path = tmp_path / "campaign.toml"
    path.write_text(CAMPAIGN)
    return path


def results(out: Path, **settings: object) -> None:
    """Results of a run that judged nothing."""
    out.mkdir()
    document = {
        "schema_version": 5, "campaign": "test", "complete": False, "run": "r", "started": "",
        "only": [], "provenance": {}, "cells": [], "pairs": [],
    }  # fmt: skip
    (out / "verdicts.json").write_text(json.dumps({**document, **settings}))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"campaign": "other"}, "results of campaign 'other', and this is 'test'"),
        ({"schema_version": 4}, "results of schema version 4, this qemu-diff reads 5"),
        ({"cells": 1}, "not a results file"),
    ],
)
def test_results_that_no_run_goes_on_from(
    campaign: Path, tmp_path: Path, mistake: Say, settings: dict[str, object], words: str
) -> None:
    out = tmp_path / "out"
    results(out, **settings)
    before = (out / "verdicts.json").read_bytes()
    assert words in mistake("run", campaign, "--out", out, "--resume")
    assert (out / "verdicts.json").read_bytes() == before


def newer(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA application_id = 0x71656D75")
    database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    database.commit()
    database.close()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (newer, f"a ledger of schema version {SCHEMA + 1}, this qemu-diff writes {SCHEMA}"),
        (lambda path: path.write_text("my thesis\n" * 1000), "file is not a database"),
        (lambda path: path.mkdir(), "is a directory"),
    ],
)
def test_a_ledger_that_is_named_and_is_none(
    campaign: Path, tmp_path: Path, mistake: Say, make: Callable[[Path], object], words: str
) -> None:
    path, out = tmp_path / "ledger", tmp_path / "out"
    make(path)
    before = path.is_file() and path.read_bytes()
    assert words in mistake("run", campaign, "--out", out, "--ledger", path)
    assert words in mistake("history", "--ledger", path)
    assert words in mistake("list", campaign, "--ledger", path)
    assert before == (path.is_file() and path.read_bytes())
    assert not (out / "verdicts.json").exists()


def test_history_of_what_is_not_there(tmp_path: Path, mistake: Say) -> None:
    path = tmp_path / "ledger"
    nothing = mistake("history", "--ledger", path)
    assert nothing == f"qemu-diff: {path}: nothing was run yet, or with another --ledger"
    results(tmp_path / "out")
    for _ in range(2):
        arguments = ["history", "--add", str(tmp_path / "out"), "--ledger", str(path)]
        assert _run(arguments, _Interruption(3)) == 0
    for arguments, words in (
        (["tset"], "no run of a campaign 'tset'; did you mean 'test'?"),
        (["--cell", "x*"], "--cell x*: no cell of campaign 'test' in the ledger matches"),
        (["--limit", "0"], "--limit 0: at least one run"),
        (["--add", tmp_path / "nowhere"], "verdicts.json: No such file or directory"),
    ):
        assert words in mistake("history", *arguments, "--ledger", path)


def test_more_runs_than_a_ledger_can_count_are_all(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.sqlite3"
    results(tmp_path / "out")
    for arguments in (["--add", tmp_path / "out"], ["--limit", "9" * 30]):
        words = ["history", "--ledger", ledger, *arguments]
        assert _run([str(one) for one in words], _Interruption(3)) == 0
