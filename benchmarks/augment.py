"""How many images a second become two SimCLR views each? Ours, eager and compiled, beside kornia and lightly.

    python benchmarks/augment.py        # under three minutes

Kornia: the same operations on float batches, one draw an image. Lightly: its SimCLRTransform on PIL images in a
DataLoader of two workers, the images already in memory. All take turns in each repeat, so that what else the machine
does falls on all of them; the median is reported, the fastest repeat in brackets. Warm-up and compilation are excluded.
"""

import importlib.metadata
import os
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from simclr_lib.augment import Augment
from simclr_lib.engine.environment import processor

SETTINGS = ((32, False, 512), (32, True, 512), (96, True, 128))  # side, blur, images a repeat
REPEATS = 7


def ours(size: int, blur: bool, images: Tensor, compile: bool) -> Callable[[], object]:
    """Two views of each image in a call."""
    augment = Augment(size, blur=blur, compile=compile)
    return lambda: (augment(images), augment(images))


def kornia(size: int, blur: bool, images: Tensor) -> Callable[[], object]:
    """As above, from the bytes on: floats in [0, 1] are made inside."""
    import kornia.augmentation as K

    steps = [
        K.RandomResizedCrop((size, size), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        K.RandomGrayscale(p=0.2),
    ]
    side = 2 * (size // 20) + 1
    steps += [K.RandomGaussianBlur((side, side), (0.1, 2.0), p=0.5)] if blur else []
    augment = K.AugmentationSequential(*steps, data_keys=["input"], same_on_batch=False)
    return lambda: (augment(images.float() / 255), augment(images.float() / 255))


class PILViews(Dataset):
    """Views as lightly makes them, an image at a time."""

    def __init__(self, size: int, blur: bool, images: Tensor):
        from lightly.transforms import SimCLRTransform
        from torchvision.transforms.functional import to_pil_image

        self.images = [to_pil_image(image) for image in images]
        self.transform = SimCLRTransform(input_size=size, cj_strength=1.0, gaussian_blur=0.5 if blur else 0.0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(self.images[index])


def lightly(size: int, blur: bool, images: Tensor) -> Callable[[], object]:
    """One pass through the loader; the workers persist, so that only the first pass, a warm-up, starts them."""
    loader = DataLoader(PILViews(size, blur, images), batch_size=64, num_workers=2, persistent_workers=True)
    return lambda: [len(views) for views in loader]


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def rates(size: int, blur: bool, count: int) -> dict[str, list[float]]:
    """Images a second of each contender in each repeat, in turns; a peer that is not installed is left out."""
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    contenders = {
        "ours, eager": ours(size, blur, images, compile=False),
        "ours, colour compiled": ours(size, blur, images, compile=True),
    }
    for name, make in (("kornia", kornia), ("lightly", lightly)):
        if find_spec(name):
            contenders[name] = make(size, blur, images)
    for function in contenders.values():
        function()
        function()
    measured = {name: [] for name in contenders}
    for _ in range(REPEATS):
        for name, function in contenders.items():
            measured[name].append(count / seconds(function))
    return measured


def report(size: int, blur: bool, measured: dict[str, list[float]]) -> None:
    """Rows of the table, one a contender."""
    medians = {name: statistics.median(values) for name, values in measured.items()}
    for name in ("ours, eager", "ours, colour compiled", "kornia", "lightly"):
        what = f"| {size} x {size}, {'blur' if blur else 'no blur'} | {name} |"
        if name not in medians:
            print(what, "skipped: not installed | |")
            continue
        ratio = f"{medians[name] / medians['kornia']:.2f}" if "kornia" in medians else ""
        print(what, f"{medians[name]:,.0f} ({max(measured[name]):,.0f}) | {ratio} |", flush=True)


def load() -> str:
    """Processes that want a core, averaged over the last minute."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def main() -> None:
    torch.manual_seed(0)
    packages = [name for name in ("torch", "torchvision", "kornia", "lightly") if find_spec(name)]
    print(f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads;", end=" ")
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages))
    print(f"Load before the start: {load()}. Median of {REPEATS} repeats in turns (fastest).\n")
    print("| views | by | images/s, two views each | to kornia |\n|---|---|---|---|")
    for size, blur, count in SETTINGS:
        report(size, blur, rates(size, blur, count))
    print(f"\nLoad at the end: {load()}. Where it is well above the cores in use, others' work distorts the figures.")


if __name__ == "__main__":
    main()
