"""Figures of numbers: errors on a log scale, curves, histograms beside their density. They look as the library's do."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from simclr_lib.engine.checks import require
from simclr_lib.figures.canvas import BLUE, COLORS, DASHED, MARKERS, VERMILION, legend_below, new_figure, styled

DASHES = ("-", "--", ":", "-.")  # told apart without colours too
ZERO = 1e-17  # where an error of zero is drawn; a log scale has no place for it


@styled
def error_dots(
    errors: Mapping[str, Mapping[str, float]], tolerances: Mapping[str, float], title: str | None = None
) -> Figure:
    """Relative errors on a log scale: errors[name][way], a row per way, a colour and a marker per name.

    tolerances: label -> what is allowed, above 0, each a dashed line. An error below 1e-17 is drawn there.
    Raises ValueError on an error that is negative or not finite, and where there is none.
    """
    require(errors, "errors", "at least one", "none")
    ways = list(dict.fromkeys(way for rows in errors.values() for way in rows))
    figure = new_figure(7.2, (0.12 + 0.12 * len(errors)) * len(ways) + 1.2, title)
    axes = figure.subplots()
    for index, (name, rows) in enumerate(errors.items()):
        wrong = {way: error for way, error in rows.items() if not 0 <= error < math.inf}
        require(not wrong, f"errors of {name}", "numbers of at least 0", wrong, "take norms")
        aside = (index - (len(errors) - 1) / 2) * 0.75 / len(errors)  # those alike would hide one another
        x, y = [max(error, ZERO) for error in rows.values()], [ways.index(way) + aside for way in rows]
        axes.plot(x, y, MARKERS[index % 6], color=COLORS[index % 6], ms=5.5, label=name)
    for label, value in tolerances.items():
        axes.axvline(value, **DASHED)
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "annotation_clip": False}
        axes.annotate(f"allowed in\n{label}", (value, 1), (0, 3), ha="center", **place)
    axes.set(xscale="log", xlim=(ZERO / 3, 30), ylim=(len(ways) - 0.5, -0.5), xlabel="relative error")
    axes.set_xticks(10.0 ** np.arange(-16, 1, 2))
    axes.xaxis.set_major_formatter("{x:.0e}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(ways)), ways)
    axes.set_yticks(np.arange(len(ways) - 1) + 0.5, minor=True)
    axes.grid(axis="y", which="minor", color="#d9d9d9", linewidth=0.8)
    axes.tick_params(axis="y", which="both", length=0)
    legend_below(figure, columns=2)
    return figure


@styled
def curves(
    lines: Mapping[str, tuple[Any, Any]], xlabel: str, ylabel: str, title: str | None = None, log: bool = False
) -> Figure:
    """Lines of points (x, y) by name, a marker per point; log: a logarithmic y axis, on which zeros are left out.

    Raises ValueError where x and y differ in length or are empty, and where there is no line.
    """
    require(lines, "lines", "at least one", "none")
    figure = new_figure(7.2, 3.6, title)
    axes = figure.subplots()
    for index, (name, (x, y)) in enumerate(lines.items()):
        require(len(x) == len(y) > 0, name, "x and y of one length above 0", f"{len(x)} and {len(y)}")
        look = {"marker": MARKERS[index % 6], "color": COLORS[index % 6], "linestyle": DASHES[index % 4]}
        axes.plot(np.asarray(x), np.asarray(y), lw=1.3, ms=4.5 if len(x) <= 40 else 2.2, label=name, **look)
    if log:
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_formatter("{x:.0e}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=xlabel, ylabel=ylabel)
    legend_below(figure, columns=2)
    return figure


@styled
def histograms(samples: Mapping[str, tuple[Any, float, float]], title: str | None = None) -> Figure:
    """A panel per quantity, four to a row: the density of its values beside the uniform one between two bounds.

    samples: the quantity's name with its unit -> (values, low, high), low < high.
    Raises ValueError where bounds are not in order, a quantity has no values, and where there is none.
    """
    require(samples, "samples", "at least one", "none")
    columns = min(4, len(samples))
    rows = math.ceil(len(samples) / columns)
    figure = new_figure(columns * 1.9 + 0.4, rows * 1.7 + 0.4, title)
    for index, (name, (values, low, high)) in enumerate(samples.items(), start=1):
        require(len(values), name, "at least one value", "none")
        require(low < high, name, "low below high", f"{low} and {high}", "give the bounds in order")
        axes = figure.add_subplot(rows, columns, index)
        heights, edges = np.histogram(values, bins=25, density=True)
        bars = axes.bar(edges[:-1], heights, np.diff(edges), align="edge", color=BLUE, alpha=0.45)
        ends, height = [low, low, high, high], 1 / (high - low)
        (line,) = axes.plot(ends, [0, height, height, 0], color=VERMILION, linewidth=1.8)
        axes.set_xticks([low, (low + high) / 2, high], [f"{x:.3g}" for x in (low, (low + high) / 2, high)])
        axes.set_yticks([0, height], ["0", f"{height:.3g}"])
        axes.set(ylim=(0, 1.3 * height), xlabel=name)
    figure.supylabel("density", fontsize="medium")
    bars.set_label("drawn"), line.set_label("uniform density")  # once in the legend
    legend_below(figure, columns=2)
    return figure
