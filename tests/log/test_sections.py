"""What the notebooks show: each section derived again from the run's files by plain loops, and where it is kept."""

import json
import math
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from pandas.io.formats.style import Styler

from simclr_lib import ImageSet, Run, RunConfig, figures, load_images, train
from simclr_lib.evaluation.embeddings import load_gallery, load_model, raw_pixels
from simclr_lib.evaluation.neighbors import fixed_queries
from simclr_lib.figures.canvas import InlineFigure
from simclr_lib.log import sections

TINY = dict(limit_images=48, batch_size=16, blur=False, norm="group", device="cpu", seed=4, image_size=16)
ENCODERS = ["raw pixels", "untrained encoder", "trained encoder"]
FIGURES = ("image_grid", "view_pairs", "neighbor_grid", "training_curves")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return Run.open(train(RunConfig(**TINY, epochs=4), tmp_path_factory.mktemp("run")).path)  # as a later reader has it


FEW = dict(limit=120, seed=3)  # of the gallery: ids are not positions there


def few_images(name: str, split: str, root: str | None, **options) -> ImageSet:
    return load_images(name, split, root, **{**options, **FEW})


@pytest.fixture(scope="module")
def few() -> ImageSet:
    return load_images("embedded", "test", image_size=16, **FEW)


@pytest.fixture
def shown(monkeypatch, few) -> SimpleNamespace:
    """What a section displays, and what it calls each kind of figure with; the gallery is a small one."""
    seen = SimpleNamespace(displayed=[], calls=[])
    monkeypatch.setattr(sections, "display", seen.displayed.append)
    monkeypatch.setattr("simclr_lib.evaluation.embeddings.load_images", few_images)
    for name in FIGURES:
        monkeypatch.setattr(figures, name, recording(seen.calls, name, getattr(figures, name)))
    return seen


def recording(calls: list, name: str, function):
    def call(*arguments, **options):
        calls.append((name, arguments, options))
        return function(*arguments, **options)

    return call


@torch.no_grad()
def h_of(run: Run, images: ImageSet, epochs: int) -> torch.Tensor:
    return load_model(run, epochs).encoder(images.images.float() / 255)


def nearest(h: torch.Tensor, query: int, k: int) -> list[int]:
    """The k rows most like row `query` by cosine, by a loop over all others."""
    rows = F.normalize(h.double())
    found = [(-float(rows[query] @ rows[other]), other) for other in range(len(h)) if other != query]
    return [other for _, other in sorted(found)[:k]]


def precision_at_5(h: torch.Tensor, labels: torch.Tensor) -> float:
    shares = [sum(labels[other] == labels[query] for other in nearest(h, query, 5)) / 5 for query in range(len(h))]
    return float(sum(shares) / len(shares))


def test_announce_prints_what_follows_and_settles_the_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = RunConfig(**TINY, epochs=4, learning_rate=0.2, lr_scaling="linear", crop_area=(0.25, 0.5), num_workers=1)
    run_dir = sections.announce(config, "07_new")
    printed = " ".join(capsys.readouterr().out.split())
    facts = ["48 of embedded (train), kept at 16 px", "crops 25% to 50%", "3 per epoch, 12 in all", "0.0125 (sgd"]
    facts += [
        f"30 negatives per anchor; chance is {math.log(31):.3f}",
        "read on 256 others",
        "temperature 0.5",
    ]
    facts += ["num_workers = 1", "convnet, cifar stem, group norm", "bars 125, columns 125", run_dir]
    assert [fact for fact in facts if fact not in printed] == []
    assert [path.name[-7:] for path in (tmp_path / "runs").iterdir()] == ["-07_new"]
    assert sections.announce(config, "07_new", "runs/mine") == "runs/mine"
    assert not (tmp_path / "runs/mine").exists()  # training makes it


