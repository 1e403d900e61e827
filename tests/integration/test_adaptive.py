"""Adaptive placement finds the windows that the full grid finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from integration.cli_run import CliRun, run_campaign
from integration.conftest import WriteCampaign

pytestmark = pytest.mark.integration

SCENARIO = """[[scenario]]
payload = "trapped_sysreg"
expect = { bad = { trapped_sysreg = "lost-step" } }
"""
ADAPTIVE = SCENARIO + 'flood = { source = "host_timer", placement = "adaptive" }\n'


def spans(done: CliRun, cell: str) -> list[dict[str, Any]]:
    """What breaks the step of the trapped read."""
    maps = done.cell(cell)["result"]["maps"]
    (one,) = (one for one in maps if one["instruction"]["label"] == "trapped_read")
    return [span for span in one["spans"] if span["outcome"] != "ok"]


def test_edges_are_the_full_grid_s(
    quickstart: CliRun, campaign_of: WriteCampaign, tmp_path: Path
) -> None:
    campaign = campaign_of({"bad": "unpatched", "good": "patched"}, ADAPTIVE)
    done = run_campaign(campaign, tmp_path / "out")
    assert done.status == 0, done.said
    identity = "bad.trapped_sysreg.vhe.host_timer-adaptive"
    (found,) = spans(done, identity)
    (full,) = spans(quickstart, "unpatched.trapped_sysreg.vhe.host_timer-sweep.1200-end-1")
    assert (found["first_ns"], found["last_ns"]) == (full["first_ns"], full["last_ns"])
    assert found["placements"] < full["placements"] / 3
    for cell in done.verdicts["cells"]:
        assert cell["result"]["coverage"]["method"] == "adaptive"
    assert "adaptive: a grid of 32 ns with 64 random placements between" in done.said
    again = run_campaign(campaign, tmp_path / "again")
    assert [cell["result"]["maps"] for cell in again.verdicts["cells"]] == [
        cell["result"]["maps"] for cell in done.verdicts["cells"]
    ]


def test_placements_outside_of_each_window_are_lost_with_the_window_s_length(
    campaign_of: WriteCampaign, tmp_path: Path
) -> None:
    flood = 'flood = { source = "host_timer", placement = "sweep", first_ns = 90000 }\n'
    body = f'[[scenario]]\npayload = "straightline"\n{flood}'
    done = run_campaign(campaign_of({"good": "patched"}, body), tmp_path / "out")
    assert done.status == 3
    (cell,) = done.verdicts["cells"]
    assert cell["verdict"] == "lost"
    assert "asked for 90,000 to 90,000 ns after arming, but the longest step window" in done.said
    assert "Traceback" not in done.said
