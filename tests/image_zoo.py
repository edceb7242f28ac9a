"""A zoo of image files, whole, odd and damaged: what is in each, and what must become of it when it is read.

PNG, TIFF, BMP and PNM are written here byte by byte, so that what they hold is known without Pillow; of what Pillow has
to write, the pixels that went in are known. `python tests/image_zoo.py FOLDER` writes all of them.
"""

import io
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import PIL
from PIL import Image, features

SIDE = 24
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (SIDE, SIDE, 3), np.uint8)  # no symmetry: every turn of it is another picture
GREY = NOISE[..., 0]
DEEP = RNG.integers(0, 65536, (SIDE, SIDE), np.uint16)
UNIT = RNG.random((SIDE, SIDE), np.float32)
X, Y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
SMOOTH = np.stack([10 * X, 10 * Y, 5 * X + 5 * Y], -1).astype(np.uint8)  # what lossy formats keep, nearly
ALPHA = RNG.integers(0, 256, (SIDE, SIDE), np.uint8)
UPRIGHT = {  # EXIF 2.32, tag 274: how the stored rows and columns lie, and so what puts them upright
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@dataclass(frozen=True)
class Animal:
    name: str
    data: bytes
    pixels: np.ndarray | None = None  # (H, W, 3) to be read; None: it is refused
    tolerance: float = 0
    reason: str = ""  # a regular expression found in why it is refused


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(grey)[..., None], 3, -1)


def over_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return pixels * share + 255 * (1 - share)


def zoo() -> list[Animal]:
    groups = (pngs, broken_pngs, jpegs, tiffs, plain_formats, other_formats, strangers, shapes, names)
    return [animal for group in groups for animal in group()]


def write_zoo(folder: str) -> dict[str, Animal]:
    """Path -> what is there."""
    written = {os.path.join(folder, animal.name): animal for animal in zoo()}
    for path, animal in written.items():
        with open(path, "wb") as file:
            file.write(animal.data)
    return written


# PNG, by the specification


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    right = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", right if crc is None else crc)


def rows_of(values: np.ndarray, bits: int) -> bytes:
    """(H, W) or (H, W, channels) as scanlines, each with filter 0."""
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in values]
    elif bits == 8:
        lines = [row.astype(np.uint8).tobytes() for row in values]
    else:
        spread = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        lines = [np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in spread]
    return b"".join(b"\0" + line for line in lines)


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png(
    values: np.ndarray,
    color: int,
    bits: int = 8,
    before: bytes = b"",
    after: bytes = b"",
    interlaced: bool = False,
    cut: int | None = None,
) -> bytes:
    """values as they lie in the file; chunks before and after the pixels; cut: bytes of the pixels that are left."""
    height, width = values.shape[:2]
    passes = [values[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [values]
    data = zlib.compress(b"".join(rows_of(part, bits) for part in passes))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced))
    start = b"\x89PNG\r\n\x1a\n" + header + before
    if cut is not None:
        return start + chunk(b"IDAT", data)[: 8 + cut]
    return start + chunk(b"IDAT", data) + after + chunk(b"IEND", b"")


def exif(orientation: int = 6, order: str = "<") -> bytes:
    """A TIFF header and a directory with the orientation alone."""
    entry = struct.pack(order + "HHIHH", 274, 3, 1, orientation, 0)
    return {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HIH", 42, 8, 1) + entry + bytes(4)


TURNED = UPRIGHT[6](NOISE)
BOMB = zlib.compress(bytes(3 << 20))  # 3 KB, which Pillow will not unpack
METADATA = {  # chunks that say nothing of the pixels
    "text too large": chunk(b"zTXt", b"Comment\0\0" + BOMB),
    "international text too large": chunk(b"iTXt", b"Comment\0\1\0\0\0" + BOMB),
    "many texts": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 20))) * 70,
    "text of no known compression": chunk(b"zTXt", b"Comment\0\7abc"),
    "profile that is none": chunk(b"iCCP", b"profile\0\0no zlib"),
    "profile too large": chunk(b"iCCP", b"profile\0\0" + BOMB),
    "empty profile": chunk(b"iCCP", b""),
    "wrong checksum of a text": chunk(b"tEXt", b"Comment\0abc", crc=0),
    "wrong checksum of a time": chunk(b"tIME", bytes(7), crc=1),
    "wrong checksum of the exif": chunk(b"eXIf", exif(6), crc=2),
    "exif that is none": chunk(b"eXIf", b"abc"),
    "gamma cut short": chunk(b"gAMA", b"\0"),
    "resolution cut short": chunk(b"pHYs", b"\0\0"),
    "chromaticities cut short": chunk(b"cHRM", bytes(5)),
    "intent cut short": chunk(b"sRGB", b""),
    "animation cut short": chunk(b"acTL", b"\0"),
    "animation of nothing": chunk(b"acTL", bytes(8)),
    "frame out of order": chunk(b"fcTL", b"\0\0\0\7" + bytes(22)),
    "chunk of nobody": chunk(b"vpAg", b"abc"),
}


