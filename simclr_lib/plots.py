"""Figures of photographs: images, view pairs, neighbours. `canvas` says how figures look.

N images, S their side in pixels, k neighbours. Images are (., 3, S, S), uint8 or float in [0, 1].
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simclr_lib.canvas import (
    BLUE,
    CELL,
    GREY,
    HIT,
    MISS,
    SMALL,
    VERMILION,
    count,
    elided,
    frame,
    new_figure,
    plain,
    save_figure,
    show_image,
    styled,
)

__all__ = ["image_grid", "neighbor_grid", "neighbor_rows", "save_figure", "view_pairs"]


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
    gallery = None if gallery_images is None else (gallery_images, gallery_labels)
    return neighbor_rows(images, query_ids, {"": (indices, similarities)}, labels, class_names, title, gallery)


@styled
def neighbor_rows(
    images: Any,
    query_ids: Sequence[int],
    variants: Mapping[str, tuple],
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    gallery: tuple | None = None,
) -> Figure:
    """The same queries under several embeddings: a block a query, in it a row a variant with its k neighbours.

    variants: name -> (indices, similarities), both (N, k) of the whole set, of which the rows `query_ids` are shown.
    labels (N,). gallery: images and labels that the tables point into, by default the set itself. Hits and misses are
    marked as in `neighbor_grid`.
    Raises ValueError where the tables are not of one shape, and where there is no query or no variant.
    """
    named = list(variants) != [""]  # the one variant of `neighbor_grid` has no name
    k, gallery = _width(variants, len(images)), gallery or (images, labels)
    cell = CELL if k <= 6 and not named else 1.0
    text = 0.25 if labels is None and gallery[1] is None else 0.4  # inches, of one line or two
    heights = ([1] * len(variants) + [0.15] * named) * count("query_ids", query_ids)  # a gap after each block
    figure = new_figure((k + 1.2) * cell + 1.2 * named, sum(heights) * (cell + text) + 0.5, title)
    grid = figure.add_gridspec(len(heights), k + 2, height_ratios=heights, width_ratios=[1, 0.1] + [1] * k)
    for top, query in zip(range(0, len(heights), len(variants) + named), map(int, query_ids), strict=True):
        _show_query(figure.add_subplot(grid[top, 0]), query, images, labels, class_names, cell)
        for row, (name, tables) in enumerate(variants.items(), start=top):
            axes_row = [figure.add_subplot(grid[row, column]) for column in range(2, k + 2)]
            _show_neighbors(axes_row, query, tables, labels, gallery, class_names, cell)
            name = plain(textwrap.fill(name, 14, max_lines=4, placeholder="…"))
            axes_row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, labelpad=6)
    for axes, heading in zip(figure.axes, ["query", *range(1, k + 1)], strict=False):
        axes.set_title(heading, color=GREY, pad=5)
    if labels is not None and gallery[1] is not None:
        figure.supxlabel(f"{HIT} same class   {MISS} another class", fontsize=SMALL, color=GREY)
    return figure


def _width(variants: Mapping[str, tuple], images: int) -> int:
    """k, the same for all. Raises ValueError where it is not."""
    count("variants", variants)
    shapes = [tuple(table.shape) for tables in variants.values() for table in tables]
    if set(shapes) != {(images, shapes[0][-1])} or 0 in shapes[0]:
        raise ValueError(
            f"indices, similarities: expected all of one shape (N, k) for {images} images, got {shapes}; "
            "pass the whole tables, query_ids picks the rows"
        )
    return shapes[0][1]


def _show_query(axes: Axes, query: int, images: Any, labels: Any, class_names: Any, cell: float) -> None:
    """Image `query` with its class and, where it is one of several, its number, on axes of `cell` inches."""
    show_image(axes, images[query])
    frame(axes, "black", 1)
    name = class_name(labels, query, class_names)
    number = f"no. {query}" if len(images) > 1 else ""
    axes.set_xlabel(f"{elided(name, cell - 0.08)}\n{number}".strip(), fontsize=SMALL)


def _show_neighbors(
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
