"""Data sets by name: what is loaded, cached, skipped, refused and downloaded."""

import io
import os
import re
import shutil
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from image_files import CLASSES, accept_files, md5, write_cifar10, write_images, write_stl10
from PIL import Image

from simclr_lib.data import decode, sets, store
from simclr_lib.data.embedded import generate
from simclr_lib.data.sets import ImageSet, load_images


def decoded(paths, size: int) -> torch.Tensor:
    images = [Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR) for path in paths]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def assert_consistent(images: ImageSet) -> None:
    assert images.images.dtype == torch.uint8
    assert images.labels.dtype == images.ids.dtype == torch.int64
    assert len(images) == len(images.images) == len(images.labels) == len(images.ids)
    assert images.paths is None or len(images.paths) == len(images)
    assert images.labels.max() < len(images.class_names)


@pytest.fixture(autouse=True)
def users_cache(tmp_path_factory, monkeypatch) -> Path:
    """The user's cache, where those of folders outside the data root are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("SIMCLR_DATA", str(tmp_path_factory.mktemp("data")))
    return Path(os.environ["XDG_CACHE_HOME"], "simclr")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve images of three classes."""
    write_images(tmp_path, *(f"{name}/{i}.png" for name in ("a", "b", "c") for i in range(4)))
    return tmp_path


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines = []
    monkeypatch.setattr(sets, "say_once", lines.append)
    return lines


def load(folder: Path, **options) -> ImageSet:
    return load_images("folder", root=folder, **{"image_size": 8, **options})


def forbid_decoding(monkeypatch) -> None:
    def decode(*_, **__):
        raise AssertionError("decoded again")

    monkeypatch.setattr(store, "decode_or_reason", decode)


def forbid_network(monkeypatch) -> None:
    def no_network(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)


