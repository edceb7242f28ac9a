"""One image: its modes and orientation against the pixels that were written, its sizes against Pillow's own."""

import numpy as np
import pytest
from image_files import pixels
from PIL import Image

from simclr_lib.data.decode import decode, fit, to_rgb


def saved(tmp_path, image: Image.Image, name: str = "image.png", **options) -> Image.Image:
    image.save(tmp_path / name, **options)
    return Image.open(tmp_path / name)


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


def assert_rgb(image: Image.Image, expected: np.ndarray, tolerance: int = 0) -> None:
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    assert np.abs(np.asarray(rgb).astype(float) - expected).max() <= tolerance


# Kinds of images


@pytest.mark.parametrize("name", ["image.png", "image.jpg"])
def test_grey_becomes_three_equal_channels(tmp_path, name):
    image = saved(tmp_path, Image.fromarray(pixels(7, 5)), name)
    assert image.mode == "L"
    assert_rgb(image, np.repeat(np.asarray(image)[..., None], 3, 2))


def test_bilevel_becomes_black_and_white(tmp_path):
    bits = pixels(7, 5, high=2).astype(bool)
    image = saved(tmp_path, Image.fromarray(bits))
    assert image.mode == "1"
    assert_rgb(image, np.repeat(255 * bits[..., None], 3, 2))


def test_transparency_shows_white(tmp_path):
    rgba = pixels(7, 5, 4)
    image = saved(tmp_path, Image.fromarray(rgba))
    assert image.mode == "RGBA"
    assert_rgb(image, over_white(rgba[..., :3], rgba[..., 3]), tolerance=1)


def test_grey_with_alpha_shows_white(tmp_path):
    la = pixels(7, 5, 2)
    image = saved(tmp_path, Image.fromarray(la))
    assert image.mode == "LA"
    assert_rgb(image, over_white(np.repeat(la[..., :1], 3, 2), la[..., 1]), tolerance=1)


@pytest.mark.parametrize("transparency", [None, 3, bytes([0, 64, 255, 128])], ids=["none", "one colour", "of each"])
def test_palette(tmp_path, transparency):
    index, colours = pixels(7, 5, high=4), pixels(4, 3)
    image = Image.fromarray(index).convert("P")
    image.putdata(index.ravel())
    image.putpalette(colours.tobytes())
    image = saved(tmp_path, image, **({} if transparency is None else {"transparency": transparency}))
    assert image.mode == "P"
    alphas = {None: [255] * 4, 3: [255, 255, 255, 0]}.get(transparency) or list(transparency)
    assert_rgb(image, over_white(colours[index], np.array(alphas)[index]), tolerance=1)


def test_transparent_colour_of_an_rgb_png(tmp_path):
    rgb = pixels(7, 5, 3)
    rgb[2, 3] = rgb[0, 0] = 9, 8, 7
    expected = np.where((rgb == (9, 8, 7)).all(-1, keepdims=True), 255, rgb)
    assert_rgb(saved(tmp_path, Image.fromarray(rgb), transparency=(9, 8, 7)), expected)


def test_cmyk_jpeg(tmp_path):
    flat = np.tile(pixels(4), (16, 16, 1))  # one colour, which JPEG keeps
    image = saved(tmp_path, Image.fromarray(flat, "CMYK"), "image.jpg", quality=100, subsampling=0)
    assert image.mode == "CMYK"
    expected = (255 - flat[..., :3].astype(float)) * (255 - flat[..., 3:]) / 255
    assert_rgb(image, expected, tolerance=4)


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    deep = pixels(7, 5, high=65536, dtype=np.uint16)
    deep[0, :3] = 0, 255, 65535
    expected = np.repeat(np.rint(deep / 65535 * 255)[..., None], 3, 2)
    image = saved(tmp_path, Image.fromarray(deep))
    assert image.mode in ("I;16", "I")
    assert_rgb(image, expected)
    assert_rgb(Image.fromarray(deep.astype(np.int32)), expected)


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


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_exif_orientation(tmp_path, orientation, mode):
    stored = pixels(6, 9, 3) if mode == "RGB" else pixels(6, 9, high=65536, dtype=np.uint16)
    exif = Image.Exif()
    exif[274] = orientation
    rgb = stored if mode == "RGB" else np.repeat(np.rint(stored / 257)[..., None], 3, 2)
    assert_rgb(saved(tmp_path, Image.fromarray(stored), exif=exif), UPRIGHT[orientation](rgb))


def test_broken_exif_does_not_cost_the_image(tmp_path):
    image = saved(tmp_path, Image.fromarray(pixels(6, 9, 3)), "image.jpg", exif=b"Exif\0\0no such thing")
    assert to_rgb(image).size == (9, 6)


# Sizes


@pytest.mark.parametrize("shape", [(40, 61), (61, 40), (50, 50), (8, 5), (17, 200)], ids=str)
@pytest.mark.parametrize("size", [16, 33])
def test_sizes_are_pillows(shape, size):
    image = Image.fromarray(pixels(*shape, 3))
    height, width = shape
    assert np.array_equal(fit(image, size, "squash"), image.resize((size, size), Image.Resampling.BILINEAR))

    short = min(shape)
    sides = width * size // short, height * size // short  # the short side is S, the other rounded down
    left, top = (round((side - size) / 2) for side in sides)
    whole = image.resize(sides, Image.Resampling.BILINEAR)
    assert np.array_equal(fit(image, size, "crop"), np.asarray(whole)[top : top + size, left : left + size])


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_an_image_of_the_right_size_is_left_alone(resize):
    array = pixels(3, 24, 24)
    assert np.array_equal(decode(array, 24, resize), array)


def test_shrinking_averages():
    checkers = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = np.asarray(fit(Image.fromarray(checkers), 16, "squash")).astype(int)
    assert np.abs(small - 127.5).max() <= 2  # without antialiasing it would be black and white


def test_a_decoded_file_is_rgb_with_channels_first(tmp_path):
    rgb = pixels(24, 24, 3)
    Image.fromarray(rgb).save(tmp_path / "image.png")
    decoded = decode(str(tmp_path / "image.png"), 24, "squash")
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, rgb.transpose(2, 0, 1))
