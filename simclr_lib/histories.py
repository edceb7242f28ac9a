"""Figures of training: losses of one run or several, learning rate, similarities and health over the epochs.

Records are those of metrics.jsonl, as `Run.metrics` returns them. `canvas` says how figures look.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator

from simclr_lib.canvas import BLUE, COLORS, DASHED, GREY, SMALL, VERMILION, count, legend_below, new_figure, styled

__all__ = ["health_curves", "loss_and_rate", "loss_curve", "similarity_history"]

PAIRS = {  # the histogram of a reading -> its heading, the mean of its pairs
    "positives": ("two views of an image", "positive_mean"),
    "others": ("views of different images", "other_mean"),
}
PANELS = (  # heading, the reading's names -> their labels, values to compare with -> what they are
    ("spread per dimension of z", {"deviation": ""}, {1: "even", 0: "one point"}),
    ("contrastive accuracy", {"contrastive_accuracy": ""}, {1: "every view\nfound", 0: "none found"}),
    ("alignment, squared distance of the views", {"alignment": ""}, {0: "views alike"}),
    ("uniformity, log potential of z", {"uniformity": ""}, {0: "one point", -4: "even"}),
    ("effective rank, directions", {"effective_rank_h": "h", "effective_rank_z": "z"}, {1: "one\ndirection"}),
    (
        "following colour, of h",
        {"color_agreement": "neighbours", "color_following": "rank correlation"},
        {1: "as colour\nalone", 0: "as random"},
    ),
)
LOOKS = ({"color": BLUE}, {"color": VERMILION, "linestyle": ":"})


@styled
def loss_curve(curves: Mapping[str, Sequence[Mapping]], batch_size: int, title: str | None = None) -> Figure:
    """The loss of every step, thin, under its running mean, beside the loss of chance, ln(2 batch_size - 1).

    curves: name of a run -> its metric records, of which those with "step" and "loss" are read.
    The running mean is over a hundredth of a run's steps to each side; at the beginning over as many ahead as lie
    behind, so that it begins where the loss does, and at the end over those that are left.
    batch_size: images, each with two views.
    Raises ValueError on a run without a loss and where there is no run.
    """
    count("curves", curves)
    figure = new_figure(7.2, 4.0, title)
    axes = figure.subplots()
    handles = _draw_losses(axes, curves, batch_size)
    axes.set_xlabel("step")
    legend_below(figure, handles)
    return figure


@styled
def loss_and_rate(records: Sequence[Mapping], batch_size: int, title: str | None = None) -> Figure:
    """The loss of every step beside chance, as in `loss_curve`, above the learning rate of the same steps.

    records: those with "step", "loss" and "learning_rate" are read. batch_size: images, each with two views.
    Raises ValueError where there is no such record.
    """
    steps = [record for record in records if {"step", "loss", "learning_rate"} <= set(record)]
    if not steps:
        raise ValueError('records: expected some with "step", "loss" and "learning_rate", got none; pass run.metrics()')
    figure = new_figure(7.2, 5.2, title)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.1])
    _draw_losses(upper, {"records": steps}, batch_size)
    marker = "o" if len(steps) == 1 else None  # a line through one point would be invisible
    x, y = [record["step"] for record in steps], [record["learning_rate"] for record in steps]
    lower.plot(x, y, color=BLUE, linewidth=1.8, marker=marker)
    lower.set(xlabel="step", ylabel="learning rate", ylim=(0, 1.08 * max(y) or 1))
    figure.align_ylabels()
    return figure


@styled
def similarity_history(health: Sequence[Mapping], title: str | None = None) -> Figure:
    """Two heat maps over the epochs, of the cosine similarities of z: an image's two views, and different images.

    health: readings with "epochs" and, where they were finite, counts of similarities in equal bins from -1 to 1,
    "positives" and "others", and the means "positive_mean" and "other_mean". Colour is a bin's share of the pairs of
    its epoch; a reading without counts leaves its place blank.
    Raises ValueError where no reading has counts, on counts that are no histogram, and on epochs that do not rise.
    """
    epochs = _epochs(health)
    figure = new_figure(7.6, 3.6, title)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (name, (heading, mean)) in zip(panels, PAIRS.items(), strict=True):
        means, shares = _values(health, mean), _shares(health, name)
        bins = np.linspace(-1, 1, len(shares) + 1)
        mesh = axes.pcolormesh(_edges(epochs), bins, shares, cmap="viridis", norm=PowerNorm(0.5, 0, 1))
        (line,) = axes.plot(epochs, means, color="white", label="mean", **_marks(epochs))
        # Edged in black, white stands out from every share.
        line.set(linewidth=1.1, clip_on=False, path_effects=[Stroke(linewidth=2.6, foreground="black"), Normal()])
        axes.set(title=heading, xlabel="epochs trained")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    panels[0].set(ylabel="cosine similarity of z", yticks=np.linspace(-1, 1, 5))
    figure.colorbar(mesh, ax=panels, ticks=[0, 0.01, 0.05, 0.25, 0.5, 1], label="share of the pairs", format="{x:g}")
    gap = [Patch(facecolor="white", edgecolor=GREY, label="not finite")] if np.isnan(shares).any() else []
    legend_below(figure, [line, *gap])
    return figure


@styled
def health_curves(health: Sequence[Mapping], title: str | None = None) -> Figure:
    """The readings of `health` over the epochs, a panel a quantity, beside the values to compare it with, dashed.

    health: readings with "epochs" and, where they were finite, the numbers of `health.reading`; others are gaps.
    Raises ValueError where a quantity has no finite reading, and on epochs that do not rise.
    """
    epochs = _epochs(health)
    figure = new_figure(7.6, 6.0, title)
    panels = figure.subplots(3, 2, sharex=True)
    for axes, (heading, names, references) in zip(panels.flat, PANELS, strict=True):
        axes.set_title(heading, loc="left", pad=20 if len(names) > 1 else 6)
        for look, (name, label) in zip(LOOKS, names.items(), strict=False):
            axes.plot(epochs, _values(health, name), linewidth=1.8, label=label, **_marks(epochs), **look)
        for value, text in references.items():
            _draw_reference(axes, value, text)
        if len(names) > 1:  # between heading and panel, where it hides no data
            place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0, "borderaxespad": 0.3}
            axes.legend(**place, ncols=2, columnspacing=1, frameon=False, fontsize=SMALL)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    for axes in panels[-1]:
        axes.set_xlabel("epochs trained")
    return figure


def _draw_losses(axes: Axes, curves: Mapping[str, Sequence[Mapping]], batch_size: int) -> list[Line2D]:
    """What `loss_curve` says, on axes whose x are steps; returns the bold lines, for a legend."""
    handles = [_draw_run(axes, name, records, index) for index, (name, records) in enumerate(curves.items())]
    chance = math.log(2 * batch_size - 1)
    _draw_reference(axes, chance, f"chance:\nln(2·{batch_size}−1)\n= {chance:.2f}")
    axes.set_ylabel("NT-Xent loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_title("thin: every step; bold: running mean", loc="left", color=GREY, fontsize=9)
    return handles


def _draw_run(axes: Axes, name: str, records: Sequence[Mapping], index: int) -> Line2D:
    steps, losses = _steps_and_losses(name, records)
    color, linestyle = COLORS[index % len(COLORS)], ("-", "--", ":")[index // len(COLORS) % 3]
    axes.plot(steps, losses, color=color, linewidth=0.8, alpha=0.35)
    reach = np.minimum(np.arange(len(losses)), len(losses) // 100)  # back and ahead: a mean of the past alone lags
    means = [losses[step - some : step + some + 1].mean() for step, some in enumerate(reach)]
    marker = "o" if len(losses) == 1 else None  # a line through one point would be invisible
    (line,) = axes.plot(steps, means, color=color, linewidth=2.2, linestyle=linestyle, marker=marker, label=name)
    return line


def _steps_and_losses(name: str, records: Sequence[Mapping]) -> tuple[np.ndarray, np.ndarray]:
    steps = [(record["step"], record["loss"]) for record in records if {"step", "loss"} <= set(record)]
    if not steps:
        raise ValueError(f'{name}: expected records with "step" and "loss", got none; pass run.metrics()')
    return tuple(np.asarray(steps, dtype=float).T)


def _epochs(health: Sequence[Mapping]) -> np.ndarray:
    count("health", health)
    epochs = [reading.get("epochs") for reading in health]
    if None in epochs or (np.diff(epochs) <= 0).any():
        raise ValueError(f'health: expected readings with rising "epochs", got {epochs}; pass run.metrics("health")')
    return np.asarray(epochs)


def _values(health: Sequence[Mapping], name: str) -> np.ndarray:
    values = np.array([reading.get(name, np.nan) for reading in health], dtype=float)
    if np.isnan(values).all():
        raise ValueError(f'health: expected a finite reading with "{name}", got none; pass run.metrics("health")')
    return values


def _shares(health: Sequence[Mapping], name: str) -> np.ndarray:
    """(bins, readings): each reading's share of its pairs in every bin, NaN where it has no counts."""
    counts = {at: np.asarray(reading[name], float) for at, reading in enumerate(health) if name in reading}
    sizes = {len(one) for one in counts.values()}
    if len(sizes) != 1 or not all(one.sum() > 0 and one.min() >= 0 for one in counts.values()):
        raise ValueError(
            f'health: expected "{name}" to be counts of pairs in equal bins, as many in every reading, got lengths '
            f'{sorted(sizes)}; pass run.metrics("health")'
        )
    shares = np.full((sizes.pop(), len(health)), np.nan)
    for at, one in counts.items():
        shares[:, at] = one / one.sum()
    return shares


def _marks(epochs: np.ndarray) -> dict:
    """Markers on about twenty readings; a line through one reading would be invisible without."""
    return {"marker": "o", "markersize": 3.5, "markevery": max(1, len(epochs) // 20)}


def _edges(epochs: np.ndarray) -> np.ndarray:
    """Where one reading's column ends and the next begins: midway; a lone one is an epoch wide."""
    if len(epochs) == 1:
        return np.add(epochs, [-0.5, 0.5])
    around = np.pad(epochs, 1, mode="reflect", reflect_type="odd")  # one more at each end, as far as the next one
    return (around[1:] + around[:-1]) / 2


def _draw_reference(axes: Axes, value: float, text: str) -> None:
    axes.axhline(value, **DASHED)
    beside = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "annotation_clip": False}
    axes.annotate(text, (1, value), (5, 0), va="center", fontsize=SMALL, **beside)
