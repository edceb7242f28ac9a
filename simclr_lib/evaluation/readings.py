"""The numbers of health: tensors in, numbers out.

z_a, z_b are the projections of two views of the same images, row by row; h are embeddings of the images themselves.
N images, P projection dimensions, D embedding dimensions, B palette bins.
"""

import math

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import convert_image_dtype

PALETTE_LEVELS = 5  # of each of red, green and blue


def similarities(z_a: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines, in [-1, 1], of the N positive pairs (N,) and of all other pairs of the 2N views (2N(N - 1),)."""
    cosines, of_one_image = _cosines(z_a, z_b), _of_one_image(len(z_a))
    return cosines.diagonal(len(z_a)), cosines[(~of_one_image).triu()]


def alignment(z_a: Tensor, z_b: Tensor) -> float:
    """Mean squared distance of the positives on the unit sphere: 0 (one point) to 4 (Wang and Isola 2020, alpha 2)."""
    return (_unit(z_a) - _unit(z_b)).square().sum(1).mean().item()


def uniformity(z: Tensor) -> float:
    """Log of the mean of exp(-2 d^2) over all pairs, d their distance on the unit sphere (Wang and Isola 2020, t 2).

    0 where all are one point; about -4 where they spread over a sphere of many dimensions.
    """
    return F.pdist(_unit(z)).square().mul(-2).exp().mean().log().item()


def deviation(z: Tensor) -> float:
    """Mean over dimensions of the deviation of the l2-normalised z, times sqrt(P) (Chen and He 2021, SimSiam, 4.1).

    1 where they spread evenly in all directions (each dimension deviates by 1 / sqrt(P)), 0 where all are one point.
    """
    return _unit(z).std(0, correction=0).mean().item() * math.sqrt(z.shape[1])


def effective_rank(h: Tensor) -> float:
    """exp of the entropy of the singular values' shares of their sum: 1 to min(N, D) (Garrido et al. 2023, RankMe).

    1 where all are one point, or lie on one line through 0; the number of directions where they fill these evenly.
    """
    values = torch.linalg.svdvals(h.double())
    return torch.special.entr(values / values.sum().clamp(min=1e-300)).sum().exp().item()


def contrastive_accuracy(z_a: Tensor, z_b: Tensor) -> float:
    """Share of the 2N anchors whose positive is closer than all 2N - 2 negatives; a tie (to 1e-9) counts as a miss."""
    cosines = _cosines(z_a, z_b)
    positive = cosines.diagonal(len(z_a)).repeat(2)  # (2N,): both views of an image have the one similarity
    negatives = cosines.masked_fill(_of_one_image(len(z_a)), -math.inf)
    return (positive > negatives.amax(1) + 1e-9).double().mean().item()


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows.double(), dim=1)


def _cosines(*rows: Tensor) -> Tensor:
    unit = _unit(torch.cat(rows))
    return unit @ unit.T


def _of_one_image(n: int) -> Tensor:
    """Which pairs of the 2N views are of one image, bool (2N, 2N): a view with itself and with its positive."""
    return torch.eye(n, dtype=torch.bool).repeat(2, 2)


def contrast(images: Tensor) -> float:
    """The deviation of an image's pixels from one colour, 0 to 127.5 of 255: the median over (N, 3, S, S) uint8."""
    return torch.stack([image.float().flatten(1).std(1, correction=0).max() for image in images]).median().item()


def palettes(images: Tensor) -> Tensor:
    """Which colours an image has, whatever their places: (N, 3, S, S) uint8 or float in [0, 1] -> (N, B).

    Each row sums to 1: a histogram of 125 colours, five levels each of red, green and blue (Swain and Ballard 1991).
    """
    return torch.stack([_palette(image) for image in images])


def _palette(image: Tensor) -> Tensor:
    levels = (convert_image_dtype(image, torch.float32) * PALETTE_LEVELS).long().clamp(0, PALETTE_LEVELS - 1)
    red, green, blue = levels.flatten(1)  # (S * S,) each
    colors = (red * PALETTE_LEVELS + green) * PALETTE_LEVELS + blue
    return colors.bincount(minlength=PALETTE_LEVELS**3) / len(colors)


def palette_similarity(palette: Tensor) -> Tensor:
    """The share of colour that two images have in common, in [0, 1]: (N, B) -> (N, N), histogram intersection."""
    return torch.stack([torch.minimum(row, palette).sum(1) for row in palette])


def color_reading(h: Tensor, palette: Tensor, k: int = 5) -> dict[str, float]:
    """How far the embedding h (N, D) follows colour, given the palettes (N, B).

    color_agreement: the palette similarity of the k nearest neighbours by cosine of h, on a scale on which random
        pairs have 0 and the k nearest by palette itself have 1.
    color_following: Spearman's rank correlation, over all pairs, of their cosine of h with their palette similarity
        (representational similarity analysis, Kriegeskorte et al. 2008); -1 to 1.
    Either is 0 where it cannot be told: where all images have one palette, or all embeddings are one.
    """
    by_h, by_color = _cosines(h), palette_similarity(palette).double()
    i, j = torch.triu_indices(len(h), len(h), offset=1)
    random = by_color[i, j].mean()
    to_others = [table.clone().fill_diagonal_(-math.inf) for table in (by_h, by_color)]
    near, nearest = (by_color.gather(1, table.topk(min(k, len(h) - 1)).indices).mean() for table in to_others)
    flat = by_h[i, j].std() < 1e-9 or by_color[i, j].std() < 1e-9
    agreement = 0.0 if flat or nearest - random < 1e-9 else ((near - random) / (nearest - random)).item()
    ranks = pd.DataFrame(torch.stack([by_h[i, j], by_color[i, j]], dim=1).numpy()).rank()
    following = 0.0 if flat else float(np.corrcoef(ranks, rowvar=False)[0, 1])
    return {"color_agreement": agreement, "color_following": following}


def reading(z_a: Tensor, z_b: Tensor, h: Tensor, palette: Tensor) -> dict:
    """Every number above for one state of a model, and how many positive and other pairs lie in each of 40 bins of
    similarity, from -1 to 1. Rows that are not finite give {"finite": False} alone."""
    if not all(rows.isfinite().all() for rows in (z_a, z_b, h)):
        return {"finite": False}
    positives, others = similarities(z_a, z_b)
    return {
        "finite": True,
        "positive_mean": positives.mean().item(),
        "other_mean": others.mean().item(),
        "alignment": alignment(z_a, z_b),
        "uniformity": (uniformity(z_a) + uniformity(z_b)) / 2,  # together, the positives would count as pairs
        "deviation": deviation(torch.cat([z_a, z_b])),
        "effective_rank_z": effective_rank(torch.cat([z_a, z_b])),
        "effective_rank_h": effective_rank(h),
        "contrastive_accuracy": contrastive_accuracy(z_a, z_b),
        **color_reading(h, palette),
        "positives": _histogram(positives),
        "others": _histogram(others),
    }


def _histogram(cosines: Tensor) -> list[int]:
    return torch.histc(cosines.clamp(-1, 1), bins=40, min=-1, max=1).int().tolist()
