"""The pictures of a run: one call each after `Run.open(path)`; they are saved in its figures/ and returned to be shown.

Queries are positions in `images`; k neighbours are shown of each.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from simclr_lib.canvas import save_figure
from simclr_lib.comparisons import class_bars, embedding_map, score_bars
from simclr_lib.datasets import ImageSet
from simclr_lib.evaluate import (
    Embeddings,
    embed_as_trained,
    embed_layers,
    embed_over_training,
    load_encoder,
    map_2d,
    neighbors_of_file,
)
from simclr_lib.histories import health_curves, loss_and_rate, similarity_history
from simclr_lib.plots import neighbor_grid, neighbor_rows
from simclr_lib.record import Run
from simclr_lib.retrieval import top_k_neighbors


def keep(run: Run, name: str, figure: Figure) -> Figure:
    """Save `figure` as figures/<name>.png of the run, and return it."""
    save_figure(figure, run.figure(name))
    return figure


def training_picture(run: Run) -> Figure:
    """Loss against chance and the learning rate: loss.png."""
    epochs = f"{run.config.epochs} epoch{'s' if run.config.epochs > 1 else ''}"
    title = f"{run.config.arch} on {run.config.dataset}, {epochs}"
    return keep(run, "loss", loss_and_rate(run.metrics(), run.config.batch_size, title))


def similarity_picture(run: Run) -> Figure:
    """How the similarities of positives and of other pairs spread over training: similarity.png."""
    return keep(
        run, "similarity", similarity_history(run.metrics("health"), "Similarity of z on images never trained on")
    )


def health_picture(run: Run) -> Figure:
    """The other readings of health over training: health.png."""
    return keep(run, "health", health_curves(run.metrics("health"), "Health, on images never trained on"))


def score_picture(run: Run, name: str, metrics: Sequence[str], title: str | None = None) -> Figure:
    """Bars of what a call of `scoring` or `classification` left in the summary under `name`, mean over its seeds or
    draws: <name>.png."""
    scores = dict(run.summary[name]["scores"])
    chance = scores.pop("chance", {})
    known = dict.fromkeys(metric for of in scores.values() for metric in of)
    if not set(metrics) <= set(known):
        raise ValueError(f"metrics: expected some of {', '.join(known)}, got {', '.join(metrics)}")
    groups = {m: {encoder: _mean(of[m]) for encoder, of in scores.items() if m in of} for m in metrics}
    return keep(run, name, score_bars(groups, title, {m: _mean(chance[m]) for m in metrics if m in chance}))


def class_picture(run: Run) -> Figure:
    """precision@k class by class, from the summary's retrieval scores: per_class.png."""
    tables = run.summary["retrieval"]["per_class"]
    (metric,) = (metric for metric in tables["chance"] if metric.startswith("precision@"))
    shares = {encoder: of[metric] for encoder, of in reversed(tables.items())}  # the trained encoder comes last
    chance = shares.pop("chance")
    return keep(run, "per_class", class_bars(shares, chance, f"{metric}, class by class"))


def neighbor_picture(
    run: Run,
    images: ImageSet,
    h: Tensor,
    queries: Sequence[int],
    k: int = 7,
    similarity: str = "cosine",
    name: str = "neighbors",
    title: str = "Nearest neighbours after training",
) -> Figure:
    """The nearest of the embeddings `h` (N, D) to each query: <name>.png."""
    found, title = top_k_neighbors(h, k=k, similarity=similarity), f"{title} ({similarity})"
    figure = neighbor_grid(images.images, queries, *found, images.labels, images.class_names, title=title)
    return keep(run, name, figure)


def neighbors_over_training(
    run: Run, images: ImageSet, queries: Sequence[int], embeddings: Embeddings | None = None, k: int = 6
) -> Figure:
    """The same queries before training, halfway and after: neighbors_over_training.png."""
    found = list((embeddings or embed_over_training(run, images.images)).items())
    halfway = found[len(found) // 2 : -1][:1]
    variants = dict([found[0], *halfway, found[-1]])
    return _rows(run, "neighbors_over_training", images, queries, variants, k, "Neighbours over training")


def neighbors_by_layer(
    run: Run, images: ImageSet, queries: Sequence[int], embeddings: Embeddings | None = None, k: int = 6
) -> Figure:
    """The same queries by h and by z: neighbors_by_layer.png."""
    layers = embeddings or embed_layers(run, images.images)
    return _rows(
        run, "neighbors_by_layer", images, queries, layers, k, "Neighbours by h, and by z, which the loss sees"
    )


def neighbors_of_two_runs(run: Run, other: Run, images: ImageSet, queries: Sequence[int], k: int = 6) -> Figure:
    """The same queries by this run's encoder and by that of another: neighbors_of_two_runs.png."""
    variants = {
        name: embed_as_trained(of, load_encoder(of), images.images)
        for name, of in zip(_names(run, other), (run, other), strict=True)
    }
    return _rows(run, "neighbors_of_two_runs", images, queries, variants, k, "The same queries, two runs")


def _names(run: Run, other: Run) -> tuple[str, str]:
    """What tells them apart: the one setting in which they differ, else their directories."""
    differences = run.config.differences(other.config)
    if len(differences) != 1:
        return f"this: {run.path.name}", f"other: {other.path.name}"
    ((setting, values),) = differences.items()
    return tuple(f"{setting.replace('_', ' ')} {value}" for value in values)


def file_picture(run: Run, path: str, images: ImageSet, h: Tensor, k: int = 7) -> Figure:
    """The nearest of a set, with embeddings `h` (N, D), to an image file: neighbors_of_file.png."""
    _require_rows(h, images)
    image, indices, similarities = neighbors_of_file(run, path, h, k)
    figure = neighbor_grid(
        image,
        [0],
        indices,
        similarities,
        None,
        images.class_names,
        images.images,
        images.labels,
        f"Nearest to {Path(path).name}",
    )
    return keep(run, "neighbors_of_file", figure)


def map_picture(run: Run, images: ImageSet, h: Tensor, sample: int = 1500, seed: int = 0) -> Figure:
    """A map of a random `sample` of the embeddings `h` (N, D), by t-SNE, with thumbnails: map.png."""
    _require_rows(h, images)
    rows = torch.randperm(len(h), generator=torch.Generator().manual_seed(seed))[:sample]
    some = images.subset(rows)
    title = f"t-SNE of h, {len(rows):,} images"
    return keep(
        run, "map", embedding_map(map_2d(h[rows], seed), some.images, some.labels, some.class_names, title=title)
    )


def _rows(
    run: Run, name: str, images: ImageSet, queries: Sequence[int], variants: Mapping[str, Tensor], k: int, title: str
) -> Figure:
    found = {variant: top_k_neighbors(rows, k=k) for variant, rows in variants.items()}
    return keep(run, name, neighbor_rows(images.images, queries, found, images.labels, images.class_names, title))


def _require_rows(h: Tensor, images: ImageSet) -> None:
    if len(h) != len(images):
        raise ValueError(
            f"h: expected the embeddings of the {len(images):,} images, got {len(h):,}; embed these images"
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
