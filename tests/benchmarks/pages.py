"""docs/performance.md and docs/robustness.md, from their prose and from what was measured."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measured import Claim, Measured, Plot, Table, load
from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROOT = Path(__file__).resolve().parents[2]
PROSE = Path(__file__).parent / "prose"
DOCS = ROOT / "docs"
MEASURED = DOCS / "measured"
PAGES = ("performance.md", "robustness.md")

REACHED = {True: "reached", False: "**not reached**", None: ""}


def render(page: str, measured: Path = MEASURED) -> str:
    """A page's Markdown.

    :param page: one of ``PAGES``.
    :param measured: the directory of what was measured.
    """
    environment = Environment(
        loader=FileSystemLoader(PROSE), undefined=StrictUndefined, keep_trailing_newline=True
    )

    def section(name: str) -> str:
        path = measured / f"{name}.json"
        return _section(load(path)) if path.exists() else f"Not measured: `scripts/measure {name}`."

    return environment.get_template(page).render(measured=section)


def _section(measured: Measured) -> str:
    parts = [f"Measured by `{measured.command}`: {measured.conditions}."]
    if measured.claims:
        parts.append(_claims(measured.claims))
    parts += [_table(table) for table in measured.tables]
    parts += [_picture(measured, plot) for plot in measured.plots]
    return "\n\n".join(parts)


def _claims(claims: tuple[Claim, ...]) -> str:
    rows = [
        (claim.what, claim.measured, claim.aim, REACHED[claim.reached], claim.why)
        for claim in claims
    ]
    return _rows(("what", "measured", "aim", "", "remark"), tuple(rows))


def _table(table: Table) -> str:
    parts = [f"**{table.title}**", _rows(table.columns, table.rows)]
    return "\n\n".join([*parts, table.note] if table.note else parts)


def _rows(columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def picture_name(measured: Measured, plot: Plot) -> str:
    """The file of a plot, in the directory of what was measured."""
    return f"{measured.name}-{plot.name}.svg"


def _picture(measured: Measured, plot: Plot) -> str:
    return f"![{plot.title}](measured/{picture_name(measured, plot)})"
