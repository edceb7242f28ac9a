"""Neighbours of a run: those of every image, kept by id; the queries that are shown."""

import base64
import json
from io import BytesIO

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from simclr_lib import ImageSet, Run, RunConfig, load_images, top_k_neighbors
from simclr_lib.evaluation import embeddings, neighbors
from simclr_lib.evaluation.columns import Columns
from simclr_lib.evaluation.neighbors import (
    fixed_queries,
    record_neighbors,
    recorded_queries,
)


@pytest.fixture
def recorded(run, monkeypatch):
    """A function that records a run whose encoders give these embeddings of these images, and asks these queries."""

    def record(images: ImageSet, h: dict[str, torch.Tensor], queries: list[int], run: Run = run) -> Columns:
        states = dict(zip((0, None), h.values(), strict=True))
        monkeypatch.setattr(embeddings, "load_gallery", lambda config: images)
        monkeypatch.setattr(embeddings, "embed_once", lambda run, images, epochs: states.get(epochs, states[0] + 1))
        monkeypatch.setattr(neighbors, "fixed_queries", lambda images: queries)
        columns = record_neighbors(run)
        monkeypatch.undo()
        return columns

    return record


def random_layers(n: int) -> dict[str, torch.Tensor]:
    return {name: torch.randn(n, 128) for name in ("untrained encoder", "trained encoder")}


def test_the_neighbours_of_every_image_are_kept_by_id(run, recorded):
    images = load_images("embedded", limit=40, seed=9)  # ids are not positions here
    layers = random_layers(40)
    columns = recorded(images, layers, [2, 3])
    kept = np.load(run.path / "neighbors.npz")
    unit = F.normalize(layers["trained encoder"].double())
    for row in range(40):
        others = sorted((j for j in range(40) if j != row), key=lambda j: (-float(unit[row] @ unit[j]), j))[:10]
        assert kept["ids"][row] == images.ids[row]
        assert kept["neighbors"][row].tolist() == images.ids[others].tolist()
        np.testing.assert_allclose(kept["similarities"][row], [float(unit[row] @ unit[j]) for j in others])
    assert torch.equal(columns.rows["trained encoder"]["h"], layers["trained encoder"])


@pytest.mark.parametrize("side", [16, 300])
def test_what_runs_are_compared_by_is_in_one_small_file(run, recorded, side):
    noise = torch.randint(0, 256, (40, 3, side, side), dtype=torch.uint8)  # no picture has larger files
    labels = torch.arange(40) % 4 - 1
    images = ImageSet(noise, labels, ["ant", "bee", "cow"], torch.arange(40) * 7 + 3)
    queries, layers = [5, 0, 17, 2, 30, 39], random_layers(40)
    layers["trained encoder"][[6, 7]] = layers["trained encoder"][5].clone()  # whose nearest are duplicates
    recorded(images, layers, queries)
    assert (run.path / "queries.json").stat().st_size <= 300_000
    kept, ids = json.loads((run.path / "queries.json").read_text()), images.ids.tolist()
    assert kept["dataset"] == run.config.dataset
    assert kept["queries"] == [ids[row] for row in queries]
    shown = set(kept["queries"])
    for name, h in layers.items():
        unit = h.double() / h.double().norm(dim=1, keepdim=True)
        for query, near, similarities in zip(queries, kept["neighbors"][name], kept["similarities"][name], strict=True):
            others = sorted((j for j in range(40) if j != query), key=lambda j: (-float(unit[query] @ unit[j]), j))[:10]
            assert near == [ids[row] for row in others]
            assert similarities == pytest.approx([float(unit[query] @ unit[j]) for j in others], abs=1e-4)
            shown |= set(near)
    assert set(map(int, kept["thumbnails"])) == set(map(int, kept["labels"])) == shown
    for name, url in kept["thumbnails"].items():
        row = ids.index(int(name))
        assert kept["labels"][name] == ["", "ant", "bee", "cow"][labels[row] + 1]
        picture = Image.open(BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))
        assert picture.size == (16, 16) if side == 16 else picture.width in (64, 48, 32, 24)


