"""SimCLR's views, a whole batch at a time on the images' own device (Chen et al. 2020, appendix A).

Random resized crop and flip, colour jitter, greyscale, blur; all random choices are made per image. They are drawn
first, on the CPU, and applied afterwards, so that a slice of the draws gives that slice of the views.

Shapes: N images, H x W source pixels, S x S pixels of a view, T tries at a crop.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr_lib.engine.checks import require

RATIO = (3 / 4, 4 / 3)  # width / height of a crop
TRIES = 10  # crops are drawn until one fits into the image; after so many, the largest central one is taken
JITTER, HUE = 0.8, 0.2  # at strength 1, factors lie within 0.8 of 1, and hue shifts within 0.2 turns
P_FLIP, P_JITTER, P_GREY, P_BLUR = 0.5, 0.8, 0.2, 0.5
SIGMA = (0.1, 2.0)  # of the blur, in pixels of the view
LUMA = (0.2989, 0.587, 0.114)  # the share of red, green and blue in grey, as in torchvision
CPU_PIXELS = 2**17  # of views at a time on a CPU: larger temporaries leave its cache and cost up to 1.7 times as much


@dataclass(frozen=True)
class Draws:
    """The random choices behind N views, on the CPU, whatever the images' size; `draws[2:5]` is a slice of them.

    Factors of 1 with a hue shift of 0 leave colours alone, and sigma 0 leaves an image sharp.
    """

    area: Tensor  # (N, T) share of the image that a crop covers
    ratio: Tensor  # (N, T) width / height of a crop
    corner: Tensor  # (N, 2) top and left of the crop, as a share of the room around it
    flip: Tensor  # (N,) bool
    factors: Tensor  # (N, 3) of brightness, contrast and saturation
    hue: Tensor  # (N,) shift in turns of the colour circle
    turn: Tensor  # (N, 4) when brightness, contrast, saturation and hue take their turn: a permutation of 0..3
    grey: Tensor  # (N,) bool
    sigma: Tensor  # (N,) of the blur, in pixels

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, rows: slice | Tensor) -> "Draws":
        return Draws(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass
class Augment:
    """Makes a random SimCLR view of each image: `augment(images, generator)`, called twice for a pair of views.

    image_size: side S of a view, in pixels. color_strength: s in 0..2.5; brightness, contrast and saturation factors
    are uniform within 0.8 s of 1 (and not below 0), hue shifts within 0.2 s turns; 0 means no colour augmentation at
    all, greyscale included. blur: by a kernel of 2 (S // 20) + 1 pixels, a tenth of the side made odd (3 at 32, 9 at
    96, 23 at 224; below 20 a single one, which blurs nothing). crop_area: the least and the largest share of the image
    that a crop covers, uniform in between as far as the crop fits. compile: the colour operations by
    torch.compile, whose own error says what is missing where it cannot work, a C++ compiler most often.
    Raises ValueError for settings out of range.

    Source: arXiv:2002.05709, appendix A; each operation as in torchvision, the colour operations in random order.
    """

    image_size: int
    color_strength: float = 1.0
    blur: bool = True
    crop_area: tuple[float, float] = (0.08, 1.0)
    compile: bool = False

    def __post_init__(self) -> None:
        require(self.image_size >= 1, "image_size", "at least 1 pixel", self.image_size)
        require(0 <= self.color_strength * HUE <= 0.5, "color_strength", "0 to 2.5", self.color_strength)
        ordered = 0 < self.crop_area[0] <= self.crop_area[1] <= 1
        require(ordered, "crop_area", "0 < least <= largest <= 1", self.crop_area)
        self._recolor = torch.compile(recolor) if self.compile else recolor

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(N, 3, H, W) uint8, or float32 or float64 in [0, 1] -> (N, 3, S, S) in [0, 1], float32 unless float64."""
        return self.apply(images, self.draw(len(images), generator))

    def draw(self, n: int, generator: torch.Generator | None = None) -> Draws:
        """Random choices for n views, by a CPU generator. Crops and flips do not depend on colour and blur settings."""
        u = torch.rand(n, 2 * TRIES + 15, generator=generator, dtype=torch.float64, device="cpu")
        area, ratio, corner, chance, color, turn, sigma = u.split([TRIES, TRIES, 2, 4, 4, 4, 1], dim=1)
        flip, jitter, grey, blur = (chance < chance.new_tensor([P_FLIP, P_JITTER, P_GREY, P_BLUR])).unbind(1)
        reach = self.color_strength * jitter[:, None]
        return Draws(
            area=_between(*self.crop_area, area),
            ratio=RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio,  # uniform in its logarithm
            corner=corner,
            flip=flip,
            factors=_between((1 - JITTER * reach).clamp(min=0), 1 + JITTER * reach, color[:, :3]),
            hue=(_between(-HUE, HUE, color[:, 3:]) * reach)[:, 0],
            turn=turn.argsort(dim=1),
            grey=grey & (self.color_strength > 0),
            sigma=_between(*SIGMA, sigma[:, 0]) * (blur & self.blur),
        )

    @torch.no_grad()
    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The views that `draws` describe, one for each image; shapes and dtypes as in a call.

        Raises ValueError for images of another shape, dtype or range, or another number of them.
        """
        _check(images, draws)
        n = len(images) or 1  # where there are none, one empty part, whose views have their shape
        step = max(1, CPU_PIXELS // self.image_size**2) if images.device.type == "cpu" else n
        with torch.autocast(images.device.type, enabled=False):
            return torch.cat([self._views(images[i : i + step], draws[i : i + step]) for i in range(0, n, step)])

    def _views(self, images: Tensor, draws: Draws) -> Tensor:
        images = images if images.is_floating_point() else images.float() / 255
        views = crop_and_flip(images, draws, self.image_size)
        if self.color_strength > 0:
            views = self._recolor(views, *(part.to(views) for part in color_steps(draws)))
        return gaussian_blur(views, draws.sigma) if self.blur else views


def crop_boxes(draws: Draws, height: int, width: int) -> Tensor:
    """Top, left, height and width of each crop in whole pixels, (N, 4); as torchvision's RandomResizedCrop.get_params.

    The first try that fits into the image; where none does, the largest central crop of an allowed ratio.
    """
    area = draws.area * height * width
    # a last try, which always fits: the largest crop
    heights = F.pad((area / draws.ratio).sqrt().round(), (0, 1), value=min(height, round(width / RATIO[0])))
    widths = F.pad((area * draws.ratio).sqrt().round(), (0, 1), value=min(width, round(height * RATIO[1])))
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = fits.int().argmax(dim=1, keepdim=True)
    extent = torch.cat([heights.gather(1, first), widths.gather(1, first)], dim=1)
    room = torch.tensor([height, width]) - extent
    corner = torch.where(first < TRIES, draws.corner * (room + 1), room / 2).floor()
    return torch.cat([corner, extent], dim=1)


def crop_and_flip(images: Tensor, draws: Draws, size: int) -> Tensor:
    """(N, 3, H, W) -> (N, 3, S, S): crop, resize (bilinear, antialiased where it shrinks), flip left to right."""
    top, left, height, width = crop_boxes(draws, *images.shape[-2:]).to(images)[..., None, None].unbind(1)  # (N, 1, 1)
    pixel = torch.arange(size, device=images.device).expand(len(images), size)
    mirrored = torch.where(draws.flip.to(images.device)[:, None], pixel.flip(1), pixel)
    rows = resize_weights(pixel, top, height, images.shape[-2])
    columns = resize_weights(mirrored, left, width, images.shape[-1])
    across = images.flatten(1, 2) @ columns.mT  # mostly zeros, yet one fast call for every scale
    return (rows[:, None] @ across.unflatten(1, images.shape[1:3])).clamp(0, 1)


def resize_weights(pixel: Tensor, start: Tensor, extent: Tensor, length: int) -> Tensor:
    """The weight of each of `length` source pixels in each output pixel, (N, S) -> (N, S, length); they sum to 1.

    The crop begins at source pixel `start` and has `extent` of them, (N, 1, 1) each. Weights form a triangle around
    the output pixel's centre, cut off at the borders of the crop; it reaches one source pixel to each side, or one
    output pixel where that is larger. This is torchvision's antialiased resize of the cropped image.
    """
    scale = extent / pixel.shape[1]
    source = torch.arange(length, device=start.device, dtype=start.dtype) - start
    distance = (source + 0.5 - (pixel[..., None] + 0.5) * scale).abs()
    inside = ((source >= 0) & (source < extent)).to(scale)
    weights = (1 - distance / scale.clamp(min=1)).clamp(min=0) * inside
    return weights / weights.sum(dim=2, keepdim=True)


def color_steps(draws: Draws) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`draws` as the arguments of `recolor`: own, grey and mean_grey (N, 7), hue (N,).

    The order of operations differs by image, but all images take the same seven steps: three before the hue shift,
    three after it, and greyscale, which is saturation by 0. An image uses three of the six; the others change nothing.
    """
    turn, hue_turn = draws.turn[:, :3], draws.turn[:, 3:]
    step = F.pad(turn + 2 * (turn > hue_turn), (0, 1), value=6)  # of brightness, contrast, saturation and greyscale
    rest = torch.cat([1 - draws.factors, draws.grey[:, None]], dim=1)
    none = torch.zeros(len(draws), 7, dtype=rest.dtype)
    mean_grey = none.scatter(1, step[:, 1:2], rest[:, 1:2])
    return 1 - none.scatter(1, step, rest), none.scatter(1, step[:, 2:], rest[:, 2:]), mean_grey, draws.hue


