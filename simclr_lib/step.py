"""One optimizer step of SimCLR (the paper's algorithm 1)."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from simclr_lib.augment import Augment
from simclr_lib.loss import nt_xent


def simclr_step(
    model: nn.Module,
    optimizer: Optimizer,
    augment: Augment,
    images: Tensor,
    generator: torch.Generator,
    temperature: float,
    precision: str = "float32",
) -> Tensor:
    """Train on one batch, images (N, 3, H, W) uint8 on the model's device, and return its loss, a scalar.

    All randomness of the views comes from `generator` (on the CPU). With `precision="bfloat16"` the forward pass
    runs under autocast; the loss is float32 all the same.
    """
    view_a, view_b = augment(images, generator), augment(images, generator)  # (N, 3, S, S) each
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        z_a, z_b = model(torch.cat([view_a, view_b])).chunk(2)  # (N, P) each
    loss = nt_xent(z_a, z_b, temperature)

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()
