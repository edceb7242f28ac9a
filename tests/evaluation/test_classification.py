"""Classification: the linear probe, and the field's protocols with it and with kNN on a run."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from simclr_lib import ImageSet, RunConfig, knn_accuracy, linear_probe, load_images
from simclr_lib.evaluation import classification
from simclr_lib.evaluation.classification import (
    accuracy,
    draw_per_class,
    hold_out,
    require_classes,
    score_classes,
    score_classification,
    score_draws,
)
from simclr_lib.evaluation.embeddings import embed_beside_baselines, load_gallery
from simclr_lib.evaluation.scores import score_table


def blobs(n: int, classes: int, dim: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(classes, dim))
    y = rng.integers(0, classes, n)
    return torch.tensor(centres[y] + spread * rng.normal(size=(n, dim))).float(), torch.tensor(y)


def clouds(labels: Tensor, spread: float) -> Tensor:
    """Embeddings that know something of the labels."""
    return torch.nn.functional.one_hot(labels, 8).float() + spread * torch.randn(len(labels), 8)


def image_set(labels: Tensor, names: list[str]) -> ImageSet:
    blank = torch.zeros(1, 3, 2, 2, dtype=torch.uint8).expand(len(labels), 3, 2, 2)
    return ImageSet(blank, labels, names, torch.arange(len(labels)))


def result_of(run) -> dict:
    return json.loads((run.path / "summary.json").read_text())["classification"]


# The linear probe.


def test_the_probe_separates_what_is_separable_and_guesses_at_noise():
    (x, y), (test_x, test_y) = blobs(300, 4, 8, 0.1, 1), blobs(200, 4, 8, 0.1, 2)
    assert linear_probe(x, y, test_x, test_y).top1 == 1.0
    noise = linear_probe(torch.randn(400, 8), torch.arange(400) % 4, torch.randn(400, 8), torch.arange(400) % 4)
    assert abs(noise.top1 - 0.25) < 0.1


def fitted(x: Tensor, y: Tensor, inverse_regularization: float, seen: Tensor) -> np.ndarray:
    """What a logistic regression that is fitted to standardised `x` says of `seen`."""
    x, y, seen = x.numpy(), y.numpy(), seen.numpy()  # of tensors the last bits differ
    scaler = StandardScaler().fit(x)
    classifier = LogisticRegression(C=inverse_regularization, max_iter=500).fit(scaler.transform(x), y)
    return classifier.predict(scaler.transform(seen))


def test_the_probe_chooses_on_a_held_out_tenth_and_fits_again_on_all_of_training():
    chosen, refitted = set(), 0
    for seed in range(6):
        (x, y), (test_x, test_y) = blobs(200, 3, 30, 3.0, 2 * seed + 1), blobs(400, 3, 30, 3.0, 2 * seed + 2)
        result = linear_probe(x, y, test_x, test_y)
        rest, held = hold_out(y)
        grid = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
        right = {c: (fitted(x[rest], y[rest], c, x[held]) == y[held].numpy()).mean() for c in grid}
        assert result.inverse_regularization == max(right, key=right.get)
        predicted = fitted(x, y, result.inverse_regularization, test_x)
        assert result.top1 == (predicted == test_y.numpy()).mean()
        per_class = [(predicted[test_y.numpy() == c] == c).mean() for c in range(3)]
        assert result.mean_per_class == pytest.approx(np.mean(per_class), abs=1e-12)
        refitted += (predicted != fitted(x[rest], y[rest], result.inverse_regularization, test_x)).any()
        chosen.add(result.inverse_regularization)
        # the labels of the test set do not reach the choice
        shuffled = linear_probe(x, y, test_x, test_y[torch.randperm(400)])
        assert shuffled.inverse_regularization == result.inverse_regularization
    assert len(chosen) > 1  # else the choice was not seen
    assert refitted > 3


def test_a_tenth_is_held_out_of_the_probe_s_training_set():
    rest, held = hold_out(torch.arange(200) % 7)
    assert len(held) == 20
    assert sorted([*rest, *held]) == list(range(200))
    with pytest.raises(ValueError, match="two classes in nine tenths of the 2 "):
        hold_out(torch.tensor([0, 1]))


def test_unbalanced_classes_weigh_alike_in_the_mean_per_class():
    x = torch.tensor([[0.0], [1.0]]).repeat(20, 1)
    y = torch.tensor([0, 1]).repeat(20)
    test_x, test_y = torch.tensor([[0.0]] * 9 + [[0.0]]), torch.tensor([0] * 9 + [1])
    result = linear_probe(x, y, test_x, test_y)
    assert result.top1 == pytest.approx(0.9)
    assert result.mean_per_class == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, -1, 0]), "train_y: .*label"),
        (torch.tensor([0, 1]), "train_y: .*label"),
        (torch.zeros(4), "two classes"),
    ],
)
def test_labels_that_do_not_serve_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        linear_probe(torch.randn(4, 2), labels, torch.randn(2, 2), torch.tensor([0, 1]))


@pytest.mark.parametrize("test_y", [torch.tensor([0, -1]), torch.tensor([0])])
def test_every_test_embedding_has_a_label(test_y):
    with pytest.raises(ValueError, match=r"test_y: .*label"):
        linear_probe(torch.randn(40, 2), torch.arange(40) % 2, torch.randn(2, 2), test_y)


def test_a_class_absent_from_the_test_set_is_not_in_its_mean():
    top1, mean = accuracy(torch.tensor([0, 0, 2, 5]), torch.tensor([0, 0, 0, 2]))
    assert top1 == 0.5
    assert mean == pytest.approx((2 / 3 + 0) / 2)
    assert type(top1) is type(mean) is float
    predicted, labels = torch.randint(0, 9, (200,)), torch.randint(0, 9, (200,))
    expected = accuracy_score(labels, predicted), balanced_accuracy_score(labels, predicted)
    assert accuracy(predicted, labels) == pytest.approx(expected)


# With a training split of its own.


def test_classification_is_scikit_learn_s_on_the_same_split(run):
    labels = torch.arange(300) % 5
    h = clouds(labels, 1.2) + 3  # so that all are much alike, and the vote of the 200th counts
    train_set, test_set = image_set(labels[:220], list("abcde")), image_set(labels[220:], list("abcde"))
    table = score_classification(run, train_set, test_set, {"h": (h[:220], h[220:])})
    result = result_of(run)
    of = result["scores"]["h"]
    for k in (20, 200):
        peer = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
        predicted = peer.fit(h[:220], labels[:220]).predict(h[220:])
        recall = recall_score(labels[220:], predicted, average="macro")
        assert of[f"knn@{k} top1"] == [pytest.approx((predicted == labels[220:].numpy()).mean(), abs=0.013)]
        assert of[f"knn@{k} mean_per_class"] == [pytest.approx(recall, abs=0.02)]
        own = knn_accuracy(h[:220], labels[:220], h[220:], labels[220:], k)
        assert of[f"knn@{k} top1"] == [pytest.approx(own, rel=1e-12)]
    assert of["knn@20 top1"] != of["knn@200 top1"]  # else one could stand for the other
    probe = linear_probe(h[:220], labels[:220], h[220:], labels[220:])
    assert of["linear probe top1"] == [probe.top1]
    assert of["linear probe mean_per_class"] == [probe.mean_per_class]
    assert set(of) == {f"{way} {name}" for way in ("knn@20", "knn@200", "linear probe") for name in probe._fields[:2]}
    assert result["inverse_regularization"] == {"h": [probe.inverse_regularization]}
    assert result["scores"]["chance"] == {metric: [1 / 5] for metric in of}
    assert {name: result[name] for name in ("train_images", "test_images", "classes", "classes_tested")} == {
        "train_images": 220,
        "test_images": 80,
        "classes": "5",
        "classes_tested": 5,
    }
    assert "nothing on the test images" in result["selected_on"]
    pd.testing.assert_frame_equal(table, score_table(result["scores"]))


def test_embeddings_wider_than_an_encoder_s_are_not_probed(run):
    labels = torch.arange(60) % 3
    images, wide = image_set(labels, list("abc")), torch.randn(60, 2049)
    score_classification(run, images, images, {"pixels": (wide, wide), "h": (wide[:, :9], wide[:, :9])})
    result = result_of(run)
    assert set(result["scores"]["pixels"]) == {"knn@20 top1", "knn@20 mean_per_class"}
    assert list(result["inverse_regularization"]) == ["h"]
    assert set(result["scores"]["chance"]) == set(result["scores"]["h"])


def test_a_class_without_test_images_shifts_no_label_and_a_new_one_is_refused(run):
    labels = torch.arange(120) % 3
    h = clouds(labels, 0.1)
    train_set = image_set(labels, ["ant", "bee", "crab"])
    kept = (labels != 1).nonzero().squeeze(1)
    score_classification(run, train_set, image_set(labels[kept] // 2, ["ant", "crab"]), {"h": (h, h[kept])})
    result = result_of(run)
    assert result["scores"]["h"]["linear probe mean_per_class"] == [1.0]  # crabs are found as crabs
    assert result["classes_tested"] == 2
    assert result["scores"]["chance"]["linear probe top1"] == [1 / 3]
    with pytest.raises(ValueError, match=r"test: .*dove"):
        score_classification(run, train_set, image_set(labels[kept] // 2, ["ant", "dove"]), {"h": (h, h[kept])})
    with pytest.raises(ValueError, match=r"test: .*label"):
        score_classification(run, train_set, image_set(labels - 1, ["ant", "bee", "crab"]), {"h": (h, h)})


# On draws.


def test_each_draw_trains_on_30_of_each_class_and_tests_on_the_rest():
    labels = torch.tensor([0] * 100 + [1] * 30 + [2] * 70 + [-1] * 5 + [3])
    seen = set()
    for seed in range(3):
        training, test = draw_per_class(labels, seed)
        assert labels[training].bincount().tolist() == [30, 30, 30, 1]
        assert labels[test].bincount().tolist() == [70, 0, 40]  # class 1 is absent, and class 3
        for rows in (training, test):
            assert rows.tolist() == sorted(set(rows.tolist()))
        assert not set(training.tolist()) & set(test.tolist())
        assert len(training) + len(test) == 201
        assert torch.equal(training, draw_per_class(labels, seed)[0])
        seen.add(tuple(training.tolist()))
    assert len(seen) == 3


def test_a_draw_takes_the_first_of_each_class_in_a_random_order():
    labels = torch.randint(-1, 4, (400,))
    order = torch.randperm(400, generator=torch.Generator().manual_seed(5)).tolist()
    first = [row for c in range(4) for row in [row for row in order if labels[row] == c][:30]]
    training, test = draw_per_class(labels, 5)
    assert training.tolist() == sorted(first)
    assert test.tolist() == [row for row in range(400) if labels[row] >= 0 and row not in first]


@pytest.mark.parametrize(("largest", "drawn"), [(31, 30), (30, 15), (9, 4), (2, 1)])
def test_where_no_class_has_more_than_30_half_of_the_largest_is_drawn(largest, drawn):
    training, test = draw_per_class(torch.tensor([0] * largest + [1] * 2), 0)
    assert (training < largest).sum() == drawn
    assert (test < largest).sum() == largest - drawn
    assert len(training) + len(test) == largest + 2


def test_the_protocol_of_caltech101_is_a_mean_over_draws(run):
    labels = torch.arange(200) % 4
    images, h = image_set(labels, ["Faces", "Faces_easy", "ant", "barrel"]), clouds(labels, 0.8)
    table = score_draws(run, images, {"h": h}, draws=(0, 1))
    result = result_of(run)
    assert (result["train_per_class"], result["draws"]) == (30, [0, 1])
    assert result["train_images"] == [120, 120]
    assert result["test_images"] == [80, 80]
    assert (result["classes"], result["classes_tested"]) == ("4", 4)
    assert "without their labels" in result["seen"]
    of, methods = result["scores"]["h"], ("knn@20", "linear probe")  # 120 images have no 200 neighbours
    assert set(of) == {f"{method} {name}" for method in methods for name in ("top1", "mean_per_class")}
    assert result["scores"]["chance"] == {metric: [1 / 4] for metric in of}
    for draw in (0, 1):
        rows, rest = draw_per_class(labels, draw)
        peer = LogisticRegression(C=result["inverse_regularization"]["h"][draw], max_iter=500)
        scaled = (h - h[rows].mean(0)) / h[rows].std(0, correction=0)
        predicted = peer.fit(scaled[rows], labels[rows]).predict(scaled[rest])
        expected = (predicted == labels[rest].numpy()).mean()
        assert of["linear probe top1"][draw] == pytest.approx(expected, abs=0.026)
    assert table.loc["linear probe top1", ("h", "mean")] == pytest.approx(np.mean(of["linear probe top1"]))


# Which of the two.


def test_where_there_is_a_training_split_all_of_it_trains_the_classifiers(run, gallery, monkeypatch):
    embedded = []

    def embed_by_size(run, images):
        embedded.append(len(images))
        return {"h": clouds(images.labels, 1.0)}

    monkeypatch.setattr(classification, "embed_beside_baselines", embed_by_size)
    score_classes(run, gallery)  # the run was trained on 64 images of the test split
    assert sorted(embedded) == [120, 4000]
    assert (result_of(run)["train_images"], result_of(run)["test_images"]) == (4000, 120)


def test_where_there_is_none_draws_of_the_gallery_train_them(run, gallery):
    object.__setattr__(run.config, "dataset", "caltech101")
    score_classes(run, gallery)
    result = result_of(run)
    assert result["draws"] == [0, 1, 2]
    assert list(result["scores"]) == ["raw pixels", "untrained encoder", "trained encoder", "chance"]
    score_draws(run, gallery, embed_beside_baselines(run, gallery))
    assert result_of(run) == result


def test_classes_are_refused_as_they_would_be_when_they_are_scored(gallery):
    without = RunConfig(dataset="caltech101")
    require_classes(without, gallery, draws=[0])
    require_classes(RunConfig(), gallery, draws=[0])
    pair = ImageSet(gallery.images[:4], torch.arange(4) // 2, ["ant", "bee"], gallery.ids[:4])
    with pytest.raises(ValueError, match="two classes in nine tenths of the 2 "):
        require_classes(without, pair, draws=[0])
    with pytest.raises(ValueError, match=r"test: .*dove"):
        require_classes(RunConfig(), ImageSet(gallery.images, gallery.labels * 0, ["dove"], gallery.ids), draws=[0])
    unlabelled = ImageSet(gallery.images, gallery.labels - 1, gallery.class_names, gallery.ids)
    with pytest.raises(ValueError, match=r"test: .*label"):
        require_classes(RunConfig(), unlabelled, draws=[0])


def test_the_labelled_training_images_are_those_of_the_whole_split():
    images = load_gallery(RunConfig(limit_images=5, split="test"), split="train")
    assert torch.equal(images.images, load_images("embedded", "train").images)
