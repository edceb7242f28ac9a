"""The layouts on disk, each against torchvision's own loader of it."""

import os
import pickle

import numpy as np
import pytest
import torchvision
from image_files import accept_files, write_cifar10, write_images, write_stl10

from simclr_lib.data.layouts import list_images


def relative(listing, root) -> list[str]:
    return [os.path.relpath(path, root) for path in listing.items]


# As torchvision leaves them


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar10_is_torchvisions(tmp_path, monkeypatch, split):
    write_cifar10(tmp_path)
    loader = torchvision.datasets.CIFAR10
    accept_files(monkeypatch, loader, tmp_path / "cifar-10-batches-py")
    theirs, ours = loader(tmp_path, train=split == "train"), list_images("cifar10", split, str(tmp_path))
    assert np.array_equal(ours.items.transpose(0, 2, 3, 1), theirs.data)
    assert ours.labels.tolist() == theirs.targets
    assert ours.class_names == theirs.classes
    assert all(os.path.dirname(file) == str(tmp_path / "cifar-10-batches-py") for file in ours.files)


@pytest.mark.parametrize("split", ["train", "test", "unlabeled", "train+unlabeled"])
def test_stl10_is_torchvisions(tmp_path, monkeypatch, split):
    write_stl10(tmp_path)
    loader = torchvision.datasets.STL10
    accept_files(monkeypatch, loader, tmp_path / "stl10_binary")
    theirs, ours = loader(tmp_path, split=split), list_images("stl10", split, str(tmp_path))
    assert np.array_equal(np.stack(list(ours.items)), theirs.data)
    assert np.array_equal(ours.labels, theirs.labels.astype(np.int8))
    assert ours.class_names == theirs.classes


def test_stl10_is_not_read_until_it_is_indexed(tmp_path):
    write_stl10(tmp_path)
    array = list_images("stl10", "unlabeled", str(tmp_path)).items
    while isinstance(array.base, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    assert isinstance(array, np.memmap)


def test_caltech101_is_torchvisions(tmp_path):
    folder = tmp_path / "caltech101/101_ObjectCategories"
    for category in ("Faces", "Faces_easy", "BACKGROUND_Google", "accordion"):
        write_images(folder / category, "image_0001.jpg", "image_0002.jpg")
    theirs, ours = torchvision.datasets.Caltech101(tmp_path), list_images("caltech101", "all", str(tmp_path))
    assert ours.class_names == theirs.categories == ["Faces", "Faces_easy", "accordion"]
    assert ours.labels.tolist() == theirs.y
    assert relative(ours, folder)[:3] == ["Faces/image_0001.jpg", "Faces/image_0002.jpg", "Faces_easy/image_0001.jpg"]


def test_a_layout_that_lacks_a_file_is_not_there(tmp_path):
    write_cifar10(tmp_path)
    write_stl10(tmp_path)
    (tmp_path / "cifar-10-batches-py/data_batch_4").unlink()
    (tmp_path / "stl10_binary/unlabeled_X.bin").unlink()
    root = str(tmp_path)
    assert list_images("cifar10", "train", root) is None
    assert list_images("stl10", "train+unlabeled", root) is None
    assert len(list_images("cifar10", "test", root).items) == 4
    assert len(list_images("stl10", "train", root).items) == 3
    assert list_images("caltech101", "all", root) is None


def test_damaged_files_are_named(tmp_path):
    write_cifar10(tmp_path)
    write_stl10(tmp_path)
    os.truncate(tmp_path / "cifar-10-batches-py/data_batch_4", 2000)
    with pytest.raises(ValueError, match=r"data_batch_4: .*delete it"):
        list_images("cifar10", "train", str(tmp_path))
    os.truncate(tmp_path / "stl10_binary/unlabeled_X.bin", 30000)
    with pytest.raises(ValueError, match=r"unlabeled_X\.bin: .*27648 bytes.* 30000 bytes"):
        list_images("stl10", "unlabeled", str(tmp_path))
    os.truncate(tmp_path / "stl10_binary/train_X.bin", 27648)
    with pytest.raises(ValueError, match=r"train_y\.bin: .*1 labels.* 3"):
        list_images("stl10", "train", str(tmp_path))


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_unpickling_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps({"data": Harm()}))
    with pytest.raises(ValueError, match=r"test_batch: .*(posix|nt)\.mkdir"):
        list_images("cifar10", "test", str(tmp_path))
    assert not (tmp_path / "harmed").exists()


