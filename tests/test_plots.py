"""What a figure shows, and that a reader can read it: nothing cut off, no two texts on one another."""

import base64
import io
import itertools
import math
import sys

import numpy as np
import pytest
import torch
from matplotlib import colors, image, style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from simclr_lib import plots
from simclr_lib.plots import image_grid, loss_curve, neighbor_grid, save_figure, score_bars, view_pairs

CLASS_NAMES = ["Faces_easy", "automobile", "wild_cat", "BACKGROUND_Google_with_more"]


def random_images(count, side=32, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def random_tables(count, k, seed=0):
    generator = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(count, generator=generator)[:k] for _ in range(count)])
    return indices, torch.rand(count, k, generator=generator).sort(1, descending=True).values


def texts_of(figure):
    """The texts that a reader sees; a tick outside the axes' limits has one that is never drawn."""
    legends = [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]
    texts = [*figure.texts, *(text for legend in legends for text in legend.get_texts())]
    for axes in figure.axes:
        texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [text for text in texts if text.get_text().strip() and text.get_visible()]


def assert_legible(figure):
    FigureCanvasAgg(figure).draw()
    extents = [(text.get_text(), text.get_window_extent()) for text in texts_of(figure)]
    bounds = figure.bbox
    for text, box in extents:
        inside = box.x0 >= -0.5 and box.y0 >= -0.5 and box.x1 <= bounds.x1 + 0.5 and box.y1 <= bounds.y1 + 0.5
        assert inside, f"{text!r} is cut off"
    for (text, box), (other, other_box) in itertools.combinations(extents, 2):
        assert not box.padded(-0.5).overlaps(other_box.padded(-0.5)), f"{text!r} is on {other!r}"
    assert min(text.get_fontsize() for text in texts_of(figure)) >= 8


def labels_below(figure):
    return [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]


def frames_of(axes):
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("k", [1, 5, 10])
def test_a_neighbor_grid_is_legible(k, side):
    images, labels = random_images(12, side), torch.arange(12) % 4
    figure = neighbor_grid(images, [3, 0], *random_tables(12, k), labels, CLASS_NAMES, title="Neighbours by cosine")
    assert_legible(figure)


def test_marks_names_and_similarities_are_those_of_the_tables():
    labels, (indices, similarities) = torch.arange(12) % 4, random_tables(12, 5)
    figure = neighbor_grid(random_images(12), [7, 2], indices, similarities, labels, ["a", "b", "c", "d"])
    shown = labels_below(figure)
    for query, row in zip([7, 2], (shown[:6], shown[6:12]), strict=True):
        assert row[0] == f"{'abcd'[query % 4]}\nid {query}"
        for label, index, similarity in zip(row[1:], indices[query].tolist(), similarities[query], strict=True):
            mark = "✓" if index % 4 == query % 4 else "✗"
            assert label == f"{mark} {'abcd'[index % 4]}\n{similarity:.3f}"


def test_hits_and_misses_differ_in_more_than_colour():
    indices, similarities = torch.tensor([[1, 2], [0, 2], [0, 1]]), torch.ones(3, 2)
    figure = neighbor_grid(random_images(3), [0], indices, similarities, torch.tensor([0, 0, 1]))
    _, _, hit, miss = figure.axes
    (hit_frame,), (miss_frame,) = frames_of(hit), frames_of(miss)
    assert hit.get_xlabel().startswith("✓ class 0")
    assert miss.get_xlabel().startswith("✗ class 1")
    assert colors.same_color(hit_frame.get_edgecolor(), plots.BLUE)
    assert colors.same_color(miss_frame.get_edgecolor(), plots.VERMILION)
    assert hit_frame.get_linestyle() in ("-", "solid")
    assert miss_frame.get_linestyle() not in ("-", "solid")


def test_a_neighbor_grid_without_labels_marks_nothing():
    figure = neighbor_grid(random_images(6), [1], *random_tables(6, 3))
    assert not any(mark in text.get_text() for text in texts_of(figure) for mark in "✓✗")
    assert all(not frames_of(axes) for axes in figure.axes[2:])
    assert_legible(figure)


def test_unlabelled_neighbors_are_neither_hit_nor_miss():
    figure = neighbor_grid(random_images(3), [0], torch.tensor([[1]] * 3), torch.ones(3, 1), torch.tensor([0, -1, 0]))
    assert labels_below(figure) == ["class 0\nid 0", "unlabelled\n1.000"]
    assert not frames_of(figure.axes[2])


def test_neighbors_come_from_the_gallery_where_there_is_one():
    images, gallery = torch.zeros(2, 3, 8, 8), torch.ones(3, 3, 8, 8)
    indices, similarities = torch.tensor([[2], [0]]), torch.ones(2, 1)
    figure = neighbor_grid(
        images, [0], indices, similarities, torch.tensor([1, 0]), None, gallery, torch.tensor([0, 0, 1])
    )
    query, _, neighbor = figure.axes
    assert query.images[0].get_array().max() == 0
    assert neighbor.images[0].get_array().min() == 1
    assert neighbor.get_xlabel() == "✓ class 1\n1.000"


