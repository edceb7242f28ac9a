"""How figures are shown and saved."""

import base64
import io
import sys
import warnings

import numpy as np
import pytest
import torch
from figure_reading import ENCODERS, assert_legible, random_images, steps, texts_of
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import colors, image, style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from PIL import Image

from simclr_lib.figures import canvas
from simclr_lib.figures.canvas import save_figure
from simclr_lib.figures.photographs import image_grid, neighbor_grid
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
    name = "costs $5_0$ or $x"
    tables = (torch.zeros(2, 1, dtype=int), torch.ones(2, 1))
    for figure in (
        image_grid(random_images(1), [name], title=name),
        neighbor_grid(random_images(2), [0], {name: tables}, [0, 0], [name]),
        loss_curve({name: steps(5)}, 8, name),
    ):
        assert_legible(figure)
        shown = [text for text in texts_of(figure) if "$" in text.get_text()]
        assert shown
        assert not any(text.get_parse_math() for text in shown)


NAMES = ["猫と犬", "قطة صغيرة", "🐱 cat", "caf\udce9", "two\nlines", "tab\tand\rreturn", "bell\x07\x00\x7f", "हिन्दी"]
NAMES += [
    "$x_1$",
    "$",
    "\\alpha",
    "%s {x} \\n",
    "a" * 400,
    "猫" * 60,
    "e\u0301",
    "نیم\u200cفاصله",
    "\U0010ffff",
    "_hidden",
]
NAMES += ["", " ", "\u202ereversed", "\ufffe", "𝔸", "\ue000", "<b>&amp;</b>"]


def all_figures(names: list[str]) -> list[Figure]:
    """Every figure that shows names, with these as classes, encoders, runs and titles."""
    count = len(names)
    images, labels = random_images(count, 8), torch.arange(count)
    tables = (labels.roll(1)[:, None], torch.ones(count, 1))
    some = names[:3]
    return [
        image_grid(images, names, title=names[0]),
        neighbor_grid(images, [0], {name: tables for name in some}, labels, names, names[-1]),
        loss_curve({name: steps(5) for name in some}, 8, names[0]),
    ]


@pytest.mark.parametrize("start", range(0, len(NAMES), 5))
def test_any_name_draws_without_a_warning(start, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in all_figures(NAMES[start : start + 5]):
            save_figure(figure, tmp_path / "figure.png")


def test_what_no_font_has_is_escaped_and_what_is_no_sign_too():
    assert canvas.drawable("two\nlines\tof\x07") == r"two\nlines\tof\x07"
    assert canvas.drawable("caf\udce9") == r"caf\udce9"
    assert canvas.drawable("\U0010ffff\u202e\ue000") == r"\U0010ffff\u202e\ue000"
    for name in ("plain", "Ünïcödé", "قطة", "🐱", "$x_1$", "\\alpha", "✓ ✗", "نیم\u200cفاصله", ""):
        assert canvas.drawable(name) == name


def test_a_name_with_an_underscore_in_front_is_in_the_legend():
    figure = loss_curve({"_run": steps(3)}, 8)
    assert [text.get_text().lstrip("\u200b") for text in figure.legends[0].get_texts()] == ["_run"]


def test_a_long_name_is_cut_wherever_it_is_shown():
    for figure in all_figures(["w" * 400, "b", "c"]):
        FigureCanvasAgg(figure).draw()
        texts = [text for text in texts_of(figure) if text is not figure._suptitle]
        assert max(text.get_window_extent().width for text in texts) < 4.2 * figure.dpi


def install_font(path, family: str, character: str) -> None:
    """A font with one sign, a black square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "sign"])
    font.setupCharacterMap({ord(character): "sign"})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "sign": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (1000, 0), "sign": (1000, 0)})
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=100)
    font.setupPost()
    font.save(path)
    fontManager.addfont(path)


@pytest.fixture
def fonts(tmp_path):
    """A function that installs a font with one sign, for one test."""
    installed = list(fontManager.ttflist)
    canvas._family_with.cache_clear()
    yield lambda family, character: install_font(tmp_path / f"{family}.ttf", family, character)
    fontManager.ttflist[:] = installed
    canvas._family_with.cache_clear()


def test_a_sign_is_drawn_in_an_installed_font_that_has_it(fonts, tmp_path):
    blank = torch.ones(1, 3, 8, 8)
    assert image_grid(blank, ["\u9f98"]).axes[0].get_title() == r"\u9f98"
    fonts("Squares of a test", "\u9f98")  # which no font of this machine is likely to have
    canvas._family_with.cache_clear()
    figure = image_grid(blank, ["\u9f98"])
    assert figure.axes[0].get_title() == "\u9f98"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved = np.asarray(Image.open(save_figure(figure, tmp_path / "squares.png")).convert("L"))
        bundle, _ = image_grid(blank, ["\u9f98"])._repr_mimebundle_()
    side = 0.9 * canvas.TYPE / 72 * 2 * figure.dpi  # of the square, in pixels
    for drawn in (saved, np.asarray(Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).convert("L"))):
        assert (drawn < 128).sum() == pytest.approx(side**2, rel=0.15)


def test_the_usual_font_is_kept_where_it_has_the_sign(fonts, tmp_path):
    fonts("Another of a test", "a")
    canvas._family_with.cache_clear()
    assert canvas._families("as usual: Ünïcödé") == ["sans-serif"]
    figure = image_grid(torch.ones(1, 3, 8, 8), ["a"])
    usual = image.imread(save_figure(figure, tmp_path / "a.png"))
    fontManager.ttflist[:] = [font for font in fontManager.ttflist if font.name != "Another of a test"]
    assert np.array_equal(usual, image.imread(save_figure(figure, tmp_path / "again.png")))


def test_a_font_of_boxes_for_every_sign_is_not_taken(fonts):
    fonts("Last Resort of a test", "\u9f98")
    canvas._family_with.cache_clear()
    assert canvas.drawable("\u9f98") == r"\u9f98"


def test_a_title_breaks_by_what_is_shown():
    figure = image_grid(random_images(3), title="\U0010ffff" * 12 + " and " + "w" * 10)
    assert_legible(figure)
    assert image_grid(random_images(1), title="of two\nlines").get_suptitle() == "of two lines"


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
