"""A user's own folder, from its files to what is trained and scored on: of a phone, with splits, with a share."""

import itertools
import os
import re
import shutil
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import pixels, write_images
from PIL import Image
from torchvision.datasets import ImageFolder

from simclr_lib import ImageSet, load_images
from simclr_lib.data import layouts, sets
from simclr_lib.data.decode import readable_suffixes
from simclr_lib.data.sets import difference_hash, scored_split
from simclr_lib.engine.progress import say_once


@pytest.fixture(autouse=True)
def users_cache(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("SIMCLR_DATA", str(tmp_path_factory.mktemp("data")))


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines = []
    for room in (layouts, sets):
        monkeypatch.setattr(room, "say_once", lines.append)
    return lines


def load(folder: Path, split: str = "train", **options) -> ImageSet:
    return load_images("folder", split, folder, **{"image_size": 8, **options})


# A phone's


def write_phone(root: Path) -> list[str]:
    """2,000 files and more as phones, messengers, operating systems and a NAS leave them; -> their paths below root.

    Whatever is an image has an image's content, thumbnails and the waste too; HEIC, films and notes have none.
    """
    camera = [f"Camera/2023/IMG_{i:04}" for i in range(600)]
    files = [f"{name}.{'JPG' if i % 3 else 'jpeg'}" for i, name in enumerate(camera[:300])]
    files += [f"{name}.HEIC" for name in camera[300:]]  # with the film of a live photo, and edits beside some
    files += [f"{name}.MOV" for name in camera[300:500]] + [f"{name}.AAE" for name in camera[450:]]
    files += [f"Camera/2024/IMG_E{i:04}.jpg" for i in range(100)] + [f"Camera/2024/VID_{i}.mp4" for i in range(30)]
    files += [f"Screenshots/Screenshot {i}.{'PNG' if i % 2 else 'png'}" for i in range(450)]
    files += [f"WhatsApp Images/IMG-2023-WA{i:04}.webp" for i in range(150)] + ["WhatsApp Images/.nomedia"]
    files += [f"WhatsApp Images/Sent/STK{i}.gif" for i in range(60)] + [f"Scans/page {i}.tiff" for i in range(20)]
    files += [f"Scans/scan{i}.bmp" for i in range(20)] + ["Scans/scan.pdf", "Scans/list", "Scans/drawing.eps"]
    files += [f"Camera/@eaDir/IMG_{i:04}.JPG/SYNOPHOTO_THUMB_M.jpg" for i in range(90)]
    files += [f"#recycle/IMG_{i}.jpg" for i in range(40)] + [f"__MACOSX/Camera/._IMG_{i:04}.JPG" for i in range(40)]
    files += [f"Camera/2023/._IMG_{i:04}.JPG" for i in range(30)] + [f".thumbnails/{i}.jpg" for i in range(40)]
    files += [
        f"{folder}/{name}" for folder in ("Camera", "Scans") for name in ("Thumbs.db", "desktop.ini", ".DS_Store")
    ]
    files += ["IMG_9999.JPG", "wallpaper.png", "export.csv"]
    jpeg, formats = pixels(len(files), 6, 5, 3), {".jpg": "JPEG", ".tiff": "TIFF", ".webp": "WEBP", ".gif": "GIF"}
    for name, image in zip(files, jpeg, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        suffix = os.path.splitext(name)[1].lower().replace("jpeg", "jpg")
        if suffix in (*formats, ".png", ".bmp"):
            Image.fromarray(image).save(root / name, formats.get(suffix, suffix[1:].upper()))
        else:
            (root / name).write_bytes(b"\0" * 20)
    (root / "Download/later").mkdir(parents=True)
    return files


def independent_walk(root: Path) -> tuple[dict[str, np.ndarray], Counter]:
    """What Pillow makes of the files that a person would count, by path, and the others' suffixes."""
    images, others = {}, Counter()
    for folder, _, names in os.walk(root):
        parts = Path(folder).relative_to(root).parts
        if {"@eaDir", "#recycle", "__MACOSX", ".thumbnails"} & set(parts):
            continue
        for name in names:
            if name.startswith(".") or name in ("Thumbs.db", "desktop.ini"):
                continue
            suffix = os.path.splitext(name)[1].lower()
            try:
                if suffix == ".eps":
                    raise OSError  # which Pillow would have another program draw
                with Image.open(Path(folder, name)) as image:
                    found = np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BILINEAR))
            except OSError:
                others[suffix] += 1
            else:
                images[os.path.join(folder, name)] = found
    return images, others


