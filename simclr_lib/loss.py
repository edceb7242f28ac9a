"""NT-Xent, the normalised temperature-scaled cross entropy (SimCLR, section 2.1, equation 1).

Shapes: N images with two views each, P projection dimensions, A anchors, T of them in a tile.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr_lib.engine.checks import require

DENSE_LOGITS = 2**18  # as for 256 images; above, tiles are faster: 1.3 to 1.9 times at 1,024 and 2,048 on two CPUs
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
        anchors: the images whose views are anchors, by default all. The losses of the parts of a batch add up to the
            loss of the whole, and so do their gradients; that is how processes share it.
        tile: the number of anchors T whose logits, (T, 2N), are held at a time; None: all up to 256 images, then 512.
            Tiles are computed again for the gradient, so that memory is O(N T), without any table of 2N x 2N.

    Returns:
        A scalar; chance is ln(2N - 1).

    Raises:
        ValueError: for projections that are not (N, P) of one shape, floating dtype and device, a zero row (it has no
            direction, so no cosine similarity), a temperature that is not positive and finite, and a tile below 1.
    """
    _check(z_a, z_b, temperature, tile)
    n = len(z_a)
    images = torch.arange(n, device=z_a.device)[anchors]
    rows = torch.cat([images, images + n])  # of z, the views of these images
    with torch.autocast(z_a.device.type, enabled=False):  # it would compute the logits in half precision
        z = normalize(torch.cat([z_a, z_b]))  # (2N, P)
        if tile is None and len(rows) * 2 * n <= DENSE_LOGITS:
            losses = anchor_losses(z, rows, temperature)
        else:
            losses = tiled_losses(z, rows, temperature, tile or TILE)
    return losses.sum() / (2 * n)


def normalize(z: Tensor) -> Tensor:
    """The rows of `z`, (M, P), at length one, in float32 or float64. Raises ValueError at a zero row.

    Each row is first divided by its largest entry, so that no row is too small or too large for its dtype.
    """
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    largest = z.detach().abs().amax(dim=1, keepdim=True)  # a positive scale cancels, so it needs no gradient
    zero_rows = (largest == 0).sum().item()
    cause = "the model has collapsed or its output layer is zero: lower the learning rate or check the head"
    require(zero_rows == 0, "z", "rows with a direction", f"{zero_rows} zero rows of {len(z)}", cause)
    return F.normalize(z / largest)


def anchor_losses(z: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """The loss of each anchor among all views: z (2N, P) at length one, anchors (A,) rows of z -> (A,).

    With p the logit of its positive and n the logsumexp of those of its negatives, the loss is -log(e^p / (e^p + e^n)).
    """
    logits, positive = _logits(z, anchors, temperature)
    # cross_entropy would round the small losses of aligned views away
    return -F.logsigmoid(positive - logits.logsumexp(dim=1))


def tiled_losses(z: Tensor, anchors: Tensor, temperature: float, tile: int) -> Tensor:
    """`anchor_losses` in the memory of one (T, 2N) and one (2N, P): z (2N, P), anchors (A,) -> (A,).

    Autograd would keep several (T, 2N), and a checkpoint would allocate them again and again. Here one buffer holds
    the logits of every tile, and then what is made of them.
    """
    return _TiledLosses.apply(z, anchors, temperature, tile)


class _TiledLosses(torch.autograd.Function):
    """The loss, with p and n as above, is log(1 + exp(n - p)). Its derivative with respect to n is w = sigmoid(n - p),
    with respect to p it is -w, and so with respect to the logit s of one negative it is w exp(s - n)."""

    @staticmethod
    def forward(ctx, z: Tensor, anchors: Tensor, temperature: float, tile: int) -> Tensor:
        tile = min(tile, len(anchors))
        buffer, parts = z.new_empty(tile, len(z)), []
        for rows in anchors.split(tile):
            logits, positive = _logits(z, rows, temperature, buffer)
            largest = logits.amax(dim=1)
            negatives = logits.sub_(largest[:, None]).exp_().sum(dim=1).log_().add_(largest)
            parts.append((negatives - positive, negatives))
        differences, logsumexps = map(torch.cat, zip(*parts, strict=True))
        ctx.save_for_backward(z, anchors, differences, logsumexps)
        ctx.temperature, ctx.tile = temperature, tile
        return -F.logsigmoid(-differences)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        z, anchors, differences, logsumexps = ctx.saved_tensors
        weights = gradient * differences.sigmoid() / ctx.temperature
        buffer, z_gradient = z.new_empty(ctx.tile, len(z)), torch.zeros_like(z)
        parts = (x.split(ctx.tile) for x in (anchors, logsumexps, weights))
        with torch.autocast(z.device.type, enabled=False):
            for rows, negatives, weight in zip(*parts, strict=True):
                logits, _ = _logits(z, rows, ctx.temperature, buffer)
                slopes = logits.sub_(negatives[:, None]).exp_()  # 0 at the anchor itself and at its positive
                slopes.scatter_(1, _positives(z, rows), -1).mul_(weight[:, None])
                z_gradient.addmm_(slopes.T, z[rows]).index_add_(0, rows, slopes @ z)
        return z_gradient, None, None, None


def _logits(z: Tensor, anchors: Tensor, temperature: float, buffer: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The logits of the anchors with their negatives, (T, 2N), and with their positives, (T,).

    The first lie in `buffer` if there is one. Where the anchor itself and its positive would be, they are the smallest
    number of the dtype, whose exponential is 0.
    """
    rows = z if len(anchors) == len(z) else z[anchors]  # indexing costs a tenth of the loss
    out = None if buffer is None else buffer[: len(anchors)]
    logits = torch.mm(rows, z.T, out=out).div_(temperature)
    positives = _positives(z, anchors)
    positive = logits.gather(1, positives)[:, 0]
    no_negative = torch.cat([anchors[:, None], positives], dim=1)
    return torch.scatter(logits, 1, no_negative, torch.finfo(z.dtype).min, out=out), positive


def _positives(z: Tensor, anchors: Tensor) -> Tensor:
    """The other view of each anchor's image, as a row of z: (T, 1)."""
    return ((anchors + len(z) // 2) % len(z))[:, None]


def _check(z_a: Tensor, z_b: Tensor, temperature: float, tile: int | None) -> None:
    a, b = (f"{tuple(z.shape)} {z.dtype} on {z.device}" for z in (z_a, z_b))
    usable = z_a.ndim == 2 and len(z_a) > 0 and z_a.is_floating_point()
    require(a == b and usable, "z_a, z_b", "(N, P) of one shape, floating dtype and device", f"{a} and {b}")
    require(0 < temperature < torch.inf, "temperature", "a finite number above 0", temperature, "SimCLR uses 0.05 to 1")
    require(tile is None or tile >= 1, "tile", "None or at least 1 anchor at a time", tile)
