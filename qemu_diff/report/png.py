"""A picture as PNG, for where SVG is not taken."""

from __future__ import annotations

from functools import cache

import resvg_py

from qemu_diff.errors import MissingToolError
from qemu_diff.report.picture import FONTS

ZOOM = 1.5
"""Pixels for each px of the SVG: text must stay legible on a fine screen."""

_SAMPLE = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40">{}</svg>'


def png(svg: str) -> bytes:
    """:raises MissingToolError: this machine has no font, and a picture without words is none."""
    if not _has_fonts():
        raise MissingToolError("a font for --png", "fonts-dejavu-core", "dejavu-sans-fonts")
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=ZOOM))


@cache
def _has_fonts() -> bool:
    text = f"<text x='5' y='30' font-size='30' font-family='{FONTS}'>M</text>"
    drawn, empty = (
        bytes(resvg_py.svg_to_bytes(svg_string=_SAMPLE.format(one))) for one in (text, "")
    )
    return drawn != empty
