"""Several processes that train as one: who is who, a gather that carries the gradient, sums.

torchrun starts the processes and says in the environment who they are. In a single process all of this is the
identity. n images of each process, N of all of them, P projection dimensions.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import record

from simclr_lib.engine.checks import require
from simclr_lib.engine.progress import CALLER

launched = dist.is_torchelastic_launched  # whether this process is one of those that torchrun started


def world_size() -> int:
    """The number of processes that train as one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them. Process 0 writes; the others are silent."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int | None:
    """This process's number on its machine, which is also its GPU's; None where it is on its own."""
    return int(os.environ["LOCAL_RANK"]) if launched() else None


def as_launched(function: Callable) -> Callable:
    """`function` for a process that torchrun started.

    What it raises is left, with its traceback, where torchrun looks for the reason of an end. And this process ends
    within seconds of the one that called torchrun, however that ends: torchrun's processes have sessions of their own,
    which the end of a notebook's kernel or of a terminal does not reach.
    """
    if os.name == "posix" and (caller := os.environ.get(CALLER)):
        threading.Thread(target=_end_after, args=(int(caller),), daemon=True).start()
    return record(function)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, by nccl between GPUs and gloo between CPUs; on its own, do nothing.

    Raises:
        ValueError: on all processes, if some are on a GPU and some on a CPU.
    """
    if not launched() or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # One process may decode or download for long while the others wait; torchrun, not a timeout, ends what hangs.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(hours=6))
    require_alike("device", device.type)
    yield  # after an error torchrun ends the group; to wait for the others here could be for ever
    dist.destroy_process_group()


def own_part(n: int) -> slice:
    """The rows of a batch of n that are this process's. Raises ValueError where they cannot be split evenly."""
    nearest = n - n % world_size() or world_size()
    require(n % world_size() == 0, "batch_size", f"a multiple of the {world_size()} processes", n, f"try {nearest}")
    each = n // world_size()
    return slice(rank() * each, (rank() + 1) * each)


def gather(z: Tensor) -> Tensor:
    """The rows of all processes, (n, P) -> (N, P), in order of rank; n is the same for all.

    A gradient with respect to a row flows back to the process that it came from, summed over all processes, because
    the loss of each depends on it. torch.distributed.all_gather has no gradient, so that with it alone a process
    would train its own views as if all others were constants.
    """
    if world_size() == 1:
        return z
    rows = z.new_empty(len(z) * world_size(), *z.shape[1:])
    dist.all_gather_into_tensor(rows, z.detach().contiguous())
    rows[own_part(len(rows))] = z  # once more, with its gradient
    if rows.requires_grad:
        rows.register_hook(sum_over_processes)
    return rows


def sum_gradients(model: nn.Module) -> None:
    """Replace each parameter's gradient by its sum over the processes; all are under way at once."""
    if world_size() > 1:
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
            work.wait()


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of the processes' values, on each of them."""
    if world_size() > 1:
        value = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(value)
    return value


def collect(value: Any) -> list:
    """The values of all processes, in order of rank, on each of them; anything that can be pickled."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def from_first(value: Any) -> Any:
    """The value of process 0, on each process; anything that can be pickled."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values)
    return values[0]


def require_alike(what: str, value: Any) -> None:
    """Raises ValueError, on every process, where `value` is not the same on all."""
    values = collect(value)
    listed = "; ".join(f"process {i}: {other}" for i, other in enumerate(values))
    require(all(other == values[0] for other in values), what, f"the same on all {len(values)} processes", listed)


@contextmanager
def one_after_the_other() -> Iterator[None]:
    """Let the first process pass alone, then one of each machine, then all, so that whatever the first ones download
    and cache is there for the others."""
    own_turn = 0 if rank() == 0 else 1 if local_rank() == 0 else 2
    for turn in range(3):
        if turn == own_turn:
            yield
        collect(None)  # returns when all processes are here


def _end_after(process: int) -> None:
    with suppress(psutil.NoSuchProcess):  # it has ended before
        psutil.Process(process).wait()
    os._exit(1)
