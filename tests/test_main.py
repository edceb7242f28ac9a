"""The command line."""

import json

import pytest

from simclr_lib import Run
from simclr_lib.__main__ import main

TINY = {"norm": "group", "blur": False, "limit_images": 32, "batch_size": 16, "epochs": 2, "device": "cpu"}


@pytest.fixture
def config(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY))
    return str(path)


def test_a_run_is_trained_listed_and_resumed(config, capsys):
    assert main(["train", "--config", config, "--run-dir", "runs/a"]) == 0
    assert Run.open("runs/a").status["state"] == "finished"
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "2/2 epochs" in out
    assert "finished" in out
    before = Run.open("runs/a").metrics()
    assert main(["resume", "runs/a"]) == 0
    assert Run.open("runs/a").metrics() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config", "none.json", "--run-dir", "a"], "expected a json file"),
        (["resume", "nowhere"], "expected a run directory"),
        (["run", "none.ipynb"], "expected a file"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_and_not_a_traceback(config, capsys, arguments, message):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_field_that_does_not_exist_is_named(config, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "epoch": 3}))
    assert main(["train", "--config", config, "--run-dir", "a"]) == 2
    assert "got 'epoch'" in capsys.readouterr().err


def test_parameters_are_read_as_python_literals(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr("simclr_lib.report.run_notebook", lambda n, p, r: seen.update(p) or tmp_path)
    pairs = [("a", "3"), ("b", "0.5"), ("c", "None"), ("d", "convnet"), ("e", "True"), ("f", "[1, 2]"), ("g", "false")]
    main(["run", "x.ipynb", *(word for pair in pairs for word in ("-p", *pair))])
    assert seen == {"a": 3, "b": 0.5, "c": None, "d": "convnet", "e": True, "f": [1, 2], "g": False}
