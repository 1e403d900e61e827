"""Signals to the vCPU thread: KVM_RUN returns with EINTR in mid-step, and the step goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from integration.cli_run import run_campaign
from integration.conftest import WriteCampaign

from qemu_diff.abi import RecordFlag
from qemu_diff.trace.records import read_records

pytestmark = pytest.mark.integration


def swept(payload: str, first_ns: int, last_ns: int, step_ns: int = 1) -> str:
    grid = f"first_ns = {first_ns}, last_ns = {last_ns}, step_ns = {step_ns}"
    flood = f'{{ source = "signal", placement = "sweep", {grid} }}'
    return f'[[scenario]]\npayload = "{payload}"\nflood = {flood}\n'


@pytest.mark.parametrize("payload", ["straightline", "hvc"])
def test_a_signal_costs_no_step(campaign_of: WriteCampaign, tmp_path: Path, payload: str) -> None:
    campaign = campaign_of({"good": "patched"}, swept(payload, 1200, 5200, step_ns=80))
    done = run_campaign(campaign, tmp_path / "out")
    assert done.status == 0, done.said
    (cell,) = done.verdicts["cells"]
    assert cell["placements"] > 100
    boots = (done.results / "cells" / cell["id"]).glob("sweep-*/records.bin")
    flags = np.concatenate([read_records(records)["flags"] for records in boots])
    assert np.count_nonzero(flags & RecordFlag.EINTR) > 100


def test_a_step_over_an_emulated_instruction_is_lost_to_a_signal(
    campaign_of: WriteCampaign, tmp_path: Path
) -> None:
    """The window is one piece but for its edges, where L1's path to the entry into L2 is not always
    of the same length; and the step spans the return for the signal."""
    campaign = campaign_of({"bad": "unpatched"}, swept("trapped_sysreg", 2400, 4400))
    done = run_campaign(campaign, tmp_path / "out")
    assert done.status == 1
    (cell,) = done.verdicts["cells"]
    *edges, window = sorted(cell["result"]["windows"], key=lambda one: one["placements"])
    assert sum(edge["placements"] for edge in edges) <= 8
    assert window["complete"]
    assert window["placements"] > 500
    assert "whenever a signal is raised" in done.said
