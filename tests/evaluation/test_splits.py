"""A folder's own splits, and its held-out share, from training to scores; what may be given beside a configuration."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from image_files import pixels, write_images
from PIL import Image

from simclr_lib import Run, RunConfig, load_images, train
from simclr_lib.evaluation.classification import require_classes, score_classes
from simclr_lib.evaluation.embeddings import load_gallery
from simclr_lib.evaluation.health import keep_out, load_training_images

TINY = dict(dataset="folder", image_size=16, batch_size=16, epochs=1, blur=False, norm="group", device="cpu")


@pytest.fixture(autouse=True)
def users_cache(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def write_splits(root: Path, **sizes: int) -> str:
    """Two classes, light in the upper and in the lower half, in each split."""
    for split, size in sizes.items():
        for i in range(size):
            folder = root / split / ("upper" if i % 2 else "lower")
            folder.mkdir(parents=True, exist_ok=True)
            image = pixels(2, 8, 16, 3, high=100)
            image[1 - i % 2] += 150
            Image.fromarray(image.reshape(16, 16, 3)).save(folder / f"{i:03}.png")
    return str(root)


def test_a_folder_with_splits_is_trained_on_one_and_scored_on_another(tmp_path):
    root = write_splits(tmp_path / "photos", train=60, val=10, test=40)
    config = RunConfig(**TINY, data_root=root)
    run = train(config, tmp_path / "run")
    assert len(run.load_arrays("images")["ids"]) == 60
    assert len(run.load_arrays("images")["held_out_ids"]) == 40
    images, gallery = load_training_images(config), load_gallery(config)
    rows, unseen = keep_out(config, images)
    assert len(rows) == 60
    assert {Path(path).parts[-3] for path in images.paths} == {"train"}
    assert {Path(path).parts[-3] for path in gallery.paths + unseen.paths} == {"test"}
    require_classes(config, gallery, draws=[0])
    score_classes(run, gallery)
    scores = Run.open(run.path).summary["classification"]
    assert (scores["train_images"], scores["test_images"]) == (60, 40)
    assert scores["scores"]["raw pixels"]["knn@20 top1"] == [1.0]


@pytest.mark.parametrize(("sizes", "scored"), [({"val": 20}, "val"), ({}, "train")])
def test_without_a_test_split_val_is_scored_or_else_all(tmp_path, sizes, scored):
    config = RunConfig(**TINY, data_root=write_splits(tmp_path, train=200, **sizes))
    assert {Path(path).parts[-3] for path in load_gallery(config).paths} == {scored}
    rows, unseen = keep_out(config, load_training_images(config))
    assert {Path(path).parts[-3] for path in unseen.paths} == {scored}
    assert len(rows) == (200 if sizes else 184)


def test_all_splits_together_hold_out_a_part_of_themselves(tmp_path):
    config = RunConfig(**TINY, split="all", data_root=write_splits(tmp_path, train=100, test=100))
    images = load_training_images(config)
    rows, unseen = keep_out(config, images)
    assert (len(images), len(rows)) == (200, 184)
    assert not {images.paths[row] for row in rows} & set(unseen.paths)


def test_a_held_out_share_is_scored_and_never_trained_on(tmp_path):
    root = write_splits(tmp_path / "photos", **{"": 100})
    config = RunConfig(**TINY, data_root=root, test_share=0.3, seed=5)
    run, gallery = train(config, tmp_path / "run"), load_gallery(config)
    trained = run.load_arrays("images")["ids"].tolist()
    assert sorted(trained + gallery.ids.tolist()) == list(range(100))
    assert gallery.labels.bincount().tolist() == [15, 15]
    assert set(run.load_arrays("images")["held_out_ids"].tolist()) <= set(gallery.ids.tolist())
    score_classes(run, gallery)
    scores = Run.open(run.path).summary["classification"]
    assert (scores["train_images"], scores["test_images"]) == (70, 30)
    assert load_gallery(config, image_size=32, resize="squash").ids.tolist() == gallery.ids.tolist()


def test_a_class_that_has_no_training_images_is_refused_before_training(tmp_path):
    root = write_splits(tmp_path, train=60, test=10)
    write_images(tmp_path, "test/Lower/1.png", "val/other/1.png", size=(16, 16))
    config = RunConfig(**TINY, data_root=root)
    with pytest.raises(ValueError, match=r"test: expected the classes of train, got Lower too"):
        require_classes(config, load_gallery(config), draws=[0])


@pytest.mark.parametrize("load", [load_gallery, load_training_images])
def test_every_option_may_be_given_in_place_of_the_configuration_s(tmp_path, load):
    config = RunConfig(**TINY, data_root=str(tmp_path / "gone"), limit_images=3)
    root = write_splits(tmp_path / "here", train=20, test=10)
    plain = write_splits(tmp_path / "plain", **{"": 20})
    own = "test" if load is load_gallery else "train"
    few = load(config, root=root, limit=3)
    assert few.paths == load_images("folder", own, root, image_size=16, limit=3).paths
    options = dict(split="train", image_size=8, resize="crop", unreadable="skip", num_workers=1, limit=5, seed=2)
    given = load(config, root=root, download=False, **options)
    expected = load_images("folder", root=root, **options)
    assert given.paths == expected.paths
    assert torch.equal(given.images, expected.images)
    shared = load(config, root=plain, test_share=0.5, limit=None)
    assert shared.paths == load_images("folder", own, plain, image_size=16, test_share=0.5).paths
    assert len(load(config, name="embedded", root=None, limit=4)) == 4
    with pytest.raises(ValueError, match=f"root of folder: .* got {tmp_path}/gone"):
        load(replace(config, limit_images=None))
