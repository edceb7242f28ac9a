"""Images through a model as it stands, a batch at a time. N images, D dimensions of what it puts out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop

from simclr_lib.progress import progress_bar


@torch.no_grad()
def embed(
    encoder: nn.Module,
    images: Tensor,
    batch_size: int = 256,
    image_size: int | None = None,
    progress: bool = True,
    center: float = 1.0,
) -> Tensor:
    """h of every image: (N, 3, S, S) uint8 or float in [0, 1] -> (N, D) float32 on the CPU; z, where given a SimCLR.

    The encoder runs in eval mode on the device where it is, and is left in the mode it came in. Of an image it sees
    the centre, this share of its side (`center`). What then has another side than `image_size`, if that is given, is
    resized (bilinear, antialiased).

    Raises:
        ValueError: if `images` is not (N, 3, S, S) with at least one image.
    """
    if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ValueError(f"images: expected (N, 3, S, S) with N at least 1, got {tuple(images.shape)}")
    weight, mode = next(encoder.parameters()), encoder.training
    encoder.eval()
    embeddings = []
    try:
        with progress_bar(len(images), "embedding", "images", leave=False, show=progress) as bar:
            for batch in images.split(batch_size):
                views = _prepare(batch.to(weight.device), image_size, center).to(weight.dtype)
                embeddings.append(encoder(views).float().cpu())
                bar.update(len(batch))
    finally:
        encoder.train(mode)
    return torch.cat(embeddings)


def _prepare(images: Tensor, image_size: int | None, center: float) -> Tensor:
    images = images if images.is_floating_point() else images.float() / 255
    side = round(center * images.shape[-1])
    images = center_crop(images, [side, side]) if side < images.shape[-1] else images
    if image_size is None or images.shape[-2:] == (image_size, image_size):
        return images
    return F.interpolate(images, size=(image_size, image_size), mode="bilinear", antialias=True)