def test_of_a_phone_all_is_read_that_can_be_and_all_else_is_counted(tmp_path, monkeypatch, said):
    without = frozenset(suffix for suffix in readable_suffixes() if not suffix.startswith(".hei"))
    monkeypatch.setattr(layouts, "readable_suffixes", lambda: without)  # as where pillow-heif is not installed
    assert len(write_phone(tmp_path)) > 2000
    expected, others = independent_walk(tmp_path)
    loose = {str(tmp_path / name) for name in ("IMG_9999.JPG", "wallpaper.png")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = load(tmp_path)
    assert sorted(images.paths) == sorted(expected.keys() - loose)
    assert len(images) == 300 + 100 + 450 + 150 + 60 + 40
    assert images.class_names == ["Camera", "Scans", "Screenshots", "WhatsApp Images"]
    for path, image, label in zip(images.paths, images.images, images.labels, strict=True):
        assert np.array_equal(image.permute(1, 2, 0), expected[path]), path
        assert images.class_names[label] == Path(path).relative_to(tmp_path).parts[0]
    assert others == {".heic": 300, ".mov": 200, ".aae": 150, ".mp4": 30, ".pdf": 1, "": 1, ".eps": 1, ".csv": 1}
    counts, *names = said
    kinds = counts.removeprefix("left out: ").removesuffix(f" in {str(tmp_path)!r}").split(", ")
    assert kinds[:4] == ["300 .heic (install pillow-heif to read them)", "200 .mov", "150 .aae", "30 .mp4"]
    assert sorted(kinds[4:]) == ["1 .csv", "1 .eps", "1 .pdf", "1 without suffix"]
    assert names == [
        f"left out: empty folders: 1 ('Download/later/') in {str(tmp_path)!r}",
        f"left out: images beside the folders: 2 ('IMG_9999.JPG', 'wallpaper.png') in {str(tmp_path)!r}",
    ]


def test_it_is_said_once(tmp_path, capsys):
    say_once.cache_clear()
    write_images(tmp_path, "cats/1.png", "2.png")
    for split in ("train", "all", "train"):
        load(tmp_path, split)
    assert capsys.readouterr().out.count("left out") == 1


def test_files_that_vanish_while_they_are_read_are_named(tmp_path, monkeypatch):
    write_images(tmp_path, "cats/1.png", "cats/2.png")
    listed = sets.list_images

    def list_and_lose(*arguments):
        listing = listed(*arguments)
        os.remove(tmp_path / "cats/2.png")
        return listing

    with monkeypatch.context() as patched:
        patched.setattr(sets, "list_images", list_and_lose)
        with pytest.raises(ValueError, match=r"1 of 2 .*cannot be read[^$]*cats/2\.png' \(FileNotFoundError"):
            load(tmp_path)
    assert len(load(tmp_path)) == 1


def test_a_folder_that_vanished_is_named(tmp_path):
    write_images(tmp_path, "photos/cats/1.png")
    load(tmp_path / "photos")
    shutil.rmtree(tmp_path / "photos")
    for function in (lambda: load(tmp_path / "photos"), lambda: scored_split("folder", tmp_path / "photos")):
        with pytest.raises(ValueError, match=f"root of folder: expected a folder that exists.* got {tmp_path}/photos"):
            function()


def test_a_root_is_what_a_shell_makes_of_it(tmp_path, monkeypatch):
    write_images(tmp_path, "photos/cats/1.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for root in ("~/photos", "photos", "photos/", "./photos/../photos", Path("~/photos")):
        assert load(root).paths == [str(tmp_path / "photos/cats/1.png")]
    assert scored_split("folder", "~/photos") is None
    with pytest.raises(ValueError, match="root: expected a path as text, got 5"):
        load(5)


def test_5000_class_folders_are_read_as_another_tool_reads_them(tmp_path):
    write_images(tmp_path, "first.png")
    picture = (tmp_path / "first.png").read_bytes()
    for i in range(5000):
        (tmp_path / "set" / f"{i}").mkdir(parents=True)
        (tmp_path / "set" / f"{i}" / "1.png").write_bytes(picture)
    images, theirs = load(tmp_path / "set", limit=100), ImageFolder(tmp_path / "set")
    assert images.class_names == theirs.classes
    samples = [theirs.samples[i] for i in images.ids]
    assert list(zip(images.paths, images.labels.tolist(), strict=True)) == samples


# With splits of its own


@pytest.fixture
def splits(tmp_path) -> Path:
    """Six classes in train, two of them in Test; a third, of its own, in valid."""
    write_images(tmp_path, *(f"train/{name}/{i}.png" for name in "abcdef" for i in range(4)))
    write_images(tmp_path, "Test/a/1.png", "Test/f/2.png", "valid/g/3.png")
    return tmp_path


def test_each_split_has_its_images_and_all_have_the_same_labels(splits):
    parts = {split: load(splits, split) for split in ("train", "test", "val", "all")}
    assert [len(part) for part in parts.values()] == [24, 2, 1, 27]
    assert {tuple(part.class_names) for part in parts.values()} == {tuple("abcdefg")}
    assert parts["test"].labels.tolist() == [0, 5]
    assert parts["val"].labels.tolist() == [6]
    for part in parts.values():
        assert part.ids.tolist() == list(range(len(part)))
    every = dict(zip(parts["all"].paths, zip(parts["all"].images, parts["all"].labels, strict=True), strict=True))
    for split in ("train", "test", "val"):
        for path, image, label in zip(parts[split].paths, parts[split].images, parts[split].labels, strict=True):
            assert torch.equal(image, every[path][0])
            assert label == every[path][1]


def test_the_cache_of_each_split_leaves_those_of_the_others(splits, monkeypatch):
    parts = {split: load(splits, split) for split in ("train", "test", "val", "all")}
    monkeypatch.setattr("simclr_lib.data.store.decode_or_reason", lambda *_, **__: pytest.fail("decoded again"))
    for split, part in parts.items():
        assert torch.equal(load(splits, split).images, part.images)
        assert len(load(splits, split, limit=1, seed=3)) == 1


def test_what_is_scored(splits, tmp_path_factory):
    root = tmp_path_factory.mktemp("other")
    write_images(root, "photos/cats/1.png", "photos/dogs/2.png", "both/train/a/1.png", "both/val/a/2.png")
    write_images(root, "alone/train/a/1.png", "alone/train/b/1.png")
    assert scored_split("folder", splits) == "test"
    assert scored_split("folder", root / "both") == "val"
    assert scored_split("folder", root / "alone") is None
    assert scored_split("folder", root / "photos") is None
    assert scored_split("folder", root / "photos", 0.2) == "test"
    assert [scored_split(name, None) for name in ("embedded", "cifar10", "stl10", "caltech101")] == ["test"] * 3 + [
        None
    ]


# With a share held out


def scene(sizes: dict[str, int], folder: Path) -> Path:
    """Class folders with so many images, no two of which are alike."""
    for name, count in sizes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            picture().save(folder / name / f"{i:03}.png")
    return folder


def picture() -> Image.Image:
    return Image.fromarray(pixels(8, 9, 3)).resize((45, 40), Image.Resampling.BICUBIC)


def slow_hash(image: np.ndarray) -> list[float]:
    """The steps from each of 9 x 8 grey pixels to its right neighbour: weighed by triangles of twice a cell."""
    height, width, _ = image.shape
    weights = [0.2989, 0.587, 0.114]
    grey = [[sum(w * int(c) for w, c in zip(weights, pixel, strict=True)) for pixel in row] for row in image]
    cells = []
    for row, column in itertools.product(range(8), range(9)):
        total = value = 0.0
        for y, x in itertools.product(range(height), range(width)):
            vertical = 1 - abs((y + 0.5) / (height / 8) - row - 0.5)
            sideways = 1 - abs((x + 0.5) / (width / 9) - column - 0.5)
            weight = max(vertical, 0) * max(sideways, 0)
            total, value = total + weight, value + weight * grey[y][x]
        cells.append(value / total)
    return [cells[9 * row + i + 1] - cells[9 * row + i] for row in range(8) for i in range(8)]


def test_the_difference_hash_says_where_a_pixel_is_darker_than_its_right_neighbour():
    images = np.stack([np.asarray(picture().resize((32, 32))) for _ in range(3)])
    for image, found in zip(images, difference_hash(torch.from_numpy(images).permute(0, 3, 1, 2)), strict=True):
        steps = slow_hash(image)
        bits = np.unpackbits(np.frombuffer(found.tobytes(), np.uint8)).tolist()
        clear = [i for i in range(64) if abs(steps[i]) > 1.5]  # grey is rounded to whole numbers, twice
        assert len(clear) > 50
        assert [bits[i] for i in clear] == [int(steps[i] > 0) for i in clear]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9, 0.99])
