"""Plots of measurements, as SVG."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
from benchmarks.measured import Plot
from matplotlib.axes import Axes

BAR_GROUP = 0.8
"""Width of all bars of one x, in units of x."""

MOST_UPRIGHT = 12
"""Bars side by side; more of them lie below each other, with their names before them."""

LYING_INCHES = 0.2
"""Height of each of these."""

TICK_CHARACTERS = 60
"""Words below an axis that fit there side by side."""


def draw(plot: Plot, path: Path) -> None:
    """Draw a plot to an SVG file, the same bytes for the same data."""
    settings = {"svg.hashsalt": plot.name, "svg.fonttype": "none", "font.size": 10}
    with mpl.rc_context(settings):
        lying = plot.bars and len(plot.ticks) > MOST_UPRIGHT
        height = 1 + LYING_INCHES * len(plot.ticks) if lying else 4.2
        figure, axes = plt.subplots(figsize=(8, height), layout="constrained")
        axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
        axes.set_axisbelow(True)
        (_lying_bars if lying else _bars if plot.bars else _lines)(axes, plot)
        if plot.log_x:
            axes.set_xscale("log")
        if plot.log_y:
            axes.set_yscale("log")
        axes.grid(visible=True, alpha=0.3)
        if len(plot.series) > 1:
            figure.legend(loc="outside lower center", ncols=len(plot.series))
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)


def _lines(axes: Axes, plot: Plot) -> None:
    for series in plot.series:
        axes.plot(*zip(*series.points, strict=True), marker="o", markersize=4, label=series.name)
    if plot.ticks:
        _ticks(axes, plot)


def _bars(axes: Axes, plot: Plot) -> None:
    width = BAR_GROUP / len(plot.series)
    for number, series in enumerate(plot.series):
        shift = (number + 0.5) * width - BAR_GROUP / 2
        places = [x + shift for x, _ in series.points]
        axes.bar(places, [y for _, y in series.points], width, label=series.name)
    _ticks(axes, plot)


def _lying_bars(axes: Axes, plot: Plot) -> None:
    """Of one series: the first on top, each with its value."""
    (series,) = plot.series
    places, values = zip(*series.points, strict=True)
    axes.bar_label(axes.barh(places, values, BAR_GROUP), fmt="%.2f", padding=3, fontsize=8)
    axes.set_yticks(range(len(plot.ticks)), plot.ticks, fontsize=8)
    axes.set_ylim(len(plot.ticks) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.set(xlabel=plot.y, ylabel=plot.x)


def _ticks(axes: Axes, plot: Plot) -> None:
    room = sum(map(len, plot.ticks)) <= TICK_CHARACTERS
    slanted = {} if room else {"rotation": 25, "ha": "right"}
    axes.set_xticks(range(len(plot.ticks)), plot.ticks, **slanted)
