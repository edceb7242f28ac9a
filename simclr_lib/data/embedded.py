"""The embedded data set: patterns whose class is their form and whose colour is a nuisance.

Each image shows one kind of pattern, its class, in a single hue at two brightnesses. The hue is the image's own, so
it tells the two views of an image from nearly every other image: a model that is not made to ignore colour need not
learn form at all. It is the story of iterations 1 and 2, at a size that two cores train in minutes.

N images of SIZE x SIZE pixels; x and y are a pixel's place within its cell of the pattern, from -1/2 to 1/2.
"""

import torch
from torch import Tensor

SIZE = 32
IMAGES = {"train": 4000, "test": 1000}

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

    split: "train", 4,000 images, or "test", 1,000.
    """
    generator = torch.Generator().manual_seed(2 * seed + (split == "test"))
    labels = torch.arange(IMAGES[split]) % len(PATTERNS)
    return _paint(_forms(labels, generator), generator), labels, list(PATTERNS)


def _forms(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Where each image's pattern is on, bool (N, SIZE, SIZE), at a period and a place of its own."""
    n, pixels = len(labels), torch.arange(SIZE)
    period = _uniform(n, 6.0, 9.0, generator)  # pixels; one would give the class away by the scale alone
    x, y = (_cell(axis / period + _uniform(n, 0, 1, generator)) for axis in (pixels, pixels[:, None]))
    x, y = torch.broadcast_tensors(x, y)  # (N, SIZE, SIZE)
    return torch.stack([pattern(x, y) for pattern in PATTERNS.values()])[labels, torch.arange(n)]


def _paint(forms: Tensor, generator: torch.Generator) -> Tensor:
    """The patterns in colour, (N, 3, SIZE, SIZE) uint8: one hue an image, two brightnesses, a little noise."""
    n = len(forms)
    hue = _uniform(n, 0, 1, generator)
    distance = _cell(hue - torch.tensor([0, 1 / 3, 2 / 3])[None, :, None] + 0.5).abs()  # from each channel's own hue
    color = (2 - 6 * distance).clamp(0, 1)[..., None]  # (N, 3, 1, 1), fully saturated
    saturation = _uniform(n, 0.6, 1.0, generator)[..., None]
    bright, dark = _uniform(n, 0.6, 1.0, generator), _uniform(n, 0.15, 0.4, generator)
    forms = forms ^ (_uniform(n, 0, 1, generator) < 0.5)  # what is bright in one image is dark in another
    images = torch.where(forms, bright, dark)[:, None] * (1 - saturation * (1 - color))  # in [0, 1]
    images = images + 0.04 * torch.randn(images.shape, generator=generator)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def _cell(t: Tensor) -> Tensor:
    return t - t.floor() - 0.5


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, 1, 1, generator=generator)
