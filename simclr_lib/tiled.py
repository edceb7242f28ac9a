"""The losses of many anchors from a tile of logits at a time, forward and backward, in one buffer.

z are 2N projections at length one, P wide; A anchors, T of them in a tile. Autograd would keep, or a checkpoint
allocate again and again, several times (T, 2N); here the softmax is made where the logits were.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def tiled_losses(z: Tensor, anchors: Tensor, temperature: float, tile: int) -> Tensor:
    """`simclr_lib.loss.anchor_losses`, (2N, P), (A,) -> (A,), with memory for one (tile, 2N) and one (2N, P)."""
    return _TiledLosses.apply(z, anchors, temperature, tile)


class _TiledLosses(torch.autograd.Function):
    """With logits s of an anchor, p that of its positive and n the logsumexp of the negatives', the loss is
    log(1 + exp(n - p)). Its derivative with respect to n is w = sigmoid(n - p), and to p, -w; with respect to the
    logit of a negative it is therefore w exp(s - n)."""

    @staticmethod
    def forward(ctx, z: Tensor, anchors: Tensor, temperature: float, tile: int) -> Tensor:
        tile = min(tile, len(anchors))
        buffer, differences, logsumexps = z.new_empty(tile, len(z)), [], []
        for rows in anchors.split(tile):
            logits, positive = _logits(z, rows, temperature, buffer)
            largest = logits.amax(dim=1)
            negatives = logits.sub_(largest[:, None]).exp_().sum(dim=1).log_().add_(largest)
            differences.append(negatives - positive)
            logsumexps.append(negatives)
        differences, logsumexps = torch.cat(differences), torch.cat(logsumexps)
        ctx.save_for_backward(z, anchors, differences, logsumexps)
        ctx.temperature, ctx.tile = temperature, tile
        return -F.logsigmoid(-differences)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        z, anchors, differences, logsumexps = ctx.saved_tensors
        weights = gradient * differences.sigmoid() / ctx.temperature
        buffer, z_gradient = z.new_empty(ctx.tile, len(z)), torch.zeros_like(z)
        parts = (x.split(ctx.tile) for x in (anchors, logsumexps, weights))
        for rows, negatives, weight in zip(*parts, strict=True):
            logits, _ = _logits(z, rows, ctx.temperature, buffer)
            slopes = logits.sub_(negatives[:, None]).exp_()  # 0 where the anchor itself is, and its positive
            slopes.scatter_(1, _positives(z, rows), -1).mul_(weight[:, None])
            with torch.autocast(z.device.type, enabled=False):
                z_gradient.addmm_(slopes.T, z[rows]).index_add_(0, rows, slopes @ z)
        return z_gradient, None, None, None


def _logits(z: Tensor, rows: Tensor, temperature: float, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """In `buffer`: the logits of `rows`, the least that there is in place of themselves and their positives; these."""
    logits = torch.mm(z[rows], z.T, out=buffer[: len(rows)]).div_(temperature)
    positive = logits.gather(1, _positives(z, rows))[:, 0]
    no_negative = torch.cat([rows[:, None], _positives(z, rows)], dim=1)
    return logits.scatter_(1, no_negative, torch.finfo(z.dtype).min), positive


def _positives(z: Tensor, rows: Tensor) -> Tensor:
    return ((rows + len(z) // 2) % len(z))[:, None]
