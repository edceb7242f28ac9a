"""The encoder f and the projection head g (SimCLR, section 2.1): h = f(image), z = g(h).

Shapes: N images, S x S pixels, D the width of h, P that of z.
"""

from functools import partial

from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer
from torchvision.ops import Conv2dNormActivation

from simclr_lib.engine.checks import STEMMED, require, require_choice
from simclr_lib.layers import replace_dropout

NORMS = {"batch": nn.BatchNorm2d, "group": partial(nn.GroupNorm, 32)}
VITS = {"vit_tiny": (192, 3), "vit_small": (384, 6)}  # hidden dimension, heads; 12 layers each (DeiT's sizes)


def build_encoder(
    arch: str, *, stem: str = "imagenet", norm: str = "batch", image_size: int = 224, dropout: float = 0.0
) -> nn.Module:
    """An untrained encoder: (N, 3, S, S) in [0, 1] -> (N, D), with its D as attribute `embedding_dim`.

    Args:
        arch: `convnet` (D = 128; small), or one of torchvision's: `alexnet` (D = 256; its features averaged over
            space), `resnet18`, `resnet34` (D = 512), `resnet50` (D = 2048; after the average pool), `vit_tiny`
            (D = 192), `vit_small` (D = 384; the class token after the last norm).
        stem: `imagenet` (7x7 stride 2, then max-pool) or `cifar` (3x3 stride 1, no max-pool, for images of about
            32 pixels; SimCLR, appendix B.9). Only convnet and the ResNets have the choice.
        norm: `batch`, or `group`: GroupNorm(32) in place of every BatchNorm. It has no statistics over the batch, so
            that micro-batches and processes give the gradient of the whole batch.
        image_size: S. AlexNet needs at least 63 pixels; a ViT's patches follow from it, see `patch_size`.
        dropout: of the ViTs, in [0, 1); the others have none. `simclr_step` seeds it per view, so that its masks do not
            depend on how the batch is split.

    Raises:
        ValueError: for a combination that cannot work, with the reason.
    """
    _check(arch, stem, norm, image_size, dropout)
    if arch == "convnet":
        return ConvNet(stem, norm)
    if arch == "alexnet":
        return _alexnet()
    return _vit(arch, image_size, dropout) if arch in VITS else _resnet(arch, stem, norm)


class SimCLR(nn.Module):
    """The encoder with the projection head on top: images (N, 3, S, S) -> z (N, P).

    The head has one hidden layer and no normalisation, as in the paper's text. (The official code adds BatchNorm, with
    which micro-batches would not be exact.) Retrieval and probes use h = `encoder(images)`.
    """

    def __init__(self, encoder: nn.Module, projection_dim: int = 128) -> None:
        super().__init__()
        dim = encoder.embedding_dim
        self.encoder = encoder
        self.projection_head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, projection_dim))

    def forward(self, images: Tensor) -> Tensor:
        return self.projection_head(self.encoder(images))  # (N, 3, S, S) -> h (N, D) -> z (N, P)


class ConvNet(nn.Module):
    """A stem and three stages of convolution, norm and ReLU, each stage at half the side of the one before, then an
    average pool. It has fewer than 300,000 parameters: two CPU cores can train it."""

    embedding_dim = 128

    def __init__(self, stem: str, norm: str) -> None:
        super().__init__()
        convolution = partial(Conv2dNormActivation, norm_layer=NORMS[norm])
        self.stem = convolution(3, 32) if stem == "cifar" else convolution(3, 32, kernel_size=7, stride=2)
        self.pool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, stride=2, padding=1)
        widths = (32, 64), (64, 128), (128, 128)  # of what goes into a stage, and of what comes out
        self.stages = nn.Sequential(*(convolution(before, after, stride=2) for before, after in widths))

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(self.pool(self.stem(images))).mean(dim=(2, 3))


def _alexnet() -> nn.Module:
    features = models.alexnet(weights=None).features
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            # He et al. 2015. Under PyTorch's default the signal dies out over five layers without normalisation: all
            # z start within a cosine of 0.999, and after 140 steps of iteration 1 the loss was still that of chance.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    encoder = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoder.embedding_dim = 256
    return encoder


def _resnet(arch: str, stem: str, norm: str) -> nn.Module:
    encoder = models.get_model(arch, norm_layer=NORMS[norm])
    encoder.embedding_dim = encoder.fc.in_features
    encoder.fc = nn.Identity()
    if stem == "cifar":
        encoder.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
        encoder.maxpool = nn.Identity()
    return encoder


def _vit(arch: str, image_size: int, dropout: float) -> nn.Module:
    dim, heads = VITS[arch]
    encoder = VisionTransformer(image_size, patch_size(image_size), 12, heads, dim, mlp_dim=4 * dim, dropout=dropout)
    encoder.heads = nn.Identity()
    encoder.embedding_dim = dim
    return replace_dropout(encoder)


def patch_size(image_size: int) -> int:
    """The side of a ViT's patches in pixels: 4 for images below 64 pixels, 8 below 160, else 16."""
    return 4 if image_size < 64 else 8 if image_size < 160 else 16


def _check(arch: str, stem: str, norm: str, image_size: int, dropout: float) -> None:
    require_choice(arch=arch, stem=stem, norm=norm)
    only = f"only {', '.join(STEMMED)} have a choice"
    require(stem == "imagenet" or arch in STEMMED, "stem", f"imagenet with {arch}", stem, only)
    require(image_size >= 1, "image_size", "at least 1 pixel", image_size)
    require(arch != "alexnet" or image_size >= 63, "image_size", "at least 63 for alexnet (its strides)", image_size)
    vit, patch = arch in VITS, patch_size(image_size)
    require(not vit or image_size % patch == 0, "image_size", f"a multiple of {arch}'s patch of {patch}", image_size)
    require(0 <= dropout < 1, "dropout", "a number in [0, 1)", dropout)
    require(vit or not dropout, "dropout", f"0 with {arch}", dropout, "only the ViTs have dropout here")
