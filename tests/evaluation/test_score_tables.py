"""Scores as tables: a row a metric, mean and deviation apart, kept value by value."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from simclr_lib import Run
from simclr_lib.evaluation.scores import class_table, keep_scores, score_table

COMMITTED = sorted((Path(__file__).parents[2] / "runs").glob("*/summary.json"))


def test_a_table_has_a_row_a_metric_and_mean_and_deviation_over_seeds():
    scores = {
        "a": {"precision@5": [0.5, 0.7], "recall@5": [1.0, 1.0]},
        "b": {"precision@5": [0.5, 0.6, 1.0], "probe": [0.2, 0.4, 0.4]},
        "by chance": {"precision@5": [0.1]},
    }
    table = score_table(scores)
    assert list(table.index) == ["precision@5", "recall@5", "probe"]
    assert list(table.columns) == [(name, kind) for name in scores for kind in ("mean", "deviation")]
    assert table["a", "mean"].tolist() == pytest.approx([0.6, 1.0, math.nan], nan_ok=True)
    assert table["a", "deviation"].tolist() == pytest.approx([0.1, 0.0, math.nan], nan_ok=True)
    of_three = math.sqrt((0.2**2 + 0.1**2 + 0.3**2) / 3)  # about 0.7, of these values themselves
    assert table.loc["precision@5", ("b", "deviation")] == pytest.approx(of_three)
    assert table.loc["precision@5", ("by chance", "mean")] == 0.1
    assert table["by chance", "deviation"].isna().all()  # of one value there is none


def test_scores_are_kept_value_by_value_beside_what_is_known_of_them(run):
    scores = {
        "h": pd.DataFrame({"precision@5": [0.1 + 0.2, 0.5], "probe": np.array([0.25, 1.0])}),
        "chance": pd.DataFrame({"precision@5": [1 / 3]}),
    }
    run.add_to_summary(other=1)
    table = keep_scores(run, "mine", scores, images=[3, 3], note="so")
    expected = {
        "images": [3, 3],
        "note": "so",
        "scores": {"h": {"precision@5": [0.1 + 0.2, 0.5], "probe": [0.25, 1.0]}, "chance": {"precision@5": [1 / 3]}},
    }
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["mine"] == expected
    assert summary["other"] == 1
    pd.testing.assert_frame_equal(table, score_table(summary["mine"]["scores"]))


def test_a_class_table_has_precision_class_by_class(run):
    per_class = {
        "h": {"precision@7": {"ant": 0.5, "bee": 0.25}, "recall@7": {"ant": 1.0, "bee": 1.0}},
        "chance": {"precision@7": {"ant": 0.1}, "recall@7": {"ant": 0.9}},
    }
    run.add_to_summary(retrieval={"per_class": per_class})
    table = class_table(run)
    assert table.columns.name == "precision@7"
    assert table["h"].to_dict() == {"ant": 0.5, "bee": 0.25}
    assert table.loc["ant", "chance"] == 0.1
    assert math.isnan(table.loc["bee", "chance"])


@pytest.mark.parametrize("file", COMMITTED, ids=[file.parent.name for file in COMMITTED])
def test_the_scores_of_the_committed_runs_are_tables_too(file):
    summary = json.loads(file.read_text())
    scored = {name: of["scores"] for name, of in summary.items() if isinstance(of, dict) and "scores" in of}
    for scores in scored.values():
        table = score_table(scores)
        for encoder, metrics in scores.items():
            for metric, values in metrics.items():
                assert table.loc[metric, (encoder, "mean")] == pytest.approx(np.mean(values), rel=1e-12)
                spread = np.std(values) if len(values) > 1 else math.nan
                found = table.loc[metric, (encoder, "deviation")]
                assert found == pytest.approx(spread, rel=1e-9, abs=1e-15, nan_ok=True)
    if "retrieval" in scored:
        per_class = summary["retrieval"]["per_class"]
        table = class_table(Run.open(file.parent))
        assert list(table.columns) == list(per_class)
        assert table["trained encoder"].to_dict() == per_class["trained encoder"][table.columns.name]
