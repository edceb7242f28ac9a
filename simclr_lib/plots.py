"""The figures: images, view pairs, loss curves, neighbours, scores. `canvas` says how they look.

N images or samples, S their side in pixels, k neighbours. Images are (., 3, S, S), uint8 or float in [0, 1].
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from simclr_lib.canvas import (
    BLUE,
    CELL,
    COLORS,
    GREY,
    HIT,
    MISS,
    SMALL,
    VERMILION,
    elided,
    frame,
    new_figure,
    save_figure,
    show_image,
    styled,
)

__all__ = ["image_grid", "loss_curve", "neighbor_grid", "save_figure", "score_bars", "view_pairs"]


@styled
def image_grid(images: Any, titles: Sequence[str] | None = None, columns: int = 8, title: str | None = None) -> Figure:
    """Images (N, 3, S, S) row by row, `columns` to a row, each under its title (N of them) where there are any."""
    if titles is not None and len(titles) != len(images):
        raise ValueError(
            f"titles: expected {len(images)}, one an image, got {len(titles)}; leave them out or match them"
        )
    columns = min(columns, count("images", images))
    rows = math.ceil(len(images) / columns)
    figure = new_figure(columns * CELL, rows * (CELL + (0.25 if titles is not None else 0)), title)
    for index, axes in enumerate(np.ravel(figure.subplots(rows, columns))):
        if index >= len(images):
            axes.set_axis_off()
            continue
        show_image(axes, images[index])
        if titles is not None:
            axes.set_title(elided(str(titles[index]), CELL - 0.08), pad=3)
    return figure


@styled
def view_pairs(images: Any, views_a: Any, views_b: Any, title: str | None = None) -> Figure:
    """A column per image: the image, then its two views; each (N, 3, S, S), the sides may differ."""
    if not len(images) == len(views_a) == len(views_b):
        raise ValueError(
            f"views: expected as many as images, got {len(images)} images, {len(views_a)} and {len(views_b)} views; "
            "pass the views of these images"
        )
    figure = new_figure(count("images", images) * CELL + 0.7, 3 * CELL, title)
    grid = figure.subplots(3, len(images), squeeze=False)
    for row, (name, pictures) in enumerate({"image": images, "view a": views_a, "view b": views_b}.items()):
        for axes, picture in zip(grid[row], pictures, strict=True):
            show_image(axes, picture)
        grid[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


@styled
def loss_curve(curves: Mapping[str, Any], batch_size: int, title: str | None = None) -> Figure:
    """The loss of every step, thin, under its running mean, beside the loss of chance, ln(2 batch_size - 1).

    curves: name of a run -> its metric records (those with "step" and "loss" are read) or a pair (steps, losses).
    The running mean is over the last fiftieth of a run's steps. batch_size: images, each with two views.
    Raises ValueError on a run without a loss and where there is no run.
    """
    count("curves", curves)
    figure = new_figure(7.2, 4.0, title)
    axes = figure.subplots()
    handles = draw_losses(axes, curves, batch_size)
    axes.set_xlabel("step")
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), frameon=False, fontsize=9)
    return figure


@styled
def neighbor_grid(
    images: Any,
    query_ids: Sequence[int],
    indices: Any,
    similarities: Any,
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    gallery_images: Any = None,
    gallery_labels: Any = None,
    title: str | None = None,
) -> Figure:
    """A row per query: the query, then its k neighbours with class and similarity, hits and misses marked.

    images (N, 3, S, S), labels (N,) of the set that the queries are from; indices, similarities (N, k) of the whole
    set, of which the rows `query_ids` are shown. They point into the gallery, by default the set itself.
    A hit has a solid blue frame and a check mark, a miss a dashed vermilion one and a cross; unlabelled (-1): neither.
    Raises ValueError where the tables are not of one shape or there is no query.
    """
    if tuple(indices.shape) != tuple(similarities.shape) or len(indices) != len(images):
        raise ValueError(
            f"indices, similarities: expected both (N, k) for {len(images)} images, got {tuple(indices.shape)} and "
            f"{tuple(similarities.shape)}; pass the whole tables, query_ids picks the rows"
        )
    if gallery_images is None:
        gallery_images, gallery_labels = images, labels
    rows, k = count("query_ids", query_ids), indices.shape[1]
    cell = CELL if k <= 6 else 1.0
    text = 0.25 if labels is None and gallery_labels is None else 0.4  # inches, of one line or two
    figure = new_figure((k + 1.25) * cell, rows * (cell + text) + 0.5, title)
    grid = figure.subplots(rows, k + 2, squeeze=False, width_ratios=[1, 0.12] + [1] * k)
    for axes_row, query in zip(grid, (int(query) for query in query_ids), strict=True):
        show_query(axes_row[0], query, images, labels, class_names, cell)
        axes_row[1].set_axis_off()
        tables, gallery = (indices, similarities), (gallery_images, gallery_labels)
        show_neighbors(axes_row[2:], query, tables, labels, gallery, class_names, cell)
    for axes, heading in zip(np.delete(grid[0], 1), ["query", *range(1, k + 1)], strict=True):
        axes.set_title(heading, color=GREY, pad=5)
    if labels is not None and gallery_labels is not None:
        figure.supxlabel(f"{HIT} same class   {MISS} another class", fontsize=SMALL, color=GREY)
    return figure


@styled
def score_bars(
    scores: Mapping[str, Mapping[str, float]],
    title: str | None = None,
    chance: float | Mapping[str, float] | None = None,
) -> Figure:
    """Horizontal bars in groups, each with its value: scores[group][name], shares in [0, 1].

    chance: one share for all groups, or a share per group; a group that it does not name has no line.
    Raises ValueError on a score outside [0, 1] and where there is none.
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
    axes.set(xlim=(0, 1.12), ylim=(tops[-1] - 0.4, -0.6), xlabel="score", xticks=np.linspace(0, 1, 6))
    places, labels, weights = zip(*ticks, strict=True)
    axes.set_yticks(places, labels)
    for text, weight in zip(axes.get_yticklabels(), weights, strict=True):
        text.set_fontweight(weight)
    axes.tick_params(axis="y", length=0)
    return figure


