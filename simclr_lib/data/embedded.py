"""The embedded data set: patterns whose class is their form and whose colour is a nuisance.

Each image shows one kind of pattern, its class, in a single hue at two brightnesses. The hue is the image's own, so
it tells the two views of an image from nearly every other image: a model that is not made to ignore colour need not
learn form at all. It is the story of iterations 1 and 2, at a size that two cores train in minutes.

N images of SIZE x SIZE pixels; x and y are a pixel's place within its cell of the pattern, from -1/2 to 1/2.
"""

import torch
from torch import Tensor

from simclr_lib.engine.checks import require

SIZE = 32
IMAGES = {"train": 4000, "test": 1000}
PERIODS = (6.0, 9.0)  # pixels; drawn for every image, so that the scale alone does not give the class away
NOISE = 0.04  # standard deviation, of intensities in [0, 1]
HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")

PATTERNS = {  # True where the pattern is bright (or dark: which of the two is drawn for every image)
    "bars": lambda x, y: y.abs() < 0.25,
    "columns": lambda x, y: x.abs() < 0.25,
    "checks": lambda x, y: (x > 0) ^ (y > 0),
    "discs": lambda x, y: x**2 + y**2 < 0.1,
    "rings": lambda x, y: ((x**2 + y**2).sqrt() - 0.33).abs() < 0.1,
    "lattice": lambda x, y: (x.abs() < 0.14) | (y.abs() < 0.14),
    "zigzags": lambda x, y: _cell(y + x.abs()).abs() < 0.25,
    "diamonds": lambda x, y: (x.abs() + y.abs() - 0.3).abs() < 0.12,
}


def generate(split: str = "train", seed: int = 0) -> tuple[Tensor, Tensor, list[str]]:
    """The images uint8 (N, 3, 32, 32), their labels int64 (N,) and the class names; the same for the same seed.

    Raises:
        ValueError: for a split other than "train" (4,000 images) and "test" (1,000).
    """
    require(split in IMAGES, "split of embedded", f"one of {', '.join(IMAGES)}", repr(split))
    generator = torch.Generator().manual_seed(2 * seed + (split == "test"))
    labels = torch.arange(IMAGES[split]) % len(PATTERNS)
    images = _paint(_forms(labels, generator), generator)
    return (images * 255).round().to(torch.uint8), labels, list(PATTERNS)


def color_labels(images: Tensor) -> Tensor:
    """The colour of each image, (N, 3, S, S) uint8, as an index into HUES, int64 (N,): the hue of its mean colour."""
    red, green, blue = images.float().mean(dim=(2, 3)).unbind(1)
    angle = torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue)  # on the colour circle, red at 0
    return (angle / (2 * torch.pi) * len(HUES)).round().long() % len(HUES)


def _forms(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Where each image's pattern is on, bool (N, SIZE, SIZE), at a period and a place of its own."""
    period, pixels = _uniform(len(labels), *PERIODS, generator), torch.arange(SIZE)
    x = _cell(pixels / period + _uniform(len(labels), 0, 1, generator))  # (N, 1, SIZE)
    y = _cell(pixels[:, None] / period + _uniform(len(labels), 0, 1, generator))  # (N, SIZE, 1)
    forms = torch.empty(len(labels), SIZE, SIZE, dtype=torch.bool)
    for label, pattern in enumerate(PATTERNS.values()):
        mine = labels == label
        forms[mine] = pattern(x[mine], y[mine])
    return forms


def _paint(forms: Tensor, generator: torch.Generator) -> Tensor:
    """The patterns in colour, (N, 3, SIZE, SIZE) in [0, 1]: one hue an image, two brightnesses, a little noise."""
    n = len(forms)
    hue = _uniform(n, 0, 1, generator)
    distance = _cell(hue - torch.tensor([0, 1 / 3, 2 / 3])[None, :, None] + 0.5).abs()  # from each channel's own hue
    color = (2 - 6 * distance).clamp(0, 1)[..., None]  # (N, 3, 1, 1), fully saturated
    saturation = _uniform(n, 0.6, 1.0, generator)[..., None]
    bright, dark = _uniform(n, 0.6, 1.0, generator), _uniform(n, 0.15, 0.4, generator)
    forms = forms ^ (_uniform(n, 0, 1, generator) < 0.5)  # what is bright in one image is dark in another
    value = torch.where(forms, bright, dark)[:, None]  # (N, 1, SIZE, SIZE)
    images = value * (1 - saturation * (1 - color))
    return (images + NOISE * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def _cell(t: Tensor) -> Tensor:
    return t - t.floor() - 0.5


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, 1, 1, generator=generator)
