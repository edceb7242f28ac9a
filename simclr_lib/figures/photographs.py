"""Figures of photographs: images, view pairs, neighbours. `canvas` says how figures look.

N images, S their side in pixels, k neighbours. Images are (., 3, S, S), uint8 or float in [0, 1].
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from simclr_lib.engine.checks import require
from simclr_lib.figures import canvas

CELL = 1.1  # inches, the side of an image
GAP = 0.15  # between the blocks of two queries, and between a query and its neighbours; a share of a cell
MARKS = {True: ("✓ ", canvas.BLUE, "-"), False: ("✗ ", canvas.VERMILION, (0, (2, 1.2)))}  # sign, colour and dashes


@canvas.styled
def image_grid(images: Any, titles: Sequence | None = None, columns: int = 8, title: str = "") -> canvas.InlineFigure:
    """Images (N, 3, S, S) row by row, `columns` to a row, each under its title (N of them) where there are any."""
    names = [""] * len(images) if titles is None else titles
    require(len(images), "images", "at least one", "none")
    require(len(names) == len(images), "titles", f"{len(images)}, one per image", len(names))
    columns = min(columns, len(images))
    rows = 1 + (len(images) - 1) // columns
    figure = canvas.new_figure(columns * CELL, rows * (CELL + 0.25 * any(names)), title)
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        canvas.show_image(axes, images[index])
        axes.set_title(canvas.elided(str(name), CELL - 0.08), pad=3)
    return figure


@canvas.styled
def view_pairs(images: Any, views_a: Any, views_b: Any, title: str = "") -> canvas.InlineFigure:
    """A column per image: the image, then its two views; each (N, 3, S, S), the sides may differ."""
    counts = [len(images), len(views_a), len(views_b)]
    require(min(counts) == max(counts) > 0, "images, views_a, views_b", "as many of each, at least one", counts)
    figure = image_grid([*images, *views_a, *views_b], columns=len(images), title=title)
    for axes, name in zip(figure.axes[:: len(images)], ("image", "view a", "view b"), strict=True):
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


@canvas.styled
def neighbor_grid(
    images: Any,
    query_ids: Sequence[int],
    found: tuple | Mapping[str, tuple],
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    title: str = "",
    gallery: tuple | None = None,
) -> canvas.InlineFigure:
    """A row per query: the query, then its k neighbours with class and similarity, hits and misses marked.

    images (N, 3, S, S), labels (N,) of the set that the queries are from. found: indices and similarities, both (N, k)
    of the whole set, of which the rows `query_ids` are shown; or several such pairs by name, then a row per query and
    name.
    gallery: images and labels that the indices point into, by default the set itself.
    A hit has a solid blue frame and a check mark, a miss a dashed vermilion one and a cross. Where the query or the
    neighbour is unlabelled (-1), there is neither.
    Raises ValueError where the tables are not of one shape, and where there is no query or no table.
    """
    variants = found if isinstance(found, Mapping) else {"": found}
    require(variants and len(query_ids), "found, query_ids", "at least one of each", "none of one")
    shapes = {tuple(table.shape) for tables in variants.values() for table in tables}
    k = max(shapes)[-1]
    require(shapes == {(len(images), k)} and k, "indices, similarities", f"whole tables ({len(images)}, k)", shapes)
    labels = np.full(len(images), -1) if labels is None else np.asarray(labels)
    gallery_images, gallery_labels = gallery or (images, labels)
    heights = ([1] * len(variants) + [GAP]) * len(query_ids)
    # Where there are names, they take as much as an image.
    figure = canvas.new_figure((k + 1.2 + any(variants)) * CELL, sum(heights) * (CELL + 0.3) + 0.4, title)
    grid = figure.add_gridspec(len(heights), k + 2, height_ratios=heights, width_ratios=[1, GAP] + [1] * k)
    for top, query in zip(range(0, len(heights), len(variants) + 1), map(int, query_ids), strict=True):
        axes = figure.add_subplot(grid[top, 0])
        _show(axes, images[query], labels[query], class_names, f"no. {query}" if len(images) > 1 else "")
        canvas.frame(axes, color="black", linewidth=1)
        for row, (variant, (indices, similarities)) in enumerate(variants.items(), start=top):
            axes_row = [figure.add_subplot(grid[row, column]) for column in range(2, k + 2)]
            for axes, near, similarity in zip(axes_row, indices[query].tolist(), similarities[query], strict=True):
                _show(axes, gallery_images[near], gallery_labels[near], class_names, f"{similarity:.3f}", labels[query])
            name = textwrap.fill(canvas.drawable(variant), 14, max_lines=4, placeholder="…")
            axes_row[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=6)
    for axes, heading in zip(figure.axes, ["query", *range(1, k + 1)], strict=False):
        axes.set_title(heading, color=canvas.GREY, pad=5)
    if min(labels.max(), gallery_labels.max()) >= 0:
        figure.supxlabel("✓ same class   ✗ another class", fontsize=canvas.TYPE, color=canvas.GREY)
    return figure


def _show(axes: Axes, image: Any, label: int, class_names: Sequence[str] | None, note: str, query: int = -1) -> None:
    """An image above its class, as much of it as fits, and a note; a hit or a miss where the query has a class too."""
    canvas.show_image(axes, image)
    name = "" if label < 0 else f"class {label}" if class_names is None else class_names[label]
    if min(label, query) >= 0:
        sign, color, dashes = MARKS[bool(label == query)]
        canvas.frame(axes, color=color, linewidth=2.5, linestyle=dashes)
        name = sign + name
    axes.set_xlabel(f"{canvas.elided(name, CELL - 0.08)}\n{note}".strip())
