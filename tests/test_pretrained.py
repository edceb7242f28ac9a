"""Where a run starts: another run, a file of its own or of torchvision's; what does not fit is named."""

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision import models

from simclr_lib import Augment, Run, RunConfig, embed, load_images, nt_xent, train
from simclr_lib.evaluation.embeddings import load_encoder, load_model
from simclr_lib.model import SimCLR, build_encoder
from simclr_lib.pretrained import start_from

TINY = dict(split="test", limit_images=80, image_size=16, norm="group", blur=False, batch_size=16, epochs=2)


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> Run:
    return train(RunConfig(**TINY, device="cpu"), tmp_path_factory.mktemp("parent"))


def fresh(seed: int = 5, projection_dim: int = 128, **options: object) -> SimCLR:
    torch.manual_seed(seed)
    options = {"arch": "convnet", "stem": "cifar", "norm": "group", "image_size": 16} | options
    return SimCLR(build_encoder(**options), projection_dim)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a.parameters(), b.parameters(), strict=True))


def loss_of(model: SimCLR) -> float:
    images = load_images("embedded", "test", image_size=16, limit=32).images
    augment, generator = Augment(16, blur=False), torch.Generator().manual_seed(0)
    with torch.no_grad():
        return nt_xent(*(model(augment(images, generator)) for _ in range(2))).item()


def test_a_run_gives_its_last_weights_and_so_its_loss_on_the_same_views(parent):
    model = fresh()
    assert loss_of(model) != pytest.approx(loss_of(load_model(parent)), abs=1e-4)
    assert start_from(model, str(parent.path))
    assert loss_of(model) == loss_of(load_model(parent))


@pytest.mark.parametrize("file", ["encoder.safetensors", "snapshots/epoch-0002.safetensors"])
def test_a_file_gives_the_same_embeddings(parent, file):
    images, model = load_images("embedded", "test", image_size=16, limit=32).images, fresh()
    head = model.projection_head[0].weight.clone()
    whole = start_from(model, str(parent.path / file))
    assert torch.equal(embed(model.encoder, images), embed(load_encoder(parent), images))
    assert whole == (not torch.equal(head, model.projection_head[0].weight)) == (file != "encoder.safetensors")


def test_of_a_run_without_checkpoints_the_encoder_is_left(parent, tmp_path):
    for name in ("config.json", "encoder.safetensors", "status.json"):
        (tmp_path / name).write_bytes((parent.path / name).read_bytes())
    model = fresh()
    assert not start_from(model, str(tmp_path))
    assert same(model.encoder, load_encoder(parent))
    (tmp_path / "encoder.safetensors").unlink()
    with pytest.raises(ValueError, match="train the run"):
        start_from(model, str(tmp_path))


@pytest.mark.parametrize("arch", ["resnet18", "alexnet"])
@pytest.mark.parametrize("old", [False, True])  # older files of torchvision's count no batches
def test_weights_of_torchvision_s_classes_give_the_features_that_its_class_has(tmp_path, arch, old):
    torch.manual_seed(0)
    theirs = getattr(models, arch)(weights=None).eval()
    weights = {name: w for name, w in theirs.state_dict().items() if not (old and name.endswith("_tracked"))}
    torch.save(weights, tmp_path / "theirs.pth")
    ours = fresh(arch=arch, stem="imagenet", norm="batch", image_size=64)
    assert not start_from(ours, str(tmp_path / "theirs.pth"))
    images = torch.rand(3, 3, 64, 64)
    if arch == "alexnet":
        expected = theirs.features(images).mean(dim=(2, 3))
    else:
        theirs.fc = torch.nn.Identity()
        expected = theirs(images)
    torch.testing.assert_close(ours.encoder.eval()(images), expected)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"stem": "imagenet"}, r"stem.0.weight \(32, 3, 7, 7\) here, \(32, 3, 3, 3\) there"),
        ({"norm": "batch"}, r"running_mean \(32,\) here, none there"),
        ({"arch": "resnet18"}, r"conv1.weight \(64, 3, 3, 3\) here, none there"),
        ({"projection_dim": 64}, r"projection_head.2.weight \(64, 128\) here, \(128, 128\) there"),
    ],
)
def test_what_does_not_fit_is_named_with_both_shapes_and_changes_nothing(parent, options, named):
    model = fresh(**options)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=rf"init_from: .*{named}.*take weights of the same arch"):
        start_from(model, str(parent.path))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    "value", [{"state_dict": {"w": torch.ones(1)}}, [torch.ones(1)], torch.ones(2), {3: torch.ones(1)}, {"epoch": 3}]
)
def test_a_file_that_is_no_dictionary_of_tensors_is_named(tmp_path, value):
    torch.save(value, tmp_path / "weights.pth")
    with pytest.raises(
        ValueError, match=r"^init_from: expected a run directory or a file of weights, got .*weights.pth"
    ):
        start_from(fresh(), str(tmp_path / "weights.pth"))


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^init_from: .*config\.json"):
        start_from(fresh(), str(tmp_path))


def test_a_checkpoint_is_a_file_of_weights_and_a_damaged_snapshot_holds_up_nothing(parent, tmp_path):
    model = fresh()
    assert start_from(model, str(parent.path / "checkpoint.pt"))
    assert same(model, load_model(parent))
    shutil.copytree(parent.path, tmp_path / "run")
    (tmp_path / "run/snapshots/epoch-0002.safetensors").write_bytes(b"damaged")
    images = load_images("embedded", "test", image_size=16, limit=32).images
    start_from(other := fresh(7), str(tmp_path / "run"))
    assert torch.equal(embed(other.encoder, images), embed(model.encoder, images))


class Hostile:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_nothing_that_is_loaded_runs_code(parent, tmp_path):
    trace = tmp_path / "trace"
    for write in (torch.save, lambda value, file: file.write_bytes(pickle.dumps(value))):
        write({"w": Hostile(trace)}, tmp_path / "weights.pth")
        with pytest.raises(ValueError, match="init_from: expected a run directory or a file of weights"):
            start_from(fresh(), str(tmp_path / "weights.pth"))
        run = Run.start(tmp_path / "run", RunConfig(**TINY))
        write({"epochs_done": 1, "model": Hostile(trace)}, run.path / "checkpoint.pt")
        with pytest.warns(UserWarning, match="cannot be read"), pytest.raises(ValueError, match="checkpoint"):
            run.load_checkpoint()
        with pytest.warns(UserWarning, match="cannot be read"), pytest.raises(ValueError, match="checkpoint"):
            train(run.config, run.path)
        assert not trace.exists()


def test_training_starts_there_says_so_in_its_record_and_goes_on_without_it(parent, tmp_path, capsys):
    config = replace(parent.config, init_from=str(parent.path), learning_rate=0.0, weight_decay=0.0, momentum=0.0)
    run = train(config, tmp_path / "child")
    assert same(load_model(run), load_model(parent))
    assert Run.open(run.path).config.init_from == str(parent.path)
    with pytest.raises(ValueError, match="init_from"):
        train(replace(config, init_from=None), run.path)
    broken = replace(config, init_from=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"init_from: expected a run directory or a file of weights, got .*nothing"):
        train(broken, tmp_path / "other")


def test_a_head_that_stays_random_is_said(parent, tmp_path, capsys):
    train(replace(parent.config, init_from=str(parent.path / "encoder.safetensors"), epochs=1), tmp_path / "child")
    assert "the projection head starts at random" in capsys.readouterr().out
