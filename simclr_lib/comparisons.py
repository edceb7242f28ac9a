"""Figures of what encoders reached: scores, precision by class, a map of embeddings. `canvas` says how they look."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simclr_lib.canvas import (
    COLORS,
    DASHED,
    GREY,
    MARKERS,
    SMALL,
    count,
    elided,
    frame,
    legend_below,
    new_figure,
    show_image,
    styled,
)
from simclr_lib.plots import class_name

__all__ = ["class_bars", "embedding_map", "score_bars"]

Shares = Mapping[str, float]  # by class
PALE = "#b3b3b3"
THUMBNAIL = 0.45  # inches
MAP = 6.8  # inches, the side of a map


@styled
def score_bars(
    scores: Mapping[str, Mapping[str, float]],
    title: str | None = None,
    chance: float | Mapping[str, float] | None = None,
) -> Figure:
    """Horizontal bars in groups, each with its value: scores[group][name], shares in [0, 1] or correlations in [-1, 1].

    chance: one score for all groups, or one per group; a group that it does not name has no line.
    Raises ValueError on a score outside [-1, 1] and where there is none.
    """
    count("scores", scores)
    names = list(dict.fromkeys(name for group in scores.values() for name in group))
    colors = {name: COLORS[index % len(COLORS)] for index, name in enumerate(names)}
    tops = np.cumsum([0] + [len(bars) + 1.2 for bars in scores.values()])  # a group's heading, above its bars
    figure = new_figure(7.2, 0.3 * tops[-1] + 0.7, title)
    axes, ticks = figure.subplots(), []
    for top, (group, bars) in zip(tops, scores.items(), strict=False):
        ticks += [(top, group, "bold"), *((top + y, name, "normal") for y, name in enumerate(bars, start=1))]
        _draw_group(axes, top, bars, colors, chance.get(group) if isinstance(chance, Mapping) else chance)
    low = -1 if any(value < 0 for group in scores.values() for value in group.values()) else 0
    axes.set(xlim=(low, 1.12), ylim=(tops[-1] - 0.4, -0.6), xlabel="score", xticks=np.arange(low, 1.1, 0.2))
    places, labels, weights = zip(*ticks, strict=True)
    axes.set_yticks(places, labels)
    for text, weight in zip(axes.get_yticklabels(), weights, strict=True):
        text.set_fontweight(weight)
    axes.tick_params(axis="y", length=0)
    return figure


@styled
def class_bars(
    scores: Mapping[str, Shares], chance: Shares | None = None, title: str | None = None, most: int = 30
) -> Figure:
    """A row a class, best first: a bar with its value for the first encoder, a marker for each other one.

    scores: encoder -> class -> share in [0, 1], NaN where a class has none; chance: class -> share, a black tick.
    Of more than `most` classes the best, the middle and the worst are shown, and how many lie between them.
    Raises ValueError on a share outside [0, 1], where encoders differ in their classes or the first has no score,
    and on `most` below 3.
    """
    ranked = _ranked(scores, chance or {}, most)
    ranks = _thirds(len(ranked), most)
    left_out = np.diff([-1, *ranks]) - 1  # before each of them
    rows = np.arange(len(ranks)) + np.cumsum(left_out > 0)
    figure = new_figure(7.2, 0.21 * (rows[-1] + 1) + 1.0, title)
    axes, names = figure.subplots(), [ranked[rank] for rank in ranks]
    handles = _draw_encoders(axes, rows, names, scores)
    if chance:
        x, look = [chance.get(name, math.nan) for name in names], {"marker": "|", "ms": 11, "mew": 2, "color": "black"}
        handles += axes.plot(x, rows, linestyle="none", clip_on=False, label="chance", **look)
    for row, gap in zip(rows[left_out > 0], left_out[left_out > 0], strict=True):
        axes.axhspan(row - 1.4, row - 0.6, color="#ececec")
        axes.text(0.5, row - 1, f"{gap} more", ha="center", va="center", fontsize=SMALL, color=GREY)
    unscored = len(next(iter(scores.values()))) - len(ranked)
    note = f"\n(classes without a score, left out: {unscored})" if unscored else ""
    axes.set(xlim=(0, 1), ylim=(rows[-1] + 0.6, -0.6), xlabel=f"precision{note}")
    axes.set_yticks(rows, [elided(name, 2.2) for name in names], fontsize=SMALL)
    axes.tick_params(axis="y", length=0, pad=8)  # a marker at 0 stays off the names
    legend_below(figure, handles)
    return figure


@styled
def embedding_map(
    positions: Any,
    images: Any,
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    thumbnails: int = 60,
    title: str | None = None,
) -> Figure:
    """A dot an image at its position (N, 2), and up to `thumbnails` of the images, none of which overlap.

    labels (N,): the six largest classes have a marker and a colour each, which the frames share; all else is grey.
    Raises ValueError where positions are not finite (N, 2) with N above 0, and on labels that are not (N,).
    """
    positions = _checked(positions, count("images", images), labels)
    middle, half = (positions.max(0) + positions.min(0)) / 2, _half(np.ptp(positions, axis=0))
    figure = new_figure(MAP, MAP * half[1] / half[0] + 0.5, title)
    axes = figure.subplots()
    colors, handles = _draw_dots(axes, positions, labels, class_names)
    if labels is not None:
        legend_below(figure, handles, markerscale=1.6)
    side = 2 * half[0] * THUMBNAIL / MAP
    for index in _apart(positions, 1.15 * side, thumbnails):
        inset = axes.inset_axes([*(positions[index] - side / 2), side, side], transform=axes.transData)
        show_image(inset, images[index])
        frame(inset, colors[index], 1.8)
    low, high = middle - half, middle + half
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return figure


def _ranked(scores: Mapping[str, Shares], chance: Shares, most: int) -> list[str]:
    """The classes that the first encoder has a score of, best first."""
    count("scores", scores)
    first = next(iter(scores.values()))
    for name, shares in [*scores.items(), ("chance", chance)]:
        wrong = {key: share for key, share in shares.items() if not (math.isnan(share) or 0 <= share <= 1)}
        odd = set(shares) ^ set(first) if shares is not chance else set()
        if wrong or odd:
            raise ValueError(
                f"scores: expected shares in [0, 1], or NaN, of the same classes for each encoder, got for {name} "
                f"{wrong or f'others than for the first: {sorted(odd)[:3]}'}; divide percentages by 100"
            )
    if most < 3:
        raise ValueError(f"most: expected at least 3, of the best, the middle and the worst, got {most}; show more")
    ranked = sorted((name for name, share in first.items() if not math.isnan(share)), key=lambda name: -first[name])
    count("scores of the first encoder", ranked)
    return ranked


def _thirds(total: int, most: int) -> list[int]:
    """The ranks to show, of `total`: all, or the best, the middle and the worst third of `most`."""
    end = most // 3
    start = (total - most) // 2 + end  # of the middle
    shown = [*range(end), *range(start, start + most - 2 * end), *range(total - end, total)]
    return shown if total > most else list(range(total))


def _draw_encoders(axes: Axes, rows: np.ndarray, names: list[str], scores: Mapping[str, Shares]) -> list:
    handles = []
    for index, (encoder, shares) in enumerate(scores.items()):
        x, color, label = [shares[name] for name in names], COLORS[index % 6], elided(encoder, 1.8)
        if index == 0:
            handles.append(axes.barh(rows, x, height=0.72, color=color, label=label))
            for y, share in zip(rows, x, strict=True):
                axes.text(1.02, y, f"{share:.2f}", va="center", fontsize=SMALL)
        else:
            look = {"marker": MARKERS[index % 6], "ms": 6.5, "mec": "white", "mew": 0.7}
            handles += axes.plot(x, rows, linestyle="none", clip_on=False, color=color, label=label, **look)
    return handles


def _checked(positions: Any, images: int, labels: Any) -> np.ndarray:
    positions, shape = np.asarray(positions, dtype=float), np.shape(labels if labels is not None else range(images))
    if positions.shape != (images, 2) or not np.isfinite(positions).all() or shape != (images,):
        raise ValueError(
            f"positions, labels: expected (N, 2), all finite, and (N,) for {images} images, got {positions.shape} and "
            f"{shape}; reduce the embeddings of these images to two dimensions"
        )
    return positions


def _half(spans: np.ndarray) -> np.ndarray:
    """Half the width and height of a map, with room for thumbnails at its edge and a shape that fits a page."""
    width, height = spans / 2 + 0.05 * spans.max() if spans.any() else np.ones(2)
    width = max(width, height / 1.2)
    return np.array([width, max(height, 0.45 * width)])


def _draw_dots(axes: Axes, positions: np.ndarray, labels: Any, class_names: Any) -> tuple[list[str], list]:
    """Draws a dot an image; returns the colour of each, and the handles of a legend, the largest class first."""
    labels = np.full(len(positions), -1) if labels is None else np.asarray(labels)
    classes, sizes = np.unique(labels[labels >= 0], return_counts=True)
    largest = classes[np.argsort(-sizes, kind="stable")[: len(COLORS)]]
    dots = {"linestyle": "none", "ms": 5 if len(labels) <= 2000 else 3, "mew": 0}
    colors, rest = np.full(len(labels), PALE, dtype=object), ~np.isin(labels, largest)
    others = axes.plot(*positions[rest].T, marker=".", color=PALE, label="others", **dots) if rest.any() else []
    handles = []
    for label, color, marker in zip(largest, COLORS, MARKERS, strict=False):
        colors[labels == label] = color
        name = elided(class_name([label], 0, class_names), 1.6)
        handles += axes.plot(*positions[labels == label].T, marker=marker, color=color, label=name, **dots)
    return list(colors), handles + others


def _apart(positions: np.ndarray, side: float, most: int) -> list[int]:
    """At most `most` positions, no two within `side` in both directions, picked in an order that no class leads."""
    chosen = []
    for index in np.random.default_rng(0).permutation(len(positions)):
        distances = np.abs(positions[chosen] - positions[index]).max(axis=1)
        if len(chosen) < most and (distances >= side).all():
            chosen.append(index)
    return chosen


def _draw_group(
    axes: Axes, top: float, bars: Mapping[str, float], colors: Mapping[str, str], chance: float | None
) -> None:
    if chance is not None:
        axes.plot([chance] * 2, [top + 0.4, top + len(bars) + 0.5], **DASHED)
        side = "left" if chance < 0.8 else "right"
        axes.text(chance, top + 0.3, f"chance {chance:.3f}", ha=side, fontsize=SMALL)
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # keeps the line of chance out of the digits
    for y, (name, value) in enumerate(bars.items(), start=1):
        if not -1 <= value <= 1:
            raise ValueError(f"scores: expected some in [-1, 1], got {value} for {name}; divide percentages by 100")
        axes.barh(top + y, value, height=0.72, color=colors[name])
        place = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{value:.3f}", (max(value, 0), top + y), fontsize=9, bbox=behind, **place)
