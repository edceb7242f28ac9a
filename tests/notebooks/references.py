"""Slow, plain derivations that the tests and 05_numerics hold the library to, and one step split in every way.

N images, P projection dimensions.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torchvision.transforms.v2.functional as TF
from torch import Tensor
from torch.optim import SGD

from simclr_lib.augment import Augment, gaussian_blur
from simclr_lib.data.embedded import generate
from simclr_lib.engine.processes import own_part
from simclr_lib.lars import LARS, parameter_groups
from simclr_lib.layers import dropout_seeds
from simclr_lib.loss import nt_xent
from simclr_lib.model import SimCLR, build_encoder
from simclr_lib.step import simclr_step


def loop_nt_xent(z_a: Tensor, z_b: Tensor, temperature: float) -> Tensor:
    """Equation 1 of the paper, anchor by anchor, numerator and denominator divided by the numerator."""
    z, n = torch.cat([z_a, z_b]), len(z_a)
    total = z.new_zeros(())
    for i in range(2 * n):
        positive = i + n if i < n else i - n
        similarity = [(z[i] @ z[k]) / (z[i].square().sum() * z[k].square().sum()).sqrt() for k in range(2 * n)]
        others = z.new_zeros(())
        for k in range(2 * n):
            if k not in (i, positive):
                others = others + torch.exp((similarity[k] - similarity[positive]) / temperature)
        total = total + torch.log1p(others)
    return total / (2 * n)


def lars_by_hand(
    weight: np.ndarray, velocity: np.ndarray, gradient: np.ndarray, adapt: bool, lr: float, momentum: float,
    weight_decay: float, trust_coefficient: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """One update of google-research/simclr's lars_optimizer.py in NumPy: -> (weight, velocity)."""
    ratio = 1.0
    if adapt:
        gradient = gradient + weight_decay * weight
        norms = np.sqrt((weight**2).sum()), np.sqrt((gradient**2).sum())
        ratio = trust_coefficient * norms[0] / norms[1] if norms[0] > 0 and norms[1] > 0 else 1.0
    velocity = momentum * velocity + lr * ratio * gradient
    return weight - velocity, velocity


# One step, split in every way. What a case needs is built from its name and a seed, alike in every process.

CASES = {
    "convnet": dict(arch="convnet", stem="cifar", norm="group", image_size=32),
    "resnet18": dict(arch="resnet18", stem="cifar", norm="group", image_size=32),
    "alexnet": dict(arch="alexnet", image_size=64),
    "vit": dict(arch="vit_tiny", image_size=32, dropout=0.1),
}
BATCH = 12  # images: patterns in many colours, so that no part of the batch is like another


def build(case: str, seed: int, dtype: torch.dtype, device: str = "cpu", norm: str | None = None) -> tuple:
    """-> model, augment, images (BATCH, 3, 32, 32) and the generator of a step."""
    options = CASES[case] | ({"norm": norm} if norm else {})
    torch.manual_seed(seed)
    model = SimCLR(build_encoder(**options), projection_dim=16).to(device, dtype)
    generator = torch.Generator().manual_seed(seed)
    images = generate("test", seed)[0][torch.randperm(1000, generator=generator)[:BATCH]].to(device)
    images = images.double() / 255 if dtype == torch.float64 else images
    return model, Augment(options["image_size"]), images, generator


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """The loss and the gradient of each parameter, by name."""
    return {"loss": loss.cpu()} | {name: p.grad.detach().cpu().clone() for name, p in model.named_parameters()}


