"""What a measurement found, as data: kept as JSON beside the pages that are made of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Claim:
    """One figure, held against what was aimed at.

    :param aim: in words, such as ``at least 0.95``; empty where the figure is only reported.
    :param reached: None where there is no aim.
    :param why: where the aim was not reached, the reason; else what one has to know of it.
    """

    what: str
    measured: str
    aim: str = ""
    reached: bool | None = None
    why: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of text, as wide as ``columns``."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Series:
    """One line of a plot: (x, y) in the order in which they are joined."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Plot:
    """A picture, drawn to ``NAME.svg`` beside the measurement.

    :param name: of the file, without its suffix; the measurement's name comes before it.
    :param bars: the points are bars, one group for each x of ``ticks``, and not lines.
    :param ticks: names of x = 0, 1, …; empty where x is a number.
    """

    name: str
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    bars: bool = False
    log_x: bool = False
    log_y: bool = False
    ticks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """All that one measurement found.

    :param name: of the module that measures.
    :param command: what measured it, from the checkout's root.
    :param conditions: QEMU, kernels, CPUs: whatever the figures hang on.
    """

    name: str
    command: str
    conditions: str
    claims: tuple[Claim, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()


def save(measured: Measured, directory: Path) -> Path:
    """Write ``NAME.json``."""
    directory.mkdir(exist_ok=True)
    path = directory / f"{measured.name}.json"
    path.write_text(json.dumps(asdict(measured), indent=1, ensure_ascii=False) + "\n")
    return path


def load(path: Path) -> Measured:
    """Read what :func:`save` wrote."""
    read = json.loads(path.read_text())
    return Measured(
        read["name"],
        read["command"],
        read["conditions"],
        tuple(Claim(**claim) for claim in read["claims"]),
        tuple(_table(table) for table in read["tables"]),
        tuple(_plot(plot) for plot in read["plots"]),
    )


def _table(read: dict[str, Any]) -> Table:
    rows = tuple(tuple(row) for row in read["rows"])
    return Table(read["title"], tuple(read["columns"]), rows, read["note"])


def _plot(read: dict[str, Any]) -> Plot:
    series = tuple(
        Series(line["name"], tuple((x, y) for x, y in line["points"])) for line in read["series"]
    )
    return Plot(**{**read, "series": series, "ticks": tuple(read["ticks"])})
