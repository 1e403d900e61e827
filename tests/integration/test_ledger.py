"""Runs that are killed and go on, and ledgers that fail them: nothing that was measured is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from integration.cli_run import CliRun, command, environment, qemu_diff, run_campaign

pytestmark = pytest.mark.integration

HVC = '[[scenario]]\npayload = "hvc"\nexpect = { bad = { hvc = "lost-step" } }\n'
SOME = (
    '[[pair]]\nbaseline = "bad"\ncandidate = "good"\n'
    f"{HVC}"
    '[[scenario]]\npayload = "trapped_sysreg"\n'
    'expect = { bad = { trapped_sysreg = "lost-step" } }\n'
    'flood = { source = "host_timer", placement = "sweep", first_ns = 3000, last_ns = 5000, '
    "step_ns = 16 }\n"
    '[[scenario]]\npayload = "straightline"\n'
)
KERNELS = {"bad": "unpatched", "good": "patched"}
CELLS = 6


def one_line(done: CliRun) -> str:
    assert "Traceback" not in done.said
    (line,) = done.stderr.strip().splitlines()
    return line


# --- cut and resumed ---


def without_times(value: Any) -> Any:
    """What a run came to, but for how long it took and when, and how often it was tried."""
    if isinstance(value, dict):
        apart = ("run", "started", "duration_s", "stepping_s", "attempts")
        return {key: without_times(one) for key, one in value.items() if key not in apart}
    if isinstance(value, list):
        return [without_times(one) for one in value]
    return value


def finished(out: Path) -> int:
    try:
        return len(json.loads((out / "verdicts.json").read_text())["cells"])
    except FileNotFoundError:
        return 0


def killed_after(cells: int, campaign: Path, out: Path, *more: str) -> None:
    """Start a run, and kill it with so many cells done, and others half done."""
    process = subprocess.Popen(
        command("run", campaign, "--out", out, "--jobs", "2", *more),
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while finished(out) < cells:
            assert process.poll() is None, "it was faster than the one who kills it"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert finished(out) < CELLS


def finding_files(out: Path) -> dict[str, list[str]]:
    found = {one.name: one for one in (out / "findings").iterdir()}
    return {name: sorted(file.name for file in one.iterdir()) for name, one in found.items()}


def test_killed_twice_and_resumed_is_as_if_undisturbed(campaign_of, tmp_path: Path) -> None:
    campaign = campaign_of(KERNELS, SOME)
    out, whole = tmp_path / "out", run_campaign(campaign, tmp_path / "whole")
    assert whole.status == 0, whole.said
    killed_after(1, campaign, out, "--resume")  # where nothing is
    first = json.loads((out / "verdicts.json").read_text())
    (out / "cells" / "half").mkdir()
    (out / "verdicts.json.new").write_text('{"schema_version": 5, "ce')
    killed_after(finished(out) + 1, campaign, out, "--resume")
    done = run_campaign(campaign, out, "--resume")
    assert done.status == 0, done.said
    assert f" of {CELLS} cells stay" in done.said
    assert without_times(done.verdicts) == without_times(whole.verdicts)
    assert (done.verdicts["run"], done.verdicts["started"]) == (first["run"], first["started"])
    assert finding_files(out) == finding_files(tmp_path / "whole")
    assert not (out / "cells" / "half").exists()
    remembered = sqlite3.connect(os.environ["QEMU_DIFF_LEDGER"]).execute(
        "SELECT count(*), max(complete) FROM cell JOIN run ON run.id = cell.run WHERE run = ?",
        (first["run"],),
    )
    assert remembered.fetchone() == (CELLS, 1)

    # What is done stays done, and what has gone is made again.
    times = {one["id"]: one["duration_s"] for one in done.verdicts["cells"]}
    shutil.rmtree(out / "cells" / "good.hvc.vhe.quiet")
    again = run_campaign(campaign, out, "--resume").verdicts["cells"]
    measured = [one["id"] for one in again if one["duration_s"] != times[one["id"]]]
    assert measured == ["good.hvc.vhe.quiet"]


def results(out: Path, **settings: object) -> None:
    """Results of a run that judged nothing."""
    out.mkdir()
    document = {
        "schema_version": 5, "campaign": "test", "complete": False, "run": "r", "started": "",
        "only": [], "provenance": {}, "cells": [], "pairs": [],
    }  # fmt: skip
    (out / "verdicts.json").write_text(json.dumps({**document, **settings}))


def test_results_that_can_only_be_read(campaign_of, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results(out)
    campaign = campaign_of({"good": "patched"}, '[[scenario]]\npayload = "hvc"\n')
    # Root may write wherever the file system lets it: it does not.
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    around = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, out]
    done = subprocess.run(
        [*around, *command("run", campaign, "--out", out, "--resume")],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    line = one_line(CliRun(done.returncode, done.stdout, done.stderr, out))
    assert line == f"qemu-diff: {out}: Permission denied; name another with --out"


# --- ledgers ---


def test_a_ledger_that_is_none_costs_no_night(campaign_of, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_text("my thesis\n" * 1000)
    campaign = campaign_of({"good": "patched"}, '[[scenario]]\npayload = "hvc"\n')
    done = run_campaign(campaign, tmp_path / "out", QEMU_DIFF_LEDGER=str(path))
    assert done.status == 0
    assert f"{path}: file is not a database" in one_line(done)
    assert one_line(done).endswith(f"add it later: qemu-diff history --add {tmp_path / 'out'}")
    assert path.read_text() == "my thesis\n" * 1000


def test_a_ledger_that_is_locked_all_night_gets_the_results_later(
    campaign_of, tmp_path: Path
) -> None:
    path, out = tmp_path / "ledger", tmp_path / "out"
    campaign = campaign_of(KERNELS, HVC)
    assert run_campaign(campaign, tmp_path / "before", "--ledger", str(path)).status == 0
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    done = run_campaign(campaign, out, "--ledger", str(path))
    holder.execute("ROLLBACK")
    assert done.status == 0, done.said
    assert len(done.verdicts["cells"]) == 2
    assert "since " in done.said  # what is locked can still be read
    line = one_line(done)
    assert f"({path}: database is locked)" in line
    later = line.rpartition("add it later: qemu-diff ")[2].split()
    for _ in range(2):
        assert qemu_diff(*later).status == 0
    told = qemu_diff("history", "test", "--ledger", path)
    assert told.status == 0
    assert "test: 2 nights" in told.said
    assert "bad.hvc.vhe.quiet f f" in told.said
    assert holder.execute("SELECT count(*) FROM cell").fetchone() == (4,)
