"""One image: its modes and orientation against the pixels that were written, its sizes against Pillow's own.

Many more files are in the zoo, see `image_zoo`.
"""

import errno
import sys
import zlib

import numpy as np
import pytest
from image_files import pixels
from image_zoo import UPRIGHT, over_white
from PIL import BmpImagePlugin, Image
from torchvision.transforms import functional as F

from simclr_lib.data import decode as module
from simclr_lib.data.decode import decode, decode_or_reason, fit, readable_suffixes, to_rgb


def saved(tmp_path, image: Image.Image, name: str = "image.png", **options) -> Image.Image:
    image.save(tmp_path / name, **options)
    return Image.open(tmp_path / name)


def assert_rgb(image: Image.Image, expected: np.ndarray, tolerance: int = 0) -> None:
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    assert np.abs(np.asarray(rgb).astype(float) - expected).max() <= tolerance


# Formats


@pytest.fixture
def registry(monkeypatch):
    """Pillow's registry without HEIF, and Python's without pillow_heif, to be changed by one test alone."""
    readable_suffixes.cache_clear()
    Image.init()
    monkeypatch.setattr(Image, "OPEN", {name: opens for name, opens in Image.OPEN.items() if name != "HEIF"})
    monkeypatch.setattr(Image, "EXTENSION", {end: name for end, name in Image.EXTENSION.items() if name != "HEIF"})
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    installed = {name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] == "pillow_heif"}
    sys.modules["pillow_heif"] = None  # importing it fails
    yield monkeypatch
    for name in [name for name in sys.modules if name.split(".")[0] == "pillow_heif"]:
        del sys.modules[name]
    sys.modules.update(installed)
    readable_suffixes.cache_clear()


def test_suffixes_are_of_every_format_that_pillow_reads_by_itself():
    found = readable_suffixes()
    assert {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".apng",
        ".webp",
        ".bmp",
        ".dib",
        ".gif",
        ".tif",
        ".tiff",
    } <= found
    assert {".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".pcx", ".sgi", ".psd", ".jp2", ".mpo", ".dds"} <= found
    assert (".avif" in found) == (".avif" in Image.registered_extensions())
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in found)


def test_no_suffix_is_of_what_another_program_reads_or_of_what_is_no_picture():
    others = ".eps .ps .pdf .mpg .mpeg .wmf .emf .h5 .hdf .grib .bufr .iim .palm .heic .mov .mp4 .svg .raw .txt"
    without_heif = readable_suffixes() - {".heic"}
    assert not set(others.split()) & without_heif


def test_a_format_that_pillow_was_built_without_is_not_listed(registry):
    for suffix in (".webp", ".avif", ".avifs"):  # as Pillow has it then: the format, but no suffix
        Image.EXTENSION.pop(suffix, None)
    assert {".jpg", ".png"} <= readable_suffixes()
    assert not {".webp", ".avif"} & readable_suffixes()


def test_a_format_that_a_plugin_adds_is_listed(registry):
    class Mine(BmpImagePlugin.BmpImageFile):
        format = "MINE"

    Image.register_open("MINE", Mine, lambda prefix: prefix.startswith(b"BM"))
    Image.register_extension("MINE", ".mine")
    assert ".mine" in readable_suffixes()


FAKE_HEIF = """
from PIL import BmpImagePlugin, Image

def opened(file, name):
    file.seek(4)
    return BmpImagePlugin.DibImageFile(file, name)

Image.register_open("HEIF", opened, lambda prefix: prefix.startswith(b"heif"))
Image.register_extensions("HEIF", [".heic", ".heif"])
"""


def install(registry, folder, code: str) -> None:
    """A package pillow_heif of which the module that registers itself holds this code."""
    (folder / "pillow_heif").mkdir()
    (folder / "pillow_heif" / "__init__.py").touch()
    (folder / "pillow_heif" / "HeifImagePlugin.py").write_text(code)
    del sys.modules["pillow_heif"]
    registry.syspath_prepend(str(folder))
    readable_suffixes.cache_clear()


def test_heif_is_listed_and_read_where_pillow_heif_is_installed(registry, tmp_path):
    assert not {".heic", ".heif"} & readable_suffixes()
    install(registry, tmp_path, FAKE_HEIF)
    assert {".heic", ".heif"} <= readable_suffixes()
    rgb = pixels(24, 24, 3)
    Image.fromarray(rgb).save(tmp_path / "image.dib")
    (tmp_path / "image.heic").write_bytes(b"heif" + (tmp_path / "image.dib").read_bytes())
    assert np.array_equal(decode(str(tmp_path / "image.heic"), 24, "squash"), rgb.transpose(2, 0, 1))


