"""Figures of what encoders reached: scores, and precision by class. `canvas` says how they look."""

from itertools import cycle

import numpy as np
from pandas import DataFrame, Series

from simclr_lib.engine.checks import require
from simclr_lib.figures import canvas


@canvas.styled
def score_bars(
    scores: DataFrame, title: str = "", chance: Series | None = None, deviations: DataFrame | None = None
) -> canvas.InlineFigure:
    """A panel per row of the table, a metric; in it a bar per column, an encoder, with its value; none where it is NaN.

    scores: shares in [0, 1], or correlations in [-1, 1]. chance: one per metric, a dashed line; None or NaN: no line.
    deviations: of the shape of scores, drawn as error bars where they are not NaN.
    Raises ValueError on a score outside [-1, 1] and where there is none.
    """
    _require_shares(scores)
    chance = Series(chance, scores.index, dtype=float)
    errors = (scores * 0 if deviations is None else deviations).fillna(0)
    figure = canvas.new_figure(7.2, len(scores) * (0.3 * scores.shape[1] + 0.35) + 0.5, title)
    panels = figure.subplots(len(scores), 1, sharex=True, squeeze=False).flat
    rows, names = range(scores.shape[1])[::-1], [canvas.elided(name, 3.5) for name in scores.columns]
    for axes, (metric, values) in zip(panels, scores.iterrows(), strict=True):
        bars = axes.barh(rows, values, 0.72, color=canvas.COLORS, xerr=errors.loc[metric], tick_label=names)
        # White behind the digits keeps the line of chance out of them.
        axes.bar_label(bars, fmt="%.3f", padding=4, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(canvas.elided(metric, 3.5), loc="left", fontweight="bold")
        axes.tick_params(axis="y", length=0)
        axes.spines.left.set_visible(False)
        if chance.notna()[metric]:
            axes.axvline(chance[metric], **canvas.DASHED)
            axes.set_title(f"dashed: chance, {chance[metric]:.3f}", loc="right")
    axes.set(xlim=(-1.12 if scores.min(axis=None) < 0 else 0, 1.12), xlabel="score")
    return figure


@canvas.styled
def class_bars(scores: DataFrame, chance: Series | None = None, title: str = "", most: int = 30) -> canvas.InlineFigure:
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
    return canvas.legend_below(figure)


def _require_shares(scores: DataFrame) -> None:
    require(scores.notna().any(axis=None), "scores", "at least one", "none")
    largest = scores.abs().max(axis=None)
    require(largest <= 1, "scores", "none above 1", largest, "divide percentages by 100")
