"""``--junit`` and its like: each format is written, and nothing is started that can't end well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from unit.report.judged import EVERYTHING, passes

from qemu_diff.model import CampaignResult
from qemu_diff.report.results import write_results

ROOT = Path(__file__).parents[3]
BEGINS = {
    "junit": '<testsuites name="qemu-diff.nightly"',
    "ktap": "KTAP version 1\n1..8\n",
    "kcidb": '{\n "version": {\n  "major": 5',
    "html": "<!DOCTYPE html>",
    "summary": "## ✗ qemu-diff: nightly\n",
}


def qemu_diff(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qemu_diff", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CI": "true"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    directory = tmp_path / "results"
    directory.mkdir()
    write_results(EVERYTHING, directory)
    return directory


def test_every_format_is_written_from_results(results: Path, tmp_path: Path) -> None:
    options = [part for name in BEGINS for part in (f"--{name}", tmp_path / name)]
    done = qemu_diff("report", results, *options, "--kcidb-origin", "my_ci")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    for name, begin in BEGINS.items():
        assert (tmp_path / name).read_text().startswith(begin)
    assert json.loads((tmp_path / "kcidb").read_text())["tests"][0]["origin"] == "my_ci"


def test_a_summary_goes_to_the_end_of_its_file(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# What was before\n\n")
    for _ in range(2):
        assert qemu_diff("report", results, "--summary", page).returncode == 1
    assert page.read_text().startswith("# What was before\n\n## ✗ qemu-diff: nightly\n")
    assert page.read_text().count("## ✗ qemu-diff: nightly\n") == 2


@pytest.mark.parametrize("option", BEGINS)
def test_what_can_not_be_written_is_said_before_anything_is_started(
    option: str, tmp_path: Path
) -> None:
    campaign = ROOT / "configs" / "quickstart.toml"
    nowhere = tmp_path / "nowhere" / "file"
    done = qemu_diff("run", campaign, "--out", tmp_path / "out", f"--{option}", nowhere)
    assert done.returncode == 2
    assert done.stderr == (
        f"qemu-diff: --{option} {nowhere}: its directory is not there, or can't be written\n"
    )
    assert not (tmp_path / "out" / "verdicts.json").exists()


@pytest.mark.parametrize("option", ["junit", "html", "ktap", "kcidb", "markdown"])
def test_a_pipe_or_a_device_is_not_replaced(option: str, results: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = qemu_diff("report", results, f"--{option}", pipe)
    assert (done.returncode, done.stderr) == (
        2, f"qemu-diff: --{option} {pipe}: that is no file\n",
    )  # fmt: skip
    assert pipe.is_fifo()


def test_a_summary_for_nobody_is_not_waited_for(results: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = qemu_diff("report", results, "--summary", pipe)
    assert (done.returncode, done.stderr) == (3, f"qemu-diff: {pipe}: No such device or address\n")


def test_more_that_can_not_be_written(results: Path, tmp_path: Path) -> None:
    for arguments, complaint in (
        (("--ktap", tmp_path), f"--ktap {tmp_path}: that is a directory"),
        (("--kcidb-origin", "My-CI"), "--kcidb-origin My-CI: an origin has only a-z, 0-9 and _"),
    ):
        done = qemu_diff("report", results, *arguments)
        assert done.returncode == 2
        assert complaint in done.stderr
        assert done.stderr.count("\n") == 1


def test_an_exit_status_is_explained(results: Path, tmp_path: Path) -> None:
    assert qemu_diff("show", results).stdout.endswith(
        "Exit status 1: an unexpected finding, an expectation not met, or a regression\n"
    )
    fine = tmp_path / "fine"
    fine.mkdir()
    write_results(CampaignResult("c", (passes(),), (), complete=True), fine)
    assert "Exit status" not in qemu_diff("show", fine).stdout
