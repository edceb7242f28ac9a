"""Data sets by name, as one uint8 tensor: what is on disk (see `layouts`), else torchvision's download.

N images, S x S pixels.
"""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms import functional as F

from simclr_lib.data.layouts import PUBLISHED, Listing, list_images
from simclr_lib.data.store import open_store, store_places
from simclr_lib.engine.checks import SPLITS, is_amount, is_count, require, require_choice
from simclr_lib.engine.paths import data_root, user_path
from simclr_lib.engine.progress import say_once
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
        rows = torch.arange(len(self))[torch.as_tensor(positions) if len(positions) else []]
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
    test_share: float = 0.0,
) -> ImageSet:
    """The data set called `name` as (N, 3, S, S) uint8 with labels; decoded once, then mapped from a cache.

    name, split: cifar10 (train, test), stl10 (train, test, unlabeled, train+unlabeled), embedded (train, test), folder
    (train, val and test, as far as it has them, and all for all of them; see `layouts`). Where a folder has no splits,
    and in caltech101, train and all both mean everything.
    root: the folder of data sets, None: $SIMCLR_DATA, else <project root>/data. For folder, that of the class folders,
    or of its splits.
    image_size: S in pixels, None: 32, or 96 for stl10; caltech101 and folder need one. resize: squash or crop.
    unreadable: refuse a set with files that cannot be decoded, or skip them and say which. What libjpeg does decode,
    flipped bits included, is readable. num_workers: threads that decode, None: one a core.
    limit: only a random subset of so many images (skipped ones count), in order of id; the same for the same seed. The
    whole set is decoded, once for every limit and seed; the subset is a copy in memory.
    test_share: of a folder without splits, the share that is its test split, see `draw_test_images`; also a copy.

    Raises:
        ValueError: for a name, split or setting out of range, a folder laid out otherwise, an unreadable image.
        OSError: for a folder that cannot be listed, naming it.
        FileNotFoundError: where the data are neither on disk nor downloaded; it says what to put where.
    """
    require_choice(dataset=name, resize=resize, unreadable=unreadable)
    require(num_workers is None or is_count(num_workers), "num_workers", "None or at least 1", num_workers)
    size, root = _settled(name, split, image_size, root)
    listing = list_images(name, "train" if test_share and split == "test" else split, root)
    own = name == "folder" and not listing.splits and is_amount(test_share) and test_share < 1
    expected, remedy = "0, or below 1 for a folder without splits", "give 0, or one of its splits as the folder"
    require(own or test_share == 0, "test_share", expected, test_share, remedy)
    listing = listing or _download(name, split, root, download)
    ids = np.arange(len(listing.labels))
    if test_share and split != "all":
        every = load_images(name, "all", root, image_size=32, unreadable=unreadable, num_workers=num_workers)
        held_out = every.ids[draw_test_images(every, test_share, seed)].numpy()
        ids = held_out if split == "test" else np.delete(ids, held_out)
    within = limit is None or (is_count(limit) and limit <= len(ids))
    require(within, "limit", f"None for all, or 1 to the {len(ids)} images there are", repr(limit))
    ids = ids[permutation(len(ids), seed)[:limit].sort().values.numpy()]
    part = slice(None) if listing.files else ids  # what is decoded: all, where it can be kept for other draws
    stored_as = f"{name}-{'all' if 'all' in SPLITS[name] and not listing.splits else split}-{size}-{resize}"
    places = store_places(root, stored_as, listing.files, name != "folder") if listing.files else []
    images, missing = open_store(listing.items[part], size, resize, places, num_workers)
    if lost := {i: missing[i] for i in ids.tolist() if i in missing}:
        _refuse_or_warn(listing.files, lost, len(ids), unreadable)
    stored = np.delete(np.arange(len(listing.labels))[part], [*missing])
    wanted = np.isin(stored, ids)
    images, ids = torch.from_numpy(images if wanted.all() else images[wanted]), torch.from_numpy(stored[wanted])
    paths = [listing.files[i] for i in ids.tolist()] if isinstance(listing.items[0], str) else None
    return ImageSet(images, torch.from_numpy(listing.labels)[ids], listing.class_names, ids, paths)


