"""What nights do to a run, in short; the long form is ``scripts/measure faults``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from integration.cli_run import command, environment, run_campaign
from integration.conftest import WriteCampaign
from integration.test_trouble import qemus_of

from qemu_diff.model import Build

pytestmark = pytest.mark.integration

HVC = '[[scenario]]\npayload = "hvc"\n'


def verdicts(results: Path) -> list[str]:
    document = json.loads((results / "verdicts.json").read_text())
    return [cell["verdict"] for cell in document["cells"]]


# --- who listens ---


def test_a_log_on_a_full_disk_costs_no_cell(campaign_of: WriteCampaign, tmp_path: Path) -> None:
    run = command("run", campaign_of({"one": "patched"}, HVC), "--out", tmp_path / "out")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            run, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment()
        )
    assert verdicts(tmp_path / "out") == ["pass"]
    assert done.returncode == 3
    assert done.stderr == "qemu-diff: standard output: No space left on device\n"


def test_a_reader_that_has_left_costs_no_cell(campaign_of: WriteCampaign, tmp_path: Path) -> None:
    run = command("run", campaign_of({"one": "patched"}, HVC), "--out", tmp_path / "out")
    with subprocess.Popen(
        run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert verdicts(tmp_path / "out") == ["pass"]


@pytest.mark.parametrize("redirected", [">&-", ">&- 2>&-", ">/dev/full 2>/dev/full"])
def test_nobody_listens_at_all(tmp_path: Path, redirected: str) -> None:
    """A mistake stays one: exit status 2, and never 1, which would be a finding."""
    script = f'exec "$@" {redirected}'
    run = ["sh", "-c", script, "sh", *command("show", tmp_path / "none")]
    assert subprocess.run(run, check=False, env=environment()).returncode == 2


# --- whose QEMU is killed ---


def test_whichever_qemu_is_killed_changes_nothing(builds: dict[str, Build], tmp_path: Path) -> None:
    """The boot that looks at L1's way through the step, and the fresh one that confirms."""
    image = builds["unpatched"].image
    source = f'{{ image = "{image}", vmlinux = "{image.with_name("vmlinux")}" }}'
    campaign = tmp_path / "campaign.toml"
    campaign.write_text(f'[campaign]\nname = "test"\n[kernels.one]\nsource = {source}\n{HVC}')
    killed: set[Path] = set()
    with subprocess.Popen(
        command("run", campaign, "--out", tmp_path / "disturbed", "--jobs", "1"),
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        while process.poll() is None:
            for console in (tmp_path / "disturbed").rglob("console.log"):
                boot = console.parent
                after_run = boot.name in ("landmarks", "0") and boot not in killed
                for qemu in qemus_of(process.pid) if after_run else ():
                    os.kill(qemu, signal.SIGKILL)
                    killed.add(boot)
            time.sleep(0.02)
    assert len(killed) == 2
    assert process.returncode == run_campaign(campaign, tmp_path / "undisturbed").status == 1

    def result(out: str) -> dict[str, object]:
        (cell,) = json.loads((tmp_path / out / "verdicts.json").read_text())["cells"]
        return {
            key: value
            for key, value in cell["result"].items()
            if key not in ("duration_s", "stepping_s", "attempts")
        }

    assert result("disturbed") == result("undisturbed")