def pngs() -> Iterator[Animal]:
    index = (GREY % 16).astype(int)
    palette = RNG.integers(0, 256, (16, 3), np.uint8)
    alphas = RNG.integers(0, 256, 16, np.uint8)
    plte, trns = chunk(b"PLTE", palette.tobytes()), chunk(b"tRNS", alphas.tobytes())
    for bits in (1, 2, 4, 8):
        top = 2**bits - 1
        yield Animal(
            f"grey {bits} bits.png", png(GREY >> (8 - bits), 0, bits), rgb((GREY >> (8 - bits)) * (255 // top))
        )
        few = index % (top + 1)
        yield Animal(f"palette {bits} bits.png", png(few, 3, bits, plte), palette[few])
    yield Animal("palette with alpha.png", png(index, 3, 8, plte + trns), over_white(palette[index], alphas[index]), 1)
    one = np.where(index == 0, 0, 255)
    yield Animal("palette with a clear colour.png", png(index, 3, 8, plte + chunk(b"tRNS", b"\0")),
                 over_white(palette[index], one))  # fmt: skip
    yield Animal("grey 16 bits.png", png(DEEP, 0, 16), rgb(np.rint(DEEP / 257)))
    yield Animal("grey 12 bits of 16.png", png(DEEP >> 4, 0, 16), rgb(np.rint((DEEP >> 4) / 257)))  # dark: an alarm
    yield Animal("grey with alpha.png", png(np.dstack([GREY, ALPHA]), 4), over_white(rgb(GREY), ALPHA), 1)
    both = np.dstack([DEEP, ALPHA.astype(np.uint16) * 257])
    yield Animal("grey with alpha 16 bits.png", png(both, 4, 16), over_white(rgb(DEEP / 257), ALPHA), 2)
    yield Animal("colour.png", png(NOISE, 2), NOISE)
    deep = RNG.integers(0, 65536, (SIDE, SIDE, 3), np.uint16)
    yield Animal("colour 16 bits.png", png(deep, 2, 16), deep / 257, 1)
    yield Animal("colour with alpha.png", png(np.dstack([NOISE, ALPHA]), 6), over_white(NOISE, ALPHA), 1)
    both = np.dstack([deep, ALPHA.astype(np.uint16) * 257])
    yield Animal("colour with alpha 16 bits.png", png(both, 6, 16), over_white(deep / 257, ALPHA), 2)
    clear = struct.pack(">HHH", *NOISE[0, 0])
    seen = np.where(np.equal(NOISE, NOISE[0, 0]).all(-1), 0, 255)
    yield Animal("colour with a clear colour.png", png(NOISE, 2, before=chunk(b"tRNS", clear)), over_white(NOISE, seen))
    yield Animal("interlaced.png", png(NOISE, 2, interlaced=True), NOISE)
    yield Animal("interlaced 16 bits.png", png(DEEP, 0, 16, interlaced=True), rgb(np.rint(DEEP / 257)))
    for orientation, turn in UPRIGHT.items():
        order = "<>"[orientation % 2]
        data = png(NOISE, 2, before=chunk(b"eXIf", exif(orientation, order)))
        yield Animal(f"orientation {orientation}.png", data, turn(NOISE))
    frames = [Image.fromarray(NOISE), Image.fromarray(255 - NOISE)]
    yield Animal("animated.png", saved(frames[0], "PNG", save_all=True, append_images=frames[1:]), NOISE)


def broken_pngs() -> Iterator[Animal]:
    for what, extra in METADATA.items():
        yield Animal(f"{what}, before.png", png(NOISE, 2, before=extra), NOISE)
        if what != "wrong checksum of the exif":  # which Pillow does not compare there
            yield Animal(f"{what}, after.png", png(NOISE, 2, after=extra), NOISE)
    turned = chunk(b"eXIf", exif(6))
    yield Animal("text too large, turned.png", png(NOISE, 2, before=METADATA["text too large"] + turned), TURNED)
    alpha = png(np.dstack([NOISE, ALPHA]), 6, before=METADATA["text too large"])
    yield Animal("text too large, with alpha.png", alpha, over_white(NOISE, ALPHA), 1)
    index, palette = (GREY % 4).astype(int), NOISE[0, :4]
    few = chunk(b"PLTE", palette.tobytes()) + chunk(b"tRNS", bytes([0, 255, 0, 255])) + METADATA["text too large"]
    seen = over_white(palette[index], np.array([0, 255, 0, 255])[index])
    yield Animal("text too large, palette with alpha.png", png(index, 3, 2, few), seen)
    yield Animal("profile that is none, 16 bits.png",
                 png(DEEP, 0, 16, METADATA["profile that is none"]), rgb(np.rint(DEEP / 257)))  # fmt: skip
    whole = png(NOISE, 2)
    yield Animal("without an end.png", whole[:-12], NOISE)
    yield Animal("with more after its end.png", whole + b"and more" * 50, NOISE)
    for cut in (0, 10, 700, 1700):
        yield Animal(f"cut {cut}.png", png(NOISE, 2, cut=cut), reason="runcated|cannot identify|broken")
        extra = METADATA["text too large"]
        yield Animal(f"cut {cut}, with a text.png", png(NOISE, 2, before=extra, cut=cut), reason="(?i)too large")
    bad = bytearray(whole)
    bad[700] ^= 0x55
    yield Animal("wrong checksum of the pixels.png", bytes(bad), reason="broken|checksum")
    yield Animal("no palette.png", png(GREY % 16, 3, 4, cut=0), reason="runcated|cannot identify")
    huge = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 1, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + huge + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    yield Animal("too many pixels.png", data, reason=r"limit.*MAX_IMAGE_PIXELS = None")
    none = chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 24, 8, 2, 0, 0, 0))
    yield Animal("no pixels.png", b"\x89PNG\r\n\x1a\n" + none + chunk(b"IEND", b""), reason="cannot identify")


