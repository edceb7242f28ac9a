"""One optimizer step of SimCLR (the paper's algorithm 1) over one effective batch, however it is split.

In memory, `micro_batch_size` images at a time, by gradient caching (Gao et al. 2021, arXiv:2101.06983); over processes,
each with its part; or both. Loss and gradient are those of the whole batch at once.

Shapes: n images of this process, N of all, m of a micro-batch, S x S pixels of a view, P projection dimensions.
"""

from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from simclr_lib.augment import Augment
from simclr_lib.batch_norm import one_move_of_statistics
from simclr_lib.distributed import gather, own_part, sum_gradients, sum_over_processes, world_size
from simclr_lib.dropout import dropout_seeds
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

    Exact for a model whose layers treat each image by itself. A BatchNorm does not: it sees a micro-batch. Dropout is
    replayed in the second pass, and that of `simclr_lib.dropout` is the same however the batch is split.

    Args:
        images: (n, 3, H, W) uint8, or float32 or float64 in [0, 1], on the model's device: this process's part of
            the batch, as many as every other's.
        generator: on the CPU; all views and the dropout come from it. In the same state on every process.
        precision: with "bfloat16" the forward pass runs under autocast; the loss is float32 all the same.
        micro_batch_size: images of this process in memory at a time, two views each; None, or n and above: all.

    Raises:
        ValueError: for no images, a `micro_batch_size` below 1, or a model and images that are not on one device.
    """
    _check(model, images, micro_batch_size)
    n, size = len(images), micro_batch_size or len(images)
    parts = [slice(start, start + size) for start in range(0, n, size)]
    own = own_part(n * world_size())
    draws_a = augment.draw(n * world_size(), generator)[own]
    draws_b = augment.draw(n * world_size(), generator)[own]
    seeds = torch.randint(2**63 - 1, (2, n * world_size()), generator=generator)[:, own]  # of each view's dropout

    def project(images: Tensor, rows: slice) -> Tensor:  # (m, 3, H, W) -> (2, m, P)
        views = augment.apply(torch.cat([images, images]), draws_a[rows] + draws_b[rows])  # (2m, 3, S, S)
        half = torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
        with half, dropout_seeds(model, seeds[:, rows].flatten()):
            z = model(views).unflatten(0, (2, -1))
        return z.to(torch.promote_types(z.dtype, torch.float32))  # so that no gradient is summed in half precision

    whole = len(parts) == 1
    # A checkpoint is gradient caching: the first pass keeps only z. Once the loss has its gradient with respect to z,
    # each micro-batch is embedded again, with its graph, and its rows of that gradient go back through it.
    project_part = project if whole else partial(checkpoint, project, use_reentrant=False)
    optimizer.zero_grad()
    with nullcontext() if whole else one_move_of_statistics(model):
        z_a, z_b = torch.cat([project_part(images[rows], rows) for rows in parts], dim=1)  # (n, P) each
        loss = nt_xent(gather(z_a), gather(z_b), temperature, anchors=own)
        loss.backward()
    sum_gradients(model)
    optimizer.step()
    return sum_over_processes(loss.detach())


def _check(model: nn.Module, images: Tensor, micro_batch_size: int | None) -> None:
    if len(images) == 0:
        raise ValueError(f"images: expected (n, 3, H, W) with n at least 1, got {tuple(images.shape)}")
    if micro_batch_size is not None and micro_batch_size < 1:
        raise ValueError(f"micro_batch_size: expected None or at least 1 image at a time, got {micro_batch_size}")
    devices = sorted({str(tensor.device) for tensor in (*model.parameters(), *model.buffers(), images)})
    if len(devices) > 1:
        raise ValueError(
            f"expected the model and its images on one device, got {', '.join(devices)} (the images on {images.device})"
            "; move them with .to(device)"
        )
