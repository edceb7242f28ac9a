"""How much memory does a training step take? The peak of a fresh process, imports included, by batch and micro-batch.

    python benchmarks/memory.py                                # the table of docs/benchmarks.md, 2 minutes on 2 cores
    python benchmarks/memory.py --batch 2048 --micro-batch 64  # one step: prints its peak in MB

On a GPU (--device cuda) it is the peak of what PyTorch allocated there. ResNet-18 with the CIFAR stem and GroupNorm on
32 x 32 images, LARS, as in 03_cifar10; --arch for another encoder.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from simclr_lib import LARS, Augment, SimCLR, build_encoder, parameter_groups
from simclr_lib.engine.device import keep_freed_memory
from simclr_lib.engine.environment import processor
from simclr_lib.step import simclr_step

CASES = ((64, 64), (256, 64), (2048, 64))  # batch, micro-batch


def peak_of_steps(arch: str, batch: int, micro_batch: int, steps: int, device: str) -> float:
    """MB, of this process or of the GPU."""
    torch.manual_seed(0)
    model = SimCLR(build_encoder(arch, stem="cifar", norm="group", image_size=32))
    model = model.to(device, memory_format=torch.channels_last)
    optimizer = LARS(parameter_groups(model), lr=0.1)
    images = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8, device=device)
    augment, generator = Augment(32, color_strength=0.5, blur=False), torch.Generator()
    with keep_freed_memory(torch.device(device)):  # as training does
        for _ in range(steps):
            simclr_step(model, optimizer, augment, images, generator, 0.5, micro_batch_size=micro_batch)
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_of_this_process()


def peak_of_this_process() -> float:
    """MB. Under Linux not ru_maxrss, which begins with the memory of the process that started this one."""
    if sys.platform == "linux":
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def in_a_fresh_process(batch: int, micro_batch: int, options: argparse.Namespace) -> float:
    """MB, as above."""
    command = [sys.executable, __file__, "--batch", str(batch), "--micro-batch", str(micro_batch)]
    command += ["--arch", options.arch, "--device", options.device, "--steps", str(options.steps)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int)
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=1)
    options = parser.parse_args()
    if options.batch:
        micro_batch = options.micro_batch or options.batch
        print(f"{peak_of_steps(options.arch, options.batch, micro_batch, options.steps, options.device):.0f}")
        return
    print(f"{options.arch}, {options.device}; {processor()}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    print("| batch | micro-batch | peak, MB | to the first | s, start included |\n|---|---|---|---|---|")
    first = None
    for batch, micro_batch in CASES:
        start = time.perf_counter()
        peak = in_a_fresh_process(batch, micro_batch, options)
        first, seconds = first or peak, time.perf_counter() - start
        print(f"| {batch:,} | {micro_batch:,} | {peak:,.0f} | {peak / first:.2f} | {seconds:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