# JPEG


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(**options: object) -> bytes:
    return saved(Image.fromarray(SMOOTH), "JPEG", **{"quality": 97, "subsampling": 0, **options})


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def with_segments(*segments: bytes) -> bytes:
    whole = jpeg()
    return whole[:2] + b"".join(segments) + whole[2:]


def directory(*entries: bytes) -> bytes:
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)


EXIFS = {  # that cannot be read, or mean nothing: the picture is read as it lies
    "cut short": exif(6)[:12],
    "nothing": b"",
    "noise": RNG.integers(0, 256, 500, np.uint8).tobytes(),
    "in a circle": directory(struct.pack("<HHII", 0x8769, 4, 1, 8)),
    "orientation in letters": directory(struct.pack("<HHI4s", 274, 2, 4, b"abc\0")),
    "orientation not a number": directory(struct.pack("<HHIf", 274, 11, 1, np.nan)),
    "orientation by zero": directory(struct.pack("<HHII", 274, 5, 1, 26)) + bytes(8),
    "orientation 9": exif(9),
    "orientation 0": exif(0),
    "beyond its end": directory(struct.pack("<HHII", 270, 2, 1000, 1 << 30)),
    "of many": b"II*\0" + struct.pack("<IH", 8, 65535),
}
EXIFS_TURNED = {  # of which the orientation can be read
    "turned in a circle": directory(struct.pack("<HHIHH", 274, 3, 1, 6, 0), struct.pack("<HHII", 0x8769, 4, 1, 8)),
    "turned, and one beyond": directory(
        struct.pack("<HHIHH", 274, 3, 1, 6, 0), struct.pack("<HHII", 0x8825, 4, 1, 1 << 30)
    ),
}
XMP = b"http://ns.adobe.com/xap/1.0/\0"