def test_announce_records_the_notebook_whoever_executes_it(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "notebooks/07_new.ipynb")
    monkeypatch.chdir(tmp_path)
    cells = ["", "epochs = 20", '# Parameters\nepochs = 4\nrun_dir = ""\n', "announce()"]
    monkeypatch.setattr(sections, "get_ipython", lambda: SimpleNamespace(user_ns={"In": cells}))
    run_dir = Path(sections.announce(RunConfig(**TINY, epochs=4), "07_new"))
    record = json.loads((run_dir / "notebook.json").read_text())
    assert (record["notebook"], record["parameters"]) == ("notebooks/07_new.ipynb", {"epochs": 4})
    cells[2] = "# Parameters\nepochs = 5\n"
    with pytest.raises(ValueError, match=r"run_dir: .*'epochs': 4"):
        sections.announce(RunConfig(**TINY, epochs=5), "07_new", str(run_dir))


def test_announce_names_every_class_with_its_number_of_images(few):
    labels = few.labels.clone()
    labels[:7] = -1
    sizes = sections.class_sizes(ImageSet(few.images, labels, few.class_names, few.ids))
    counted = {name: labels.tolist().count(i) for i, name in enumerate(few.class_names)}
    assert sizes == ", ".join(f"{name} {count}" for name, count in counted.items()) + ", unlabelled 7"


