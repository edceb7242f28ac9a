"""Neighbours of a run: which queries to show, and the table of all neighbours.

N images, D embedding dimensions, k neighbours.
"""

import torch
from torch import Tensor

from simclr_lib.config import RunConfig
from simclr_lib.data.sets import ImageSet
from simclr_lib.engine.seeds import permutation
from simclr_lib.evaluation.embeddings import PIXELS, load_gallery, raw_pixels
from simclr_lib.retrieval import neighbor_hits, top_k_neighbors
from simclr_lib.run import Run

SHOWN = 10  # neighbours of every image that are kept, and by which queries are chosen
CHOSEN: dict[int, list[int]] = {}  # by the checksum of a set: each section of a notebook asks for its queries


def fixed_queries(config: RunConfig) -> list[int]:
    """Positions in the gallery of six images to show the neighbours of: `choose_queries` by raw pixels at 32x32, the
    same for every run on a data set, whatever its encoder and the size of its images."""
    small = load_gallery(config, image_size=PIXELS, resize="squash")
    content = small.checksum(torch.arange(len(small)))
    if content not in CHOSEN:
        CHOSEN[content] = choose_queries(raw_pixels(small.images), small.labels)
    return CHOSEN[content]


def choose_queries(rows: Tensor, labels: Tensor, count: int = 6, k: int = SHOWN) -> list[int]:
    """Positions of `count` images of different classes to show the neighbours of: a third those with the best
    precision@k by `rows` (N, D), a third median ones, a third the worst; equals are in a random but fixed order.

    Without labels (-1) they are random ones.
    """
    order = permutation(len(rows), seed=0)
    known = order[labels[order] >= 0]
    if len(known) <= k:
        return order[:count].tolist()
    indices, _ = top_k_neighbors(rows[known], k=k)
    precision = neighbor_hits(indices, labels[known], labels[known]).double().mean(1)
    ranked = known[precision.sort(descending=True, stable=True).indices]
    from_the_middle = (torch.arange(len(ranked)) - len(ranked) // 2).abs().argsort(stable=True)
    of_different_classes = len(labels[known].unique()) >= count
    chosen = {}
    for third, candidates in enumerate([ranked, ranked[from_the_middle], ranked.flip(0)], start=1):
        for row in candidates.tolist():
            if 3 * len(chosen) < count * third:
                chosen.setdefault(int(labels[row]) if of_different_classes else row, row)
    return list(chosen.values())


def record_neighbors(run: Run, images: ImageSet, h: Tensor, k: int = SHOWN) -> tuple[Tensor, Tensor]:
    """Find the top-k neighbours of every image among the set itself, by cosine of `h` (N, D), and keep them.

    Writes neighbors.npz: ids (N,), neighbors (N, k) as ids, similarities (N, k).

    Returns:
        indices and similarities, each (N, k); an index is a position in `images`.
    """
    indices, similarities = top_k_neighbors(h, k=k)
    run.save_arrays("neighbors", ids=images.ids, neighbors=images.ids[indices], similarities=similarities)
    return indices, similarities
