"""What does the exact large batch cost? Time of a step, whole and in micro-batches, and on a GPU its memory too.

    python benchmarks/micro_batch.py                         # 256 by 64, as in docs/benchmarks.md; 5 minutes on 2 cores
    python benchmarks/micro_batch.py --device cuda --arch resnet50 --batch 2048 --micro-batch 64 128 256 512 1024 2048 \
        --precision bfloat16                                 # on a GPU, where nothing has been measured yet

A micro-batch is embedded twice and differentiated once, so that the bound is 4/3 of the whole step, beside the loss.
Plain accumulation, which trains another loss, stands beside. All take turns in each repeat; medians are reported, of
the times and of their ratios to the whole step of the same turn.
CIFAR stem, GroupNorm, LARS and views as in 03_cifar10.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from simclr_lib import LARS, Augment, SimCLR, build_encoder, nt_xent, parameter_groups
from simclr_lib.engine.device import device_name, keep_freed_memory
from simclr_lib.engine.environment import processor
from simclr_lib.step import simclr_step


class Contest:
    """A model, its optimizer and a batch of random images; one step of each kind."""

    def __init__(self, arch: str, batch: int, device: str, precision: str) -> None:
        torch.manual_seed(0)
        model = SimCLR(build_encoder(arch, stem="cifar", norm="group", image_size=32))
        self.model = model.to(device, memory_format=torch.channels_last)
        self.optimizer = LARS(parameter_groups(self.model), lr=0.1)
        self.images = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8, device=device)
        self.augment, self.generator = Augment(32, color_strength=0.5, blur=False), torch.Generator()
        self.precision = precision

    def exact(self, micro_batch: int) -> Tensor:
        return simclr_step(
            self.model,
            self.optimizer,
            self.augment,
            self.images,
            self.generator,
            temperature=0.5,
            precision=self.precision,
            micro_batch_size=micro_batch,
        )

    def accumulated(self, micro_batch: int) -> None:
        self.optimizer.zero_grad()
        for images in self.images.split(micro_batch):
            views = torch.cat([self.augment(images, self.generator), self.augment(images, self.generator)])
            with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
                z_a, z_b = self.model(views).chunk(2)
            (nt_xent(z_a, z_b, 0.5) * len(images) / len(self.images)).backward()
        self.optimizer.step()


def seconds(step: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def contend(arch: str, options: argparse.Namespace) -> None:
    """Rows of the table for one encoder; a step that does not fit on the GPU says so."""
    contest, batch, device = (
        Contest(arch, options.batch, options.device, options.precision),
        options.batch,
        options.device,
    )
    steps = {"whole": lambda: contest.exact(batch)}
    for size in options.micro_batch:
        steps[f"exact, by {size:,}"] = lambda size=size: contest.exact(size)
    steps["plain accumulation (not exact)"] = lambda: contest.accumulated(options.micro_batch[0])
    peaks, times = {}, {name: [] for name in steps}
    for name, step in list(steps.items()):
        try:
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds(step, device)  # the first one warms up
            peaks[name] = f"{torch.cuda.max_memory_allocated() / 2**20:,.0f}" if device == "cuda" else ""
        except torch.OutOfMemoryError:
            print(f"| {arch} | {name} | out of memory | | | |", flush=True)
            del steps[name]
    for _ in range(options.repeats):
        for name, step in steps.items():
            times[name].append(seconds(step, device))
    medians = {name: statistics.median(times[name]) for name in steps}
    for name, median in medians.items():
        pairs = zip(times[name], times["whole"], strict=True) if "whole" in steps else []
        ratio = f"{statistics.median(pair[0] / pair[1] for pair in pairs):.2f}" if "whole" in steps else ""
        row = f"{median:.2f} ({min(times[name]):.2f} to {max(times[name]):.2f})"
        print(f"| {arch} | {name} | {row} | {batch / median:,.0f} | {ratio} | {peaks[name]} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=["convnet", "resnet18"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--micro-batch", type=int, nargs="+", default=[64])
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    device = device_name(torch.device(options.device))
    print(f"{processor()}, {os.cpu_count()} cores; {device}; torch {torch.__version__}, {options.precision}")
    print(f"Batch {options.batch:,}; median of {options.repeats} steps in turns (fastest to slowest)\n")
    print("| encoder | step | s | images/s | to the whole | peak, MB |\n|---|---|---|---|---|---|")
    with keep_freed_memory(torch.device(options.device)):  # as training does
        for arch in options.arch:
            contend(arch, options)


if __name__ == "__main__":
    main()
