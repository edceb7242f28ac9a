"""How every figure looks: one style, readable on light and dark pages, shown once and saved at twice the size.

Colours are told apart by colour-blind readers too; images are (3, S, S), uint8 or float in [0, 1].
"""

import base64
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context, style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from PIL import Image

# Okabe & Ito 2008, "Color Universal Design", without the yellow, which is faint on white.
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
COLORS, GREY = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY), "#595959"
MARKERS = "osD^vP"  # told apart without colours too
DASHED = {"color": "black", "linestyle": (0, (4, 3)), "linewidth": 1.2}  # what values are compared with
HIT, MISS = "✓", "✗"
SMALL = 8.5  # points, the least that is read without effort at the size on screen
CELL = 1.2  # inches, the side of an image in a grid
SVG_BYTES = PNG_BYTES = 300_000  # above it there is no SVG, and photographs are shown as JPEG at 1x
STYLE = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib and has the marks of hit and miss
    "font.size": 10,
    "figure.facecolor": "white",  # opaque: black text stays readable on a dark page
    "figure.dpi": 100,
    "figure.titlesize": 12,
    "axes.titlesize": SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelpad": 4,
}
styled = style.context(["default", STYLE])  # not left to the reader's own style: a dark one has white text


class InlineFigure(Figure):
    """A figure that shows itself once, as the last expression of a cell; pyplot neither knows nor needs it.

    It is shown at 2x; a large one of photographs at 1x, as JPEG, since PNGs would make a report of 10 MB, and most
    photographs show no more at 2x. Saved files have 2x in any case.
    """

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        buffer, kind = io.BytesIO(), "image/png"
        width, height = (int(side) for side in self.get_size_inches() * self.dpi)
        _save_png(self, buffer)
        if len(buffer.getvalue()) > PNG_BYTES and self.findobj(AxesImage):
            picture = Image.open(buffer).convert("RGB").resize((width, height), Image.Resampling.BOX)
            buffer, kind = io.BytesIO(), "image/jpeg"
            picture.save(buffer, "JPEG", quality=90, subsampling=0)  # frames and letters have sharp colours
        return {kind: base64.b64encode(buffer.getvalue()).decode()}, {kind: {"width": width, "height": height}}


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a PNG at twice the size on screen, creating the folders above it; returns the path.

    A drawing without images is written as SVG too, beside it, where that takes at most 300 kB.
    Raises ValueError on a path that does not end in .png.
    """
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"path: expected a name that ends in .png, got {path}; an SVG comes by itself")
    path.parent.mkdir(parents=True, exist_ok=True)
    _save_png(figure, path)
    drawing = path.with_suffix(".svg")
    drawing.unlink(missing_ok=True)  # that of an earlier figure would not show this one
    if not figure.findobj(AxesImage) and len(svg := _svg(figure)) <= SVG_BYTES:
        drawing.write_bytes(svg)
    return path


def new_figure(width: float, height: float, title: str | None) -> Figure:
    """An empty figure whose drawing area is about width x height inches; the title breaks into lines that fit."""
    width = max(width, 2.5)
    lines = textwrap.wrap(title, int(width * 9)) if title else []
    figure = InlineFigure(figsize=(width, height + 0.25 * len(lines) + 0.1), layout="constrained")
    if lines:
        figure.suptitle(plain("\n".join(lines)))
    return figure


def count(name: str, items: Any) -> int:
    """How many there are. Raises ValueError on none."""
    if len(items) == 0:
        raise ValueError(f"{name}: expected at least one, got none; there is nothing to draw")
    return len(items)


def legend_below(figure: Figure, handles: Sequence[Artist], columns: int = 3, **look: Any) -> None:
    """A legend under the axes, where it hides no data."""
    columns = min(columns, len(handles))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, **look)


def _save_png(figure: Figure, target: Any) -> None:
    figure.savefig(target, format="png", dpi=2 * figure.dpi, facecolor=figure.get_facecolor(), transparent=False)


def _svg(figure: Figure) -> bytes:
    """The same bytes for the same figure; letters are outlines, so that no reader needs the font."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "simclr", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def show_image(axes: Axes, image: Any) -> None:
    """An image without axes. Small ones are drawn as the pixels they are; thinning out large ones needs a filter."""
    pixels = _pixels(image)
    axes.imshow(pixels, interpolation="nearest" if max(pixels.shape) <= 128 else "antialiased")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _pixels(image: Any) -> np.ndarray:
    """(3, S, S) tensor or array on any device, uint8 or float -> (S, S, 3) as matplotlib takes it."""
    image = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image: expected (3, S, S), got {image.shape}; channels come first")
    pixels = image.transpose(1, 2, 0)
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32).clip(0, 1)


def frame(axes: Axes, color: str, width: float, linestyle: Any = "-") -> None:
    """A frame around the image, not over it, so that its dashes stand on white."""
    place = {"xy": (-0.02, -0.02), "width": 1.04, "height": 1.04, "transform": axes.transAxes, "clip_on": False}
    axes.add_patch(Rectangle(**place, fill=False, color=color, linewidth=width, linestyle=linestyle, capstyle="butt"))


def elided(text: str, width: float) -> str:
    """As much of a text as `width` inches hold of small type, with an ellipsis where that is not all."""
    font, shown = FontProperties(family=STYLE["font.family"], size=SMALL), text
    while shown and text_to_path.get_text_width_height_descent(shown, font, ismath=False)[0] > 72 * width:
        text = text[:-1]
        shown = text + "…"
    return plain(shown)


def plain(text: str) -> str:
    """The text with its dollar signs as such: names of files and classes are not formulas."""
    return text.replace("$", r"\$")
