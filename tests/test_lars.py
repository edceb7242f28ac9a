"""LARS beside a table worked out by hand, a NumPy loop and two peers; the parameter groups; every optimizer by name."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from simclr_lib.lars import LARS, build_optimizer, parameter_groups
from simclr_lib.model import SimCLR, build_encoder

# Momentum 0.5, decay 0.1, trust coefficient 0.5, learning rates 1.6, 4, 0.4. With d = g + 0.1 w:
#
#   w  step 1  w (3, 4)       d (-0.3, 1.6) + (0.3, 0.4) = (0, 2)      ratio 0.5 * 5 / 2 = 1.25
#              v = 0 + 1.6 * 1.25 * (0, 2) = (0, 4)                    w (3, 0)
#      step 2  d (-0.3, -3) + (0.3, 0) = (0, -3)                       ratio 0.5 * 3 / 3 = 0.5
#              v = (0, 2) + 4 * 0.5 * (0, -3) = (0, -4)                w (3, 4)
#      step 3  d (2.7, 3.6) + (0.3, 0.4) = (3, 4)                      ratio 0.5 * 5 / 5 = 0.5
#              v = (0, -2) + 0.4 * 0.5 * (3, 4) = (0.6, -1.2)          w (2.4, 5.2)
#   u  step 1  u (0, 0)       d (-1.875, -2.5)                         ratio 1, as norm(u) is 0
#              v = 1.6 * (-1.875, -2.5) = (-3, -4)                     u (3, 4)
#      step 2  d (0, 0) + (0.3, 0.4)                                   ratio 0.5 * 5 / 0.5 = 5
#              v = (-1.5, -2) + 4 * 5 * (0.3, 0.4) = (4.5, 6)          u (-1.5, -2)
#      step 3  d (2.15, 0.2) + (-0.15, -0.2) = (2, 0)                  ratio 0.5 * 2.5 / 2 = 0.625
#              v = (2.25, 3) + 0.4 * 0.625 * (2, 0) = (2.75, 3)        u (-4.25, -5)
#   b  excluded: no decay, ratio 1
#      step 1  b 1            v = 1.6 * 1 = 1.6                        b -0.6
#      step 2                 v = 0.8 + 4 * -0.5 = -1.2                b 0.6
#      step 3                 v = -0.6 + 0.4 * 2 = 0.2                 b 0.4
TABLE = [  # learning rate, gradients of w, u, b, then w, u, b after the step
    (1.6, [(-0.3, 1.6), (-1.875, -2.5), (1.0,)], [(3, 0), (3, 4), (-0.6,)]),
    (4.0, [(-0.3, -3.0), (0.0, 0.0), (-0.5,)], [(3, 4), (-1.5, -2), (0.6,)]),
    (0.4, [(2.7, 3.6), (2.15, 0.2), (2.0,)], [(2.4, 5.2), (-4.25, -5), (0.4,)]),
]


def double(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def test_three_steps_equal_the_table_by_hand():
    w, u, b = double(3, 4), double(0, 0), double(1)
    groups = [{"params": [w, u]}, {"params": [b], "adapt": False}]
    optimizer = LARS(groups, lr=1.0, momentum=0.5, weight_decay=0.1, trust_coefficient=0.5)
    for lr, gradients, expected in TABLE:
        for group in optimizer.param_groups:
            group["lr"] = lr
        for parameter, gradient in zip((w, u, b), gradients, strict=True):
            parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        for parameter, after in zip((w, u, b), expected, strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), after, rtol=0, atol=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_ten_steps_equal_a_numpy_loop(seed):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=shape) for shape in [(4, 3, 3, 3), (5, 7), (5,)]]
    parameters = [nn.Parameter(torch.tensor(weight)) for weight in weights]
    groups = [{"params": parameters[:2], "adapt": True}, {"params": parameters[2:], "adapt": False}]
    optimizer = LARS(groups, lr=0.3, momentum=0.8, weight_decay=0.05, trust_coefficient=0.02)
    velocities = [np.zeros_like(weight) for weight in weights]
    for step in range(10):
        lr = 0.3 / (step + 1)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for i, parameter in enumerate(parameters):
            gradient = rng.normal(size=weights[i].shape)
            parameter.grad = torch.tensor(gradient)
            ratio = 1.0
            if i < 2:
                gradient = gradient + 0.05 * weights[i]
                ratio = 0.02 * np.sqrt((weights[i] ** 2).sum()) / np.sqrt((gradient**2).sum())
            velocities[i] = 0.8 * velocities[i] + lr * ratio * gradient
            weights[i] = weights[i] - velocities[i]
        optimizer.step()
        for parameter, weight in zip(parameters, weights, strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=1e-12, atol=1e-14)


def five_steps(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        optimizer.step()
    return parameter.detach()


def test_without_adaptation_it_is_torch_sgd_without_decay():
    ours, theirs = double(1, -2, 0.5), double(1, -2, 0.5)
    a = five_steps(LARS([{"params": [ours], "adapt": False}], lr=0.1, momentum=0.9, weight_decay=0.3), ours)
    b = five_steps(torch.optim.SGD([theirs], lr=0.1, momentum=0.9), theirs)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_without_decay_and_at_one_learning_rate_it_is_lightlys():
    peer = pytest.importorskip("lightly.utils.lars", reason="lightly is the peer of this optimizer")
    ours, theirs = double(1, -2, 0.5), double(1, -2, 0.5)
    a = five_steps(LARS([ours], lr=0.1, momentum=0.9, weight_decay=0, trust_coefficient=0.1), ours)
    settings = dict(lr=0.1, momentum=0.9, weight_decay=1e-30, trust_coefficient=0.1, eps=0)  # at 0 it adapts nothing
    torch.testing.assert_close(a, five_steps(peer.LARS([theirs], **settings), theirs), rtol=1e-12, atol=0)


@pytest.mark.parametrize("adapt", [True, False])
def test_a_bias_that_starts_at_zero_moves(adapt):
    bias = double(0, 0, 0)
    optimizer = LARS([{"params": [bias], "adapt": adapt}], lr=0.1)
    bias.grad = torch.ones_like(bias)
    optimizer.step()
    np.testing.assert_allclose(bias.detach().numpy(), -0.1, rtol=1e-12)


def test_a_zero_gradient_without_decay_leaves_a_weight():
    weight = double(3, 4)
    weight.grad = torch.zeros_like(weight)
    LARS([weight], lr=0.1, weight_decay=0).step()
    assert weight.tolist() == [3, 4]


def test_a_learning_rate_of_zero_mid_run_leaves_the_momentum_rolling():
    weight = double(0)
    optimizer = LARS([{"params": [weight], "adapt": False}], lr=1.0, momentum=0.5)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert weight.item() == -1.5  # 1 of the first step, and half of it again


def test_the_norm_of_a_first_step_is_the_trust_coefficient_of_its_weights():
    weight = nn.Parameter(torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    norm, before = weight.norm().item(), weight.detach().clone()
    weight.grad = 1e6 * torch.rand_like(weight)
    LARS([weight], lr=1.0, trust_coefficient=0.01).step()
    assert (weight.detach() - before).norm().item() == pytest.approx(0.01 * norm, rel=1e-9)


def test_a_parameter_without_gradient_stays():
    moved, stays = double(1), double(2)
    moved.grad = torch.ones_like(moved)
    LARS([moved, stays], lr=0.1).step()
    assert moved.item() != 1
    assert stays.item() == 2


@pytest.mark.parametrize("seed", range(2))
def test_a_saved_and_loaded_state_resumes_exactly(seed):
    def steps(model, optimizer, numbers):
        for i in numbers:
            optimizer.zero_grad()
            model(torch.randn(8, 6, generator=torch.Generator().manual_seed(i))).square().mean().backward()
            optimizer.step()

    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    optimizer = LARS(parameter_groups(model), lr=0.5)
    steps(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    steps(model, optimizer, range(3, 6))

    file.seek(0)
    model_state, optimizer_state = torch.load(file)
    resumed = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    resumed.load_state_dict(model_state)
    again = LARS(parameter_groups(resumed), lr=99.0)
    again.load_state_dict(optimizer_state)
    steps(resumed, again, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))


def test_a_closure_is_called_with_gradients_and_its_loss_returned():
    weight = double(2)
    optimizer = LARS([{"params": [weight], "adapt": False}], lr=0.25)

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4
    assert weight.item() == 1
    assert optimizer.step() is None


@pytest.mark.parametrize(
    "wrong",
    [{"lr": -0.1}, {"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": -1e-6}, {"trust_coefficient": 0.0}]
    + [
        {name: value}
        for name in ("lr", "momentum", "weight_decay", "trust_coefficient")
        for value in (math.nan, math.inf)
    ],
)
def test_values_out_of_range_are_refused_by_name(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"^{name}: expected .*got {value}"):
        LARS([double(1)], **{"lr": 0.1, **wrong})


MODELS = {
    "convnet": {"stem": "cifar"},
    "alexnet": {},
    "resnet18": {"norm": "group"},
    "resnet50": {},
    "vit_tiny": {"image_size": 32},
}
NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


def names_by_group(model: nn.Module) -> list[list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [sorted(names[id(parameter)] for parameter in group["params"]) for group in parameter_groups(model)]


@pytest.mark.parametrize("arch", MODELS)
def test_biases_norms_class_token_and_position_embedding_are_excluded_and_nothing_else(arch):
    model = SimCLR(build_encoder(arch, **MODELS[arch]))
    expected = {name for name, _ in model.named_parameters() if name.endswith("bias")}
    for name, module in model.named_modules():
        if isinstance(module, NORMS):
            expected |= {f"{name}.{own}" for own, _ in module.named_parameters(recurse=False)}
    if arch == "vit_tiny":
        expected |= {"encoder.class_token", "encoder.encoder.pos_embedding"}
    adapted, excluded = names_by_group(model)
    assert excluded == sorted(expected)
    assert sorted(adapted + excluded) == sorted(name for name, _ in model.named_parameters())  # each exactly once
    assert [group["adapt"] for group in parameter_groups(model)] == [True, False]
    assert parameter_groups(model)[1]["weight_decay"] == 0


def test_resnet18_has_22_adapted_weights_and_42_excluded():
    adapted, excluded = names_by_group(SimCLR(build_encoder("resnet18")))
    assert len(adapted) == 1 + 16 + 3 + 2  # stem, eight blocks of two, three shortcuts, head
    assert len(excluded) == 2 * 20 + 2  # weight and bias of a norm after each convolution, the head's biases


def test_frozen_parameters_are_left_out():
    model = SimCLR(build_encoder("convnet", stem="cifar"))
    model.encoder.requires_grad_(False)
    assert names_by_group(model) == [
        ["projection_head.0.weight", "projection_head.2.weight"],
        ["projection_head.0.bias", "projection_head.2.bias"],
    ]


# With zero gradients, a step at rate 0.1 and decay 0.5 keeps 1 - 0.1 x 0.5 of a decayed weight. LARS scales the step by
# its ratio: trust 0.001 over the decayed gradient, which is half the weight, gives 1 - 0.1 x (0.001 / 0.5) x 0.5.
@pytest.mark.parametrize(("name", "kept"), [("sgd", 0.95), ("adamw", 0.95), ("lars", 1 - 1e-4)])
@pytest.mark.parametrize("arch", ["vit_tiny", "resnet18"])
def test_every_optimizer_decays_weights_and_never_biases_or_norms(arch, name, kept):
    model = SimCLR(build_encoder(arch, image_size=32)).double()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 2.0)
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(name, model, 0.1, 0.9, 0.5).step()
    adapted, excluded = names_by_group(model)
    weights = dict(model.named_parameters())
    assert all((weights[name] == 2).all() for name in excluded)
    for each in adapted:
        torch.testing.assert_close(weights[each], torch.full_like(weights[each], 2 * kept), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", lambda groups: torch.optim.SGD(groups, 0.3, momentum=0.8, weight_decay=0.01)),
        ("adamw", lambda groups: torch.optim.AdamW(groups, 0.3, weight_decay=0.01)),
        ("lars", lambda groups: LARS(groups, 0.3, momentum=0.8, weight_decay=0.01)),
    ],
)
def test_an_optimizer_by_name_steps_as_the_one_it_names(name, expected):
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    peer = copy.deepcopy(model)
    ours, theirs = build_optimizer(name, model, 0.3, 0.8, 0.01), expected(parameter_groups(peer))
    for optimizer, trained in ((ours, model), (theirs, peer)):
        for seed in range(3):
            optimizer.zero_grad()
            x = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            trained(x).square().mean().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), peer.parameters(), strict=True))


def test_another_optimizer_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^optimizer: .*sgd, lars, adamw, got 'adam'"):
        build_optimizer("adam", nn.Linear(2, 2), 0.1, 0.9, 0.0)