def jpegs() -> Iterator[Animal]:
    lossy = 8
    yield Animal("plain.jpg", jpeg(), SMOOTH, lossy)
    yield Animal("plain.jfif", jpeg(), SMOOTH, lossy)
    yield Animal("UPPER.JPG", jpeg(), SMOOTH, lossy)
    yield Animal("progressive.jpg", jpeg(progressive=True), SMOOTH, lossy)
    yield Animal("halved colours.jpeg", jpeg(subsampling=2), SMOOTH, 20)
    yield Animal("grey.jpg", saved(Image.fromarray(SMOOTH[..., 0]), "JPEG", quality=97), rgb(SMOOTH[..., 0]), lossy)
    ink = np.dstack([SMOOTH, 100 + X]).astype(np.uint8)
    seen = (255 - ink[..., :3].astype(float)) * (255 - ink[..., 3:]) / 255
    yield Animal("four inks.jpg", saved(Image.fromarray(ink, "CMYK"), "JPEG", quality=97, subsampling=0), seen, lossy)
    for orientation, turn in UPRIGHT.items():
        data = with_segments(segment(0xE1, b"Exif\0\0" + exif(orientation, "<>"[orientation % 2])))
        yield Animal(f"orientation {orientation}.jpg", data, turn(SMOOTH), lossy)
    for what, data in EXIFS.items():
        yield Animal(f"exif {what}.jpg", with_segments(segment(0xE1, b"Exif\0\0" + data)), SMOOTH, lossy)
    for what, data in EXIFS_TURNED.items():
        turned = UPRIGHT[6](SMOOTH)
        yield Animal(f"exif {what}.jpg", with_segments(segment(0xE1, b"Exif\0\0" + data)), turned, lossy)
    xmp = segment(0xE1, XMP + b'<x tiff:Orientation="6"/>')
    if int(PIL.__version__.split(".")[0]) >= 12:  # others pass over it
        yield Animal("turned by xmp.jpg", with_segments(xmp), UPRIGHT[6](SMOOTH), lossy)
    yield Animal("xmp of noise.jpg", with_segments(segment(0xE1, XMP + NOISE.tobytes())), SMOOTH, lossy)
    profile = segment(0xE2, b"ICC_PROFILE\0\x01\x02" + NOISE.tobytes())
    yield Animal("half a profile.jpg", with_segments(profile), SMOOTH, lossy)
    yield Animal("empty profile.jpg", with_segments(segment(0xE2, b"ICC_PROFILE\0")), SMOOTH, lossy)
    photoshop = segment(0xED, b"Photoshop 3.0\x008BIM\xff\xff")
    yield Animal("photoshop cut short.jpg", with_segments(photoshop), SMOOTH, lossy)
    turned = segment(0xE1, b"Exif\0\0" + exif(6))
    yield Animal("photoshop cut short, turned.jpg", with_segments(photoshop, turned), UPRIGHT[6](SMOOTH), lossy)
    yield Animal("comment of zeros.jpg", with_segments(segment(0xFE, bytes(60000))), SMOOTH, lossy)
    yield Animal("index of pictures that is none.jpg", with_segments(segment(0xE2, b"MPF\0abc")), SMOOTH, lossy)
    yield Animal("with more after its end.jpg", jpeg() + b"and more" * 50, SMOOTH, lossy)
    second = Image.fromarray(255 - SMOOTH)
    phone = saved(Image.fromarray(SMOOTH), "MPO", quality=97, subsampling=0, save_all=True, append_images=[second])
    yield Animal("of two pictures.jpg", phone, SMOOTH, lossy)
    yield Animal("of two pictures.mpo", phone, SMOOTH, lossy)
    whole = jpeg()
    for name, end in (("header", 100), ("pixels", len(whole) - 300), ("end", len(whole) - 60)):
        yield Animal(f"cut in its {name}.jpg", whole[:end], reason="runcated|cannot identify|broken")


# TIFF, by the specification: one strip, or one a plane


