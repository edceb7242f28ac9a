"""Figures of numbers: errors on a log scale, curves, histograms beside their density. `canvas` says how they look."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from simclr_lib.canvas import BLUE, COLORS, DASHED, MARKERS, SMALL, VERMILION, count, legend_below, new_figure, styled

__all__ = ["curves", "error_dots", "histograms"]

DASHES = ("-", "--", ":", "-.")  # told apart without colours too
ZERO = 1e-17  # where an error of zero is drawn; a log scale has no place for it


@styled
def error_dots(
    errors: Mapping[str, Mapping[str, float]], tolerances: Mapping[str, float], title: str | None = None
) -> Figure:
    """Relative errors on a log scale: errors[name][way], a row a way, a colour and a marker a name.

    tolerances: label -> what is allowed, above 0, each a dashed line. An error below 1e-17 is drawn there.
    Raises ValueError on an error that is negative or not finite, and where there is none.
    """
    count("errors", errors)
    ways = list(dict.fromkeys(way for rows in errors.values() for way in rows))
    figure = new_figure(7.2, (0.12 + 0.12 * len(errors)) * len(ways) + 1.2, title)
    axes = figure.subplots()
    for index, (name, rows) in enumerate(errors.items()):
        wrong = {way: error for way, error in rows.items() if not 0 <= error < math.inf}
        if wrong:
            raise ValueError(f"errors: expected numbers of at least 0, got {wrong} for {name}; take norms")
        aside = (index - (len(errors) - 1) / 2) * 0.75 / len(errors)  # those alike would hide one another
        x, y = [max(error, ZERO) for error in rows.values()], [ways.index(way) + aside for way in rows]
        axes.plot(x, y, linestyle="none", marker=MARKERS[index % 6], color=COLORS[index % 6], ms=5.5, label=name)
    for label, value in tolerances.items():
        axes.axvline(value, **DASHED)
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "annotation_clip": False}
        axes.annotate(f"allowed in\n{label}", (value, 1), (0, 3), ha="center", fontsize=SMALL, **place)
    axes.set(xscale="log", xlim=(ZERO / 3, 30), ylim=(len(ways) - 0.5, -0.5), xlabel="relative error")
    axes.set_xticks(10.0 ** np.arange(-16, 1, 2))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(ways)), ways)
    axes.set_yticks(np.arange(len(ways) - 1) + 0.5, minor=True)
    axes.grid(axis="y", which="minor", color="#d9d9d9", linewidth=0.8)
    axes.tick_params(axis="y", which="both", length=0)
    return _with_legend(figure, axes)


@styled
def curves(
    lines: Mapping[str, tuple[Any, Any]], xlabel: str, ylabel: str, title: str | None = None, log: bool = False
) -> Figure:
    """Lines of points (x, y) by name, a marker a point; log: a logarithmic y axis, on which zeros are left out.

    Raises ValueError where x and y differ in length or are empty, and where there is no line.
    """
    count("lines", lines)
    figure = new_figure(7.2, 3.6, title)
    axes = figure.subplots()
    for index, (name, (x, y)) in enumerate(lines.items()):
        if len(x) != len(y) or len(x) == 0:
            raise ValueError(f"{name}: expected x and y of one length above 0, got {len(x)} and {len(y)}")
        look = {"marker": MARKERS[index % 6], "color": COLORS[index % 6], "linestyle": DASHES[index % 4]}
        axes.plot(np.asarray(x), np.asarray(y), lw=1.3, ms=4.5 if len(x) <= 40 else 2.2, label=name, **look)
    if log:
        axes.set_yscale("log", nonpositive="mask")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return _with_legend(figure, axes)


@styled
def histograms(samples: Mapping[str, tuple[Any, float, float]], title: str | None = None) -> Figure:
    """A panel a quantity, four to a row: the density of its values beside the uniform one between two bounds.

    samples: the quantity's name with its unit -> (values, low, high), low < high.
    Raises ValueError where bounds are not in order, a quantity has no values, and where there is none.
    """
    columns = min(4, count("samples", samples))
    rows = math.ceil(len(samples) / columns)
    figure = new_figure(columns * 1.9 + 0.4, rows * 1.7 + 0.4, title)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, (name, (values, low, high)) in zip(panels.flat, samples.items(), strict=False):
        count(name, values)
        if not low < high:
            raise ValueError(f"{name}: expected low below high, got {low} and {high}; give the bounds in order")
        axes.hist(np.asarray(values), bins=25, density=True, color=BLUE, alpha=0.45, label="drawn")
        ends, height = [low, low, high, high], 1 / (high - low)
        axes.plot(ends, [0, height, height, 0], color=VERMILION, linewidth=1.8, label="uniform density")
        axes.set_xticks([low, (low + high) / 2, high], [f"{x:.3g}" for x in (low, (low + high) / 2, high)])
        axes.set_yticks([0, height], ["0", f"{height:.3g}"])
        axes.tick_params(labelsize=SMALL)
        axes.set_ylim(0, 1.3 * height)
        axes.set_xlabel(name, fontsize=9)
    for axes in panels.flat[len(samples) :]:
        axes.set_axis_off()
    figure.supylabel("density", fontsize=9)
    return _with_legend(figure, panels[0, 0])


def _with_legend(figure: Figure, axes: Axes) -> Figure:
    legend_below(figure, axes.get_legend_handles_labels()[0], columns=2)
    return figure
