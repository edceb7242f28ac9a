"""Data sets by name, as one uint8 tensor: what is on disk (see `layouts`), else torchvision's download.

N images, S x S pixels.
"""

import os
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import datasets

from simclr_lib.data.decode import Item
from simclr_lib.data.layouts import PUBLISHED, Listing, list_images
from simclr_lib.data.store import open_store, store_places
from simclr_lib.engine.checks import SPLITS, is_count, require, require_choice
from simclr_lib.engine.paths import data_root
from simclr_lib.engine.seeds import permutation

NATURAL_SIZE = {"cifar10": 32, "stl10": 96, "embedded": 32}  # pixels
FETCH = {"cifar10": datasets.CIFAR10, "stl10": datasets.STL10, "caltech101": datasets.Caltech101}


@dataclass(frozen=True)
class ImageSet:
    """Images at one size, with what is known about them.

    Indexing `images` reads only what is asked for, where they are memory-mapped; `subset` copies its part.
    """

    images: Tensor  # (N, 3, S, S) uint8
    labels: Tensor  # (N,) int64, -1 where unlabelled
    class_names: list[str]  # of the labels 0, 1, ...
    ids: Tensor  # (N,) int64: positions in the whole data set, counting files that cannot be read
    paths: list[str] | None = None  # of the N files, where there are files

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, positions: Sequence[int] | Tensor) -> "ImageSet":
        """The images at these positions (or under this mask), in this order, with the ids they had.

        Raises IndexError for a position beyond the N images.
        """
        chosen = torch.as_tensor(positions)
        rows = torch.arange(len(self))[chosen if len(chosen) else chosen.long()]
        paths = None if self.paths is None else [self.paths[row] for row in rows.tolist()]
        return ImageSet(self.images[rows], self.labels[rows], self.class_names, self.ids[rows], paths)

    def checksum(self, rows: Tensor) -> int:
        """Of the pixels of a thousand of the images at `rows` (M,), evenly spaced: enough to tell two sets apart."""
        some = rows[torch.linspace(0, len(rows) - 1, min(len(rows), 1000)).long()]
        return zlib.crc32(self.images[some].numpy().tobytes())


def load_images(
    name: str,
    split: str = "train",
    root: str | os.PathLike | None = None,
    *,
    image_size: int | None = None,
    resize: str = "squash",
    unreadable: str = "refuse",
    num_workers: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    download: bool = True,
) -> ImageSet:
    """The data set called `name` as (N, 3, S, S) uint8 with labels; decoded once, cached in `<root>/.simclr_cache`.

    name, split: cifar10 (train, test), stl10 (train, test, unlabeled, train+unlabeled), embedded (train, test);
    caltech101 and folder have no split of their own: train and all both mean everything.
    root: the folder of data sets, None: $SIMCLR_DATA, else <project root>/data. For folder, that of the class folders.
    image_size: S in pixels, None: 32, or 96 for stl10; caltech101 and folder need one. resize: squash or crop.
    unreadable: refuse a set with files that cannot be decoded, or skip them with a warning. What libjpeg does decode,
    flipped bits included, is readable. num_workers: threads that decode, None: one a core.
    limit: only a random subset of so many images (skipped ones count), in order of id; the same for the same seed.

    Raises:
        ValueError: for a name, split or setting out of range, a folder laid out otherwise, an unreadable image.
        FileNotFoundError: where the data are neither on disk nor downloaded; it says what to put where.
    """
    require_choice("dataset", name)
    require_choice("resize", resize)
    require_choice("unreadable", unreadable)
    require(num_workers is None or is_count(num_workers), "num_workers", "None or at least 1", num_workers)
    split, size, root = _settled(name, split, image_size, root)
    listing = list_images(name, split, root) or _download(name, split, root, download)
    ids = _draw(len(listing.labels), limit, seed)
    items, stored_as = listing.items, f"{name}-{split}-{size}-{resize}"
    if limit is not None:
        items = [items[i] for i in ids.tolist()] if isinstance(items, list) else items[ids.numpy()]
        stored_as += f"-{limit}-seed{seed}"
    paths = items if isinstance(items[0], str) else None
    files = paths or listing.files
    places = store_places(root, stored_as, files) if files else []
    images, missing = open_store(items, size, resize, places, num_workers)
    if missing:
        _refuse_or_warn(items, missing, unreadable)
        rows = [row for row in range(len(items)) if row not in missing]
        ids, paths = ids[rows], paths and [paths[row] for row in rows]
    return ImageSet(torch.from_numpy(images), torch.from_numpy(listing.labels)[ids], listing.class_names, ids, paths)


def _settled(name: str, split: str, image_size: int | None, root: str | os.PathLike | None) -> tuple[str, int, str]:
    """The split ("all" where a set has none of its own), side and root that are meant."""
    splits, size = SPLITS[name], NATURAL_SIZE.get(name) if image_size is None else image_size
    whole = "all" in splits
    remedy = f"{name} has no split of its own, both mean every image; hold some out with subset" if whole else ""
    require(split in splits, f"split of {name}", f"one of {', '.join(splits)}", repr(split), remedy)
    expected = "a side in pixels, at least 1 (caltech101 and folder, of many sizes, need one)"
    require(is_count(size), f"image_size of {name}", expected, repr(image_size))
    folder = os.path.abspath(os.path.expanduser(root or data_root()))
    there = name != "folder" or (root and os.path.isdir(folder))
    require(there, "root of folder", "a folder that exists, with the class folders in it", root and folder)
    return "all" if whole else split, size, folder


def _draw(total: int, limit: int | None, seed: int) -> Tensor:
    """The ids of a random subset of `limit` images, or of all, in order."""
    within = limit is None or (is_count(limit) and limit <= total)
    require(within, "limit", f"None for all, or 1 to the {total} images there are", repr(limit))
    return permutation(total, seed)[:limit].sort().values


def _download(name: str, split: str, root: str, download: bool) -> Listing:
    try:
        require(download, "download", "True", download)
        FETCH[name](root, download=True)
        listing = list_images(name, split, root)
        require(listing, "the download", "all files of the set", "some of them")
    except Exception as error:  # no network, no room, a wrong checksum, a broken archive: all end the same way
        own = "<class>/" if name == "caltech101" else f", or images in {name}/<split>/<class>/"
        expected = f"{PUBLISHED[name]}/{own}, complete, in {root}; got neither that nor a download ({error})"
        remedy = "put it there, or give the folder that has it (data_root, or $SIMCLR_DATA); 'embedded' needs no data"
        raise FileNotFoundError(f"{name} ({split}): expected {expected}; {remedy}") from error
    return listing


def _refuse_or_warn(items: Sequence[Item], missing: dict[int, str], unreadable: str) -> None:
    named = "".join(f"\n  {items[row]} ({why})" for row, why in list(missing.items())[:10])
    found = f"{len(missing)} of {len(items)} that cannot be read, the first of them:{named}\n"
    remedy = "repair or remove them, or leave them out by unreadable='skip' where others can be read"
    require(unreadable == "skip" and len(missing) < len(items), "images", "readable ones", found, remedy)
    warnings.warn(f"skipped {found}", stacklevel=3)