def count(name: str, items: Any) -> int:
    """How many there are. Raises ValueError on none."""
    if len(items) == 0:
        raise ValueError(f"{name}: expected at least one, got none; there is nothing to draw")
    return len(items)


def show_query(axes: Axes, query: int, images: Any, labels: Any, class_names: Any, cell: float) -> None:
    """Image `query` with its class and id, on axes of `cell` inches."""
    show_image(axes, images[query])
    frame(axes, "black", 1)
    name = class_name(labels, query, class_names)
    axes.set_xlabel(f"{elided(name, cell - 0.08)}\nid {query}".strip(), fontsize=SMALL)


def show_neighbors(
    axes_row: Any, query: int, tables: tuple, labels: Any, gallery: tuple, class_names: Any, cell: float
) -> None:
    """The neighbours of image `query` in a row of axes; tables: (indices, similarities), gallery: (images, labels)."""
    (indices, similarities), (images, gallery_labels) = tables, gallery
    for axes, index, similarity in zip(axes_row, indices[query], similarities[query], strict=True):
        name = class_name(gallery_labels, int(index), class_names)
        hit = _is_hit(labels, query, gallery_labels, int(index))
        _show_neighbor(axes, images[int(index)], name, float(similarity), hit, cell)


def _show_neighbor(axes: Axes, image: Any, name: str, similarity: float, hit: bool | None, cell: float) -> None:
    show_image(axes, image)
    mark = {True: f"{HIT} ", False: f"{MISS} ", None: ""}[hit]
    if hit is not None:
        frame(axes, BLUE if hit else VERMILION, 2.5, "-" if hit else (0, (2, 1.2)))
    axes.set_xlabel(f"{elided(mark + name, cell - 0.08)}\n{similarity:.3f}".strip(), fontsize=SMALL)


