"""Figures of what encoders reached: scores as bars. `canvas` says how they look."""

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
    require(scores.notna().any(axis=None), "scores", "at least one", "none")
    largest = scores.abs().max(axis=None)
    require(largest <= 1, "scores", "none above 1", largest, "divide percentages by 100")
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
