"""The program itself, whatever its command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from integration.cli_run import QUICKSTART, command, environment, qemu_diff

from qemu_diff.campaign.finding_directory import tool_version


def test_its_version_is_what_findings_say() -> None:
    done = qemu_diff("--version")
    assert (done.status, done.stdout) == (0, f"qemu-diff {tool_version()}\n")


def test_a_directory_without_a_name_takes_no_results() -> None:
    done = qemu_diff("run", QUICKSTART, "--out", "/")
    told = "qemu-diff: /: has no room beside it for earlier results; see --out\n"
    assert (done.status, done.stderr) == (2, told)


def test_a_working_directory_that_is_gone_is_said(tmp_path: Path) -> None:
    code = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.argv[1], sys.argv[1:])"
    (tmp_path / "gone").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, *command("run", QUICKSTART)],
        capture_output=True, text=True, check=False, env=environment(), cwd=tmp_path / "gone",
    )  # fmt: skip
    told = "qemu-diff: the working directory is gone; change to another one\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_an_interruption_while_a_campaign_is_read(tmp_path: Path) -> None:
    campaign = tmp_path / "campaign.toml"
    os.mkfifo(campaign)
    with (
        subprocess.Popen(
            command("list", campaign), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env=environment(),
        ) as process,
        # It waits for what the pipe has to say.
        campaign.open("wb"),
    ):  # fmt: skip
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (3, "qemu-diff: interrupted\n")


@pytest.mark.parametrize("arguments", [("--keep", "-1"), ("--older-than-days", "nan")])
def test_what_is_no_number_of_kernels_or_days(arguments: tuple[str, str], tmp_path: Path) -> None:
    done = qemu_diff("kernels", "prune", *arguments, QEMU_DIFF_CACHE=str(tmp_path))
    assert (done.status, done.stderr.startswith(f"qemu-diff: {' '.join(arguments)}: ")) == (2, True)