def scored_split(name: str, root: str | os.PathLike | None, test_share: float = 0.0) -> str | None:
    """The split that scores are read on, where the data set has one: test, or of a folder without test its val."""
    splits = SPLITS[name] if name != "folder" else list_images(name, "all", _settled(name, "all", 1, root)[1]).splits
    return next((split for split in ("test", "val") if split in splits), "test" if test_share else None)


def draw_test_images(images: ImageSet, share: float, seed: int) -> np.ndarray:
    """Which images are for scores, by position: of each class the rounded share, but at least one, and never all.

    Near-duplicates, of one `difference_hash`, are on one side. They are drawn after all others, so that a class falls
    short of its share only where it has little else. Raises ValueError where no image can be held out.
    """
    _, group, sizes = np.unique(difference_hash(images.images), return_inverse=True, return_counts=True)
    labels, wanted = images.labels.numpy(), np.zeros(len(images))
    order = np.lexsort((permutation(len(sizes), seed).numpy()[group], sizes[group], labels))
    for rows in np.split(order, np.bincount(labels).cumsum()):  # of each class, those of large groups last
        wanted[rows[: min(max(round(share * len(rows)), 1), len(rows) - 1)]] = 1
    held_out = np.flatnonzero((np.bincount(group, wanted) == sizes)[group])
    require(len(held_out), "test_share", "images that differ from all others of their class", "none", "give 0")
    alike = f"; {sizes[sizes > 1].sum():,} near-duplicates stay on one side" * bool(sizes.max() > 1)
    say_once(f"held out {len(held_out):,} of {len(group):,} images for scores{alike}")
    return held_out


def difference_hash(images: Tensor) -> np.ndarray:
    """(N, 3, S, S) uint8 -> (N,): 64 bits, which of 9 x 8 grey pixels are darker than their right neighbour."""
    grey = torch.cat([F.resize(F.rgb_to_grayscale(part), [8, 9]) for part in images.split(1024)]).numpy()
    return np.packbits((grey[..., :-1] < grey[..., 1:]).reshape(-1, 64), axis=1).view(np.uint64)[:, 0]


def _settled(name: str, split: str, image_size: int | None, root: str | os.PathLike | None) -> tuple[int, str]:
    """The side and the root that are meant."""
    splits, size = SPLITS[name], NATURAL_SIZE.get(name) if image_size is None else image_size
    remedy = "" if "test" in splits else f"{name} has no split of its own, both mean every image; see subset"
    require(split in splits, f"split of {name}", f"one of {', '.join(splits)}", repr(split), remedy)
    require(is_count(size), f"image_size of {name}", "pixels, at least 1 (sets of many sizes need it)", repr(size))
    folder = os.path.abspath(user_path(root or data_root(), "root"))
    there = name != "folder" or (root and os.path.isdir(folder))
    require(there, "root of folder", "a folder that exists, with the class folders in it", root and folder)
    return size, folder


def _download(name: str, split: str, root: str, download: bool) -> Listing:
    try:
        require(download, "download", "True", download)
        FETCH[name](root, download=True)
        listing = list_images(name, split, root)
        require(listing, "the download", "all files of the set", "some of them")
        return listing
    except Exception as error:  # no network, no room, a wrong checksum, a broken archive: all end the same way
        own = "<class>/" if name == "caltech101" else f", or images in {name}/<split>/<class>/"
        got = f"{name} ({split}): expected {PUBLISHED[name]}/{own}, complete, in {root}, or a download; got {error}"
        remedy = "put it there, or give its place (data_root, or $SIMCLR_DATA); 'embedded' needs no data"
        raise FileNotFoundError(f"{got}; {remedy}") from error


def _refuse_or_warn(files: Sequence[str], missing: dict[int, str], wanted: int, unreadable: str) -> None:
    named = "".join(f"\n  {files[row]!r} ({why})" for row, why in list(missing.items())[:10])
    found = f"{len(missing)} of {wanted} that cannot be read, the first of them:{named}\n"
    remedy = "repair or remove them, or leave them out by unreadable='skip' where others can be read"
    require(unreadable == "skip" and len(missing) < wanted, "images", "readable ones", found, remedy)
    say_once(f"skipped {found}".rstrip())