def cached(folder: Path) -> set[str]:
    """The names of the stores in a cache, without their fingerprints."""
    stores = [file.name.split(".") for file in folder.rglob("*.*") if file.is_file()]
    assert sorted(suffix for *_, suffix in stores) == sorted(["bin", "json"] * (len(stores) // 2))
    assert len({name for name, *_ in stores}) == len(stores) / 2
    return {name for name, *_ in stores}


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


def test_stl10_splits(tmp_path):
    parts = write_stl10(tmp_path)
    (tmp_path / "stl10_binary/unlabeled_y.bin").write_bytes(bytes([1] * 5))  # not published, and not to be read
    labels = {"train": [0, 1, 2], "test": [0, 1], "unlabeled": [-1] * 5, "train+unlabeled": [0, 1, 2] + [-1] * 5}
    for split, expected in labels.items():
        images = load_images("stl10", split, tmp_path)
        assert_consistent(images)
        assert images.labels.tolist() == expected
        assert np.array_equal(images.images, np.concatenate([parts[part] for part in split.split("+")]))
        assert images.class_names == CLASSES


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
def test_sets_without_a_split_are_everything(folder, users_cache, split):
    assert len(load_images("folder", split, folder, image_size=8)) == 12
    assert cached(users_cache) == {"folder-all-8-squash"}


def test_root_comes_from_the_environment(tmp_path, monkeypatch):
    write_images(tmp_path / "cifar10/train/cat", "1.png", size=(32, 32))
    monkeypatch.setenv("SIMCLR_DATA", str(tmp_path))
    for root in (None, ""):
        assert load_images("cifar10", root=root).paths == [str(tmp_path / "cifar10/train/cat/1.png")]


# What tells sets apart


def test_checksum_is_of_the_pixels(folder):
    images = load(folder)
    rows = torch.tensor([7, 0, 3])
    checksum = images.checksum(rows)
    assert checksum == zlib.crc32(images.images[rows].numpy().tobytes())
    assert checksum != images.checksum(torch.tensor([7, 0, 4]))
    images.images[3, 1, 2, 5] ^= 1
    assert checksum != images.checksum(rows)


def test_checksum_of_many_images_is_of_a_thousand_from_first_to_last():
    def changed(row):
        pixels = torch.zeros(2500, 3, 1, 1, dtype=torch.uint8)
        pixels[row] = 1
        return ImageSet(pixels, torch.zeros(2500), [], torch.arange(2500)).checksum(torch.arange(2500)) != none

    none = ImageSet(torch.zeros(1000, 3, 1, 1, dtype=torch.uint8), None, [], None).checksum(torch.arange(1000))
    seen = [changed(row) for row in range(2500)]
    assert sum(seen) == 1000
    assert seen[0]
    assert seen[-1]


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


def test_every_limit_and_seed_is_taken_from_one_store(folder, users_cache, monkeypatch):
    whole = load(folder)
    forbid_decoding(monkeypatch)
    for limit, seed in ((2, 0), (2, 1), (7, 0), (12, 3)):
        part = load(folder, limit=limit, seed=seed)
        assert_consistent(part)
        assert torch.equal(part.images, whole.images[part.ids])
    assert cached(users_cache) == {"folder-all-8-squash"}


def test_where_nothing_is_kept_a_limit_decodes_only_its_part(monkeypatch):
    seen = []
    whole = decode.decode

    def watched(item, *rest):
        seen.append(item)
        return whole(item, *rest)

    monkeypatch.setattr(decode, "decode", watched)
    assert len(load_images("embedded", image_size=8, limit=2)) == len(seen) == 2


@pytest.mark.parametrize("limit", [0, -1, 13, 2.5, "5"])
def test_limit_out_of_range(folder, limit):
    with pytest.raises(ValueError, match=f"limit: .*None.* 12 .*got {limit!r}"):
        load(folder, limit=limit)


# The cache


def test_second_time_decodes_nothing_and_maps_memory(folder, users_cache, monkeypatch):
    first = load(folder)
    forbid_decoding(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of torch too, were the memory read-only
        second = load(folder)
    assert torch.equal(first.images, second.images)
    assert second.paths == first.paths
    maps = Path("/proc/self/maps")  # on Linux: what this process has mapped
    assert not maps.exists() or re.search(f"{users_cache}/[0-9a-f]+/folder-all-8-squash[.]", maps.read_text())


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


def test_a_cache_of_the_wrong_size_is_made_again(folder, users_cache):
    before = load(folder).images.clone()
    (path,) = users_cache.glob("*/folder-all-8-squash.*.bin")
    os.truncate(path, 100)
    with pytest.warns(UserWarning, match=rf"{path.name}.* made again") as said:
        assert torch.equal(load(folder).images, before)
    assert said[0].filename == __file__


def test_a_changed_set_leaves_one_store(folder, users_cache):
    load(folder)
    load(folder, image_size=9)
    add(folder)
    load(folder)
    assert cached(users_cache) == {"folder-all-8-squash", "folder-all-9-squash"}


def test_another_tool_reads_the_folder_before_and_after(folder, users_cache):
    before = torchvision.datasets.ImageFolder(folder)
    ours = load(folder)
    after = torchvision.datasets.ImageFolder(folder)
    assert after.samples == before.samples == list(zip(ours.paths, ours.labels.tolist(), strict=True))
    assert sorted(os.listdir(folder)) == ["a", "b", "c"]


def data_root_at(monkeypatch, place: Path) -> Path:
    monkeypatch.setenv("SIMCLR_DATA", str(place))
    return place


@pytest.mark.parametrize("place", ["below the data root", "the data root", "above the data root", "elsewhere"])
def test_the_cache_of_a_folder_is_never_in_it(folder, users_cache, tmp_path_factory, monkeypatch, place):
    relation = {"below the data root": folder.parent, "the data root": folder, "above the data root": folder / "a"}
    data = data_root_at(monkeypatch, relation.get(place, tmp_path_factory.mktemp("data")))
    load(folder)
    at = data / ".simclr_cache" if place == "below the data root" else users_cache
    (inner,) = at.iterdir()
    assert cached(at) == {"folder-all-8-squash"}
    assert not list(folder.rglob(".simclr_cache"))
    assert os.listdir(at) == [inner.name]
    shutil.rmtree(folder.parent / ".simclr_cache", ignore_errors=True)


def test_a_data_set_of_a_name_has_its_cache_beside_it(tmp_path, users_cache):
    write_images(tmp_path / "cifar10/train/cat", "1.png", size=(32, 32))
    load_images("cifar10", root=tmp_path, image_size=16)
    assert cached(tmp_path / ".simclr_cache") == {"cifar10-train-16-squash"}
    assert not users_cache.exists()


def test_two_folders_have_caches_of_their_own(tmp_path, users_cache, monkeypatch):
    for name in ("one", "two"):
        write_images(tmp_path, f"{name}/a/1.png")
        load(tmp_path / name)
    assert len(list(users_cache.iterdir())) == 2
    forbid_decoding(monkeypatch)
    for name in ("one", "two"):
        assert load(tmp_path / name).paths == [str(tmp_path / name / "a/1.png")]


def test_what_older_versions_kept_in_a_folder_is_removed(folder):
    old = folder / ".simclr_cache"
    (old / ".unfinished-x").mkdir(parents=True)
    os.utime(old / ".unfinished-x", (1, 1))
    for name in (
        "folder-all-8-squash.key",
        "folder-all-64-crop.key",
        "folder-all-8-squash-5-seed0.key",
        "folder-all-8-squash",
    ):
        for suffix in (".bin", ".json"):
            (old / f"{name}{suffix}").write_text("")
    with pytest.raises(FileNotFoundError, match="simclr_cache"):
        torchvision.datasets.ImageFolder(folder)
    load(folder)
    assert len(torchvision.datasets.ImageFolder(folder)) == 12
    assert not old.exists()


def test_what_a_user_put_there_stays(folder):
    (folder / ".simclr_cache").mkdir()
    (folder / ".simclr_cache/notes.txt").write_text("mine")
    load(folder)
    assert (folder / ".simclr_cache/notes.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written(folder, users_cache, monkeypatch):
    users_cache.write_text("in the way")
    images = load(folder)
    assert cached(Path(os.environ["SIMCLR_DATA"], ".simclr_cache")) == {"folder-all-8-squash"}
    forbid_decoding(monkeypatch)
    assert torch.equal(load(folder).images, images.images)


def test_no_place_that_can_be_written_is_told(folder, tmp_path_factory, monkeypatch):
    blocked = tmp_path_factory.mktemp("home") / "blocked"
    blocked.write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setenv("SIMCLR_DATA", str(blocked / "data"))
    with pytest.warns(UserWarning, match=f"{blocked}.* or {blocked}/data.*every start") as said:
        images = load(folder)
    assert said[0].filename == __file__
    assert torch.equal(images.images, decoded(images.paths, 8))


# Images that cannot be read


@pytest.fixture
def damaged(folder) -> Path:
    (folder / "a/1.png").write_bytes(b"no image")
    os.truncate(folder / "b/0.png", os.path.getsize(folder / "b/0.png") // 2)
    return folder


def test_unreadable_images_are_refused_by_name(damaged):
    for _ in range(2):
        with pytest.raises(ValueError, match=r"2 of 12 .*cannot be read") as error:
            load(damaged)
        assert f"{damaged}/a/1.png' (UnidentifiedImageError" in str(error.value)
        assert f"{damaged}/b/0.png' (OSError" in str(error.value)
        assert "unreadable='skip'" in str(error.value)


def test_unreadable_images_are_skipped_and_said(damaged, monkeypatch, said):
    for n in range(1, 3):
        images = load(damaged, unreadable="skip")
        assert len(said) == n
        assert re.search(r"^skipped 2 of 12 [^$]*a/1\.png' \([^$]*b/0\.png' \(", said[-1])
        assert_consistent(images)
        assert images.ids.tolist() == [0, 2, 3, 5, 6, 7, 8, 9, 10, 11]
        assert images.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
        assert torch.equal(images.images, decoded(images.paths, 8))
        forbid_decoding(monkeypatch)


def test_skipped_images_count_in_a_limit(damaged, said):
    images = load(damaged, unreadable="skip", limit=12)
    assert images.ids.tolist() == [0, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    some = load(damaged, unreadable="skip", limit=11)
    assert ["2 of 12" in said[0], "of 11" in said[1]] == [True, True]
    drawn = torch.randperm(12, generator=torch.Generator().manual_seed(0))[:11].tolist()
    assert some.ids.tolist() == sorted(set(drawn) - {1, 4})
    assert some.paths == [images.paths[images.ids.tolist().index(i)] for i in some.ids]
    assert torch.equal(some.images, decoded(some.paths, 8))


def test_a_repaired_image_comes_back(damaged):
    assert len(load(damaged, unreadable="skip")) == 10
    write_images(damaged, "a/1.png", "b/0.png")
    assert len(load(damaged)) == 12


def test_many_unreadable_images_are_counted(folder):
    for path in folder.glob("?/*.png"):
        path.write_bytes(b"")
    write_images(folder, "a/0.png")
    with pytest.raises(ValueError, match="11 of 12") as error:
        load(folder)
    assert str(error.value).count(".png' (") == 10


def test_nothing_readable_is_refused_either_way(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_bytes(b"")
    for unreadable in ("refuse", "skip"):
        with pytest.raises(ValueError, match=r"1 of 1 .*cannot be read[^$]*a/1\.png"):
            load(tmp_path, unreadable=unreadable)


# Settings


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mnist", {}, "dataset: .*cifar10, stl10, caltech101, folder.* 'mnist'"),
        ("cifar10", {"split": "unlabeled"}, "split of cifar10: .*train, test, got 'unlabeled'$"),
        ("caltech101", {"split": "test"}, "train, all, got 'test'; caltech101 has no split of its own"),
        ("embedded", {"resize": "pad"}, "resize: .*squash, crop.* 'pad'"),
        ("embedded", {"unreadable": "ignore"}, "unreadable: .*refuse, skip.* 'ignore'"),
        ("embedded", {"image_size": 0}, "image_size of embedded: .*pixels, at least 1.* 0"),
        ("embedded", {"image_size": 32.0}, "image_size of embedded: .* 32.0"),
        ("embedded", {"num_workers": 0}, "num_workers: .*None or at least 1.* 0"),
        ("caltech101", {}, "image_size of caltech101: .*many sizes.* None"),
        ("folder", {"image_size": 8}, "root of folder: .*class folders.* None"),
        ("folder", {"image_size": 8, "root": "/no/such"}, "root of folder: .*a folder that exists.* /no/such"),
    ],
)
def test_settings_out_of_range(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_images(name, **options)


# Download, by torchvision's own classes


@pytest.fixture
def published(tmp_path, monkeypatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which its files can be downloaded."""
    folder = tmp_path / "published"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def publish(monkeypatch, published: tuple[Path, str], loader: type, write: Callable, without: str = "") -> dict:
    """Let torchvision's CIFAR10 or STL10 find an archive of what `write` writes; -> what it returns."""
    folder, address = published
    images = write(folder)
    accept_files(monkeypatch, loader, folder / loader.base_folder)
    (folder / loader.base_folder / without).unlink() if without else None
    with tarfile.open(folder / loader.filename, "w:gz") as archive:
        archive.add(folder / loader.base_folder, loader.base_folder)
    monkeypatch.setattr(loader, "url", f"{address}/{loader.filename}")
    monkeypatch.setattr(loader, "tgz_md5", md5(folder / loader.filename))
    return images


def test_cifar10_is_downloaded_once(tmp_path, published, monkeypatch):
    written = publish(monkeypatch, published, torchvision.datasets.CIFAR10, write_cifar10)
    for _ in range(2):
        images = load_images("cifar10", "test", tmp_path / "data")
        assert_consistent(images)
        assert np.array_equal(images.images, written["test"])
        assert images.class_names == CLASSES
        forbid_network(monkeypatch)
    assert np.array_equal(load_images("cifar10", "train", tmp_path / "data").images, written["train"])


def test_stl10_is_downloaded_once(tmp_path, published, monkeypatch):
    written = publish(monkeypatch, published, torchvision.datasets.STL10, write_stl10)
    for _ in range(2):
        assert np.array_equal(load_images("stl10", "unlabeled", tmp_path / "data").images, written["unlabeled"])
        forbid_network(monkeypatch)


def test_caltech101_is_downloaded_once(tmp_path, published, monkeypatch):
    folder, address = published
    write_images(folder, *(f"101_ObjectCategories/{name}/image_0001.jpg" for name in ("BACKGROUND_Google", "ant")))
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        archive.add(folder / "101_ObjectCategories", "101_ObjectCategories")
    with zipfile.ZipFile(folder / "caltech-101.zip", "w") as archive:
        archive.writestr("caltech-101/101_ObjectCategories.tar.gz", inner.getvalue())
    fetch = torchvision.datasets.caltech.download_and_extract_archive  # the class has its address within its code

    def fetch_fixture(url, download_root, filename, md5):
        fetch(f"{address}/{filename}", download_root, filename=filename)

    monkeypatch.setattr(torchvision.datasets.caltech, "download_and_extract_archive", fetch_fixture)
    for _ in range(2):
        images = load_images("caltech101", root=tmp_path / "data", image_size=16)
        assert images.class_names == ["ant"]
        assert images.paths == [str(tmp_path / "data/caltech101/101_ObjectCategories/ant/image_0001.jpg")]
        forbid_network(monkeypatch)


@pytest.mark.parametrize(
    ("name", "split", "layouts"),
    [
        ("cifar10", "test", ["cifar-10-batches-py/", "cifar10/<split>/<class>/"]),
        ("stl10", "train+unlabeled", ["stl10_binary/", "stl10/<split>/<class>/"]),
        ("caltech101", "all", ["caltech101/101_ObjectCategories/<class>/"]),
    ],
)
@pytest.mark.parametrize("download", [True, False])
def test_without_network_the_error_says_what_to_put_where(tmp_path, monkeypatch, name, split, layouts, download):
    forbid_network(monkeypatch)
    with pytest.raises(FileNotFoundError) as error:
        load_images(name, split, tmp_path, image_size=32, download=download)
    why = "Name or service not known" if download else "download: expected True"
    for part in (f"{name} ({split})", *layouts, str(tmp_path), why, "data_root", "$SIMCLR_DATA", "'embedded'"):
        assert part in str(error.value)
    if not download:
        assert os.listdir(tmp_path) == []


def test_a_damaged_archive_is_told(tmp_path, published, monkeypatch):
    publish(monkeypatch, published, torchvision.datasets.CIFAR10, write_cifar10)
    os.truncate(published[0] / "cifar-10-python.tar.gz", 1000)
    with pytest.raises(FileNotFoundError, match=r"cifar10 \(train\).*corrupted"):
        load_images("cifar10", root=tmp_path / "data")


def test_a_download_that_lacks_files_is_told(tmp_path, published, monkeypatch):
    publish(monkeypatch, published, torchvision.datasets.STL10, write_stl10, without="class_names.txt")
    with pytest.raises(FileNotFoundError, match=r"stl10 \(test\).*the download: expected all files"):
        load_images("stl10", "test", root=tmp_path / "data")


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
def test_60000_files_are_decoded_once(all_of_cifar10, monkeypatch):
    first = [load_images("cifar10", split, all_of_cifar10) for split in ("train", "test")]
    assert [len(images) for images in first] == [50000, 10000]
    forbid_decoding(monkeypatch)
    second = [load_images("cifar10", split, all_of_cifar10) for split in ("train", "test")]
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, second, strict=True))
