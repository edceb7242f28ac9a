"""What the explorer is given: runs, images of one's own, tables; and what it makes of a set without labels."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from simclr_lib import ImageSet, Run, RunConfig
from simclr_lib.evaluation import embeddings
from simclr_lib.evaluation.columns import RAW, Columns
from simclr_lib.log import explorer
from simclr_lib.log.explorer import Explorer, collect, explore


def some_images(labels: list[int]) -> ImageSet:
    pixels = torch.randint(0, 256, (len(labels), 3, 8, 8), dtype=torch.uint8)
    return ImageSet(pixels, torch.tensor(labels), ["ant", "bee"], torch.arange(len(labels)) * 10)


@pytest.fixture
def columns_of(tmp_path, monkeypatch):
    """A function that makes the columns of a run on these images; the run has not finished."""

    def make(images: ImageSet, name: str = "run") -> Columns:
        run = Run.start(tmp_path / name, RunConfig(image_size=8))
        monkeypatch.setattr(embeddings, "load_gallery", lambda config: images)
        monkeypatch.setattr(embeddings, "embed_once", lambda run, images, epochs: torch.randn(len(images), 128))
        return Columns([run], k=3)

    return make


def test_there_is_a_run_and_another_image_or_it_is_said(columns_of):
    with pytest.raises(ValueError, match="runs: expected at least one, got none"):
        explore()
    with pytest.raises(ValueError, match="images: expected at least 2 to compare, got 1"):
        columns_of(some_images([0]))


def test_the_last_state_of_a_run_that_has_not_finished_is_called_so_and_not_kept(columns_of):
    columns = columns_of(some_images([0, 1] * 5))
    assert list(columns.rows) == [RAW, "untrained encoder", "last checkpoint"]
    for name in columns.rows:
        columns.near(name)
    assert len([*columns.runs[0].path.glob("embeddings/3-nearest-by-cosine-*.npz")]) == 2


WRONG = [
    torch.rand(3, 8),
    torch.rand(1, 8, 8),
    torch.rand(8, 8, 3),
    torch.rand(3, 8, 8) * 255,
    torch.full((3, 8, 8), math.nan),
    torch.zeros(3, 8, 8, dtype=torch.int64),
    np.zeros((3, 0, 8)),
]


@pytest.mark.parametrize("image", WRONG, ids=lambda image: f"{tuple(image.shape)} {image.dtype}")
def test_a_tensor_that_is_no_image_is_refused_with_what_one_is(columns_of, image):
    with pytest.raises(ValueError, match=r"image: expected \(3, H, W\) uint8, or floating in \[0, 1\], got \("):
        collect(columns_of(some_images([0, 1] * 5)), image)


@pytest.mark.parametrize("scale", [1, 255])
def test_an_image_of_the_set_given_as_a_tensor_is_its_own_nearest_by_raw_pixels(columns_of, monkeypatch, scale):
    columns = columns_of(some_images([0, 1] * 5))
    monkeypatch.setattr(embeddings, "load_encoder", lambda run, epochs: None)
    monkeypatch.setattr(embeddings, "embed_as_trained", lambda *_: torch.randn(1, 128))
    image = columns.images.images[4]
    asked = collect(columns, image if scale == 255 else image.double().numpy() / 255)["query"]
    positions, similarities = asked["found"][RAW]["h cosine"]
    assert (positions[0], similarities[0]) == (4, pytest.approx(1))


def test_a_table_is_joined_by_id_and_what_it_does_not_know_is_none(columns_of, capsys):
    table = pd.DataFrame({"size": [1.5, 2.0], "class": ["a", "b"]}, index=[30, 11])
    known = collect(columns_of(some_images([0, 1, 0, 1])), table=table)["shown"]["table"]
    assert known == {"size": [None, None, None, 1.5], "class (table)": [None, None, None, "a"]}
    assert "the table knows 1 of the 4 images" in capsys.readouterr().out


@pytest.mark.parametrize("index", [["10", "30"], [10, 10], [0.5, 1]], ids=["texts", "twice", "fractions"])
def test_a_table_that_cannot_be_joined_is_refused(columns_of, index):
    table = pd.DataFrame({"size": [1, 2]}, index=index)
    with pytest.raises(ValueError, match=f"table: expected ids of the images .*got .*{index[0]}.*set_index"):
        collect(columns_of(some_images([0, 1, 0, 1])), table=table)


def test_the_picture_shows_where_training_gained_and_lost_most_labelled_neighbours(columns_of, monkeypatch):
    columns = columns_of(some_images([0, 0, 1, 1, -1, -1]))
    near = {  # hits: 0, 1, 1, 0, none, none -> 1, 0, 1, 0, none, none; the unlabelled are of no class
        RAW: [[2, 3], [0, 2], [3, 4], [0, 1], [0, 1], [0, 1]],
        "last checkpoint": [[1, 2], [2, 3], [3, 4], [0, 1], [5, 0], [4, 0]],
    }
    tables = {name: (torch.tensor(rows), torch.ones(6, 2)) for name, rows in near.items()}
    monkeypatch.setattr(columns, "near", lambda name: tables.get(name, tables[RAW]))
    drawn = []
    monkeypatch.setattr(explorer, "grid_of", lambda columns, names, queries, title: drawn.append((names, queries)))
    explorer._picture(columns)
    ((names, queries),) = drawn
    assert names == [RAW, "untrained encoder", "last checkpoint"]
    assert queries.tolist() == [0, 1]


def test_the_link_of_a_report_is_an_address_whatever_the_run_is_called(columns_of, monkeypatch):
    columns = columns_of(some_images([0, 1] * 5), "50% & more #1?")
    monkeypatch.setattr(explorer, "Columns", lambda *_: columns)
    monkeypatch.setattr(explorer, "MOST", 0)
    monkeypatch.chdir(columns.runs[0].path.parent)
    assert '<a href="50%25%20%26%20more%20%231%3F/explore.html">' in explore(columns.runs[0]).data


def test_an_image_that_cannot_be_read_is_answered_by_an_error_in_the_view(columns_of):
    view = Explorer(columns_of(some_images([0, 1] * 5)))
    view._ask_for(view, {"name": "notes.txt"}, [memoryview(b"no image")])
    assert "got notes.txt (UnidentifiedImageError); choose a JPEG or a PNG" in view.query["error"]
    assert json.dumps(view.query)
