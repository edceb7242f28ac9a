"""The device that computes: which it is, and what fits on it."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from joblib import cpu_count  # of this process: a scheduler or a container may have fewer for it than the machine has

from simclr_lib.engine.checks import require
from simclr_lib.engine.progress import say_once


def choose_device(name: str, number: int | None = None) -> torch.device:
    """The device called `name`; "auto" is the GPU if there is one. Where several processes of a machine train as one,
    `number` says which this is: it takes the GPU of that number.

    Raises:
        ValueError: for a device that is not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    require(not number or ":" not in name, "device", "'auto' or 'cuda' with several processes", repr(name))
    if name == "cuda" and number is not None:
        gpus, remedy = torch.cuda.device_count(), "lower processes, or use device='cpu'"
        require(number < gpus, "processes", f"at most {gpus}, one for each GPU", f"{number + 1} or more", remedy)
        name = f"cuda:{number}"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: expected auto, cpu, cuda or another of this machine, got {name!r}") from error
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"


def say_what_slows(device: torch.device, precision: str, processes: int) -> None:
    """Say what makes training on a CPU slow by mistake, and what to set."""
    threads, cores, flags = torch.get_num_threads(), cpu_count(), Path("/proc/cpuinfo")
    if device.type == "cpu" and processes * threads > cores:
        found = f"{processes} x {threads} threads on {cores} cores slow each other, up to tenfold"
        fewer = f"set OMP_NUM_THREADS={cores // processes} before Python starts"
        say_once(f"{found}: {fewer if processes <= cores else f'lower processes to {cores}'}")
    if device.type == "cpu" and precision == "bfloat16" and flags.exists() and "bf16" not in flags.read_text():
        say_once("precision='bfloat16': this CPU has no instructions for it, float32 is some six times as fast here")


def largest_that_fits(n: int, attempt: Callable[[int], None]) -> int:
    """The largest of n, n / 2, n / 4, ..., rounded up, images that `attempt` can take without running out of memory.

    Raises:
        ValueError: where not even one image fits.
    """
    while True:
        try:
            attempt(n)
            return n
        except RuntimeError as error:  # cuBLAS and cuDNN have words of their own for it
            if not isinstance(error, torch.OutOfMemoryError) and "ALLOC_FAILED" not in str(error):
                raise
        torch.cuda.empty_cache()  # here, where the error no longer holds what was allocated
        require(n > 1, "device", "one whose memory takes an image", "less", "lower image_size, or take another arch")
        n = (n + 1) // 2


@contextmanager
def keep_freed_memory(device: torch.device) -> Iterator[None]:
    """Have a process that trains on a CPU under Linux keep, inside, the memory of tensors that it freed.

    glibc hands every large tensor back to the system and faults it in again, step after step. Seen on 2 cores:
    579 images/s as it comes, 1,120 with this. Only inside, as training frees the same sizes over and over: an
    evaluation, whose sizes vary, was seen to leave holes until 21 GB were taken. On leaving, all that is free goes back
    to the system. Memory on the heap that a later tensor takes and frees may stay with the process: at most as much as
    training took.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" and device.type == "cpu" else None
    if not hasattr(libc, "mallopt"):  # musl has none
        yield
        return
    m_trim_threshold, m_mmap_max = -1, -4
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(m_mmap_max, 65536)  # what glibc starts with, though its mmap threshold no longer grows by itself
        libc.mallopt(m_trim_threshold, 128 * 1024)
        libc.malloc_trim(0)
