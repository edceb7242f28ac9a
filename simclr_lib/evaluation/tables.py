"""Scores as tables: kept in the run's summary value by value, returned as a DataFrame, a row a metric."""

from collections.abc import Mapping, Sequence

import pandas as pd

from simclr_lib import Run
from simclr_lib.engine.checks import require


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
