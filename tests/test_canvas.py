"""How figures are shown and saved."""

import base64
import io
import sys

import numpy as np
import pytest
import torch
from matplotlib import colors, image, style
from matplotlib.figure import Figure
from PIL import Image
from test_histories import steps
from test_plots import random_images, texts_of

from simclr_lib import canvas
from simclr_lib.canvas import save_figure
from simclr_lib.histories import loss_curve
from simclr_lib.plots import image_grid


def test_save_figure_writes_a_png_at_twice_the_size_on_screen(tmp_path):
    figure = image_grid(random_images(2))
    path = save_figure(figure, tmp_path / "runs" / "one" / "figures" / "images.png")
    height, width = image.imread(path).shape[:2]
    assert [width, height] == pytest.approx(list(2 * figure.dpi * figure.get_size_inches()), abs=1)


def test_a_drawing_is_also_written_as_svg_with_the_same_bytes_each_time(tmp_path):
    def write(name):
        return save_figure(loss_curve({"run": steps(50)}, 64, "Title"), tmp_path / name).with_suffix(".svg")

    drawing = write("a.png").read_bytes()
    assert drawing == write("b.png").read_bytes()
    assert drawing.lstrip().startswith(b"<?xml")
    assert b"</svg>" in drawing
    assert b"<text" not in drawing  # outlines: the reader needs no font
    assert b"<dc:date>" not in drawing


def test_images_and_large_drawings_have_no_svg_and_leave_none_of_an_earlier_figure(tmp_path):
    many = {f"run {run}": steps(3000, seed=run) for run in range(6)}
    for figure in (image_grid(random_images(2)), loss_curve(many, 8)):
        assert save_figure(loss_curve({"run": steps(5)}, 8), tmp_path / "one.png").with_suffix(".svg").exists()
        save_figure(figure, tmp_path / "one.png")
        assert [path.name for path in tmp_path.iterdir()] == ["one.png"]


def test_an_image_in_an_inset_counts_as_one(tmp_path):
    figure = loss_curve({"run": steps(5)}, 8)
    figure.axes[0].inset_axes([0.5, 0.5, 0.2, 0.2]).imshow(np.ones((2, 2, 3)))
    assert not save_figure(figure, tmp_path / "one.png").with_suffix(".svg").exists()


def test_the_background_is_white_and_opaque_whatever_the_readers_style(tmp_path):
    with style.context("dark_background"):
        figure = loss_curve({"run": steps(5)}, 8, "Title")
        pixels = image.imread(save_figure(figure, tmp_path / "loss.png"))
    assert pixels[0, 0].tolist() == [1, 1, 1, 1]
    assert {colors.to_hex(text.get_color()) for text in texts_of(figure)} <= {"#000000", canvas.GREY}


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
