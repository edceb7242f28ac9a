"""Training: reproducible, resumable, stopped by what is not finite, refused before work is lost."""

import importlib
import itertools
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simclr_lib import Augment, Run, RunConfig, load_images, train, warmup_cosine
from simclr_lib.engine.seeds import generator_at
from simclr_lib.loss import nt_xent
from simclr_lib.model import SimCLR, build_encoder
from simclr_lib.train import Learner, fit, images_at_a_time, require_finite, snapshot_epochs

MODULE = importlib.import_module("simclr_lib.train")  # the package's attribute of this name is the function
CPU = torch.device("cpu")
# 72 images to train on; the 8 that are kept out are too few for health, which would take most of the time.
TINY = dict(
    split="test", limit_images=80, image_size=16, norm="group", blur=False, batch_size=16, epochs=4, device="cpu"
)
WATCHED = {**TINY, "split": "train", "limit_images": 72}  # health is read on the test split


def weights(run: Run) -> dict[str, torch.Tensor]:
    return run.load_checkpoint()["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_package_offers_the_function_also_once_the_module_is_imported():
    import simclr_lib.train  # which would else set the package's attribute to the module
    from simclr_lib import train as again

    assert again is train is MODULE.train is simclr_lib.train
    assert callable(again)


# The loop, with a learner that only notes what it is given.


class Noting:
    """A learner that learns nothing: its loss after step i is 100 - i."""

    def __init__(self, config: RunConfig, epochs_done: int = 0) -> None:
        self.config, self.device, self.own = config, CPU, slice(0, config.batch_size)
        self.epochs_done, self.losses, self.seconds, self.saved_at = epochs_done, [], 0.0, math.inf
        self.model = torch.nn.Linear(1, 1)
        self.steps, self.saved = [], []

    def step(self, images: torch.Tensor, step: int, rate: float) -> float:
        self.steps.append((step, rate, images.flatten().tolist()))
        self.losses.append(100.0 - step)
        return self.losses[-1]

    def save(self, run: Run) -> None:
        self.saved.append(self.epochs_done)


class Watching:
    def __init__(self) -> None:
        self.calls = []

    def watch(self, model, run: Run, step: int, epochs: int, loss: float | None = None) -> None:
        self.calls.append((step, epochs, loss))


def noted(path: Path, epochs_done: int = 0, **changes: object) -> tuple[Noting, Watching, Run]:
    """What the loop asks of a learner on 11 of 20 images, which are their own numbers, in batches of 3."""
    config = RunConfig(batch_size=3, epochs=4, learning_rate=2.0, warmup_epochs=10, **changes)
    learner, held_out, run = Noting(config, epochs_done), Watching(), Run.start(path, config)
    fit(learner, torch.arange(20), torch.arange(5, 16), run, held_out)
    return learner, held_out, run


def test_every_epoch_passes_the_images_once_in_an_order_of_its_own_but_for_those_left_over(tmp_path):
    learner, _, _ = noted(tmp_path / "a")
    assert [step for step, _, _ in learner.steps] == list(range(4 * 3))
    epochs = [[image for _, _, images in learner.steps[i : i + 3] for image in images] for i in range(0, 12, 3)]
    for epoch, seen in enumerate(epochs):
        order = torch.randperm(11, generator=generator_at(0, 0, epoch)) + 5
        assert seen == order[:9].tolist()
        assert len(set(seen)) == 9
    assert len({tuple(seen) for seen in epochs}) == 4
    assert noted(tmp_path / "b", seed=1)[0].steps != learner.steps


def test_every_step_has_the_rate_of_the_schedule(tmp_path):
    rates = [rate for _, rate, _ in noted(tmp_path, lr_scaling="linear")[0].steps]
    peak, warmup = 2.0 * 3 / 256, 1  # of twelve steps, a tenth is one
    assert rates[0] == peak
    expected = [peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (12 - warmup))) for step in range(1, 12)]
    assert rates[1:] == pytest.approx(expected)


