"""How every figure looks: one style, readable on light and dark pages, shown once and saved at twice the size.

Colours are told apart by colour-blind readers too; images are (3, S, S), uint8 or float in [0, 1].
"""

import base64
import io
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style, text
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from PIL import Image

from simclr_lib.engine.checks import require
from simclr_lib.engine.paths import user_path

# Okabe & Ito 2008, "Color Universal Design", without the yellow, which is faint on white.
COLORS = BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY = "#595959"
MARKERS = "osD^vPX"  # told apart without colours too; seven to six colours, so that in turn 42 pairs differ
DASHED = {"color": "black", "linestyle": (0, (4, 3)), "linewidth": 1.2}  # what values are compared with
TYPE = 9  # points: all but titles of figures; read without effort at the size on screen
JOINERS = "\u200b\u200c\u200d"  # invisible: between words; between Persian and Indic letters
PNG_BYTES = 300_000  # above it photographs are shown as JPEG at 1x
OPEN = {"axes.spines.top": False, "axes.spines.right": False}  # axes without a box around them
TEXTS = {"font.size": TYPE, "axes.titlesize": TYPE, "text.parse_math": False}  # a dollar sign in a name is no formula
# Not left to the reader's own style: a dark one has white text. The default has an opaque white background, and a font,
# DejaVu Sans, that has the signs of hit and miss and comes with matplotlib.
styled = style.context(["default", OPEN, TEXTS])


class InlineFigure(Figure):
    """A figure that shows itself once, as the last expression of a cell; pyplot neither knows nor needs it.

    It is shown at 2x; a large one of photographs at 1x, as JPEG, since PNGs would make a report of 10 MB, and most
    photographs show no more at 2x. Saved files have 2x in any case.
    """

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        buffer, kind = io.BytesIO(), "image/png"
        width, height = (int(side) for side in self.get_size_inches() * self.dpi)
        _save_png(self, buffer)
        if buffer.tell() > PNG_BYTES and any(axes.images for axes in self.axes):
            picture = Image.open(buffer).convert("RGB").reduce(2)
            buffer, kind = io.BytesIO(), "image/jpeg"
            picture.save(buffer, "JPEG", quality=90, subsampling=0)  # frames and letters have sharp colours
        return {kind: base64.b64encode(buffer.getvalue()).decode()}, {kind: {"width": width, "height": height}}


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a PNG at twice the size on screen, creating the folders above it; returns the path.

    Raises ValueError on a path that does not end in .png.
    """
    path = user_path(path, "path")
    require(path.suffix == ".png", "path", "a name that ends in .png", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _save_png(figure, path)
    return path


def _save_png(figure: Figure, target: Any) -> None:
    for label in figure.findobj(text.Text):
        label.set_fontfamily(_families(label.get_text()))
    figure.savefig(target, format="png", dpi=2 * figure.dpi, facecolor="auto", transparent=False)


def new_figure(width: float, height: float, title: str | None) -> InlineFigure:
    """An empty figure whose drawing area is about width x height inches; the title breaks into lines that fit."""
    width = max(width, 2.5)
    lines = textwrap.wrap(drawable(" ".join((title or "").split())), int(width * 9))
    figure = InlineFigure(figsize=(width, height + 0.25 * len(lines) + 0.1), layout="constrained")
    figure.suptitle("\n".join(lines), fontsize=12)
    return figure


def legend_below(figure: Figure, columns: int = 3) -> Figure:
    """Add a legend of all that has a label under the axes, where it hides no data; returns the figure."""
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)
    return figure


def show_image(axes: Axes, image: Any) -> None:
    """An image without axes. Small ones are drawn as the pixels they are; thinning out large ones needs a filter."""
    pixels = np.asarray(image)
    require(pixels.ndim == 3 and len(pixels) == 3, "image", "(3, S, S)", pixels.shape, "channels come first")
    axes.imshow(pixels.transpose(1, 2, 0), interpolation="nearest" if max(pixels.shape) <= 128 else "antialiased")
    axes.set(xticks=[], yticks=[], frame_on=False)


def frame(axes: Axes, **look: Any) -> None:
    """A frame around the image, not over it, so that its dashes stand on white; `look` is that of a Rectangle."""
    axes.add_patch(Rectangle((-0.02, -0.02), 1.04, 1.04, transform=axes.transAxes, clip_on=False, fill=False, **look))


def elided(name: str, width: float) -> str:
    """As much of a name as `width` inches hold, with an ellipsis where that is not all; `drawable`."""
    shown = drawable(name[:80] + "…" * (len(name) > 80))  # more fit nowhere, and to measure them takes its time
    font = FontProperties(family=_families(shown), size=TYPE)
    while text_to_path.get_text_width_height_descent(shown, font, ismath=False)[0] > 72 * width:
        shown = shown.removesuffix("…")[:-1] + "…"
    return shown


def drawable(name: str) -> str:
    """A name on one line, in which all is escaped that no installed font has, and what is no sign, such as a line break
    or what turns the digits beside it around."""
    signs = {sign for sign in name if (sign.isprintable() or sign in JOINERS) and _family_with(sign)}
    # What begins with _, matplotlib leaves out of legends.
    return JOINERS[0] * name.startswith("_") + "".join(sign if sign in signs else ascii(sign)[1:-1] for sign in name)


def _families(shown: str) -> list[str]:
    return list(dict.fromkeys(["sans-serif", *filter(None, map(_family_with, shown))]))


@cache
def _family_with(sign: str) -> str:
    """The family of a font that has it: the usual one before all others; empty where none has more than a box."""
    fonts = [("sans-serif", findfont(FontProperties())), *((font.name, font.fname) for font in fontManager.ttflist)]
    return next((name for name, path in fonts if "Resort" not in name and get_font(path).get_char_index(ord(sign))), "")
