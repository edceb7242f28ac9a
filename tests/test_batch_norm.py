"""BatchNorm replaced, and its running statistics moved once however often a step passes it, beside the arithmetic."""

import pytest
import torch
from references import build
from torch import nn

from simclr_lib.batch_norm import batch_norms, one_move_of_statistics, replace_batch_norm
from simclr_lib.model import SimCLR, build_encoder
from simclr_lib.step import simclr_step


def test_replace_batch_norm_replaces_a_bare_one():
    replaced = replace_batch_norm(nn.BatchNorm2d(64, eps=0.25))
    assert isinstance(replaced, nn.GroupNorm)
    assert replaced.eps == 0.25


def test_channels_that_do_not_split_into_the_groups_are_refused():
    with pytest.raises(ValueError, match="divisible by 32 groups, got a BatchNorm over 48"):
        replace_batch_norm(nn.Sequential(nn.Conv2d(3, 48, 3), nn.BatchNorm2d(48)))


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
