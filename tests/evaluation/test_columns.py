"""The columns: each is the embedding that its name says, and its neighbours are found again by plain loops."""

import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from simclr_lib import Run, RunConfig, train
from simclr_lib.evaluation.columns import RAW, Columns
from simclr_lib.evaluation.embeddings import load_encoder, load_model

KINDS = {"h cosine", "h dot", "z cosine", "z dot"}


@pytest.fixture(scope="module")
def trained_for_three(tmp_path_factory) -> Run:
    config = RunConfig(split="test", limit_images=48, batch_size=16, epochs=3, blur=False, device="cpu", norm="group")
    return train(config, tmp_path_factory.mktemp("columns") / "run")


@pytest.fixture(scope="module")
def columns(trained_for_three) -> Columns:
    return Columns([trained_for_three], k=5, limit=40)


def slow_order(rows: np.ndarray, query: int, similarity: str) -> list[tuple[float, int]]:
    """The others from the nearest on, one product after the other: (-similarity, position)."""
    found = []
    for other in set(range(len(rows))) - {query}:
        value = math.fsum(float(a) * float(b) for a, b in zip(rows[query], rows[other], strict=True))
        if similarity == "cosine":
            value /= math.hypot(*map(float, rows[query])) * math.hypot(*map(float, rows[other]))
        found.append((-value, other))
    return sorted(found)


def test_there_is_a_column_for_raw_pixels_and_each_stage_that_was_kept(columns):
    assert list(columns.rows) == [RAW, "untrained encoder", "after 1 epoch", "after 2 epochs", "trained encoder"]
    assert {name: set(of) for name, of in columns.nearest.items()} == {
        RAW: {"h cosine"},
        **dict.fromkeys([*columns.rows][1:], KINDS),
    }


