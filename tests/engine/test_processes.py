"""Several gloo processes beside one: the gather and its gradient by hand, and one effective batch over 2 and 3."""

import time
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from references import (
    BATCH,
    CASES,
    largest_error,
    lars_weights,
    over_processes,
    relative_errors,
    step_gradients,
)
from torch import Tensor

from simclr_lib.engine.processes import (
    collect,
    from_first,
    gather,
    local_rank,
    one_after_the_other,
    own_part,
    rank,
    require_alike,
    sum_over_processes,
    world_size,
)

pytestmark = pytest.mark.child
BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-4}
SPLITS = (None, 4)  # each process whole; and in micro-batches, the last of them uneven with 2 processes
PRECISE = (torch.float64,)
ROUGHLY = [pytest.param((processes, (torch.float32,)), marks=pytest.mark.slow) for processes in (2, 3)]


@pytest.fixture(scope="module", params=["fixed", pytest.param("fresh", marks=pytest.mark.slow)])
def seed(request: pytest.FixtureRequest) -> int:
    return 0 if request.param == "fixed" else torch.seed() % 2**31


def step_options(case: str, seed: int, dtype: torch.dtype) -> dict:
    """In float32 the seed is 0: a rare one has a ReLU at its very kink, where rounding decides."""
    return dict(case=case, seed=seed if dtype == torch.float64 else 0, dtype=dtype)


@pytest.fixture(scope="module", params=[(2, PRECISE), (3, PRECISE), *ROUGHLY])
def found(request: pytest.FixtureRequest, seed: int, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, list]:
    """What was asked -> what each process answered. All is asked in one start, which takes longer than an answer."""
    processes, dtypes = request.param
    calls = {
        ("step", case, dtype, size): step_options(case, seed, dtype) | {"micro_batch_size": size}
        for case in CASES
        for dtype in dtypes
        for size in SPLITS
    }
    calls |= {("lars", size): step_options("convnet", 0, torch.float64) | {"micro_batch_size": size} for size in SPLITS}
    calls |= {"gathered": dict(seed=seed), "words": dict(text="I am"), "uneven": {}, "control": dict(seed=seed)}
    calls["turns"] = dict(folder=str(tmp_path_factory.mktemp("turns")))
    results = over_processes(processes, answer, [dict(key=key, options=calls[key]) for key in calls])
    return {key: [process[i] for process in results] for i, key in enumerate(calls)}


def answer(key: str | tuple, options: dict) -> Any:
    """In each process."""
    functions = {"step": step_gradients, "lars": lars_weights, "gathered": gathered, "words": words, "uneven": uneven}
    functions |= {"turns": turns, "control": with_local_negatives_only}
    return functions[key if isinstance(key, str) else key[0]](**options)


