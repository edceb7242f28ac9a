"""The field's protocols on a run: one call each after `Run.open(path)`, whose results go into its summary.json.

Every call takes what is to be compared as `embeddings`, name -> (N, D) of the images at hand, and by default compares
the trained encoder with the untrained one and raw pixels. Chance stands beside every share; of a colour reading it is
0. Nothing is selected on images that are scored.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from simclr_lib.classification import check_classification
from simclr_lib.config import RunConfig
from simclr_lib.datasets import SPLITS, ImageSet, load_images
from simclr_lib.evaluate import (
    PIXELS,
    Embeddings,
    choose_queries,
    embed_beside_baselines,
    embed_layers,
    embed_over_training,
    raw_pixels,
)
from simclr_lib.health import color_reading, palettes
from simclr_lib.record import Run
from simclr_lib.retrieval import check_k, check_similarity
from simclr_lib.scores import chance_scores, per_class, retrieval_scores

SHOWN = 10  # neighbours of every image that are kept and shown
COLUMNS = 5  # of a table, as many as a page of JupyterLab is wide


def load_gallery(config: RunConfig, **options: Any) -> ImageSet:
    """The images that a run of `config` is scored on: the test split where the data set has one, else all of it.

    options: of `load_images`, in the place of the configuration's.
    """
    split = "test" if "test" in SPLITS[config.dataset] else config.split
    return load_images(config.dataset, split, config.data_root, **{**config.image_options, "limit": None, **options})


def fixed_queries(config: RunConfig, count: int = 6) -> list[int]:
    """Positions in the gallery of `count` images to show the neighbours of: `choose_queries` by raw pixels at 32x32,
    the same for every run on a data set, whatever its encoder and the size of its images."""
    small = load_gallery(config, image_size=PIXELS, resize="squash")
    return choose_queries(raw_pixels(small.images), small.labels, count)


def check_scoring(
    config: RunConfig,
    gallery: ImageSet,
    k: int,
    train_per_class: int,
    sample: int | None = None,
    seeds: Sequence[int] = (0,),
    similarity: str = "cosine",
    query_ids: Sequence[int] = (),
) -> None:
    """Raise a ValueError where scoring `gallery` or showing neighbours would, before the training that they follow."""
    check_k(max(k, SHOWN), len(gallery) - 1)
    check_similarity(similarity)
    _check_list("seeds", seeds, 2**63, least=1)
    _check_list("query_ids", query_ids, len(gallery))
    if train_per_class < 1:
        raise ValueError(f"train_per_class: expected at least 1 image of each class, got {train_per_class}")
    for rows in _samples(gallery.labels, seeds, sample):
        chance_scores(gallery.labels[rows], k)  # refuses what retrieval_scores would refuse
    if len(gallery.labels[gallery.labels >= 0].unique()) > 1:
        check_classification(config, gallery, train_per_class, seeds)


def score_retrieval(
    run: Run,
    images: ImageSet,
    embeddings: Embeddings | None = None,
    k: int = 5,
    seeds: Sequence[int] = (0,),
    sample: int | None = None,
    name: str = "retrieval",
    similarities: Sequence[str] = ("cosine",),
) -> dict:
    """Precision@k, Recall@k and MAP@R, over queries and as mean per class, of `images` among themselves.

    seeds: each scores another random `sample` of the labelled images; None: all of them, whatever the seed.
    similarities: cosine, dot or both, which are then told apart as "h, cosine" and "h, dot".
    Returns, and writes into the summary under `name`: "scores", name -> metric -> one value a seed; "per_class",
    name -> metric -> class -> its mean over seeds; and what they are of.
    """
    embeddings = embeddings or embed_beside_baselines(run, images.images)
    samples = _samples(images.labels, seeds, sample)
    labels = [images.labels[chosen] for chosen in samples]
    tables = {
        encoder if len(similarities) == 1 else f"{encoder}, {similarity}": [
            retrieval_scores(rows[chosen], of, k, similarity) for chosen, of in zip(samples, labels, strict=True)
        ]
        for encoder, rows in embeddings.items()
        for similarity in similarities
    }
    tables["chance"] = [chance_scores(of, k) for of in labels]
    values = {
        "images": [len(of) for of in labels],
        "labelled_images": int((images.labels >= 0).sum()),
        "seeds": list(seeds),
        "queries_alone_in_their_class": [int(table["map@R"].isnan().sum()) for table in tables["chance"]],
        **_means(tables, labels, images.class_names),
    }
    return _record(run, name, values)


def score_layers(run: Run, images: ImageSet, embeddings: Embeddings | None = None, **options: Any) -> dict:
    """h beside z, cosine beside dot product: score_retrieval of `embed_layers`, with its options, under "layers"."""
    embeddings = embeddings or embed_layers(run, images.images)
    return score_retrieval(run, images, embeddings, name="layers", similarities=("cosine", "dot"), **options)


def score_over_training(run: Run, images: ImageSet, embeddings: Embeddings | None = None, **options: Any) -> dict:
    """Before, at each snapshot and after: score_retrieval of `embed_over_training`, under "over_training"."""
    embeddings = embeddings or embed_over_training(run, images.images)
    return score_retrieval(run, images, embeddings, name="over_training", **options)


def score_color(
    run: Run,
    images: ImageSet,
    embeddings: Embeddings | None = None,
    seeds: Sequence[int] = (0,),
    sample: int = 1000,
) -> dict:
    """The colour reading of `health` on a random sample of the images a seed, under "color": name -> reading -> one
    value a seed. Labels are not needed."""
    embeddings = embeddings or embed_beside_baselines(run, images.images)
    readings = {encoder: {} for encoder in embeddings}
    for chosen in _samples(torch.zeros(len(images)), seeds, min(sample, len(images))):
        palette = palettes(images.images[chosen])
        for encoder, rows in embeddings.items():
            for metric, value in color_reading(rows[chosen], palette).items():
                readings[encoder].setdefault(metric, []).append(value)
    return _record(run, "color", {"images": min(sample, len(images)), "seeds": list(seeds), "scores": readings})


def table(values: dict) -> str:
    """What a call here or in `classification` returned: a line a metric, a column an encoder, each with its mean over
    the seeds or draws ± their deviation. More encoders than a page is wide come in parts, one below the other."""
    scores = values["scores"]
    parts = [dict(list(scores.items())[start : start + COLUMNS]) for start in range(0, len(scores), COLUMNS)]
    return "\n\n".join(map(_table, parts))


def _table(scores: dict) -> str:
    metrics = dict.fromkeys(metric for of in scores.values() for metric in of)
    margin, widths = max(map(len, metrics)), {name: max(len(name), 15) + 3 for name in scores}
    lines = [" " * margin + "".join(f"{name:>{width}}" for name, width in widths.items())]
    for metric in metrics:
        cells = {name: _mean_and_deviation(of[metric]) if metric in of else "" for name, of in scores.items()}
        lines.append(f"{metric:{margin}}" + "".join(f"{cells[name]:>{width}}" for name, width in widths.items()))
    return "\n".join(lines)


def _mean_and_deviation(values: list[float]) -> str:
    spread = torch.tensor(values, dtype=torch.float64)
    return f"{spread.mean():.4f}" + (f" ± {spread.std(correction=0):.4f}" if len(values) > 1 else "")


def _check_list(name: str, values: Sequence[int], end: int, least: int = 0) -> None:
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_list or len(values) < least or not all(type(value) is int and 0 <= value < end for value in values):
        some = "a list, not empty," if least else "a list"
        raise ValueError(
            f"{name}: expected {some} of whole numbers from 0 to {end - 1}, got {values!r}; papermill takes a list as "
            "-y 'NAME: [0, 1]', python -m simclr_lib run as -p NAME '[0, 1]'"
        )


def _samples(labels: Tensor, seeds: Sequence[int], sample: int | None) -> list[Tensor]:
    known = (labels >= 0).nonzero().squeeze(1)
    if sample is None:
        return [known for _ in seeds]
    if not 2 <= sample <= len(known):
        raise ValueError(f"sample: expected 2 to the {len(known)} labelled images, got {sample}; choose one, or None")
    drawn = [torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))[:sample] for seed in seeds]
    return [known[rows.sort().values] for rows in drawn]


def _means(tables: dict, labels: list[Tensor], class_names: list[str]) -> dict:
    """Per-query tables, one an encoder and seed -> "scores" and "per_class"."""
    scores, by_class = {}, {}
    for encoder, drawn in tables.items():
        of_classes = [
            {metric: per_class(values, of, len(class_names)) for metric, values in table.items()}
            for table, of in zip(drawn, labels, strict=True)
        ]
        scores[encoder] = {m: [table[m].nanmean().item() for table in drawn] for m in drawn[0]}
        scores[encoder] |= {f"{m}, mean per class": [of[m].nanmean().item() for of in of_classes] for m in drawn[0]}
        means = {m: torch.stack([of[m] for of in of_classes]).nanmean(0).tolist() for m in drawn[0]}
        by_class[encoder] = {
            m: {name: mean for name, mean in zip(class_names, of, strict=True) if not math.isnan(mean)}
            for m, of in means.items()
        }
    return {"scores": scores, "per_class": by_class}


def _record(run: Run, name: str, values: dict) -> dict:
    run.add_to_summary(**{name: values})
    return values
