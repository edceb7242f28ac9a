"""One image of any kind as (3, S, S) uint8 RGB, upright and at the size that is asked for.

H x W pixels as found, S x S pixels as kept.
"""

import errno

import numpy as np
from PIL import Image, ImageOps
from torchvision.transforms import functional as F

Item = str | np.ndarray  # the path of an image, or its pixels: (3, H, W) uint8


def decode(item: Item, size: int, resize: str) -> np.ndarray:
    """An image as (3, S, S) uint8 RGB; see `to_rgb` and `fit`. Raises whatever Pillow does where it cannot be read."""
    with Image.open(item) if isinstance(item, str) else Image.fromarray(item.transpose(1, 2, 0)) as image:
        return np.ascontiguousarray(np.asarray(fit(to_rgb(image), size, resize)).transpose(2, 0, 1))


def to_rgb(image: Image.Image) -> Image.Image:
    """The image upright, as its EXIF orientation asks, in RGB.

    What is transparent shows white, as on a page. 16-bit grey is scaled to 8 bits (Pillow alone would clip it). CMYK
    is converted without a colour profile.
    """
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # I;16, I;16B, and I as older Pillows have it
        image = Image.fromarray(((np.asarray(image, np.int64) + 128) // 257).clip(0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def fit(image: Image.Image, size: int, resize: str) -> Image.Image:
    """(H, W) -> (S, S), bilinear and antialiased.

    "squash" brings the whole image to a square; "crop" brings its short side to S and takes the centre.
    """
    if resize == "squash":
        return F.resize(image, [size, size])
    return F.center_crop(F.resize(image, [size]), [size])


def decode_or_reason(item: Item, size: int, resize: str) -> np.ndarray | str:
    """What `decode` gives, or why it gives nothing."""
    try:
        return decode(item, size, resize)
    except Exception as error:  # Pillow raises many kinds on a damaged file, SyntaxError and struct.error among them
        if isinstance(error, MemoryError) or getattr(error, "errno", None) not in (None, errno.ENOENT, errno.EACCES):
            raise  # the machine's trouble (too many open files, a failing disk): not to be remembered as the file's
        return f"{type(error).__name__}: {error}"
