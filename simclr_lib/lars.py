"""LARS (You et al. 2017, arXiv:1708.03888) as SimCLR uses it, and the parameter groups that every optimizer takes."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from simclr_lib.engine.checks import require, require_choice


class LARS(Optimizer):
    """Momentum SGD that scales the step of each weight tensor to the norm of that tensor.

    The update is that of google-research/simclr `lars_optimizer.py` (classic momentum):

        g = g + weight_decay * w
        ratio = trust_coefficient * norm(w) / norm(g), or 1 where either norm is zero
        v = momentum * v + lr * ratio * g
        w = w - v

    Parameter groups with `adapt=False` have ratio 1 and no decay, which is plain momentum SGD. `parameter_groups` puts
    biases and normalisation there.

    Args:
        params: tensors or parameter groups.
        lr: learning rate; inside the momentum, so that a new rate applies to new gradients only.
        momentum: in [0, 1).
        weight_decay: times the weight, it is added to the gradient before the norm is taken.
        trust_coefficient: the norm of a step relative to that of its weight, at lr 1 and without momentum.

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
        options = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient)
        for name, value in options.items():
            require(0 <= value < torch.inf, name, "a finite number of at least 0", value)
        require(momentum < 1, "momentum", "a number in [0, 1)", momentum)
        require(trust_coefficient > 0, "trust_coefficient", "a number above 0", trust_coefficient)
        super().__init__(params, options | {"adapt": True})

    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient. Returns the loss that `closure` returns, if there is one."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
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
        state["velocity"].mul_(group["momentum"]).add_(group["lr"] * ratio * gradient)
        weight.sub_(state["velocity"])


def trust_ratio(weight: Tensor, gradient: Tensor, trust_coefficient: float) -> Tensor:
    """trust_coefficient * norm(weight) / norm(gradient), a scalar tensor; 1 where either norm is zero.

    Without that exception, a weight that starts at zero would never move.
    """
    weight_norm, gradient_norm = weight.norm(), gradient.norm()
    usable = (weight_norm > 0) & (gradient_norm > 0)  # stays a tensor, so that nothing waits for a GPU
    return torch.where(usable, trust_coefficient * weight_norm / gradient_norm, 1.0)


def parameter_groups(model: nn.Module) -> list[dict]:
    """The trainable parameters of `model` in two groups: weights, and those that are neither decayed nor adapted.

    The second are biases and normalisation parameters (all have one dimension), class tokens and position embeddings.
    """
    weights, others = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            excluded = parameter.ndim <= 1 or name.endswith(("class_token", "pos_embedding"))
            (others if excluded else weights).append(parameter)
    return [{"params": weights, "adapt": True}, {"params": others, "adapt": False, "weight_decay": 0.0}]


def build_optimizer(name: str, model: nn.Module, lr: float, momentum: float, weight_decay: float) -> Optimizer:
    """SGD, LARS or AdamW, by name, over the `parameter_groups` of `model`. AdamW has its own betas: no `momentum`.

    Raises ValueError for another name, and where the optimizer itself does.
    """
    require_choice(optimizer=name)
    optimizer = {"sgd": SGD, "lars": LARS, "adamw": AdamW}[name]
    options = {} if name == "adamw" else {"momentum": momentum}
    return optimizer(parameter_groups(model), lr, weight_decay=weight_decay, **options)