@pytest.mark.parametrize(("name", "epochs"), [("untrained encoder", 0), ("after 2 epochs", 2), ("trained encoder", 3)])
def test_a_column_is_what_the_model_of_that_stage_makes_of_the_images(columns, trained_for_three, name, epochs):
    model = load_model(trained_for_three, epochs)
    with torch.no_grad():
        h = model.encoder(columns.images.images.float() / 255)
        torch.testing.assert_close(columns.rows[name]["h"], h, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(columns.rows[name]["z"], model.projection_head(h), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_neighbours_are_those_of_plain_loops(columns, kind):
    indices, similarities = columns.nearest["trained encoder"][kind]
    rows = columns.rows["trained encoder"][kind[0]].double().numpy()
    for query in (0, 17, 39):
        expected = slow_order(rows, query, kind[2:])[:5]
        assert indices[query].tolist() == [position for _, position in expected]
        np.testing.assert_allclose(similarities[query], [-value for value, _ in expected], rtol=1e-9)


def test_what_was_searched_once_is_read_again_and_other_images_are_searched_anew(trained_for_three, monkeypatch):
    first = Columns([trained_for_three], k=4, limit=20)
    kept, places = first.nearest, first.places
    fewer, others = (Columns([trained_for_three], k=k, limit=limit) for k, limit in ((2, 20), (4, 21)))
    assert torch.equal(fewer.nearest[RAW]["h cosine"][0], kept[RAW]["h cosine"][0][:, :2])
    assert others.nearest[RAW]["h cosine"][0].shape == (21, 4)
    monkeypatch.setattr("simclr_lib.evaluation.columns.top_k_neighbors", None)
    monkeypatch.setattr("simclr_lib.evaluation.columns._map", None)
    again = Columns([trained_for_three], k=4, limit=20)
    for name, of in again.nearest.items():
        for kind, tables in of.items():
            assert all(torch.equal(now, then) for now, then in zip(tables, kept[name][kind], strict=True))
    np.testing.assert_array_equal(again.places, places)


def test_there_are_no_more_neighbours_than_other_images(trained_for_three):
    assert Columns([trained_for_three], k=50, limit=20).nearest[RAW]["h cosine"][0].shape == (20, 19)


def test_an_image_of_ones_own_has_itself_as_its_nearest_in_every_column(columns, tmp_path):
    pixels = columns.images.images[11]
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "own.png")
    for item in (pixels.numpy(), str(tmp_path / "own.png")):
        found = columns.nearest_to(item)
        assert set(found) == set(columns.rows)
        for of in found.values():
            for kind, (indices, similarities) in of.items():
                assert indices.shape == similarities.shape == (1, 5)
                if kind.endswith("cosine"):
                    assert indices[0, 0] == 11
                    assert similarities[0, 0] == pytest.approx(1, abs=1e-5)


def test_without_the_projection_head_h_alone_is_compared(trained_for_three, tmp_path):
    columns = Columns([trained_for_three])
    shutil.copytree(trained_for_three.path, tmp_path / "run")
    for name in ("snapshots", "checkpoint.pt", "checkpoint.previous.pt"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    left = Columns([Run.open(tmp_path / "run")])
    assert list(left.rows) == [RAW, "untrained encoder", "trained encoder"]
    assert set(left.nearest["trained encoder"]) == {"h cosine", "h dot"}
    torch.testing.assert_close(left.rows["trained encoder"]["h"], columns.rows["trained encoder"]["h"])


def test_what_is_kept_suffices_without_any_weights(trained_for_three, tmp_path):
    before = Columns([trained_for_three])
    shutil.copytree(trained_for_three.path, tmp_path / "run")
    for pattern in ("*.pt", "*.safetensors"):
        for file in (tmp_path / "run").glob(pattern):
            file.unlink()
    with pytest.raises(ValueError, match="checkpoint"):
        load_encoder(Run.open(tmp_path / "run")).load_state_dict(Run.open(tmp_path / "run").load_checkpoint())
    after = Columns([Run.open(tmp_path / "run")])
    assert all(torch.equal(before.rows[name]["h"], after.rows[name]["h"]) for name in before.rows)


def test_two_runs_stand_beside_each_other(trained_for_three, tmp_path):
    shutil.copytree(trained_for_three.path, tmp_path / "other")
    both = Columns([trained_for_three, Run.open(tmp_path / "other")], limit=20)
    stages = ["untrained encoder", "after 1 epoch", "after 2 epochs", "trained encoder"]
    assert list(both.rows) == [RAW, *(f"run: {stage}" for stage in stages), *(f"other: {stage}" for stage in stages)]
    assert torch.equal(both.rows["run: after 1 epoch"]["h"], both.rows["other: after 1 epoch"]["h"])


def test_runs_on_different_images_are_refused(trained_for_three, tmp_path):
    config = RunConfig(dataset="cifar10", data_root=str(tmp_path), batch_size=2)
    folder = tmp_path / "cifar10/test/a"
    folder.mkdir(parents=True)
    for n in range(4):
        Image.fromarray(np.full((32, 32, 3), 50 * n, np.uint8)).save(folder / f"{n}.png")
    with pytest.raises(ValueError, match="runs on one set of images, got 1000 of embedded, 4 of cifar10"):
        Columns([trained_for_three, Run.start(tmp_path / "other", config)])


def test_two_runs_of_one_name_are_refused(trained_for_three, tmp_path):
    shutil.copytree(trained_for_three.path, tmp_path / "run")
    with pytest.raises(ValueError, match="runs: expected directories of different names, got run; rename one"):
        Columns([trained_for_three, Run.open(tmp_path / "run")])


def test_two_folders_of_as_many_images_are_not_one_set(tmp_path):
    runs = []
    for folder, classes in enumerate([("a", "b"), ("a", "c"), ("a", "b")]):
        root = tmp_path / str(folder)
        for name in classes:
            (root / name).mkdir(parents=True)
            for n in range(3):
                Image.fromarray(np.full((16, 16, 3), 60 * n, np.uint8)).save(root / name / f"{n}.png")
        config = RunConfig(dataset="folder", data_root=str(root), image_size=16, batch_size=2)
        runs.append(Run.start(tmp_path / f"run-{folder}", config))
    for other in runs[1:]:  # of other classes, and of other files in the same classes
        with pytest.raises(ValueError, match=r"on one set of images, got 6 of folder, 6 of folder; .*give one as root"):
            Columns([runs[0], other])


@pytest.mark.filterwarnings("error")
def test_a_collapsed_encoder_has_one_place_on_the_map_and_few_images_have_one_each(trained_for_three):
    columns = Columns([trained_for_three], limit=30)
    columns.rows["trained encoder"] = {"h": torch.ones(30, 8)}
    np.testing.assert_array_equal(columns.places, np.zeros((30, 2)))
    for n in (3, 5):
        places = Columns([trained_for_three], limit=n).places
        assert places.shape == (n, 2)
        assert np.isfinite(places).all()


def test_on_the_map_alike_images_lie_near_each_other(trained_for_three, monkeypatch):
    monkeypatch.setattr("simclr_lib.evaluation.columns.LANDMARKS", 60)  # the other half is placed among these
    n, kind = 120, torch.arange(120) % 3
    h = 10 * torch.eye(8)[kind] + 0.3 * torch.randn(n, 8)
    fresh = Columns([trained_for_three], limit=n)
    monkeypatch.setitem(fresh.rows, "trained encoder", {"h": h})
    places = fresh.places
    assert places.shape == (n, 2)
    assert places.min() == 0
    assert places.max() == 1
    centres = np.stack([places[kind == k].mean(0) for k in range(3)])
    nearest = np.linalg.norm(places[:, None] - centres, axis=2).argmin(1)
    assert (nearest == kind.numpy()).mean() > 0.95