def test_after_every_epoch_its_loss_is_logged_health_is_read_and_a_checkpoint_written(tmp_path):
    learner, held_out, run = noted(tmp_path)
    losses = [(100 - s + 99 - s + 98 - s) / 3 for s in (0, 3, 6, 9)]
    assert [(r["epoch"], r["step"], r["loss"]) for r in run.metrics("epoch")] == list(
        zip(range(4), (2, 5, 8, 11), losses, strict=True)
    )
    assert held_out.calls == [(0, 0, None), *zip((3, 6, 9, 12), (1, 2, 3, 4), losses, strict=True)]
    assert learner.saved == [1, 2, 3, 4]
    assert run.snapshots == [1, 2, 3, 4]
    for record in run.metrics("epoch"):
        assert record["images_per_second"] == pytest.approx(9 / record["seconds"])


def test_the_loop_goes_on_after_the_epochs_that_are_done(tmp_path):
    whole, _, _ = noted(tmp_path / "whole")
    rest, held_out, _ = noted(tmp_path / "rest", epochs_done=2)
    assert rest.steps == whole.steps[6:]
    assert [epochs for _, epochs, _ in held_out.calls] == [3, 4]  # that before training is not read again
    assert rest.saved == [3, 4]


def test_a_checkpoint_also_follows_a_while(tmp_path, monkeypatch):
    """Steps of a minute, a checkpoint every two and a half: after three steps, but for those at an epoch's end."""
    config, places = RunConfig(batch_size=2, epochs=2, checkpoint_minutes=2.5), []
    learner = Noting(config)
    clock = iter(range(0, 6000, 60))
    monkeypatch.setattr(MODULE.time, "monotonic", lambda: next(clock))

    def save(run: Run) -> None:
        places.append((learner.epochs_done, len(learner.losses)))
        learner.saved_at = MODULE.time.monotonic()

    learner.save, learner.saved_at = save, next(clock)
    fit(learner, torch.arange(16), torch.arange(16), Run.start(tmp_path, config))
    assert places == [(0, 3), (0, 6), (1, 0), (1, 3), (1, 6), (2, 0)]


def test_no_more_than_twenty_lines_are_printed_and_the_last_epoch_is_one(tmp_path, capsys):
    config = RunConfig(batch_size=2, epochs=47)
    fit(Noting(config), torch.arange(2), torch.arange(2), Run.start(tmp_path, config))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split()[1] for line in lines] == [f"{epoch}/47" for epoch in (*range(3, 47, 3), 47)]
    assert all("chance 1.099" in line for line in lines)  # ln 3


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1, {1}), (2, {1, 2}), (3, {1, 2, 3}), (10, {3, 5, 8, 10}), (100, {25, 50, 75, 100})]
)
def test_a_snapshot_is_taken_at_each_quarter_rounded_up(epochs, expected):
    assert snapshot_epochs(epochs) == expected


# One learner.


def test_a_step_is_one_of_plain_descent_at_its_rate_on_the_views_of_its_place():
    config = RunConfig(**TINY, momentum=0.0, weight_decay=0.0, precision="float64")
    learner, images = Learner(config, CPU), load_images("embedded", image_size=16, limit=16).images
    torch.manual_seed(0)
    model = SimCLR(build_encoder("convnet", stem="cifar", norm="group", image_size=16)).double()
    augment, generator = Augment(16, blur=False), generator_at(0, 1, 7)
    view_a, view_b = (augment(images.double() / 255, generator) for _ in range(2))
    expected = nt_xent(model(view_a), model(view_b), 0.5)
    expected.backward()
    assert learner.step(images, step=7, rate=0.03) == pytest.approx(expected.item(), rel=1e-12)
    for weight, updated in zip(model.parameters(), learner.model.parameters(), strict=True):
        torch.testing.assert_close(updated, weight - 0.03 * weight.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "lars", "adamw"])
