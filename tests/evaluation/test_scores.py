"""What a run retrieves: what is scored, on which images, beside what, and where it is written."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from simclr_lib import ImageSet, RunConfig, SimCLR, build_encoder
from simclr_lib.evaluation.classification import require_scorable
from simclr_lib.evaluation.embeddings import (
    embed_beside_baselines,
    embed_once,
    embed_over_training,
    project,
    raw_pixels,
)
from simclr_lib.evaluation.readings import color_reading, palettes
from simclr_lib.evaluation.scores import score_color, score_retrieval, score_table
from simclr_lib.retrieval import chance_scores, retrieval_scores


def clouds(labels: torch.Tensor) -> torch.Tensor:
    """Embeddings that know something of the labels."""
    return torch.nn.functional.one_hot(labels, 8).float() + torch.randn(len(labels), 8)


def summary_of(run, name: str) -> dict:
    return json.loads((run.path / "summary.json").read_text())[name]


def test_retrieval_is_scored_beside_its_baselines_and_chance_and_kept(run, gallery):
    table = score_retrieval(run, gallery, embed_beside_baselines(run, gallery), k=3)
    result = summary_of(run, "retrieval")
    assert list(result["scores"]) == ["raw pixels", "untrained encoder", "trained encoder", "chance"]
    assert (result["images"], result["labelled_images"], result["seeds"]) == ([120], 120, [0])
    pd.testing.assert_frame_equal(table, score_table(result["scores"]))
    raw = retrieval_scores(gallery.images.flatten(1).float(), gallery.labels, 3)
    assert list(table.index) == [*raw, *(f"{metric}, mean per class" for metric in raw)]
    for metric, values in raw.items():
        assert result["scores"]["raw pixels"][metric] == [pytest.approx(values.mean().item())]
        chance = chance_scores(gallery.labels, 3)[metric].mean().item()
        assert result["scores"]["chance"][metric] == [pytest.approx(chance)]
        classes = [values[gallery.labels == label].mean().item() for label in gallery.labels.unique()]
        assert result["scores"]["raw pixels"][f"{metric}, mean per class"] == [pytest.approx(np.mean(classes))]
        shown = {gallery.class_names[label]: share for label, share in enumerate(classes)}
        assert result["per_class"]["raw pixels"][metric] == pytest.approx(shown)
        assert list(result["per_class"]["raw pixels"][metric]) == gallery.class_names


def test_seeds_score_other_parts_of_the_set_and_classes_get_their_mean(run, gallery):
    h = clouds(gallery.labels)
    table = score_retrieval(run, gallery, {"h": h}, k=2, seeds=(6, 5), sample=60)
    result = summary_of(run, "retrieval")
    assert (result["images"], result["seeds"]) == ([60, 60], [6, 5])
    expected = []
    for seed in (6, 5):
        rows = torch.randperm(120, generator=torch.Generator().manual_seed(seed))[:60].sort().values
        expected.append(retrieval_scores(h[rows], gallery.labels[rows], 2)["map@R"].nanmean().item())
    assert result["scores"]["h"]["map@R"] == pytest.approx(expected)
    assert expected[0] != expected[1]
    assert table.loc["map@R", ("h", "mean")] == pytest.approx(np.mean(expected))
    assert table.loc["map@R", ("h", "deviation")] == pytest.approx(abs(expected[0] - expected[1]) / 2)
    by_seed = []
    for seed in (5, 6):
        score_retrieval(run, gallery, {"h": h}, k=2, seeds=(seed,), sample=60)
        by_seed.append(summary_of(run, "retrieval")["per_class"]["h"]["recall@2"])
    for name, share in result["per_class"]["h"]["recall@2"].items():
        assert share == pytest.approx(np.mean([of[name] for of in by_seed]))


def test_a_class_that_only_some_seeds_score_has_the_mean_of_these(run, gallery):
    labels = torch.zeros(120, dtype=torch.int64)
    labels[:4] = 1  # of which a sample of 30 has two or more now and then
    some = ImageSet(gallery.images, labels, ["many", "few"], gallery.ids)
    h = clouds(labels)
    score_retrieval(run, some, {"h": h}, k=2, seeds=range(6), sample=30)
    result, found = summary_of(run, "retrieval"), []
    for seed in range(6):
        rows = torch.randperm(120, generator=torch.Generator().manual_seed(seed))[:30].sort().values
        few = retrieval_scores(h[rows], labels[rows], 2)["precision@2"][labels[rows] == 1]
        found += [few.mean().item()] if len(few) > 1 else []
    assert 0 < len(found) < 6  # else nothing was seen
    assert result["per_class"]["h"]["precision@2"]["few"] == pytest.approx(np.mean(found))
    assert max(result["queries_alone_in_their_class"]) == 1


@pytest.mark.parametrize("sample", [None, 120, 4000])
def test_where_no_more_images_are_labelled_all_are_scored_once_whatever_the_seeds(run, gallery, sample):
    h = clouds(gallery.labels)
    score_retrieval(run, gallery, {"h": h}, k=2, seeds=(7, 8, 9), sample=sample)
    result = summary_of(run, "retrieval")
    assert (result["images"], result["seeds"]) == ([120], [7])
    whole = retrieval_scores(h, gallery.labels, 2)["precision@2"].mean().item()
    assert result["scores"]["h"]["precision@2"] == [pytest.approx(whole)]


def test_unlabelled_images_are_left_out_and_a_lone_one_of_its_class_is_counted(run, gallery):
    labels = gallery.labels.clone()
    labels[10:] = labels[10:].where(labels[10:] != 3, 2)
    labels[:10], labels[0] = -1, 3  # ten have no label but for one, which is alone in its class
    some = ImageSet(gallery.images, labels, gallery.class_names, gallery.ids)
    h = clouds(labels.clamp(min=0))
    score_retrieval(run, some, {"h": h}, k=2)
    result = summary_of(run, "retrieval")
    assert result["labelled_images"] == result["images"][0] == 111
    assert result["queries_alone_in_their_class"] == [1]
    assert gallery.class_names[3] not in result["per_class"]["h"]["precision@2"]
    assert len(result["per_class"]["h"]["precision@2"]) == 7
    score_retrieval(run, some.subset(labels >= 0), {"h": h[labels >= 0]}, k=2, name="labelled")
    assert summary_of(run, "labelled")["scores"] == result["scores"]


def test_layers_compare_h_and_z_by_cosine_and_by_dot_product(run, gallery):
    h = embed_once(run, gallery)
    layers = {"h": h, "z": project(run, h)}
    table = score_retrieval(run, gallery, layers, k=2, name="layers", similarities=("cosine", "dot"))
    names = ["h, cosine", "h, dot", "z, cosine", "z, dot", "chance"]
    assert list(summary_of(run, "layers")["scores"]) == list(table.columns.unique(0)) == names
    model = SimCLR(build_encoder(**run.config.encoder_options), 128)
    model.load_state_dict(run.load_checkpoint()["model"])
    with torch.no_grad():
        z = model.eval()(gallery.images.float() / 255)
    for name, rows, similarity in (("z, dot", z, "dot"), ("z, cosine", z, "cosine"), ("h, dot", layers["h"], "dot")):
        expected = retrieval_scores(rows, gallery.labels, 2, similarity)["precision@2"].mean().item()
        assert table.loc["precision@2", (name, "mean")] == pytest.approx(expected, abs=0.01)


def test_training_is_followed_from_before_it_to_its_end(run, gallery):
    table = score_retrieval(run, gallery, embed_over_training(run, gallery), k=2, name="over_training")
    assert list(table.columns.unique(0)) == ["untrained encoder", "after 1 epoch", "trained encoder", "chance"]
    whole = score_retrieval(run, gallery, embed_beside_baselines(run, gallery), k=2)
    assert table["untrained encoder", "mean"].tolist() == whole["untrained encoder", "mean"].tolist()
    assert table["trained encoder", "mean"].tolist() == whole["trained encoder", "mean"].tolist()
    assert summary_of(run, "over_training")["scores"].keys() == set(table.columns.unique(0))


def test_colour_is_read_on_a_part_of_the_images_whatever_their_labels(run, gallery):
    unlabelled = ImageSet(gallery.images, torch.full((120,), -1), [], gallery.ids)
    h = torch.randn(120, 4)
    table = score_color(run, unlabelled, {"h": h, "pixels": raw_pixels(gallery.images)}, seeds=(3, 4), sample=50)
    result = summary_of(run, "color")
    assert (result["images"], result["seeds"]) == (50, [3, 4])
    for draw, seed in enumerate((3, 4)):
        rows = torch.randperm(120, generator=torch.Generator().manual_seed(seed))[:50].sort().values
        expected = color_reading(h[rows], palettes(gallery.images[rows]))
        assert {name: values[draw] for name, values in result["scores"]["h"].items()} == pytest.approx(expected)
    pd.testing.assert_frame_equal(table, score_table(result["scores"]))
    score_color(run, unlabelled, {"h": h})
    whole = summary_of(run, "color")
    assert (whole["images"], whole["seeds"]) == (120, [0])
    expected = color_reading(h, palettes(gallery.images))
    assert {name: value for name, (value,) in whole["scores"]["h"].items()} == pytest.approx(expected)


def test_what_cannot_be_scored_is_said_before_training(gallery):
    config = RunConfig(dataset="caltech101")
    require_scorable(config, gallery, neighbors_k=5, evaluation_images=4000)
    with pytest.raises(ValueError, match=r"neighbors_k: .*1 to 119"):
        require_scorable(config, gallery, neighbors_k=120, evaluation_images=4000)
    few = gallery.subset(range(10))  # which have no ten neighbours to show
    with pytest.raises(ValueError, match=r"images: .*more than the 10 neighbours.*got 10"):
        require_scorable(config, few, neighbors_k=5, evaluation_images=4000)
    with pytest.raises(ValueError, match=r"evaluation_images: .*at least 2.*got 1"):
        require_scorable(config, gallery, neighbors_k=5, evaluation_images=1)
    with pytest.raises(ValueError, match=r"k: .*1 to 4.*got 5"):
        require_scorable(config, gallery, neighbors_k=5, evaluation_images=5)
    lone = ImageSet(gallery.images[:30], torch.arange(30) // 2, [f"class {c}" for c in range(15)], gallery.ids[:30])
    with pytest.raises(ValueError, match=r"labels: .*two images of one class"):
        require_scorable(config, lone, 1, evaluation_images=2, seeds=range(9))  # for one seed, two of a class
    unlabelled = ImageSet(gallery.images, torch.full((120,), -1), [], gallery.ids)
    with pytest.raises(ValueError, match="labels"):
        require_scorable(config, unlabelled, neighbors_k=5, evaluation_images=4000)


def test_classes_that_cannot_be_told_apart_are_refused_before_training(gallery):
    config = RunConfig(dataset="caltech101")
    lopsided = ImageSet(gallery.images[:40], (torch.arange(40) == 20).long(), ["ant", "bee"], gallery.ids[:40])
    require_scorable(config, lopsided, neighbors_k=5, evaluation_images=4000, seeds=[0])
    with pytest.raises(ValueError, match="two classes in nine tenths"):
        require_scorable(config, lopsided, 5, 4000, seeds=range(20))  # for one seed, the only bee is left out
    of_another = ImageSet(gallery.images, gallery.labels, [*gallery.class_names[1:], "zebra"], gallery.ids)
    with pytest.raises(ValueError, match=r"test: .*zebra"):
        require_scorable(RunConfig(), of_another, neighbors_k=5, evaluation_images=4000)
    one_class = ImageSet(gallery.images, torch.zeros(120).long(), ["all"], gallery.ids)
    require_scorable(config, one_class, neighbors_k=5, evaluation_images=4000)  # nothing will be classified
    require_scorable(RunConfig(), gallery, neighbors_k=5, evaluation_images=4000)  # a training split of its own