@pytest.mark.parametrize("wrong", [{"neighbors_k": 2000}, {"evaluation_images": 1}], ids=str)
def test_announce_refuses_by_name_what_scoring_would_refuse(tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: "):
        sections.announce(RunConfig(**TINY), "00", **wrong)
    assert not (tmp_path / "runs").exists()


def test_announce_refuses_the_directory_of_another_run_and_one_in_which_a_process_trains(tmp_path):
    config = RunConfig(**TINY)
    with Run.writing(tmp_path / "run", config), pytest.raises(ValueError, match="nothing is trained"):
        sections.announce(config, "00", str(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"run_dir: .*seed 4 -> 1.*another run_dir"):
        sections.announce(RunConfig(**{**TINY, "seed": 1}), "00", str(tmp_path / "run"))
    assert sections.announce(config, "00", str(tmp_path / "run")) == str(tmp_path / "run")


def test_announce_refuses_weights_that_do_not_fit(tmp_path):
    (tmp_path / "weights.pt").touch()
    with pytest.raises(ValueError, match="init_from: "):
        sections.announce(RunConfig(**TINY, init_from=str(tmp_path / "weights.pt")), "00")


def test_announce_asks_no_more_for_weights_that_a_run_has_left_behind(tmp_path):
    config = RunConfig(**TINY, init_from="gone")
    Run.start(tmp_path, config).save_checkpoint({})
    assert sections.announce(config, "00", str(tmp_path)) == str(tmp_path)


def test_look_shows_the_queries_and_their_views_as_training_draws_them(run, shown, few):
    sections.look(run.config)
    (grid, pairs), queries = shown.calls, fixed_queries(few)
    assert torch.equal(grid[1][0], few.images[queries])
    assert grid[2]["titles"] == [few.class_names[few.labels[query]] for query in queries]
    images, view_a, view_b = pairs[1]
    assert torch.equal(images, few.images[queries])
    assert view_a.shape == view_b.shape == (6, 3, 16, 16)
    assert not torch.equal(view_a, view_b)
    assert [type(item) for item in shown.displayed] == [InlineFigure, InlineFigure]


@pytest.fixture
def pictures(monkeypatch) -> list:
    """What `live` draws, one after the other."""
    drawn = []
    monkeypatch.setattr(sections, "display_once", lambda *_, **options: SimpleNamespace(update=drawn.append))
    return drawn


def test_a_training_is_drawn_while_it_goes_on_and_its_last_picture_stays(tmp_path, pictures):
    config = RunConfig(**TINY, epochs=12)
    with sections.live(str(tmp_path), pause=0.2):
        train(config, tmp_path)
        while_it_ran = len(pictures)
    assert while_it_ran >= 1
    assert {type(picture) for picture in pictures} == {InlineFigure}
    steps = [len(picture.axes[0].lines[0].get_xdata()) for picture in pictures]
    assert steps == sorted(steps)
    assert (steps[-1], steps[0] < 36) == (12 * 3, True)
    assert not [thread for thread in threading.enumerate() if "follow" in thread.name]


def test_a_training_that_fails_is_drawn_as_far_as_it_came_and_fails(tmp_path, pictures):
    with pytest.raises(KeyError), sections.live(str(tmp_path / "none")):
        raise KeyError
    assert pictures == []
    run = train(RunConfig(**TINY, epochs=1), tmp_path)
    with pytest.raises(KeyError), sections.live(str(run.path), pause=100):
        raise KeyError
    assert len(pictures) == 1


def test_outside_a_notebook_a_table_is_printed_and_a_figure_is_not(run, capsys):
    sections.show_health(run)
    assert "InlineFigure" not in capsys.readouterr().out
    sections.show_table(pd.DataFrame({"encoder": [0.123456, math.nan]}, index=["precision@5", "map@R"]))
    assert capsys.readouterr().out.split() == ["encoder", "precision@5", "0.123", "map@R"]


def test_health_shows_loss_alarms_and_readings(run, shown, capsys):
    sections.show_health(run)
    assert {path.stem for path in run.path.glob("figures/*")} == {"loss", "similarity", "health"}
    assert shown.calls[0][1][:3] == (run.metrics(), run.metrics("health"), 16)
    printed = capsys.readouterr().out
    alarms = run.summary["alarms"]
    assert f"alarms that rang: {len(alarms)}" in printed
    assert all(alarm["text"] in printed for alarm in alarms.values())


def test_health_that_was_not_read_is_said(tmp_path, shown, capsys):
    options = {**TINY, "split": "test", "limit_images": 20}  # two images are kept out: too few
    sections.show_health(train(RunConfig(**options, epochs=1), tmp_path))
    assert "not read" in capsys.readouterr().out
    assert len(shown.displayed) == 1


def test_scores_are_those_of_plain_loops_in_one_table(run, shown, few):
    table = sections.score(run)
    h = {
        "raw pixels": raw_pixels(few.images),
        "untrained encoder": h_of(run, few, 0),
        "trained encoder": h_of(run, few, 4),
    }
    for encoder in ENCODERS:
        assert table.loc["precision@5", (encoder, "mean")] == pytest.approx(precision_at_5(h[encoder], few.labels))
    others = sum(few.labels.tolist().count(label) - 1 for label in few.labels.tolist()) / 120 / 119
    assert table.loc["precision@5", ("chance", "mean")] == pytest.approx(others)
    assert {"map@R", "knn@20 top1", "linear probe top1", "color_agreement", "color_following"} <= set(table.index)
    assert {"retrieval", "classification", "color"} <= set(run.summary)
    tables = [item for item in shown.displayed if isinstance(item, Styler)]
    assert sum(len(item.data) for item in tables) == len(table)
    assert "<table" in tables[0]._repr_html_()
    assert "What the nearest neighbours share</caption>" in tables[0]._repr_html_()


def test_a_score_has_a_bar_of_its_own_length_and_a_deviation_none(shown):
    columns = pd.MultiIndex.from_product([["a", "b"], ["mean", "deviation"]])
    table = pd.DataFrame([[0.25, 0.01, -0.3, math.nan], [0.75, 0.02, math.nan, math.nan]], ["one", "<b>"], columns)
    sections.show_table(table, "Shares")
    page = shown.displayed[0].to_html()
    bars = re.findall(r"(row\d_col\d) \{[^}]*linear-gradient\(90deg, rgba\([^)]*\) ([\d.]+)%", page)
    assert bars == [("row0_col0", "25.0"), ("row1_col0", "75.0")]  # of what is below 0, or is not there, none
    for text in ("Shares</caption>", "&lt;b&gt;", ">-0.300<", ">0.020<"):
        assert page.count(text) == 1


def test_parts_of_a_large_set_are_scored_with_their_deviation(run, shown):
    table = sections.score(run, neighbors_k=2, evaluation_images=60)
    values = run.summary["retrieval"]["scores"]["untrained encoder"]["map@R"]
    assert len(set(values)) == 3
    mean = sum(values) / 3
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 3)
    found = table.loc["map@R", "untrained encoder"]
    assert (found["mean"], found["deviation"]) == (pytest.approx(mean), pytest.approx(deviation))


def test_one_class_is_not_classified(run, shown, monkeypatch, few):
    one = ImageSet(few.images, torch.zeros(120, dtype=torch.int64), ["all"], few.ids)
    monkeypatch.setattr("simclr_lib.evaluation.embeddings.load_gallery", lambda config, **options: one)
    table = sections.score(run)
    assert "precision@5" in table.index
    assert not any("knn" in metric for metric in table.index)


def test_classes_stand_best_first_with_a_bar_for_every_value(run, shown):
    sections.score(run)
    sections.show_classes(run)
    table, kept = shown.displayed[-1].data, run.summary["retrieval"]["per_class"]
    assert table.columns.name == "precision@5"
    assert set(table) == {"trained encoder", "untrained encoder", "raw pixels", "chance"}
    for name in table:
        assert table[name].to_dict() == kept[name]["precision@5"]
    assert table["trained encoder"].is_monotonic_decreasing
    page = shown.displayed[-1].to_html()
    assert [page.index(f">{name}<") for name in table.index] == sorted(page.index(f">{name}<") for name in table.index)
    assert page.count("linear-gradient") > 0


def test_training_is_followed_from_before_it_to_its_end(run, shown, few):
    sections.follow_training(run)
    stages = ["untrained encoder", "after 1 epoch", "after 2 epochs", "after 3 epochs", "trained encoder"]
    assert list(run.summary["over_training"]["scores"]) == [*stages, "chance"]
    table = shown.displayed[-1].data
    for epochs, stage in enumerate(stages):
        expected = precision_at_5(h_of(run, few, epochs), few.labels)
        assert table.loc["precision@5", (stage, "mean")] == pytest.approx(expected)


def test_neighbors_of_every_image_are_kept_and_those_of_the_queries_drawn(run, shown, few):
    sections.show_neighbors(run)
    h, kept = {name: h_of(run, few, n) for name, n in zip(ENCODERS[1:], (0, 4), strict=True)}, run.path
    expected = [few.ids[nearest(h["trained encoder"], query, 10)].tolist() for query in range(len(few))]
    assert np.load(kept / "neighbors.npz")["neighbors"].tolist() == expected
    ((_, (_, queries, found, *_), _),) = shown.calls
    assert list(queries) == fixed_queries(few)
    assert list(found) == ENCODERS[1:]
    for name, (indices, _) in found.items():
        assert [indices[query].tolist() for query in queries] == [nearest(h[name], query, 7) for query in queries]
    assert (kept / "figures/neighbors.png").exists()


def test_a_conclusion_is_recorded_and_a_run_at_chance_refused(run, capsys):
    sections.conclude(run, {"one": np.bool_(True), "two": pd.Series([1.0]).max() > 2})
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["prediction_met"] == {"one": True, "two": False}
    assert summary["training_seconds"] == pytest.approx(sum(epoch["seconds"] for epoch in run.metrics("epoch")))
    assert summary["final_loss"] == run.metrics("epoch")[-1]["loss"]
    printed = capsys.readouterr().out
    assert "prediction met: one" in printed
    assert "prediction NOT met: two" in printed
    epochs = [{"seconds": 1.0, "loss": run.config.chance_loss}]
    still = SimpleNamespace(config=run.config, metrics=lambda kind: epochs, add_to_summary=lambda **values: None)
    with pytest.raises(ValueError, match="chance"):
        sections.conclude(still, {})


def test_the_real_gallery_is_the_test_split(run):
    gallery = load_gallery(run.config)
    expected = load_images("embedded", "test", image_size=16)
    assert torch.equal(gallery.images, expected.images)
