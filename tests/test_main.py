"""The command line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from simclr_lib import Run, RunConfig
from simclr_lib.__main__ import main
from simclr_lib.engine import lock

TINY = {"norm": "group", "blur": False, "limit_images": 32, "batch_size": 16, "epochs": 2, "device": "cpu"}


@pytest.fixture
def config(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY))
    return str(path)


def refusal(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    """What a command that ends with status 2 says, in one line."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr()
    assert end.value.code == 2
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


def test_a_run_is_trained_listed_and_resumed(config, capsys):
    main(["train", "--config", config, "--run-dir", "runs/a"])
    assert Run.open("runs/a").status["state"] == "finished"
    main(["list"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("a ")]
    assert "2/2" in line
    assert "finished" in line
    before = Run.open("runs/a").metrics()
    main(["resume", "runs/a"])
    assert Run.open("runs/a").metrics() == before


def test_a_run_that_was_broken_off_goes_on_from_its_directory_alone(config, tmp_path):
    main(["train", "--config", config, "--run-dir", "runs/a"])
    whole = Run.open("runs/a")
    same = ((name, name) for name in ("config.json", "images.npz", "metrics.jsonl"))
    for name, source in (("checkpoint.pt", "checkpoint.previous.pt"), *same):
        (tmp_path / "runs/b").mkdir(exist_ok=True)
        (tmp_path / "runs/b" / name).write_bytes((whole.path / source).read_bytes())
    main(["resume", "runs/b", "-p", "num_workers", "1", "-p", "device", "auto"])
    assert Run.open("runs/b").config.num_workers == 1
    assert [m["step"] for m in Run.open("runs/b").metrics()] == [0, 1, 2, 3]
    assert len((tmp_path / "runs/b/metrics.jsonl").read_text().splitlines()) == len(
        (whole.path / "metrics.jsonl").read_text().splitlines()
    )
    assert Run.open("runs/b").metrics()[-1]["loss"] == whole.metrics()[-1]["loss"]


@pytest.mark.parametrize(("name", "value", "why"), [("epochs", "9", "epochs 2 -> 9"), ("epoch", "9", "'epoch'")])
def test_what_makes_another_run_is_no_way_to_go_on(config, tmp_path, capsys, name, value, why):
    main(["train", "--config", config, "--run-dir", "runs/a"])
    with pytest.raises(SystemExit):
        main(["resume", "runs/a", "-p", name, value])
    assert why in capsys.readouterr().err


def test_one_damaged_file_hides_no_other_run(config, tmp_path, capsys):
    for name in "abcdef":
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text(json.dumps(TINY))
    (tmp_path / "runs/a/config.json").write_bytes(b"\xff\xfe")
    (tmp_path / "runs/b/metrics.jsonl").write_text('{"kind": "epoch", broken}\n')
    (tmp_path / "runs/c/status.json").write_text("{")
    (tmp_path / "runs/d/metrics.jsonl").mkdir()
    (tmp_path / "runs/e/config.json").unlink()
    (tmp_path / "runs/e/config.json").mkdir()
    main(["list"])
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line[:2] for line in lines] == [f"{name} " for name in "abcdef"]
    assert ["cannot be read" in line for line in lines] == [True] * 5 + [False]


@pytest.mark.child
def test_a_name_that_is_no_text_hides_no_other_run(config, tmp_path):
    for name in (b"a", b"b\xff", b"c"):
        os.makedirs(os.path.join(os.fsencode(tmp_path), b"runs", name))
        (tmp_path / "runs" / os.fsdecode(name) / "config.json").write_text(json.dumps(TINY))
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "simclr_lib", "list"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["RUN", "a", "b\\udcff", "c"], done.stderr


def test_listing_goes_on_after_a_run_that_it_cannot_open(config, tmp_path, capsys):
    for name, values in (("a", {**TINY, "of_tomorrow": 1}), ("b", TINY), ("c", [])):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text(json.dumps(values))
    main(["list"])
    _, a, b, c = capsys.readouterr().out.splitlines()
    assert "of_tomorrow" in a
    assert b.split()[:5] == ["b", "unknown", "embedded", "convnet", "0/2"]
    assert c.startswith("c ")


