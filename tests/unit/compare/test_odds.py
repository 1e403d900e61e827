"""Wilson's interval."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_diff.compare.odds import odds


# Where nothing happened the upper bound is z² / (n + z²), z = 1.96: 3.8415 / 13.8415 for n = 10.
@pytest.mark.parametrize(
    ("happened", "of", "low", "high"),
    [(3, 17, 0.0619, 0.4103), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 2, 0.0945, 0.9055)],
)
def test_odds(happened: int, of: int, low: float, high: float) -> None:
    assert odds(happened, of) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_odds_hold_what_was_seen(counts: tuple[int, int]) -> None:
    happened, of = counts
    low, high = odds(happened, of)
    rounding = 1e-12
    assert 0.0 <= low <= happened / of + rounding
    assert happened / of - rounding <= high <= 1.0
    mirrored = odds(of - happened, of)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high))
