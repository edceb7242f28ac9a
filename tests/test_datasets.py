import os
import tempfile
import time
import urllib.error
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from simclr_lib import image_store
from simclr_lib.datasets import ImageSet, load_images
from simclr_lib.embedded import generate

RNG = np.random.default_rng()


def write_images(folder, *names: str, size: tuple[int, int] = (10, 12)) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)


def decoded(paths, size: int) -> torch.Tensor:
    images = [Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR) for path in paths]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def assert_consistent(images: ImageSet) -> None:
    assert images.images.dtype == torch.uint8
    assert images.labels.dtype == images.ids.dtype == torch.int64
    assert len(images) == len(images.images) == len(images.labels) == len(images.ids)
    assert images.paths is None or len(images.paths) == len(images)
    assert images.labels.max() < len(images.class_names)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve images of three classes."""
    write_images(tmp_path, *(f"{name}/{i}.png" for name in ("a", "b", "c") for i in range(4)))
    return tmp_path


def load(folder: Path, **options) -> ImageSet:
    return load_images("folder", root=folder, **{"image_size": 8, **options})


def forbid_decoding(monkeypatch) -> None:
    def decode(*_, **__):
        raise AssertionError("decoded again")

    monkeypatch.setattr(image_store, "_decode_run", decode)


def forbid_network(monkeypatch) -> None:
    def download(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    for module in (torchvision.datasets.cifar, torchvision.datasets.stl10, torchvision.datasets.caltech):
        monkeypatch.setattr(module, "download_and_extract_archive", download)


# What is loaded


def test_folder(folder):
    images = load(folder)
    assert_consistent(images)
    assert images.images.shape == (12, 3, 8, 8)
    assert images.paths == [str(folder / f"{name}/{i}.png") for name in "abc" for i in range(4)]
    assert torch.equal(images.images, decoded(images.paths, 8))
    assert images.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert images.class_names == ["a", "b", "c"]
    assert images.ids.tolist() == list(range(12))


def test_embedded():
    images, (pixels, labels, class_names) = load_images("embedded", "test"), generate("test")
    assert_consistent(images)
    assert torch.equal(images.images, pixels)
    assert torch.equal(images.labels, labels)
    assert images.class_names == class_names
    assert images.paths is None


def test_embedded_at_another_size_is_resized_and_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = load_images("embedded", "test", image_size=20, limit=5, seed=3)
    original = load_images("embedded", "test", limit=5, seed=3)
    by_hand = [Image.fromarray(image.permute(1, 2, 0).numpy()).resize((20, 20), 2) for image in original.images]
    assert torch.equal(images.images, torch.from_numpy(np.stack(by_hand)).permute(0, 3, 1, 2))
    assert os.listdir(tmp_path) == []


def write_stl10(root: Path) -> dict[str, np.ndarray]:
    """In the layout of stl10_binary; -> the images as they are to be loaded, by part."""
    counts = {"train": 3, "test": 2, "unlabeled": 5}
    images = {part: RNG.integers(0, 256, (n, 3, 96, 96), np.uint8) for part, n in counts.items()}
    (root / "stl10_binary").mkdir()
    for part, pixels in images.items():
        pixels.swapaxes(2, 3).tofile(root / f"stl10_binary/{part}_X.bin")
        np.arange(1, len(pixels) + 1, dtype=np.uint8).tofile(root / f"stl10_binary/{part}_y.bin")
    (root / "stl10_binary/class_names.txt").write_text("airplane\nbird\ncar\n")
    return images


def test_stl10_splits(tmp_path):
    parts = write_stl10(tmp_path)
    labels = {"train": [0, 1, 2], "test": [0, 1], "unlabeled": [-1] * 5, "train+unlabeled": [0, 1, 2] + [-1] * 5}
    for split, expected in labels.items():
        images = load_images("stl10", split, tmp_path)
        assert_consistent(images)
        assert images.labels.tolist() == expected
        assert np.array_equal(images.images, np.concatenate([parts[part] for part in split.split("+")]))
        assert images.class_names == ["airplane", "bird", "car"]


def test_stl10_at_another_size_and_limited(tmp_path):
    pixels = write_stl10(tmp_path)["unlabeled"].transpose(0, 2, 3, 1)
    images = load_images("stl10", "unlabeled", tmp_path, image_size=32, limit=3)
    by_hand = [np.asarray(Image.fromarray(pixels[i]).resize((32, 32), 2)) for i in images.ids]
    assert torch.equal(images.images, torch.from_numpy(np.stack(by_hand)).permute(0, 3, 1, 2))
    natural = load_images("stl10", "unlabeled", tmp_path, limit=3)
    assert np.array_equal(natural.images.permute(0, 2, 3, 1), pixels[natural.ids])


def test_crop_keeps_the_centre(tmp_path):
    stripes = np.zeros((8, 24, 3), np.uint8)
    stripes[:, 8:16] = 200
    (tmp_path / "a").mkdir()
    Image.fromarray(stripes).save(tmp_path / "a/1.png")
    assert (load(tmp_path, resize="crop").images == 200).all()
    assert not (load(tmp_path, resize="squash").images == 200).all()


@pytest.mark.parametrize("split", ["train", "all"])
def test_sets_without_a_split_are_everything(folder, split):
    assert len(load_images("folder", split, folder, image_size=8)) == 12
    assert sorted(os.listdir(folder / ".simclr_cache")) == ["folder-all-8-squash.bin", "folder-all-8-squash.json"]


def test_root_comes_from_the_environment(tmp_path, monkeypatch):
    write_images(tmp_path / "cifar10/train/cat", "1.png", size=(32, 32))
    monkeypatch.setenv("SIMCLR_DATA", str(tmp_path))
    for root in (None, ""):
        assert load_images("cifar10", root=root).paths == [str(tmp_path / "cifar10/train/cat/1.png")]


# Part of a set


def test_subset_keeps_ids(folder):
    images = load(folder)
    part = images.subset([7, 0, 3])
    assert_consistent(part)
    assert part.ids.tolist() == [7, 0, 3]
    assert part.labels.tolist() == [1, 0, 0]
    assert part.paths == [images.paths[i] for i in (7, 0, 3)]
    assert torch.equal(part.images, images.images[[7, 0, 3]])
    assert part.subset(torch.tensor([2])).ids.tolist() == [3]
    assert images.subset(images.labels == 2).ids.tolist() == [8, 9, 10, 11]
    assert images.subset(range(2, 4)).ids.tolist() == [2, 3]
    assert len(images.subset([])) == 0
    with pytest.raises(IndexError):
        images.subset([12])


def test_limit_is_a_seeded_subset(folder):
    whole, first, again = load(folder), load(folder, limit=5, seed=1), load(folder, limit=5, seed=1)
    assert_consistent(first)
    assert first.ids.tolist() == again.ids.tolist() == sorted(set(first.ids.tolist()))
    assert len(first) == 5
    expected = whole.subset(first.ids)
    assert torch.equal(first.images, expected.images)
    assert torch.equal(first.labels, expected.labels)
    assert first.paths == expected.paths
    assert len({tuple(load(folder, limit=5, seed=seed).ids.tolist()) for seed in range(8)}) > 1
    assert load(folder, limit=12).ids.tolist() == list(range(12))


def test_limit_decodes_only_its_part(folder, monkeypatch):
    seen = []
    decode = image_store.decode
    monkeypatch.setattr(image_store, "decode", lambda item, *rest: (seen.append(item), decode(item, *rest))[1])
    assert sorted(load(folder, limit=2).paths) == sorted(seen)


@pytest.mark.parametrize("limit", [0, -1, 13, 2.5, "5"])
def test_limit_out_of_range(folder, limit):
    with pytest.raises(
        ValueError, match=f"limit: expected None for all, or 1 to the 12 images there are, got {limit!r}"
    ):
        load(folder, limit=limit)


# The cache


def test_second_time_decodes_nothing_and_maps_memory(folder, monkeypatch):
    first = load(folder)
    forbid_decoding(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of torch too, were the memory read-only
        second = load(folder)
    assert torch.equal(first.images, second.images)
    assert second.paths == first.paths
    maps = Path("/proc/self/maps")  # on Linux: what this process has mapped
    assert not maps.exists() or "folder-all-8-squash.bin" in maps.read_text()


def test_sizes_and_ways_have_their_own_cache(folder):
    assert load(folder).images.shape[-1] == 8
    assert load(folder, image_size=9).images.shape[-1] == 9
    assert not torch.equal(load(folder).images, load(folder, resize="crop").images)


def replace(folder):
    write_images(folder, "b/2.png", size=(14, 9))


def add(folder):
    write_images(folder, "b/9.png")


def remove(folder):
    (folder / "c/3.png").unlink()


def move(folder):
    (folder / "c/3.png").rename(folder / "a/4.png")


@pytest.mark.parametrize("change", [replace, add, remove, move])
def test_changed_files_are_noticed(folder, change):
    load(folder)
    change(folder)
    images = load(folder)
    assert_consistent(images)
    assert images.paths == [str(path) for path in sorted(folder.glob("?/*.png"))]
    assert torch.equal(images.images, decoded(images.paths, 8))


def test_a_touched_file_is_decoded_again(folder, monkeypatch):
    load(folder)
    os.utime(folder / "a/1.png", (1, 1))
    forbid_decoding(monkeypatch)
    with pytest.raises(AssertionError, match="decoded again"):
        load(folder)


def test_damaged_cache_is_made_again(folder):
    before = load(folder).images.clone()
    path = folder / ".simclr_cache/folder-all-8-squash.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 4
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged") as said:
        assert torch.equal(load(folder).images, before)
    assert said[0].filename == __file__


def test_a_place_that_cannot_be_written(folder, tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    (folder / ".simclr_cache").write_text("in the way")
    images = load(folder)
    assert [path.name for path in cache.glob("simclr/*/*.bin")] == ["folder-all-8-squash.bin"]
    forbid_decoding(monkeypatch)
    assert torch.equal(load(folder).images, images.images)


# Images that cannot be read


@pytest.fixture
def damaged(folder) -> Path:
    (folder / "a/1.png").write_bytes(b"no image")
    os.truncate(folder / "b/0.png", os.path.getsize(folder / "b/0.png") // 2)
    return folder


def test_unreadable_images_are_refused_by_name(damaged):
    for _ in range(2):
        with pytest.raises(ValueError, match="2 of 12 images cannot be read") as error:
            load(damaged)
        assert f"{damaged}/a/1.png (UnidentifiedImageError" in str(error.value)
        assert f"{damaged}/b/0.png (OSError" in str(error.value)
        assert "unreadable='skip'" in str(error.value)


def test_unreadable_images_are_skipped_and_said_each_time(damaged, monkeypatch):
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"skipped: 2 of 12 images cannot be read:[^$]*a/1\.png[^$]*b/0\.png"):
            images = load(damaged, unreadable="skip")
        assert_consistent(images)
        assert images.ids.tolist() == [0, 2, 3, 5, 6, 7, 8, 9, 10, 11]
        assert images.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
        assert torch.equal(images.images, decoded(images.paths, 8))
        forbid_decoding(monkeypatch)


def test_a_repaired_image_comes_back(damaged):
    with pytest.warns(UserWarning, match="2 of 12"):
        load(damaged, unreadable="skip")
    write_images(damaged, "a/1.png", "b/0.png")
    assert len(load(damaged)) == 12


def test_many_unreadable_images_are_counted(folder):
    for path in folder.glob("?/*.png"):
        path.write_bytes(b"")
    write_images(folder, "a/0.png")
    with pytest.raises(ValueError, match="11 of 12") as error:
        load(folder)
    assert str(error.value).count(".png (") == 10
    assert "and 1 more" in str(error.value)


def test_nothing_readable_is_refused_either_way(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_bytes(b"")
    for unreadable in ("refuse", "skip"):
        with pytest.raises(ValueError, match="1 of 1 images cannot be read"):
            load(tmp_path, unreadable=unreadable)


# Settings


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mnist", {}, "expected one of cifar10, stl10, caltech101, folder, embedded, got 'mnist'"),
        ("cifar10", {"split": "unlabeled"}, "split of cifar10: expected one of train, test, got 'unlabeled'"),
        ("caltech101", {"split": "test"}, "train, all .caltech101 has no split of its own.*got 'test'"),
        ("embedded", {"resize": "pad"}, "resize: expected squash or crop, got 'pad'"),
        ("embedded", {"unreadable": "ignore"}, "unreadable: expected refuse or skip, got 'ignore'"),
        ("embedded", {"image_size": 0}, "image_size of embedded: expected a side in pixels, at least 1, got 0"),
        ("embedded", {"num_workers": 0}, "num_workers: expected None or at least 1, got 0"),
        ("caltech101", {}, "image_size of caltech101: .*many sizes.*got None"),
        ("folder", {"image_size": 8}, "root of folder: expected the folder that holds the class folders, got None"),
        (
            "folder",
            {"image_size": 8, "root": "/no/such"},
            "root of folder: expected a folder that exists, got '/no/such'",
        ),
    ],
)
def test_settings_out_of_range(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_images(name, **options)


# Download


@pytest.mark.parametrize(
    ("name", "split", "layout"),
    [
        ("cifar10", "test", "cifar-10-batches-py/, or images in cifar10/test/<class>/"),
        ("stl10", "train+unlabeled", "stl10_binary/, or images in stl10/train/<class>/ and stl10/unlabeled/"),
        ("caltech101", "all", "caltech101/101_ObjectCategories/<class>/"),
    ],
)
def test_without_network_the_error_says_what_to_put_where(tmp_path, monkeypatch, name, split, layout):
    forbid_network(monkeypatch)
    for download, why in ((True, "Name or service not known"), (False, "download=False")):
        with pytest.raises(FileNotFoundError) as error:
            load_images(name, split, tmp_path, image_size=32, download=download)
        for part in (
            f"{name} ({split}): expected {layout}, complete, in {tmp_path}",
            why,
            "$SIMCLR_DATA",
            "'embedded'",
        ):
            assert part in str(error.value)


def test_download_fills_the_root(tmp_path, monkeypatch):
    asked = []

    def download(self):
        asked.append(self.root)
        for category in ("BACKGROUND_Google", "ant", "bonsai"):
            write_images(Path(self.root, "101_ObjectCategories", category), "image_0001.jpg")

    monkeypatch.setattr(torchvision.datasets.Caltech101, "download", download)
    for _ in range(2):
        assert load_images("caltech101", root=tmp_path, image_size=16).class_names == ["ant", "bonsai"]
    assert asked == [str(tmp_path / "caltech101")]


def test_a_download_that_lacks_files_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", lambda root, download: None)
    with pytest.raises(FileNotFoundError, match="the download lacks files"):
        load_images("cifar10", root=tmp_path)


# Real images


def test_real_cifar10(tmp_path, unpack_cifar10):
    unpack_cifar10(tmp_path, "train", per_class=150, classes=2)
    images = load_images("cifar10", "train", tmp_path)
    assert_consistent(images)
    assert images.class_names == ["airplane", "automobile"]
    assert images.labels.bincount().tolist() == [150, 150]
    assert torch.equal(images.images, decoded(images.paths, 32))
    assert 90 < images.images.float().mean() < 160  # photographs, not noise or black


@pytest.fixture
def all_of_cifar10(unpack_cifar10):
    with tempfile.TemporaryDirectory() as root:  # pytest would keep 60,000 files, and delete them minutes later
        unpack_cifar10(Path(root), "train", per_class=5000, classes=10)
        unpack_cifar10(Path(root), "test", per_class=1000, classes=10)
        yield root


@pytest.mark.slow
def test_60000_files_open_in_two_seconds_the_second_time(all_of_cifar10):
    first = [load_images("cifar10", split, all_of_cifar10) for split in ("train", "test")]
    assert [len(images) for images in first] == [50000, 10000]
    start = time.perf_counter()
    second = [load_images("cifar10", split, all_of_cifar10) for split in ("train", "test")]
    assert time.perf_counter() - start < 2
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, second, strict=True))
