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

TICK_CHARACTERS = 60
"""Words below an axis that fit there side by side."""


def draw(plot: Plot, path: Path) -> None:
    """Draw a plot to an SVG file, the same bytes for the same data."""
    settings = {"svg.hashsalt": plot.name, "svg.fonttype": "none", "font.size": 10}
    with mpl.rc_context(settings):
        figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
        (_bars if plot.bars else _lines)(axes, plot)
        axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
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


def _ticks(axes: Axes, plot: Plot) -> None:
    room = sum(map(len, plot.ticks)) <= TICK_CHARACTERS
    slanted = {} if room else {"rotation": 25, "ha": "right"}
    axes.set_xticks(range(len(plot.ticks)), plot.ticks, **slanted)
