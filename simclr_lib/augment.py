"""SimCLR's views, a whole batch at a time on the images' own device (Chen et al. 2020, appendix A).

Random resized crop and flip, colour jitter, greyscale, blur; each image has its own draw. What is random is drawn on
the CPU and kept apart from what is done with it, so that a slice of the draws gives that slice of the views.

Shapes: N images, H x W source pixels, S x S pixels of a view, T tries at a crop, K blur taps.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

AREA = (0.08, 1.0)  # of a crop, as a share of the image
RATIO = (3 / 4, 4 / 3)  # width / height of a crop
TRIES = 10  # at a crop that lies within the image, before the largest central one is taken
JITTER, HUE = 0.8, 0.2  # half-width of the colour factors, and of the hue shift in turns, at strength 1
P_FLIP, P_JITTER, P_GREY, P_BLUR = 0.5, 0.8, 0.2, 0.5
SIGMA = (0.1, 2.0)  # of the blur, in pixels of the view
LUMA = (0.2989, 0.587, 0.114)  # weights of red, green and blue in grey, as torchvision has them
CPU_PIXELS = 2**17  # of views at a time on a CPU: larger temporaries leave its cache and cost up to 1.7 times as much


@dataclass(frozen=True)
class Draws:
    """What is random about N views, on the CPU; independent of the images' size. `draws[2:5]` is a slice,
    `some + others` those of some views and then of others.

    Factors 1, 1, 1 with hue 0 leave colours alone, as sigma 0 leaves an image sharp.
    """

    area: Tensor  # (N, T) share of the image that each try at a crop covers
    ratio: Tensor  # (N, T) its width / height
    corner: Tensor  # (N, 2) top and left, as a share of the room that there is
    flip: Tensor  # (N,) bool
    factors: Tensor  # (N, 3) brightness, contrast, saturation
    hue: Tensor  # (N,) shift in turns of the colour circle
    turn: Tensor  # (N, 4) when brightness, contrast, saturation and hue come: a permutation of 0..3
    grey: Tensor  # (N,) bool
    sigma: Tensor  # (N,) of the blur, in pixels

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, rows: slice | Tensor) -> "Draws":
        return Draws(*(getattr(self, field.name)[rows] for field in fields(self)))

    def __add__(self, others: "Draws") -> "Draws":
        return Draws(*(torch.cat([getattr(self, field.name), getattr(others, field.name)]) for field in fields(self)))


class Augment:
    """Draw and make one SimCLR view of each image: `augment(images, generator)`, twice for a pair of views.

    image_size: side S of a view, in pixels. color_strength: s in 0..2.5; brightness, contrast and saturation factors
    are uniform within 0.8 s of 1 (and not below 0), hue shifts within 0.2 s turns; 0 means without colour augmentation:
    neither jitter nor greyscale. blur: a kernel of 2 (S // 20) + 1 pixels, a tenth of the side made odd (3 at 32, 9 at
    96, 23 at 224, and a single one, which blurs nothing, below 20). compile: fuse the colour part with torch.compile,
    or go on without where that fails. Raises ValueError for settings out of range.

    Source: arXiv:2002.05709, appendix A; each operation as torchvision has it. Colour operations come in random order.
    """

    def __init__(self, image_size: int, color_strength: float = 1.0, blur: bool = True, compile: bool = False):
        if image_size < 1:
            raise ValueError(f"image_size: expected at least 1 pixel, got {image_size}; give the side of a view")
        if not 0 <= color_strength * HUE <= 0.5:
            raise ValueError(f"color_strength: expected 0 to 2.5 (hue within half a turn), got {color_strength}; use 1")
        self.image_size, self.color_strength, self.blur = image_size, color_strength, blur
        self._recolor = _compiled(recolor) if compile else recolor

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(N, 3, H, W) uint8, or float32 or float64 in [0, 1] -> (N, 3, S, S) in [0, 1], float32 unless float64."""
        return self.apply(images, self.draw(len(images), generator))

    def draw(self, n: int, generator: torch.Generator | None = None) -> Draws:
        """Draws of n views from a CPU generator; the same crops and flips whatever the colour and blur settings."""
        u = torch.rand(n, 2 * TRIES + 15, generator=generator, dtype=torch.float64, device="cpu")
        area, ratio, corner, chance, color, turn, sigma = u.split([TRIES, TRIES, 2, 4, 4, 4, 1], dim=1)
        flip, jitter, grey, blur = (chance < chance.new_tensor([P_FLIP, P_JITTER, P_GREY, P_BLUR])).unbind(1)
        reach = self.color_strength * jitter[:, None]
        low, high = (1 - JITTER * reach).clamp(min=0), 1 + JITTER * reach
        return Draws(
            area=_between(*AREA, area),
            ratio=RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio,  # uniform in its logarithm
            corner=corner,
            flip=flip,
            factors=_between(low, high, color[:, :3]),
            hue=(_between(-HUE, HUE, color[:, 3:]) * reach)[:, 0],
            turn=turn.argsort(dim=1),
            grey=grey & (self.color_strength > 0),
            sigma=_between(*SIGMA, sigma[:, 0]) * (blur & self.blur),
        )

    @torch.no_grad()
    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The views that `draws` describe, shapes as in a call. Raises ValueError for images of another kind."""
        _check(images, draws)
        n = len(images) or 1  # no images give no views: one empty chunk
        step = max(1, CPU_PIXELS // self.image_size**2) if images.device.type == "cpu" else n
        chunks = [slice(start, start + step) for start in range(0, n, step)]
        with torch.autocast(images.device.type, enabled=False):
            return torch.cat([self._views(images[rows], draws[rows]) for rows in chunks])

    def _views(self, images: Tensor, draws: Draws) -> Tensor:
        images = images if images.is_floating_point() else images.float() / 255
        views = crop_and_flip(images, draws, self.image_size)
        if self.color_strength > 0:
            views = self._recolor(views, *(part.to(views) for part in color_steps(draws)))
        return gaussian_blur(views, draws.sigma) if self.blur else views


def crop_boxes(draws: Draws, height: int, width: int) -> Tensor:
    """Top, left, height and width of each crop in whole pixels, (N, 4); see torchvision's RandomResizedCrop.get_params.

    The first try that lies within the image counts; failing all, the largest central crop of an allowed ratio.
    """
    fallback_width = min(width, round(height * RATIO[1]))
    fallback_height = min(height, round(width / RATIO[0]))
    area = draws.area * height * width
    heights = F.pad((area / draws.ratio).sqrt().round(), (0, 1), value=fallback_height)
    widths = F.pad((area * draws.ratio).sqrt().round(), (0, 1), value=fallback_width)
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = fits.int().argmax(dim=1, keepdim=True)
    extent = torch.cat([heights.gather(1, first), widths.gather(1, first)], dim=1)
    room = torch.tensor([height, width]) - extent
    corner = torch.where(first < TRIES, draws.corner * (room + 1), room / 2).floor()
    return torch.cat([corner, extent], dim=1)


def crop_and_flip(images: Tensor, draws: Draws, size: int) -> Tensor:
    """(N, 3, H, W) -> (N, 3, S, S): crop, resize (bilinear, antialiased where it shrinks), flip left to right."""
    top, left, height, width = crop_boxes(draws, *images.shape[-2:]).to(images).unbind(1)
    pixel = torch.arange(size, device=images.device).expand(len(images), size)
    mirrored = torch.where(draws.flip.to(images.device)[:, None], pixel.flip(1), pixel)
    rows = resize_weights(pixel, top, height, images.shape[-2])
    columns = resize_weights(mirrored, left, width, images.shape[-1])
    across = images.flatten(1, 2) @ columns.mT  # mostly zeros, yet one fast call for every scale
    return (rows[:, None] @ across.unflatten(1, images.shape[1:3])).clamp(0, 1)


def resize_weights(pixel: Tensor, start: Tensor, extent: Tensor, length: int) -> Tensor:
    """Weights of the `length` source pixels in each output pixel, (N, S) -> (N, S, length); each sums to 1.

    A triangle around the output pixel's centre, one source pixel wide to each side, or one output pixel where that is
    larger, cut off at the borders of the crop: what torchvision's antialiased resize of the cropped image computes.
    """
    start, extent = start[:, None, None], extent[:, None, None]
    scale = extent / pixel.shape[1]
    source = torch.arange(length, device=start.device, dtype=start.dtype) - start
    distance = (source + 0.5 - (pixel[..., None] + 0.5) * scale).abs()
    inside = ((source >= 0) & (source < extent)).to(scale)
    weights = (1 - distance / scale.clamp(min=1)).clamp(min=0) * inside
    return weights / weights.sum(dim=2, keepdim=True)


def color_steps(draws: Draws) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`draws` as arguments of `recolor`: own, grey and mean_grey (N, 7), hue (N,).

    The order differs by image, yet all images must go through the same steps: three before the hue and three after, of
    which an image uses three and the others change nothing, then greyscale, which is saturation with factor 0.
    """
    turn, hue_turn = draws.turn[:, :3], draws.turn[:, 3:]
    step = F.pad(turn + 2 * (turn > hue_turn), (0, 1), value=6)  # of brightness, contrast, saturation and greyscale
    rest = torch.cat([1 - draws.factors, draws.grey[:, None]], dim=1)
    none = torch.zeros(len(draws), 7, dtype=rest.dtype)
    mean_grey = none.scatter(1, step[:, 1:2], rest[:, 1:2])
    return 1 - none.scatter(1, step, rest), none.scatter(1, step[:, 2:], rest[:, 2:]), mean_grey, draws.hue


