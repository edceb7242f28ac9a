import errno
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms.v2 import functional as F

from simclr_lib import image_store
from simclr_lib.image_store import cache_stems, decode, fingerprint, fit, open_store, to_rgb

RNG = np.random.default_rng()  # fresh inputs each time: nothing below depends on their values


def pixels(*shape: int, high: int = 256, dtype: type = np.uint8) -> np.ndarray:
    return RNG.integers(0, high, shape, dtype)


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
def test_sizes_are_torchvisions(shape, size):
    image = Image.fromarray(pixels(*shape, 3))
    squashed = F.resize(image, [size, size], antialias=True)
    cropped = F.center_crop(F.resize(image, [size], antialias=True), [size, size])
    assert np.array_equal(fit(image, size, "squash"), squashed)
    assert np.array_equal(fit(image, size, "crop"), cropped)


def test_an_image_of_the_right_size_is_left_alone():
    array = pixels(3, 24, 24)
    for resize in ("squash", "crop"):
        assert np.array_equal(decode(array, 24, resize), array)


def test_shrinking_averages():
    checkers = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = np.asarray(fit(Image.fromarray(checkers), 16, "squash")).astype(int)
    assert np.abs(small - 127.5).max() <= 2  # without antialiasing it would be black and white


# The store


@pytest.fixture
def files(tmp_path) -> list[str]:
    for i in range(70):  # more than one run
        Image.fromarray(pixels(8, 8, 3)).save(tmp_path / f"{i:02}.png")
    return [str(tmp_path / f"{i:02}.png") for i in range(70)]


@pytest.fixture
def stem(tmp_path):
    return tmp_path / "cache" / "store"


def expected_store(files: list[str]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in files])


def forbid_decoding(monkeypatch) -> None:
    def decode(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(image_store, "_decode_run", decode)


@pytest.mark.parametrize("workers", [1, 3, None])
def test_store_keeps_order_and_is_mapped(files, stem, workers):
    images, unreadable = open_store(files, 8, "squash", [stem], "key", workers)
    assert unreadable == {}
    assert isinstance(images, np.memmap)
    assert np.array_equal(images, expected_store(files))
    assert sorted(os.listdir(stem.parent)) == ["store.bin", "store.json"]


def test_second_opening_decodes_nothing(files, stem, monkeypatch):
    first = open_store(files, 8, "squash", [stem], "key").images
    forbid_decoding(monkeypatch)
    assert np.array_equal(open_store(files, 8, "squash", [stem], "key").images, first)


def test_another_key_is_made_again(files, stem):
    open_store(files, 8, "squash", [stem], "old")
    images, _ = open_store(files[:3], 8, "squash", [stem], "new")
    assert np.array_equal(images, expected_store(files[:3]))


def test_writing_to_the_images_leaves_the_store_alone(files, stem):
    open_store(files, 8, "squash", [stem], "key").images[:] = 0
    assert np.array_equal(open_store(files, 8, "squash", [stem], "key").images, expected_store(files))


def cut_short(path):
    os.truncate(path, os.path.getsize(path) - 1)


def cut_by_an_image(path):
    os.truncate(path, os.path.getsize(path) - 3 * 8 * 8)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[RNG.integers(len(content))] ^= 1 << int(RNG.integers(8))
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [cut_short, cut_by_an_image, flip_a_bit, empty])
def test_damaged_pixels_are_noticed_and_made_again(files, stem, harm, recwarn):
    open_store(files, 8, "squash", [stem], "key")
    harm(stem.with_suffix(".bin"))
    with pytest.warns(UserWarning, match=r"store\.bin is damaged .* made again"):
        images, _ = open_store(files, 8, "squash", [stem], "key")
    assert np.array_equal(images, expected_store(files))
    recwarn.clear()
    open_store(files, 8, "squash", [stem], "key")
    assert not recwarn


@pytest.mark.parametrize("note", ["", "[1, 2]", "{}", '{"key": "key"}', '{"key": "key", "checksum": 0, "shape": 5}'])
def test_damaged_note_is_noticed(files, stem, note):
    open_store(files, 8, "squash", [stem], "key")
    stem.with_suffix(".json").write_text(note)
    with pytest.warns(UserWarning, match="damaged"):
        images, _ = open_store(files, 8, "squash", [stem], "key")
    assert np.array_equal(images, expected_store(files))


def test_note_is_part_of_the_checksum(files, stem):
    os.remove(files[3])
    open_store(files, 8, "squash", [stem], "key")
    note = stem.with_suffix(".json")
    assert "[[3, " in note.read_text()
    note.write_text(note.read_text().replace("[[3, ", "[[4, "))
    with pytest.warns(UserWarning, match="damaged"):
        assert set(open_store(files, 8, "squash", [stem], "key").unreadable) == {3}