@cache
def whole(case: str, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Of one process."""
    return step_gradients(**step_options(case, seed, dtype))


@cache
def whole_lars() -> dict[str, Tensor]:
    return lars_weights("convnet", 0, torch.float64)


@pytest.mark.parametrize("case", CASES)
def test_every_process_has_the_loss_and_gradient_of_the_whole_batch(found, seed, case):
    steps = {key[1:]: processes for key, processes in found.items() if key[:2] == ("step", case)}
    assert len(steps) >= len(SPLITS)
    for (_, dtype, size), processes in steps.items():
        for process in processes:
            assert largest_error(process, whole(case, seed, dtype)) <= BOUNDS[dtype], (seed, dtype, size)


def test_all_processes_have_the_same_bits(found):
    for key, (first, *others) in found.items():
        if key[0] == "step":
            assert all(torch.equal(first[name], other[name]) for other in others for name in first), key


@pytest.mark.parametrize("size", SPLITS)
def test_ten_steps_with_lars_over_processes_lead_to_the_weights_of_one(found, size):
    for process in found["lars", size]:
        assert largest_error(process, whole_lars()) <= 1e-8


def with_local_negatives_only(seed: int) -> dict[str, Tensor]:
    """The control: a gather without its gradient, as torch.distributed's is."""

    def without_gradient(z: Tensor) -> Tensor:
        rows = gather(z.detach()).clone()
        rows[own_part(len(rows))] = z
        return rows

    with mock.patch("simclr_lib.step.gather", without_gradient):
        return step_gradients("convnet", seed, torch.float64)


def test_a_gather_without_its_gradient_is_the_control_that_differs(found, seed):
    for process in found["control"]:
        errors = relative_errors(process, whole("convnet", seed, torch.float64))
        assert errors.pop("loss") <= 1e-10  # which is why nobody notices
        assert min(errors.values()) > 1e-2, f"seed {seed}"


def rows_and_weights(seed: int) -> tuple[Tensor, Tensor]:
    """z of a batch of 6, and how the loss of each of at most 3 processes weighs it."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 3, generator=generator), torch.randn(3, 6, 3, generator=generator)


def gathered(seed: int) -> tuple[Tensor, Tensor]:
    """A process's gathered rows, and its gradient of a loss that weighs all rows by the process's own weights."""
    z, weights = rows_and_weights(seed)
    own = z[own_part(6)].clone().T.contiguous().T.requires_grad_()  # rows that do not lie one after the other
    rows = gather(own)
    (rows * weights[rank()]).sum().backward()
    return rows.detach(), own.grad


def test_the_gather_is_in_order_of_rank_and_its_gradient_sums_over_the_processes(found, seed):
    z, weights = rows_and_weights(seed)
    processes = found["gathered"]
    for number, (rows, gradient) in enumerate(processes):
        assert torch.equal(rows, z)
        own = slice(number * 6 // len(processes), (number + 1) * 6 // len(processes))
        torch.testing.assert_close(gradient, weights[: len(processes)].sum(dim=0)[own])


def words(text: str) -> tuple:
    """What the processes tell each other."""
    try:
        require_alike("answer", f"{text} {rank() // 2}")
        refusal = ""
    except ValueError as error:
        refusal = str(error)
    value = torch.tensor([1.0, 10.0]) * (rank() + 1)
    return from_first(f"{text} {rank()}"), collect(rank()), sum_over_processes(value), value, refusal


def test_processes_tell_each_other_and_find_out_where_they_differ(found):
    processes = len(found["words"])
    for number, (first, ranks, total, value, refusal) in enumerate(found["words"]):
        assert first == "I am 0"
        assert ranks == list(range(processes))
        assert total.tolist() == ([3, 30] if processes == 2 else [6, 60])
        assert value.tolist() == [number + 1, 10 * (number + 1)]  # the own one stays as it was
        if processes == 2:
            assert refusal == ""
        else:
            assert refusal.startswith("answer: expected the same on all 3 processes")
            assert "process 0: I am 0; process 1: I am 0; process 2: I am 1" in refusal


def uneven() -> list[str]:
    """What is said of batches of 7 images and of 1."""
    refusals = []
    for n in (7, 1):
        with pytest.raises(ValueError, match="batch_size") as error:
            own_part(n)
        refusals.append(str(error.value))
    return refusals


def test_a_batch_that_processes_cannot_share_is_refused_with_one_that_they_can(found):
    processes = len(found["uneven"])
    for seven, one in found["uneven"]:
        assert seven == f"batch_size: expected a multiple of the {processes} processes, got 7; try 6"
        assert one == f"batch_size: expected a multiple of the {processes} processes, got 1; try {processes}"


def turns(folder: str) -> str:
    """The processes whose marks a process finds at its turn; the earlier it is, the longer its turn takes."""
    with one_after_the_other():
        marks = "".join(sorted(path.name for path in Path(folder).iterdir()))
        time.sleep(0.2 * (2 - rank()))
        (Path(folder) / str(rank())).touch()
    return marks


def test_the_first_process_has_done_its_work_before_the_others_begin(found):
    first, *others = found["turns"]
    assert first == ""
    assert all(marks.startswith("0") for marks in others)


def test_a_single_process_is_the_identity():
    z = torch.randn(4, 3, requires_grad=True)
    assert gather(z) is z
    assert own_part(BATCH) == slice(0, BATCH)
    assert (world_size(), rank(), local_rank()) == (1, 0, None)
    assert from_first("a") == "a"
    assert collect("a") == ["a"]
    assert sum_over_processes(z) is z
    require_alike("anything", "a")
    with one_after_the_other():
        pass
