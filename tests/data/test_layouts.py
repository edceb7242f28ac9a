"""The layouts on disk, each against torchvision's own loader of it."""

import os
import pickle
from collections import Counter

import numpy as np
import pytest
import torchvision
from image_files import accept_files, write_cifar10, write_images, write_stl10

from simclr_lib import load_images
from simclr_lib.data import layouts
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
    for name in ("a/notes.txt", "a/.DS_Store", "readme.md", "a/Thumbs.db", "a/drawing.eps"):
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
        ([], "class folders with images, got none, 0 outside; put"),
        (["1.png", "2.png"], "got none, 2 outside; put .*unsorted"),
        ([".hidden/2.png"], "got none, 0 outside"),
    ],
)
def test_a_folder_without_classes_is_refused(tmp_path, names, message):
    write_images(tmp_path, *names)
    with pytest.raises(ValueError, match=f"{tmp_path}: .*{message}"):
        list_images("folder", "all", str(tmp_path))


# Folders as people have them. What is read, by class, for each split that there is; or what is refused.

THREE, PAIR = {"cats": 2, "dogs": 1}, {"cats": 1, "dogs": 1}
LAYOUTS = {  # images: a name ends in / for a folder without any
    "classes": (["cats/1.png", "cats/2.JPG", "dogs/1.webp"], {"all": THREE}),
    "one class": (["unsorted/1.png"], {"all": {"unsorted": 1}}),
    "one class, deep": (["unsorted/DCIM/1.png", "unsorted/DCIM/2.png"], {"all": {"unsorted": 2}}),
    "one class, at two depths": (["a/1.png", "a/x/2.png", "a/y/3.png"], {"all": {"a": 3}}),
    "classes by year": (["cats/2021/1.png", "cats/2022/2.png", "dogs/2021/3.png"], {"all": THREE}),
    "splits": (
        ["train/cats/1.png", "train/dogs/2.png", "val/cats/3.png", "test/cats/4.png", "test/dogs/5.png"],
        {"train": PAIR, "val": {"cats": 1}, "test": PAIR, "all": {"cats": 3, "dogs": 2}},
    ),
    "splits in other letters": (
        ["Train/cats/1.png", "TEST/cats/2.png", "Validation/cats/3.png", "valid/cats/4.png", "valid/dogs/5.png"],
        {"train": {"cats": 1}, "test": {"cats": 1}, "val": THREE, "all": {"cats": 4, "dogs": 1}},
    ),
    "train alone": (["train/cats/1.png", "train/cats/2.png", "train/dogs/3.png"], {"train": THREE, "all": THREE}),
    "classes of one split only": (
        ["train/cats/1.png", "train/bees/2.png", "test/ants/3.png", "test/cats/4.png"],
        {"train": {"bees": 1, "cats": 1}, "test": {"ants": 1, "cats": 1}, "all": {"ants": 1, "bees": 1, "cats": 2}},
    ),
    "splits by year within": (["train/cats/2021/1.png", "train/dogs/2.png"], {"train": PAIR}),
    "a class called train": (["train/1.png", "dogs/2.png", "cats/3.png"], {"all": {"cats": 1, "dogs": 1, "train": 1}}),
    "that class alone": (["train/1.png", "train/2.png"], {"all": {"train": 2}}),
    "that class in train": (["train/train/1.png", "train/cats/2.png"], {"train": {"cats": 1, "train": 1}}),
    "an empty split": (["train/cats/1.png", "train/dogs/2.png", "test/"], {"train": PAIR}),
    "an empty class": (["cats/1.png", "cats/2.png", "dogs/3.png", "cows/"], {"all": THREE}),
    "loose images": (["cats/1.png", "cats/2.png", "dogs/3.png", "4.png"], {"all": THREE}),
    "loose images beside splits": (["train/cats/1.png", "train/dogs/2.png", "3.png"], {"train": PAIR}),
    "loose images within splits": (
        ["train/cats/1.png", "train/dogs/2.png", "train/3.png", "test/cats/4.png", "test/5.png"],
        {"train": PAIR, "test": {"cats": 1}, "all": {"cats": 2, "dogs": 1}},
    ),
    "loose images within train alone": (["train/cats/1.png", "train/dogs/2.png", "train/3.png"], {"train": PAIR}),
    "classes in one split, loose images in each": (
        ["train/cats/1.png", "train/2.png", "test/3.png"],
        "got 'test', 'train', of which 'train' hold folders; give {root}/train$",
    ),
    "a class called train, at two depths": (
        ["train/a/1.png", "train/2.png", "dogs/3.png"],
        {"all": {"dogs": 1, "train": 2}},
    ),
    "notes beside splits, deep": (["train/cats/1.png", "train/dogs/2.png", "notes/x/a.csv"], {"train": PAIR}),
    "lists beside splits": (["train/cats/1.png", "train/dogs/2.png", "lists/a.csv"], {"train": PAIR}),
    "splits beside classes": (
        ["train/cats/1.png", "train/dogs/2.png", "cats/3.png"],
        "expected classes, or only train, .*, got 'cats', 'train', of which 'train' hold folders; give {root}/train$",
    ),
    "a test split without classes": (
        ["train/cats/1.png", "train/dogs/2.png", "test/3.png"],
        "got 'test', 'train', of which 'train' hold folders; give {root}/train$",
    ),
    "splits without classes": (
        ["train/1.png", "Test/2.png"],
        "got 'Test', 'train', of which none hold folders; put the images of each class into a folder$",
    ),
    "other names of splits": (
        ["training/cats/1.png", "training/dogs/2.png", "testing/cats/3.png"],
        "got 'testing', 'training', of which 'testing', 'training' hold folders; give {root}/testing$",
    ),
    "names of splits with more": (
        ["seg_train/cats/1.png", "seg_test/cats/2.png", "seg_pred/3.png"],
        "of which 'seg_test', 'seg_train' hold folders; give {root}/seg_test$",
    ),
    "years of splits": (["train2017/cats/1.png", "val2017/cats/2.png"], "give {root}/train2017$"),
    "splits beside another folder of classes": (
        ["train/cats/1.png", "test/cats/2.png", "extra/cats/3.png"],
        "got 'extra', 'test', 'train', of which 'extra', 'test', 'train' hold folders; give {root}/test$",
    ),
    "words that sound like splits": (
        ["trains/1.png", "valleys/2.png", "contest/3.png", "oval/4.png"],
        {"all": {"trains": 1, "valleys": 1, "contest": 1, "oval": 1}},
    ),
    "a class called train among deep ones": (
        ["train/steam/1.png", "train/diesel/2.png", "bus/x/3.png", "car/y/4.png"],
        {"all": {"train": 2, "bus": 1, "car": 1}},
    ),
    "albums of films": (["cats/1.png", "cats/2.png", "dogs/3.png", "Movies/1.mp4", "Music/2.mp3"], {"all": THREE}),
    "notes beside classes": (["cats/1.png", "cats/2.png", "dogs/3.png", "annotations/1.xml"], {"all": THREE}),
    "waste": (["recycled/1.png", "compost/2.png"], {"all": {"recycled": 1, "compost": 1}}),
    "one folder around classes": (
        ["photos/images/cats/1.png", "photos/images/dogs/2.png"],
        "a single one, and in it 'photos/images/cats', 'photos/images/dogs'; give {root}/photos/images,",
    ),
    "one folder around splits": (["set/train/cats/1.png", "set/test/cats/2.png"], "a single one, .*give {root}/set,"),
    "one folder in each split": (
        ["train/images/cats/1.png", "train/images/dogs/2.png", "test/images/cats/3.png"],
        "a single one, .*'images/dogs'; give {root}/test/images,",
    ),
    "no image in a class": (
        ["cats/1.png", "dogs/1.dng", "dogs/2.DNG", "dogs/3.txt"],
        r"read in each class, got only 2 \.dng in 'dogs'; convert them",
    ),
    "no image in a class of a split": (
        ["train/cats/1.png", "train/dogs/2.png", "test/cats/3.dng", "test/dogs/4.png"],
        r"read in each class, got only 1 \.dng in 'test/cats'",
    ),
    "no image at all": (["cats/1.mov", "dogs/2.mov", "3.hif"], "got none, 0 outside; put images into {root}/unsorted$"),
}  # fmt: skip


