"""The executed runs that the repository keeps were made by earlier versions: they open, list and draw as before."""

import shutil
from pathlib import Path

import pytest

from simclr_lib import Run
from simclr_lib.__main__ import main
from simclr_lib.evaluation.scores import class_table, score_table
from simclr_lib.log import sections

ROOT = Path(__file__).parents[1]
RUNS = sorted(file.parent for file in (ROOT / "runs").glob("*/config.json") if (file.parent / "report.ipynb").exists())


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_a_run_of_an_earlier_version_opens_and_draws(path, tmp_path, monkeypatch):
    shutil.copytree(path, tmp_path / path.name, ignore=shutil.ignore_patterns("*.ipynb"))
    run = Run.open(tmp_path / path.name)
    assert run.finished
    assert run.config.crop_area == (0.08, 1.0)  # what the paper has, and what there was before it was a choice
    assert len(run.metrics("epoch")) == run.config.epochs
    displayed = []
    monkeypatch.setattr(sections, "display", displayed.append)
    sections.show_health(run)
    assert {file.stem for file in run.path.glob("figures/*")} == {"loss", "similarity", "health"}
    for name in ("retrieval", "classification", "color"):
        table = score_table(run.summary[name]["scores"])
        assert {"raw pixels", "untrained encoder", "trained encoder"} <= set(table.columns.get_level_values(0))
        sections.show_table(table)
        assert displayed[-1].to_html().count("linear-gradient") > len(table)
    assert class_table(run)["chance"].between(0, 1).all()


def test_they_are_listed(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    main(["list"])
    lines = capsys.readouterr().out.splitlines()
    for path in RUNS:
        (line,) = (line for line in lines if path.name in line)
        config = Run.open(path).config
        words = (
            "finished",
            config.dataset,
            config.arch,
            f"{config.epochs}/{config.epochs}",
            f"{config.chance_loss:.3f}",
        )
        assert all(word in line for word in words)
