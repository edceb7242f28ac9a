"""Images decoded once to one size, kept in a file that is memory-mapped from then on.

A store is `<name>.<fingerprint>.bin`, its plain uint8 pixels, and `<name>.<fingerprint>.json`, the images that could
not be read. Both are written elsewhere and renamed when they are whole, so that only their size is checked later.

N images, S x S pixels.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from simclr_lib.data.decode import Item, decode_or_reason
from simclr_lib.engine.progress import progress_bar

DECODING = 1  # part of every fingerprint: raise it when an image would be decoded to other pixels than before


def fingerprint(files: Iterable[str], root: str) -> str:
    """A key that changes with any file's place below `root`, its size, time or permissions."""
    digest = hashlib.blake2b(str(DECODING).encode(), digest_size=16)
    for path in files:
        state = ()
        with suppress(OSError):  # a broken link, which may be mended
            stat = os.stat(path)
            state = stat.st_size, stat.st_mtime_ns, stat.st_mode
        digest.update(os.fsencode(f"{path.removeprefix(root)}\0{state}\n"))
    return digest.hexdigest()


def store_places(root: str, name: str, files: Iterable[str]) -> list[Path]:
    """Where the store `name` of these files may be, without its suffix: with the data, else in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    own = hashlib.blake2b(os.fsencode(root), digest_size=8).hexdigest()
    file = f"{name}.{fingerprint(files, root)}"
    return [Path(root, ".simclr_cache", file), Path(cache, "simclr", own, file)]


def open_store(
    items: Sequence[Item], size: int, resize: str, places: Sequence[Path] = (), workers: int | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """The images of N items that can be read, (N - unreadable, 3, S, S), and why the others cannot, by position.

    They come from the store at one of the places, or are decoded now and kept at the first place that can be written.
    An array that has the size already stays where it is. Decoding runs in `workers` threads (None: one a core) under a
    progress bar. Several processes may open, or make, the same store at once. Warns where a store has another size than
    it should, and where none can be written: its pixels are then in a temporary file, as they are without `places`.
    """
    if isinstance(items, np.ndarray) and items.shape[2:] == (size, size):
        return items, {}
    for place in places:
        if store := _read(place, len(items), size):
            return store
    place, scratch = _scratch(places)
    with scratch as folder:
        draft = Path(folder, "draft")
        decode = partial(decode_or_reason, size=size, resize=resize)
        unreadable = _write(draft, items, decode, workers or os.cpu_count() or 1)
        store = _read(draft, len(items), size)
        if store and place:
            _keep(draft, place)
    return store or (np.empty((0, 3, size, size), np.uint8), unreadable)


def _read(place: Path, items: int, size: int) -> tuple[np.ndarray, dict[int, str]] | None:
    """The store at `place`, or None."""
    try:
        unreadable = dict(json.loads(Path(f"{place}.json").read_text()))
        readable, found = items - len(unreadable), os.path.getsize(f"{place}.bin")
        if found == readable * 3 * size**2:
            # copy-on-write: torch takes only writable memory, and nothing that is written there reaches the file
            return np.memmap(f"{place}.bin", np.uint8, mode="c", shape=(readable, 3, size, size)), unreadable
    except (OSError, ValueError):  # it is not there, not ours to read, about to be replaced, or holds no image
        return None
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


def _write(draft: Path, items: Sequence[Item], decode: Callable, workers: int) -> dict[int, str]:
    """Write what can be read, in order; returns why the others could not, by position."""
    pixels, n, unreadable = f"{draft}.bin", len(items), {}
    block = 32 * workers  # at a time: all of them would be held in memory until a slow disk has caught up
    with open(pixels, "wb") as file, ThreadPoolExecutor(workers) as pool, progress_bar(n, "decoding", "images") as bar:
        for start in range(0, n, block):
            for row, image in enumerate(pool.map(decode, items[start : start + block]), start):
                if isinstance(image, str):
                    unreadable[row] = image
                else:
                    file.write(image)
                bar.update()
        file.flush()
        os.fsync(file.fileno())
    Path(f"{draft}.json").write_text(json.dumps(list(unreadable.items())))
    return unreadable


def _keep(draft: Path, place: Path) -> None:
    """Give a whole store its name, and remove those that it replaces: of other fingerprints, of older versions."""
    for suffix in (".json", ".bin"):
        os.replace(f"{draft}{suffix}", f"{place}{suffix}")
    for old in set(place.parent.glob(f"{place.stem}.*")) - set(place.parent.glob(f"{place.name}.*")):
        old.unlink(missing_ok=True)