def test_each_class_gives_its_share_and_the_parts_make_the_whole(tmp_path, said, share):
    sizes = {"a": 1, "b": 2, "c": 9, "d": 30}
    scene(sizes, tmp_path)
    whole = load(tmp_path, "all", test_share=share)
    train, test = (load(tmp_path, split, test_share=share, seed=3) for split in ("train", "test"))
    held = {name: min(max(round(share * n), 1), n - 1) for name, n in sizes.items()}
    assert [held["a"], held["b"]] == [0, 1]
    assert Counter(test.class_names[label] for label in test.labels) == {n: held[n] for n in "bcd"}
    assert sorted([*train.ids.tolist(), *test.ids.tolist()]) == whole.ids.tolist() == list(range(42))
    for part in (train, test):
        assert part.class_names == list(sizes)
        assert part.ids.tolist() == sorted(part.ids.tolist())
        assert part.paths == [whole.paths[i] for i in part.ids]
        assert torch.equal(part.images, whole.images[part.ids])
        assert torch.equal(part.labels, whole.labels[part.ids])
    assert set(said) == {f"held out {sum(held.values())} of 42 images for scores"}


def test_the_share_follows_from_the_seed_alone(tmp_path):
    scene({"a": 30, "b": 30}, tmp_path)
    ids = {seed: load(tmp_path, "test", test_share=0.2, seed=seed).ids.tolist() for seed in range(4)}
    assert len({tuple(found) for found in ids.values()}) == 4
    for options in ({"image_size": 24}, {"resize": "crop"}, {"num_workers": 2}):
        assert load(tmp_path, "test", test_share=0.2, seed=2, **options).ids.tolist() == ids[2]
    some = load(tmp_path, "train", test_share=0.2, seed=2, limit=10)
    assert len(some) == 10
    assert not set(some.ids.tolist()) & set(ids[2])
    with pytest.raises(ValueError, match=r"limit: .*1 to the 12 images"):
        load(tmp_path, "test", test_share=0.2, limit=13)


