"""Layers for batches in parts, beside the arithmetic: BatchNorm's statistics, dropout by seed."""

import math

import pytest
import torch
from references import build
from torch import nn

from simclr_lib.layers import (
    Dropout,
    batch_norms,
    dropout_seeds,
    one_move_of_statistics,
    replace_dropout,
)
from simclr_lib.model import SimCLR, build_encoder
from simclr_lib.step import simclr_step

# BatchNorm


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_statistics_move_once_towards_the_mean_over_the_passes(momentum):
    layer, parts = nn.BatchNorm1d(3, momentum=momentum).double(), torch.randn(4, 5, 3, dtype=torch.float64) * 2 + 1
    for earlier in torch.randn(2, 6, 3, dtype=torch.float64):
        layer(earlier)
    mean, variance = layer.running_mean.clone(), layer.running_var.clone()
    with one_move_of_statistics(layer):
        for part in (*parts, *parts):  # a first and a second pass over four micro-batches
            layer(part)
    weight = 1 / 3 if momentum is None else momentum
    expected_mean = (1 - weight) * mean + weight * parts.mean(dim=1).mean(dim=0)
    expected_variance = (1 - weight) * variance + weight * parts.var(dim=1).mean(dim=0)
    torch.testing.assert_close(layer.running_mean, expected_mean)
    torch.testing.assert_close(layer.running_var, expected_variance)
    assert layer.num_batches_tracked == 3
    assert layer.momentum == momentum


def test_layers_in_eval_mode_or_without_statistics_are_left_alone():
    frozen, bare = nn.BatchNorm1d(3).eval(), nn.BatchNorm1d(3, track_running_stats=False)
    before = [buffer.clone() for buffer in frozen.buffers()]
    with one_move_of_statistics(nn.Sequential(frozen, bare)):
        bare(frozen(torch.randn(4, 3)))
    assert all(torch.equal(a, b) for a, b in zip(before, frozen.buffers(), strict=True))


def test_gradients_flow_inside_and_an_error_leaves_all_as_it_was():
    layer, x = nn.BatchNorm1d(3), torch.randn(4, 3, requires_grad=True)
    with one_move_of_statistics(layer):
        layer(x).square().sum().backward()
    assert x.grad is not None
    before = [buffer.clone() for buffer in layer.buffers()]
    with pytest.raises(ValueError, match="expected 2D or 3D input"), one_move_of_statistics(layer):
        layer(layer(x + 1)[None, None])
    assert layer.momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(before, layer.buffers(), strict=True))


def test_a_micro_batched_step_moves_the_statistics_of_its_first_layer_as_the_arithmetic_says():
    torch.manual_seed(0)
    model = SimCLR(build_encoder("convnet", stem="cifar"), projection_dim=8).double()
    _, augment, images, generator = build("convnet", 0, torch.float64)
    state = generator.get_state()
    simclr_step(model, torch.optim.SGD(model.parameters(), lr=0.0), augment, images, generator, 0.5, "float32", 5)
    assert {layer.num_batches_tracked.item() for layer in batch_norms(model)} == {1}

    draws = [augment.draw(12, generator.set_state(state)), augment.draw(12, generator)]
    means, variances = [], []
    for rows in torch.arange(12).split(5):
        views = torch.cat([augment.apply(images[rows], draw[rows]) for draw in draws])
        maps = model.encoder.stem[0](views).detach()  # what the first layer sees
        means.append(maps.mean(dim=(0, 2, 3)))
        variances.append(maps.transpose(0, 1).flatten(1).var(dim=1))
    layer = model.encoder.stem[1]
    torch.testing.assert_close(layer.running_mean, 0.1 * torch.stack(means).mean(dim=0))
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * torch.stack(variances).mean(dim=0))


# Dropout: no split of a batch changes it, its rate is right, and without seeds it is PyTorch's own


def layers(p: float = 0.3) -> nn.Module:
    model = nn.Sequential(Dropout(p), nn.Identity(), nn.Sequential(Dropout(p)))
    model.register_parameter("one", nn.Parameter(torch.ones(1)))  # says on which device the model is
    return model


def dropped(model: nn.Module, x: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    with dropout_seeds(model, seeds):
        return model(x)


def new_seeds(n: int) -> torch.Tensor:
    return torch.randint(2**63 - 1, (n,))


def test_the_masks_of_an_image_do_not_depend_on_what_else_is_in_the_batch():
    model, seeds = layers(), new_seeds(7)
    x = torch.rand(7, 4, 50) + 0.5
    whole = dropped(model, x, seeds)
    for rows in (slice(0, 3), slice(3, 7), slice(6, 7), torch.tensor([5, 1])):
        assert torch.equal(dropped(model, x[rows], seeds[rows]), whole[rows])
    assert not torch.equal(dropped(model, x, seeds.flip(0)), whole)
    doubles = dropped(model, x.double(), seeds)
    torch.testing.assert_close(doubles, whole.double(), rtol=1e-6, atol=0)  # all precisions drop the same units


def test_images_and_layers_draw_masks_of_their_own():
    model, seen = layers(0.5), []
    for layer in (model[0], model[2][0]):
        layer.register_forward_hook(lambda _, inputs, output: seen.append(output != 0))
    dropped(model, torch.ones(2, 1000), new_seeds(2))
    first, both = seen  # the second layer's input is the first one's output
    assert abs((first[0] == first[1]).float().mean() - 0.5) < 5 * 0.5 / math.sqrt(1000)
    assert abs(both.float().mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 2000)


@pytest.mark.parametrize("p", [0.1, 0.6])
def test_a_share_p_is_dropped_and_the_rest_scaled_so_that_the_mean_stays(p):
    model = layers(p)[:1]
    model.register_parameter("one", nn.Parameter(torch.ones(1)))
    x = torch.ones(10, 2000, requires_grad=True)
    y = dropped(model, x, new_seeds(10))
    assert set(y.unique().tolist()) <= {0.0, torch.tensor(1 / (1 - p)).item()}
    assert abs((y == 0).float().mean() - p) <= 5 * math.sqrt(p * (1 - p) / 20_000)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())  # where x is 1, the gradient is the mask


def test_without_seeds_or_in_eval_mode_it_is_pytorchs():
    x, model = torch.rand(5, 100), layers()
    torch.manual_seed(0)
    ours = model(x)
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Dropout(0.3), nn.Dropout(0.3))(x)
    assert torch.equal(ours, theirs)
    assert torch.equal(dropped(model.eval(), x, new_seeds(5)), x)


def test_without_anything_to_drop_no_mask_is_drawn(monkeypatch):
    monkeypatch.setattr(torch, "Generator", lambda *_: pytest.fail("masks would be drawn"))
    x = torch.rand(5, 100)
    assert torch.equal(dropped(layers(0.0), x, torch.arange(5)), x)


def test_another_number_of_seeds_is_refused_and_none_outlive_the_block():
    model = layers()
    with pytest.raises(ValueError, match=r"seeds: .*4 images, got 3"):
        dropped(model, torch.ones(4, 2), new_seeds(3))
    assert model[0].generators is model[2][0].generators is None


def test_every_plain_dropout_is_replaced_and_no_other():
    model = replace_dropout(nn.Sequential(nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.4), nn.Dropout2d(0.1))))
    assert [(type(m), m.p) for m in (model[0], *model[1])] == [(Dropout, 0.2), (Dropout, 0.4), (nn.Dropout2d, 0.1)]
