"""Training: reproducible, resumable, stopped by what is not finite, refused before work is lost."""

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simclr_lib import Augment, Run, RunConfig, load_images, train, warmup_cosine
from simclr_lib.loss import nt_xent
from simclr_lib.model import SimCLR, build_encoder
from simclr_lib.trainer import Trainer, generator_at
from simclr_lib.training import describe

TINY = dict(dataset="embedded", norm="group", blur=False, limit_images=72, batch_size=16, epochs=4, device="cpu")


def weights(run: Run) -> dict[str, torch.Tensor]:
    return run.load_checkpoint()["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_is_recorded_whole(tmp_path):
    config = RunConfig(**TINY, warmup_epochs=10)
    run = train(config, tmp_path / "run")
    steps = 72 // 16 * 4  # the 8 images left over wait for the next shuffle
    records = run.metrics()
    assert [r["step"] for r in records] == list(range(steps))
    assert [r["learning_rate"] for r in records] == [0.1 * warmup_cosine(s, steps, 1) for s in range(steps)]
    epochs = run.metrics("epoch")
    assert [e["epoch"] for e in epochs] == [0, 1, 2, 3]
    losses = [r["loss"] for r in records[4:8]]
    assert epochs[1]["loss"] == pytest.approx(sum(losses) / 4)
    assert run.status["state"] == "finished"
    health = run.metrics("health")
    assert [(h["step"], h["epochs"]) for h in health] == [(4 * epochs, epochs) for epochs in range(5)]
    assert set(run.summary) == {"exact_batch", "alarms"}
    assert run.summary["exact_batch"] is True
    files = {path.name for path in run.path.iterdir()}
    assert files == {
        "config.json",
        "metrics.jsonl",
        "status.json",
        "summary.json",
        "environment.json",
        "images.npz",
        "checkpoint.pt",
        "checkpoint.previous.pt",
        "encoder.safetensors",
        "snapshots",
    }
    assert run.snapshots == [1, 2, 3, 4]


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_the_first_steps_are_those_of_a_loop_written_out(tmp_path, optimizer):
    config = RunConfig(**{**TINY, "epochs": 1}, optimizer=optimizer, learning_rate=0.01, weight_decay=0.1)
    run = train(config, tmp_path)

    torch.manual_seed(0)
    model = SimCLR(build_encoder("convnet", stem="cifar", norm="group", image_size=32))
    images = load_images("embedded", limit=72, seed=0).images
    order = torch.randperm(72, generator=generator_at(0, 0, 0))
    decay = {n: 0.1 if p.ndim > 1 else 0.0 for n, p in model.named_parameters()}
    velocity = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for step in range(4):
        rate = 0.01 * 0.5 * (1 + math.cos(math.pi * step / 4))
        batch = images[order[step * 16 : step * 16 + 16]]
        augment, generator = Augment(32, 1.0, blur=False), generator_at(0, 1, step)
        view_a, view_b = augment(batch, generator), augment(batch, generator)
        loss = nt_xent(model(view_a), model(view_b), 0.5)
        assert run.metrics()[step]["loss"] == pytest.approx(loss.item(), rel=1e-5)
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, w in model.named_parameters():
                g = w.grad + decay[name] * w
                ratio = 1e-3 * w.norm() / g.norm() if optimizer == "lars" and w.ndim > 1 else 1.0
                velocity[name] = 0.9 * velocity[name] + (rate * ratio if optimizer == "lars" else 1.0) * g
                w -= velocity[name] * (1.0 if optimizer == "lars" else rate)
    for name, weight in weights(run).items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_adamw_has_the_same_groups():
    config = RunConfig(**TINY, optimizer="adamw", learning_rate=2e-3, weight_decay=0.1)
    trainer = Trainer(config)
    decays = {p: group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert {p: 0.1 if p.ndim > 1 else 0.0 for p in trainer.model.parameters()} == decays
    assert trainer.optimizer.defaults["lr"] == 2e-3


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    first, again = (train(RunConfig(**TINY), tmp_path / name) for name in "ab")
    other = train(RunConfig(**TINY, seed=1), tmp_path / "c")
    assert same(weights(first), weights(again))
    assert [m["loss"] for m in first.metrics()] == [m["loss"] for m in again.metrics()]
    assert not same(weights(first), weights(other))


class Interrupted(BaseException):
    """Stands for a crash: nothing in the library catches it."""


def train_until_crash(monkeypatch, config: RunConfig, run_dir: Path, crash_at: int) -> None:
    def step_until_crash(trainer, step, images, _step=Trainer._step):
        if step == crash_at:
            raise Interrupted
        return _step(trainer, step, images)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", step_until_crash)
        with pytest.raises(Interrupted):
            train(config, run_dir)


@pytest.mark.parametrize("crash_at", [2, 9, 15])
def test_a_resumed_run_is_the_run_that_was_never_interrupted(tmp_path, monkeypatch, crash_at):
    config = RunConfig(**TINY, optimizer="lars")
    whole = train(config, tmp_path / "whole")
    train_until_crash(monkeypatch, config, tmp_path / "resumed", crash_at)
    assert Run.open(tmp_path / "resumed").status["state"] == "failed"
    torch.manual_seed(123)  # what was drawn before must not matter
    resumed = train(config, tmp_path / "resumed")
    assert same(weights(whole), weights(resumed))
    assert [m["loss"] for m in whole.metrics()] == [m["loss"] for m in resumed.metrics()]
    assert resumed.status["state"] == "finished"


def test_a_resumed_run_with_dropout_is_the_run_that_was_never_interrupted(tmp_path, monkeypatch):
    import simclr_lib.trainer as trainer_module

    def with_dropout(**options):
        return build_encoder("vit_tiny", image_size=options["image_size"], dropout=0.5)

    monkeypatch.setattr(trainer_module, "build_encoder", with_dropout)
    config = RunConfig(**{**TINY, "limit_images": 8, "batch_size": 4, "epochs": 2, "stem": "imagenet"}, arch="vit_tiny")
    whole = train(config, tmp_path / "whole")
    train_until_crash(monkeypatch, config, tmp_path / "resumed", crash_at=3)  # one epoch of two steps is kept
    assert same(weights(whole), weights(train(config, tmp_path / "resumed")))


def test_a_finished_run_is_not_trained_again(tmp_path):
    run = train(RunConfig(**TINY), tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    again = train(RunConfig(**TINY), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert same(weights(run), weights(again))


def test_a_finished_run_needs_no_images(tmp_path, monkeypatch):
    train(RunConfig(**TINY), tmp_path)
    monkeypatch.setattr("simclr_lib.training.load_images", lambda *_, **__: pytest.fail("images were loaded"))
    assert train(RunConfig(**TINY), tmp_path).status["state"] == "finished"


def write_photos(folder, count, seed):
    rng = np.random.default_rng(seed)
    (folder / "class").mkdir(parents=True)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / "class" / f"{i}.png")


@pytest.mark.parametrize(("count", "seed"), [(4, 0), (8, 1)])  # fewer images; as many others
def test_a_run_does_not_go_on_with_other_images(tmp_path, monkeypatch, count, seed):
    write_photos(tmp_path / "photos", 8, seed=0)
    write_photos(tmp_path / "others", count, seed)
    config = RunConfig(
        dataset="folder", data_root=str(tmp_path / "photos"), image_size=8, batch_size=4, epochs=2, blur=False
    )
    train_until_crash(monkeypatch, config, tmp_path / "run", crash_at=3)
    with pytest.raises(ValueError, match=r"expected the 8 that.*restore them"):
        train(replace(config, data_root=str(tmp_path / "others")), tmp_path / "run")
    (tmp_path / "photos").rename(tmp_path / "moved")  # the same images elsewhere are the same run
    train(replace(config, data_root=str(tmp_path / "moved")), tmp_path / "run")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_trains_resumes_and_embeds_on_a_gpu(tmp_path):
    from simclr_lib.evaluate import embed_beside_baselines

    run = train(RunConfig(**{**TINY, "device": "cuda", "precision": "bfloat16"}), tmp_path)
    (tmp_path / "status.json").unlink()
    assert same(weights(run), weights(train(run.config, tmp_path)))
    h = embed_beside_baselines(run, load_images("embedded", limit=8).images)["trained encoder"]
    assert h.shape == (8, 128)
    assert h.isfinite().all()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    import simclr_lib.trainer as trainer_module

    def broken_at_9(*arguments, calls=[], **options):  # noqa: B006 (it counts)
        calls.append(1)
        loss = step(*arguments, **options)
        return loss * math.nan if len(calls) == 10 else loss

    step = trainer_module.simclr_step
    monkeypatch.setattr(trainer_module, "simclr_step", broken_at_9)
    with pytest.raises(FloatingPointError, match=r"the loss at step 9 is not.*Lower learning_rate"):
        train(RunConfig(**TINY), tmp_path)
    run = Run.open(tmp_path)
    assert run.load_checkpoint()["epochs_done"] == 2
    assert run.status["state"] == "failed"
    assert "step 9" in run.status["message"]
    assert [m["step"] for m in run.metrics()] == list(range(9))


def test_an_absurd_learning_rate_is_stopped_with_its_remedy(tmp_path):
    with pytest.raises((FloatingPointError, ValueError), match=r"learning.rate") as error:
        train(RunConfig(**{**TINY, "norm": "batch"}, learning_rate=1e30), tmp_path)
    assert Run.open(tmp_path).status["message"].endswith(str(error.value))


def test_weights_that_are_not_finite_are_never_a_checkpoint(tmp_path, monkeypatch):
    import simclr_lib.trainer as trainer_module

    def poison(model, *arguments, **options):
        loss = step(model, *arguments, **options)
        with torch.no_grad():
            model.projection_head[0].bias[0] = math.inf
        return loss

    step = trainer_module.simclr_step
    monkeypatch.setattr(trainer_module, "simclr_step", poison)
    with pytest.raises(FloatingPointError, match=r"projection_head\.0\.bias"):
        train(RunConfig(**{**TINY, "batch_size": 72}), tmp_path)
    assert Run.open(tmp_path).load_checkpoint() is None


def test_training_brings_the_loss_down(tmp_path):
    config = RunConfig(**{**TINY, "limit_images": 256, "batch_size": 64, "epochs": 5}, temperature=0.2)
    epochs = train(config, tmp_path).metrics("epoch")
    assert epochs[-1]["loss"] < epochs[0]["loss"] < config.chance_loss + 0.1


@pytest.mark.parametrize(("size", "taken"), [(None, 16), (5, 5), (64, 16), ("auto", 16)])
def test_how_a_batch_was_split_is_recorded(tmp_path, size, taken):
    run = train(RunConfig(**TINY, micro_batch_size=size), tmp_path)
    (session,) = run.environment["sessions"]
    assert (session["processes"], session["batch_per_process"], session["micro_batch_size"]) == (1, 16, taken)
    assert run.summary["exact_batch"] is True


def test_auto_takes_64_on_a_cpu_and_says_so(tmp_path, capsys):
    config = RunConfig(**{**TINY, "limit_images": 160, "batch_size": 80, "epochs": 1}, micro_batch_size="auto")
    assert train(config, tmp_path).environment["sessions"][0]["micro_batch_size"] == 64
    assert capsys.readouterr().out.count("micro_batch_size auto: 64 of 80 images at a time") == 1


def test_trying_what_fits_leaves_model_and_optimizer_as_they_were():
    trainer = Trainer(RunConfig(**TINY))
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer._try(5)
    assert same(before, trainer.model.state_dict())
    assert not trainer.optimizer.state
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_a_run_in_micro_batches_is_the_run_of_whole_batches(tmp_path):
    whole = train(RunConfig(**TINY, precision="float64"), tmp_path / "whole")
    parts = train(RunConfig(**TINY, precision="float64", micro_batch_size=5), tmp_path / "parts")
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], weight, rtol=1e-8, atol=1e-12)


def test_batch_norm_under_micro_batches_says_once_that_it_is_not_exact_and_records_it(tmp_path, capsys):
    config = RunConfig(**{**TINY, "norm": "batch"}, micro_batch_size=8)
    run = train(config, tmp_path / "run")
    assert capsys.readouterr().out.count("norm='batch' under micro-batches is not exact") == 1
    assert run.summary["exact_batch"] is False
    whole = train(replace(config, micro_batch_size=None), tmp_path / "whole")
    assert "not exact" not in capsys.readouterr().out
    assert whole.summary["exact_batch"] is True
    with pytest.raises(ValueError, match="micro_batch_size 8 -> None"):
        train(replace(config, micro_batch_size=None), tmp_path / "run")


def test_no_label_reaches_training(tmp_path, monkeypatch):
    import simclr_lib.training as training

    def unlabelled(*arguments, **options):
        images = load_images(*arguments, **options)
        object.__setattr__(images, "labels", images.labels.to("meta"))  # can be sliced, but has no values
        return images

    expected = train(RunConfig(**TINY), tmp_path / "a")
    monkeypatch.setattr(training, "load_images", unlabelled)
    assert same(weights(expected), weights(train(RunConfig(**TINY), tmp_path / "b")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 73}, r"batch_size: expected at most the 72 images.*got 73.*lower batch_size"),
        ({"limit_images": 1}, r"images: expected at least 2 to tell apart, got 1.*add some"),
        ({"dataset": "folder", "data_root": "nowhere"}, "a folder that exists"),
        ({"device": "cuda:99"}, r"device: expected one of this machine's"),
        ({"arch": "alexnet"}, "stem"),
        ({"store_size": 64, "dataset": "caltech101", "data_root": "nowhere"}, "embedded|all"),
    ],
)
def test_what_cannot_work_is_refused_before_training(tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(Trainer, "_step", lambda *_: pytest.fail("training began"))
    monkeypatch.setattr("simclr_lib.datasets._download", lambda *_: (_ for _ in ()).throw(ValueError("embedded")))
    with pytest.raises(ValueError, match=message):
        train(RunConfig(**{**TINY, **change}), tmp_path / "run")


def test_an_empty_folder_is_refused(tmp_path):
    os.makedirs(tmp_path / "images")
    config = RunConfig(**{**TINY, "dataset": "folder", "data_root": str(tmp_path / "images"), "limit_images": None})
    with pytest.raises(ValueError, match="expected class folders"):
        train(config, tmp_path / "run")


def test_a_run_directory_that_cannot_be_written_is_refused_before_loading(tmp_path, monkeypatch):
    monkeypatch.setattr("simclr_lib.training.load_images", lambda *_, **__: pytest.fail("images were loaded"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="can be written"):
        train(RunConfig(**TINY), tmp_path / "file")


def test_what_is_printed_before_training_is_what_follows_from_the_configuration():
    config = RunConfig(**TINY, lr_scaling="linear", warmup_epochs=10)
    text = describe(config, load_images("embedded", limit=72))
    assert "16 of 16 images at a time" in text
    parts = replace(config, micro_batch_size="auto", processes=2)
    assert "8 of 8 images at a time in each of 2 processes" in describe(parts, load_images("embedded", limit=72))
    for expected in ("72 of embedded", "4 an epoch, 16 in all, 1 of warm-up", "0.00625", "30 per anchor", "3.434"):
        assert expected in text


def test_places_in_training_have_random_numbers_of_their_own():
    draws = {
        tuple(torch.rand(3, generator=generator_at(*place)).tolist())
        for place in ((0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (0, 0, 0), (10, 1), (1, 10))
    }
    assert len(draws) == 7
    assert torch.equal(torch.rand(3, generator=generator_at(4, 2)), torch.rand(3, generator=generator_at(4, 2)))