def test_unreadable_images_are_left_out_and_remembered(files, stem, monkeypatch):
    jpeg = BytesIO()
    Image.fromarray(pixels(40, 40, 3)).save(jpeg, "JPEG")
    Path(files[0]).write_bytes(b"")
    Path(files[5]).write_bytes(b"no image")
    Path(files[65]).write_bytes(jpeg.getvalue()[:-200])
    os.truncate(files[66], os.path.getsize(files[66]) - 30)
    os.remove(files[9])
    images, unreadable = open_store(files, 8, "squash", [stem], "key")
    assert sorted(unreadable) == [0, 5, 9, 65, 66]
    assert "truncated" in unreadable[65]
    assert np.array_equal(images, expected_store([path for i, path in enumerate(files) if i not in unreadable]))
    forbid_decoding(monkeypatch)
    assert open_store(files, 8, "squash", [stem], "key").unreadable == unreadable


def test_nothing_readable_is_not_cached(tmp_path, stem):
    images, unreadable = open_store([str(tmp_path / "none.png")], 8, "squash", [stem], "key")
    assert images.shape == (0, 3, 8, 8)
    assert set(unreadable) == {0}
    assert os.listdir(stem.parent) == []


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_trouble_of_the_machine_is_not_blamed_on_the_file(files, stem, monkeypatch, error):
    def decode(*_):
        raise error

    monkeypatch.setattr(image_store, "decode", decode)
    with pytest.raises(type(error)):
        open_store(files, 8, "squash", [stem], "key")
    assert os.listdir(stem.parent) == []


def test_falls_back_to_the_next_place_then_to_memory(files, tmp_path, monkeypatch):
    (tmp_path / "blocked").write_text("a file where a folder is needed: not even root can write there")
    blocked, open_place = tmp_path / "blocked" / "store", tmp_path / "elsewhere" / "store"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, _ = open_store(files, 8, "squash", [blocked, open_place], "key")
    assert open_place.with_suffix(".bin").exists()
    with pytest.warns(UserWarning, match="no cache can be written in .*blocked"):
        in_memory, _ = open_store(files, 8, "squash", [blocked], "key")
    assert np.array_equal(images, in_memory)
    assert np.array_equal(images, expected_store(files))
    forbid_decoding(monkeypatch)
    assert np.array_equal(open_store(files, 8, "squash", [blocked, open_place], "key").images, images)


def test_cache_places(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    here, user = cache_stems("/data", "name")
    assert str(here) == "/data/.simclr_cache/name"
    assert user.is_relative_to("/caches/simclr")
    assert user != cache_stems("/other", "name")[1]


# The fingerprint


def test_fingerprint_follows_the_files(files, tmp_path):
    root = str(tmp_path)
    seen = [fingerprint(files, root)]
    assert fingerprint(files, root) == seen[0]

    os.utime(files[4], ns=(0, 0))  # touched
    seen.append(fingerprint(files, root))
    os.truncate(files[5], 10)  # another size, at the old time
    os.utime(files[5], ns=(0, 0))
    seen.append(fingerprint(files, root))
    seen += [fingerprint(files[:-1], root), fingerprint(files[::-1], root)]
    os.rename(files[6], tmp_path / "renamed.png")
    seen += [fingerprint(files, root), fingerprint([*files[:6], str(tmp_path / "renamed.png"), *files[7:]], root)]
    assert len(set(seen)) == len(seen)


def test_fingerprint_survives_a_move(files, tmp_path):
    before = fingerprint(files[:2], str(tmp_path))
    moved = tmp_path / "moved"
    moved.mkdir()
    paths = [os.path.join(moved, os.path.basename(path)) for path in files[:2]]
    for old, new in zip(files[:2], paths, strict=True):
        os.rename(old, new)
    assert fingerprint(paths, str(moved)) == before


def test_fingerprint_sees_a_link_mended(tmp_path):
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "target.png")
    broken = fingerprint([str(link)], str(tmp_path))
    Image.fromarray(pixels(4, 4, 3)).save(tmp_path / "target.png")
    assert fingerprint([str(link)], str(tmp_path)) != broken


def test_several_may_make_one_store_at_once(files, stem):
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: open_store(files, 8, "squash", [stem], "key"), range(4)))
    assert all(np.array_equal(images, expected_store(files)) for images, _ in stores)
    assert sorted(os.listdir(stem.parent)) == ["store.bin", "store.json"]
