"""How likely something is that happened so and so often."""

from __future__ import annotations

import math

_Z = 1.959963984540054
"""Standard normal quantile of 97.5 %: a 95 % interval leaves out half of the rest on each side."""


def odds(happened: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a probability, by Wilson's score (E. B. Wilson, "Probable inference, the
    law of succession, and statistical inference", JASA 22, 1927).

    :param of: trials, at least one.
    :returns: lower and upper bound, 0.0 to 1.0.
    """
    share, spread = happened / of, _Z * _Z / of
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
