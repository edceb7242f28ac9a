"""Embeddings: the encoder as it was trained, images as they are, each set once a run."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from simclr_lib import ImageSet, Run, RunConfig, embed, load_images, train
from simclr_lib.evaluation import embeddings
from simclr_lib.evaluation.embeddings import (
    embed_as_trained,
    embed_beside_baselines,
    embed_once,
    embed_over_training,
    load_encoder,
    load_gallery,
    load_model,
    project,
    raw_pixels,
)
from simclr_lib.model import SimCLR, build_encoder


@pytest.fixture
def images() -> ImageSet:
    return load_images("embedded", limit=10, seed=9)


def of_pixels(pixels: torch.Tensor) -> ImageSet:
    n = len(pixels)
    return ImageSet(pixels, torch.zeros(n, dtype=torch.int64), ["any"], torch.arange(n))


# Any encoder, any images.


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_embeddings_are_those_of_each_image_alone_in_eval_mode(batch_size):
    encoder = build_encoder("convnet", stem="cifar", norm="batch")
    images = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
    encoder.train()
    encoder(torch.rand(64, 3, 32, 32))  # running statistics of its own
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    h = embed(encoder, images, batch_size=batch_size)
    assert encoder.training
    assert not h.requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    encoder.eval()
    alone = torch.cat([encoder(image[None].float() / 255) for image in images])
    torch.testing.assert_close(h, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embed(encoder, images.float() / 255), h, rtol=1e-4, atol=1e-5)


def test_an_encoder_that_fails_is_left_in_the_mode_it_came_in():
    encoder = build_encoder("convnet", stem="cifar", norm="batch").train()
    encoder.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embed(encoder, torch.rand(2, 3, 32, 32))
    assert encoder.training


def test_images_of_another_side_are_resized():
    encoder = build_encoder("convnet", stem="cifar", norm="group")
    images = torch.rand(3, 3, 48, 48)
    small = F.interpolate(images, size=(32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(embed(encoder, images, image_size=32), embed(encoder, small))


def test_of_an_image_the_centre_is_seen():
    encoder, images = build_encoder("convnet", stem="cifar", norm="group"), torch.rand(3, 3, 48, 48)
    cut = images[:, :, 8:40, 8:40]
    torch.testing.assert_close(embed(encoder, images, image_size=32, center=2 / 3), embed(encoder, cut))
    torch.testing.assert_close(embed(encoder, images, center=2 / 3), embed(encoder, cut))
    small = F.interpolate(cut, size=(24, 24), mode="bilinear", antialias=True)
    torch.testing.assert_close(embed(encoder, images, image_size=24, center=2 / 3), embed(encoder, small))


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (3, 8, 8), (2, 1, 8, 8)])
def test_images_that_cannot_be_embedded_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(N, 3, S, S\)"):
        embed(build_encoder("convnet"), torch.zeros(shape))


def test_more_than_one_batch_has_a_progress_bar(capsys):
    encoder, images = build_encoder("convnet", stem="cifar"), torch.rand(5, 3, 16, 16)
    embed(encoder, images, batch_size=5)
    assert capsys.readouterr().err == ""
    embed(encoder, images, batch_size=4)
    assert "embedding" in capsys.readouterr().err


def test_raw_pixels_of_large_images_are_those_of_32_by_32():
    images = torch.randint(0, 256, (5, 3, 96, 96), dtype=torch.uint8)
    blocks = images.float().reshape(5, 3, 32, 3, 32, 3).mean(dim=(3, 5)) / 255
    torch.testing.assert_close(raw_pixels(images), blocks.flatten(1))
    small = torch.randint(0, 256, (5, 3, 20, 20), dtype=torch.uint8)
    torch.testing.assert_close(raw_pixels(small), small.flatten(1) / 255)


# What a configuration says of them.


@pytest.mark.parametrize(
    ("options", "share"),
    [({"store_size": 40}, 1), ({"store_size": 40, "resize": "crop"}, 0.8), ({"resize": "crop"}, 1)],
)
def test_evaluation_sees_of_an_image_what_the_configuration_says(options, share):
    assert RunConfig(image_size=32, **options).seen_center == share


def test_a_run_sees_the_gallery_as_its_configuration_says(run):
    images = of_pixels(torch.randint(0, 256, (5, 3, 40, 40), dtype=torch.uint8))
    cropping = Run(run.path, replace(run.config, resize="crop", store_size=40))
    expected = embed(load_encoder(run), images.images[:, :, 4:36, 4:36])
    torch.testing.assert_close(embed_beside_baselines(cropping, images)["trained encoder"], expected)
    torch.testing.assert_close(embed_over_training(cropping, images)["trained encoder"], expected)


def test_the_gallery_is_the_whole_test_split_or_all_there_is(run, tmp_path):
    assert len(load_gallery(replace(run.config, split="train"))) == 1000  # whatever part was trained on
    assert torch.equal(load_gallery(run.config).images, load_images("embedded", "test").images)
    assert load_gallery(run.config, image_size=16).images.shape == (1000, 3, 16, 16)


# The states of a run.


def test_the_trained_encoder_is_the_checkpoint_s_and_the_untrained_one_what_it_began_as(run, tmp_path):
    trained = load_encoder(run).state_dict()
    checkpoint = run.load_checkpoint()["model"]
    assert all(torch.equal(tensor, checkpoint[f"encoder.{name}"]) for name, tensor in trained.items())

    still = train(replace(run.config, learning_rate=0.0, weight_decay=0.0, epochs=1), tmp_path / "still")
    began = still.load_checkpoint()["model"]
    state = torch.get_rng_state()
    untrained = load_encoder(run, epochs=0)
    assert torch.equal(state, torch.get_rng_state())  # looking changes nothing
    assert not untrained.training
    for name, parameter in untrained.named_parameters():
        assert torch.equal(parameter, began[f"encoder.{name}"])
        assert not torch.equal(parameter, checkpoint[f"encoder.{name}"])


def test_the_baselines_are_raw_pixels_and_the_untrained_encoder(run, images):
    h = embed_beside_baselines(run, images)
    assert list(h) == ["raw pixels", "untrained encoder", "trained encoder"]
    np.testing.assert_allclose(h["raw pixels"][3], images.images[3].numpy().reshape(-1) / 255, rtol=1e-6)
    torch.testing.assert_close(h["trained encoder"], embed(load_encoder(run), images.images))
    torch.testing.assert_close(h["untrained encoder"], embed(load_encoder(run, epochs=0), images.images))


def test_a_model_is_loaded_as_it_was_at_each_snapshot(run, images):
    assert run.snapshots == [1, 2]
    over_training = embed_over_training(run, images)
    assert list(over_training) == ["untrained encoder", "after 1 epoch", "trained encoder"]
    baselines = embed_beside_baselines(run, images)
    assert torch.equal(over_training["untrained encoder"], baselines["untrained encoder"])
    assert torch.equal(over_training["trained encoder"], baselines["trained encoder"])
    assert torch.equal(over_training["after 1 epoch"], embed(load_model(run, 1).encoder, images.images))
    assert not torch.allclose(over_training["after 1 epoch"], over_training["trained encoder"])
    z = project(run, over_training["trained encoder"])
    assert not z.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(z, load_model(run, 2)(images.images.float() / 255))
    with pytest.raises(ValueError, match=r"epochs: .*1, 2.*got 7"):
        load_model(run, 7)


def test_a_run_that_has_not_finished_is_seen_as_far_as_it_has_come(run, images, tmp_path):
    shutil.copytree(run.path, tmp_path / "stopped")
    for file in ("status.json", "encoder.safetensors", "snapshots/epoch-0002.safetensors"):
        (tmp_path / "stopped" / file).unlink()
    stopped = Run.open(tmp_path / "stopped")
    assert torch.equal(embed(load_encoder(stopped), images.images), embed(load_encoder(run), images.images))
    h = embed_once(run, images)
    assert torch.equal(project(stopped, h), project(run, h))
    assert list(embed_over_training(stopped, images)) == ["untrained encoder", "after 1 epoch", "last checkpoint"]
    for file in (tmp_path / "stopped").glob("checkpoint*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"checkpoint: .*stopped"):
        load_encoder(stopped)
    with pytest.raises(ValueError, match=r"checkpoint: .*stopped"):
        embed_once(stopped, images)
    assert len(embed_once(stopped, images, epochs=0)) == 10  # which needs no weights


def test_of_a_finished_run_the_encoder_s_weights_are_enough(run, images):
    expected = embed_once(run, images)
    shutil.rmtree(run.path / "embeddings")
    shutil.rmtree(run.path / "snapshots")
    for file in run.path.glob("checkpoint*"):
        file.unlink()
    assert torch.equal(embed_once(run, images), expected)
    assert list(embed_over_training(run, images)) == ["untrained encoder", "trained encoder"]
    with pytest.raises(ValueError, match="checkpoint"):
        project(run, expected)


# Once for each encoder and image set.


@pytest.fixture
def no_encoder(monkeypatch):
    """A function after whose call no image can be embedded."""
    return lambda: monkeypatch.setattr(embeddings, "embed", lambda *_, **__: pytest.fail("an encoder ran"))


def kept(run: Run) -> list[str]:
    return sorted(file.name for file in (run.path / "embeddings").iterdir())


def test_h_is_computed_once_and_lies_beside_the_ids_of_its_images(run, images, no_encoder):
    h = embed_once(run, images)
    assert torch.equal(h, embed_as_trained(run.config, load_encoder(run), images.images))
    (name,) = kept(run)
    assert name.startswith("epoch-0002-of-10-images-")
    arrays = np.load(run.path / "embeddings" / name)
    assert arrays["ids"].tolist() == images.ids.tolist()
    assert np.array_equal(arrays["h"], h.numpy())
    no_encoder()
    assert torch.equal(embed_once(Run.open(run.path), images), h)
    assert torch.equal(embed_once(run, load_images("embedded", limit=10, seed=9)), h)
    assert torch.equal(embed_once(run, images, epochs=2), h)  # the snapshot of the end is the same encoder


def one_pixel_changed(images: ImageSet) -> ImageSet:
    pixels = images.images.clone()
    pixels[-1, 2, 31, 31] ^= 1
    return replace(images, images=pixels)


@pytest.mark.parametrize(
    "change",
    [
        one_pixel_changed,
        lambda images: images.subset([1, 0, *range(2, 10)]),
        lambda images: images.subset(range(9)),
        lambda images: load_images("embedded", limit=10, seed=1),
        lambda images: replace(images, ids=images.ids + 1),
        lambda images: replace(images, images=images.images.mT),  # as STL-10 lies on disk: not in one piece
    ],
    ids=["pixel", "order", "fewer", "others", "ids", "turned"],
)
def test_other_images_have_an_h_of_their_own(run, images, no_encoder, change):
    h, others = embed_once(run, images), change(images)
    of_others = embed_once(run, others)
    assert torch.equal(of_others, embed(load_encoder(run), others.images))
    assert len(kept(run)) == 2
    no_encoder()
    assert torch.equal(embed_once(run, images), h)
    assert torch.equal(embed_once(run, others), of_others)


def test_one_changed_pixel_among_many_images_is_seen(run, monkeypatch):
    monkeypatch.setattr(embeddings, "embed", lambda encoder, images, **_: images[:, :1, 0, 0].float())
    images = of_pixels(torch.zeros(2500, 3, 4, 4, dtype=torch.uint8))
    for row in (0, 1, 1777, 2499):
        images.images[row, 0, 0, 0] += 1
        assert torch.equal(embed_once(run, images), images.images[:, :1, 0, 0].float())


def test_every_number_of_epochs_has_an_h_of_its_own(run, images):
    h = [embed_once(run, images, epochs) for epochs in (0, 1, 2)]
    assert [name[:10] for name in kept(run)] == ["epoch-0000", "epoch-0001", "epoch-0002"]
    assert not any(torch.allclose(h[i], h[i - 1]) for i in range(3))


def test_the_last_state_of_a_run_that_goes_on_training_is_not_kept(tmp_path, images):
    run = Run.start(tmp_path, RunConfig(epochs=9, device="cpu"))
    for epochs in (1, 2):
        torch.manual_seed(epochs)
        model = SimCLR(build_encoder(**run.config.encoder_options))
        run.save_checkpoint({"epochs_done": epochs, "model": model.state_dict()})
        assert torch.equal(embed_once(run, images), embed(model.encoder, images.images))
    assert not (tmp_path / "embeddings").exists()


def test_a_run_that_begins_anew_does_not_take_what_came_before(tmp_path, images):
    config = RunConfig(device="cpu")
    before = embed_once(Run.start(tmp_path, config), images, epochs=0)
    (tmp_path / "embeddings" / kept(Run.open(tmp_path))[0]).write_bytes(b"what came before")
    anew = Run.start(tmp_path, config)  # nothing was trained: all is done again
    assert torch.equal(embed_once(anew, images, epochs=0), before)
    assert len(kept(anew)) == 1
