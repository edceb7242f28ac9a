"""Images of every kind, decoded once to one size, kept in a file that is memory-mapped from then on.

The store of a set of images is `<stem>.bin`, the plain uint8 pixels, beside `<stem>.json`: the key of what it was made
from, its shape, the images that could not be read, and a checksum. A store made from other files, or damaged since,
is made again.

Shapes: N images, H x W pixels as found, S x S pixels as kept.
"""

import errno
import hashlib
import io
import json
import os
import warnings
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import uuid4

import numpy as np
from PIL import Image, ImageOps

from simclr_lib.progress import progress_bar

LAYOUT = 1  # part of every key: raise it when an image would be decoded to other pixels than before
RUN = 64  # images a task: handing 60,000 small files to threads one by one costs more than decoding them
Item = str | np.ndarray  # the path of an image, or its pixels: (3, H, W) uint8


class Store(NamedTuple):
    """What came of N images: those that could be read, in order, and why the others could not, by position."""

    images: np.ndarray  # (N - unreadable, 3, S, S) uint8, memory-mapped unless it could not be written anywhere
    unreadable: dict[int, str]


def decode(item: Item, size: int, resize: str) -> np.ndarray:
    """An image as (3, S, S) uint8 RGB; see `to_rgb` and `fit`. Raises whatever Pillow does where it cannot be read."""
    with Image.open(item) if isinstance(item, str) else Image.fromarray(item.transpose(1, 2, 0)) as image:
        return np.ascontiguousarray(np.asarray(fit(to_rgb(image), size, resize)).transpose(2, 0, 1))


