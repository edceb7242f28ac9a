"""What a reader finds in a figure, and what figures are drawn from: shared by the tests of all figures."""

import itertools

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle

ENCODERS = ["before training", "10 epochs", "h", "z", "run A", "without colour augmentation, 100 epochs, batch 512"]


def random_images(count, side=32, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def steps(count, rate=0.3, seed=0):
    losses = np.random.default_rng(seed).normal(4, 0.3, count)
    rates = rate * np.linspace(1, 0, count) ** 2
    return [
        {"kind": "step", "step": step, "epoch": 0, "loss": float(loss), "learning_rate": float(each)}
        for step, (loss, each) in enumerate(zip(losses, rates, strict=True))
    ]


def texts_of(figure):
    """The texts that a reader sees; a tick outside the axes' limits has one that is never drawn."""
    legends = [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]
    texts = [*figure.texts, *(text for legend in legends for text in legend.get_texts())]
    for axes in figure.axes:
        texts += [axes.title, axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
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
    assert min(text.get_fontsize() for text in texts_of(figure)) >= 8.5


def frames_of(axes):
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]
