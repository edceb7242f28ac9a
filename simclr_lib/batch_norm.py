"""BatchNorm where a batch comes in parts: replaced by GroupNorm, or its running statistics moved once a step.

A BatchNorm sees the micro-batch, not the batch, so its gradient under micro-batches is not that of the whole batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def replace_batch_norm(module: nn.Module, groups: int = 32) -> nn.Module:
    """Put GroupNorm(`groups`) where `module` has a BatchNorm, in place, and return it (itself replaced if it is one).

    GroupNorm has no statistics over the batch, so micro-batches and processes give the gradient of the whole batch.

    Raises:
        ValueError: where the channels of a BatchNorm cannot be split into `groups`.
    """
    if isinstance(module, _BatchNorm):
        if module.num_features % groups:
            raise ValueError(
                f"expected channels divisible by {groups} groups, got a BatchNorm over {module.num_features}; "
                "keep norm='batch' or change the width"
            )
        return nn.GroupNorm(groups, module.num_features, eps=module.eps)
    for name, child in module.named_children():
        setattr(module, name, replace_batch_norm(child, groups))
    return module


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The layers of `model` that normalise over the batch."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def one_move_of_statistics(model: nn.Module) -> Iterator[None]:
    """Let what runs inside, however often it passes the model, move its running statistics once, by their momentum.

    They move towards the mean over the passes. The two passes of a micro-batched step see the same micro-batches, so
    that it is the mean over these; a layer without statistics, or in eval mode, is left alone.
    """
    layers = [layer for layer in batch_norms(model) if layer.training and layer.track_running_stats]
    before = [(layer.momentum, *(buffer.clone() for buffer in layer.buffers())) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # PyTorch's word for the mean over all passes since the reset
    moved = False
    try:
        yield
        moved = True
    finally:
        for layer, (momentum, mean, variance, steps) in zip(layers, before, strict=True):
            layer.momentum = momentum
            weight = 0 if not moved else 1 / (steps + 1) if momentum is None else momentum
            layer.running_mean.copy_(mean.lerp(layer.running_mean, weight))
            layer.running_var.copy_(variance.lerp(layer.running_var, weight))
            layer.num_batches_tracked.copy_(steps + moved)
