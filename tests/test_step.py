"""One step beside the algorithm written out: views, a loop loss, its gradient by autograd, w - lr * g."""

import copy

import pytest
import torch
from torch import Tensor

from simclr_lib.augment import Augment
from simclr_lib.lars import LARS, parameter_groups
from simclr_lib.model import SimCLR, build_encoder
from simclr_lib.step import simclr_step


def small_model(seed: int = 0, norm: str = "batch") -> SimCLR:
    torch.manual_seed(seed)
    return SimCLR(build_encoder("convnet", stem="cifar", norm=norm), projection_dim=8)


def loop_loss(z_a: Tensor, z_b: Tensor, temperature: float) -> Tensor:
    z, n = torch.nn.functional.normalize(torch.cat([z_a, z_b])), len(z_a)
    losses = []
    for i in range(2 * n):
        weights = [torch.exp(z[i] @ z[k] / temperature) for k in range(2 * n)]
        losses.append(-torch.log(weights[(i + n) % (2 * n)] / sum(w for k, w in enumerate(weights) if k != i)))
    return sum(losses) / (2 * n)


@pytest.mark.parametrize(("temperature", "seed"), [(0.5, 0), (0.1, 1)])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_two_sgd_steps_equal_the_algorithm_written_out(norm, temperature, seed):
    model, augment = small_model(seed, norm).double(), Augment(16)
    images = torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ours, theirs = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    for _ in range(2):
        loss = simclr_step(model, optimizer, augment, images, ours, temperature)

        view_a = augment(images, theirs)
        view_b = augment(images, theirs)
        torch.randint(2**63 - 1, (2, 4), generator=theirs)  # the seeds of a dropout that this model does not have
        z = expected.projection_head(expected.encoder(torch.cat([view_a, view_b])))  # a BatchNorm sees both views
        expected_loss = loop_loss(z[:4], z[4:], temperature)
        gradients = torch.autograd.grad(expected_loss, list(expected.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(expected.parameters(), gradients, strict=True):
                weight -= 0.1 * gradient
        torch.testing.assert_close(loss, expected_loss.detach(), rtol=1e-10, atol=0)
    for ours, theirs in zip(model.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def one_step(seed: int, precision: str = "float32") -> tuple[Tensor, SimCLR]:
    model = small_model()
    images = torch.randint(0, 256, (8, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    optimizer = LARS(parameter_groups(model), lr=0.5)
    return simclr_step(
        model, optimizer, Augment(16), images, torch.Generator().manual_seed(seed), 0.5, precision
    ), model


def test_the_generator_decides_the_step():
    (loss, model), (same_loss, same), (other_loss, _) = one_step(3), one_step(3), one_step(4)
    assert loss == same_loss != other_loss
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))


def test_the_loss_comes_without_its_graph():
    loss, _ = one_step(0)
    assert loss.shape == ()
    assert not loss.requires_grad


def test_bfloat16_computes_in_half_near_the_float32_loss_and_keeps_float32_weights():
    (loss, model), (half_loss, half) = one_step(0), one_step(0, "bfloat16")
    assert half_loss.dtype == torch.float32
    assert half_loss != loss
    torch.testing.assert_close(half_loss, loss, rtol=0.02, atol=0)
    for a, b in zip(model.parameters(), half.parameters(), strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(b, a, rtol=0.05, atol=0.05)
