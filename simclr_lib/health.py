"""How a representation fares, read off a few images: tensors in, numbers and alarms out.

z_a, z_b are the projections of two views of the same images, row by row; h are embeddings of the images themselves.
N images, P projection dimensions, D embedding dimensions, B palette bins.
"""

import math

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

PALETTE_LEVELS = 5  # of each of red, green and blue
COLOR_NEIGHBORS = 5  # nearest neighbours whose colours are compared with their query's
RATE_RULE = {  # learning rate at batch 256, and where it is from; see `alarms` for other batches
    "sgd": 0.1,  # Goyal et al. 2017, arXiv:1706.02677
    "lars": 0.3,  # SimCLR, section 2.2
    "adamw": 1.5e-4,  # Chen, Xie and He 2021, arXiv:2104.02057 (MoCo v3), section 4
}


@torch.no_grad()
def similarities(z_a: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines, in [-1, 1], of the N positive pairs (N,) and of all other pairs of the 2N views (2N(N - 1),)."""
    n, z = len(z_a), F.normalize(torch.cat([z_a, z_b]).double(), dim=1)
    table = z @ z.T
    i, j = torch.triu_indices(2 * n, 2 * n, offset=1)
    positive = j == i + n
    return table[i[positive], j[positive]], table[i[~positive], j[~positive]]


@torch.no_grad()
def alignment(z_a: Tensor, z_b: Tensor) -> float:
    """Mean squared distance of the positives on the unit sphere: 0 (one point) to 4 (Wang and Isola 2020, alpha 2)."""
    return (F.normalize(z_a.double(), dim=1) - F.normalize(z_b.double(), dim=1)).square().sum(1).mean().item()


@torch.no_grad()
def uniformity(z: Tensor) -> float:
    """Log of the mean of exp(-2 d^2) over all pairs, d their distance on the unit sphere (Wang and Isola 2020, t 2).

    0 where all are one point; about -4 where they spread over a sphere of many dimensions.
    """
    return F.pdist(F.normalize(z.double(), dim=1)).square().mul(-2).exp().mean().log().item()


@torch.no_grad()
def deviation(z: Tensor) -> float:
    """Mean over dimensions of the deviation of the l2-normalised z, times sqrt(P) (Chen and He 2021, SimSiam, 4.1).

    1 where they spread evenly in all directions (each dimension deviates by 1 / sqrt(P)), 0 where all are one point.
    """
    return F.normalize(z.double(), dim=1).std(0, correction=0).mean().item() * math.sqrt(z.shape[1])


@torch.no_grad()
def effective_rank(h: Tensor) -> float:
    """exp of the entropy of the singular values' shares of their sum: 1 to min(N, D) (Garrido et al. 2023, RankMe).

    1 where all are one point, or lie on one line through 0; the number of directions where they fill these evenly.
    """
    values = torch.linalg.svdvals(h.double())
    return torch.special.entr(values / values.sum().clamp(min=1e-300)).sum().exp().item()


@torch.no_grad()
def contrastive_accuracy(z_a: Tensor, z_b: Tensor) -> float:
    """Share of the 2N anchors whose positive is closer than all 2N - 2 negatives; a tie (to 1e-9) counts as a miss."""
    n, z = len(z_a), F.normalize(torch.cat([z_a, z_b]).double(), dim=1)
    table = (z @ z.T).fill_diagonal_(-math.inf)
    partner = (torch.arange(2 * n) + n) % (2 * n)
    positive = table[torch.arange(2 * n), partner]
    negatives = table.scatter(1, partner[:, None], -math.inf).max(dim=1).values
    return (positive > negatives + 1e-9).double().mean().item()


def palettes(images: Tensor) -> Tensor:
    """Which colours an image has, whatever their places: (N, 3, S, S) uint8 or float in [0, 1] -> (N, B).

    Each row sums to 1: a histogram of 125 colours, five levels each of red, green and blue (Swain and Ballard 1991).
    """
    return torch.cat([_palettes(part) for part in images.split(64)])  # each pixel takes some 70 bytes meanwhile


def _palettes(images: Tensor) -> Tensor:
    levels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    levels = (levels * PALETTE_LEVELS).long().clamp(0, PALETTE_LEVELS - 1)
    red, green, blue = levels.flatten(2).unbind(1)
    colors = (red * PALETTE_LEVELS + green) * PALETTE_LEVELS + blue  # (N, S * S)
    counts = torch.zeros(len(images), PALETTE_LEVELS**3)
    return counts.scatter_add(1, colors, torch.ones(colors.shape)) / colors.shape[1]


def palette_similarity(palette: Tensor) -> Tensor:
    """The share of colour that two images have in common, in [0, 1]: (N, B) -> (N, N), histogram intersection."""
    return torch.stack([torch.minimum(row, palette).sum(1) for row in palette])


@torch.no_grad()
def color_reading(h: Tensor, palette: Tensor, k: int = COLOR_NEIGHBORS) -> dict[str, float]:
    """How far the embedding h (N, D) follows colour, given the palettes (N, B).

    color_agreement: the palette similarity of the k nearest neighbours by cosine of h, on a scale on which random
        pairs have 0 and the k nearest by palette itself have 1.
    color_following: Spearman's rank correlation, over all pairs, of their cosine of h with their palette similarity
        (representational similarity analysis, Kriegeskorte et al. 2008); -1 to 1.
    Either is 0 where it cannot be told: where all images have one palette, or all embeddings are one.
    """
    h = F.normalize(h.double(), dim=1)
    by_h, by_color = h @ h.T, palette_similarity(palette).double()
    i, j = torch.triu_indices(len(h), len(h), offset=1)
    random = by_color[i, j].mean()
    near, nearest = (
        by_color.gather(1, table.clone().fill_diagonal_(-math.inf).topk(min(k, len(h) - 1)).indices).mean()
        for table in (by_h, by_color)
    )
    flat = by_h[i, j].std() < 1e-9 or by_color[i, j].std() < 1e-9
    return {
        "color_agreement": 0.0 if flat or nearest - random < 1e-9 else ((near - random) / (nearest - random)).item(),
        "color_following": 0.0 if flat else float(spearmanr(by_h[i, j], by_color[i, j]).statistic),
    }


def reading(z_a: Tensor, z_b: Tensor, h: Tensor, palette: Tensor) -> dict[str, float]:
    """Every number above for one state of a model. Rows that are not finite give {"finite": False} alone."""
    if not all(rows.isfinite().all() for rows in (z_a, z_b, h)):
        return {"finite": False}
    positives, others = similarities(z_a, z_b)
    return {
        "finite": True,
        "positive_mean": positives.mean().item(),
        "positive_variance": positives.var(correction=0).item(),
        "other_mean": others.mean().item(),
        "other_variance": others.var(correction=0).item(),
        "alignment": alignment(z_a, z_b),
        "uniformity": (uniformity(z_a) + uniformity(z_b)) / 2,  # together, the positives would count as pairs
        "deviation": deviation(torch.cat([z_a, z_b])),
        "effective_rank_z": effective_rank(torch.cat([z_a, z_b])),
        "effective_rank_h": effective_rank(h),
        "contrastive_accuracy": contrastive_accuracy(z_a, z_b),
        **color_reading(h, palette),
    }


def alarms(
    reading: dict[str, float],
    *,
    loss: float,
    batch_size: int,
    temperature: float,
    optimizer: str,
    learning_rate: float,
    lr_scaling: str = "linear",
) -> dict[str, str]:
    """What is wrong, in plain words with the figure and the likely remedy: name of the alarm -> its text.

    reading: of `reading`. loss: mean of the last epoch's. learning_rate: the peak one, after scaling.
    A network at its start may well ring some; call this once the warm-up is over. lr_scaling: as in RunConfig.
    """
    if not reading["finite"] or not math.isfinite(loss):
        what = "The loss" if reading["finite"] else "An embedding"
        return {"non-finite": f"{what} is not finite. Lower learning_rate, or lengthen warmup_epochs."}
    chance, by_root = math.log(2 * batch_size - 1), lr_scaling == "sqrt"  # SimCLR, appendix B.1, for small batches
    rule = RATE_RULE[optimizer] * (batch_size / 256) ** (0.5 if by_root else 1)
    best = math.log1p((2 * batch_size - 2) * math.exp(-1 / temperature))  # positives at 1, all else at 0
    spread, rank = reading["deviation"], reading["effective_rank_z"]
    gap = reading["positive_mean"] - reading["other_mean"]
    agreement, following = reading["color_agreement"], reading["color_following"]
    ringing = {
        "chance": (
            chance - loss < 0.02 * (chance - best),
            f"The loss is that of chance: {loss:.3f}, where guessing has {chance:.3f} and telling all apart "
            f"{best:.2f}. Check that images and views differ; try another learning_rate, or a longer warm-up.",
        ),
        "collapse": (
            spread < 0.1 or rank < 2,
            f"The projections have collapsed: their spread is {spread:.3f} of an even one, in {rank:.1f} of their "
            "dimensions. Lower learning_rate or lengthen warmup_epochs; normalise (norm), or train larger batches.",
        ),
        "alike": (
            gap < 0.05,
            f"All similarities are alike: {reading['positive_mean']:.3f} between the two views of an image, "
            f"{reading['other_mean']:.3f} between those of different images. The model tells nothing apart: "
            "weaken the augmentation, train longer, or lower temperature.",
        ),
        "color": (
            agreement > 0.5 and following > 0.5,
            f"Colour is a shortcut: in colour, neighbours are {agreement:.0%} of the way from random images to those "
            f"nearest by colour alone, and similarity follows colour with a rank correlation of {following:.2f}. "
            "Raise color_strength (the paper has 1).",
        ),
        "learning rate": (
            not rule / 10 <= learning_rate <= rule * 10,
            f"The learning rate is far from the rule: {learning_rate:g}, where {optimizer} at batch {batch_size:,} has "
            f"{rule:g} ({RATE_RULE[optimizer]:g} x {'sqrt(batch / 256)' if by_root else 'batch / 256'}). "
            "Set learning_rate, or lr_scaling.",
        ),
    }
    return {name: text for name, (rings, text) in ringing.items() if rings}