@pytest.mark.parametrize("code", ["raise RuntimeError('no libheif')", "import nothing_of_that_name", "1 +"])
def test_a_pillow_heif_that_cannot_be_imported_is_as_none(registry, tmp_path, code):
    install(registry, tmp_path, code)
    assert ".heic" not in readable_suffixes()
    assert ".jpg" in readable_suffixes()


def test_heif_of_the_real_package(tmp_path):
    pytest.importorskip("pillow_heif", reason="pillow-heif, an extra, is not installed")
    readable_suffixes.cache_clear()
    assert {".heic", ".heif"} <= readable_suffixes()
    y, x = np.mgrid[:48, :48]
    rgb = np.stack([5 * x, 5 * y, 2 * (x + y)], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(rgb).save(tmp_path / "image.heic", quality=95, exif=exif.tobytes())
    got = decode(str(tmp_path / "image.heic"), 48, "squash").transpose(1, 2, 0).astype(int)
    assert np.abs(got - UPRIGHT[6](rgb)).max() < 16


def test_a_file_is_opened_as_one_of_these_formats_alone(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Image, "open", lambda path, formats: asked.append(formats))
    with pytest.raises((AttributeError, TypeError)):
        decode("any", 8, "squash")
    (formats,) = asked
    assert {"JPEG", "PNG", "TIFF", "GIF"} <= set(formats)
    assert not {"EPS", "IPTC", "MPEG", "WMF", "HDF5", "GRIB", "BUFR"} & set(formats)
    assert formats[:2] == ["JPEG", "PNG"]  # most files are: no other need be tried
    assert formats[2:] == sorted(formats[2:])  # the same whatever was opened before


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
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)  # every value
    expected = np.repeat(((deep.astype(int) + 128) // 257)[..., None], 3, 2)
    image = saved(tmp_path, Image.fromarray(deep))
    assert image.mode in ("I;16", "I")
    assert_rgb(image, expected)
    assert_rgb(Image.fromarray(deep.astype(np.int32)), expected)
    assert_rgb(Image.fromarray(deep.astype(">u2")), expected)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([0.0, 0.5, 1.0, 0.25], [0, 128, 255, 64]),
        ([0.0, 0.0, 0.0, 0.5], [0, 0, 0, 128]),  # its own range by format: not stretched
        ([0.0, 1.0, 100.0, 510.0], [0, 0, 50, 255]),
        ([-1.0, 0.0, 1.0, -0.5], [0, 128, 255, 64]),
        ([-3.0, 0.0, 0.0, 0.0], [0, 191, 191, 191]),
        ([np.nan, np.inf, -np.inf, 1.0], [0, 0, 0, 255]),
        ([np.nan] * 4, [0] * 4),
        ([1e30, 0.0, 5e29, 0.0], [255, 0, 128, 0]),
    ],
)
def test_floats_are_scaled_from_0_to_1_or_as_far_as_they_go(numbers, expected):
    image = Image.fromarray(np.array(numbers, np.float32).reshape(2, 2))
    assert_rgb(image, np.repeat(np.reshape(expected, (2, 2, 1)), 3, 2), tolerance=1)


def test_integers_beyond_16_bits_are_scaled_as_far_as_they_go():
    image = Image.fromarray(np.array([[0, 65536], [131072, 262144]], np.int32))
    assert_rgb(image, np.repeat([[[0], [64]], [[128], [255]]], 3, 2), tolerance=1)
    image = Image.fromarray(np.array([[-65535, 0], [0, 65535]], np.int32))
    assert_rgb(image, np.repeat([[[0], [128]], [[128], [255]]], 3, 2), tolerance=1)


def test_integers_below_0_are_scaled_from_their_least_to_their_greatest():
    scan = np.array([[-1000, 0], [500, 1000]], np.int32)  # a tomography's, in signed 16 bits
    assert_rgb(Image.fromarray(scan), np.repeat([[[0], [128]], [[191], [255]]], 3, 2), tolerance=1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "LA", "RGBX", "I", "F"])
def test_no_mode_is_refused(mode):
    rgb = Image.fromarray(pixels(7, 5, 3))
    image = to_rgb(rgb.convert("L").convert(mode) if mode in ("I", "F") else rgb.convert(mode))
    assert (image.mode, image.size) == ("RGB", (5, 7))


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


def test_metadata_that_raises_anything_does_not_cost_the_image(monkeypatch):
    rgb = pixels(6, 9, 3)
    for error in (ValueError, SyntaxError, TypeError, KeyError, ZeroDivisionError, RecursionError, OSError):
        image = Image.fromarray(rgb)
        monkeypatch.setattr(image, "getexif", lambda error=error: (_ for _ in ()).throw(error("no such thing")))
        assert np.array_equal(to_rgb(image), rgb)


