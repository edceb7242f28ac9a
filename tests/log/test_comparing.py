"""Runs beside each other: the table, the list to choose from, and the paper's grid against sums by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from simclr_lib import Run, RunConfig
from simclr_lib.log import comparing

KNN = "knn@20 top1"


def make_run(path: Path, knn: list[float] | None, **fields: object) -> Run:
    run = Run.start(path, RunConfig(dataset="cifar10", **fields))
    if knn is not None:
        run.add_to_summary(classification={"scores": {"trained encoder": {KNN: knn}, "raw pixels": {KNN: [0.1]}}})
    return run


@pytest.fixture
def sweep(tmp_path) -> pd.DataFrame:
    """Two temperatures by two batch sizes, at three rates; one cell has but two runs, one none that was scored."""
    for temperature, batch, scores in ((0.1, 64, (0.2, 0.4, 0.6)), (0.1, 128, (0.5, 0.7)), (0.5, 64, (0.1, 0.1, 0.4))):
        for rate, knn in zip((0.5, 1.0, 1.5), scores, strict=False):
            name = f"t{temperature} b{batch} r{rate}"
            make_run(tmp_path / name, [knn], temperature=temperature, batch_size=batch, learning_rate=rate)
    make_run(tmp_path / "not scored", None, temperature=0.5, batch_size=128)
    return Run.list(tmp_path).set_index("run")


def test_runs_differ_in_what_their_configurations_differ_in(sweep):
    differ = comparing.differing(sweep)
    assert {*differ.index} == {"temperature", "batch_size", "learning_rate"}
    assert differ["t0.1 b64 r0.5"].to_dict() == {"temperature": 0.1, "batch_size": 64, "learning_rate": 0.5}
    assert comparing.differing(sweep.iloc[:1]).empty


def test_no_choice_is_a_choice_too_but_the_machine_is_none(tmp_path):
    for name, limit in (("all", None), ("fewer", 100)):
        make_run(tmp_path / name, [0.5], limit_images=limit, temperature=0.1 if limit else None, device="cpu")
    make_run(tmp_path / "elsewhere", [0.5], temperature=None, data_root="/data", num_workers=3)
    frame = Run.list(tmp_path).set_index("run")
    assert {*comparing.differing(frame).index} == {"limit_images", "temperature"}
    with pytest.raises(ValueError, match=r"frame: .*got limit_images: .*100"):
        comparing.grid(frame, "temperature", "batch_size", KNN, ["seed"])
    with pytest.raises(ValueError, match=r"rows, columns: .*got temprature, batch_size"):
        comparing.grid(frame, "temprature", "batch_size", KNN, ["seed"])


def test_the_grid_is_the_mean_over_learning_rates(sweep):
    grid = comparing.grid(sweep, "temperature", "batch_size", KNN, ["learning_rate", "seed"])
    assert [*grid.index] == [0.1, 0.5]
    assert [*grid.columns] == [(size, of) for size in (64, 128) for of in ("mean", "std", "count")]
    assert np.allclose(grid.loc[0.1], [0.4, 0.2, 3, 0.6, np.sqrt(0.02), 2])
    assert np.allclose(grid.loc[0.5, 64], [0.2, np.sqrt(0.03), 3])
    assert grid.loc[0.5, 128].isna().all()


def test_a_grid_of_runs_that_differ_in_more_is_refused_by_name(tmp_path, sweep):
    make_run(tmp_path / "other", [0.9], temperature=0.1, batch_size=64, arch="resnet18", device="cpu")
    frame = Run.list(tmp_path).set_index("run")
    with pytest.raises(ValueError, match=r"frame: .*got arch: (convnet, resnet18|resnet18, convnet);"):
        comparing.grid(frame, "temperature", "batch_size", KNN, ["learning_rate"])
    with pytest.raises(ValueError, match=r"frame: .*got learning_rate: 0.5, 1.0, 1.5; choose"):
        comparing.grid(sweep, "temperature", "batch_size", KNN, [])
    with pytest.raises(ValueError, match=r"metric: .*'map@R'"):
        comparing.grid(frame, "temperature", "batch_size", "map@R", ["learning_rate"])


def test_without_a_front_end_the_table_of_the_chosen_stands_alone(sweep, capsys, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    chosen = comparing.choose(sweep, ["not scored"], ["temperature"])
    assert [*chosen.value] == ["not scored"]
    assert "b64" not in capsys.readouterr().out
    assert [*comparing.choose(sweep, [], ["temperature"]).value] == [*sweep.index]
    with pytest.raises(ValueError, match=r"compare: .*not scored.*got nobody"):
        comparing.choose(sweep, ["nobody"], ["temperature"])


def test_in_jupyterlab_the_table_follows_the_list(sweep, capsys, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    chooser = comparing.choose(sweep, ["not scored"], ["temperature"])
    assert chooser.options == tuple(sweep.index)
    assert chooser.value == ("not scored",)
    capsys.readouterr()
    chooser.value = ("t0.1 b64 r0.5",)
    shown = capsys.readouterr().out
    assert "t0.1 b64 r0.5" in shown
    assert "not scored" not in shown
