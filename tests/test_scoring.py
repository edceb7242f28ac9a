"""The protocols on a run: what they score, on what, beside what, and where it is written."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.neighbors import KNeighborsClassifier

from simclr_lib import ImageSet, Run, RunConfig, load_images, train
from simclr_lib.classification import draw_per_class, score_classes, score_classification, score_draws
from simclr_lib.evaluate import accuracy, choose_queries, linear_probe
from simclr_lib.health import color_reading, palettes
from simclr_lib.scores import chance_scores, retrieval_scores
from simclr_lib.scoring import (
    check_scoring,
    fixed_queries,
    load_gallery,
    score_color,
    score_layers,
    score_over_training,
    score_retrieval,
    table,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    config = RunConfig(limit_images=64, batch_size=16, epochs=2, blur=False, norm="group", device="cpu", seed=4)
    return Run.open(train(config, tmp_path_factory.mktemp("run")).path)  # as a later reader has it


@pytest.fixture
def gallery() -> ImageSet:
    return load_images("embedded", "test", limit=120, seed=int(torch.randint(1000, ())))


def clouds(labels: torch.Tensor, spread: float = 1.0) -> torch.Tensor:
    """Embeddings that know something of the labels."""
    return torch.nn.functional.one_hot(labels, 8).float() + spread * torch.randn(len(labels), 8)


def test_retrieval_is_scored_beside_its_baselines_and_chance_and_kept(run, gallery):
    result = score_retrieval(run, gallery, k=3)
    assert list(result["scores"]) == ["raw pixels", "untrained encoder", "trained encoder", "chance"]
    assert json.loads((run.path / "summary.json").read_text())["retrieval"] == result
    raw = retrieval_scores(gallery.images.flatten(1).float(), gallery.labels, 3)
    for metric, values in raw.items():
        assert result["scores"]["raw pixels"][metric] == [pytest.approx(values.mean().item())]
        chance = chance_scores(gallery.labels, 3)[metric].mean().item()
        assert result["scores"]["chance"][metric] == [pytest.approx(chance)]
        classes = [values[gallery.labels == label].mean().item() for label in gallery.labels.unique()]
        assert result["scores"]["raw pixels"][f"{metric}, mean per class"] == [pytest.approx(np.mean(classes))]
        shown = {gallery.class_names[label]: share for label, share in enumerate(classes)}
        assert result["per_class"]["raw pixels"][metric] == pytest.approx(shown)


def test_seeds_score_other_parts_of_the_set_and_classes_get_their_mean(run, gallery):
    h = clouds(gallery.labels)
    result = score_retrieval(run, gallery, {"h": h}, k=2, seeds=(5, 6), sample=60)
    assert result["images"] == [60, 60]
    expected = []
    for seed in (5, 6):
        rows = torch.randperm(120, generator=torch.Generator().manual_seed(seed))[:60].sort().values
        expected.append(retrieval_scores(h[rows], gallery.labels[rows], 2)["map@R"].nanmean().item())
    assert result["scores"]["h"]["map@R"] == pytest.approx(expected)
    assert expected[0] != expected[1]
    by_seed = [score_retrieval(run, gallery, {"h": h}, k=2, seeds=(seed,), sample=60) for seed in (5, 6)]
    for name, share in result["per_class"]["h"]["recall@2"].items():
        assert share == pytest.approx(np.mean([one["per_class"]["h"]["recall@2"][name] for one in by_seed]))


def test_unlabelled_images_are_left_out_and_a_lone_one_of_its_class_is_counted(run, gallery):
    labels = gallery.labels.clone()
    labels[10:] = labels[10:].where(labels[10:] != 3, 2)
    labels[:10], labels[0] = -1, 3  # ten have no label but for one, which is alone in its class
    some = ImageSet(gallery.images, labels, gallery.class_names, gallery.ids)
    result = score_retrieval(run, some, {"h": clouds(labels.clamp(min=0))}, k=2)
    assert result["labelled_images"] == result["images"][0] == 111
    assert result["queries_alone_in_their_class"] == [1]
    assert gallery.class_names[3] not in result["per_class"]["h"]["precision@2"]
    assert len(result["per_class"]["h"]["precision@2"]) == 7


def test_layers_compare_h_and_z_by_cosine_and_by_dot_product(run, gallery):
    result = score_layers(run, gallery, k=2)
    assert list(result["scores"]) == ["h, cosine", "h, dot", "z, cosine", "z, dot", "chance"]
    weights = run.load_checkpoint()["model"]
    from simclr_lib import SimCLR, build_encoder

    model = SimCLR(build_encoder(**run.config.encoder_options), 128)
    model.load_state_dict(weights)
    with torch.no_grad():
        z = model.eval()(gallery.images.float() / 255)
    expected = retrieval_scores(z, gallery.labels, 2, "dot")["precision@2"].mean().item()
    assert result["scores"]["z, dot"]["precision@2"][0] == pytest.approx(expected, abs=0.01)


def test_training_is_followed_from_before_it_to_its_end(run, gallery):
    result = score_over_training(run, gallery, k=2)
    assert list(result["scores"]) == ["before training", "after 1 epoch", "after 2 epochs", "chance"]
    whole = score_retrieval(run, gallery, k=2)["scores"]
    assert result["scores"]["before training"] == whole["untrained encoder"]
    assert result["scores"]["after 2 epochs"] == whole["trained encoder"]


def test_colour_is_read_on_a_part_of_the_images_whatever_their_labels(run, gallery):
    unlabelled = ImageSet(gallery.images, torch.full((120,), -1), [], gallery.ids)
    h = torch.randn(120, 4)
    result = score_color(run, unlabelled, {"h": h}, seeds=(3,), sample=50)
    rows = torch.randperm(120, generator=torch.Generator().manual_seed(3))[:50].sort().values
    expected = color_reading(h[rows], palettes(gallery.images[rows]))
    assert {name: values[0] for name, values in result["scores"]["h"].items()} == pytest.approx(expected)


def test_classification_is_scikit_learn_s_on_the_same_split(run):
    labels = torch.arange(300) % 5
    h = clouds(labels, 0.7)
    images = load_images("embedded", limit=300)
    train_set = ImageSet(images.images[:220], labels[:220], list("abcde"), images.ids[:220])
    test_set = ImageSet(images.images[220:], labels[220:], list("abcde"), images.ids[220:])
    result = score_classification(run, train_set, test_set, {"h": (h[:220], h[220:])})
    for k in (20, 200):
        peer = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
        predicted = peer.fit(h[:220], labels[:220]).predict(h[220:])
        of, recall = result["scores"]["h"], recall_score(labels[220:], predicted, average="macro")
        assert of[f"knn@{k} top1"] == [pytest.approx((predicted == labels[220:].numpy()).mean(), abs=0.013)]
        assert of[f"knn@{k} mean_per_class"] == [pytest.approx(recall, abs=0.02)]
    probe = linear_probe(h[:220], labels[:220], h[220:], labels[220:])
    assert of["linear probe top1"] == [probe.top1]
    assert of["linear probe mean_per_class"] == [probe.mean_per_class]
    assert result["inverse_regularization"] == {"h": [probe.inverse_regularization]}
    assert result["scores"]["chance"] == {metric: [1 / 5] for metric in of}
    assert "nothing on the test images" in result["selected_on"]


def test_each_draw_trains_on_so_many_of_each_class_and_tests_on_the_rest(run):
    labels = torch.tensor([0] * 40 + [1] * 12 + [2] * 30 + [-1] * 5 + [3])
    seen = set()
    for seed in range(3):
        training, test = draw_per_class(labels, 12, seed)
        assert labels[training].bincount().tolist() == [12, 12, 12, 1]
        assert labels[test].bincount().tolist() == [28, 0, 18]  # class 1 is absent, and class 3
        assert not set(training.tolist()) & set(test.tolist())
        assert len(training) + len(test) == 83
        assert torch.equal(training, draw_per_class(labels, 12, seed)[0])
        seen.add(tuple(training.tolist()))
    assert len(seen) == 3


def test_the_protocol_of_caltech101_is_a_mean_over_draws_and_states_its_near_duplicates(run):
    labels = torch.arange(200) % 4
    names = ["Faces", "Faces_easy", "ant", "barrel"]
    images = load_images("embedded", limit=200)
    named = ImageSet(images.images, labels, names, images.ids)
    h = clouds(labels, 0.8)
    result = score_draws(run, named, {"h": h}, train_per_class=30, draws=(0, 1))
    assert result["train_images"] == [120, 120]
    assert result["test_images"] == [80, 80]
    assert result["near_duplicates"].startswith("Faces and Faces_easy, 50.0% of the test images, are the same")
    assert "without their labels" in result["seen"]
    of, methods = result["scores"]["h"], ("knn@20", "linear probe")  # 120 images have no 200 neighbours
    assert set(of) == {f"{method} {name}" for method in methods for name in ("top1", "mean_per_class")}
    assert result["scores"]["chance"] == {metric: [1 / 4] for metric in of}
    for draw in (0, 1):
        rows, rest = draw_per_class(labels, 30, draw)
        peer = LogisticRegression(C=result["inverse_regularization"]["h"][draw], max_iter=500)
        scaled = (h - h[rows].mean(0)) / h[rows].std(0, correction=0)
        predicted = peer.fit(scaled[rows], labels[rows]).predict(scaled[rest])
        expected = (predicted == labels[rest].numpy()).mean()
        assert of["linear probe top1"][draw] == pytest.approx(expected, abs=0.026)


def test_a_class_without_test_images_shifts_no_label_and_a_new_one_is_refused(run, gallery):
    labels = torch.arange(120) % 3
    h = clouds(labels, 0.1)
    train_set = ImageSet(gallery.images, labels, ["ant", "bee", "crab"], gallery.ids)
    kept = (labels != 1).nonzero().squeeze(1)
    test_set = ImageSet(gallery.images[kept], labels[kept] // 2, ["ant", "crab"], gallery.ids[kept])
    result = score_classification(run, train_set, test_set, {"h": (h, h[kept])})
    assert result["scores"]["h"]["linear probe mean_per_class"] == [1.0]  # crabs are found as crabs
    assert result["classes_tested"] == 2
    new = ImageSet(gallery.images[kept], labels[kept] // 2, ["ant", "dove"], gallery.ids[kept])
    with pytest.raises(ValueError, match="expected the classes of train, got dove too"):
        score_classification(run, train_set, new, {"h": (h, h[kept])})
    unlabelled = ImageSet(gallery.images, labels - 1, ["ant", "bee", "crab"], gallery.ids)
    with pytest.raises(ValueError, match="test: expected a label for every image"):
        score_classification(run, train_set, unlabelled, {"h": (h, h)})


def test_a_class_absent_from_the_test_set_is_not_in_its_mean():
    top1, mean = accuracy(torch.tensor([0, 0, 2, 5]), torch.tensor([0, 0, 0, 2]))
    assert top1 == 0.5
    assert mean == pytest.approx((2 / 3 + 0) / 2)


def test_the_split_follows_from_the_data_set(run, tmp_path, gallery):
    assert len(load_gallery(run.config)) == 1000  # the test split, whatever part was trained on
    whole = {"raw pixels": None, "untrained encoder": None, "trained encoder": None}
    test = load_gallery(run.config).subset(list(range(60)))
    for name in whole:
        whole[name] = torch.randn(60, 3072 if name == "raw pixels" else 128)
    assert score_classes(run, test, whole)["train_images"] == 4000
    assert Run.open(run.path).summary["classification"]["test_images"] == 60


def test_the_queries_of_a_data_set_are_one_choice_whatever_the_size_of_its_images(tmp_path):
    rng = np.random.default_rng(int(torch.randint(1000, ())))
    for label in range(6):
        (tmp_path / f"class {label}").mkdir()
        form = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
        for index in range(8):
            noisy = form + rng.integers(0, 20 * label + 1, form.shape).astype(np.uint8)
            Image.fromarray(noisy).resize((90, 60)).save(tmp_path / f"class {label}/{index}.png")
    config = RunConfig(dataset="folder", data_root=str(tmp_path), image_size=16)
    queries = fixed_queries(config)
    assert queries == fixed_queries(replace(config, image_size=64, resize="crop", limit_images=10, arch="resnet18"))
    seen = load_images("folder", root=tmp_path, image_size=32)
    assert queries == choose_queries(seen.images.flatten(1).float(), seen.labels)


def test_what_cannot_be_scored_is_said_before_training(gallery):
    config = RunConfig(dataset="folder", data_root="anywhere")
    check_scoring(config, gallery, k=5, train_per_class=3)
    with pytest.raises(ValueError, match="k: expected 1 to 119"):
        check_scoring(config, gallery, k=120, train_per_class=3)
    with pytest.raises(ValueError, match="train_per_class: expected fewer than the images of some class, got 500"):
        check_scoring(config, gallery, k=5, train_per_class=500)
    with pytest.raises(ValueError, match="sample: expected 2 to the 120 labelled images, got 121"):
        check_scoring(config, gallery, k=5, train_per_class=3, sample=121)
    with pytest.raises(
        ValueError, match=r"seeds: expected a list, not empty, of whole numbers .*, got '\[0\]'; papermill takes .* -y"
    ):
        check_scoring(config, gallery, k=5, train_per_class=3, seeds="[0]")
    with pytest.raises(ValueError, match="seeds: expected a list, not empty, of whole"):
        check_scoring(config, gallery, k=5, train_per_class=3, seeds=[])
    with pytest.raises(ValueError, match=r"query_ids: expected a list of whole numbers from 0 to 119, got \[3, 120\]"):
        check_scoring(config, gallery, k=5, train_per_class=3, query_ids=[3, 120])
    with pytest.raises(ValueError, match=r'similarity: expected "cosine" or "dot", got \'l2\''):
        check_scoring(config, gallery, k=5, train_per_class=3, similarity="l2")
    check_scoring(config, gallery, k=5, train_per_class=3, seeds=[0, 7], query_ids=[0, 119], similarity="dot")
    pair = ImageSet(gallery.images[:40], torch.arange(40) % 2, ["ant", "bee"], gallery.ids[:40])
    with pytest.raises(ValueError, match="expected two classes in nine tenths of the 2 training images"):
        check_scoring(config, pair, k=5, train_per_class=1)
    of_another = ImageSet(gallery.images, gallery.labels, [*gallery.class_names[1:], "zebra"], gallery.ids)
    with pytest.raises(ValueError, match="test: expected the classes of train, got zebra too"):
        check_scoring(RunConfig(), of_another, k=5, train_per_class=3)
    lone = ImageSet(gallery.images[:30], torch.arange(30) // 2, [f"class {c}" for c in range(15)], gallery.ids[:30])
    with pytest.raises(
        ValueError, match="labels: expected a label from 0 for each of at least 2 images, two of a class"
    ):
        check_scoring(config, lone, k=1, train_per_class=1, sample=2, seeds=range(9))  # for one seed, two of a class
    one_class = ImageSet(gallery.images, torch.zeros(120).long(), ["all"], gallery.ids)
    with pytest.raises(ValueError, match="k: expected 1 to 4, the rows to choose from, got 5"):
        check_scoring(config, one_class, k=5, train_per_class=500, sample=5)
    check_scoring(config, one_class, k=5, train_per_class=500)  # nothing will be classified
    check_scoring(RunConfig(), gallery, k=5, train_per_class=500)  # a test split of its own


def test_a_table_has_a_line_a_metric_and_mean_and_deviation_over_seeds():
    scores = {"a": {"precision@5": [0.5, 0.7], "recall@5": [1.0, 1.0]}, "by chance": {"precision@5": [0.1]}}
    head, first, second = table({"scores": scores}).splitlines()
    assert head.split() == ["a", "by", "chance"]
    assert first.split() == ["precision@5", "0.6000", "±", "0.1000", "0.1000"]
    assert second.split() == ["recall@5", "1.0000", "±", "0.0000"]
    assert len(head) == len(first)  # columns end together


def test_a_table_wider_than_a_page_comes_in_parts():
    scores = {f"after {epochs} epochs": {"precision@5, mean per class": [epochs / 10] * 2} for epochs in range(7)}
    parts = [part.splitlines() for part in table({"scores": scores}).split("\n\n")]
    assert [len(part) for part in parts] == [2, 2]
    assert max(len(line) for part in parts for line in part) <= 120
    shown = [line.split("class")[1].split()[::3] for _, line in parts]
    assert shown[0] + shown[1] == [f"{epochs / 10:.4f}" for epochs in range(7)]
