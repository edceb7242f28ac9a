"""What a data set holds before anything is decoded: files or arrays, labels, class names.

Looked for under `root`, in this order:

    cifar10     cifar-10-batches-py/    or  cifar10/<split>/<class>/**
    stl10       stl10_binary/           or  stl10/<split>/<class>/**, and stl10/unlabeled/**
    caltech101  caltech101/101_ObjectCategories/<class>/**, without BACKGROUND_Google, as torchvision has it
    folder      <class>/**              or  <split>/<class>/**, splits being train, test, and val (valid, validation)
    embedded    nothing: it is generated

torchvision's files are read here and not by its loaders, which hash 3 GB at every start and copy them into memory:
sizes are checked, and nothing but arrays is unpickled.

An image is a file that Pillow reads, at any depth below its class folder. The folders of a folder are splits where all
that hold images have such names, in any case of letters, and all have class folders in them. Else they are classes, and
a single one of them may be called train. Refused, with what was seen and what to give instead:

    training/cats/*, testing/cats/*       several that are named as splits are, but not all of them are
    train/cats/*, train/dogs/*, cats/*    a split beside classes
    photos/cats/*, photos/dogs/*          a single folder, and the classes, or splits, in it
    cats/*.heic                           a class of pictures none of which can be read here

`2021/cats/*, 2022/cats/*` are the classes 2021 and 2022, as `cats/2021/*, dogs/2021/*` are cats and dogs: none can tell
which is meant, so a line says what was taken. A line each tells of files of other kinds, of images that lie beside the
class folders, and of folders without any file. Passed over in silence is what systems leave behind, whose pictures are
copies or waste, and whatever begins with a dot.
"""

import os
import pickle
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simclr_lib.data.decode import readable_suffixes
from simclr_lib.data.embedded import generate
from simclr_lib.engine.checks import require
from simclr_lib.engine.progress import say_once

