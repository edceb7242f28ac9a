"""Figures of what encoders reached: scores, precision by class, a map of embeddings. `canvas` says how they look."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pandas import DataFrame, Series

from simclr_lib.engine.checks import require
from simclr_lib.figures import canvas

THUMBNAIL, MAP = 0.45, 6.8  # inches: the side of an image on a map, and of the map


@canvas.styled
def score_bars(
    scores: DataFrame, title: str | None = None, chance: Series | None = None, deviations: DataFrame | None = None
) -> Figure:
    """A panel per row of the table, a metric; in it a bar per column, an encoder, with its value; none where it is NaN.

    scores: shares in [0, 1], or correlations in [-1, 1]. chance: one per metric, a dashed line; None or NaN: no line.
    deviations: of the shape of scores, drawn as error bars where they are not NaN.
    Raises ValueError on a score outside [-1, 1] and where there is none.
    """
    _require_shares(scores)
    chance = Series(chance, scores.index, dtype=float)
    errors = (scores * 0 if deviations is None else deviations).fillna(0)
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # keeps the line of chance out of the digits
    figure = canvas.new_figure(7.2, len(scores) * (0.3 * scores.shape[1] + 0.35) + 0.5, title)
    panels = figure.subplots(len(scores), 1, sharex=True, squeeze=False).flat
    for axes, (metric, values) in zip(panels, scores.iterrows(), strict=True):
        bars = axes.barh(scores.columns, values, height=0.72, color=canvas.COLORS, xerr=errors.loc[metric])
        axes.bar_label(bars, fmt="%.3f", padding=4, bbox=behind)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(metric, loc="left", fontweight="bold")
        axes.tick_params(axis="y", length=0)
        axes.spines.left.set_visible(False)
        axes.invert_yaxis()
        if chance.notna()[metric]:
            axes.axvline(chance[metric], **canvas.DASHED)
            axes.set_title(f"dashed: chance, {chance[metric]:.3f}", loc="right")
    axes.set(xlim=(-1.12 if scores.min(axis=None) < 0 else 0, 1.12), xlabel="score")
    return figure


@canvas.styled
def class_bars(scores: DataFrame, chance: Series | None = None, title: str | None = None, most: int = 30) -> Figure:
    """A row per class, best first: a bar for the first encoder, its value by the name, a marker for each other encoder.

    scores: a row per class, a column per encoder, shares in [0, 1]; classes of which the first encoder has none (NaN)
    are left out and counted. chance: a share per class, drawn as a black tick.
    Where there are more than `most` classes, a third of the rows are the best ones, a third those in the middle and a
    third the worst; grey bands count the classes between them.
    Raises ValueError on a share above 1 and where the first encoder has none.
    """
    scored = scores.dropna(subset=scores.columns[:1])
    _require_shares(scored)
    first, *others = scores.columns
    ranks = np.arange(min(most, len(scored)))
    third = 3 * ranks // len(ranks)  # 0, 1 or 2
    ranks += third * (len(scored) - len(ranks)) // 2  # of those left out, half go before the middle third
    shown = scored.sort_values(first, ascending=False, kind="stable").iloc[ranks]
    skipped = np.diff(ranks, prepend=-1) - 1  # before each of them
    rows = np.arange(len(shown)) + np.cumsum(skipped > 0)
    figure = canvas.new_figure(7.2, 0.21 * (rows[-1] + 1) + 1.0, title)
    axes = figure.subplots()
    axes.barh(rows, shown[first], height=0.72, color=canvas.COLORS[0], label=canvas.elided(first, 1.8))
    for name, color, marker in zip(others, cycle(canvas.COLORS[1:]), cycle(canvas.MARKERS[1:])):
        look = {"color": color, "ms": 6.5, "mec": "white", "mew": 0.7, "clip_on": False}
        axes.plot(shown[name], rows, marker, label=canvas.elided(name, 1.8), **look)
    if chance is not None:
        axes.plot(chance.reindex(shown.index), rows, "|", color="black", ms=11, mew=2, clip_on=False, label="chance")
    for row, gap in zip(rows[skipped > 0], skipped[skipped > 0], strict=True):
        axes.axhspan(row - 1.4, row - 0.6, color="#ececec")
        axes.text(0.5, row - 1, f"{gap} more", ha="center", va="center", color=canvas.GREY)
    note = f"\n(classes without a score, left out: {len(scores) - len(scored)})" if len(scored) < len(scores) else ""
    axes.set(xlim=(0, 1), ylim=(rows[-1] + 0.6, -0.6), xlabel=f"precision{note}")
    axes.set_yticks(rows, [f"{canvas.elided(name, 2.2)}   {share:.2f}" for name, share in shown[first].items()])
    axes.tick_params(axis="y", length=0, pad=8)  # a marker at 0 stays off the values
    canvas.legend_below(figure)
    return figure


@canvas.styled
def embedding_map(
    positions: Any,
    images: Any,
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    thumbnails: int = 60,
    title: str | None = None,
) -> Figure:
    """A dot per image at its position (N, 2), and up to `thumbnails` of the images, none of which overlap.

    labels (N,): the six largest classes have a marker and a colour each, which the frames share; all else is grey.
    Raises ValueError where positions are not finite (N, 2) with N above 0, and on labels that are not (N,).
    """
    positions, labels = np.asarray(positions, dtype=float), canvas.labels_of(images, labels)
    shapes, expected = (positions.shape, labels.shape), ((len(images), 2), (len(images),))
    require(shapes == expected and len(images), "positions, labels", f"shapes {expected}, at least one", shapes)
    require(np.isfinite(positions).all(), "positions", "finite ones", "some that are not")
    low, high = positions.min(axis=0), positions.max(axis=0)
    positions = (2 * positions - low - high) / (1.12 * (high - low).max() or 1)  # in (-1, 1), with room for thumbnails
    figure = canvas.new_figure(MAP, MAP + 0.5, title)
    axes = figure.subplots()
    axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xticks=[], yticks=[], frame_on=False)
    largest = Series(labels[labels >= 0]).value_counts().index
    colors = dict(zip(largest, canvas.COLORS, strict=False))
    dots = {"ms": 5 if len(labels) <= 2000 else 3, "mew": 0}
    for (label, color), marker in zip(colors.items(), canvas.MARKERS, strict=False):
        name = canvas.elided(canvas.class_name(label, class_names), 1.6)
        axes.plot(*positions[labels == label].T, marker, color=color, label=name, **dots)
    if len(rest := positions[~np.isin(labels, list(colors))]):
        axes.plot(*rest.T, ".", color=canvas.PALE, label="others", zorder=1, **dots)
    if colors:
        canvas.legend_below(figure, markerscale=1.6)
    side = 2 * THUMBNAIL / MAP
    for index in _apart(positions, 1.15 * side, thumbnails):
        inset = axes.inset_axes([*(positions[index] - side / 2), side, side], transform=axes.transData)
        canvas.show_image(inset, images[index])
        canvas.frame(inset, colors.get(labels[index], canvas.PALE), 1.8)
    return figure


def _require_shares(scores: DataFrame) -> None:
    require(scores.notna().any(axis=None), "scores", "at least one", "none")
    largest = scores.abs().max(axis=None)
    require(largest <= 1, "scores", "none above 1", largest, "divide percentages by 100")


def _apart(positions: np.ndarray, side: float, most: int) -> list[int]:
    """At most `most` positions, no two within `side` in both directions, picked in an order that no class leads."""
    chosen = []
    for index in np.random.default_rng(0).permutation(len(positions)):
        distances = np.abs(positions[chosen] - positions[index]).max(axis=1)
        if len(chosen) < most and (distances >= side).all():
            chosen.append(index)
    return chosen
