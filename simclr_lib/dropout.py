"""Dropout that does not depend on how a batch is split: each image draws its masks from a seed of its own.

PyTorch's draws the masks of a batch from one stream, so that another split of the batch drops other units.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """PyTorch's dropout; inside `dropout_seeds`, with the masks that those seeds give."""

    generators: list[torch.Generator] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, ...). Raises ValueError where there is not one seed an image."""
        if not self.training or self.generators is None or self.p == 0:
            return super().forward(x)
        if len(self.generators) != len(x):
            raise ValueError(f"dropout: expected a seed an image, got {len(self.generators)} for {len(x)}")
        u = torch.empty(x.shape, device=x.device)  # float32 for every x, so that all precisions drop the same
        for row, generator in zip(u, self.generators, strict=True):
            row.uniform_(generator=generator)
        return x * (u >= self.p) / (1 - self.p)


def replace_dropout(module: nn.Module) -> nn.Module:
    """Put `Dropout` where `module` has PyTorch's, in place, and return it."""
    for name, child in module.named_children():
        setattr(module, name, Dropout(child.p) if type(child) is nn.Dropout else replace_dropout(child))
    return module


@contextmanager
def dropout_seeds(model: nn.Module, seeds: Tensor) -> Iterator[None]:
    """Inside, the masks of image i of a batch follow from seeds[i]; `seeds` (N,) int64.

    The layers of a model draw in turn from the generator of each image, so that one forward pass is one replay.
    """
    layers = [module for module in model.modules() if isinstance(module, Dropout) and module.p > 0]
    if layers:
        device = next(model.parameters()).device
        generators = [torch.Generator(device).manual_seed(seed) for seed in seeds.tolist()]
    try:
        for layer in layers:
            layer.generators = generators
        yield
    finally:
        for layer in layers:
            layer.generators = None
