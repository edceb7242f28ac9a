"""How long does it take to list a folder of many files? Ours, beside torchvision's ImageFolder.

    python benchmarks/listing.py        # three minutes, most of which makes and removes the files

Empty files in class folders: neither opens them, or asks for more than their names and kinds. Both take turns in each
repeat; the median is reported, the slowest in brackets. What has just been written is in memory: this is the cost of
the listing, not that of a disk. Ours also tells what it leaves out, follows links but not for ever, and looks for
splits; "checked" adds the size and time of every file, by which a cache of decoded images is known to be current.
"""

import importlib.metadata
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from torchvision.datasets import ImageFolder

from simclr_lib.data.layouts import list_images
from simclr_lib.data.store import fingerprint
from simclr_lib.engine.environment import processor

SETTINGS = ((1000, 200), (5000, 1), (5000, 40), (10, 20_000))  # class folders, files in each
REPEATS = 5


def write_files(root: Path, folders: int, files: int) -> None:
    for folder in range(folders):
        (root / f"class{folder:05}").mkdir(parents=True)
        for file in range(files):
            (root / f"class{folder:05}" / f"IMG_{file:06}.jpg").touch()


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def report(root: str, folders: int, files: int) -> None:
    """The rows of one setting."""
    items = list_images("folder", "all", root).items
    assert items == [path for path, _ in ImageFolder(root).samples]
    contenders = {
        "ours": lambda: list_images("folder", "all", root),
        "ours, checked": lambda: fingerprint(list_images("folder", "all", root).items, root),
        "torchvision": lambda: ImageFolder(root),
    }
    measured = {name: [] for name in contenders}
    for _ in range(REPEATS):
        for name, function in contenders.items():
            measured[name].append(seconds(function))
    peer = statistics.median(measured["torchvision"])
    for name, values in measured.items():
        median = statistics.median(values)
        what = f"{folders * files:,} files in {folders:,} folders"
        print(f"| {what} | {name} | {median:.2f} ({max(values):.2f}) | {median / peer:.2f} |", flush=True)


def main() -> None:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torchvision"))
    print(f"{processor()}, {os.cpu_count()} cores; {versions}. Median of {REPEATS} repeats in turns (slowest).\n")
    print("| files | by | s | to torchvision |\n|---|---|---|---|")
    for folders, files in SETTINGS:
        with tempfile.TemporaryDirectory() as root:
            write_files(Path(root), folders, files)
            report(root, folders, files)


if __name__ == "__main__":
    main()