def write_files(root, *names: str) -> None:
    write_images(root, *(name for name in names if name.lower().endswith((".png", ".jpg", ".webp"))))
    for name in set(names) - {str(path.relative_to(root)) for path in root.rglob("*.*")}:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).mkdir() if name.endswith("/") else (root / name).write_text("no image")


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines = []
    monkeypatch.setattr(layouts, "say_once", lines.append)
    return lines


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_read_or_refused(tmp_path, layout):
    names, expected = LAYOUTS[layout]
    write_files(tmp_path, *names)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=f"^{tmp_path}: .*{expected.format(root=tmp_path)}") as error:
            list_images("folder", "train", str(tmp_path))
        assert "remove" not in str(error.value)
        return
    classes = sorted({name for sizes in expected.values() for name in sizes})
    for split, sizes in expected.items():
        listing = list_images("folder", split, str(tmp_path))
        assert listing.class_names == classes
        assert Counter(classes[label] for label in listing.labels) == sizes
        assert listing.labels.dtype == np.int64
        for path, label in zip(listing.items, listing.labels, strict=True):
            parts = os.path.relpath(path, tmp_path).split("/")
            assert (tmp_path / path).is_file()
            assert parts[len(listing.splits) > 0] == classes[label]
            assert split == "all" or layouts.SPLIT_NAMES[parts[0].lower()] == split
    assert set(listing.splits) == set(expected) - {"all"}
    if not listing.splits:
        assert list_images("folder", "train", str(tmp_path)).items == listing.items
    for split in {"train", "val", "test"} - set(expected) - ({"train"} if not listing.splits else set()):
        there = " or ".join(sorted({*listing.splits, "all"}))
        with pytest.raises(ValueError, match=f"split of {tmp_path}: expected {there}, got {split}; give one of these"):
            list_images("folder", split, str(tmp_path))


