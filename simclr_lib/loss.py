"""NT-Xent, the normalised temperature-scaled cross entropy (SimCLR, section 2.1, equation 1).

N images, two views each, P projection dimensions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(z_a: Tensor, z_b: Tensor, temperature: float = 0.5) -> Tensor:
    """The mean over the 2N anchors of -log softmax of their positive among the 2N - 1 other views.

    The official code sums the means over both views' anchors, so its loss is twice this one.

    Args:
        z_a, z_b: (N, P), the projections of the two views of the same N images, at any scale: they are
            l2-normalised here. float16 and bfloat16 are promoted to float32; float64 stays.
        temperature: positive; divides the cosine similarities.

    Returns:
        A scalar; chance is ln(2N - 1).

    Raises:
        ValueError: if the shapes differ or are not (N, P), the temperature is not positive, or a row is zero
            (it has no direction, so no cosine similarity).
    """
    _check(z_a, z_b, temperature)
    n = len(z_a)
    with torch.autocast(z_a.device.type, enabled=False):  # which would take the product below in half precision
        z = normalize(torch.cat([z_a, z_b]))  # (2N, P)
        logits = z @ z.T / temperature  # (2N, 2N)
    positive = logits.diagonal(n).repeat(2)  # of anchor i at column i + N, and the same for anchor i + N at column i
    no_negative = torch.eye(n, dtype=torch.bool, device=z.device).repeat(2, 2)  # the anchor itself and its positive
    negatives = logits.masked_fill(no_negative, torch.finfo(z.dtype).min).logsumexp(dim=1)
    # -log(e^p / (e^p + e^n)), as a difference first: cross_entropy rounds the small losses of aligned views away.
    return -F.logsigmoid(positive - negatives).mean()


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


def _check(z_a: Tensor, z_b: Tensor, temperature: float) -> None:
    if z_a.ndim != 2 or z_a.shape != z_b.shape or len(z_a) == 0:
        raise ValueError(
            f"expected two projections of the same shape (N, P), got {tuple(z_a.shape)} and {tuple(z_b.shape)}"
        )
    if not z_a.is_floating_point() or z_a.dtype != z_b.dtype:
        raise ValueError(f"expected two projections of one floating dtype, got {z_a.dtype} and {z_b.dtype}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"expected a positive, finite temperature, got {temperature}; SimCLR uses 0.05 to 1")
