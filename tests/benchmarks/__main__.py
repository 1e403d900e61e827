"""``scripts/measure``: measures, and makes the two pages of what was measured."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

from benchmarks.measured import Measured, load, save
from benchmarks.pages import DOCS, MEASURED, PAGES, picture_name, render
from benchmarks.plots import draw
from cyclopts import App, Parameter

MEASUREMENTS = (
    "floor", "levers", "alternatives", "setup", "analysis",
    "mutants", "garbage", "isolation", "faults", "processes", "soak", "same",
)  # fmt: skip
"""Modules of this package with a ``measure() -> Measured``, in the pages' order."""

app = App(
    name="scripts/measure", help="Measures, and writes docs/performance.md and robustness.md."
)


@app.default
def measure(*names: Annotated[str, Parameter(help="what to measure: all, or some names")]) -> None:
    """Measure, keep what was found in docs/measured, and write the pages."""
    wanted = MEASUREMENTS if names == ("all",) else names
    if unknown := [name for name in wanted if name not in MEASUREMENTS]:
        sys.exit(f"scripts/measure: no {unknown[0]!r}; there are: {', '.join(MEASUREMENTS)}")
    for name in wanted:
        print(f"measuring: {name}", flush=True)
        found: Measured = importlib.import_module(f"benchmarks.{name}").measure()
        save(found, MEASURED)
    write_pages()


@app.command(name="pages")
def write_pages() -> None:
    """Write the pages and their pictures of what was measured before."""
    for path in sorted(MEASURED.glob("*.json")):
        found = load(path)
        for plot in found.plots:
            draw(plot, MEASURED / picture_name(found, plot))
    for page in PAGES:
        (DOCS / page).write_text(render(page))


if __name__ == "__main__":
    app()