Parts = tuple[str, ...]  # of a path: the folders, and the name of the file
PUBLISHED = {"cifar10": "cifar-10-batches-py", "stl10": "stl10_binary", "caltech101": "caltech101/101_ObjectCategories"}
CIFAR_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
PICKLED = {"numpy": ("_reconstruct", "_frombuffer", "ndarray", "dtype"), "_codecs": ("encode",)}  # what arrays need
DAMAGED = "it is damaged or cut short; delete it to have it downloaded again"
SPLIT_NAMES = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
SPLIT_WORD = re.compile("(?<![a-z])(train(ing)?|test(ing)?|val(id|idation)?)(?![a-z])", re.IGNORECASE)
PICTURES = {".heic", ".heif", ".hif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
LEFT_BEHIND = {  # names of folders and files, in lower case: by macOS, Windows, Linux and others, Synology, QNAP
    *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder", "icon\r", "$recycle.bin"),
    *("recycler", "recycle bin", "system volume information", "found.000", "found.001", "thumbs.db", "ehthumbs.db"),
    *("desktop.ini", "picasa.ini", "lost+found", "lost.dir", "~snapshot", "__pycache__", "@eadir", "#recycle", "@tmp"),
    *("#snapshot", "@sharesnap", "@recycle", "@recently-snapshot", "@__thumb", "network recycle bin"),
}


@dataclass(frozen=True)
class Listing:
    """The images of a data set before they are decoded: N files or arrays."""

    items: Sequence[str] | Sequence[np.ndarray]  # paths, or pixels (3, H, W) uint8
    labels: np.ndarray  # (N,) int64, -1 where unlabelled
    class_names: list[str]
    files: Sequence[str] = ()  # that hold the pixels: the items, or what they are read from
    splits: Collection[str] = ()  # of a folder: those that it has

    def __add__(self, other: "Listing") -> "Listing":
        """The images of both, in the classes of the first."""
        labels, files = np.concatenate([self.labels, other.labels]), [*self.files, *other.files]
        return Listing([*self.items, *other.items], labels, self.class_names, files)


def list_images(name: str, split: str, root: str) -> Listing | None:
    """A split of a data set in one of its layouts, or None where none is there with all its files.

    The labels of a folder are the same for all its splits; train means all where it has none.

    Raises ValueError for a file that is damaged and for a folder that is laid out otherwise, naming it.
    """
    if name == "embedded":
        images, labels, class_names = generate(split)
        return Listing(images.numpy(), labels.numpy(), class_names)
    if name == "folder":
        return _class_folders(root, split)
    if name == "caltech101":
        folder = f"{root}/{PUBLISHED[name]}"
        return _class_folders(folder, leave_out="BACKGROUND_Google") if os.path.isdir(folder) else None
    for folder, layout in ((PUBLISHED[name], {"cifar10": _cifar10, "stl10": _stl10}[name]), (name, _split_folder)):
        with suppress(FileNotFoundError):  # it is not there, or lacks a file: the next may do
            parts = [layout(f"{root}/{folder}", part) for part in split.split("+")]
            return sum(parts[1:], start=parts[0])
    return None


def _cifar10(folder: str, split: str) -> Listing:
    files = [f"{folder}/{name}" for name in (*CIFAR_BATCHES[split], "batches.meta")]
    *batches, meta = map(_unpickle, files)
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([batch["labels"] for batch in batches]).astype(np.int64)
    return Listing(images, labels, meta["label_names"], files)


def _unpickle(path: str) -> dict:
    with open(path, "rb") as file:
        try:
            return _ArrayUnpickler(file, encoding="latin1").load()  # written by Python 2
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise ValueError(f"{path}: expected a batch of CIFAR-10, got {error!r}; {DAMAGED}") from error


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        require(name in PICKLED.get(module.split(".")[0], ()), "pickle", "nothing but arrays", f"{module}.{name}")
        return super().find_class(module, name)


def _stl10(folder: str, split: str) -> Listing:
    pixels, numbers, names = f"{folder}/{split}_X.bin", f"{folder}/{split}_y.bin", f"{folder}/class_names.txt"
    files = [pixels, names] if split == "unlabeled" else [pixels, names, numbers]
    size = os.path.getsize(pixels)
    require(size and size % (3 * 96 * 96) == 0, pixels, "whole images of 27648 bytes", f"{size} bytes", DAMAGED)
    columns = np.asarray(np.memmap(pixels, np.uint8, mode="c")).reshape(-1, 3, 96, 96)  # (N, 3, W, H)
    from_one = np.fromfile(numbers, np.uint8) if numbers in files else np.zeros(len(columns))  # 0 where unlabelled
    require(len(from_one) == len(columns), numbers, f"{len(columns)} labels", len(from_one), DAMAGED)
    return Listing(columns.swapaxes(2, 3), from_one.astype(np.int64) - 1, Path(names).read_text().split(), files)


def _split_folder(folder: str, split: str) -> Listing:
    folder = f"{folder}/{split}"
    if split != "unlabeled":
        return _class_folders(folder)
    files = ["/".join((folder, *path)) for path in _find_images(folder)[0]]
    require(files, folder, "images", "none", "put them there, in folders or not")
    return Listing(files, np.full(len(files), -1), [], files)


def _class_folders(folder: str, split: str = "all", leave_out: str = "") -> Listing:
    """Class folders, or those in the folders of splits, as the rules at the top have it."""
    images, others = _find_images(folder, leave_out)
    split_of = {top: SPLIT_NAMES[top.lower()] for top in _split_folders(folder, images)}
    level = 1 if split_of else 0  # at which classes are
    inside = [path for path in images if len(path) > level + 1]
    if loose := ["/".join(path) for path in images if len(path) <= level + 1]:
        say_once(f"left out: images beside the folders: {len(loose):,} ({_some(loose)}) in {folder!r}")
    in_splits = [path for path in others if not level or path[0].lower() in SPLIT_NAMES]
    _require_classes(folder, level, inside, in_splits, len(loose))
    split, there = "all" if split == "train" and not split_of else split, {"all", *split_of.values()}
    remedy = "give one of these, or a test_share where there are no splits"
    require(split in there, f"split of {folder}", " or ".join(sorted(there)), split, remedy)
    class_names, labels = np.unique([path[level] for path in inside], return_inverse=True)
    rows = [row for row, path in enumerate(inside) if split in ("all", split_of.get(path[0]))]
    files = ["/".join((folder, *inside[row])) for row in rows]
    return Listing(files, labels[rows], class_names.tolist(), files, there - {"all"})


def _split_folders(root: str, images: list[Parts]) -> set[str]:
    """The folders that are splits: all of them, or none."""
    tops, deep = ({path[0] for path in images if len(path) > length} for length in (1, 2))
    splits = {top for top in deep if top.lower() in SPLIT_NAMES}
    if splits == tops:
        return splits
    named = {top for top in tops if SPLIT_WORD.search(top)}
    # Beside classes, what holds images itself is one too.
    mixed = splits - {path[0] for path in images if len(path) == 2} and tops - deep
    found = f"{_some(tops)}, of which {_some(deep) or 'none'} hold folders"
    remedy = f"give {root}/{min(deep & named)}" if deep & named else "put the images of each class into a folder"
    require(len(named) < 2 and not mixed, root, "classes, or only train, val and test with them in each", found, remedy)
    return set()


def _require_classes(root: str, level: int, images: list[Parts], others: list[Parts], loose: int) -> None:
    """Refuse a class that cannot be read, no class, and one that holds the classes; say where others may be meant."""
    classes = {path[: level + 1] for path in images}
    # A folder of films or notes is no class.
    unread = [p for p in others if len(p) > level + 1 and p[: level + 1] not in classes and _kind(p) in PICTURES]
    found = f"only {_kinds(unread)} in {_some({'/'.join(path[: level + 1]) for path in unread})}"
    require(not unread, root, "images that can be read in each class", found, "convert them, or keep them elsewhere")
    require(images, root, "class folders with images", f"none, {loose:,} outside", f"put images into {root}/unsorted")
    folders = {"/".join(path[level:-1]) for path in images}
    shared = os.path.commonpath(list(folders))
    found, here = f"a single one, and in it {_some(folders)}", "/".join((root, *images[0][:level], shared))
    require(not shared or shared in folders, root, "class folders", found, f"give {here}, if these are the classes")
    if not shared and all("/" in folder for folder in folders):
        found = f"the upper ones of the folders {_some(folders)} in {root!r}"
        say_once(f"classes: {found}; for the lower, give an upper one")


def _find_images(folder: str, leave_out: str = "") -> tuple[list[Parts], list[Parts]]:
    """The images at any depth, and the other files, which a line counts by kind, as paths below `folder`."""
    images, others, bare, readable = [], [], [], readable_suffixes()
    for path in sorted(_walk(folder, LEFT_BEHIND | {leave_out.lower()})):
        (images if _kind(path) in readable else others if path[-1] else bare).append(path)
    if others:
        say_once(f"left out: {_kinds(others)} in {folder!r}")
    if bare:
        say_once(f"left out: empty folders: {len(bare):,} ({_some({'/'.join(path) for path in bare})}) in {folder!r}")
    return images, others


def _walk(folder: str, hidden: set[str], at: Parts = (), above: frozenset = frozenset()) -> Iterator[Parts]:
    """The files below a folder, and for a folder without any its path and "".

    Links are followed, but not back up, where they would go round for ever.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    entries = [entry for entry in os.scandir(folder) if entry.name[0] != "." and entry.name.lower() not in hidden]
    if at and not entries:
        yield *at, ""
    for entry in entries:
        if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():  # a link may lead to itself
            yield from _walk(entry.path, hidden, (*at, entry.name), above | {real})
        elif entry.is_symlink() or entry.is_file():  # to read from a pipe would wait for ever
            yield *at, entry.name


def _kind(path: Parts) -> str:
    return repr(os.path.splitext(path[-1])[1].lower())[1:-1]  # escaped where it cannot be printed


def _kinds(paths: Iterable[Parts]) -> str:
    """How many there are of each kind, the largest first."""
    hint, counts = " (install pillow-heif to read them)", Counter(map(_kind, paths)).most_common()
    return ", ".join(f"{n:,} {kind or 'without suffix'}{hint * (kind[:4] in ('.hei', '.hif'))}" for kind, n in counts)


def _some(names: Collection[str]) -> str:
    """The first ten, escaped where they cannot be printed."""
    return ", ".join(map(repr, sorted(names)[:10])) + ", ..." * (len(names) > 10)