def test_what_is_left_out_is_counted_by_kind_in_one_line(tmp_path, monkeypatch, said):
    monkeypatch.setattr(layouts, "readable_suffixes", lambda: frozenset({".png", ".jpg"}))
    write_images(tmp_path, "cats/1.png")
    for i in range(1100):
        (tmp_path / f"cats/IMG_{i}.{'HEIC' if i % 2 else 'heic'}").write_text("no image")
    for name in ("cats/a.mov", "b.MOV", "cats/x/c.Mov", "cats/x/d.hif", "cats/none", "cats/odd.\udce9"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    list_images("folder", "all", str(tmp_path))
    hint = " (install pillow-heif to read them)"
    counts = f"1,100 .heic{hint}, 3 .mov, 1 without suffix, 1 .\\udce9, 1 .hif{hint}"
    assert said == [f"left out: {counts} in {str(tmp_path)!r}"]
    said[0].encode()  # can be printed


def test_a_class_of_a_format_that_needs_a_package_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "readable_suffixes", lambda: frozenset({".png", ".jpg"}))
    write_files(tmp_path, "cats/1.png", "dogs/1.HEIC", "dogs/2.heic")
    with pytest.raises(
        ValueError, match=r"only 2 \.heic \(install pillow-heif to read them\) in 'dogs'; convert"
    ) as error:
        list_images("folder", "all", str(tmp_path))
    assert "remove" not in str(error.value)
    monkeypatch.setattr(layouts, "readable_suffixes", lambda: frozenset({".png", ".jpg", ".heic"}))
    assert list_images("folder", "all", str(tmp_path)).labels.tolist() == [0, 1, 1]


def test_loose_images_and_folders_without_files_are_named(tmp_path, said):
    write_files(tmp_path, "cats/1.png", *(f"{i:02}.png" for i in range(12)), "bare/", "cats/deep/bare/", "new\nline/")
    (tmp_path / "junk/@eaDir").mkdir(parents=True)
    list_images("folder", "all", str(tmp_path))
    names = ", ".join(f"'{i:02}.png'" for i in range(10))
    bare = "'bare/', 'cats/deep/bare/', 'junk/', 'new\\nline/'"
    assert said == [
        f"left out: empty folders: 4 ({bare}) in {str(tmp_path)!r}",
        f"left out: images beside the folders: 12 ({names}, ...) in {str(tmp_path)!r}",
    ]