def recolor(images: Tensor, own: Tensor, grey: Tensor, mean_grey: Tensor, hue: Tensor) -> Tensor:
    """Steps of clamp(own x + grey g + mean_grey mean(g)), with g the grey image, and the hue shift after the third.

    Brightness by f is own = f; contrast adds mean_grey = 1 - f, saturation grey = 1 - f. All in [0, 1].
    """
    for step in range(own.shape[1]):
        if step == 3:
            images = shift_hue(images, hue)
        images = _blend(images, *(part[:, step, None, None] for part in (own, grey, mean_grey)))
    return images


def _blend(images: Tensor, own: Tensor, grey: Tensor, mean_grey: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    g = (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    offset = mean_grey * g.mean(dim=(1, 2), keepdim=True)
    g = g.mul_(grey).add_(offset)
    return (own[:, None] * images).add_(g[:, None]).clamp_(0, 1)


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Move each image's hues by its `turns` of the colour circle, (N, 3, S, S), (N,); torchvision's adjust_hue.

    HSV without its six cases, as torch.where and % cost some thirty additions each on a CPU: hue is a signed angle from
    red, and a channel falls from largest to smallest between 1/6 and 1/3 of a turn away from its own hue.
    """
    red, green, blue = images.unbind(1)
    upper, lower = torch.maximum(green, blue), torch.minimum(green, blue)
    smallest = torch.minimum(red, lower)
    chroma = torch.maximum(red, upper) - smallest
    angle = (upper - red + (lower - red).relu()) / chroma.clamp(min=1e-12) + 1  # sixths of a turn, 0 to 3
    hue = torch.copysign(angle, green - blue) / 6 + turns[:, None, None]
    away = hue[:, None] - torch.arange(3, dtype=hue.dtype, device=hue.device)[:, None, None] / 3
    away = away.sub_(away.round()).abs_()
    return torch.addcmul(smallest[:, None], chroma[:, None], away.mul_(-6).add_(2).clamp_(0, 1))


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image by its sigma in pixels (N,), 0 for not at all; mirrored at the borders, as torchvision does."""
    size, chosen = images.shape[-1], sigma.nonzero()[:, 0]
    radius, rows = size // 20, chosen.to(images.device)
    offset = torch.arange(-radius, radius + 1)
    taps = torch.softmax(-0.5 * (offset / sigma[chosen, None]) ** 2, dim=1).to(images)[..., None, None, None]
    blurred = images[rows]
    for axis, margin in ((-1, (radius, radius, 0, 0)), (-2, (0, 0, radius, radius))):
        padded = F.pad(blurred, margin, mode="reflect")
        blurred = torch.zeros_like(blurred)
        for k in range(taps.shape[1]):
            blurred.addcmul_(padded.narrow(axis, k, size), taps[:, k])
    return images.index_copy(0, rows, blurred.clamp_(0, 1))


def _between(low: float | Tensor, high: float | Tensor, u: Tensor) -> Tensor:
    return low + (high - low) * u


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` through torch.compile; from the first time that this fails (say, for want of a compiler), as it is."""
    ready = None

    def call(*arguments: Tensor) -> Tensor:
        nonlocal ready
        try:
            ready = ready or torch.compile(function)
            return ready(*arguments)
        except Exception:  # what is wrong with the arguments is raised again below, and nothing else is lost
            ready = function
            return function(*arguments)

    return call


def _check(images: Tensor, draws: Draws) -> None:
    kind = f"{tuple(images.shape)} {images.dtype}"
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ValueError(f"images: expected shape (N, 3, H, W), got {kind}; stack and permute them to that")
    if images.dtype not in (torch.uint8, torch.float32, torch.float64):
        raise ValueError(f"images: expected uint8, float32 or float64, got {kind}; convert with images.float()")
    if len(draws) != len(images):
        raise ValueError(f"draws: expected one an image, got {len(draws)} for {len(images)}; slice both alike")
    if images.is_floating_point() and images.numel():  # one pass; on a GPU it waits, so that uint8 is the faster kind
        low, high = (bound.item() for bound in images.aminmax())
        if not (low >= -0.01 and high <= 1.01):
            raise ValueError(f"images: expected values in [0, 1], got {low:.3g} to {high:.3g}; divide 0..255 by 255")
