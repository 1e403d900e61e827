"""What one input may cost."""

from __future__ import annotations

SLOWEST_S = 10
MOST_MIB = 1024
