"""Data sets by name, as one uint8 tensor: what is on disk (see `listing`), else torchvision's download.

Shapes: N images, S x S pixels.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from simclr_lib.image_store import Store, cache_stems, decode_or_reason, fingerprint, open_store
from simclr_lib.listing import Listing, list_images
from simclr_lib.paths import data_root

SPLITS = {
    "cifar10": ("train", "test"),
    "stl10": ("train", "test", "unlabeled", "train+unlabeled"),
    "caltech101": ("train", "all"),  # no split of their own
    "folder": ("train", "all"),
    "embedded": ("train", "test"),
}
NATURAL_SIZE = {"cifar10": 32, "stl10": 96, "embedded": 32}  # pixels
PUBLISHED = {"cifar10": "cifar-10-batches-py", "stl10": "stl10_binary", "caltech101": "caltech101/101_ObjectCategories"}
NAMED = 10  # files in a message, before it goes on with a count


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
    split, size = _require_settings(name, split, image_size, resize, unreadable, num_workers)
    root = _require_root(name, root)
    listing = list_images(name, split, root) or _download(name, split, root, download)
    ids = _choose(len(listing.items), limit, seed)
    stem = f"{name}-{split}-{size}-{resize}"
    if limit is not None:
        listing, stem = listing.take(ids.numpy()), f"{stem}-{limit}-seed{seed}"
    store = _open(listing, size, resize, root, stem, num_workers)
    rows = _readable_rows(listing, store, unreadable)
    paths = None if listing.paths is None else [listing.paths[row] for row in rows.tolist()]
    labels = torch.from_numpy(listing.labels)[rows]
    return ImageSet(torch.from_numpy(store.images), labels, listing.class_names, ids[rows], paths)


def load_image(path: str | os.PathLike, image_size: int, resize: str = "squash") -> Tensor:
    """One image file, (1, 3, S, S) uint8, as `load_images` makes those of a set; image_size: S in pixels.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is no image that can be read.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"image: expected a file, got {path}, which is none; give the path of an image")
    image = decode_or_reason(str(path), image_size, resize)
    _require(
        not isinstance(image, str), "image", "a file that Pillow can read, such as .jpg or .png", f"{path}: {image}"
    )
    return torch.from_numpy(image)[None]


def _open(listing: Listing, size: int, resize: str, root: str, stem: str, workers: int | None) -> Store:
    if getattr(listing.items, "shape", ())[1:] == (3, size, size):
        return Store(listing.items, {})  # arrays at their size already: STL-10's stay where they are, memory-mapped
    files = listing.paths or listing.files
    stems = cache_stems(root, stem) if files else []
    return open_store(listing.items, size, resize, stems, fingerprint(files, root), workers)


def _readable_rows(listing: Listing, store: Store, unreadable: str) -> Tensor:
    """The rows of the listing that the store has. Says which are missing, or refuses."""
    total, missing = len(listing.items), store.unreadable
    if missing:
        named = "".join(f"\n  {listing.items[row]} ({why})" for row, why in list(missing.items())[:NAMED])
        more = f"\n  and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        found = f"{len(missing)} of {total} images cannot be read:{named}{more}"
        if unreadable == "refuse":
            raise ValueError(f"expected readable images, got: {found}\nrepair or remove them, or set unreadable='skip'")
        if len(missing) == total:
            raise ValueError(f"expected at least one readable image, got: {found}\nrepair them")
        warnings.warn(f"skipped: {found}", stacklevel=3)
    return torch.tensor([row for row in range(total) if row not in missing])


def _choose(total: int, limit: int | None, seed: int) -> Tensor:
    if limit is None:
        return torch.arange(total)
    expected = f"None for all, or 1 to the {total} images there are"
    _require(isinstance(limit, int) and 1 <= limit <= total, "limit", expected, limit)
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:limit].sort().values


def _download(name: str, split: str, root: str, download: bool) -> Listing:
    if not download:
        raise FileNotFoundError(_missing(name, split, root, "download=False"))
    from torchvision import datasets  # slow to import, and seldom needed

    fetch = {"cifar10": datasets.CIFAR10, "stl10": datasets.STL10, "caltech101": datasets.Caltech101}[name]
    try:
        fetch(root, download=True)
    except Exception as error:  # no network, no room, a wrong checksum, a broken archive: all end the same way
        raise FileNotFoundError(_missing(name, split, root, f"the download failed: {error}")) from error
    if (listing := list_images(name, split, root)) is None:
        raise FileNotFoundError(_missing(name, split, root, "the download lacks files"))
    return listing


def _missing(name: str, split: str, root: str, why: str) -> str:
    folders = " and ".join(f"{name}/{part}/" + "<class>/" * (part != "unlabeled") for part in split.split("+"))
    layout = f"{PUBLISHED[name]}/" + (f", or images in {folders}" if name != "caltech101" else "<class>/")
    return (
        f"{name} ({split}): expected {layout}, complete, in {root}; got neither that nor a download ({why}). "
        "Put it there, or give the folder that has it (data_root, or $SIMCLR_DATA); "
        "to begin without any data, use the data set 'embedded'"
    )


def _require_settings(
    name: str, split: str, image_size: int | None, resize: str, unreadable: str, num_workers: int | None
) -> tuple[str, int]:
    """The split ("all" where there is but one) and the size, both settled."""
    _require(name in SPLITS, "data set", f"one of {', '.join(SPLITS)}", name)
    own = "all" not in SPLITS[name]
    hint = "" if own else f" ({name} has no split of its own, both mean every image; hold some out with subset)"
    _require(split in SPLITS[name], f"split of {name}", f"one of {', '.join(SPLITS[name])}{hint}", split)
    _require(resize in ("squash", "crop"), "resize", "squash or crop", resize)
    _require(unreadable in ("refuse", "skip"), "unreadable", "refuse or skip", unreadable)
    _require(num_workers is None or num_workers >= 1, "num_workers", "None or at least 1", num_workers)
    size = NATURAL_SIZE.get(name) if image_size is None else image_size
    expected = "a side in pixels, at least 1" + (" (these images have many sizes)" if size is None else "")
    _require(isinstance(size, int) and size >= 1, f"image_size of {name}", expected, image_size)
    return split if own else "all", size


def _require_root(name: str, root: str | os.PathLike | None) -> str:
    given = root is not None and str(root) != ""
    _require(given or name != "folder", "root of folder", "the folder that holds the class folders", root)
    path = Path(root).expanduser().absolute() if given else data_root().absolute()
    _require(path.is_dir() or name != "folder", "root of folder", "a folder that exists", str(path))
    return str(path)


def _require(condition: bool, what: str, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f"{what}: expected {expected}, got {got!r}")
