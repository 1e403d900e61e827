"""Which cells a command means, and how they are counted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from integration.cli_run import ROOT

from qemu_diff.cli.selection import counted, selected
from qemu_diff.errors import UserError

CAMPAIGN = """\
[campaign]
name = "c"
[kernels.a]
source = "debian:linux-source-6.1"
[kernels.b]
source = "debian:linux-source-6.1"
[[scenario]]
payload = ["hvc", "mixed"]
[[scenario]]
payload = "straightline"
kernels = ["b"]
[[exclude]]
cells = "a.*"
reason = "known"
[[exclude]]
cells = "*.mixed.*"
reason = "slow"
"""


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QEMU_DIFF_ROOT", str(ROOT))
    path = tmp_path / "c.toml"
    path.write_text(CAMPAIGN)
    return path


def test_cells_are_counted_by_kernel_and_reason(campaign: Path) -> None:
    _, cells = selected(campaign, None, None)
    assert [*counted(cells)] == [
        "5 cells of 3 points: a 2, b 3",
        "2 cells excluded: known",
        "1 cell excluded: slow",
    ]


def test_what_is_excluded_can_be_named_with_only_and_stays_excluded(campaign: Path) -> None:
    _, cells = selected(campaign, ["a.*"], None)
    assert {cell.excluded for cell in cells} == {"known"}


def test_an_exclusion_that_matches_nothing_is_told_with_its_place(campaign: Path) -> None:
    campaign.write_text(CAMPAIGN.replace("*.mixed", "*.mixd"))
    with pytest.raises(UserError) as caught:
        selected(campaign, None, None)
    said = str(caught.value)
    assert said == f"{campaign}:16:1: exclude: no cell matches '*.mixd.*'; see qemu-diff list"


def test_five_hundred_cells_are_loaded_and_planned_within_a_second(campaign: Path) -> None:
    seeds = f"seeds = {[*range(42)]}\n"
    machine = 'machine = { kvm_mode = ["vhe", "nvhe"], cpus = [1, 2, 4] }\n'
    campaign.write_text(CAMPAIGN.replace('"mixed"]\n', f'"mixed"]\n{seeds}{machine}'))
    began = time.process_time()
    _, cells = selected(campaign, None, None)
    took = time.process_time() - began
    assert len(cells) == 1009
    assert took < 1.0