def tiff(values: np.ndarray, photometric: int, extra: dict[int, tuple] | None = None, order: str = "<") -> bytes:
    """values (H, W) or (H, W, channels); extra: tag -> (type, count, the four bytes)."""
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    channels = 1 if values.ndim == 2 else values.shape[2]
    bits = values.dtype.itemsize * 8
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    place = 8 + len(data)  # of the numbers that do not fit into an entry, then of the directory
    wide = struct.pack(order + "H" * channels, *[bits] * channels)

    def short(value: int) -> tuple:
        return 3, 1, struct.pack(order + "HH", value, 0)

    def long(value: int) -> tuple:
        return 4, 1, struct.pack(order + "I", value)

    tags = {
        256: long(values.shape[1]),
        257: long(values.shape[0]),
        258: short(bits) if channels == 1 else (3, channels, struct.pack(order + "I", place)),
        259: short(1),
        262: short(photometric),
        273: long(8),
        277: short(channels),
        278: long(values.shape[0]),
        279: long(len(data)),
        339: short(kind),
        **(extra or {}),
    }
    if channels > 1:
        tags.pop(339)
    entries = b"".join(struct.pack(order + "HHI", tag, kind, n) + four for tag, (kind, n, four) in sorted(tags.items()))
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, place + len(wide))
    return start + data + wide + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def tiffs() -> Iterator[Animal]:
    for name, order in (("little", "<"), ("big", ">")):
        yield Animal(f"colour, {name} endian.tif", tiff(NOISE, 2, order=order), NOISE)
        yield Animal(f"16 bits, {name} endian.tif", tiff(DEEP, 1, order=order), rgb(np.rint(DEEP / 257)))
        yield Animal(f"floats to 1, {name} endian.tiff", tiff(UNIT, 1, order=order), rgb(np.rint(UNIT * 255)), 1)
    yield Animal("white is zero.tif", tiff(GREY, 0), rgb(255 - GREY))
    wide = UNIT * 4000
    yield Animal("floats to 4000.tif", tiff(wide, 1), rgb(np.rint(wide * (255 / wide.max()))), 1)
    signed = UNIT * 4 - 2
    low, high = signed.min(), max(signed.max(), 1)
    yield Animal("floats below 0.tif", tiff(signed, 1), rgb(np.rint((signed - low) / (high - low) * 255)), 1)
    holes, filled = UNIT.copy(), UNIT.copy()
    holes[0, :3], filled[0, :3] = (np.nan, np.inf, -np.inf), 0
    yield Animal("floats with holes.tif", tiff(holes, 1), rgb(np.rint(filled * 255)), 1)
    yield Animal("no finite float.tif", tiff(np.full((SIDE, SIDE), np.nan, np.float32), 1), np.zeros_like(NOISE))
    yield Animal("32 bits, few.tif", tiff(DEEP.astype(np.int32), 1), rgb(np.rint(DEEP / 257)))
    many = DEEP.astype(np.int32) * 1000
    yield Animal("32 bits, many.tif", tiff(many, 1), rgb(np.rint(many * (255 / many.max()))), 1)
    for orientation, turn in UPRIGHT.items():
        tag = {274: (3, 1, struct.pack("<HH", orientation, 0))}
        yield Animal(f"orientation {orientation}.tif", tiff(NOISE, 2, tag), turn(NOISE))
    for what, tag in {
        "exif beyond its end": {34665: (4, 1, struct.pack("<I", 1 << 30))},
        "exif in a circle": {34665: (4, 1, struct.pack("<I", 8 + SIDE * SIDE * 3 + 6))},
        "profile of nothing": {34675: (7, 0, bytes(4))},
        "resolution by zero": {282: (5, 1, struct.pack("<I", 0))},
        "tag of no known type": {65000: (99, 1, bytes(4))},
    }.items():
        yield Animal(f"{what}.tif", tiff(NOISE, 2, tag), NOISE)
    whole = tiff(NOISE, 2)
    for end in (6, 100, len(whole) - 60):
        yield Animal(f"cut {end}.tif", whole[:end], reason="runcated|cannot identify|broken|Error")
    moved = whole[:4] + struct.pack("<I", 8) + whole[len(whole) - (len(whole) - 8 - NOISE.size) :]
    yield Animal("without its pixels.tif", moved, reason="runcated|cannot identify|broken|Error")
    image = Image.fromarray(NOISE)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield Animal(f"{compression}.tif", saved(image, "TIFF", compression=compression), NOISE)
    yield Animal("jpeg.tif", saved(Image.fromarray(SMOOTH), "TIFF", compression="jpeg", quality=97), SMOOTH, 20)
    bits = GREY > 127
    yield Animal("group4.tif", saved(Image.fromarray(bits), "TIFF", compression="group4"), rgb(bits * 255))
    pages = saved(image, "TIFF", save_all=True, append_images=[Image.fromarray(255 - NOISE)])
    yield Animal("of two pages.tif", pages, NOISE)
    yield Animal(
        "with alpha.tif", saved(Image.fromarray(np.dstack([NOISE, ALPHA])), "TIFF"), over_white(NOISE, ALPHA), 1
    )
    ink = np.dstack([NOISE, ALPHA])
    seen = (255 - ink[..., :3].astype(float)) * (255 - ink[..., 3:]) / 255
    yield Animal("four inks.tif", saved(Image.fromarray(ink, "CMYK"), "TIFF"), seen, 2)
    lab = np.dstack([GREY, np.zeros((SIDE, SIDE, 2), np.uint8)])  # no colour, and its lightness alone
    yield Animal("lab.tif", tiff(lab, 8), rgb(grey_of_lightness(GREY / 255 * 100)), 3)


