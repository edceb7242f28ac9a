"""Figures of training: losses of one run or several, learning rate, similarities and health over the epochs.

`canvas` says how figures look.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.patheffects import Normal, Stroke
from pandas import DataFrame, Series

from simclr_lib.engine.checks import require
from simclr_lib.figures import canvas

Records = Sequence[Mapping]  # those of metrics.jsonl, as `Run.metrics` returns them
PANELS = {  # a reading -> its heading, the values to compare it with -> what they are
    "deviation": ("spread per dimension of z", {1: "even", 0: "one point"}),
    "contrastive_accuracy": ("contrastive accuracy", {1: "every view\nfound", 0: "none found"}),
    "alignment": ("alignment, squared distance of the views", {0: "views alike"}),
    "uniformity": ("uniformity, log potential of z", {0: "one point", -4: "even"}),
    "effective_rank_h": ("effective rank of h, directions", {1: "one\ndirection"}),
    "effective_rank_z": ("effective rank of z, directions", {1: "one\ndirection"}),
    "color_agreement": ("colours of the neighbours by h", {1: "as colour\nalone", 0: "as random"}),
    "color_following": ("rank correlation of h with colour", {1: "as colour\nalone", 0: "as random"}),
}
PROGRESS = ("contrastive_accuracy", "deviation", "color_agreement")  # from 0 to 1: at a glance, how training goes
PAIRS = {"positive": "two views of an image", "other": "views of different images"}
MARKS = {"marker": "o", "markersize": 3}  # without it, a reading alone between two gaps is invisible
END = {"markersize": 6, "markevery": [-1], "clip_on": False}  # without it, a single step is invisible


@canvas.styled
def loss_curve(curves: Mapping[str, Records], batch_size: int | None, title: str = "") -> canvas.InlineFigure:
    """The loss of every step, thin, under its running mean, beside the loss of chance, ln(2 batch_size - 1).

    curves: name of a run -> its metric records, of which those with "step" and "loss" are read.
    The running mean is over a hundredth of a run's steps to each side; at the beginning over as many ahead as lie
    behind, so that it begins where the loss does, and at the end over those that are left.
    batch_size: images, each with two views; None, for runs with batches of several sizes, draws no chance.
    Raises ValueError on a run without a loss and where there is no run.
    """
    require(curves, "curves", "at least one run", "none")
    figure = canvas.new_figure(7.2, 4.0, title)
    _draw_losses(figure.subplots(), curves, batch_size)
    return canvas.legend_below(figure)


@canvas.styled
def training_curves(records: Records, health: Records, batch_size: int, title: str = "") -> canvas.InlineFigure:
    """The loss of every step beside chance, as in `loss_curve`, above the learning rate of the same steps; beside them
    what health says at a glance, the readings of PROGRESS.

    records: those with "step", "loss" and "learning_rate" are read. health: readings as in `health_curves`; where there
    are none, nothing stands beside the loss. batch_size: images, each with two views.
    Raises ValueError where there is no such record.
    """
    steps = _table("records", records, ["step", "learning_rate"]).dropna()
    figure = canvas.new_figure(9.6 if health else 7.2, 4.2, title)
    places = [["loss", "health"], ["rate", "health"]] if health else [["loss"], ["rate"]]
    panels = figure.subplot_mosaic(places, height_ratios=[3, 1.1], width_ratios=[3, 2] if health else None)
    loss, rate = panels["loss"], panels["rate"]
    rate.sharex(loss)
    _draw_losses(loss, {"loss": records}, batch_size)
    loss.label_outer()
    rate.plot(steps["step"], steps["learning_rate"], color=canvas.BLUE, linewidth=1.8, marker="o", **END)
    rate.set(xlabel="step", ylabel="learning rate", ylim=(0, 1.08 * steps["learning_rate"].max() or 1))
    figure.align_ylabels()
    if health:
        _draw_progress(panels["health"], DataFrame(health).reindex(columns=["epochs", *PROGRESS]))
        canvas.legend_below(figure, columns=4)
    return figure


@canvas.styled
def similarity_history(health: Records, title: str = "") -> canvas.InlineFigure:
    """Two heat maps over the epochs, of the cosine similarities of z: an image's two views, and different images.

    health: readings with "epochs" and, where they were finite, counts of similarities in equal bins from -1 to 1,
    "positives" and "others", and the means "positive_mean" and "other_mean". Colour is a bin's share of the pairs of
    its epoch; a reading without counts leaves its place blank.
    Raises ValueError where no reading has counts.
    """
    readings = _table("health", health, ["epochs", "positives", "positive_mean", "others", "other_mean"])
    epochs = readings["epochs"]
    edges = [*(epochs - 0.5), epochs.iloc[-1] + 0.5]  # of a column per reading
    figure = canvas.new_figure(7.6, 3.6, title)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (pairs, heading) in zip(panels, PAIRS.items(), strict=True):
        bins = readings[f"{pairs}s"].apply(Series).T  # how many pairs each holds, a column per reading
        mesh = axes.pcolormesh(edges, np.linspace(-1, 1, len(bins) + 1), bins / bins.sum(), norm=PowerNorm(0.5, 0, 1))
        (line,) = axes.plot(epochs, readings[f"{pairs}_mean"], "w", linewidth=1.1, clip_on=False, **MARKS)
        line.set_path_effects([Stroke(linewidth=2.6, foreground="black"), Normal()])  # stands out from every share
        axes.set_title(heading)
        _count_along(axes, "epochs trained")
    line.set_label("mean")  # once in the legend
    panels[0].set(ylabel="cosine similarity of z", yticks=np.linspace(-1, 1, 5))
    figure.colorbar(mesh, ax=panels, ticks=[0, 0.01, 0.05, 0.25, 0.5, 1], label="share of the pairs", format="{x:g}")
    if readings.isna().any(axis=None):
        axes.plot([], [], "s", markersize=9, color="white", markeredgecolor=canvas.GREY, label="not finite")
    return canvas.legend_below(figure)


@canvas.styled
def health_curves(health: Records, title: str = "") -> canvas.InlineFigure:
    """The readings of `health` over the epochs, a panel per quantity, beside the values to compare it with, dashed.

    health: readings with "epochs" and, where they were finite, the numbers of `evaluation.readings`; others are gaps.
    Raises ValueError where a quantity has no finite reading.
    """
    readings = _table("health", health, ["epochs", *PANELS])
    figure = canvas.new_figure(7.6, 7.6, title)
    panels = figure.subplots(4, 2, sharex=True)
    for axes, (name, (heading, references)) in zip(panels.flat, PANELS.items(), strict=True):
        axes.plot("epochs", name, data=readings, color=canvas.BLUE, linewidth=1.8, **MARKS)
        axes.set_title(heading, loc="left")
        for value, text in references.items():
            _draw_reference(axes, value, text)
    for axes in panels[-1]:
        _count_along(axes, "epochs trained")
    return figure


def _table(what: str, records: Records, names: list[str]) -> DataFrame:
    """The values of these names, a row per record, NaN where it has none. Raises ValueError on a name without any."""
    table = DataFrame(records).reindex(columns=names)
    missing = ", ".join(table.columns[table.isna().all()])
    require(not missing, what, f"some with {', '.join(names)}", f"none with {missing}", "pass what Run.metrics gives")
    return table


def _draw_losses(axes: Axes, curves: Mapping[str, Records], batch_size: int | None) -> None:
    """What `loss_curve` says, over the steps."""
    for (name, records), color, marker in zip(curves.items(), cycle(canvas.COLORS), cycle(canvas.MARKERS)):
        steps, losses = _table(name, records, ["step", "loss"]).dropna().to_numpy().T
        axes.plot(steps, losses, color=color, linewidth=0.8, alpha=0.35)
        reach = np.minimum(np.arange(len(losses)), len(losses) // 100)  # to each side: a mean of the past alone lags
        means = [losses[step - some : step + some + 1].mean() for step, some in enumerate(reach)]
        axes.plot(steps, means, color=color, marker=marker, linewidth=2.2, label=canvas.elided(name, 3.5), **END)
    if batch_size is not None:
        chance = np.log(2 * batch_size - 1)
        _draw_reference(axes, chance, f"chance:\nln(2·{batch_size}−1)\n= {chance:.2f}")
    axes.set_ylabel("NT-Xent loss")
    _count_along(axes, "step")
    axes.set_title("thin: every step; bold: running mean", loc="left", color=canvas.GREY)


def _draw_progress(axes: Axes, readings: DataFrame) -> None:
    for name, color, marker in zip(PROGRESS, canvas.COLORS[1:], canvas.MARKERS[1:], strict=False):
        look = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.8}
        axes.plot(readings["epochs"], readings[name], **look, label=PANELS[name][0])
    axes.set(ylim=(-0.05, 1.05), title="health, on images never trained on")
    _count_along(axes, "epochs trained")


def _draw_reference(axes: Axes, value: float, text: str) -> None:
    axes.axhline(value, **canvas.DASHED)
    axes.annotate(text, (1, value), (5, 0), ("axes fraction", "data"), "offset points", va="center")


def _count_along(axes: Axes, what: str) -> None:
    axes.set_xlabel(what)
    axes.locator_params(axis="x", nbins=6, steps=None, integer=True, min_n_ticks=1)  # None: steps of 3 and 4 too