def test_a_restored_learner_goes_on_as_the_one_that_was_saved(tmp_path, optimizer):
    config = RunConfig(**TINY, optimizer=optimizer, learning_rate=0.01)
    images, run = load_images("embedded", image_size=16, limit=16).images, Run.start(tmp_path, config)
    saved, restored, fresh = (Learner(config, CPU) for _ in range(3))
    fresh.restore(run)  # there is nothing yet
    assert fresh.epochs_done == 0
    loss = saved.step(images, 0, 0.01)
    run.log("step", step=0, loss=loss)
    saved.save(run)
    restored.restore(run)
    assert (restored.epochs_done, restored.losses) == (0, [loss])
    torch.manual_seed(5)  # what else is drawn does not matter
    assert saved.step(images, 1, 0.02) == restored.step(images, 1, 0.02) != fresh.step(images, 1, 0.02)
    assert same(saved.model.state_dict(), restored.model.state_dict())


@pytest.mark.parametrize(
    ("size", "device", "expected"),
    [(None, "cpu", 80), (5, "cpu", 5), (200, "cuda", 80), ("auto", "cpu", 64), ("auto", "cuda", None)],
)
def test_how_many_images_are_taken_at_a_time(size, device, expected):
    config = RunConfig(batch_size=160, processes=2, micro_batch_size=size)
    assert images_at_a_time(config, 80, torch.device(device)) == expected


