"""The device by name, the search for what fits on it, and what slows it by mistake."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from simclr_lib.engine import device
from simclr_lib.engine.device import choose_device, largest_that_fits


@pytest.mark.parametrize("number", [None, 0, 3])
def test_a_cpu_is_shared_by_all_processes_of_a_machine(number):
    assert choose_device("cpu", number) == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "number", "expected"), [("auto", None, "cuda"), ("auto", 1, "cuda:1"), ("cuda", 2, "cuda:2")]
)
def test_each_process_of_a_machine_takes_the_gpu_of_its_number(monkeypatch, name, number, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)  # stands for GPUs that this machine may not have
    assert choose_device(name, number) == torch.device(expected)
    with pytest.raises(ValueError, match=r"^processes: expected at most 3.* got 4 or more"):
        choose_device(name, 3)


def test_one_gpu_for_several_processes_is_refused():
    with pytest.raises(ValueError, match=r"^device: expected 'auto' or 'cuda'.* got 'cuda:0'"):
        choose_device("cuda:0", 1)


@pytest.mark.parametrize("name", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_here_is_refused(name):
    with pytest.raises(ValueError, match=f"^device: expected .*auto.* got '{name}'"):
        choose_device(name)


@pytest.mark.parametrize(("n", "limit", "expected"), [(2048, 3000, 2048), (2048, 300, 256), (100, 99, 50), (7, 1, 1)])
def test_the_largest_that_fits_is_found_by_halving(n, limit, expected):
    tried = []

    def attempt(size: int) -> None:
        tried.append(size)
        if size > limit:
            raise torch.OutOfMemoryError("as CUDA says it")

    assert largest_that_fits(n, attempt) == expected
    assert tried[0] == n
    assert tried == sorted(tried, reverse=True)


def test_where_not_even_one_fits_is_refused_and_other_errors_pass():
    def never(size: int) -> None:
        raise torch.OutOfMemoryError

    def wrong(size: int) -> None:
        raise KeyError("another error")

    with pytest.raises(ValueError, match=r"^device: .*memory.* lower image_size"):
        largest_that_fits(64, never)
    with pytest.raises(KeyError, match="another error"):
        largest_that_fits(64, wrong)


def test_cublas_says_it_in_words_of_its_own():
    def attempt(size: int) -> None:
        if size > 10:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")

    assert largest_that_fits(64, attempt) == 8


@pytest.mark.child
@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has the switch")
def test_freed_memory_is_kept_in_training_and_given_back_after_it():
    code = (
        "import torch\n"
        "from simclr_lib.engine.device import keep_freed_memory\n"
        "def resident(): return int(open('/proc/self/status').read().split('VmRSS:')[1].split()[0]) // 1024\n"
        "def use(): [torch.ones(2**22) for _ in range(20)]  # 320 MB\n"
        "def on_the_heap(tensor):\n"
        "    lines = [line.split()[0].split('-') for line in open('/proc/self/maps') if '[heap]' in line]\n"
        "    return any(int(start, 16) <= tensor.data_ptr() < int(end, 16) for start, end in lines)\n"
        "torch.ones(10); before = resident()\n"
        "with keep_freed_memory(torch.device('cpu')):\n"
        "    use(); inside, kept = resident(), on_the_heap(torch.empty(2**24))\n"
        "after = resident()\n"
        "print(inside - before, after - before, int(kept), int(on_the_heap(torch.empty(2**28))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    inside, after, kept_inside, kept_after = map(int, done.stdout.split())
    assert inside > 250
    assert after < 60
    # 1 GB is more than lay on the heap, so no hole there can take it: it is mapped, and unmapped when it is freed
    assert kept_inside
    assert not kept_after


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines = []
    monkeypatch.setattr(device, "say_once", lines.append)
    monkeypatch.setattr(device, "cpu_count", lambda: 4)
    return lines


@pytest.mark.parametrize(
    ("processes", "threads", "kind", "remedy"),
    [
        (1, 4, "cpu", None),
        (2, 2, "cpu", None),
        (4, 4, "cuda", None),
        (2, 4, "cpu", "set OMP_NUM_THREADS=2 before"),
        (1, 8, "cpu", "set OMP_NUM_THREADS=4 before"),
        (8, 1, "cpu", "lower processes to 4"),
    ],
)
def test_more_threads_than_cores_are_said_with_what_to_set(said, monkeypatch, processes, threads, kind, remedy):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    device.say_what_slows(torch.device(kind), "float32", processes)
    assert len(said) == (remedy is not None)
    assert all(f"{processes} x {threads} threads on 4 cores" in line for line in said)
    assert all(remedy in line for line in said)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("flags", ["flags : sse avx512_bf16", "flags : sse avx2", None])
def test_bfloat16_without_its_instructions_is_said(said, monkeypatch, tmp_path, kind, flags):
    if flags:
        (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(device, "Path", lambda name: tmp_path / Path(name).name)
    device.say_what_slows(torch.device(kind), "bfloat16", 1)
    assert len(said) == (kind == "cpu" and flags == "flags : sse avx2")
    device.say_what_slows(torch.device(kind), "float32", 1)
    assert len(said) <= 1