def test_neighbor_tables_may_be_arrays():
    indices, similarities = (table.numpy() for table in random_tables(6, 3))
    images = (random_images(6) * 255).byte().numpy()
    figure = neighbor_grid(images, np.array([4]), indices, similarities, np.zeros(6, dtype=np.int64))
    assert labels_below(figure)[1] == f"✓ class 0\n{similarities[4, 0]:.3f}"


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


def records(count, seed=0):
    losses = np.random.default_rng(seed).normal(4, 0.1, count)
    return [{"step": step, "loss": float(loss), "learning_rate": 0.1} for step, loss in enumerate(losses)]


def test_the_chance_line_is_at_ln_2n_minus_1_and_says_so():
    figure = loss_curve({"run": records(100)}, batch_size=64)
    (chance,) = (line for line in figure.axes[0].lines if line.get_label() == "chance")
    assert list(chance.get_ydata()) == [math.log(127)] * 2
    assert any("ln(2·64−1)\n= 4.84" in text.get_text() for text in texts_of(figure))


@pytest.mark.parametrize("count", [1, 2, 49, 500])
def test_the_bold_line_is_the_running_mean(count):
    run = records(count)
    every_step, mean = loss_curve({"run": run}, batch_size=8).axes[0].lines[:2]
    losses, window = [record["loss"] for record in run], max(1, count // 50)
    expected = [np.mean(losses[max(0, step + 1 - window) : step + 1]) for step in range(count)]
    np.testing.assert_allclose(every_step.get_ydata(), losses)
    np.testing.assert_allclose(mean.get_ydata(), expected)
    assert mean.get_linewidth() > 2 * every_step.get_linewidth()
    assert count > 1 or mean.get_marker() == "o"


def test_runs_of_records_and_of_arrays_share_a_figure_and_a_legend():
    other = [{"step": 0, "knn": 0.3}, *records(30)]  # a line without a loss is not a step
    figure = loss_curve({"with colour": other, "without colour": (np.arange(40), np.ones(40))}, 16, "Two runs")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["with colour", "without colour"]
    assert len(figure.axes[0].lines[0].get_ydata()) == 30
    assert_legible(figure)


@pytest.mark.parametrize("count", [1, 8])
def test_a_loss_curve_is_legible_with_one_step_and_with_many_runs(count):
    assert_legible(loss_curve({f"a run of number {index}": records(1 + index) for index in range(count)}, 4096, "Runs"))


def test_the_legend_hides_no_data():
    figure = loss_curve({"run": records(50)}, 64)
    FigureCanvasAgg(figure).draw()
    assert not figure.legends[0].get_window_extent().overlaps(figure.axes[0].get_window_extent())


SCORES = {
    "class": {"untrained": 0.61, "without colour": 0.2, "with colour": 1.0},
    "colour": {"untrained": 0.11, "without colour": 0.92, "with colour": 0.0},
}


def test_score_bars_print_their_values_and_chance():
    figure = score_bars(SCORES, "kNN accuracy", chance={"class": 0.1, "colour": 0.125})
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.61, 0.2, 1.0, 0.11, 0.92, 0.0]
    assert {text.get_text() for text in axes.texts} >= {"0.610", "1.000", "0.000", "chance 0.100", "chance 0.125"}
    assert [line.get_xdata()[0] for line in axes.lines] == [0.1, 0.125]
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "class",
        *SCORES["class"],
        "colour",
        *SCORES["class"],
    ]
    assert_legible(figure)


@pytest.mark.parametrize(("chance", "lines"), [(None, 0), (0.02, 2), (0.97, 2), ({"class": 0.5}, 1)])
def test_score_bars_are_legible_wherever_chance_is(chance, lines):
    figure = score_bars(SCORES, chance=chance)
    assert len(figure.axes[0].lines) == lines
    assert_legible(figure)


def test_one_name_keeps_its_colour_in_every_group():
    bars = score_bars({"a": {"x": 0.1, "y": 0.2}, "b": {"y": 0.3, "x": 0.4}}).axes[0].patches
    assert bars[0].get_facecolor() == bars[3].get_facecolor() != bars[1].get_facecolor() == bars[2].get_facecolor()


def test_save_figure_writes_a_png_at_twice_the_size_on_screen(tmp_path):
    figure = image_grid(random_images(2))
    path = save_figure(figure, tmp_path / "runs" / "one" / "figures" / "images.png")
    height, width = image.imread(path).shape[:2]
    assert [width, height] == pytest.approx(list(2 * figure.dpi * figure.get_size_inches()), abs=1)