def test_loose_images_within_splits_are_named(tmp_path, said):
    write_images(tmp_path, "train/cats/1.png", "train/2.png", "test/cats/3.png", "4.png")
    list_images("folder", "train", str(tmp_path))
    assert said == [f"left out: images beside the folders: 2 ('4.png', 'train/2.png') in {str(tmp_path)!r}"]


def test_where_two_levels_could_be_the_classes_it_is_said_which_are(tmp_path, said):
    write_images(tmp_path, "2021/cats/1.png", "2021/dogs/2.png", "2022/cats/3.png")
    assert list_images("folder", "all", str(tmp_path)).class_names == ["2021", "2022"]
    assert said == [
        f"classes: the upper ones of the folders '2021/cats', '2021/dogs', '2022/cats' in {str(tmp_path)!r}; "
        "for the lower, give an upper one"
    ]
    said.clear()
    write_images(tmp_path, "2022/4.png")
    list_images("folder", "all", str(tmp_path))
    assert said == []


LEFT_BEHIND = [
    *("@eaDir", "#recycle", "#snapshot", "@tmp", "@sharesnap"),  # Synology
    *("@Recycle", "@Recently-Snapshot", ".@__thumb", "@__thumb", "Network Recycle Bin"),  # QNAP
    *("__MACOSX", ".Trashes", ".Spotlight-V100", ".fseventsd", ".AppleDouble", "Network Trash Folder"),  # macOS
    *("Temporary Items", "TheVolumeSettingsFolder"),
    *("$RECYCLE.BIN", "RECYCLER", "Recycle Bin", "System Volume Information", "found.000", "FOUND.001"),  # Windows
    *("lost+found", ".Trash-1000", "LOST.DIR", "~snapshot", "__pycache__", ".ipynb_checkpoints"),  # Linux and others
]


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_systems_leave_behind_is_passed_over_in_silence(tmp_path, said, name):
    write_images(tmp_path, "cats/1.png", "cats/deep/2.png")
    for variant in {name, name.upper(), name.lower()}:
        write_images(tmp_path, *(f"{above}{variant}/IMG/3.png" for above in ("", "cats/", "cats/deep/")))
    listing = list_images("folder", "all", str(tmp_path))
    assert relative(listing, tmp_path) == ["cats/1.png", "cats/deep/2.png"]
    for file in ("Thumbs.db", "desktop.ini", ".DS_Store", "._1.png", "ehthumbs.db", "Icon\r", "Picasa.ini"):
        (tmp_path / "cats" / file).write_text("")
    assert relative(list_images("folder", "all", str(tmp_path)), tmp_path) == ["cats/1.png", "cats/deep/2.png"]
    assert said == []


def test_a_folder_that_cannot_be_listed_is_an_error_that_names_it(tmp_path, monkeypatch):
    write_images(tmp_path, "cats/1.png", "cats/private/2.png")
    private, scandir = str(tmp_path / "cats/private"), os.scandir

    def refusing(path):
        if path == private:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match=private):
        list_images("folder", "all", str(tmp_path))


def test_names_of_any_kind_are_listed(tmp_path):
    names = ["日本/写真.png", "عربي/1.png", "🐈/😺.png", "new\nline/a\tb.png", "lat\udcefn/\udce9.png", "a b/100%.png"]
    write_images(tmp_path, *names)
    assert relative(list_images("folder", "all", str(tmp_path)), tmp_path) == sorted(names)


def test_an_empty_unlabeled_folder_is_named(tmp_path):
    (tmp_path / "stl10/unlabeled").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"stl10/unlabeled: expected images, got none"):
        list_images("stl10", "unlabeled", str(tmp_path))


def test_a_link_to_itself_and_a_pipe_do_not_hold_up_the_others(tmp_path):
    write_images(tmp_path, "cats/1.png", "cats/2.png")
    (tmp_path / "cats/loop").symlink_to("loop")
    (tmp_path / "cats/loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "cats/pipe.png")
    assert relative(list_images("folder", "all", str(tmp_path)), tmp_path) == [
        "cats/1.png",
        "cats/2.png",
        "cats/loop.png",
    ]
    images = load_images("folder", "all", tmp_path, image_size=8, unreadable="skip")
    assert [os.path.basename(path) for path in images.paths] == ["1.png", "2.png"]
    with pytest.raises(ValueError, match=r"loop\.png' \(OSError"):
        load_images("folder", "all", tmp_path, image_size=8)