def _is_hit(labels: Any, query: int, gallery_labels: Any, index: int) -> bool | None:
    if labels is None or gallery_labels is None or min(int(labels[query]), int(gallery_labels[index])) < 0:
        return None
    return int(labels[query]) == int(gallery_labels[index])


def class_name(labels: Any, index: int, class_names: Sequence[str] | None) -> str:
    """The name of the class of image `index`, empty without labels."""
    if labels is None:
        return ""
    label = int(labels[index])
    return "unlabelled" if label < 0 else class_names[label] if class_names is not None else f"class {label}"


def draw_losses(axes: Axes, curves: Mapping[str, Any], batch_size: int) -> list[Line2D]:
    """What `loss_curve` says, on axes whose x are steps; returns the bold lines, for a legend."""
    handles = [_draw_run(axes, name, curve, index) for index, (name, curve) in enumerate(curves.items())]
    chance = math.log(2 * batch_size - 1)
    axes.axhline(chance, color="black", linestyle=(0, (4, 3)), linewidth=1.2, label="chance")
    label = f"chance:\nln(2·{batch_size}−1)\n= {chance:.2f}"
    beside = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate(label, (1, chance), (6, 0), va="center", fontsize=9, annotation_clip=False, **beside)
    axes.set_ylabel("NT-Xent loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_title("thin: every step; bold: running mean", loc="left", color=GREY, fontsize=9)
    return handles


def _draw_run(axes: Axes, name: str, curve: Any, index: int) -> Line2D:
    steps, losses = _steps_and_losses(name, curve)
    color, linestyle = COLORS[index % len(COLORS)], ("-", "--", ":")[index // len(COLORS) % 3]
    axes.plot(steps, losses, color=color, linewidth=0.8, alpha=0.35)
    window = np.ones(max(1, len(losses) // 50))
    means = np.convolve(losses, window)[: len(losses)] / np.minimum(np.arange(1, len(losses) + 1), len(window))
    marker = "o" if len(losses) == 1 else None  # a line through one point would be invisible
    (line,) = axes.plot(steps, means, color=color, linewidth=2.2, linestyle=linestyle, marker=marker, label=name)
    return line


def _steps_and_losses(name: str, curve: Any) -> tuple[np.ndarray, np.ndarray]:
    if len(curve) > 0 and isinstance(curve[0], Mapping):
        curve = [(record["step"], record["loss"]) for record in curve if "loss" in record]
        curve = list(zip(*curve, strict=True))
    if len(curve) != 2 or len(curve[0]) != len(curve[1]) or len(curve[0]) == 0:
        raise ValueError(
            f'{name}: expected records with "step" and "loss" or (steps, losses) of one length, got neither'
        )
    return np.asarray(curve[0]), np.asarray(curve[1], dtype=float)


def _draw_group(
    axes: Axes, top: float, bars: Mapping[str, float], colors: Mapping[str, str], chance: float | None
) -> None:
    if chance is not None:
        axes.plot([chance] * 2, [top + 0.4, top + len(bars) + 0.5], color="black", linestyle=(0, (4, 3)), linewidth=1.2)
        side = "left" if chance < 0.8 else "right"
        axes.text(chance, top + 0.3, f"chance {chance:.3f}", ha=side, fontsize=SMALL)
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # keeps the line of chance out of the digits
    for y, (name, value) in enumerate(bars.items(), start=1):
        if not 0 <= value <= 1:
            raise ValueError(f"scores: expected shares in [0, 1], got {value} for {name}; divide percentages by 100")
        axes.barh(top + y, value, height=0.72, color=colors[name])
        place = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{value:.3f}", (value, top + y), fontsize=9, bbox=behind, **place)
