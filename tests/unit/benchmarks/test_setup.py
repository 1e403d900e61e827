"""How much of a campaign was not its boots."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.cells import Life
from benchmarks.setup import _alone_s, _Campaign, _campaign_claims

HERE = Path()


def test_time_with_fewer_boots_than_workers() -> None:
    side_by_side = [Life(HERE, 0.0, 10.0), Life(HERE, 0.0, 4.0), Life(HERE, 5.0, 10.0)]
    assert _alone_s(side_by_side) == 1.0
    assert _alone_s([Life(HERE, 0.0, 2.0), Life(HERE, 3.0, 4.0)]) == 4.0


def campaign(wall_s: float, boots: int) -> _Campaign:
    return _Campaign("c", 6, boots, 1000, wall_s, 20.0, 1.0, 1.0, alone_s=0.0)


@pytest.mark.parametrize(("wall_s", "reached"), [(11.5, True), (12.0, False)])
def test_the_largest_campaign_is_held_against_the_aim(wall_s: float, reached: bool) -> None:
    placements, ratio = _campaign_claims([campaign(99.0, 2), campaign(wall_s, 40)])
    assert ratio.reached is reached
    assert placements.measured == f"{1000 / wall_s:,.0f}"