def test_runs_are_chosen_sorted_and_compared(config, tmp_path, capsys):
    for name, epochs, loss in (("a", 2, 3.0), ("b", 3, 1.0), ("c", 3, 2.0)):
        run = Run.start(tmp_path / "runs" / name, RunConfig(**{**TINY, "epochs": epochs}))
        run.log("epoch", step=0, epoch=0, loss=loss)
    main(["list", "--where", "epochs=3", "--sort", "loss"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["RUN", "c", "b"]
    main(["list", "--json", "--runs", str(tmp_path / "runs")])
    rows = json.loads(capsys.readouterr().out)
    assert [(row["run"], row["epochs"], row["loss"]) for row in rows] == [("a", 2, 3.0), ("b", 3, 1.0), ("c", 3, 2.0)]
    main(["best", "loss", "--where", "epochs=3"])
    assert capsys.readouterr().out == "b  loss 1.0000, selected on the images that it was trained on\n"
    assert "did you mean loss?" in refusal(["list", "--sort", "los"], capsys)


def test_a_run_of_a_notebook_is_resumed_by_executing_it(config, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/notebook.json").write_text("{}")
    taken = []
    monkeypatch.setattr("simclr_lib.log.report.resume_notebook", lambda *given: taken.append(given) or given[0])
    main(["resume", "runs/a", "-p", "device", "cpu"])
    main(["resume", "runs/a", "--changed-notebook"])
    assert taken == [(tmp_path / "runs/a", {"device": "cpu"}, False), (tmp_path / "runs/a", {}, True)]
    assert str(tmp_path / "runs/a/report.html") in capsys.readouterr().out


@pytest.fixture
def exploring(config, tmp_path, monkeypatch) -> list[list[str]]:
    """The runs a and b; and, of each time that images are embedded, the names of the runs."""
    for name in "ab":
        Run.start(tmp_path / "runs" / name, RunConfig(**TINY))
    explored = []
    # First of all what imports the explorer, which keeps the real columns.
    monkeypatch.setattr("simclr_lib.log.explorer.write_explorer", lambda columns: "explore.html")
    monkeypatch.setattr("simclr_lib.log.explorer.write_parquet", lambda columns, file: file)
    monkeypatch.setattr(
        "simclr_lib.evaluation.columns.Columns", lambda runs, **_: explored.append([run.path.name for run in runs])
    )
    return explored


def test_runs_are_explored_while_one_is_trained(exploring, tmp_path, capsys):
    with lock.one_writer(tmp_path / "runs/b"):  # what is written is whole, or not there
        main(["explore", "runs/a", "runs/b"])
    assert exploring == [["a", "b"]]
    assert capsys.readouterr().out == "To walk through the neighbours, open explore.html\n"


def test_explore_reads_what_it_cannot_write_but_for_its_own_page(exploring, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "a")
    main(["explore", "runs/a", "--parquet", "table.parquet"])
    main(["explore", "runs/b", "runs/a"])
    assert exploring == [["a"], ["b", "a"]]
    assert "The table was written to table.parquet\n" in capsys.readouterr().out
    error = refusal(["explore", "runs/a"], capsys)
    assert "runs/a/explore.html: expected a folder that can be written" in error
    assert "copy the run, or write a table: --parquet FILE" in error


def test_what_a_table_needs_is_asked_before_images_are_embedded(exploring, monkeypatch, capsys):
    monkeypatch.setattr("simclr_lib.__main__.find_spec", lambda name: None)
    assert "pip install 'simclr-lib[parquet]'" in refusal(["explore", "runs/a", "--parquet", "t.parquet"], capsys)
    assert exploring == []


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["train", "--config", "none.json", "--run-dir", "a"], "none.json"),
        (["train", "--config", "broken.json", "--run-dir", "a"], "broken.json"),
        (["resume", "nowhere"], "nowhere/config.json"),
        (["run", "none.ipynb"], "none.ipynb"),
        (["file", "none.ipynb"], "none.ipynb"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_and_not_a_traceback(config, tmp_path, capsys, arguments, names):
    (tmp_path / "broken.json").write_text('{"epochs": 3')
    error = refusal(arguments, capsys)
    assert names in error
    assert "expected a" in error


def test_a_full_disk_is_one_line(config, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "checkpoint.pt")

    monkeypatch.setattr("os.fsync", full)
    assert re.search(
        r"error: .*\.json cannot be written \(.*No space left.*goes on once it can",
        refusal(["train", "--config", config, "--run-dir", "a"], capsys),
    )


def test_a_field_that_does_not_exist_is_named(config, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "epoch": 3}))
    assert "got 'epoch'" in refusal(["train", "--config", config, "--run-dir", "a"], capsys)


def test_parameters_are_read_as_python_literals(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr("simclr_lib.log.report.run_notebook", lambda n, p, r: seen.update(p) or tmp_path)
    pairs = [("a", "3"), ("b", "0.5"), ("c", "None"), ("d", "convnet"), ("e", "True"), ("f", "[1, 2]"), ("g", "false")]
    main(["run", "x.ipynb", *(word for pair in pairs for word in ("-p", *pair))])
    assert seen == {"a": 3, "b": 0.5, "c": None, "d": "convnet", "e": True, "f": [1, 2], "g": False}
