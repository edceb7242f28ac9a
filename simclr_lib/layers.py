"""What layers need when a batch comes in parts: one move of BatchNorm's statistics, and dropout by seed.

BatchNorm normalises over the images that it sees together, which are then a part of the batch. Its running statistics
shall at least move once a step, not once a part. PyTorch's dropout draws the masks of all images from one stream of
random numbers; here each image has a seed.

Shapes: N images.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from simclr_lib.engine.checks import require


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The layers of `model` that normalise over the batch."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def one_move_of_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, each BatchNorm moves its running statistics once, by its momentum, towards the mean over what it sees.

    In a micro-batched step it sees each micro-batch twice, so that this is the mean over the micro-batches. Layers
    without statistics and layers in eval mode are left alone. After an error the statistics are as before.
    """
    layers = [layer for layer in batch_norms(model) if layer.training and layer.track_running_stats]
    before = [(layer.momentum, *(buffer.clone() for buffer in layer.buffers())) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # to PyTorch this means: the mean over all batches since the reset
    try:
        yield
        for layer, (momentum, mean, variance, steps) in zip(layers, before, strict=True):
            weight = 1 / (steps + 1) if momentum is None else momentum
            mean.lerp_(layer.running_mean, weight)
            variance.lerp_(layer.running_var, weight)
            steps.add_(1)
    finally:
        for layer, values in zip(layers, before, strict=True):
            layer.momentum, layer.running_mean, layer.running_var, layer.num_batches_tracked = values


class Dropout(nn.Dropout):
    """PyTorch's dropout, and inside `dropout_seeds` one whose masks follow from a seed per image."""

    generators: list[torch.Generator] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, ...). Raises ValueError unless there is one seed per image."""
        if not self.training or self.generators is None:
            return super().forward(x)
        require(len(self.generators) == len(x), "seeds", f"one for each of {len(x)} images", len(self.generators))
        # Drawn in float32 whatever x is, so that all precisions drop the same units.
        u = torch.stack([torch.rand(x.shape[1:], generator=of_image, device=x.device) for of_image in self.generators])
        return x * (u >= self.p) / (1 - self.p)


def replace_dropout(module: nn.Module) -> nn.Module:
    """Put `Dropout` where `module` has PyTorch's layer, in place, and return it."""
    for name, child in module.named_children():
        setattr(module, name, Dropout(child.p) if type(child) is nn.Dropout else replace_dropout(child))
    return module


@contextmanager
def dropout_seeds(model: nn.Module, seeds: Tensor) -> Iterator[None]:
    """Inside, the dropout masks of image i of a batch follow from seeds[i]; `seeds` (N,) int64, for one forward pass.

    Each image has a generator, from which all layers draw in turn.
    """
    layers = [module for module in model.modules() if isinstance(module, Dropout) and module.p > 0]
    device = next(model.parameters()).device
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds.tolist()] if layers else []
    try:
        for layer in layers:
            layer.generators = generators
        yield
    finally:
        for layer in layers:
            layer.generators = None