def grey_of_lightness(lightness: np.ndarray) -> np.ndarray:
    """CIE L* of 0 to 100 -> the sRGB grey of 0 to 255 that looks so (CIE 15, IEC 61966-2-1)."""
    y = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    return 255 * np.where(y > 0.0031308, 1.055 * y ** (1 / 2.4) - 0.055, 12.92 * y)


# Formats that are plain rows of bytes


def pnm(kind: str, top: int | None, data: bytes) -> bytes:
    return f"{kind}\n# a comment\n{SIDE} {SIDE}\n{'' if top is None else f'{top} '}".encode().rstrip() + b"\n" + data


def bmp(data: bytes, bits: int, compression: int = 0, height: int = SIDE, tables: bytes = b"") -> bytes:
    size, start = len(data), 54 + len(tables)
    colors = len(tables) // 4 if bits <= 8 else 0
    info = struct.pack("<IiiHHIIiiII", 40, SIDE, height, 1, bits, compression, size, 0, 0, colors, 0)
    return b"BM" + struct.pack("<IHHI", start + size, 0, 0, start) + info + tables + data


def plain_formats() -> Iterator[Animal]:
    def letters(values: np.ndarray) -> bytes:
        return "\n".join(" ".join(map(str, row)) for row in values.reshape(SIDE, -1)).encode()

    bits = (GREY > 127).astype(np.uint8)  # 1 is black in these
    yield Animal("letters.pbm", pnm("P1", None, letters(bits)), rgb(255 - 255 * bits))
    yield Animal("letters.pgm", pnm("P2", 255, letters(GREY)), rgb(GREY))
    yield Animal("letters.ppm", pnm("P3", 255, letters(NOISE)), NOISE)
    yield Animal("bytes.pbm", pnm("P4", None, np.packbits(bits, axis=1).tobytes()), rgb(255 - 255 * bits))
    yield Animal("bytes.pgm", pnm("P5", 255, GREY.tobytes()), rgb(GREY))
    yield Animal("16 bits.pgm", pnm("P5", 65535, DEEP.astype(">u2").tobytes()), rgb(np.rint(DEEP / 257)))
    ten = DEEP >> 6
    yield Animal("10 bits.pgm", pnm("P5", 1023, ten.astype(">u2").tobytes()), rgb(ten / 1023 * 255), 1)
    yield Animal("bytes.ppm", pnm("P6", 255, NOISE.tobytes()), NOISE)
    yield Animal("bytes.pnm", pnm("P6", 255, NOISE.tobytes()), NOISE)
    yield Animal("cut.ppm", pnm("P6", 255, NOISE.tobytes()[:-1]), reason="runcated")
    if ".pfm" in Image.registered_extensions():
        rows = f"Pf\n{SIDE} {SIDE}\n-1.0\n".encode() + UNIT[::-1].astype("<f4").tobytes()  # from the bottom up
        yield Animal("floats.pfm", rows, rgb(UNIT * 255), 1)
    colors = NOISE[..., ::-1]
    table = np.dstack([np.arange(256)] * 3 + [np.zeros(256)]).astype(np.uint8).tobytes()
    yield Animal("24 bits.bmp", bmp(colors[::-1].tobytes(), 24), NOISE)
    yield Animal("from the top.bmp", bmp(colors.tobytes(), 24, height=-SIDE), NOISE)
    yield Animal("32 bits.bmp", bmp(np.dstack([colors, ALPHA])[::-1].tobytes(), 32), NOISE)  # the fourth is no alpha
    yield Animal("8 bits.bmp", bmp(GREY[::-1].tobytes(), 8, tables=table), rgb(GREY))
    packed = np.packbits(np.pad(1 - bits[::-1], ((0, 0), (0, 8))), axis=1).tobytes()
    yield Animal("1 bit.bmp", bmp(packed, 1, tables=bytes(4) + b"\xff\xff\xff\0"), rgb(255 - 255 * bits))
    five = (NOISE[..., 0] >> 3).astype("<u2") << 10 | (NOISE[..., 1] >> 3).astype("<u2") << 5 | NOISE[..., 2] >> 3
    seen = (NOISE >> 3) * (255 / 31)
    yield Animal("16 bits.bmp", bmp(five.astype("<u2")[::-1].tobytes(), 16), seen, 1)
    runs = b"".join(b"".join(bytes([1, value]) for value in row) + b"\0\0" for row in GREY[::-1]) + b"\0\1"
    yield Animal("runs.bmp", bmp(runs, 8, compression=1, tables=table), rgb(GREY))
    yield Animal("cut.bmp", bmp(colors.tobytes(), 24)[:-500], reason="runcated")


