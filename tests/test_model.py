"""The encoders: shapes, the sizes inside, what h is, GroupNorm for BatchNorm, and what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models

from simclr_lib.data.embedded import generate
from simclr_lib.engine.checks import CHOICES
from simclr_lib.model import SimCLR, build_encoder, patch_size

ENCODERS = [  # arch, stem, side of the images, D
    ("convnet", "cifar", 32, 128),
    ("convnet", "imagenet", 64, 128),
    ("alexnet", "imagenet", 63, 256),
    ("resnet18", "cifar", 32, 512),
    ("resnet18", "imagenet", 64, 512),
    ("resnet34", "imagenet", 64, 512),
    ("resnet50", "imagenet", 64, 2048),
    ("resnet50", "cifar", 16, 2048),
    ("vit_tiny", "imagenet", 32, 192),
    ("vit_small", "imagenet", 32, 384),
]


def random_images(n: int, side: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def sides(encoder: nn.Module, names: list[str], side: int) -> list[int]:
    """The side of the feature map that each named module puts out, for images of `side`."""
    found = {}
    for name in names:
        encoder.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: found.update({name: output.shape[2:]})
        )
    with torch.no_grad():
        encoder.eval()(random_images(1, side))
    assert all(height == width for height, width in found.values())
    return [found[name][0] for name in names]


def test_every_arch_is_tried_here():
    assert {arch for arch, *_ in ENCODERS} == set(CHOICES["arch"])


@pytest.mark.parametrize(("arch", "stem", "side", "dim"), ENCODERS)
def test_images_become_rows_of_embedding_dim(arch, stem, side, dim):
    encoder = build_encoder(arch, stem=stem, image_size=side).eval()
    with torch.no_grad():
        h = encoder(random_images(2, side))
    assert h.shape == (2, dim)
    assert encoder.embedding_dim == dim
    assert (h[0] - h[1]).norm() > 1e-6 * h.norm()  # it looks at the image


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50"])
def test_cifar_stem_meets_the_first_block_at_32_and_ends_at_4(arch):
    encoder = build_encoder(arch, stem="cifar")
    layers = ["maxpool", "layer1", "layer2", "layer3", "layer4"]
    assert sides(encoder, layers, 32) == [32, 32, 16, 8, 4]
    expected = math.sqrt(2 / (64 * 3 * 3))  # He et al. over the outputs, as torchvision starts its other convolutions
    assert encoder.conv1.weight.std().item() == pytest.approx(expected, rel=0.1)


def test_imagenet_stem_meets_the_first_block_at_a_quarter():
    layers = ["conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    assert sides(build_encoder("resnet18"), layers, 224) == [112, 56, 56, 28, 14, 7]


@pytest.mark.parametrize(
    ("stem", "side", "expected"), [("cifar", 32, [32, 32, 16, 8, 4]), ("imagenet", 224, [112, 56, 28, 14, 7])]
)
def test_convnet_halves_the_side_stage_by_stage(stem, side, expected):
    layers = ["stem", "pool", "stages.0", "stages.1", "stages.2"]
    assert sides(build_encoder("convnet", stem=stem), layers, side) == expected


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_convnet_stays_under_300_000_parameters(stem, norm):
    encoder = build_encoder("convnet", stem=stem, norm=norm)
    assert sum(parameter.numel() for parameter in encoder.parameters()) < 300_000


@pytest.mark.parametrize(("arch", "norms"), [("convnet", 4), ("resnet18", 20), ("resnet50", 53)])
def test_group_norm_replaces_every_batch_norm_by_32_groups(arch, norms):
    batch, group = (build_encoder(arch, stem="cifar", norm=norm) for norm in ("batch", "group"))
    channels = [module.num_features for module in batch.modules() if isinstance(module, _BatchNorm)]
    replaced = [module for module in group.modules() if isinstance(module, nn.GroupNorm)]
    assert not any(isinstance(module, _BatchNorm) for module in group.modules())
    assert len(replaced) == len(channels) == norms
    assert [module.num_channels for module in replaced] == channels
    assert {module.num_groups for module in replaced} == {32}


@pytest.mark.parametrize("arch", ["convnet", "resnet18"])
@pytest.mark.parametrize("seed", [0, 1])
def test_in_training_an_embedding_depends_on_the_batch_with_batch_norm_alone(arch, seed):
    image = random_images(1, 32, seed)
    some, others = random_images(3, 32, seed + 10), 0.1 * random_images(3, 32, seed + 20)
    changes = {}
    for norm in ("batch", "group"):
        encoder = build_encoder(arch, stem="cifar", norm=norm).train()
        with torch.no_grad():
            a, b = (encoder(torch.cat([image, rest]))[0] for rest in (some, others))
        changes[norm] = ((a - b).norm() / a.norm()).item()
    assert changes["group"] < 1e-5
    assert changes["batch"] > 1e-2


def test_alexnets_h_is_its_features_averaged_over_space():
    encoder = build_encoder("alexnet").eval()
    features = models.alexnet(weights=None).features
    features.load_state_dict(encoder[0].state_dict())
    images = random_images(2, 96)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), features(images).mean(dim=(2, 3)))


def test_alexnet_starts_with_a_signal_that_its_layers_do_not_lose():
    """Under PyTorch's default initialisation all images start with one and the same z, and training at chance."""
    images = F.interpolate(generate("test")[0][:32].float() / 255, size=(96, 96))
    model, default = (SimCLR(build_encoder("alexnet")).eval() for _ in range(2))
    default.encoder[0].load_state_dict(models.alexnet(weights=None).features.state_dict())
    with torch.no_grad():
        ours, theirs = (F.cosine_similarity(z[:1], z[1:]).min() for z in (model(images), default(images)))
    assert ours < 0.97 < 0.995 < theirs
    encoder = model.encoder
    variances = [layer.weight.var() * layer.weight[0].numel() for layer in encoder[0] if isinstance(layer, nn.Conv2d)]
    torch.testing.assert_close(torch.stack(variances), torch.full((5,), 2.0), rtol=0.05, atol=0)  # 2 / fan-in


