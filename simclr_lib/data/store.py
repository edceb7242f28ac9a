"""Images decoded once to one size, kept in a file that is memory-mapped from then on.

A store is `<name>.<fingerprint>.bin`, its plain uint8 pixels, and `<name>.<fingerprint>.json`, the images that could
not be read. Both are written elsewhere and renamed when they are whole, so that only their size is checked later.

N images, S x S pixels.
"""

import hashlib
import json
import os
import shutil
import threading
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from simclr_lib.data.decode import Item, decode_or_reason
from simclr_lib.engine.paths import data_root
from simclr_lib.engine.progress import progress_bar, say_once

CACHE = ".simclr_cache"
DECODING = 2  # part of every fingerprint: raise it when an image would be decoded to other pixels than before


def fingerprint(files: Iterable[str], root: str) -> str:
    """A key that changes with any file's place below `root`, its size, time or permissions, and with Pillow's limit."""
    digest = hashlib.blake2b(f"{DECODING} {Image.MAX_IMAGE_PIXELS}".encode(), digest_size=16)
    for path in files:
        digest.update(os.fsencode(f"\0{path.removeprefix(root)}\0"))
        with suppress(OSError):  # a broken link, which may be mended
            stat = os.stat(path)
            digest.update(f"{stat.st_size} {stat.st_mtime_ns} {stat.st_mode}".encode())
    return digest.hexdigest()


def store_places(root: str, name: str, files: Iterable[str], within: bool = True) -> list[Path]:
    """Where the store `name` of these files may be, without its suffix: with the data, else in the user's cache.

    within: whether it may be in `root` itself. Where that is a folder of classes, other tools would take it for one of
    them: it is then in the folder of data sets that `root` lies in, and in the user's cache first if it lies elsewhere;
    what older versions had in `root` is removed.
    """
    own = hashlib.blake2b(os.fsencode(root), digest_size=8).hexdigest()
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "simclr", own).expanduser()
    data, file = Path(os.path.abspath(data_root())), f"{name}.{fingerprint(files, root)}"
    if within:
        return [Path(root, CACHE, file), users / file]
    remove_stores(Path(root, CACHE), "folder")
    folders = [data / CACHE / own, users] if Path(root).is_relative_to(data) else [users, data / CACHE / own]
    return [folder / file for folder in folders if not folder.is_relative_to(root)]


def open_store(
    items: Sequence[Item], size: int, resize: str, places: Sequence[Path] = (), workers: int | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """The images of N items that can be read, (N - unreadable, 3, S, S), and why the others cannot, by position.

    They come from the store at one of the places, or are decoded now and kept at the first place that can be written.
    An array that has the size already stays where it is. Decoding runs in `workers` threads (None: one a core) under a
    progress bar. Several processes may open, or make, the same store at once. Warns where a store has another size than
    it should, and where none can be written: its pixels are then in a temporary file, as they are without `places`.
    A new store takes the place of those of its name at all places.
    """
    if isinstance(items, np.ndarray) and items.shape[2:] == (size, size):
        return items, {}
    for place in places:
        if store := _read(place, len(items), size):
            return store
    place, scratch = _scratch(places)
    with scratch as folder:
        draft = Path(folder, "draft")
        unreadable = _write(draft, items, size, resize, workers or os.cpu_count() or 1)
        store = _read(draft, len(items), size)
        if store and place:
            for other in places:
                remove_stores(other.parent, place.stem)
            for suffix in (".json", ".bin"):
                os.replace(f"{draft}{suffix}", f"{place}{suffix}")
    return store or (np.empty((0, 3, size, size), np.uint8), unreadable)


def _read(place: Path, items: int, size: int) -> tuple[np.ndarray, dict[int, str]] | None:
    """The store at `place`, or None."""
    with suppress(OSError, ValueError):  # it is not there, not ours to read, about to be replaced, or holds no image
        unreadable = dict(json.loads(Path(f"{place}.json").read_text()))
        readable, found = items - len(unreadable), os.path.getsize(f"{place}.bin")
        if found == readable * 3 * size**2:
            # copy-on-write: torch takes only writable memory, and nothing that is written there reaches the file
            return np.memmap(f"{place}.bin", np.uint8, mode="c", shape=(readable, 3, size, size)), unreadable
        warnings.warn(f"{place}.bin: expected {readable} images, got {found} bytes; it is made again", stacklevel=4)
    return None


def _scratch(places: Sequence[Path]) -> tuple[Path | None, TemporaryDirectory]:
    """The first place that can be written, and a folder beside it for a store that is not whole yet."""
    for place in places:
        with suppress(OSError):  # read-only, or not ours: the next may do
            place.parent.mkdir(parents=True, exist_ok=True)
            return place, TemporaryDirectory(prefix=".unfinished-", dir=place.parent)
    if places:
        folders = " or ".join(str(place.parent) for place in places)
        warnings.warn(f"no cache can be written in {folders}: images are decoded at every start", stacklevel=4)
    return None, TemporaryDirectory()


def _write(draft: Path, items: Sequence[Item], size: int, resize: str, workers: int) -> dict[int, str]:
    """Write what can be read, in order, and say what was warned of; returns why the others could not, by position."""
    pixels, n, unreadable, warned, thread = f"{draft}.bin", len(items), {}, {}, threading.local()
    block = 32 * workers  # at a time: all of them would be held in memory until a slow disk has caught up

    def decode_one(item: Item) -> np.ndarray | str:
        thread.item = item
        return decode_or_reason(item, size, resize)

    def note(message: Warning | str, *_: object) -> None:  # Pillow's warnings name no file
        warned.setdefault(str(getattr(thread, "item", "")), str(message))

    bar, noted = progress_bar(n, "decoding", "images"), warnings.catch_warnings()
    with bar, noted, open(pixels, "wb") as file, ThreadPoolExecutor(workers) as pool:
        warnings.filterwarnings("always", module="PIL")
        warnings.showwarning = note
        for start in range(0, n, block):
            for row, image in enumerate(pool.map(decode_one, items[start : start + block]), start):
                if isinstance(image, str):
                    unreadable[row] = image
                else:
                    file.write(image)
                bar.update()
        file.flush()
        os.fsync(file.fileno())
    if warned:
        some = "; ".join(f"{item!r}: {message}" for item, message in sorted(warned.items())[:3])
        say_once(f"read all the same, with a warning: {len(warned):,} ({some})")
    Path(f"{draft}.json").write_text(json.dumps(list(unreadable.items())))
    return unreadable


def remove_stores(folder: Path, name: str) -> None:
    """Remove from a cache the stores `name`, those of its parts that older versions kept, and drafts that a process has
    left which was killed more than an hour ago; then the folder, where it is empty."""
    with suppress(OSError):  # not ours to change, or changing
        for store in folder.glob(f"{name}[.-]*"):
            store.unlink(missing_ok=True)
        for draft in folder.glob(".unfinished-*"):
            if time.time() - max(map(os.path.getmtime, (draft, *draft.iterdir()))) > 3600:
                shutil.rmtree(draft)
        folder.rmdir()