def test_a_drawing_is_also_written_as_svg_with_the_same_bytes_each_time(tmp_path):
    def write(name):
        return save_figure(loss_curve({"run": records(50)}, 64, "Title"), tmp_path / name).with_suffix(".svg")

    drawing = write("a.png").read_bytes()
    assert drawing == write("b.png").read_bytes()
    assert drawing.lstrip().startswith(b"<?xml")
    assert b"</svg>" in drawing
    assert b"<text" not in drawing  # outlines: the reader needs no font
    assert b"<dc:date>" not in drawing


def test_images_and_large_drawings_have_no_svg_and_leave_none_of_an_earlier_figure(tmp_path):
    many = {f"run {run}": (np.arange(3000), np.random.default_rng(run).normal(size=3000)) for run in range(6)}
    for figure in (image_grid(random_images(2)), loss_curve(many, 8)):
        assert save_figure(loss_curve({"run": records(5)}, 8), tmp_path / "one.png").with_suffix(".svg").exists()
        save_figure(figure, tmp_path / "one.png")
        assert [path.name for path in tmp_path.iterdir()] == ["one.png"]


def test_an_image_in_an_inset_counts_as_one(tmp_path):
    figure = loss_curve({"run": records(5)}, 8)
    figure.axes[0].inset_axes([0.5, 0.5, 0.2, 0.2]).imshow(np.ones((2, 2, 3)))
    assert not save_figure(figure, tmp_path / "one.png").with_suffix(".svg").exists()


def test_the_background_is_white_and_opaque_whatever_the_readers_style(tmp_path):
    with style.context("dark_background"):
        figure = loss_curve({"run": records(5)}, 8, "Title")
        pixels = image.imread(save_figure(figure, tmp_path / "loss.png"))
    assert pixels[0, 0].tolist() == [1, 1, 1, 1]
    assert {colors.to_hex(text.get_color()) for text in texts_of(figure)} <= {"#000000", plots.GREY}


def test_a_figure_is_shown_once_by_itself_and_not_by_pyplot():
    figure = image_grid(random_images(2))
    assert isinstance(figure, Figure)
    if "matplotlib.pyplot" in sys.modules:
        assert not sys.modules["matplotlib.pyplot"].get_fignums()
    bundle, metadata = figure._repr_mimebundle_()
    assert list(bundle) == ["image/png"]
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert metadata["image/png"]["width"] == int(figure.get_size_inches()[0] * figure.dpi)


def test_photographs_are_shown_small_in_their_colours_and_saved_at_twice_the_size(tmp_path):
    color = torch.rand(12, 3, 1, 1).expand(-1, -1, 96, 96)
    figure = image_grid((color + 0.2 * (torch.rand(12, 3, 96, 96) - 0.5)).clamp(0, 1))
    saved = Image.open(save_figure(figure, tmp_path / "grid.png")).convert("RGB")
    bundle, metadata = figure._repr_mimebundle_()
    assert list(bundle) == list(metadata) == ["image/jpeg"]
    shown = Image.open(io.BytesIO(base64.b64decode(bundle["image/jpeg"])))
    assert (metadata["image/jpeg"]["width"], metadata["image/jpeg"]["height"]) == shown.size
    assert saved.size == (2 * shown.width, 2 * shown.height)
    saved, shown = (np.asarray(picture.resize((200, 100)), float) for picture in (saved, shown))
    assert np.abs(saved - shown).mean() < 1  # of 255
    assert np.abs(saved - shown).max() < 24


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: image_grid(random_images(0)), r"images: expected at least one, got none"),
        (lambda: image_grid(random_images(2), ["one"]), r"titles: expected 2, one an image, got 1"),
        (lambda: image_grid(torch.rand(2, 8, 8, 3)), r"image: expected \(3, S, S\), got \(8, 8, 3\)"),
        (lambda: view_pairs(random_images(2), random_images(1), random_images(2)), r"got 2 images, 1 and 2 views"),
        (lambda: neighbor_grid(random_images(4), [], *random_tables(4, 2)), r"query_ids: expected at least one"),
        (lambda: neighbor_grid(random_images(5), [0], *random_tables(4, 2)), r"expected both \(N, k\) for 5 images"),
        (lambda: loss_curve({}, 8), r"curves: expected at least one"),
        (lambda: loss_curve({"run": []}, 8), r'run: expected records with "step" and "loss"'),
        (lambda: loss_curve({"run": [{"step": 1}]}, 8), r'run: expected records with "step" and "loss"'),
        (lambda: loss_curve({"run": ([1, 2], [0.5])}, 8), r'run: expected records with "step" and "loss"'),
        (lambda: score_bars({}), r"scores: expected at least one"),
        (lambda: save_figure(image_grid(random_images(1)), "figure.svg"), r"path: expected a name that ends in .png"),
        (lambda: score_bars({"a": {"x": 61.0}}), r"scores: expected shares in \[0, 1\], got 61.0 for x"),
    ],
)
def test_figures_say_what_they_expect(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