@pytest.mark.parametrize(("arch", "last"), [("convnet", "stages"), ("resnet18", "layer4")])
def test_the_others_h_is_the_last_feature_map_averaged_over_space(arch, last):
    encoder, found = build_encoder(arch, stem="cifar").eval(), []
    encoder.get_submodule(last).register_forward_hook(lambda _module, _inputs, output: found.append(output))
    with torch.no_grad():
        h = encoder(random_images(2, 32))
    torch.testing.assert_close(h, found[0].mean(dim=(2, 3)))


@pytest.mark.parametrize(("arch", "side"), [("vit_tiny", 32), ("vit_tiny", 96), ("vit_small", 32)])
def test_vits_h_is_the_class_token_after_the_last_norm(arch, side):
    encoder, before, after = build_encoder(arch, image_size=side).eval(), [], []
    encoder.encoder.layers[-1].register_forward_hook(lambda _module, _inputs, output: before.append(output))
    encoder.encoder.ln.register_forward_hook(lambda _module, _inputs, output: after.append(output))
    with torch.no_grad():
        h = encoder(random_images(2, side))
    torch.testing.assert_close(h, after[0][:, 0], rtol=0, atol=0)
    token = before[0][:, 0]
    normalized = (token - token.mean(1, keepdim=True)) / (token.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(h, normalized, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "patch", "tokens"), [(32, 4, 65), (96, 8, 145), (224, 16, 197)])
def test_vits_patches_are_4_8_and_16_pixels(side, patch, tokens):
    encoder = build_encoder("vit_tiny", image_size=side)
    assert patch_size(side) == patch
    assert encoder.conv_proj.kernel_size == encoder.conv_proj.stride == (patch, patch)
    assert encoder.encoder.pos_embedding.shape == (1, tokens, 192)


@pytest.mark.parametrize(("arch", "heads", "dim"), [("vit_tiny", 3, 192), ("vit_small", 6, 384)])
def test_vits_have_deits_sizes(arch, heads, dim):
    layers = build_encoder(arch, image_size=32).encoder.layers
    assert len(layers) == 12
    assert {layer.self_attention.num_heads for layer in layers} == {heads}
    assert {layer.mlp[0].out_features for layer in layers} == {4 * dim}


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_dropout_reaches_every_dropout_of_the_vit(dropout):
    encoder = build_encoder("vit_tiny", image_size=32, dropout=dropout)
    assert {module.p for module in encoder.modules() if isinstance(module, nn.Dropout)} == {dropout}


def test_the_head_is_linear_relu_linear_and_forward_is_the_head_over_the_encoder():
    model = SimCLR(build_encoder("convnet", stem="cifar"), projection_dim=16).eval()
    first, second = model.projection_head[0], model.projection_head[2]
    assert [type(part) for part in model.projection_head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert (first.weight.shape, second.weight.shape) == ((128, 128), (16, 128))
    images = random_images(4, 32)
    with torch.no_grad():
        h = model.encoder(images)
        hidden = (h @ first.weight.T + first.bias).clamp(min=0)
        torch.testing.assert_close(model(images), hidden @ second.weight.T + second.bias)


def test_the_head_is_as_wide_as_h_and_projects_to_128():
    head = SimCLR(build_encoder("resnet50")).projection_head
    assert (head[0].weight.shape, head[2].weight.shape) == ((2048, 2048), (128, 2048))


def test_no_weight_is_downloaded_or_shared_between_two_encoders():
    a, b = build_encoder("resnet18"), build_encoder("resnet18")
    assert not torch.equal(a.conv1.weight, b.conv1.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "resnet19"}, r"arch: .*convnet, .*got 'resnet19'"),
        ({"arch": "resnet18", "stem": "cifar10"}, r"stem: .*imagenet, cifar, got 'cifar10'"),
        ({"arch": "resnet18", "norm": "layer"}, r"norm: .*batch, group, got 'layer'"),
        ({"arch": "alexnet", "stem": "cifar"}, r"stem: .*imagenet with alexnet, got cifar.*resnet18"),
        ({"arch": "vit_tiny", "stem": "cifar", "image_size": 32}, r"stem: .*imagenet with vit_tiny, got cifar"),
        ({"arch": "alexnet", "image_size": 62}, r"image_size: .*63 for alexnet.*got 62"),
        ({"arch": "vit_tiny", "image_size": 33}, r"image_size: .*vit_tiny's patch of 4, got 33"),
        ({"arch": "vit_tiny", "image_size": 0}, r"image_size: .*at least 1 pixel, got 0"),
        ({"arch": "resnet18", "dropout": 0.1}, r"dropout: .*0 with resnet18, got 0.1"),
        ({"arch": "vit_tiny", "image_size": 32, "dropout": 1.5}, r"dropout: .*\[0, 1\), got 1.5"),
    ],
)
def test_combinations_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(**options)
