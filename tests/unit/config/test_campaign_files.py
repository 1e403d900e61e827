"""The campaigns that come with the project can be loaded and planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemu_diff.campaign.plan import pairs, plan
from qemu_diff.config import load_campaign
from qemu_diff.model import Expectation

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_campaign_of_the_project_is_right(path: Path) -> None:
    campaign = load_campaign(path)
    cells = plan(campaign)
    assert len({cell.id for cell in cells}) == len(cells)


def test_the_quickstart_must_see_the_bug_on_the_unpatched_kernel_alone() -> None:
    campaign = load_campaign(CONFIGS / "quickstart.toml")
    cells = plan(campaign)
    lost = {cell.payload for cell in cells if cell.expected == (Expectation.LOST_STEP,)}
    assert lost == {"hvc", "trapped_sysreg"}
    assert {cell.kernel for cell in cells if cell.expected != (Expectation.PASS,)} == {"unpatched"}
    assert len(pairs(campaign, cells)) * 2 == len(cells)
