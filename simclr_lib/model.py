"""The encoder f and the projection head g (SimCLR, section 2.1): h = f(image), z = g(h).

N images, S their side, D embedding dimensions, P projection dimensions.
"""

from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer

from simclr_lib.batch_norm import replace_batch_norm
from simclr_lib.dropout import replace_dropout

RESNETS = ("resnet18", "resnet34", "resnet50")
VITS = {"vit_tiny": (192, 3), "vit_small": (384, 6)}  # hidden dimension, heads; 12 layers each (DeiT's sizes)
ARCHS = ("convnet", "alexnet", *RESNETS, *VITS)
STEMS = ("imagenet", "cifar")
NORMS = ("batch", "group")


def build_encoder(
    arch: str, *, stem: str = "imagenet", norm: str = "batch", image_size: int = 224, dropout: float = 0.0
) -> nn.Module:
    """An untrained encoder: (N, 3, S, S) in [0, 1] -> (N, D), with its D as attribute `embedding_dim`.

    Args:
        arch: `convnet` (four small stages, D = 128), `alexnet` (its features, averaged over space, D = 256),
            `resnet18`, `resnet34` (D = 512), `resnet50` (D = 2048; each after its average pool), `vit_tiny`
            (D = 192), `vit_small` (D = 384; the class token after the last norm). All but the first are
            torchvision's classes.
        stem: `imagenet` (7x7 stride 2, then max-pool) or `cifar` (3x3 stride 1, no max-pool, for images of about
            32 pixels; SimCLR, appendix B.9). Only convnet and the ResNets have the choice.
        norm: `batch`, or `group`: GroupNorm(32) in place of every BatchNorm.
        image_size: S; a ViT's patch follows from it (4 pixels below 64, 8 below 160, else 16), AlexNet needs 63.
        dropout: of the ViT, in [0, 1); the others have none. `simclr_step` draws it by view, so that no split of the
            batch changes it.

    Raises:
        ValueError: for a combination that cannot work, with the reason.
    """
    _check(arch, stem, norm, image_size, dropout)
    if arch == "convnet":
        encoder = ConvNet(stem)
    elif arch == "alexnet":
        encoder = _alexnet()
    elif arch in RESNETS:
        encoder = _resnet(arch, stem)
    else:
        encoder = _vit(arch, image_size, dropout)
    return replace_batch_norm(encoder) if norm == "group" else encoder


class SimCLR(nn.Module):
    """The encoder and, on top of it, the projection head: (N, 3, S, S) -> z (N, P).

    The head has one hidden layer and no normalisation, as in the paper's text (the official code adds BatchNorm,
    which no micro-batch could make exact). Retrieval and probes use h = `encoder(images)`.
    """

    def __init__(self, encoder: nn.Module, projection_dim: int = 128) -> None:
        super().__init__()
        dim = encoder.embedding_dim
        self.encoder = encoder
        self.projection_head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, projection_dim))

    def forward(self, images: Tensor) -> Tensor:
        h = self.encoder(images)  # (N, D)
        return self.projection_head(h)  # (N, P)


class ConvNet(nn.Module):
    """Four stages of 3x3 convolution, norm and ReLU, each half the side of the one before, then an average pool:
    the encoder that two cores can train. Under 300,000 parameters."""

    embedding_dim = 128

    def __init__(self, stem: str = "cifar") -> None:
        super().__init__()
        self.stem = _convolution(3, 32) if stem == "cifar" else _convolution(3, 32, kernel_size=7, stride=2)
        self.pool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = nn.Sequential(
            _convolution(32, 64, stride=2), _convolution(64, 128, stride=2), _convolution(128, 128, stride=2)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(self.pool(self.stem(images))).mean(dim=(2, 3))


def _convolution(inputs: int, outputs: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _alexnet() -> nn.Module:
    features = models.alexnet(weights=None).features
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            # He et al. 2015. With PyTorch's default the signal dies out over five layers without normalisation: all z
            # start within a cosine of 0.999, and the loss was still that of chance after 140 steps of iteration 1.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    encoder = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoder.embedding_dim = 256
    return encoder


def _resnet(arch: str, stem: str) -> nn.Module:
    encoder = getattr(models, arch)(weights=None)
    encoder.embedding_dim = encoder.fc.in_features
    encoder.fc = nn.Identity()
    if stem == "cifar":
        encoder.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's others
        encoder.maxpool = nn.Identity()
    return encoder


def _vit(arch: str, image_size: int, dropout: float) -> nn.Module:
    dim, heads = VITS[arch]
    encoder = VisionTransformer(
        image_size=image_size,
        patch_size=patch_size(image_size),
        num_layers=12,
        num_heads=heads,
        hidden_dim=dim,
        mlp_dim=4 * dim,
        dropout=dropout,
    )
    encoder.heads = nn.Identity()
    encoder.embedding_dim = dim
    return replace_dropout(encoder)


def patch_size(image_size: int) -> int:
    """The side of a ViT's patches in pixels: 4, 8 and 16 at 32, 96 and 224 pixels."""
    return 4 if image_size < 64 else 8 if image_size < 160 else 16


def _check(arch: str, stem: str, norm: str, image_size: int, dropout: float) -> None:
    for what, value, choices in (("arch", arch, ARCHS), ("stem", stem, STEMS), ("norm", norm, NORMS)):
        if value not in choices:
            raise ValueError(f"expected {what} to be one of {', '.join(choices)}, got {value!r}")
    if image_size < 1:
        raise ValueError(f"expected image_size of at least 1 pixel, got {image_size}")
    if stem == "cifar" and arch != "convnet" and arch not in RESNETS:
        raise ValueError(f"expected stem='imagenet' with {arch}, got 'cifar', which only convnet and the ResNets have")
    if arch == "alexnet" and image_size < 63:
        raise ValueError(f"expected image_size of at least 63 for alexnet (its strides), got {image_size}")
    if arch in VITS and image_size % patch_size(image_size):
        patch = patch_size(image_size)
        raise ValueError(f"expected image_size to be a multiple of {arch}'s patch of {patch} pixels, got {image_size}")
    if not 0 <= dropout < 1:
        raise ValueError(f"expected dropout in [0, 1), got {dropout}")
    if dropout and arch not in VITS:
        raise ValueError(f"expected dropout=0 with {arch}, got {dropout}: only the ViTs have dropout here")