def test_auto_takes_what_fits(monkeypatch):
    """A device that has memory for seven images: of 16, 8 and 4, the trial takes 4."""
    monkeypatch.setattr(MODULE, "images_at_a_time", lambda *_: None)  # as on a GPU
    tried = []

    def forward(model, images, _forward=SimCLR.forward):
        tried.append(len(images) // 2)
        if tried[-1] > 7:
            raise torch.OutOfMemoryError
        return _forward(model, images)

    monkeypatch.setattr(SimCLR, "forward", forward)
    assert Learner(RunConfig(**TINY, micro_batch_size="auto"), CPU).micro_batch_size == 4
    assert tried == [16, 8, 4]


def test_what_is_not_finite_is_named():
    whole, count = torch.ones(2), torch.tensor(3)
    require_finite({"weight": whole, "count": count}, "a weight")
    for value in (math.nan, math.inf, -math.inf):
        broken = {"fine": whole, "bias": torch.tensor([1.0, value]), "count": count}
        with pytest.raises(FloatingPointError, match=r"after epoch 3.*\(bias\).*learning_rate"):
            require_finite(broken, "a weight after epoch 3")


# A run.


def test_a_run_is_recorded_whole(tmp_path):
    config = RunConfig(**WATCHED, warmup_epochs=10)
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
    config = RunConfig(**{**WATCHED, "epochs": 1}, optimizer=optimizer, learning_rate=0.01, weight_decay=0.1)
    run = train(config, tmp_path)

    torch.manual_seed(0)
    model = SimCLR(build_encoder("convnet", stem="cifar", norm="group", image_size=16))
    images = load_images("embedded", image_size=16, limit=72, seed=0).images
    order = torch.randperm(72, generator=generator_at(0, 0, 0))
    decay = {n: 0.1 if p.ndim > 1 else 0.0 for n, p in model.named_parameters()}
    velocity = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for step in range(4):
        rate = 0.01 * 0.5 * (1 + math.cos(math.pi * step / 4))
        batch = images[order[step * 16 : step * 16 + 16]]
        augment, generator = Augment(16, 1.0, blur=False), generator_at(0, 1, step)
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
    learner = Learner(config, CPU)
    decays = {p: group["weight_decay"] for group in learner.optimizer.param_groups for p in group["params"]}
    assert isinstance(learner.optimizer, torch.optim.AdamW)
    assert {p: 0.1 if p.ndim > 1 else 0.0 for p in learner.model.parameters()} == decays
    assert learner.optimizer.defaults["lr"] == 2e-3


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    first, again = (train(RunConfig(**TINY), tmp_path / name) for name in "ab")
    other = train(RunConfig(**TINY, seed=1), tmp_path / "c")
    assert same(weights(first), weights(again))
    assert [m["loss"] for m in first.metrics()] == [m["loss"] for m in again.metrics()]
    assert not same(weights(first), weights(other))


class Interrupted(BaseException):
    """Stands for a crash: nothing in the library catches it."""


def train_until_crash(monkeypatch, config: RunConfig, run_dir: Path, crash_at: int) -> None:
    def step_until_crash(learner, images, step, rate, _step=Learner.step):
        if step == crash_at:
            raise Interrupted
        return _step(learner, images, step, rate)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", step_until_crash)
        with pytest.raises(Interrupted):
            train(config, run_dir)


@pytest.mark.parametrize("crash_at", [2, 9, pytest.param(15, marks=pytest.mark.slow)])
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


@pytest.mark.slow
def test_a_resumed_run_with_dropout_is_the_run_that_was_never_interrupted(tmp_path, monkeypatch):
    def with_dropout(**options):
        return build_encoder("vit_tiny", image_size=options["image_size"], dropout=0.5)

    monkeypatch.setattr(MODULE, "build_encoder", with_dropout)
    config = RunConfig(**{**TINY, "limit_images": 9, "batch_size": 4, "epochs": 2, "stem": "imagenet"}, arch="vit_tiny")
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
    monkeypatch.setattr(MODULE, "load_training_images", lambda *_: pytest.fail("images were loaded"))
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
    with pytest.raises(ValueError, match=r"images: .*data_root"):
        train(replace(config, data_root=str(tmp_path / "others")), tmp_path / "run")
    (tmp_path / "photos").rename(tmp_path / "moved")  # the same images elsewhere are the same run
    train(replace(config, data_root=str(tmp_path / "moved")), tmp_path / "run")


def test_a_run_goes_on_with_the_images_that_an_older_version_recorded_and_with_no_other_held_out_ones(
    tmp_path, monkeypatch
):
    config = RunConfig(**{**TINY, "epochs": 2})
    train_until_crash(monkeypatch, config, tmp_path, crash_at=5)
    images = Run.open(tmp_path).load_arrays("images")
    assert (len(images["ids"]), len(images["held_out_ids"])) == (72, 8)
    assert len({*images["ids"].tolist(), *images["held_out_ids"].tolist()}) == 80
    ids, checksum, held_out = (images[name] for name in ("ids", "checksum", "held_out_ids"))
    for name in ("held_out_ids", "probe_ids"):
        Run.open(tmp_path).save_arrays("images", ids=ids, checksum=checksum, **{name: held_out[::-1]})
        with pytest.raises(ValueError, match="images: "):
            train(config, tmp_path)
    Run.open(tmp_path).save_arrays("images", ids=ids, checksum=checksum, probe_ids=held_out)
    assert train(config, tmp_path).finished
    assert Run.open(tmp_path).load_arrays("images").keys() == images.keys()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_trains_resumes_and_embeds_on_a_gpu(tmp_path):
    from simclr_lib.evaluation.embeddings import embed_beside_baselines

    run = train(RunConfig(**{**TINY, "device": "cuda", "precision": "bfloat16"}), tmp_path)
    (tmp_path / "status.json").unlink()
    assert same(weights(run), weights(train(run.config, tmp_path)))
    h = embed_beside_baselines(run, load_images("embedded", limit=8))["trained encoder"]
    assert h.shape == (8, 128)
    assert h.isfinite().all()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    def broken_at_9(*arguments, calls=[], **options):  # noqa: B006 (it counts)
        calls.append(1)
        loss = step(*arguments, **options)
        return loss * math.nan if len(calls) == 10 else loss

    step = MODULE.simclr_step
    monkeypatch.setattr(MODULE, "simclr_step", broken_at_9)
    with pytest.raises(FloatingPointError, match=r"the loss at step 9 is not.*Lower learning_rate"):
        train(RunConfig(**TINY), tmp_path)
    run = Run.open(tmp_path)
    assert run.load_checkpoint()["epochs_done"] == 2
    assert run.status["state"] == "failed"
    assert "step 9" in run.status["message"]
    alarm = run.summary["alarms"]["non-finite"]
    assert (alarm["first_epoch"], alarm["last_epoch"]) == (2, 2)  # whole epochs done
    assert "learning_rate" in alarm["text"]
    assert [m["step"] for m in run.metrics()] == list(range(9))


def test_an_absurd_learning_rate_is_stopped_with_its_remedy(tmp_path):
    with pytest.raises((FloatingPointError, ValueError), match=r"learning.rate") as error:
        train(RunConfig(**{**TINY, "norm": "batch"}, learning_rate=1e30), tmp_path)
    assert Run.open(tmp_path).status["message"].endswith(str(error.value))


def test_weights_that_are_not_finite_are_never_a_checkpoint(tmp_path, monkeypatch):
    def poison(model, *arguments, **options):
        loss = step(model, *arguments, **options)
        with torch.no_grad():
            model.projection_head[0].bias[0] = math.inf
        return loss

    step = MODULE.simclr_step
    monkeypatch.setattr(MODULE, "simclr_step", poison)
    with pytest.raises(FloatingPointError, match=r"projection_head\.0\.bias"):
        train(RunConfig(**{**TINY, "batch_size": 72}), tmp_path)
    assert not Run.open(tmp_path).begun


def test_weights_that_are_not_finite_are_no_checkpoint_within_an_epoch_either(tmp_path, monkeypatch):
    def poison(model, *arguments, **options):
        loss = step(model, *arguments, **options)
        if next(counted) == 4:  # the last of two epochs has three
            with torch.no_grad():
                model.projection_head[0].bias[0] = math.inf
        return loss

    step, counted = MODULE.simclr_step, itertools.count()
    monkeypatch.setattr(MODULE, "simclr_step", poison)
    config = RunConfig(**{**TINY, "batch_size": 24}, checkpoint_minutes=1e-9)
    with pytest.raises(FloatingPointError, match=r"projection_head\.0\.bias"):
        train(config, tmp_path)
    checkpoint = Run.open(tmp_path).load_checkpoint()
    assert (checkpoint["epochs_done"], len(checkpoint["losses"])) == (1, 1)
    assert all(tensor.isfinite().all() for tensor in checkpoint["model"].values())
    monkeypatch.setattr(MODULE, "simclr_step", step)
    assert train(config, tmp_path).finished


def test_training_brings_the_loss_down(tmp_path):
    options = {**TINY, "limit_images": 160, "batch_size": 32, "epochs": 5, "image_size": 32}
    config = RunConfig(**options, learning_rate=0.03, temperature=0.2)
    first, *_, last = (epoch["loss"] for epoch in train(config, tmp_path).metrics("epoch"))
    assert last < first - 0.1 < config.chance_loss


@pytest.mark.parametrize(("size", "taken"), [(None, 16), (5, 5), (64, 16), ("auto", 16)])
def test_how_a_batch_was_split_is_recorded(tmp_path, size, taken):
    run = train(RunConfig(**{**TINY, "epochs": 1}, micro_batch_size=size), tmp_path)
    (session,) = run.environment["sessions"]
    assert (session["processes"], session["batch_per_process"], session["micro_batch_size"]) == (1, 16, taken)
    assert run.summary["exact_batch"] is True


def test_auto_takes_64_on_a_cpu_and_says_so(tmp_path, capsys):
    config = RunConfig(**{**TINY, "batch_size": 72, "epochs": 1}, micro_batch_size="auto")
    assert train(config, tmp_path).environment["sessions"][0]["micro_batch_size"] == 64
    assert capsys.readouterr().out.count("micro_batch_size auto: 64 of 72 images at a time") == 1


@pytest.mark.parametrize("optimizer", ["sgd", "lars", "adamw"])
def test_trying_what_fits_leaves_model_and_optimizer_as_they_were(monkeypatch, optimizer):
    learner = Learner(RunConfig(**TINY, optimizer=optimizer), CPU)
    before = {name: weight.clone() for name, weight in learner.model.state_dict().items()}
    stepped = []
    monkeypatch.setattr(type(learner.optimizer), "step", lambda self: stepped.extend(self.param_groups[0]["params"]))
    learner._try(5)
    assert stepped  # a copy was trained, by an optimizer of its own
    assert all(weight.grad is not None for weight in stepped)
    assert not {id(weight) for weight in stepped} & {id(weight) for weight in learner.model.parameters()}
    assert same(before, learner.model.state_dict())
    assert not learner.optimizer.state
    assert all(parameter.grad is None for parameter in learner.model.parameters())


def test_a_run_in_micro_batches_is_the_run_of_whole_batches(tmp_path):
    whole = train(RunConfig(**{**TINY, "epochs": 2}, precision="float64"), tmp_path / "whole")
    parts = train(RunConfig(**{**TINY, "epochs": 2}, precision="float64", micro_batch_size=5), tmp_path / "parts")
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


def test_a_run_that_was_not_exact_for_a_while_is_not_called_exact(tmp_path, monkeypatch):
    config = RunConfig(**{**TINY, "norm": "batch", "epochs": 2}, micro_batch_size="auto")
    with monkeypatch.context() as patch:
        patch.setattr(MODULE, "images_at_a_time", lambda *_: 8)  # on a machine with less memory
        train_until_crash(monkeypatch, config, tmp_path, crash_at=5)
    run = train(config, tmp_path)
    assert [session["micro_batch_size"] for session in run.environment["sessions"]] == [8, 16]
    assert run.summary["exact_batch"] is False


def test_no_label_reaches_training(tmp_path, monkeypatch):
    def unlabelled(*arguments, **options):
        images = load_images(*arguments, **options)
        object.__setattr__(images, "labels", images.labels.to("meta"))  # can be sliced, but has no values
        return images

    expected = train(RunConfig(**TINY), tmp_path / "a")
    monkeypatch.setattr("simclr_lib.evaluation.health.load_images", unlabelled)
    assert same(weights(expected), weights(train(RunConfig(**TINY), tmp_path / "b")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 73}, r"batch_size: .*72.*got 73"),
        ({"limit_images": 1}, r"images: .*at least 2.*got 1"),
        ({"dataset": "folder", "split": "train", "data_root": "nowhere"}, "nowhere"),
        ({"device": "cuda:99"}, r"device: .*cuda:99"),
        ({"arch": "alexnet", "stem": "cifar"}, "stem"),
    ],
)
def test_what_cannot_work_is_refused_before_training(tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(Learner, "step", lambda *_: pytest.fail("training began"))
    with pytest.raises(ValueError, match=message):
        train(RunConfig(**{**TINY, **change}), tmp_path / "run")


@pytest.mark.parametrize("change", [{"device": "cuda:99"}, {"arch": "alexnet", "stem": "cifar"}])
def test_what_is_refused_at_once_leaves_the_directory_as_it_was(tmp_path, change):
    Run.start(tmp_path, RunConfig(**TINY)).log("step", step=0, loss=1.0)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"device|stem"):
        train(RunConfig(**{**TINY, **change}), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_empty_folder_is_refused(tmp_path):
    os.makedirs(tmp_path / "images")
    config = RunConfig(dataset="folder", data_root=str(tmp_path / "images"), device="cpu")
    with pytest.raises(ValueError, match="class folders"):
        train(config, tmp_path / "run")


def test_a_run_directory_that_cannot_be_written_is_refused_before_loading(tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "load_training_images", lambda *_: pytest.fail("images were loaded"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="run_dir"):
        train(RunConfig(**TINY), tmp_path / "file")


def test_places_in_training_have_random_numbers_of_their_own():
    draws = {
        tuple(torch.rand(3, generator=generator_at(*place)).tolist())
        for place in ((0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (0, 0, 0), (10, 1), (1, 10))
    }
    assert len(draws) == 7
    assert torch.equal(torch.rand(3, generator=generator_at(4, 2)), torch.rand(3, generator=generator_at(4, 2)))
