"""What nights do to a run, in short; the long form is ``scripts/measure faults``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from integration.cli_run import command, environment
from integration.conftest import WriteCampaign

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
