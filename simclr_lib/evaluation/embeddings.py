"""Images through an encoder as it stands; h of a run's encoder and an image set is computed once and kept with the run.

Evaluation sees images as they are, never an augmented view. N images, D dimensions of h, P of z.
"""

import zlib
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop, convert_image_dtype, resize

from simclr_lib import ImageSet, Run, RunConfig, SimCLR, build_encoder, load_images
from simclr_lib.data.sets import scored_split
from simclr_lib.engine.checks import require
from simclr_lib.engine.device import choose_device
from simclr_lib.engine.progress import progress_bar

PIXELS = 32  # the side at which raw pixels are compared: larger ones say no more about an image as a whole
Embeddings = Mapping[str, Tensor]  # by name, (N, D) of the images at hand


@torch.no_grad()
def embed(
    encoder: nn.Module, images: Tensor, batch_size: int = 256, image_size: int | None = None, center: float = 1.0
) -> Tensor:
    """h of every image: (N, 3, S, S) uint8 or float in [0, 1] -> (N, D) float32 on the CPU; z, where given a SimCLR.

    The encoder runs in eval mode on the device where it is, and is left in the mode it came in. It sees the centre of
    each image: a square of `center` times its side. This is resized to `image_size`, if that is given (bilinear,
    antialiased). More than one batch comes with a progress bar.

    Raises:
        ValueError: if `images` is not (N, 3, S, S) with at least one image.
    """
    filled = images.ndim == 4 and images.shape[1] == 3 and len(images) > 0
    require(filled, "images", "(N, 3, S, S) with N at least 1", tuple(images.shape))
    sides = [round(center * side) for side in images.shape[-2:]]
    seen = sides if image_size is None else [image_size, image_size]
    weight, mode, show = next(encoder.parameters()), encoder.training, len(images) > batch_size
    encoder.eval()
    embeddings = []
    try:
        with progress_bar(len(images), "embedding", "images", leave=False, show=show) as bar:
            for batch in images.split(batch_size):
                views = convert_image_dtype(batch.to(weight.device), weight.dtype)
                embeddings.append(encoder(resize(center_crop(views, sides), seen)).float().cpu())
                bar.update(len(batch))
    finally:
        encoder.train(mode)
    return torch.cat(embeddings)


def load_gallery(config: RunConfig, **options: object) -> ImageSet:
    """The images that a run of `config` is scored on: see `scored_split`; where there is none, those it is trained on.

    options: of `load_images`, in the place of the configuration's.
    """
    given = {"name": config.dataset, "root": config.data_root, **config.image_options, "limit": None, **options}
    split = scored_split(given["name"], given["root"], given["test_share"]) or config.split
    return load_images(**{"split": split, **given})


def load_model(run: Run, epochs: int | None = None) -> SimCLR:
    """Encoder and projection head after so many epochs, in eval mode: 0, or one of `run.snapshots`; None: the last
    state that was kept. It is on the run's device, or, where this machine has no such device, on the best here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)  # as training builds it
        model = SimCLR(build_encoder(**run.config.encoder_options), run.config.projection_dim)
    if epochs != 0:
        model.load_state_dict(run.load_weights(epochs))
    try:
        return model.eval().to(choose_device(run.config.device))
    except ValueError:
        return model.eval().to(choose_device("auto"))


def load_encoder(run: Run, epochs: int | None = None) -> nn.Module:
    """The encoder alone, as `load_model` has it; the last state is also had from encoder.safetensors alone."""
    encoder = load_model(run, epochs or 0).encoder
    if epochs is None:
        encoder.load_state_dict(run.load_encoder_weights())
    return encoder


def embed_as_trained(config: RunConfig, encoder: nn.Module, images: Tensor) -> Tensor:
    """`embed`, with images (N, 3, S, S) brought to the side of the views as the configuration says."""
    return embed(encoder, images, image_size=config.image_size, center=config.seen_center)


def embed_once(run: Run, images: ImageSet, epochs: int | None = None) -> Tensor:
    """h of `images` (N, D) by the encoder after so many epochs (0, a snapshot's; None: the last state that was kept).

    Computed the first time, then read from embeddings/ of the run, where it lies with the ids of the images. The last
    state of a run that has not finished is not kept: it will be another one.
    """

    def embed_now() -> dict[str, np.ndarray]:
        h = embed_as_trained(run.config, load_encoder(run, epochs), images.images)
        return {"ids": images.ids.numpy(), "h": h.numpy()}

    trained = run.config.epochs if epochs is None else epochs
    content = zlib.crc32(images.images.contiguous().numpy(), zlib.crc32(images.ids.numpy()))
    name = f"embeddings/epoch-{trained:04}-of-{len(images)}-images-{content:08x}"
    stays = epochs is not None or run.finished
    return torch.from_numpy((run.kept_arrays(name, embed_now) if stays else embed_now())["h"])


def embed_beside_baselines(run: Run, images: ImageSet) -> dict[str, Tensor]:
    """The trained encoder's h of `images` beside what it must beat: name -> (N, D).

    Raw pixels are those of the image at a side of 32, where it is larger.
    """
    encoders = {"untrained encoder": embed_once(run, images, epochs=0), "trained encoder": embed_once(run, images)}
    return {"raw pixels": raw_pixels(images.images), **encoders}


def raw_pixels(images: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 -> (N, 3 P P) in [0, 1], P the side S, or 32 where that is less."""
    side = min(PIXELS, images.shape[-1])
    return torch.cat([F.adaptive_avg_pool2d(part.float(), side).flatten(1) for part in images.split(256)]) / 255


def stages(run: Run) -> dict[str, int | None]:
    """The states of a run's encoder that there are, from untrained on: name -> its epochs, as `load_model` has them."""
    kept = {f"after {n} epoch{'s' * (n > 1)}": n for n in run.snapshots if n != run.config.epochs}
    return {"untrained encoder": 0, **kept, "trained encoder" if run.finished else "last checkpoint": None}


def embed_over_training(run: Run, images: ImageSet) -> dict[str, Tensor]:
    """h of `images` by the encoder at each of its `stages`: name -> (N, D)."""
    return {name: embed_once(run, images, epochs) for name, epochs in stages(run).items()}


@torch.no_grad()
def project(run: Run, h: Tensor, epochs: int | None = None) -> Tensor:
    """z (N, P), which the loss sees, of h (N, D), on the CPU: by the projection head after so many epochs, as
    `load_model` counts them.

    Raises:
        ValueError: where neither snapshot nor checkpoint is left; encoder.safetensors has no projection head.
    """
    head = load_model(run, epochs).projection_head
    return head(h.to(next(head.parameters()).device)).cpu()
