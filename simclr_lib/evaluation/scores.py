"""What a run's encoder retrieves, one call each after `Run.open(path)`; the scores also go into its summary.json.

Every call takes what is to be compared as `embeddings`, name -> (N, D) of the images at hand, and by default compares
the trained encoder with the untrained one and raw pixels. Chance stands beside every share; of a colour reading it is
0. Nothing is selected on images that are scored. N images.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from simclr_lib.config import RunConfig
from simclr_lib.data.sets import ImageSet
from simclr_lib.engine.checks import require
from simclr_lib.engine.seeds import permutation
from simclr_lib.evaluation.classification import SEEDS, require_classes
from simclr_lib.evaluation.embeddings import Embeddings
from simclr_lib.evaluation.neighbors import SHOWN
from simclr_lib.evaluation.readings import color_reading, palettes
from simclr_lib.evaluation.tables import keep_scores
from simclr_lib.retrieval import chance_scores, require_k, retrieval_scores
from simclr_lib.run import Run


def require_scorable(
    config: RunConfig, gallery: ImageSet, neighbors_k: int, evaluation_images: int | None, seeds: Sequence[int] = SEEDS
) -> None:
    """Raise a ValueError where scoring `gallery` would, or showing its neighbours, before the training they follow."""
    require(len(gallery) > SHOWN, "images", f"more than the {SHOWN} neighbours that are kept of each", len(gallery))
    require_k(neighbors_k, len(gallery) - 1, "neighbors_k")
    enough = evaluation_images is None or evaluation_images >= 2
    require(enough, "evaluation_images", "at least 2; more than there are means all", evaluation_images)
    for rows in _samples(_labelled(gallery), seeds, evaluation_images):
        chance_scores(gallery.labels[rows], neighbors_k)  # refuses what retrieval_scores would refuse
    if len(gallery.labels[_labelled(gallery)].unique()) > 1:
        require_classes(config, gallery, seeds)


def score_retrieval(
    run: Run,
    images: ImageSet,
    embeddings: Embeddings,
    k: int = 5,
    seeds: Sequence[int] = SEEDS,
    sample: int | None = None,
    name: str = "retrieval",
    similarities: Sequence[str] = ("cosine",),
) -> pd.DataFrame:
    """Precision@k, Recall@k and MAP@R, over queries and as mean per class, of `images` among themselves.

    sample: where there are more labelled images, each of `seeds` scores another random part of so many; else all are
    scored, once. similarities: cosine, dot or both, which are then told apart as "h, cosine" and "h, dot".
    Returns the `score_table`; into the summary go, under `name`, "scores", name -> metric -> one value a seed;
    "per_class", name -> metric -> class -> its mean over seeds; and what they are of.
    """
    samples = _samples(_labelled(images), seeds, sample)
    labels = [images.labels[rows] for rows in samples]
    queries = {}  # name -> the scores of every query, a sample at a time
    for encoder, h in embeddings.items():
        for similarity in similarities:
            compared = encoder if len(similarities) == 1 else f"{encoder}, {similarity}"
            queries[compared] = [retrieval_scores(h[rows], images.labels[rows], k, similarity) for rows in samples]
    queries["chance"] = [chance_scores(classes, k) for classes in labels]
    means, by_class = {}, {}
    for compared, scores in queries.items():
        means[compared], by_class[compared] = _means(scores, labels, images.class_names)
    facts = {
        "images": [len(rows) for rows in samples],
        "labelled_images": len(_labelled(images)),
        "seeds": list(seeds)[: len(samples)],
        "queries_alone_in_their_class": [int(chance["map@R"].isnan().sum()) for chance in queries["chance"]],
    }
    return keep_scores(run, name, means, **facts, per_class=by_class)


def score_color(
    run: Run, images: ImageSet, embeddings: Embeddings, seeds: Sequence[int] = SEEDS, sample: int = 1000
) -> pd.DataFrame:
    """How far neighbours agree in colour, whatever they show: `color_reading` of a random sample a seed, under "color".

    color_agreement is 0 where neighbours are as alike in colour as random images, and 1 where they are as alike as the
    nearest images by colour alone; color_following is the rank correlation of similarity in h with similarity in
    colour. No label is read.
    """
    samples = _samples(torch.arange(len(images)), seeds, sample)
    colors = [(rows, palettes(images.images[rows])) for rows in samples]
    readings = {
        encoder: pd.DataFrame([color_reading(h[rows], palette) for rows, palette in colors])
        for encoder, h in embeddings.items()
    }
    return keep_scores(run, "color", readings, images=len(samples[0]), seeds=list(seeds)[: len(samples)])


def _labelled(images: ImageSet) -> Tensor:
    return (images.labels >= 0).nonzero().squeeze(1)


def _samples(rows: Tensor, seeds: Sequence[int], sample: int | None) -> list[Tensor]:
    """A random part of `rows` for each seed; all of them, once, where there are no more than `sample`."""
    if sample is None or sample >= len(rows):
        return [rows]
    return [rows[permutation(len(rows), seed)[:sample].sort().values] for seed in seeds]


def _means(
    scores: list[dict[str, Tensor]], labels: list[Tensor], class_names: list[str]
) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """Means over queries and over classes, a row a sample; and the mean of each class over samples, by metric and name.

    scores: a dictionary a sample, metric -> one value a query (N,). labels: of these queries, (N,) a sample.
    """
    by_sample = [pd.DataFrame(table, index=classes.numpy()) for table, classes in zip(scores, labels, strict=True)]
    queries = pd.concat(by_sample, keys=range(len(by_sample)), names=["sample", "class"])
    classes = queries.groupby(["sample", "class"]).mean()
    per_class = classes.groupby("sample").mean().add_suffix(", mean per class")
    each = classes.groupby("class").mean().rename(dict(enumerate(class_names)))
    means = queries.groupby("sample").mean().join(per_class)
    return means, {metric: column.dropna().to_dict() for metric, column in each.items()}
