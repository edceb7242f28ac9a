"""LARS (You et al. 2017, arXiv 1708.03888) as SimCLR uses it, and the parameter groups of every optimizer here."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class LARS(Optimizer):
    """Momentum SGD whose step on each weight is scaled to the weight's own norm.

    The update is that of google-research/simclr `lars_optimizer.py` (classic momentum):

        g = g + weight_decay * w
        ratio = trust_coefficient * norm(w) / norm(g), or 1 where either norm is zero
        v = momentum * v + lr * ratio * g
        w = w - v

    Parameter groups with `adapt=False` take ratio 1 and no decay: plain momentum SGD. `parameter_groups` puts
    biases and normalisation there; started at zero, a bias could otherwise never move.

    Args:
        params: tensors or parameter groups.
        lr: the learning rate; it sits inside the momentum, so a change of rate takes effect with the next gradient.
        momentum: in [0, 1).
        weight_decay: added to the gradient, before its norm is taken.
        trust_coefficient: the norm of a step over that of its weight, at lr 1 and without momentum.

    Raises:
        ValueError: for values outside these ranges.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust_coefficient: float = 1e-3,
    ) -> None:
        finite = all(math.isfinite(value) for value in (lr, momentum, weight_decay, trust_coefficient))
        if not finite or lr < 0 or weight_decay < 0 or trust_coefficient <= 0 or not 0 <= momentum < 1:
            raise ValueError(
                "expected lr >= 0, 0 <= momentum < 1, weight_decay >= 0 and trust_coefficient > 0, "
                f"got {lr}, {momentum}, {weight_decay} and {trust_coefficient}"
            )
        defaults = dict(
            lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient, adapt=True
        )
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient; returns what `closure`, if given, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)
        return loss

    def _update(self, weight: Tensor, gradient: Tensor, group: dict) -> None:
        ratio = 1.0
        if group["adapt"]:
            gradient = gradient + group["weight_decay"] * weight
            ratio = trust_ratio(weight, gradient, group["trust_coefficient"])
        state = self.state[weight]
        if not state:
            state["velocity"] = torch.zeros_like(weight)
        velocity = state["velocity"]
        velocity.mul_(group["momentum"]).add_(group["lr"] * ratio * gradient)
        weight.sub_(velocity)


def trust_ratio(weight: Tensor, gradient: Tensor, trust_coefficient: float) -> Tensor:
    """trust_coefficient * norm(weight) / norm(gradient), a scalar tensor; 1 where either norm is zero."""
    weight_norm, gradient_norm = weight.norm(), gradient.norm()
    usable = (weight_norm > 0) & (gradient_norm > 0)  # a tensor: no wait for the GPU here
    return torch.where(usable, trust_coefficient * weight_norm / gradient_norm, 1.0)


def parameter_groups(model: nn.Module) -> list[dict]:
    """The trainable parameters of `model` in two groups, for LARS, SGD and AdamW alike.

    Biases and normalisation weights (all of them have one dimension), class tokens and position embeddings are
    neither decayed nor adapted; the weights of convolutions and linear layers are both.
    """
    weights, others = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            excluded = parameter.ndim <= 1 or name.endswith(("class_token", "pos_embedding"))
            (others if excluded else weights).append(parameter)
    return [
        {"params": weights, "adapt": True},
        {"params": others, "adapt": False, "weight_decay": 0.0},
    ]