def to_rgb(image: Image.Image) -> Image.Image:
    """The image upright, as its EXIF orientation asks, in RGB.

    What is transparent shows white, as on a page. 16-bit grey is scaled to 8 bits (Pillow alone would clip it). CMYK
    is converted without a colour profile.
    """
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # I;16, I;16B, and I as older Pillows have it
        image = Image.fromarray(((np.asarray(image, np.int64) + 128) // 257).clip(0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def fit(image: Image.Image, size: int, resize: str) -> Image.Image:
    """(H, W) -> (S, S), bilinear and antialiased: "squash" the whole to a square, or "crop" the centre.

    "crop" brings the short side to S first; sides and corners are rounded as torchvision's Resize and CenterCrop do.
    """
    short = min(image.size)
    sides = (size, size) if resize == "squash" else tuple(int(size * side / short) for side in image.size)
    if sides != image.size:
        image = image.resize(sides, Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in sides)
    return image.crop((left, top, left + size, top + size))


def fingerprint(files: Iterable[str], root: str, *settings: object) -> str:
    """A key that changes with the settings and with any file's place below `root`, size, time or permissions."""
    digest = hashlib.blake2b(repr((LAYOUT, *settings)).encode(), digest_size=16)
    for path in files:
        try:
            stat = os.stat(path)
            state = stat.st_size, stat.st_mtime_ns, stat.st_mode
        except OSError:  # a broken link, which may be mended
            state = ()
        digest.update(os.fsencode(f"{path.removeprefix(root)}\0{state}\n"))
    return digest.hexdigest()


def cache_stems(root: str, name: str) -> list[Path]:
    """Where the store called `name` of the data under `root` may be: with the data, else in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    mine = hashlib.blake2b(os.fsencode(os.path.abspath(root)), digest_size=8).hexdigest()
    return [Path(root, ".simclr_cache", name), Path(cache, "simclr", mine, name)]


def open_store(
    items: Sequence[Item], size: int, resize: str, stems: Sequence[Path], key: str, workers: int | None = None
) -> Store:
    """The store of `items`: the one made before under this key, else decoded now and written at the first stem it can.

    Decoding runs in `workers` threads (None: one a core) under a progress bar. Opening reads the file once, for its
    checksum (some 4 GB/s from memory). Several processes may open one store at once, and make it: the last one stays.

    Warns where a store was damaged, and where none could be written (it is then in memory).
    """
    for stem in stems:
        if (store := _read(stem, key)) is not None:
            return store
    fill = partial(_decode_all, items, size, resize, workers or os.cpu_count() or 1)
    stem, file = _create(stems)
    if file is not None:
        return _write(fill, (len(items), 3, size, size), stem, file, key)
    if stems:
        places = " or ".join(str(stem.parent) for stem in stems)
        warnings.warn(f"no cache can be written in {places}: images are decoded at every start", stacklevel=4)
    memory = io.BytesIO()
    _, unreadable = fill(memory)
    return Store(np.frombuffer(memory.getbuffer(), np.uint8).reshape(-1, 3, size, size), unreadable)


def _read(stem: Path, key: str) -> Store | None:
    try:
        note = json.loads(Path(f"{stem}.json").read_text())
        checksum = note.pop("checksum")
        if note["key"] != key:
            return None
        store = _map(stem, note)
        if _checksum(note, zlib.crc32(store.images)) != checksum:
            raise ValueError("its checksum differs")
        return store
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(f"the cache {stem}.bin is damaged ({error}) and is made again", stacklevel=5)
        return None


def _map(stem: Path, note: dict) -> Store:
    # copy-on-write: torch takes only writable memory, and nothing that is written there reaches the file
    return Store(np.memmap(f"{stem}.bin", np.uint8, mode="c").reshape(note["shape"]), dict(note["unreadable"]))


def _checksum(note: dict, crc: int) -> int:
    return zlib.crc32(json.dumps(note).encode(), crc)


def _create(stems: Iterable[Path]) -> tuple[Path, BinaryIO] | tuple[None, None]:
    for stem in stems:
        with suppress(OSError):  # read-only, or not ours: the next may do
            stem.parent.mkdir(parents=True, exist_ok=True)
            return stem, open(f"{stem}.{uuid4().hex}.tmp", "xb")
    return None, None


def _write(fill: partial, shape: tuple[int, int, int, int], stem: Path, file: BinaryIO, key: str) -> Store:
    try:
        with file:
            crc, unreadable = fill(file)
        readable = shape[0] - len(unreadable)
        if not readable:
            return Store(np.empty((0, *shape[1:]), np.uint8), unreadable)
        note = {"key": key, "shape": [readable, *shape[1:]], "unreadable": list(map(list, unreadable.items()))}
        Path(f"{file.name}.json").write_text(json.dumps(note | {"checksum": _checksum(note, crc)}))
        os.replace(file.name, f"{stem}.bin")
        os.replace(f"{file.name}.json", f"{stem}.json")  # last: until then the old note is another key's, or absent
        return _map(stem, note)
    finally:
        Path(file.name).unlink(missing_ok=True)


def _decode_all(
    items: Sequence[Item], size: int, resize: str, workers: int, sink: BinaryIO
) -> tuple[int, dict[int, str]]:
    """Write what can be read to `sink`, in order; the checksum of that, and why the others could not, by position."""
    crc, unreadable = 0, {}
    starts = range(0, len(items), RUN)
    runs = (items[start : start + RUN] for start in starts)
    with ThreadPoolExecutor(workers) as pool, progress_bar(len(items), "decoding", "images") as bar:
        decoded = _in_order(pool, partial(_decode_run, size=size, resize=resize), runs, ahead=2 * workers)
        for start, run in zip(starts, decoded, strict=True):
            unreadable |= {start + i: image for i, image in enumerate(run) if isinstance(image, str)}
            pixels = b"".join(image.tobytes() for image in run if not isinstance(image, str))
            crc = zlib.crc32(pixels, crc)
            sink.write(pixels)
            bar.update(len(run))
    return crc, unreadable


def _in_order(pool: ThreadPoolExecutor, function: partial, runs: Iterable, ahead: int) -> Iterator[list]:
    # pool.map would start them all, and hold what is done until a slow disk has caught up
    waiting = deque()
    for run in runs:
        waiting.append(pool.submit(function, run))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _decode_run(run: Iterable[Item], size: int, resize: str) -> list[np.ndarray | str]:
    return [decode_or_reason(item, size, resize) for item in run]


def decode_or_reason(item: Item, size: int, resize: str) -> np.ndarray | str:
    """What `decode` gives, or why it gives nothing."""
    try:
        return decode(item, size, resize)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds on a damaged file, SyntaxError and struct.error among them
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.EACCES):
            raise  # the machine's trouble (too many open files, a failing disk): not to be remembered as the file's
        return f"{type(error).__name__}: {error}"
