"""Runs as a list: which, in what order, which is best; a damaged one hides no other."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from simclr_lib import Run, RunConfig
from simclr_lib.__main__ import main
from simclr_lib.log.listing import best, lines, list_runs

ROOT = Path(__file__).parents[2]


def make_run(path: Path, loss: float, knn: float | None = None, hours: float = 5, **fields: object) -> Run:
    run = Run.start(path, RunConfig(dataset="cifar10", epochs=20, **fields))
    run.log("step", step=0, epoch=0, loss=9.0)
    run.log("epoch", step=0, epoch=0, loss=loss)
    started = f"{datetime.now(UTC) - timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}"
    run._write("environment.json", {"sessions": [{"started": started}, {"started": "2030-01-01T00:00:00Z"}]})
    run._set_status("finished")
    if knn is not None:
        run.add_to_summary(classification={"scores": {"trained encoder": {"knn@20 top1": [knn]}}})
    return run


@pytest.fixture
def runs(tmp_path) -> Path:
    make_run(tmp_path / "a", 5.5, 0.3, arch="resnet18", learning_rate=0.5)
    make_run(tmp_path / "deep/b", 5.0, 0.5, hours=0.5)
    make_run(tmp_path / "c", 4.5, hours=100)
    (tmp_path / "d").mkdir()
    (tmp_path / "d/config.json").write_text("{")
    return tmp_path


def names(rows: list[dict]) -> list[str]:
    return [row["run"] for row in rows]


def test_every_run_has_a_row_with_its_parameters_and_scores(runs):
    a, c, d, b = list_runs(runs)
    assert names([a, b, c, d]) == ["a", "deep/b", "c", "d"]
    assert a.items() >= {"state": "finished", "arch": "resnet18", "epochs": 20, "epochs_done": 1, "loss": 5.5}.items()
    assert (a["knn@20 top1"], b["knn@20 top1"], "knn@20 top1" in c) == (0.3, 0.5, False)
    assert d["error"].startswith("ValueError")
    assert "config.json" in d["error"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["arch=resnet18"], ["a"]),
        (["arch=convnet"], ["c", "deep/b"]),
        (["learning_rate=5e-1"], ["a"]),
        (["blur=true", "arch=convnet"], ["c", "deep/b"]),
        (["limit_images=none"], ["a", "c", "deep/b"]),
        (["state=finished", "run=c"], ["c"]),
        (["arch=vit_tiny"], []),
    ],
)
def test_conditions_choose(runs, where, expected):
    assert names(list_runs(runs, where)) == expected


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("loss", ["a", "deep/b", "c", "d"]),
        ("knn@20 top1", ["deep/b", "a", "c", "d"]),
        ("arch", ["c", "deep/b", "a", "d"]),
        ("run", ["a", "c", "d", "deep/b"]),
    ],
)
def test_any_column_sorts_and_what_lacks_it_comes_last(runs, sort, expected):
    assert names(list_runs(runs, sort=sort)) == expected


def test_a_column_that_no_run_has_is_refused_with_the_nearest(runs, tmp_path):
    for arguments in ({"sort": "los"}, {"where": ["los=3"]}):
        with pytest.raises(ValueError, match=r"^los: .*did you mean loss\?$"):
            list_runs(runs, **arguments)
    assert list_runs(tmp_path / "nothing", sort="los") == []
    with pytest.raises(ValueError, match="where: expected conditions such as arch=resnet18, got arch"):
        list_runs(runs, where=["arch"])


def test_a_folder_that_is_not_there_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["list", "--runs", str(tmp_path / "nothing")])
    assert f"runs: expected a folder of runs, got {tmp_path}/nothing" in capsys.readouterr().err


def test_what_is_no_number_is_null_in_json(runs, capsys):
    Run.open(runs / "c").log("epoch", step=1, epoch=1, loss=float("nan"))
    main(["list", "--runs", str(runs), "--json"])
    printed = capsys.readouterr().out
    assert "NaN" not in printed
    assert [row["loss"] for row in json.loads(printed) if "error" not in row] == [5.5, None, 5.0]


def test_a_line_a_run_says_what_it_came_to(runs):
    heading, a, c, d, b = lines(list_runs(runs))
    assert heading.split() == ["RUN", "STATE", "DATA", "ENCODER", "EPOCHS", "LOSS", "(CHANCE)", "SCORE", "AGE"]
    chance = f"({RunConfig().chance_loss:.3f})"
    assert a.split() == [
        "a",
        "finished",
        "cifar10",
        "resnet18",
        "1/20",
        "5.500",
        chance,
        "knn@20",
        "top1",
        "0.300",
        "5",
        "h",
    ]
    assert b.split()[-5:] == ["knn@20", "top1", "0.500", "30", "min"]
    assert c.split()[-3:] == [chance, "4", "d"]
    assert d.startswith("d ")
    assert "cannot be read: ValueError" in d
    starts = {line.index(word) for line, word in ((heading, "STATE"), (a, "finished"), (b, "finished"), (d, "cannot"))}
    assert len(starts) == 1
    assert lines([]) == ["  ".join(["RUN", "STATE", "DATA", "ENCODER", "EPOCHS", "LOSS (CHANCE)", "SCORE", "AGE"])]


def test_the_best_says_which_images_chose_it(runs):
    rows = list_runs(runs)
    row, images = best(rows, "knn@20 top1")
    assert (row["run"], images) == ("deep/b", "TEST IMAGES")
    row, images = best(rows, "loss")
    assert (row["run"], images) == ("c", "the images that it was trained on")
    Run.open(runs / "c").add_to_summary(mine={"scores": {"trained encoder": {"p": [1]}}, "scored_on": "a sample"})
    assert best(list_runs(runs), "p")[1] == "a sample"
    with pytest.raises(ValueError, match="metric: expected one that a run has, got 'knn'"):
        best(rows, "knn")
    of_caltech = [{**rows[0], "dataset": "caltech101", "test_share": 0.0}]
    assert best(of_caltech, "knn@20 top1")[1] == "the images that it was trained on"
    with pytest.raises(ValueError, match="runs: expected those on one data set, got caltech101, cifar10"):
        best([*rows, *of_caltech], "loss")


@pytest.mark.child
def test_a_thousand_runs_are_listed_in_two_seconds_without_torch(tmp_path):
    run = make_run(tmp_path / "runs/0000", 5.5, 0.3)
    for epoch in range(1, 200):
        run.log("epoch", step=epoch, epoch=epoch, loss=5.0)
        run.log("health", step=epoch, epochs=epoch, positives=list(range(40)), others=list(range(40)))
    files = {file.name: file.read_bytes() for file in run.path.iterdir()}
    for n in range(1, 1000):
        (tmp_path / f"runs/{n:04}").mkdir()
        for name, content in files.items():
            (tmp_path / f"runs/{n:04}" / name).write_bytes(content)
    code = "import sys, simclr_lib.__main__ as m; m.main(['list', '--sort', 'loss']); assert 'torch' not in sys.modules"
    seconds = []
    for _ in range(3):
        begun = sum(os.times()[2:4])  # the processor's time of child processes, whatever else runs beside them
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        seconds.append(sum(os.times()[2:4]) - begun)
    assert len(done.stdout.splitlines()) == 1001
    assert min(seconds) < 2


def test_the_same_is_a_data_frame(runs):
    frame = Run.list(runs)
    assert frame["run"].tolist() == ["a", "c", "d", "deep/b"]
    assert frame["loss"].tolist() == pytest.approx([5.5, 4.5, float("nan"), 5.0], nan_ok=True)
    assert frame["knn@20 top1"].isna().tolist() == [False, True, True, False]
    assert frame["error"].str.startswith("ValueError", na=False).tolist() == [False, False, True, False]
    assert set(RunConfig().to_dict()) <= set(frame.columns)
    assert json.loads(frame.to_json(orient="records"))[0]["arch"] == "resnet18"
