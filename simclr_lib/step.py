"""One optimizer step of SimCLR (the paper's algorithm 1) over one effective batch, however it is split.

The batch may be split in memory, into micro-batches, by gradient caching (Gao et al. 2021, arXiv:2101.06983); over
processes; or both. Loss and gradient are always those of the whole batch at once.

Shapes: N images of the batch, n of this process, m of a micro-batch, S x S pixels of a view, P projection dimensions.
"""

from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from simclr_lib.augment import Augment
from simclr_lib.engine.checks import require
from simclr_lib.engine.processes import gather, own_part, sum_gradients, sum_over_processes, world_size
from simclr_lib.layers import dropout_seeds, one_move_of_statistics
from simclr_lib.loss import nt_xent


def simclr_step(
    model: nn.Module,
    optimizer: Optimizer,
    augment: Augment,
    images: Tensor,
    generator: torch.Generator,
    temperature: float,
    precision: str = "float32",
    micro_batch_size: int | None = None,
) -> Tensor:
    """Train on one batch and return its loss, a scalar.

    The split does not matter if every layer treats each image by itself. BatchNorm does not: it normalises over a
    micro-batch. The dropout of `simclr_lib.layers` does, because each view has a seed.

    Args:
        images: (n, 3, H, W) uint8, or float32 or float64 in [0, 1], on the model's device: this process's part of
            the batch, of the same size in every process.
        generator: on the CPU, in the same state in every process; views and dropout follow from it.
        precision: with "bfloat16" the forward pass runs under autocast; the loss is computed in float32 all the same.
        micro_batch_size: images of this process in memory at a time, two views each; None, or at least n: all.

    Raises:
        ValueError: for no images, a `micro_batch_size` below 1, or a model and images that are not on one device.
    """
    _check(model, images, micro_batch_size)
    n, size = len(images), micro_batch_size or len(images)
    own = own_part(n * world_size())
    draws = augment.draw(2 * n * world_size(), generator)  # of the batch's first views, then of its second ones
    seeds = torch.randint(2**63 - 1, (len(draws),), generator=generator)  # of the dropout in each view
    index = torch.arange(len(draws)).view(2, -1)[:, own]  # (2, n), where this process's views are among them

    def project(images: Tensor, index: Tensor) -> Tensor:  # (m, 3, H, W), (2, m) -> (2, m, P)
        views = augment.apply(torch.cat([images, images]), draws[index.flatten()])  # (2m, 3, S, S)
        half = torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
        with half, dropout_seeds(model, seeds[index.flatten()]):
            z = model(views).unflatten(0, (2, -1))
        return z.to(torch.promote_types(z.dtype, torch.float32))  # so that no gradient is summed in half precision

    whole = size >= n
    # A checkpoint is gradient caching: the first pass keeps only z. Once the loss has its gradient with respect to z,
    # each micro-batch is embedded again, with its graph and the same random numbers, and its part of that gradient
    # goes back through it.
    project_part = project if whole else partial(checkpoint, project, use_reentrant=False)
    parts = zip(images.split(size), index.split(size, dim=1), strict=True)
    optimizer.zero_grad()
    with nullcontext() if whole else one_move_of_statistics(model):
        z_a, z_b = torch.cat([project_part(*part) for part in parts], dim=1)  # (n, P) each
        loss = nt_xent(gather(z_a), gather(z_b), temperature, anchors=own)
        loss.backward()
    sum_gradients(model)
    loss = sum_over_processes(loss.detach())  # before the update, so that no process waits for another in the middle
    optimizer.step()
    return loss


def _check(model: nn.Module, images: Tensor, micro_batch_size: int | None) -> None:
    require(len(images) > 0, "images", "(n, 3, H, W) with n at least 1", tuple(images.shape))
    usable = micro_batch_size is None or micro_batch_size >= 1
    require(usable, "micro_batch_size", "None or at least 1 image at a time", micro_batch_size)
    devices = sorted({str(tensor.device) for tensor in (*model.parameters(), *model.buffers(), images)})
    found = f"{', '.join(devices)} (the images on {images.device})"
    require(len(devices) == 1, "device", "the model and its images on one device", found, "move them with .to(device)")