def other_formats() -> Iterator[Animal]:
    image, grey = Image.fromarray(NOISE), Image.fromarray(GREY)
    smooth, clear = Image.fromarray(SMOOTH), Image.fromarray(np.dstack([NOISE, ALPHA]))
    few = Image.fromarray(GREY % 16).convert("P")
    few.putdata((GREY % 16).ravel().tolist())
    palette = RNG.integers(0, 256, (16, 3), np.uint8)
    few.putpalette(palette.tobytes())
    seen = palette[GREY % 16]
    yield Animal("colours.gif", saved(few, "GIF"), seen)
    yield Animal("interlaced.gif", saved(few, "GIF", interlace=True), seen)
    holes = np.where(GREY % 16 == 3, 0, 255)
    yield Animal("a clear colour.gif", saved(few, "GIF", transparency=3), over_white(seen, holes))
    second = few.transpose(Image.Transpose.ROTATE_90)
    yield Animal("animated.gif", saved(few, "GIF", save_all=True, append_images=[second]), seen)
    yield Animal("cut.gif", saved(few, "GIF")[:-150], reason="runcated|EOF|broken")
    for name, kind, options, tolerance in (
        ("bytes.tga", "TGA", {}, 0),
        ("runs.tga", "TGA", {"compression": "tga_rle"}, 0),
        ("colour.pcx", "PCX", {}, 0),
        ("colour.sgi", "SGI", {}, 0),
        ("colour.im", "IM", {}, 0),
        ("colour.dib", "DIB", {}, 0),
        ("colour.dds", "DDS", {}, 0),
        ("colour.qoi", "QOI", {}, 0),
        ("lossless.jp2", "JPEG2000", {}, 0),
        ("icon.ico", "ICO", {"sizes": [(SIDE, SIDE)]}, 0),
        ("lossless.webp", "WEBP", {"lossless": True}, 0),
        ("lossy.webp", "WEBP", {"quality": 95}, 20),
        ("lossy.avif", "AVIF", {"quality": 95}, 20),
    ):
        if kind in Image.SAVE and (kind != "JPEG2000" or features.check("jpg_2000")):
            yield Animal(name, saved(smooth if tolerance else image, kind, **options), SMOOTH if tolerance else NOISE,
                         tolerance)  # fmt: skip
    if features.check("webp"):
        yield Animal("alpha.webp", saved(clear, "WEBP", lossless=True, exact=True), over_white(NOISE, ALPHA), 1)
        animated = saved(image, "WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(255 - NOISE)])
        yield Animal("animated.webp", animated, NOISE)
        yield Animal("turned.webp", saved(image, "WEBP", lossless=True, exif=exif(6)), TURNED)
        yield Animal("exif of noise.webp", saved(image, "WEBP", lossless=True, exif=b"noise"), NOISE)
        yield Animal("cut.webp", saved(image, "WEBP", lossless=True)[:-400], reason=".")
    yield Animal("alpha.tga", saved(clear, "TGA"), over_white(NOISE, ALPHA), 1)
    yield Animal("grey.jp2", saved(grey, "JPEG2000"), rgb(GREY))
    yield Animal("cut.jp2", saved(image, "JPEG2000")[:600], reason="runcated|broken|cannot identify")


# What is no picture, or not the one that its name says


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 24 24
%%EndComments
0 0 24 24 rectfill
%%EOF
"""


def strangers() -> Iterator[Animal]:
    unknown = "cannot identify"
    yield Animal("nothing.jpg", b"", reason=unknown)
    yield Animal("zeros.jpg", bytes(5000), reason=unknown)
    yield Animal("text.jpg", b"no picture\n" * 20, reason=unknown)
    yield Animal("page.png", b"<!DOCTYPE html><html><body>404 Not Found</body></html>", reason=unknown)
    yield Animal("postscript.jpg", EPS, reason=unknown)
    yield Animal("postscript.eps", EPS, reason=unknown)
    yield Animal("document.jpg", b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n", reason=unknown)
    yield Animal("archive.png", b"PK\x03\x04" + bytes(100), reason=unknown)
    yield Animal("film.jpg", b"\0\0\0\x20ftypisom" + bytes(200), reason=unknown)
    yield Animal("mpeg.jpg", b"\0\0\1\xb3\x01\x80\x18" + bytes(200), reason=unknown)
    yield Animal("tables.jpg", b"\x89HDF\r\n\x1a\n" + bytes(200), reason=unknown)
    yield Animal("weather.jpg", b"GRIB" + bytes(3) + b"\x01" + bytes(200), reason=unknown)
    yield Animal("windows.jpg", b"\xd7\xcd\xc6\x9a\0\0" + bytes(200), reason=unknown)
    yield Animal("a drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', reason=unknown)
    yield Animal("a large file not fetched.jpg", b"version https://git-lfs.github.com/spec/v1\n", reason=unknown)
    yield Animal("a png by another name.jpg", png(NOISE, 2), NOISE)
    yield Animal("a jpeg by another name.png", jpeg(), SMOOTH, 8)
    yield Animal("a tiff by another name.gif", tiff(NOISE, 2), NOISE)
    yield Animal("a ppm by another name.webp", pnm("P6", 255, NOISE.tobytes()), NOISE)
    yield Animal("a bmp without a suffix", bmp(NOISE[::-1, :, ::-1].tobytes(), 24), NOISE)


def shapes() -> Iterator[Animal]:
    yield Animal("one pixel.png", png(NOISE[:1, :1], 2), np.tile(NOISE[:1, :1], (SIDE, SIDE, 1)))
    # what another reader would need the most for: enlarged, it has 224 million pixels
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1_000_000, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0\xc8\x64\x32" * 1_000_000)) + chunk(b"IEND", b"")
    flat = np.full((SIDE, SIDE, 3), (200, 100, 50), np.uint8)
    yield Animal("1 x 1000000.png", b"\x89PNG\r\n\x1a\n" + header + data, flat)
    for height, width in ((30000, 1), (1, 30000), (30001, 1), (5, 20000)):
        line = np.full((height, width, 3), (200, 100, 50), np.uint8)
        yield Animal(f"{width} x {height}.png", png(line, 2), np.tile(line[:1, :1], (SIDE, SIDE, 1)))


def names() -> Iterator[Animal]:
    for name in (
        "猫",
        "قطة",
        "🐱",
        "caf\udce9",
        "two\nlines",
        "$x_1$",
        " ",
        "a" * 240,
        "%s {x} \\alpha",
        "-rf",
        "e\u0301",
    ):
        yield Animal(f"{name}.png", png(NOISE, 2), NOISE)


if __name__ == "__main__":
    os.makedirs(sys.argv[1], exist_ok=True)
    print(f"{len(write_zoo(sys.argv[1]))} files")
