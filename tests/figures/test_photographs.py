"""What a figure shows, and that a reader can read it: nothing cut off, no two texts on one another."""

import numpy as np
import pytest
import torch
from figure_reading import ENCODERS, assert_legible, frames_of, random_images, texts_of
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg

from simclr_lib.figures import canvas
from simclr_lib.figures.photographs import image_grid, neighbor_grid, view_pairs

CLASS_NAMES = ["Faces_easy", "automobile", "wild_cat", "BACKGROUND_Google_with_more"]


def random_tables(count, k, seed=0):
    generator = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(count, generator=generator)[:k] for _ in range(count)])
    return indices, torch.rand(count, k, generator=generator).sort(1, descending=True).values


def variants(count, k, images=12):
    return {name: random_tables(images, k, seed) for seed, name in enumerate(ENCODERS[:count])}


def pictures_of(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


def labels_below(figure):
    return [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("k", [1, 5, 10])
def test_a_neighbor_grid_is_legible(k, side):
    images, labels = random_images(12, side), torch.arange(12) % 4
    figure = neighbor_grid(images, [3, 0], random_tables(12, k), labels, CLASS_NAMES, title="Neighbours by cosine")
    assert_legible(figure)


def test_marks_names_and_similarities_are_those_of_the_tables():
    labels, (indices, similarities) = torch.arange(12) % 4, random_tables(12, 5)
    figure = neighbor_grid(random_images(12), [7, 2], (indices, similarities), labels, ["a", "b", "c", "d"])
    shown = labels_below(figure)
    for query, row in zip([7, 2], (shown[:6], shown[6:12]), strict=True):
        assert row[0] == f"{'abcd'[query % 4]}\nno. {query}"
        for label, index, similarity in zip(row[1:], indices[query].tolist(), similarities[query], strict=True):
            mark = "✓" if index % 4 == query % 4 else "✗"
            assert label == f"{mark} {'abcd'[index % 4]}\n{similarity:.3f}"


def test_hits_and_misses_differ_in_more_than_colour():
    indices, similarities = torch.tensor([[1, 2], [0, 2], [0, 1]]), torch.ones(3, 2)
    figure = neighbor_grid(random_images(3), [0], (indices, similarities), torch.tensor([0, 0, 1]))
    _, hit, miss = figure.axes
    (hit_frame,), (miss_frame,) = frames_of(hit), frames_of(miss)
    assert hit.get_xlabel().startswith("✓ class 0")
    assert miss.get_xlabel().startswith("✗ class 1")
    assert colors.same_color(hit_frame.get_edgecolor(), canvas.BLUE)
    assert colors.same_color(miss_frame.get_edgecolor(), canvas.VERMILION)
    assert hit_frame.get_linestyle() in ("-", "solid")
    assert miss_frame.get_linestyle() not in ("-", "solid")


def test_a_neighbor_grid_without_labels_marks_nothing():
    figure = neighbor_grid(random_images(6), [1], random_tables(6, 3))
    assert not any(mark in text.get_text() for text in texts_of(figure) for mark in "✓✗")
    assert all(not frames_of(axes) for axes in figure.axes[1:])
    assert_legible(figure)


def test_unlabelled_neighbors_are_neither_hit_nor_miss():
    figure = neighbor_grid(random_images(3), [0], (torch.tensor([[1]] * 3), torch.ones(3, 1)), torch.tensor([0, -1, 0]))
    assert labels_below(figure) == ["class 0\nno. 0", "1.000"]
    assert not frames_of(figure.axes[1])


def test_neighbors_come_from_the_gallery_where_there_is_one():
    images, gallery = torch.zeros(2, 3, 8, 8), torch.ones(3, 3, 8, 8)
    indices, similarities = torch.tensor([[2], [0]]), torch.ones(2, 1)
    figure = neighbor_grid(
        images, [0], (indices, similarities), torch.tensor([1, 0]), gallery=(gallery, torch.tensor([0, 0, 1]))
    )
    query, neighbor = figure.axes
    assert query.images[0].get_array().max() == 0
    assert neighbor.images[0].get_array().min() == 1
    assert neighbor.get_xlabel() == "✓ class 1\n1.000"


def test_neighbor_tables_may_be_arrays():
    indices, similarities = (table.numpy() for table in random_tables(6, 3))
    images = (random_images(6) * 255).byte().numpy()
    figure = neighbor_grid(images, np.array([4]), (indices, similarities), np.zeros(6, dtype=np.int64))
    assert labels_below(figure)[1] == f"✓ class 0\n{similarities[4, 0]:.3f}"


@pytest.mark.parametrize(
    ("k", "count", "queries", "side"), [(1, 1, 1, 32), (5, 3, 2, 96), (10, 6, 1, 224), (2, 2, 6, 32), (10, 1, 2, 32)]
)
def test_neighbor_rows_are_legible(k, count, queries, side):
    labels = torch.arange(12) % 4
    figure = neighbor_grid(
        random_images(12, side), list(range(queries)), variants(count, k), labels, CLASS_NAMES, "Under each embedding"
    )
    assert_legible(figure)
    assert min(text.get_fontsize() for text in texts_of(figure)) >= 8.5
    sides = [axes.get_window_extent().width / figure.dpi for axes in figure.axes]
    assert min(sides) > 0.65  # inches
    assert len(figure.axes) == queries * (1 + count * k)


def test_each_block_is_a_query_and_a_row_a_variant():
    images, labels, tables = random_images(12, 8), torch.arange(12) % 4, variants(3, 2)
    figure = neighbor_grid(images, [7, 2], tables, labels, ["a", "b", "c", "d"])
    shown, drawn = iter(labels_below(figure)), iter(pictures_of(figure))
    for query in (7, 2):
        assert next(shown) == f"{'abcd'[query % 4]}\nno. {query}"
        np.testing.assert_allclose(next(drawn), images[query].permute(1, 2, 0), atol=1e-6)
        for indices, similarities in tables.values():
            for index, similarity in zip(indices[query].tolist(), similarities[query], strict=True):
                mark = "✓" if index % 4 == query % 4 else "✗"
                assert next(shown) == f"{mark} {'abcd'[index % 4]}\n{similarity:.3f}"
                np.testing.assert_allclose(next(drawn), images[index].permute(1, 2, 0), atol=1e-6)
    named = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert named == [name.replace(" training", "\ntraining") for name in tables] * 2
    assert [axes.get_title() for axes in figure.axes[:4]] == ["query", "1", "2", ""]


def test_rows_stand_beside_their_query_and_under_one_another():
    figure = neighbor_grid(random_images(12), [3, 4], variants(2, 2), torch.arange(12) % 4)
    FigureCanvasAgg(figure).draw()
    places = [axes.get_window_extent() for axes in figure.axes]
    query, first, second, third = (places[index] for index in (0, 1, 2, 3))
    assert query.x1 < first.x0 < first.x1 < second.x0
    assert query.y0 == pytest.approx(first.y0, abs=1)
    assert third.y1 < first.y0
    assert third.x0 == pytest.approx(first.x0, abs=1)
    gaps = [places[row].y0 - places[row + 2].y1 for row in (1, 3)]  # rows start at 1, 3; the next block at 5, 6
    block = places[3].y0 - places[5].y1
    assert block > gaps[0] + 5


def test_unlabelled_neighbor_rows_mark_nothing():
    figure = neighbor_grid(random_images(12), [1], variants(2, 3))
    assert not any(mark in text.get_text() for text in texts_of(figure) for mark in "✓✗")
    assert labels_below(figure)[0] == "no. 1"
    assert_legible(figure)


def test_a_query_without_a_class_may_have_neighbors_with_one():
    query, gallery = random_images(1), random_images(12, seed=1)
    indices, similarities = random_tables(12, 5)
    figure = neighbor_grid(
        query, [0], (indices[:1], similarities[:1]), None, CLASS_NAMES, "A file", (gallery, torch.arange(12) % 4)
    )
    assert not figure.axes[0].get_xlabel()  # a number would be that of another image
    assert labels_below(figure) == [
        f"{canvas.elided(CLASS_NAMES[index % 4], 1.02)}\n{similarity:.3f}"
        for index, similarity in zip(indices[0].tolist(), similarities[0], strict=True)
    ]
    assert not any(mark in text.get_text() for text in texts_of(figure) for mark in "✓✗")
    assert all(not frames_of(axes) for axes in figure.axes[1:])
    assert_legible(figure)


@pytest.mark.parametrize(("side", "interpolation"), [(32, "nearest"), (96, "nearest"), (224, "antialiased")])
def test_small_images_are_not_smoothed(side, interpolation):
    (drawn,) = image_grid(random_images(1, side)).axes[0].images
    assert drawn.get_interpolation() in (interpolation, "auto" if interpolation == "antialiased" else interpolation)


def test_pixels_are_those_of_the_image():
    images = (random_images(2, 8) * 255).byte()
    for drawn in (image_grid(images), image_grid(images.double() / 255)):
        for axes, expected in zip(drawn.axes, images, strict=True):
            shown = np.asarray(axes.images[0].get_array(), dtype=float)
            shown = shown * 255 if shown.max() <= 1 else shown
            np.testing.assert_allclose(shown, expected.permute(1, 2, 0).numpy(), atol=1e-3)


@pytest.mark.parametrize("count", [1, 3, 10])
def test_an_image_grid_is_legible(count):
    names = (CLASS_NAMES * 3)[:count]
    figure = image_grid(random_images(count), names, title="Images with a title too long for one of them alone")
    assert_legible(figure)
    assert sum(bool(axes.images) for axes in figure.axes) == count
    assert [axes.get_title() for axes in figure.axes][:1] == ["Faces_easy"]


def test_view_pairs_have_a_column_an_image_and_a_row_a_kind():
    figure = view_pairs(random_images(4), random_images(4, 24), random_images(4, 24), title="Views")
    assert len(figure.axes) == 12
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == ["image", "view a", "view b"]
    assert_legible(figure)
    assert_legible(view_pairs(*[random_images(1)] * 3))


def rows(**tables):
    return neighbor_grid(random_images(4), [0], tables)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: image_grid(random_images(0)), r"images: .*at least one"),
        (lambda: image_grid(random_images(2), ["one"]), r"titles: .*2, .*got 1"),
        (lambda: image_grid(torch.rand(2, 8, 8, 3)), r"image: .*\(3, S, S\), got \(8, 8, 3\)"),
        (lambda: view_pairs(random_images(2), random_images(1), random_images(2)), r"views_a.*got \[2, 1, 2\]"),
        (lambda: view_pairs(*[random_images(0)] * 3), r"images.*at least one"),
        (lambda: neighbor_grid(random_images(4), [], random_tables(4, 2)), r"query_ids: .*at least one"),
        (lambda: neighbor_grid(random_images(5), [0], random_tables(4, 2)), r"whole tables \(5, k\).*\(4, 2\)"),
        (lambda: rows(), r"found.*at least one"),
        (lambda: neighbor_grid(random_images(4), [], {"h": random_tables(4, 2)}), r"query_ids: .*at least one"),
        (lambda: rows(h=random_tables(5, 2)), r"whole tables \(4, k\).*\(5, 2\)"),
        (lambda: rows(h=random_tables(4, 2), z=random_tables(4, 3)), r"indices.*\(4, [23]\), \(4, [23]\)"),
        (lambda: rows(h=(torch.ones(4, 2, dtype=int), torch.ones(4, 1))), r"indices"),
        (lambda: rows(h=(torch.ones(4, 0), torch.ones(4, 0))), r"indices"),
    ],
)
def test_figures_say_what_they_expect(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