def test_near_duplicates_stay_on_one_side(tmp_path, said):
    scene({"a": 20, "b": 20}, tmp_path)
    groups = [(f"a/x{i}.png", f"b/x{i}.bmp", f"a/y{i}.png") for i in range(6)]
    for group in groups:
        same = picture()
        same.save(tmp_path / group[0])
        same.save(tmp_path / group[1])  # equal pixels, in another class
        similar = np.array(same)
        similar[20:23, 20:23] += 1
        Image.fromarray(similar).save(tmp_path / group[2])
    sides = Counter()
    for seed, share in itertools.product(range(6), (0.2, 0.8)):
        said.clear()
        parts = {split: load(tmp_path, split, test_share=share, seed=seed) for split in ("train", "test")}
        names = {s: {os.path.relpath(path, tmp_path) for path in part.paths} for s, part in parts.items()}
        for group in groups:
            (side,) = [split for split in names if set(group) & names[split]]
            assert set(group) <= names[side]
            sides[side] += 1
        assert said[0].endswith("; 18 near-duplicates stay on one side")
        if share == 0.2:
            assert parts["test"].labels.bincount().tolist() == [6, 5]  # of 32 and 26: enough without any of them
        else:
            assert parts["test"].labels.bincount().tolist() == [22, 21]  # 26 and 21: with one group b has what it needs
    assert sides == {"test": 6, "train": 66}


def test_a_class_of_near_duplicates_alone_is_refused_where_nothing_else_is_there(tmp_path):
    same = picture()
    (tmp_path / "a").mkdir()
    for i in range(10):
        same.save(tmp_path / f"a/{i}.png")
    with pytest.raises(ValueError, match=r"test_share: expected images that differ .* got none"):
        load(tmp_path, test_share=0.2)


def test_unreadable_images_are_not_held_out(tmp_path, said):
    scene({"a": 20}, tmp_path)
    (tmp_path / "a/007.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1 of 20 [^$]*a/007\.png"):
        load(tmp_path, "test", test_share=0.5)
    test, train = (load(tmp_path, split, test_share=0.5, unreadable="skip") for split in ("test", "train"))
    assert any(re.search(r"^skipped 1 of 20 [^$]*a/007\.png' \(", line) for line in said)
    assert sorted([*train.ids.tolist(), *test.ids.tolist()]) == [i for i in range(20) if i != 7]
    assert len(test) == 10


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, "0.2", float("nan")])
def test_a_share_out_of_range_is_refused(tmp_path, share):
    write_images(tmp_path, "a/1.png", "a/2.png")
    with pytest.raises(ValueError, match=f"test_share: expected 0, or below 1 .*got {share}"):
        load(tmp_path, test_share=share)


def test_a_set_that_has_splits_has_no_share(splits, monkeypatch):
    for split in ("train", "test"):
        with pytest.raises(
            ValueError,
            match=r"test_share: expected 0, .*folder without splits, got 0\.2; give 0, or one of its splits",
        ):
            load(splits, split, test_share=0.2)
    monkeypatch.setattr(sets, "FETCH", {})  # before anything is downloaded
    for name in ("embedded", "cifar10", "stl10", "caltech101"):
        with pytest.raises(ValueError, match=r"test_share: expected 0, .*got 0\.2"):
            load_images(name, "train", splits, image_size=32, test_share=0.2)


def test_without_a_share_there_is_no_test_split(tmp_path):
    write_images(tmp_path, "a/1.png", "b/2.png")
    with pytest.raises(ValueError, match=f"split of {tmp_path}: expected all, got test; .*test_share"):
        load(tmp_path, "test")
    with pytest.raises(ValueError, match="got val"):
        load(tmp_path, "val", test_share=0.5)