# Why not


def test_reasons_are_of_the_file_and_trouble_of_the_machine_is_raised(monkeypatch):
    def decode_to(error):
        monkeypatch.setattr(module, "decode", lambda *_: (_ for _ in ()).throw(error))
        return decode_or_reason("file", 8, "squash")

    for error in (
        SyntaxError("a"),
        OSError("b"),
        ValueError("c"),
        OSError(errno.EINVAL, "d"),
        OSError(errno.ELOOP, "e"),
    ):
        assert decode_to(error) == f"{type(error).__name__}: {error}"
    for number in (errno.EMFILE, errno.EIO, errno.ENOMEM, errno.ESTALE):
        with pytest.raises(OSError, match="trouble"):
            decode_to(OSError(number, "trouble"))
    with pytest.raises(MemoryError):
        decode_to(MemoryError())


def test_above_the_limit_of_pixels_the_reason_says_how_to_allow_it(tmp_path, monkeypatch):
    rgb = pixels(24, 24, 3)
    Image.fromarray(rgb).save(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 287)  # twice that is less than 576
    reason = decode_or_reason(str(tmp_path / "image.png"), 24, "squash")
    assert "DecompressionBombError" in reason
    assert "PIL.Image.MAX_IMAGE_PIXELS = None" in reason
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert np.array_equal(decode_or_reason(str(tmp_path / "image.png"), 24, "squash"), rgb.transpose(2, 0, 1))


def test_pixels_that_are_cut_are_refused_whatever_stands_beside_them(tmp_path):
    Image.fromarray(pixels(24, 24, 3)).save(tmp_path / "image.png")
    whole = (tmp_path / "image.png").read_bytes()
    text = b"zTXtCmt\0\0" + zlib.compress(bytes(3 << 20))
    text = (len(text) - 4).to_bytes(4) + text + zlib.crc32(text).to_bytes(4)
    for end in range(0, len(whole) - 20, 40):
        (tmp_path / "cut.png").write_bytes(whole[:end])
        assert isinstance(decode_or_reason(str(tmp_path / "cut.png"), 24, "squash"), str)
        (tmp_path / "cut.png").write_bytes(whole[:33] + text + whole[33:end])
        assert isinstance(decode_or_reason(str(tmp_path / "cut.png"), 24, "squash"), str)
    (tmp_path / "text.png").write_bytes(whole[:33] + text + whole[33:])
    assert not isinstance(decode_or_reason(str(tmp_path / "text.png"), 24, "squash"), str)


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


def test_every_ordinary_shape_is_cropped_and_squashed_as_torchvision_does_it():
    rng = np.random.default_rng(0)
    shapes = [(a, b) for a in (1, 2, 3, 7, 16) for b in range(1, 16 * a + 2, max(1, a * a // 2))]
    shapes += rng.integers(20, 320, (150, 2)).tolist()
    for height, width in [*shapes, *(shape[::-1] for shape in shapes[::3])]:
        if max(height, width) > 16 * min(height, width):
            continue
        image = Image.fromarray(pixels(height, width, 3))
        for size in (16, 33):
            assert np.array_equal(fit(image, size, "crop"), F.center_crop(F.resize(image, [size]), [size])), (
                height,
                width,
            )
            assert np.array_equal(fit(image, size, "squash"), F.resize(image, [size, size])), (height, width)


@pytest.mark.parametrize(
    "shape", [(400, 5), (401, 5), (5, 400), (6, 401), (1, 700), (1, 701), (701, 1), (3000, 64)], ids=str
)
def test_long_lines_are_cropped_and_squashed_nearly_as_torchvision_does_it(shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = [np.sin(y / 9) + np.sin(x / 9), np.cos(y / 7) + np.sin(x / 5), np.sin((x + y) / 11) * 2]
    image = Image.fromarray(np.stack([64 * (wave + 2) for wave in waves], -1).clip(0, 255).astype(np.uint8))
    for size in (16, 33):
        whole = {"crop": F.center_crop(F.resize(image, [size]), [size]), "squash": F.resize(image, [size, size])}
        for resize, expected in whole.items():
            got = fit(image, size, resize)
            assert got.size == (size, size)
            apart = np.abs(np.asarray(got, float) - np.asarray(expected, float))
            shift = 13 * min(shape) / size if resize == "crop" else 0  # by at most a pixel of the result
            assert apart.max() <= 2 + shift


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
