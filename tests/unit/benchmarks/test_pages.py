"""The pages of figures: as measured, and made of nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.__main__ import MEASUREMENTS
from benchmarks.measured import Claim, Measured, Plot, Series, Table, load, save
from benchmarks.pages import DOCS, MEASURED, PAGES, PROSE, picture_name, render
from benchmarks.plots import draw

PLOT = Plot("growth", "Growth", "steps", "s", (Series("cost", ((1, 0.5), (2, 1.0))),))
FOUND = Measured(
    name="floor",
    command="scripts/measure floor",
    conditions="one machine",
    claims=(Claim("steps/s", "0.97", "at least 0.95", True, "a | b"),),
    tables=(Table("Levers", ("lever", "gain"), (("pauth", "1.5"),), "A note."),),
    plots=(PLOT,),
)


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_what_was_measured(page: str) -> None:
    assert (DOCS / page).read_text() == render(page)


def test_every_measurement_has_its_place_and_every_picture_is_there() -> None:
    prose = "".join((PROSE / page).read_text() for page in PAGES)
    assert all(prose.count(f'measured("{name}")') == 1 for name in MEASUREMENTS)
    for path in MEASURED.glob("*.json"):
        found = load(path)
        assert found.name in MEASUREMENTS
        assert found.name == path.stem
        for plot in found.plots:
            assert (MEASURED / picture_name(found, plot)).read_text().startswith("<?xml")


def test_what_is_kept_is_what_was_found(tmp_path: Path) -> None:
    assert load(save(FOUND, tmp_path)) == FOUND


def test_a_section_has_claims_tables_and_pictures(tmp_path: Path) -> None:
    save(FOUND, tmp_path)
    page = render("performance.md", tmp_path)
    assert "Measured by `scripts/measure floor`: one machine." in page
    assert r"| steps/s | 0.97 | at least 0.95 | reached | a \| b |" in page
    assert "| pauth | 1.5 |\n\nA note.\n\n![Growth](measured/floor-growth.svg)" in page
    assert "Not measured: `scripts/measure levers`." in page


def test_what_was_not_reached_stands_out(tmp_path: Path) -> None:
    claim = replace(FOUND.claims[0], reached=False, why="TCG flushes")
    save(replace(FOUND, claims=(claim,)), tmp_path)
    assert "| **not reached** | TCG flushes |" in render("performance.md", tmp_path)


@pytest.mark.parametrize("bars", [False, True])
def test_a_plot_is_drawn_the_same_twice(tmp_path: Path, bars: bool) -> None:
    plot = replace(PLOT, bars=bars, ticks=("a", "b", "c") if bars else ())
    one, two = tmp_path / "one.svg", tmp_path / "two.svg"
    draw(plot, one)
    draw(plot, two)
    assert one.read_bytes() == two.read_bytes()
    assert "Growth" in one.read_text()


def test_many_bars_lie_each_with_its_name_and_value(tmp_path: Path) -> None:
    points = tuple((float(x), x / 4) for x in range(20))
    names = tuple(f"lever {x}" for x in range(20))
    plot = replace(PLOT, bars=True, series=(Series("", points),), ticks=names)
    draw(plot, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert all(f">{name}<" in drawn for name in names)
    assert ">4.75<" in drawn
