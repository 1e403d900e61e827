"""What nights do to a run, in short; the long form is ``scripts/measure faults``."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import time
from fnmatch import fnmatch
from pathlib import Path

import pytest
from benchmarks.faults import Site, disturbed, jumping
from benchmarks.faults import site as undisturbed
from benchmarks.soak import soak
from faults.injection import Fault, Point
from integration.cli_run import command, environment, run_campaign
from integration.conftest import WriteCampaign, write_campaign
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


# --- at a point of a run ---


@pytest.fixture(scope="module")
def site(builds: dict[str, Build], tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One cell, what it leaves when nothing disturbs it, and its points."""
    directory = tmp_path_factory.mktemp("faults")
    campaign = write_campaign(directory / "campaign.toml", builds, {"one": "patched"}, HVC)
    return undisturbed(directory / "site", campaign)


def nth(site: Site, operation: str, path: str, number: int = 1) -> Point:
    return next(
        one
        for one in site.points
        if (one.operation, one.nth) == (operation, number) and fnmatch(one.path, path)
    )


@pytest.mark.parametrize(
    ("operation", "path", "number"),
    [
        ("open", "results/cells/*/truth.bin", 1),
        ("rename", "results/verdicts.json", 2),
        ("fsync", "state/ledger.sqlite3*", 2),
    ],
)
def test_a_run_that_is_killed_goes_on(site: Site, operation: str, path: str, number: int) -> None:
    outcome = disturbed(site, Fault(nth(site, operation, path, number)))
    assert (outcome.fired, outcome.wrong) == (True, ())


@pytest.mark.parametrize("path", ["results/verdicts.json.new", "results/cells/*/initramfs"])
def test_a_run_whose_disk_gets_full_goes_on(site: Site, path: str) -> None:
    outcome = disturbed(site, Fault(nth(site, "write", path), errno.ENOSPC))
    assert (outcome.fired, outcome.wrong) == (True, ())


def test_the_wall_clock_means_nothing_to_a_run(site: Site) -> None:
    assert jumping(site).wrong == ()


def test_twenty_boots_leave_nothing_behind(tmp_path: Path) -> None:
    done = soak(20, tmp_path, jobs=2, every_s=0.5)
    assert done.verdicts.total() == 20
    # On a busy machine a device's interrupts may all miss: nothing is claimed then.
    assert [reason for reason in done.lost if "no placed interrupt" not in reason] == []
    assert (done.left, done.left_files) == ((), ())
    # Two boots side by side hold some 14 of them; one that stays open of each makes 30.
    assert max(one.descriptors for one in done.samples) < 24
