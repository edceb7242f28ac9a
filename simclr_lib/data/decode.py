"""One image of any kind as (3, S, S) uint8 RGB, upright and at the size that is asked for; and back into a file.

H x W pixels as found, S x S pixels as kept.
"""

import errno
import re
import zlib
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, features
from torchvision.transforms import functional as F

Item = str | np.ndarray  # the path of an image, or its pixels: (3, H, W) uint8
# EPS starts another program; IPTC may hold any format; the next four need a plug-in; of MPEG only the size is read.
AVOID = {"EPS", "IPTC", "BUFR", "GRIB", "HDF5", "WMF", "MPEG", "" if features.check("jpg_2000") else "JPEG2000"}
OF_THE_FILE = None, errno.ENOENT, errno.EACCES, errno.EINVAL, errno.EISDIR, errno.ELOOP


@cache
def readable_suffixes() -> frozenset[str]:
    """How files end whose formats Pillow reads by itself on this machine: in lower case, with the dot.

    HEIF is among them where pillow-heif is installed; none is that another program would have to read.
    """
    with suppress(Exception):  # it is not there, or does not fit this Pillow
        from pillow_heif import HeifImagePlugin  # noqa: F401  (it registers itself)
    # The call registers all other formats, before the rest of the line looks at them.
    return frozenset(end for end, name in Image.registered_extensions().items() if name in {*Image.OPEN, "MPO"} - AVOID)


def decode(item: Item | BytesIO, size: int, resize: str) -> np.ndarray:
    """An image as (3, S, S) uint8 RGB; see `to_rgb` and `fit`. Raises whatever Pillow does where it cannot be read."""
    kinds = ["JPEG", "PNG", *sorted({Image.EXTENSION[suffix] for suffix in readable_suffixes()} & Image.OPEN.keys())]
    is_array = isinstance(item, np.ndarray)
    with Image.fromarray(item.transpose(1, 2, 0)) if is_array else Image.open(item, formats=kinds) as image:
        return np.ascontiguousarray(np.asarray(fit(to_rgb(image), size, resize)).transpose(2, 0, 1))


def encode(pixels: np.ndarray, kind: str) -> bytes:
    """An image (3, H, W) uint8 as a file of that kind holds it: JPEG, PNG, WEBP, ..."""
    file = BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, kind, quality=80)
    return file.getvalue()


def to_rgb(image: Image.Image) -> Image.Image:
    """The image upright, as its EXIF orientation asks where it can be read, in RGB.

    What is transparent shows white, as on a page. CMYK is converted without a colour profile. Of 16-bit colours the
    upper half is taken. Grey in more than 8 bits is scaled: integers from 0 to 65,535, floats from 0 to 1, to black and
    white; where an image has numbers beyond, from its least or to its greatest; where integers are below 0, from its
    least to its greatest. What is not finite counts as 0.
    """
    image.load()
    with suppress(Exception):  # whatever is wrong with metadata, the pixels are there
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode[0] in "IF":  # I;16, I;16B, I and F
        numbers = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0)
        low, high = min(numbers.min(), 0), max(numbers.max(), 1 if image.mode == "F" or numbers.min() < 0 else 65535)
        image = Image.fromarray(np.rint((numbers - low) * (255 / (high - low))).astype(np.uint8))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def fit(image: Image.Image, size: int, resize: str) -> Image.Image:
    """(H, W) -> (S, S), bilinear and antialiased.

    "squash" brings the whole image to a square; "crop" brings its short side to S and takes the centre.
    A side of more than 16 times the other is shortened first: enlarged, it would need far more memory than the image.
    """
    width, height = image.size
    if resize == "squash":
        return F.resize(F.resize(image, [size, width]) if height > 16 * width else image, [size, size])
    if max(width, height) > 16 * min(width, height):
        image = F.center_crop(image, [min(height, 16 * width + height % 2), min(width, 16 * height + width % 2)])
    return F.center_crop(F.resize(image, [size]), [size])


def decode_or_reason(item: Item, size: int, resize: str) -> np.ndarray | str:
    """What `decode` gives, or why it gives nothing. What PNG and JPEG hold beside pixels may be damaged."""
    try:
        return decode(item, size, resize)
    except Exception as error:  # Pillow raises many kinds on a damaged file, SyntaxError and struct.error among them
        if isinstance(error, MemoryError) or getattr(error, "errno", None) not in OF_THE_FILE:
            raise  # the machine's trouble (too many open files, a failing disk): not to be remembered as the file's
        with suppress(Exception):
            return decode(_without_texts(item), size, resize)
        allow = "; in Python, PIL.Image.MAX_IMAGE_PIXELS = None allows it (processes=1)" * ("Bomb" in repr(error))
        return f"{type(error).__name__}: {error}{allow}"


def _without_texts(path: str) -> BytesIO:
    """A file without what Pillow reads beside the pixels: of a PNG all chunks but theirs and a whole EXIF, of a JPEG
    the marks of colour profile and Photoshop."""
    file = BytesIO(re.sub(rb"I(?=CC_PROFILE\0)|P(?=hotoshop 3\.0\0)", b"-", Path(path).read_bytes()))
    kept = [file.read(8)]
    while kept[0] == b"\x89PNG\r\n\x1a\n" and (head := file.read(8)):
        rest = file.read(int.from_bytes(head[:4]) + 4)
        exif = head[4:] == b"eXIf" and zlib.crc32(head[4:] + rest[:-4]) == int.from_bytes(rest[-4:])
        kept += [head + rest] if exif or head[4:] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND") else []
    return BytesIO(b"".join(kept) + file.read())
