"""How figures are shown and saved."""

import base64
import io
import sys

import numpy as np
import pytest
import torch
from figure_reading import ENCODERS, assert_legible, random_images, steps, texts_of
from matplotlib import colors, image, style
from matplotlib.figure import Figure
from pandas import DataFrame
from PIL import Image

from simclr_lib.figures import canvas
from simclr_lib.figures.canvas import save_figure
from simclr_lib.figures.photographs import image_grid, neighbor_grid
from simclr_lib.figures.scores import class_bars, embedding_map, score_bars
from simclr_lib.figures.training import loss_curve


def test_save_figure_writes_a_png_at_twice_the_size_on_screen(tmp_path):
    figure = image_grid(random_images(2))
    path = save_figure(figure, tmp_path / "runs" / "one" / "figures" / "images.png")
    height, width = image.imread(path).shape[:2]
    assert [width, height] == pytest.approx(list(2 * figure.dpi * figure.get_size_inches()), abs=1)


def test_nothing_but_the_png_is_written(tmp_path):
    save_figure(loss_curve({"run": steps(5)}, 8), tmp_path / "one.png")
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]
    with pytest.raises(ValueError, match=r"path: .*\.png.*figure\.svg"):
        save_figure(image_grid(random_images(1)), tmp_path / "figure.svg")


def test_dollar_signs_are_no_formulas():
    name, scores = "costs $5_0$ or $x", DataFrame({"costs $5_0$ or $x": [0.5]}, index=["costs $5_0$ or $x"])
    tables = (torch.zeros(2, 1, dtype=int), torch.ones(2, 1))
    for figure in (
        image_grid(random_images(1), [name], title=name),
        neighbor_grid(random_images(2), [0], {name: tables}, [0, 0], [name]),
        score_bars(scores, name),
        class_bars(scores, title=name),
        loss_curve({name: steps(5)}, 8, name),
        embedding_map(np.zeros((1, 2)), random_images(1), [0], [name], title=name),
    ):
        assert_legible(figure)
        shown = [text for text in texts_of(figure) if "$" in text.get_text()]
        assert shown
        assert not any(text.get_parse_math() for text in shown)


def test_the_background_is_white_and_opaque_whatever_the_readers_style(tmp_path):
    with style.context("dark_background"):
        figure = loss_curve({"run": steps(5)}, 8, "Title")
        pixels = image.imread(save_figure(figure, tmp_path / "loss.png"))
    assert pixels[0, 0].tolist() == [1, 1, 1, 1]
    assert {colors.to_hex(text.get_color()) for text in texts_of(figure)} <= {"#000000", canvas.GREY}


def test_names_are_cut_to_the_width_they_have():
    assert canvas.elided("cat", 1) == "cat"
    assert canvas.elided(ENCODERS[-1], 50) == ENCODERS[-1]
    short = canvas.elided(ENCODERS[-1], 1)
    assert short.endswith("…")
    assert ENCODERS[-1].startswith(short[:-1])
    figure = canvas.new_figure(3, 1, None)
    widths = [figure.text(0, 0, text, fontsize=canvas.TYPE).get_window_extent().width for text in (short, short + "m")]
    assert widths[0] <= 1.02 * figure.dpi < widths[1] + 1


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


def test_images_in_a_map_count_as_photographs():
    figure = embedding_map(np.random.default_rng(0).uniform(0, 1, (60, 2)), random_images(60, 96))
    bundle, _ = figure._repr_mimebundle_()
    assert list(bundle) == ["image/jpeg"]
