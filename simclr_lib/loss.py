"""NT-Xent, the normalised temperature-scaled cross entropy (SimCLR, section 2.1, equation 1).

N images, two views each, P projection dimensions, T anchors of a tile, A of all.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr_lib.tiled import tiled_losses

DENSE_LOGITS = 2**18  # those of 256 images; of more, tiles are faster: on two CPUs 1.3 to 1.9 times at 1,024 and 2,048
TILE = 512  # anchors


def nt_xent(
    z_a: Tensor, z_b: Tensor, temperature: float = 0.5, *, anchors: slice = slice(None), tile: int | None = None
) -> Tensor:
    """The mean over the 2N anchors of -log softmax of their positive among the 2N - 1 other views.

    The official code sums the means over both views' anchors, so its loss is twice this one.

    Args:
        z_a, z_b: (N, P), the projections of the two views of the same N images, at any scale: they are
            l2-normalised here. float16 and bfloat16 are promoted to float32; float64 stays.
        temperature: positive; divides the cosine similarities.
        anchors: the images whose views are anchors; all by default. The losses over the parts of a batch add up to
            the loss over the whole, and so do their gradients: each process takes its own part.
        tile: the number of anchors T whose logits, (T, 2N), are held at once; None: all up to 256 images, then 512.
            A tile is computed again for its gradient, so that memory is O(N T) and the logits of 2N x 2N never are.

    Returns:
        A scalar; chance is ln(2N - 1).

    Raises:
        ValueError: if the shapes differ or are not (N, P), dtypes or devices differ, the temperature is not positive,
            the tile is below 1, or a row is zero (it has no direction, so no cosine similarity).
    """
    _check(z_a, z_b, temperature, tile)
    n = len(z_a)
    images = torch.arange(n, device=z_a.device)[anchors]
    rows = torch.cat([images, images + n])  # of z, the views of these images
    with torch.autocast(z_a.device.type, enabled=False):  # which would take the product below in half precision
        z = normalize(torch.cat([z_a, z_b]))  # (2N, P)
        if tile is None and len(rows) * 2 * n <= DENSE_LOGITS:
            losses = anchor_losses(z, rows, temperature)
        else:
            losses = tiled_losses(z, rows, temperature, tile or TILE)
    return losses.sum() / (2 * n)


def anchor_losses(z: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """The loss of each anchor among all views: z (2N, P) at length one, anchors (A,) rows of z -> (A,)."""
    positives = (anchors + len(z) // 2) % len(z)
    rows = z if len(anchors) == len(z) else z[anchors]  # indexing costs a tenth of the loss
    logits = rows @ z.T / temperature  # (A, 2N)
    positive = logits.gather(1, positives[:, None])[:, 0]
    no_negative = torch.stack([anchors, positives], dim=1)  # the anchor itself and its positive
    negatives = logits.scatter(1, no_negative, torch.finfo(z.dtype).min).logsumexp(dim=1)
    # -log(e^p / (e^p + e^n)), as a difference first: cross_entropy rounds the small losses of aligned views away.
    return -F.logsigmoid(positive - negatives)


def normalize(z: Tensor) -> Tensor:
    """Rows of `z`, (M, P), at length one, in float32 or float64; rows as small or large as the dtype holds keep
    their direction, because each is first scaled by its largest entry. Raises ValueError at a zero row."""
    if z.dtype in (torch.float16, torch.bfloat16):
        z = z.float()
    largest = z.detach().abs().amax(dim=1, keepdim=True)  # a positive scale cancels, so it needs no gradient
    zero_rows = (largest == 0).sum().item()
    if zero_rows:
        raise ValueError(
            f"expected projections with a direction, got {zero_rows} zero rows of {len(z)}: "
            "the model has collapsed or its output layer is zero; lower the learning rate or check the head"
        )
    z = z / largest
    return z / z.norm(dim=1, keepdim=True)


def _check(z_a: Tensor, z_b: Tensor, temperature: float, tile: int | None) -> None:
    if z_a.ndim != 2 or z_a.shape != z_b.shape or len(z_a) == 0:
        raise ValueError(
            f"expected two projections of the same shape (N, P), got {tuple(z_a.shape)} and {tuple(z_b.shape)}"
        )
    if not z_a.is_floating_point() or z_a.dtype != z_b.dtype:
        raise ValueError(f"expected two projections of one floating dtype, got {z_a.dtype} and {z_b.dtype}")
    if z_a.device != z_b.device:
        raise ValueError(
            f"expected two projections on one device, got {z_a.device} and {z_b.device}; move one with .to"
        )
    if not 0 < temperature < float("inf"):
        raise ValueError(f"expected a positive, finite temperature, got {temperature}; SimCLR uses 0.05 to 1")
    if tile is not None and tile < 1:
        raise ValueError(f"tile: expected None or at least 1 anchor at a time, got {tile}")