def step_gradients(
    case: str, seed: int, dtype: torch.dtype, micro_batch_size: int | None = None, precision: str = "float32",
    device: str = "cpu", norm: str | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """What `simclr_step` computes, over as many processes as there are."""
    model, augment, images, generator = build(case, seed, dtype, device, norm)
    images = images[own_part(BATCH)]
    optimizer = SGD(model.parameters(), lr=0.0)
    loss = simclr_step(model, optimizer, augment, images, generator, 0.2, precision, micro_batch_size)
    return gradients(model, loss)


def accumulated_gradients(case: str, seed: int, dtype: torch.dtype, micro_batch_size: int) -> dict[str, Tensor]:
    """The control: plain accumulation over the same views and dropout, where a view meets only its micro-batch's
    negatives."""
    model, augment, images, generator = build(case, seed, dtype)
    draws_a, draws_b = augment.draw(BATCH, generator), augment.draw(BATCH, generator)
    seeds = torch.randint(2**63 - 1, (2, BATCH), generator=generator)
    total = 0.0
    for rows in torch.arange(BATCH).split(micro_batch_size):
        view_a, view_b = augment.apply(images[rows], draws_a[rows]), augment.apply(images[rows], draws_b[rows])
        with dropout_seeds(model, seeds[:, rows].flatten()):
            loss = nt_xent(*model(torch.cat([view_a, view_b])).chunk(2), 0.2) * len(rows) / BATCH
        loss.backward()
        total = total + loss.detach()
    return gradients(model, total)


def lars_weights(
    case: str, seed: int, dtype: torch.dtype, micro_batch_size: int | None = None, steps: int = 10
) -> dict[str, Tensor]:
    """The weights after some steps with LARS, over as many processes as there are."""
    return lars_path(case, seed, dtype, micro_batch_size, steps)[-1]


def lars_path(
    case: str, seed: int, dtype: torch.dtype, micro_batch_size: int | None = None, steps: int = 10
) -> list[dict[str, Tensor]]:
    """The weights before the first of these steps and after each."""
    model, augment, images, generator = build(case, seed, dtype)
    optimizer = LARS(parameter_groups(model), lr=1.0 * BATCH / 256, weight_decay=1e-4)  # of 03_cifar10
    path = []
    for step in range(steps + 1):
        if step:
            simclr_step(model, optimizer, augment, images[own_part(BATCH)], generator, 0.2, "float32", micro_batch_size)
        path.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
    return path


def relative_errors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """norm(actual - expected) / norm(expected), a tensor at a time."""
    assert actual.keys() == expected.keys()
    errors = {}
    for name, tensor in expected.items():
        difference, size = (actual[name].double() - tensor.double()).norm(), tensor.double().norm()
        errors[name] = (difference / size).item() if size > 0 else difference.item()
    return errors


def largest_error(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest of the relative errors."""
    return max(relative_errors(actual, expected).values())


def over_processes(processes: int, function: Callable[..., Any], calls: list[dict]) -> list[list[Any]]:
    """function(**call) for each of `calls`, by each of so many gloo processes: the results of each process."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["simclr_lib.train"])  # imported once, not by each
    with tempfile.TemporaryDirectory() as folder:
        given = (processes, folder, function, calls)
        multiprocessing.start_processes(_process, given, nprocs=processes, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(processes)]


def _process(rank: int, processes: int, folder: str, function: Callable[..., Any], calls: list[dict]) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    torch.save([function(**call) for call in calls], Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


# What 05_numerics shows beside these. S pixels of an image's side.

PRECISIONS = {"float64": torch.float64, "float32": torch.float32}


def projections(n: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random z_a and z_b, (n, dim) each, in float64; the two views of an image are somewhat alike."""
    z = torch.randn(3, n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z[0] + z[1], z[0] + z[2]


def value_and_gradient(loss: Callable[..., Tensor], z_a: Tensor, z_b: Tensor, temperature: float, **options) -> dict:
    """The loss and its gradient with respect to z_a and z_b, by name."""
    z_a, z_b = (z.clone().requires_grad_() for z in (z_a, z_b))
    value = loss(z_a, z_b, temperature, **options)
    value.backward()
    return {"loss": value.detach(), "z_a": z_a.grad, "z_b": z_b.grad}


def lars_beside_hand(seed: int, steps: int) -> list[dict[str, tuple[np.ndarray, np.ndarray]]]:
    """A linear layer whose bias starts at zero, under the same random gradients and a falling rate: after each step its
    weight and bias, (by `LARS` over `parameter_groups`, by `lars_by_hand`)."""
    torch.manual_seed(seed)
    layer = torch.nn.Linear(16, 8, dtype=torch.float64)
    torch.nn.init.zeros_(layer.bias)
    options = dict(momentum=0.9, weight_decay=1e-4, trust_coefficient=1e-3)
    optimizer = LARS(parameter_groups(layer), lr=1.0, **options)
    by_hand = {name: (p.detach().numpy().copy(), np.zeros(p.shape)) for name, p in layer.named_parameters()}
    path = []
    for step in range(steps):
        lr = 1.0 - step / steps
        for group in optimizer.param_groups:
            group["lr"] = lr
        for name, parameter in layer.named_parameters():
            parameter.grad, adapt = torch.randn_like(parameter), name == "weight"
            by_hand[name] = lars_by_hand(*by_hand[name], parameter.grad.numpy(), adapt, lr, **options)
        optimizer.step()
        path.append({name: (p.detach().numpy().copy(), by_hand[name][0]) for name, p in layer.named_parameters()})
    return path


def schedule_in_closed_form(total_steps: int, warmup_steps: int) -> np.ndarray:
    """The factor on the learning rate at every step: (step + 1) / warm-up, then the square of a quarter cosine."""
    step = np.arange(total_steps)
    quarter = np.pi / 2 * (step - warmup_steps) / (total_steps - warmup_steps)
    return np.where(step < warmup_steps, (step + 1) / max(1, warmup_steps), np.cos(quarter) ** 2)


@torch.no_grad()
def sides(resnet: torch.nn.Module, image_size: int) -> dict[str, int]:
    """The side of what each layer of a torchvision ResNet returns, by name; that of maxpool meets the first block."""
    x, found = torch.zeros(1, 3, image_size, image_size), {}
    for name, layer in resnet.eval().named_children():
        if name == "avgpool":
            break
        x = layer(x)
        found[name] = x.shape[-1]
    return found


def blurred_pixel(image_size: int, sigma: float, kernel_size: int) -> tuple[Tensor, Tensor]:
    """A white pixel in the middle of a black image, blurred here and by torchvision with that kernel: (S, S) each."""
    image = torch.zeros(1, 3, image_size, image_size, dtype=torch.float64)
    image[..., image_size // 2, image_size // 2] = 1
    ours = gaussian_blur(image, torch.tensor([sigma], dtype=torch.float64))
    return ours[0, 0], TF.gaussian_blur(image, [kernel_size] * 2, [sigma] * 2)[0, 0]


def uniform_distance(values: Any, low: float, high: float) -> float:
    """Kolmogorov and Smirnov's: the largest gap between the share of values up to x and that of a uniform draw."""
    expected = np.clip((np.sort(np.asarray(values)) - low) / (high - low), 0, 1)
    shares = np.arange(len(expected) + 1) / len(expected)
    return float(max((shares[1:] - expected).max(), (expected - shares[:-1]).max()))
