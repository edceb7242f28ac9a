"""Evaluation: the encoder as it was trained, images as they are, labels only here."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from simclr_lib import Run, RunConfig, embed, linear_probe, load_images, train
from simclr_lib.evaluate import (
    choose_queries,
    embed_beside_baselines,
    embed_layers,
    embed_over_training,
    hold_out,
    load_encoder,
    load_model,
    map_2d,
    neighbors_of_file,
    raw_pixels,
    record_neighbors,
)
from simclr_lib.model import build_encoder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    config = RunConfig(limit_images=64, batch_size=16, epochs=2, blur=False, device="cpu", seed=4)  # with BatchNorm
    return train(config, tmp_path_factory.mktemp("run"))


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


@pytest.mark.parametrize(
    ("options", "share"),
    [({"store_size": 40}, 1), ({"store_size": 40, "resize": "crop"}, 0.8), ({"resize": "crop"}, 1)],
)
def test_evaluation_sees_of_an_image_what_the_configuration_says(options, share):
    assert RunConfig(image_size=32, **options).seen_center == share


def test_a_run_sees_the_gallery_as_its_configuration_says(run):
    images = torch.randint(0, 256, (5, 3, 40, 40), dtype=torch.uint8)
    cropping = Run(run.path, replace(run.config, resize="crop", store_size=40))
    expected = embed(load_encoder(run), images[:, :, 4:36, 4:36])
    torch.testing.assert_close(embed_beside_baselines(cropping, images)["trained encoder"], expected)
    torch.testing.assert_close(embed_over_training(cropping, images)["after 2 epochs"], expected)
    torch.testing.assert_close(embed_layers(cropping, images)["h"], expected)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (3, 8, 8), (2, 1, 8, 8)])
def test_images_that_cannot_be_embedded_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(N, 3, S, S\)"):
        embed(build_encoder("convnet"), torch.zeros(shape))


def test_the_trained_encoder_is_the_checkpoint_s_and_the_untrained_one_what_it_began_as(run, tmp_path):
    trained = load_encoder(run).state_dict()
    checkpoint = run.load_checkpoint()["model"]
    assert all(torch.equal(tensor, checkpoint[f"encoder.{name}"]) for name, tensor in trained.items())

    still = train(RunConfig.from_dict({**run.config.to_dict(), "learning_rate": 0.0, "weight_decay": 0.0}), tmp_path)
    began = still.load_checkpoint()["model"]
    state = torch.get_rng_state()
    untrained = load_encoder(run, trained=False)
    assert torch.equal(state, torch.get_rng_state())  # looking changes nothing
    assert not untrained.training
    for name, parameter in untrained.named_parameters():
        assert torch.equal(parameter, began[f"encoder.{name}"])
        assert not torch.equal(parameter, checkpoint[f"encoder.{name}"])


def test_the_baselines_are_raw_pixels_and_the_untrained_encoder(run):
    images = load_images("embedded", limit=10).images
    h = embed_beside_baselines(run, images)
    assert list(h) == ["raw pixels", "untrained encoder", "trained encoder"]
    np.testing.assert_allclose(h["raw pixels"][3], images[3].numpy().reshape(-1) / 255, rtol=1e-6)
    torch.testing.assert_close(h["trained encoder"], embed(load_encoder(run), images))
    torch.testing.assert_close(h["untrained encoder"], embed(load_encoder(run, trained=False), images))


def test_the_neighbours_of_every_sample_are_kept_by_id(run):
    images = load_images("embedded", limit=40, seed=9)  # ids are not positions here
    h = embed(load_encoder(run), images.images)
    indices, similarities = record_neighbors(run, images, h, k=3)
    kept = np.load(run.path / "neighbors.npz")
    assert np.array_equal(np.load(run.path / "embeddings.npy"), h.numpy())
    unit = h.double() / h.double().norm(dim=1, keepdim=True)
    for row in range(40):
        others = sorted((j for j in range(40) if j != row), key=lambda j: (-float(unit[row] @ unit[j]), j))[:3]
        assert kept["ids"][row] == images.ids[row]
        assert kept["neighbors"][row].tolist() == images.ids[others].tolist()
        np.testing.assert_allclose(kept["similarities"][row], [float(unit[row] @ unit[j]) for j in others])
    assert indices.shape == similarities.shape == (40, 3)


def clouds(n: int, classes: int, dim: int, spread: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(classes, dim))
    y = rng.integers(0, classes, n)
    return torch.tensor(centres[y] + spread * rng.normal(size=(n, dim))).float(), torch.tensor(y)


def test_the_probe_separates_what_is_separable_and_guesses_at_noise():
    (x, y), (test_x, test_y) = clouds(300, 4, 8, 0.1, 1), clouds(200, 4, 8, 0.1, 2)
    assert linear_probe(x, y, test_x, test_y).top1 == 1.0
    noise = linear_probe(torch.randn(400, 8), torch.arange(400) % 4, torch.randn(400, 8), torch.arange(400) % 4)
    assert abs(noise.top1 - 0.25) < 0.1


def fitted(x: torch.Tensor, y: torch.Tensor, inverse_regularization: float, seen: torch.Tensor) -> np.ndarray:
    """What a logistic regression that is fitted to standardised `x` says of `seen`."""
    x, y, seen = x.numpy(), y.numpy(), seen.numpy()  # of tensors the last bits differ
    scaler = StandardScaler().fit(x)
    classifier = LogisticRegression(C=inverse_regularization, max_iter=500).fit(scaler.transform(x), y)
    return classifier.predict(scaler.transform(seen))


def test_the_probe_chooses_on_a_held_out_tenth_and_fits_again_on_all_of_training():
    chosen, refitted = set(), 0
    for seed in range(6):
        (x, y), (test_x, test_y) = clouds(200, 3, 30, 3.0, 2 * seed + 1), clouds(400, 3, 30, 3.0, 2 * seed + 2)
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
    with pytest.raises(ValueError, match="two classes in nine tenths of the 2 training images"):
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
        (torch.tensor([0, 1, -1, 0]), "expected a label"),
        (torch.tensor([0, 1]), "expected a label"),
        (torch.zeros(4), "two classes"),
    ],
)
def test_labels_that_do_not_serve_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        linear_probe(torch.randn(4, 2), labels, torch.randn(2, 2), torch.tensor([0, 1]))


def test_a_model_is_loaded_as_it_was_at_each_snapshot(run):
    assert run.snapshots == [1, 2]
    images = load_images("embedded", limit=10).images
    over_training = embed_over_training(run, images)
    assert list(over_training) == ["before training", "after 1 epoch", "after 2 epochs"]
    baselines = embed_beside_baselines(run, images)
    assert torch.equal(over_training["before training"], baselines["untrained encoder"])
    assert torch.equal(over_training["after 2 epochs"], baselines["trained encoder"])
    assert not torch.allclose(over_training["after 1 epoch"], over_training["after 2 epochs"])
    layers = embed_layers(run, images)
    assert torch.equal(layers["h"], baselines["trained encoder"])
    with torch.no_grad():
        torch.testing.assert_close(layers["z"], load_model(run, 2)(images.float() / 255))
    with pytest.raises(ValueError, match=r"expected one with a snapshot .*got 7; there are: 1, 2"):
        load_model(run, 7)


def test_a_run_that_has_not_finished_is_seen_as_far_as_it_has_come(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "stopped")
    for file in ("status.json", "encoder.safetensors", "snapshots/epoch-0002.safetensors"):
        (tmp_path / "stopped" / file).unlink()
    stopped, images = Run.open(tmp_path / "stopped"), load_images("embedded", limit=10).images
    assert torch.equal(embed(load_encoder(stopped), images), embed(load_encoder(run), images))
    assert torch.equal(embed_layers(stopped, images)["z"], embed_layers(run, images)["z"])
    assert list(embed_over_training(stopped, images)) == ["before training", "after 1 epoch", "last checkpoint"]
    for file in (tmp_path / "stopped").glob("checkpoint*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"expected weights in .*no epoch has been finished"):
        load_encoder(stopped)


def test_raw_pixels_of_large_images_are_those_of_32_by_32():
    images = torch.randint(0, 256, (5, 3, 96, 96), dtype=torch.uint8)
    blocks = images.float().reshape(5, 3, 32, 3, 32, 3).mean(dim=(3, 5)) / 255
    torch.testing.assert_close(raw_pixels(images), blocks.flatten(1))
    small = torch.randint(0, 256, (5, 3, 20, 20), dtype=torch.uint8)
    torch.testing.assert_close(raw_pixels(small), small.flatten(1) / 255)


def test_queries_are_the_best_the_middle_and_the_worst_of_different_classes():
    torch.manual_seed(int(torch.randint(1000, ())))
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
    h = torch.randn(50, 3)
    two = choose_queries(h, torch.arange(50) % 2)
    unlabelled = choose_queries(h, torch.full((50,), -1))
    assert len(set(two)) == len(set(unlabelled)) == 6


def test_an_image_file_finds_its_own_copy_first(run, tmp_path):
    images = load_images("embedded", limit=30, seed=1).images
    h = embed(load_encoder(run), images)
    Image.fromarray(images[7].permute(1, 2, 0).numpy()).save(tmp_path / "query.png")
    image, indices, similarities = neighbors_of_file(run, tmp_path / "query.png", h, k=3)
    assert torch.equal(image, images[7:8])
    assert int(indices[0, 0]) == 7
    assert float(similarities[0, 0]) == pytest.approx(1, abs=1e-6)
    Image.fromarray(images[7].permute(1, 2, 0).numpy()).convert("L").resize((50, 40)).save(tmp_path / "grey.png")
    image, indices, _ = neighbors_of_file(run, str(tmp_path / "grey.png"), h, k=3)
    assert image.shape == (1, 3, 32, 32)
    assert (image[0, 0] == image[0, 2]).all()
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"image: expected a file that Pillow can read.*notes.txt: UnidentifiedImage"):
        neighbors_of_file(run, tmp_path / "notes.txt", h)
    with pytest.raises(FileNotFoundError, match=r"expected a file, got .*nowhere.png"):
        neighbors_of_file(run, tmp_path / "nowhere.png", h)


def test_duplicates_in_the_gallery_stand_side_by_side_the_lowest_id_first(run, tmp_path):
    images = load_images("embedded", limit=20, seed=2).images[[0, 1, 2, 1, 3, 1]]
    h = embed(load_encoder(run), images)
    h[3] = h[5] = h[1]  # to the last bit, as copies embedded in one batch are
    Image.fromarray(images[1].permute(1, 2, 0).numpy()).save(tmp_path / "query.png")
    assert neighbors_of_file(run, tmp_path / "query.png", h, k=3)[1].tolist() == [[1, 3, 5]]


@pytest.mark.parametrize("rows", [torch.zeros(60, 8), torch.ones(60, 8), torch.randn(1, 8).expand(60, 8)])
def test_the_map_of_a_collapsed_encoder_is_one_place(rows):
    assert torch.equal(map_2d(rows), torch.zeros(60, 2))


def test_the_map_puts_close_what_is_alike():
    labels = torch.arange(90) % 3
    places = map_2d(torch.eye(3)[labels] + 0.05 * torch.randn(90, 3))
    assert places.shape == (90, 2)
    distances = torch.cdist(places, places)
    same = labels[:, None] == labels
    assert distances[same].mean() < 0.5 * distances[~same].mean()
