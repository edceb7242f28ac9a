"""How well a set retrieves its own classes: precision@k, Recall@k and MAP@R of every image; tensors in, tensors out.

Each image is a query among all the others (`rank_among_themselves`: not itself, equal rows by the lowest id). A query
whose class has no other image cannot be answered: its scores are NaN, and means leave it out.

N images, C classes, k neighbours, R the number of other images of a query's class.
"""

import torch
from torch import Tensor

from simclr_lib.retrieval import check_k, neighbor_hits, rank_among_themselves


def retrieval_scores(rows: Tensor, labels: Tensor, k: int = 5, similarity: str = "cosine") -> dict[str, Tensor]:
    """Scores of every image of a set, each (N,) float64 in [0, 1] or NaN: embeddings (N, D), labels (N,) from 0.

    precision@k: share of the k neighbours that are of the class. recall@k: whether one of them is, as metric learning
    counts it (Musgrave et al. 2020, section 2). map@R: mean over ranks i to R of precision@i where the i-th is of the
    class, else 0 (the same, section 4.3.1). Memory: some 30 bytes for each of N times the largest class.

    Raises:
        ValueError: as rank_among_themselves and neighbor_hits do; for a label of -1 (unlabelled) among others.
    """
    relevant = _others_of_the_class(labels)
    indices = rank_among_themselves(rows, max(k, int(relevant.max())), similarity)
    hits = neighbor_hits(indices, labels, labels)
    ranks = torch.arange(1, hits.shape[1] + 1).double()
    counted = hits & (ranks <= relevant[:, None])
    return _without_unanswerable(
        {
            f"precision@{k}": hits[:, :k].double().mean(1),
            f"recall@{k}": hits[:, :k].any(1).double(),
            "map@R": (hits.cumsum(1) / ranks * counted).sum(1) / relevant,
        },
        relevant,
    )


def chance_scores(labels: Tensor, k: int = 5) -> dict[str, Tensor]:
    """What `retrieval_scores` of a random order are in expectation, each (N,); labels (N,) from 0."""
    others, relevant = len(labels) - 1, _others_of_the_class(labels)
    check_k(k, others)
    wrong = others - relevant
    drawn = torch.arange(k).double()
    missed = ((wrong[:, None] - drawn).clamp(min=0) / (others - drawn)).prod(1)  # hypergeometric: no hit in k draws
    # P(hit at rank i) = R / others; given that, each of the i - 1 ranks before it has (R - 1) / (others - 1).
    share, before = relevant.double() / others, (relevant - 1).double() / max(others - 1, 1)
    harmonic = (1 / torch.arange(1, int(relevant.max()) + 1).double()).cumsum(0)
    inverse_ranks = torch.cat([harmonic.new_zeros(1), harmonic])[relevant]  # sum over i to R of 1 / i
    return _without_unanswerable(
        {
            f"precision@{k}": share,
            f"recall@{k}": 1 - missed,
            "map@R": share * (inverse_ranks + before * (relevant - inverse_ranks)) / relevant,
        },
        relevant,
    )


def per_class(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean of `values` (N,) over each class, NaN left out: (C,), NaN for a class that has no value."""
    counted = ~values.isnan()
    sums = torch.zeros(classes, dtype=values.dtype).index_add(0, labels[counted], values[counted])
    return sums / labels[counted].bincount(minlength=classes)


def _others_of_the_class(labels: Tensor) -> Tensor:
    if len(labels) < 2 or int(labels.min()) < 0 or int(labels.bincount().max()) < 2:
        raise ValueError(
            f"labels: expected a label from 0 for each of at least 2 images, two of a class, got {len(labels)} from "
            f"{int(labels.min()) if len(labels) else 'none'}; leave unlabelled images out with subset(labels >= 0)"
        )
    return labels.bincount()[labels] - 1


def _without_unanswerable(scores: dict[str, Tensor], relevant: Tensor) -> dict[str, Tensor]:
    return {name: values.where(relevant > 0, torch.nan) for name, values in scores.items()}
