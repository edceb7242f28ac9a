"""Neighbours of a run: those of every image, kept by id; the queries that are shown."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from simclr_lib import RunConfig, load_images
from simclr_lib.evaluation.neighbors import choose_queries, fixed_queries, record_neighbors


def test_the_neighbours_of_every_image_are_kept_by_id(run):
    images = load_images("embedded", limit=40, seed=9)  # ids are not positions here
    h = torch.randn(40, 16)
    indices, similarities = record_neighbors(run, images, h, k=3)
    kept = np.load(run.path / "neighbors.npz")
    unit = h.double() / h.double().norm(dim=1, keepdim=True)
    for row in range(40):
        others = sorted((j for j in range(40) if j != row), key=lambda j: (-float(unit[row] @ unit[j]), j))[:3]
        assert indices[row].tolist() == others
        assert kept["ids"][row] == images.ids[row]
        assert kept["neighbors"][row].tolist() == images.ids[others].tolist()
        np.testing.assert_allclose(kept["similarities"][row], [float(unit[row] @ unit[j]) for j in others])
    assert np.array_equal(kept["similarities"], similarities)
    assert record_neighbors(run, images, h)[0].shape == (40, 10)


# The queries.


def test_queries_are_the_best_the_middle_and_the_worst_of_different_classes():
    labels = torch.arange(240) % 8
    spread = torch.linspace(0.05, 3, 8)[labels]  # class 0 lies close together, class 7 all over
    h = torch.nn.functional.one_hot(labels, 8) + spread[:, None] * torch.randn(240, 8)
    queries = choose_queries(h, labels, count=6, k=10)
    assert len({int(labels[q]) for q in queries}) == 6
    unit = h.double() / h.double().norm(dim=1, keepdim=True)
    nearest = (unit @ unit.T).fill_diagonal_(-2).argsort(dim=1, descending=True)[:, :10]
    precision = (labels[nearest] == labels[:, None]).double().mean(1)
    best, middle, worst = (precision[queries[i : i + 2]] for i in (0, 2, 4))
    assert best[0] == precision.max()
    assert worst[0] == precision.min()
    assert (middle[0] - precision.median()).abs() <= 0.1
    assert best.mean() > middle.mean() > worst.mean()
    assert queries == choose_queries(h, labels, count=6, k=10)


def test_queries_of_few_classes_or_none_are_as_many_all_the_same():
    labels = torch.arange(50) % 2
    h = torch.eye(2)[labels] + torch.linspace(0.1, 3, 50)[:, None] * torch.randn(50, 2)
    two, unlabelled = choose_queries(h, labels), choose_queries(h, torch.full((50,), -1))
    assert len(set(two)) == len(set(unlabelled)) == 6
    unit = h / h.norm(dim=1, keepdim=True)
    nearest = (unit @ unit.T).fill_diagonal_(-2).argsort(dim=1, descending=True)[:, :10]
    precision = (labels[nearest] == labels[:, None]).double().mean(1)
    ranked = precision.sort(descending=True).values
    assert precision[two].tolist() == ranked[[0, 1, 25, 24, 49, 48]].tolist()  # of equals, any
    assert ranked[0] > ranked[17] > ranked[25] > ranked[33] > ranked[49]  # there was a middle


def test_a_query_has_a_label_where_some_images_have_none():
    labels = torch.arange(80) % 4
    labels[::2] = -1
    assert all(labels[query] >= 0 for query in choose_queries(torch.randn(80, 3), labels))


def test_the_queries_of_a_data_set_are_one_choice_whatever_the_size_of_its_images(tmp_path):
    rng = np.random.default_rng(int(torch.randint(1000, ())))
    for label in range(6):
        (tmp_path / f"class {label}").mkdir()
        form = rng.integers(0, 256, (6, 9, 3))
        form[:, 1:8] = 128  # the class shows at the sides, which a crop leaves out
        for index in range(8):
            noisy = form + rng.integers(0, 20 * label + 1, form.shape)
            Image.fromarray(noisy.astype(np.uint8)).resize((90, 60)).save(tmp_path / f"class {label}/{index}.png")
    config = RunConfig(dataset="folder", data_root=str(tmp_path), image_size=16)
    queries = fixed_queries(config)
    assert queries == fixed_queries(replace(config, image_size=64, resize="crop", limit_images=10, arch="resnet18"))
    seen = load_images("folder", root=tmp_path, image_size=32)
    assert queries == choose_queries(seen.images.flatten(1).float(), seen.labels)