def recolor(images: Tensor, own: Tensor, grey: Tensor, mean_grey: Tensor, hue: Tensor) -> Tensor:
    """Seven steps x -> own x + grey g + mean_grey mean(g), with g the grey of x, in [0, 1]; after three, the hue shift.

    Brightness by f is own = f; contrast by f is own = f, mean_grey = 1 - f; saturation by f is own = f, grey = 1 - f.
    """
    own, grey, mean_grey = (part[..., None, None] for part in (own, grey, mean_grey))
    for step in range(own.shape[1]):
        if step == 3:
            images = shift_hue(images, hue)
        red, green, blue = images.unbind(1)
        g = (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
        offset = mean_grey[:, step] * g.mean(dim=(1, 2), keepdim=True)
        g = g.mul_(grey[:, step]).add_(offset)
        images = (own[:, step, None] * images).add_(g[:, None]).clamp_(0, 1)
    return images


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Shift the hues of images (N, 3, S, S) by `turns` (N,) of the colour circle, as torchvision's adjust_hue does.

    HSV without its six cases, because torch.where and % cost as much as thirty additions each on a CPU. Hue is a signed
    angle from red; a channel falls from the largest value to the smallest from 1/6 to 1/3 turn away from its own hue.
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
    """Blur each image by its sigma in pixels, (N,), where that is not 0; mirrored at the borders, as in torchvision."""
    size, chosen = images.shape[-1], sigma.nonzero()[:, 0]
    radius, rows = size // 20, chosen.to(images.device)
    offset = torch.arange(-radius, radius + 1)
    taps = torch.softmax(-0.5 * (offset / sigma[chosen, None]) ** 2, dim=1).to(images)[..., None, None, None]
    blurred = images[rows]
    for axis, margin in ((-1, (radius, radius, 0, 0)), (-2, (0, 0, radius, radius))):
        padded = F.pad(blurred, margin, mode="reflect")
        blurred = torch.zeros_like(blurred)
        for k, tap in enumerate(taps.unbind(1)):
            blurred.addcmul_(padded.narrow(axis, k, size), tap)
    return images.index_copy(0, rows, blurred.clamp_(0, 1))


def _between(low: float | Tensor, high: float | Tensor, u: Tensor) -> Tensor:
    return low + (high - low) * u


def _check(images: Tensor, draws: Draws) -> None:
    shaped = images.ndim == 4 and images.shape[1] == 3 and 0 not in images.shape[2:]
    known = images.dtype in (torch.uint8, torch.float32, torch.float64)
    found = f"{tuple(images.shape)} {images.dtype}"
    require(shaped and known, "images", "(N, 3, H, W) of uint8, float32 or float64", found, "permute or convert them")
    require(len(draws) == len(images), "draws", f"one for each of {len(images)} images", len(draws))
    if images.is_floating_point() and images.numel():  # this waits for a GPU, so that uint8 is faster there
        low, high = torch.stack(images.aminmax()).tolist()
        within = low >= -0.01 and high <= 1.01
        require(within, "images", "values in [0, 1]", f"{low:.3g} to {high:.3g}", "divide 0..255 by 255")