def test_the_queries_that_several_runs_kept_are_read_back_without_data(run, tmp_path, recorded):
    images = load_images("embedded", "test").subset(range(60))
    images = ImageSet(images.images, images.labels.where(torch.arange(60) != 3, -1), images.class_names, images.ids + 7)
    other, layers = Run.start(tmp_path / "other", run.config), {"one": random_layers(60), "two": random_layers(60)}
    for kept, name in ((run, "one"), (other, "two")):
        recorded(images, layers[name], [3, 50], kept)
    shown = recorded_queries({"one": run, "two": other}, "trained encoder", queries=1, k=4)
    seen, labels = shown["gallery"]
    names = [*shown["class_names"], ""]
    assert list(shown["query_ids"]) == [0]
    assert [names[label] for label in shown["labels"]] == ["", images.class_names[images.labels[50]]]
    for name, (indices, similarities) in shown["found"].items():
        assert indices.shape == similarities.shape == (2, 4)
        expected, near = top_k_neighbors(layers[name]["trained encoder"], k=4)
        for found, query, close in zip(indices, (3, 50), similarities, strict=True):
            assert np.allclose(close, near[query], atol=1e-4)
            for row, position in zip(found, expected[query].tolist(), strict=True):
                difference = seen[row].astype(float) - images.images[position].numpy()
                assert abs(difference).mean() < 25  # as JPEG leaves it; of another image it is some 60
                assert names[labels[row]] == [*images.class_names, ""][images.labels[position]]


def test_queries_that_cannot_be_compared_are_refused_with_the_reason(tmp_path):
    one, two = (Run.start(tmp_path / name, RunConfig()) for name in ("one", "two"))
    content = {"dataset": "embedded", "queries": [1, 2], "labels": {}, "thumbnails": {}}
    (one.path / "queries.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"queries.json: .*none in two; python -m simclr_lib score"):
        recorded_queries({"one": one, "two": two}, "trained encoder")
    (two.path / "queries.json").write_text(json.dumps({**content, "neighbors": {"trained encoder": []}}))
    (one.path / "queries.json").write_text(json.dumps({**content, "neighbors": {"trained encoder": []}}))
    with pytest.raises(ValueError, match="encoder: expected one of trained encoder, got 'trained'"):
        recorded_queries({"one": one, "two": two}, "trained")
    (two.path / "queries.json").write_text(json.dumps({**content, "queries": [1, 3]}))
    with pytest.raises(ValueError, match=r"runs: .*the same queries of one data set.*2 different"):
        recorded_queries({"one": one, "two": two}, "trained encoder")


def test_the_neighbours_of_a_set_that_has_few_are_all_the_others(run, recorded):
    images = load_images("embedded", limit=4)
    recorded(images, {"untrained encoder": torch.eye(4, 128), "trained encoder": torch.eye(4, 128)}, [1])
    kept = json.loads((run.path / "queries.json").read_text())
    assert kept["neighbors"]["trained encoder"] == [[images.ids[row] for row in (0, 2, 3)]]


# The queries.


def of_labels(labels: torch.Tensor, side: int = 4) -> ImageSet:
    pixels = torch.randint(0, 256, (len(labels), 3, side, side), dtype=torch.uint8)
    return ImageSet(pixels, labels, [], torch.arange(len(labels)))


def test_queries_are_of_different_classes_and_no_image_is_preferred():
    labels = torch.arange(240) % 8
    queries = fixed_queries(of_labels(labels))
    assert len(queries) == len({int(labels[query]) for query in queries}) == 6
    assert queries == fixed_queries(of_labels(labels, side=9))  # whatever the images are
    places = [query / n for n in range(200, 400) for query in fixed_queries(of_labels(torch.arange(n) % 8))]
    shares = np.histogram(places, bins=4, range=(0, 1))[0] / len(places)
    assert (abs(shares - 0.25) < 0.07).all()


def test_queries_of_few_classes_are_as_many_of_each():
    labels = torch.arange(50) % 2
    queries = fixed_queries(of_labels(labels))
    assert len(set(queries)) == 6
    assert labels[queries].tolist().count(0) == 3


def test_a_query_has_a_label_where_some_images_have_none():
    labels = torch.arange(80) % 4
    labels[::2] = -1
    assert (labels[fixed_queries(of_labels(labels))] >= 0).all()
    labels[5:] = -1
    queries = fixed_queries(of_labels(labels))
    assert sorted(labels[queries].tolist()) == [-1, -1, -1, -1, 1, 3]
    assert len(set(queries)) == len(set(fixed_queries(of_labels(torch.full((50,), -1))))) == 6


def test_of_fewer_images_all_are_queries():
    assert sorted(fixed_queries(of_labels(torch.tensor([2, 0, 1])))) == [0, 1, 2]
