"""What the exact large batch costs in memory, measured in fresh processes, and 03 at its full size. Times are in
benchmarks/micro_batch.py."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from simclr_lib import Run

ROOT = Path(__file__).parents[1]


def peak(batch: int, micro_batch: int, *options: str) -> float:
    """MB, of a process that takes a step with ResNet-18, imports included."""
    command = [sys.executable, ROOT / "benchmarks/memory.py", "--batch", batch, "--micro-batch", micro_batch, *options]
    return float(subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.child
def test_a_step_in_micro_batches_takes_the_memory_of_one_of_them():
    one, parts, whole = peak(16, 16), peak(64, 16), peak(64, 64)
    print(f"ResNet-18: batch 16 {one:.0f} MB; batch 64 by 16 {parts:.0f} MB, whole {whole:.0f} MB")
    assert parts <= 1.3 * one
    assert whole > 1.3 * one  # else the bound would say nothing


@pytest.mark.slow
def test_batch_2048_by_64_takes_at_most_1_3_times_the_memory_of_batch_64():
    one, parts = peak(64, 64), peak(2048, 64)
    print(f"ResNet-18: batch 64 {one:.0f} MB; batch 2,048 by 64 {parts:.0f} MB, {parts / one:.2f} times")
    assert parts <= 1.3 * one


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batch_2048_by_64_on_a_gpu():
    assert peak(2048, 64, "--device", "cuda") <= 1.3 * peak(64, 64, "--device", "cuda")


@pytest.mark.slow
@pytest.mark.parametrize("case", [("convnet", None), ("resnet18", 4096)])
def test_03_trains_at_batch_2048_on_two_cores(tmp_path, unpack_cifar10, case):
    unpack_cifar10(tmp_path / "data", "train", 5000, 10)
    unpack_cifar10(tmp_path / "data", "test", 1000, 10)
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    arch, limit = case
    small = ["-p", "arch", arch, "-p", "epochs", "1", *(["-p", "limit_images", str(limit)] if limit else [])]
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "notebooks/03_cifar10.ipynb", "out.ipynb"]
    done = subprocess.run([*command, *small], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (run_dir,) = (tmp_path / "runs").iterdir()
    run = Run.open(run_dir)
    assert run.config.batch_size == 2048
    assert run.environment["sessions"][0]["micro_batch_size"] == 64
    assert len(run.metrics()) == (limit or 50_000) // 2048
    print(f"03 with {arch}: an epoch in {run.metrics('epoch')[0]['seconds']:.0f} s")