def test_embedded_needs_no_files():
    listing = list_images("embedded", "test", "/nowhere")
    assert listing.items.shape[1:] == (3, 32, 32)
    assert not listing.files
    assert len(listing.labels) == len(listing.items)


# Class folders


def test_class_folders_in_order(tmp_path):
    write_images(tmp_path, "b/2.PNG", "b/1.jpg", "B/x.jpeg", "a/deep/er/3.png", "a/z.png")
    listing = list_images("folder", "all", str(tmp_path))
    assert relative(listing, tmp_path) == ["B/x.jpeg", "a/deep/er/3.png", "a/z.png", "b/1.jpg", "b/2.PNG"]
    assert listing.class_names == ["B", "a", "b"]
    assert listing.labels.tolist() == [0, 1, 1, 2, 2]


def test_other_files_are_passed_over(tmp_path):
    write_images(tmp_path, "a/1.png", "a/.hidden.png", ".simclr_cache/2.png", "a/.thumbnails/3.png")
    for name in ("a/notes.txt", "a/.DS_Store", "readme.md", "a/Thumbs.db"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "a/folder.jpg").mkdir()
    assert relative(list_images("folder", "all", str(tmp_path)), tmp_path) == ["a/1.png"]


def test_links_to_folders_are_followed_but_not_round_for_ever(tmp_path):
    write_images(tmp_path, "elsewhere/1.png", "root/own/2.png")
    (tmp_path / "root/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/third").symlink_to(tmp_path / "third")
    write_images(tmp_path, "third/3.png")
    (tmp_path / "third/back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/own/again").symlink_to(tmp_path / "root/own")
    listing = list_images("folder", "all", str(tmp_path / "root"))
    assert relative(listing, tmp_path / "root") == ["linked/1.png", "linked/third/3.png", "own/2.png"]


@pytest.mark.parametrize(("name", "split"), [("cifar10", "train"), ("cifar10", "test"), ("stl10", "test")])
def test_class_folders_of_a_split(tmp_path, name, split):
    write_images(tmp_path / name / split, "cat/0001.jpg", "bird/0001.jpg")
    listing = list_images(name, split, str(tmp_path))
    assert relative(listing, tmp_path / name / split) == ["bird/0001.jpg", "cat/0001.jpg"]
    other = {"train": "test", "test": "train"}[split]
    assert list_images(name, other, str(tmp_path)) is None


def test_unlabeled_folder_has_no_labels(tmp_path):
    write_images(tmp_path / "stl10", "unlabeled/2.png", "unlabeled/sub/1.png", "train/cat/1.png", "train/bird/1.png")
    both = list_images("stl10", "train+unlabeled", str(tmp_path))
    names = ["train/bird/1.png", "train/cat/1.png", "unlabeled/2.png", "unlabeled/sub/1.png"]
    assert relative(both, tmp_path / "stl10") == names
    assert both.labels.tolist() == [0, 1, -1, -1]
    assert both.class_names == ["bird", "cat"]
    assert list_images("stl10", "unlabeled", str(tmp_path)).labels.tolist() == [-1, -1]


def test_published_layout_comes_before_class_folders(tmp_path):
    write_images(tmp_path / "cifar10/train", "cat/1.png")
    written = write_cifar10(tmp_path)["train"]
    assert np.array_equal(list_images("cifar10", "train", str(tmp_path)).items, written)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "class folders, .* got none; move"),
        (["1.png", "2.png"], r"got 2 .*\(1\.png, 2\.png\).*unsorted"),
        (["1.png", "a/2.png"], r"got 1 .*\(1\.png\)"),
        ([".hidden/2.png"], "got none"),
    ],
)
def test_folders_laid_out_otherwise_are_refused(tmp_path, names, message):
    write_images(tmp_path, *names)
    with pytest.raises(ValueError, match=f"{tmp_path}: .*{message}"):
        list_images("folder", "all", str(tmp_path))


def test_empty_class_folders_are_named(tmp_path):
    write_images(tmp_path, "full/1.png")
    (tmp_path / "bare").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.webp").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\.jpg, \.jpeg, \.png.* got 2 .*\(bare, texts\).*remove empty ones"):
        list_images("folder", "all", str(tmp_path))


def test_an_empty_unlabeled_folder_is_named(tmp_path):
    (tmp_path / "stl10/unlabeled").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"stl10/unlabeled: .*\.png.* none"):
        list_images("stl10", "unlabeled", str(tmp_path))
