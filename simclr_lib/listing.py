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
from pathlib import Path

import numpy as np

from simclr_lib.embedded import generate
from simclr_lib.image_store import Item

SUFFIXES = (".jpg", ".jpeg", ".png")
CIFAR_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
PICKLED = {("numpy", "_reconstruct"), ("numpy", "_frombuffer"), ("numpy", "ndarray"), ("numpy", "dtype")}
DAMAGED = "it is damaged or cut short; delete it to have it downloaded again"
Labelled = list[tuple[str, str | None]]  # files, each with its class, None where it has none


@dataclass(frozen=True)
class Listing:
    """The images of a data set before they are decoded."""

    items: Sequence[Item]
    labels: np.ndarray  # (N,) int64, -1 where unlabelled
    class_names: list[str]
    files: Sequence[str] = ()  # that hold all of the items, where these are no files themselves

    @property
    def paths(self) -> Sequence[str] | None:
        """The items, where they are files."""
        return self.items if isinstance(self.items[0], str) else None

    def take(self, rows: np.ndarray) -> "Listing":
        """These rows alone."""
        items = self.items[rows] if isinstance(self.items, np.ndarray) else [self.items[row] for row in rows]
        return Listing(items, self.labels[rows], self.class_names, self.files)


def list_images(name: str, split: str, root: str) -> Listing | None:
    """The whole of a data set in one of its layouts, or None where none is there with all its files.

    Raises ValueError for a file that is damaged and for a folder that is laid out otherwise, naming it.
    """
    if name == "embedded":
        images, labels, class_names = generate(split)
        return Listing(images.numpy(), labels.numpy(), class_names)
    if name == "folder":
        return _from_files(_labelled(root))
    if name == "caltech101":
        folder = f"{root}/caltech101/101_ObjectCategories"
        return _from_files(_labelled(folder, leave_out="BACKGROUND_Google")) if os.path.isdir(folder) else None
    published = _cifar10(root, split) if name == "cifar10" else _stl10(root, split)
    folders = [f"{root}/{name}/{part}" for part in split.split("+")]
    if published or not all(map(os.path.isdir, folders)):
        return published
    parts = [_unlabelled(folder) if folder.endswith("/unlabeled") else _labelled(folder) for folder in folders]
    return _from_files([file for part in parts for file in part])


def _cifar10(root: str, split: str) -> Listing | None:
    files = [f"{root}/cifar-10-batches-py/{name}" for name in (*CIFAR_BATCHES[split], "batches.meta")]
    if not all(map(os.path.isfile, files)):
        return None
    *batches, meta = map(_unpickle, files)
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([batch["labels"] for batch in batches]).astype(np.int64)
    _require(len(images) == len(labels), files[0], f"{len(images)} labels", len(labels), DAMAGED)
    return Listing(images, labels, meta["label_names"], files)


def _unpickle(path: str) -> dict:
    with open(path, "rb") as file:
        try:
            return _ArrayUnpickler(file, encoding="latin1").load()  # written by Python 2
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise ValueError(f"{path}: expected a batch of CIFAR-10, got {error!r}; {DAMAGED}") from error


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module.split(".")[0], name) in PICKLED or (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}, which is no part of an array")


def _stl10(root: str, split: str) -> Listing | None:
    folder, parts = f"{root}/stl10_binary", split.split("+")
    files = [f"{folder}/{part}_X.bin" for part in parts]
    files += [f"{folder}/{part}_y.bin" for part in parts if part != "unlabeled"]
    if not all(map(os.path.isfile, [*files, f"{folder}/class_names.txt"])):
        return None
    images = [_stl10_images(f"{folder}/{part}_X.bin") for part in parts]
    labels = [_stl10_labels(folder, part, len(found)) for part, found in zip(parts, images, strict=True)]
    items = images[0] if len(images) == 1 else [image for found in images for image in found]
    return Listing(items, np.concatenate(labels), Path(folder, "class_names.txt").read_text().split(), files)


def _stl10_images(path: str) -> np.ndarray:
    size = os.path.getsize(path)
    _require(size and size % (3 * 96 * 96) == 0, path, "whole images of 27648 bytes", f"{size} bytes", DAMAGED)
    images = np.asarray(np.memmap(path, np.uint8, mode="c")).reshape(-1, 3, 96, 96)
    return images.transpose(0, 1, 3, 2)  # the file has columns first


def _stl10_labels(folder: str, part: str, images: int) -> np.ndarray:
    if part == "unlabeled":
        return np.full(images, -1)
    labels = np.fromfile(f"{folder}/{part}_y.bin", np.uint8).astype(np.int64) - 1  # from 1 in the file
    _require(len(labels) == images, f"{folder}/{part}_y.bin", f"{images} labels", len(labels), DAMAGED)
    return labels


def _from_files(files: Labelled) -> Listing:
    class_names = sorted({label for _, label in files if label is not None})
    number = {label: i for i, label in enumerate(class_names)}
    labels = np.array([number.get(label, -1) for _, label in files], np.int64)
    return Listing([path for path, _ in files], labels, class_names)


def _labelled(folder: str, leave_out: str = "") -> Labelled:
    entries = _entries(folder)
    classes = [entry for entry in entries if entry.is_dir() and entry.name != leave_out]
    loose = [entry.name for entry in entries if _is_image(entry)]
    found = f"{len(loose)} images directly in it ({loose[0]}, ...)" if loose else "none"
    remedy = f"move the images into class folders; a single one will do, such as {folder}/unsorted"
    _require(classes and not loose, folder, "class folders, each with its images", found, remedy)
    files = {entry.name: list(_image_files(entry.path)) for entry in classes}
    empty = ", ".join(name for name, paths in files.items() if not paths)
    remedy = "remove the empty ones"
    _require(not empty, folder, f"images ({', '.join(SUFFIXES)}) in every class folder", f"none in {empty}", remedy)
    return [(path, name) for name, paths in files.items() for path in paths]


def _unlabelled(folder: str) -> Labelled:
    files = [(path, None) for path in _image_files(folder)]
    _require(files, folder, f"images ({', '.join(SUFFIXES)})", "none", "put them there, in folders or not")
    return files


def _image_files(folder: str, above: frozenset = frozenset()) -> Iterator[str]:
    here = os.path.realpath(folder)
    for entry in _entries(folder) if here not in above else ():  # a link back up would go round for ever
        if entry.is_dir():
            yield from _image_files(entry.path, above | {here})
        elif _is_image(entry):
            yield entry.path


def _entries(folder: str) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _is_image(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()


def _require(condition: object, what: str, expected: str, got: object, remedy: str) -> None:
    if not condition:
        raise ValueError(f"{what}: expected {expected}, got {got}; {remedy}")
