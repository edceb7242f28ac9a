"""What a data set holds before anything is decoded: files or arrays, labels, class names.

Looked for under `root`, in this order:

    cifar10     cifar-10-batches-py/    or  cifar10/<split>/<class>/*
    stl10       stl10_binary/           or  stl10/<split>/<class>/*, and stl10/unlabeled/*
    caltech101  caltech101/101_ObjectCategories/<class>/*, without BACKGROUND_Google, as torchvision has it
    folder      <class>/*
    embedded    nothing: it is generated

An image is a .jpg, .jpeg or .png at any depth below its class folder; whatever begins with a dot is passed over.
torchvision's files are read here and not by its loaders, which hash 3 GB at every start and copy them into memory:
sizes and counts are checked, and nothing but arrays is unpickled.
"""

import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np

from simclr_lib.data.embedded import generate
from simclr_lib.engine.checks import require

PUBLISHED = {"cifar10": "cifar-10-batches-py", "stl10": "stl10_binary", "caltech101": "caltech101/101_ObjectCategories"}
SUFFIXES = (".jpg", ".jpeg", ".png")
IMAGES = f"images ({', '.join(SUFFIXES)})"
CIFAR_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
PICKLED = {"numpy": ("_reconstruct", "_frombuffer", "ndarray", "dtype"), "_codecs": ("encode",)}  # what arrays need
DAMAGED = "it is damaged or cut short; delete it to have it downloaded again"


@dataclass(frozen=True)
class Listing:
    """The images of a data set before they are decoded: N files or arrays."""

    items: Sequence[str] | Sequence[np.ndarray]  # paths, or pixels (3, H, W) uint8
    labels: np.ndarray  # (N,) int64, -1 where unlabelled
    class_names: list[str]
    files: Sequence[str] = ()  # that hold the pixels, where the items are no paths

    def __add__(self, other: "Listing") -> "Listing":
        """The images of both, in the classes of the first."""
        labels, files = np.concatenate([self.labels, other.labels]), [*self.files, *other.files]
        return Listing([*self.items, *other.items], labels, self.class_names, files)


def list_images(name: str, split: str, root: str) -> Listing | None:
    """The whole of a data set in one of its layouts, or None where none is there with all its files.

    Raises ValueError for a file that is damaged and for a folder that is laid out otherwise, naming it.
    """
    if name == "embedded":
        images, labels, class_names = generate(split)
        return Listing(images.numpy(), labels.numpy(), class_names)
    if name == "folder":
        return _class_folders(root)
    if name == "caltech101":
        return _class_folders(f"{root}/{PUBLISHED[name]}", leave_out="BACKGROUND_Google")
    published = {"cifar10": _cifar10, "stl10": _stl10}[name]
    for folder, layout in ((PUBLISHED[name], published), (name, _split_folder)):
        parts = [layout(f"{root}/{folder}", part) for part in split.split("+")]
        if all(parts):
            return sum(parts[1:], start=parts[0])
    return None


def _cifar10(folder: str, split: str) -> Listing | None:
    files = [f"{folder}/{name}" for name in (*CIFAR_BATCHES[split], "batches.meta")]
    if not all(map(os.path.isfile, files)):
        return None
    *batches, meta = map(_unpickle, files)
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([batch["labels"] for batch in batches]).astype(np.int64)
    require(len(images) == len(labels), files[0], f"{len(images)} labels", len(labels), DAMAGED)
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


def _stl10(folder: str, split: str) -> Listing | None:
    pixels, numbers, names = f"{folder}/{split}_X.bin", f"{folder}/{split}_y.bin", f"{folder}/class_names.txt"
    files = [pixels, names] if split == "unlabeled" else [pixels, names, numbers]
    if not all(map(os.path.isfile, files)):
        return None
    size = os.path.getsize(pixels)
    require(size and size % (3 * 96 * 96) == 0, pixels, "whole images of 27648 bytes", f"{size} bytes", DAMAGED)
    columns = np.asarray(np.memmap(pixels, np.uint8, mode="c")).reshape(-1, 3, 96, 96)  # (N, 3, W, H)
    from_one = np.fromfile(numbers, np.uint8) if numbers in files else np.zeros(len(columns))  # 0 where unlabelled
    require(len(from_one) == len(columns), numbers, f"{len(columns)} labels", len(from_one), DAMAGED)
    return Listing(columns.swapaxes(2, 3), from_one.astype(np.int64) - 1, Path(names).read_text().split(), files)


def _split_folder(folder: str, split: str) -> Listing | None:
    folder = f"{folder}/{split}"
    if split != "unlabeled" or not os.path.isdir(folder):
        return _class_folders(folder)
    files = list(_images_below(folder))
    require(files, folder, IMAGES, "none", "put them there, in folders or not")
    return Listing(files, np.full(len(files), -1), [])


def _class_folders(folder: str, leave_out: str = "") -> Listing | None:
    if not os.path.isdir(folder):
        return None
    entries = [entry for entry in _entries(folder) if entry.name != leave_out]
    files = {entry.name: list(_images_below(entry.path)) for entry in entries if entry.is_dir()}
    others = [entry.name for entry in entries if not files.get(entry.name)]
    found = f"{len(others)} that are not ({', '.join(others[:10])})" if others else "none"
    remedy = f"move images into class folders, be it a single one such as {folder}/unsorted, and remove empty ones"
    require(files and not others, folder, f"class folders, each with {IMAGES}", found, remedy)
    labels = np.repeat(np.arange(len(files)), [len(paths) for paths in files.values()])
    return Listing([path for paths in files.values() for path in paths], labels, list(files))


def _images_below(folder: str, above: frozenset = frozenset()) -> Iterator[str]:
    """The paths of the images at any depth. Links are followed, but not back up, where they would go round for ever."""
    above |= {os.path.realpath(folder)}
    for entry in _entries(folder):
        if not entry.is_dir():
            yield entry.path
        elif os.path.realpath(entry.path) not in above:
            yield from _images_below(entry.path, above)


def _entries(folder: str) -> list[os.DirEntry]:
    """The folders and images in a folder, by name."""
    entries = sorted(os.scandir(folder), key=attrgetter("name"))
    shown = [entry for entry in entries if not entry.name.startswith(".")]
    return [entry for entry in shown if entry.is_dir() or entry.name.lower().endswith(SUFFIXES)]
