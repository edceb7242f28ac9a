"""What a run's encoder retrieves, one call each after `Run.open(path)`: a table, whose values go into summary.json.

Every call takes what is to be compared as `embeddings`, name -> (N, D) of the images at hand, and by default compares
the trained encoder with the untrained one and raw pixels. Chance stands beside every share; of a colour reading it is
0. Nothing is selected on images that are scored. N images, y labels of a part of them.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from simclr_lib import ImageSet, Run
from simclr_lib.engine.checks import require
from simclr_lib.engine.seeds import permutation
from simclr_lib.evaluation.embeddings import Embeddings
from simclr_lib.evaluation.readings import color_reading, palettes
from simclr_lib.retrieval import chance_scores, retrieval_scores

SEEDS = (0, 1, 2)  # of the evaluation: each scores other images, or trains the probe on others


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
    samples = [(rows, images.labels[rows]) for rows in draw_samples(images.labels >= 0, seeds, sample)]
    queries = {}  # name -> a table a sample: a row per query, its class as the index
    for encoder, h in embeddings.items():
        for kind in similarities:
            compared = encoder if len(similarities) == 1 else f"{encoder}, {kind}"
            queries[compared] = [pd.DataFrame(retrieval_scores(h[rows], y, k, kind), y.tolist()) for rows, y in samples]
    queries["chance"] = [pd.DataFrame(chance_scores(y, k), y.tolist()) for _, y in samples]
    means = {compared: _means(tables) for compared, tables in queries.items()}
    per_class = {compared: _per_class(tables, images.class_names) for compared, tables in queries.items()}
    drawn = {"images": [len(y) for _, y in samples], "seeds": list(seeds)[: len(samples)]}
    alone = [int(table["map@R"].isna().sum()) for table in queries["chance"]]
    counts = {"labelled_images": int((images.labels >= 0).sum()), "queries_alone_in_their_class": alone}
    return keep_scores(run, name, means, **drawn, **counts, per_class=per_class)


def score_color(
    run: Run, images: ImageSet, embeddings: Embeddings, seeds: Sequence[int] = SEEDS, sample: int = 1000
) -> pd.DataFrame:
    """How far neighbours agree in colour, whatever they show: `color_reading` of a random sample a seed, under "color".

    color_agreement is 0 where neighbours are as alike in colour as random images, and 1 where they are as alike as the
    nearest images by colour alone; color_following is the rank correlation of similarity in h with similarity in
    colour. No label is read.
    """
    samples = draw_samples(torch.ones(len(images)), seeds, sample)
    colors = [(rows, palettes(images.images[rows])) for rows in samples]
    readings = {name: [color_reading(h[rows], palette) for rows, palette in colors] for name, h in embeddings.items()}
    return keep_scores(run, "color", readings, images=len(samples[0]), seeds=list(seeds)[: len(samples)])


def draw_samples(mask: Tensor, seeds: Sequence[int], sample: int | None) -> list[Tensor]:
    """Positions of a random part of the images under `mask` (N,), for each seed; of all of them, once, where there are
    no more than `sample`."""
    rows = mask.nonzero().squeeze(1)
    if sample is None or sample >= len(rows):
        return [rows]
    return [rows[permutation(len(rows), seed)[:sample].sort().values] for seed in seeds]


def _means(queries: list[pd.DataFrame]) -> pd.DataFrame:
    """Means over queries and over classes, a row a sample. queries: a table a sample, a row per query, by class."""
    over_queries = pd.DataFrame([table.mean() for table in queries])
    over_classes = pd.DataFrame([table.groupby(level=0).mean().mean() for table in queries])
    return over_queries.join(over_classes.add_suffix(", mean per class"))


def _per_class(queries: list[pd.DataFrame], class_names: list[str]) -> dict[str, dict[str, float]]:
    """metric -> class -> its mean over the samples that score it; `queries` as in `_means`."""
    each = pd.concat([table.groupby(level=0).mean() for table in queries]).groupby(level=0).mean()
    named = each.rename(dict(enumerate(class_names)))
    return {metric: column.dropna().to_dict() for metric, column in named.items()}


def keep_scores(run: Run, name: str, scores: Mapping[str, pd.DataFrame | list[dict]], **facts: object) -> pd.DataFrame:
    """Write scores into the run's summary under `name`, as "scores" beside the facts about them; returns their table.

    scores: encoder -> a row a sample or draw, a column a metric; as a table, or as a dictionary a row.
    """
    kept = {encoder: pd.DataFrame(rows).to_dict("list") for encoder, rows in scores.items()}
    run.add_to_summary(**{name: {**facts, "scores": kept}})
    return score_table(kept)


def score_table(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> pd.DataFrame:
    """The "scores" of a summary, encoder -> metric -> a value a sample or draw, as a table: a row a metric.

    Columns are (encoder, "mean") and (encoder, "deviation"), the standard deviation of these values; it is NaN where
    there is one value alone, and both are where an encoder has no such score.
    """
    columns = {}
    for encoder, metrics in scores.items():
        values = pd.DataFrame(metrics)
        deviation = values.std(ddof=0).where(values.count() > 1)
        columns[encoder] = pd.DataFrame({"mean": values.mean(), "deviation": deviation})
    return pd.concat(columns, axis=1)


def class_table(run: Run) -> pd.DataFrame:
    """precision@k class by class, from the summary's retrieval scores: a row a class, a column an encoder or chance;
    NaN for a class that has no score. The name of its columns is the metric."""
    require("retrieval" in run.summary, "summary", "retrieval scores", "none", "call score_retrieval first")
    tables = run.summary["retrieval"]["per_class"]
    (metric,) = (metric for metric in tables["chance"] if metric.startswith("precision@"))
    return pd.DataFrame({encoder: metrics[metric] for encoder, metrics in tables.items()}).rename_axis(columns=metric)
