"""Health: images that training never sees, read without a trace, and the alarms of real, short trainings."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from simclr_lib import Augment, ImageSet, Run, RunConfig, embed, load_images, train
from simclr_lib.data import sets
from simclr_lib.data.embedded import generate
from simclr_lib.evaluation import health
from simclr_lib.evaluation.health import HeldOut, hold_out, keep_out, load_training_images, record_alarms
from simclr_lib.evaluation.readings import color_reading, palettes, reading
from simclr_lib.model import SimCLR, build_encoder
from simclr_lib.train import Learner, fit

# Views of 16 pixels take a quarter of the time of 32.
TINY = dict(
    dataset="embedded", image_size=16, norm="group", blur=False, limit_images=48, batch_size=16, epochs=4, device="cpu"
)
TELLING = dict(batch_size=64, learning_rate=0.03, temperature=0.2, warmup_epochs=1)  # tells images apart in seconds


def some_images(count: int = 24) -> Tensor:
    return generate("test", seed=5)[0][:count]


def build(norm: str = "batch") -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(build_encoder("convnet", stem="cifar", norm=norm, image_size=16))


def weights(run: Run) -> dict[str, Tensor]:
    return run.load_checkpoint()["model"]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def readings_of(run: Run) -> list[dict]:
    """The readings of a run but for the time that each took."""
    return [{name: value for name, value in record.items() if name != "seconds"} for record in run.metrics("health")]


class Interrupted(BaseException):
    """Stands for a crash: nothing in the library catches it."""


def train_until(monkeypatch, config: RunConfig, run_dir: Path, owner: type, name: str, call: int) -> None:
    """Train until this method of `owner` is called for that time."""
    method, calls = getattr(owner, name), []

    def crash(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            raise Interrupted
        return method(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash)
        with pytest.raises(Interrupted):
            train(config, run_dir)


@pytest.fixture
def few(monkeypatch) -> None:
    """At most 16 held-out images, for where it does not matter which they are: 256 take longer than these trainings."""
    monkeypatch.setattr(health, "MOST", 16)


# What a model is shown, and what is left of it.


def test_the_views_are_two_of_augment_and_the_same_for_every_run_of_a_seed():
    config, images = RunConfig(**{**TINY, "blur": True}, color_strength=0.5, seed=3), some_images()
    torch.manual_seed(1)
    first = HeldOut(images, config)
    torch.rand(7)  # what was drawn before must not matter
    again = HeldOut(images, replace(config, learning_rate=1.0, epochs=9))
    other = HeldOut(images, replace(config, seed=4))
    augment, generator = Augment(16, 0.5, blur=True), torch.Generator().manual_seed(3)
    for views, same_views, other_views in zip(first.views, again.views, other.views, strict=True):
        assert torch.equal(views, same_views)
        assert not torch.equal(views, other_views)
        assert (views.shape, views.dtype) == ((24, 3, 16, 16), torch.uint8)
        assert (views / 255 - augment(images, generator)).abs().max() <= 0.5 / 255 + 1e-6
    assert not torch.equal(*first.views)


def test_images_that_are_kept_larger_than_views_are_read_at_the_size_of_views():
    config, images = RunConfig(**TINY, store_size=32), some_images()
    held_out, model = HeldOut(images, config), build()
    assert held_out.views[0].shape == (24, 3, 16, 16)
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    held_out.read(model)
    assert set(seen) == {(24, 3, 16, 16)}


def by_hand(model: SimCLR, held_out: HeldOut, images: Tensor) -> tuple[list[Tensor], Tensor]:
    model.eval()
    with torch.no_grad():
        return [model(views / 255) for views in held_out.views], model.encoder(images / 255)


def test_a_reading_is_of_the_projections_of_the_views_and_the_embeddings_of_the_images():
    images = load_images("embedded", "test", image_size=16, limit=24).images
    held_out, model = HeldOut(images, RunConfig(**TINY)), build()
    got = held_out.read(model)
    z, h = by_hand(model, held_out, images)
    expected = reading(*z, h, palettes(images))
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, list):  # a pair at the edge of a bin may round either way
            assert sum(got[name]) == sum(value)
            assert np.abs(np.cumsum(got[name]) - np.cumsum(value)).max() <= 2
        else:
            assert got[name] == pytest.approx(value, rel=1e-4, abs=1e-4)


class Fixed(nn.Module):
    """A stand-in for a model, that projects and embeds every image to one row."""

    def __init__(self, row: Tensor) -> None:
        super().__init__()
        self.row = nn.Parameter(row)
        self.encoder = nn.Identity()
        self.encoder.register_parameter("row", self.row)
        self.encoder.forward = self.forward

    def forward(self, images: Tensor) -> Tensor:
        return self.row.expand(len(images), -1)


@pytest.mark.parametrize("training", [True, False])
def test_reading_leaves_model_and_random_numbers_as_they_were_and_is_the_same_again(training):
    held_out, model = HeldOut(some_images(), RunConfig(**TINY)), build("batch").train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    first, again = held_out.read(model), held_out.read(model)
    assert first == again
    assert same(before, model.state_dict())
    assert any("running_mean" in name for name in before)  # there was something to change
    assert {module.training for module in model.modules()} == {training}
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_run_that_is_watched_has_the_weights_of_one_that_is_not(tmp_path, norm):
    config = RunConfig(**{**TINY, "norm": norm, "epochs": 2})
    images, runs = load_training_images(config).images, {}
    for name, held_out in (("without", None), ("with", HeldOut(some_images(), config))):
        runs[name] = Run.start(tmp_path / name, config)
        fit(Learner(config, torch.device("cpu")), images, torch.arange(48), runs[name], held_out)
    assert same(weights(runs["without"]), weights(runs["with"]))
    losses = [[record["loss"] for record in run.metrics()] for run in runs.values()]
    assert losses[0] == losses[1]
    assert [len(run.metrics("health")) for run in runs.values()] == [0, 3]


# Which images are kept out.


def write_folder(root: Path, count: int, seed: int = 0) -> Path:
    """Put so many images into two classes below `root`, no two alike."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        file = root / "ab"[i % 2] / f"{i:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(file)
    return root


def of_folder(root: Path, **changes) -> RunConfig:
    own = {"dataset": "folder", "data_root": str(root), "image_size": 8, "limit_images": None, "epochs": 2}
    return RunConfig(**{**TINY, **own, **changes})


def bytes_of(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def kept_out(config: RunConfig) -> tuple[Tensor, ImageSet]:
    return keep_out(config, load_training_images(config))


def test_where_there_is_a_test_split_all_images_are_trained_on_and_256_others_are_read():
    config = RunConfig(**TINY, store_size=32)
    rows, unseen = kept_out(config)
    assert rows.tolist() == list(range(48))
    ids = unseen.ids.tolist()
    assert len(ids) == 256
    assert ids == sorted(set(ids))
    assert torch.equal(unseen.images, generate("test")[0][unseen.ids])
    assert not set(bytes_of(unseen.images)) & set(bytes_of(generate("train")[0]))
    again, other = (kept_out(replace(config, seed=seed))[1].ids for seed in (0, 1))
    assert torch.equal(again, unseen.ids)
    assert not torch.equal(other, unseen.ids)
    assert sum(i < 500 for i in ids) == pytest.approx(128, abs=40)  # drawn from all of it, not from its beginning


def test_a_test_split_on_disk_is_used_and_one_that_is_not_is_never_downloaded(tmp_path, monkeypatch):
    write_folder(tmp_path / "cifar10/train", 200)
    config = RunConfig(**{**TINY, "limit_images": None, "dataset": "cifar10", "image_size": 8}, data_root=str(tmp_path))
    begun = []
    monkeypatch.setitem(sets.FETCH, "cifar10", lambda *_, **__: begun.append("a download"))
    rows, unseen = kept_out(config)
    assert begun == []
    assert (len(rows), len(unseen)) == (184, 16)
    assert all("/train/" in path for path in unseen.paths)
    write_folder(tmp_path / "cifar10/test", 30, seed=1)
    rows, unseen = kept_out(config)
    assert rows.tolist() == list(range(200))
    assert unseen.ids.tolist() == list(range(30))
    assert all("/test/" in path for path in unseen.paths)


@pytest.mark.parametrize("dataset", ["folder", "caltech101"])
def test_where_there_is_none_some_are_kept_out_and_never_trained_on(tmp_path, monkeypatch, dataset):
    below = "" if dataset == "folder" else "caltech101/101_ObjectCategories"
    write_folder(tmp_path / "data" / below, 170)
    config, trained_on = of_folder(tmp_path / "data", dataset=dataset, epochs=3), set()

    def step(learner, images, step, rate, _step=Learner.step):
        trained_on.update(bytes_of(images))
        return _step(learner, images, step, rate)

    monkeypatch.setattr(Learner, "step", step)
    run = train(config, tmp_path / "run")
    recorded = run.load_arrays("images")
    ids, held_out_ids = recorded["ids"].tolist(), recorded["held_out_ids"].tolist()
    assert (len(ids), len(held_out_ids)) == (154, 16)
    assert sorted(ids + held_out_ids) == list(range(170))
    images = bytes_of(load_images(dataset, root=tmp_path / "data", image_size=8).images)
    assert trained_on <= {images[i] for i in ids}
    assert len(trained_on) > 144  # nine batches of 16 to an epoch, and others wait each time
    assert not trained_on & {images[i] for i in held_out_ids}
    assert len(readings_of(run)) == 4
    rows, unseen = kept_out(config)
    assert (rows.tolist(), unseen.ids.tolist()) == (ids, held_out_ids)  # the same for the same seed
    assert kept_out(replace(config, seed=1))[1].ids.tolist() != held_out_ids


@pytest.mark.parametrize(
    ("count", "unseen"), [(339, 16), (340, 17), (2560, 128), (5119, 255), (5120, 256), (9000, 256)]
)
def test_a_twentieth_is_kept_out_at_least_16_and_at_most_256(count, unseen):
    blank = torch.zeros(1, 3, 2, 2, dtype=torch.uint8).expand(count, 3, 2, 2)
    ids = torch.arange(count) * 3  # positions in a set of which this is a part
    images = ImageSet(blank, torch.zeros(count, dtype=torch.int64), ["all"], ids)
    rows, others = keep_out(RunConfig(**{**TINY, "dataset": "caltech101"}), images)
    assert len(others) == unseen
    assert sorted(ids[rows].tolist() + others.ids.tolist()) == ids.tolist()


def test_training_on_the_test_split_keeps_out_a_part_of_it(tmp_path):
    config = RunConfig(**{**TINY, "limit_images": 300, "epochs": 1}, split="test")
    recorded = train(config, tmp_path).load_arrays("images")
    assert (len(recorded["ids"]), len(recorded["held_out_ids"])) == (284, 16)
    assert not set(recorded["ids"].tolist()) & set(recorded["held_out_ids"].tolist())


@pytest.mark.parametrize(("count", "unseen", "read"), [(19, 1, False), (159, 15, False), (160, 16, True)])
def test_fewer_than_16_others_give_no_reading_and_training_goes_on(tmp_path, count, unseen, read):
    config = of_folder(write_folder(tmp_path / "data", count), epochs=1)
    run = train(config, tmp_path / "run")
    assert run.finished
    assert len(readings_of(run)) == 2 * read
    assert ("alarms" in run.summary) == read
    assert len(run.load_arrays("images")["held_out_ids"]) == unseen


def test_a_batch_is_filled_by_what_is_left_to_train_on(tmp_path):
    root = write_folder(tmp_path / "data", 40)
    assert len(kept_out(of_folder(root, batch_size=36))[0]) == 36
    with pytest.raises(ValueError, match=r"batch_size: .*36 images.*got 37"):
        train(of_folder(root, batch_size=37), tmp_path / "run")


# Alarms of real trainings.


def test_a_model_that_does_not_move_rings_chance_and_says_so_once(few, tmp_path, capsys):
    run = train(RunConfig(**TINY, learning_rate=0.0), tmp_path)
    printed, alarms = capsys.readouterr().out, run.summary["alarms"]
    assert {"chance", "learning rate"} <= set(alarms)
    assert (alarms["chance"]["first_epoch"], alarms["chance"]["last_epoch"]) == (1, 4)
    last = run.metrics("epoch")[-1]["loss"]
    assert f"{last:.3f}" in alarms["chance"]["text"]  # the text is the last one
    assert printed.count("ALARM after epoch 1: The loss is that of chance") == 1
    assert printed.count("ALARM after epoch 1: The learning rate is far from the rule: 0,") == 1
    assert printed.count("ALARM") == len(alarms)


@pytest.mark.parametrize(("epochs", "first"), [(1, 1), (10, 1), (11, 2), (20, 2), (25, 3)])
def test_none_rings_before_a_tenth_of_the_epochs_is_over(tmp_path, capsys, epochs, first):
    config = RunConfig(**{**TINY, "limit_images": 16, "epochs": epochs}, learning_rate=0.0)
    run, held_out, model = Run.start(tmp_path, config), HeldOut(some_images(16), config), build("group")
    held_out.watch(model, run, step=0, epochs=0)
    for done in range(1, min(epochs, 4) + 1):
        assert run.summary.get("alarms", {}) == {} or done > first
        held_out.watch(model, run, step=done, epochs=done, loss=config.chance_loss)
    assert run.summary["alarms"]["chance"]["first_epoch"] == first
    assert f"ALARM after epoch {first}:" in capsys.readouterr().out
    assert [record["epochs"] for record in run.metrics("health")] == list(range(min(epochs, 4) + 1))


def test_a_long_training_is_silent_while_it_warms_up(few, tmp_path, monkeypatch, capsys):
    config = RunConfig(**{**TINY, "limit_images": 16, "epochs": 20}, learning_rate=0.0)
    train_until(monkeypatch, config, tmp_path, HeldOut, "watch", 4)  # before the first epoch and after two more
    assert {alarm["first_epoch"] for alarm in Run.open(tmp_path).summary["alarms"].values()} == {2}
    printed = capsys.readouterr().out
    assert "ALARM after epoch 2:" in printed
    assert "ALARM after epoch 1:" not in printed


def test_an_absurd_learning_rate_rings_non_finite_with_its_remedy(few, tmp_path, capsys):
    with pytest.raises(FloatingPointError):
        train(RunConfig(**TINY, learning_rate=1e20), tmp_path)
    alarm = Run.open(tmp_path).summary["alarms"]["non-finite"]
    assert "learning_rate" in alarm["text"]
    assert alarm["first_epoch"] == alarm["last_epoch"] == 0  # whole epochs done
    assert capsys.readouterr().out.count("ALARM") == 1


def test_a_new_start_does_not_keep_the_alarms_of_one_that_left_nothing(few, tmp_path):
    with pytest.raises(FloatingPointError):
        train(RunConfig(**TINY, learning_rate=1e20), tmp_path)
    Run.open(tmp_path).add_to_summary(alarms={"of before": {}})
    assert Run.start(tmp_path, RunConfig(**TINY, learning_rate=1e20)).summary == {}  # no checkpoint: all is done again


def test_an_embedding_that_is_not_finite_is_recorded_and_rings(tmp_path, capsys):
    config = RunConfig(**TINY)
    run, row = Run.start(tmp_path, config), torch.tensor([[1.0, math.inf]])
    HeldOut(some_images(16), config).watch(Fixed(row), run, step=3, epochs=1, loss=2.0)
    assert readings_of(run) == [{"kind": "health", "step": 3, "epochs": 1, "finite": False}]
    assert list(run.summary["alarms"]) == ["non-finite"]
    assert "ALARM after epoch 1: An embedding is not finite" in capsys.readouterr().out


def test_of_the_held_out_images_is_seen_what_evaluation_sees():
    config, images = RunConfig(**TINY, store_size=20, resize="crop"), torch.randint(0, 256, (16, 3, 20, 20)).byte()
    model = SimCLR(build_encoder("convnet", norm="group", image_size=16))
    h = embed(model.encoder, images[:, :, 2:18, 2:18])
    expected = color_reading(h, palettes(images))
    read = HeldOut(images, config).read(model)
    assert {name: read[name] for name in expected} == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("images", "rings"),
    [
        (torch.zeros(24, 3, 32, 32).byte(), True),
        ((torch.rand(24, 3, 32, 32) * 16).byte(), True),  # black: 12 bits read as 16
        (torch.tensor([200, 30, 90])[:, None, None].expand(24, 3, 32, 32).byte(), True),  # of one colour
        (torch.cat([torch.zeros(11, 3, 32, 32).byte(), some_images(13)]), False),  # more than half are pictures
        (torch.cat([torch.zeros(13, 3, 32, 32).byte(), some_images(11)]), True),
        ((some_images() / 6).byte(), False),  # dark, but there is something
        (some_images(), False),
    ],
)
@pytest.mark.parametrize("held_out", [True, False])  # else there are too few to read health on
def test_images_of_one_colour_ring_at_once(tmp_path, capsys, images, rings, held_out):
    run = Run.start(tmp_path, RunConfig(**{**TINY, "epochs": 40}, learning_rate=0.01))
    whole = ImageSet(images, torch.zeros(24, dtype=torch.int64), ["a"], torch.arange(24))
    found = hold_out(run, whole, whole if held_out else whole.subset([]))
    assert (found is not None) == held_out
    if found:
        found.watch(build("group"), run, step=1, epochs=1, loss=2.0)
    assert list(run.summary.get("alarms", {})) == ["one colour"] * rings
    assert capsys.readouterr().out.count("ALARM after epoch 0: Nearly all images are of one colour") == rings
    assert not rings or "16 bits" in run.summary["alarms"]["one colour"]["text"]


@pytest.mark.parametrize("count", [170, 60])  # enough for health, and too few
def test_a_folder_of_12_bits_in_16_comes_out_black_and_rings(tmp_path, capsys, count):
    rng = np.random.default_rng(0)
    for i in range(count):
        file = tmp_path / "data" / "ab"[i % 2] / f"{i:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 4096, (8, 8), np.uint16)).save(file)  # as from a microscope
    run = train(of_folder(tmp_path / "data", epochs=1), tmp_path / "run")
    assert run.summary["alarms"]["one colour"]["first_epoch"] == 0
    assert "ALARM after epoch 0: Nearly all images are of one colour, such as black" in capsys.readouterr().out


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_without_color_augmentation_color_rings(tmp_path, seed):
    config = {**TINY, **TELLING, "limit_images": 1024, "epochs": 1, "seed": seed}
    run = train(RunConfig(**config, color_strength=0.0), tmp_path)
    assert list(run.summary["alarms"]) == ["color"]
    (before, after), text = run.metrics("health"), run.summary["alarms"]["color"]["text"]
    assert before["color_agreement"] < 0.4 < 0.6 < after["color_agreement"]
    assert f"{after['color_agreement']:.0%}" in text
    assert f"{after['color_following']:.2f}" in text
    assert "Raise color_strength" in text


def test_a_healthy_run_rings_nothing(tmp_path, capsys):
    config = {**TINY, **TELLING, "limit_images": 1536, "epochs": 1, "image_size": 24}  # 16 pixels show little form
    run = train(RunConfig(**config, color_strength=1.0), tmp_path)
    assert run.summary["alarms"] == {}
    assert "ALARM" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_the_quickstart_with_color_augmentation_rings_nothing_at_other_seeds(tmp_path, seed):
    config = RunConfig(dataset="embedded", norm="group", blur=False, epochs=8, seed=seed, **TELLING)
    assert train(config, tmp_path).summary["alarms"] == {}


# Resuming.


RESUMED = RunConfig(**TINY, learning_rate=0.005)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    """A run that was never interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(health, "MOST", 16)
        return train(RESUMED, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (Learner, "step", 2),  # before any checkpoint
        (Learner, "step", 8),  # within an epoch
        (HeldOut, "watch", 4),  # between training and reading
        (Run, "save_checkpoint", 3),  # after a reading, which is then done again
    ],
)
def test_a_resumed_run_has_the_readings_and_alarms_of_one_never_interrupted(
    tmp_path, monkeypatch, few, whole, owner, name, call
):
    train_until(monkeypatch, RESUMED, tmp_path, owner, name, call)
    torch.manual_seed(123)  # what was drawn before must not matter
    resumed = train(RESUMED, tmp_path)
    assert [record["epochs"] for record in readings_of(whole)] == [0, 1, 2, 3, 4]
    assert readings_of(resumed) == readings_of(whole)
    assert resumed.summary["alarms"] == whole.summary["alarms"]
    assert "chance" in whole.summary["alarms"]  # there was something to keep
    assert resumed.snapshots == whole.snapshots


def test_alarms_of_the_first_part_stay_and_are_not_said_again(few, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(health, "alarms", lambda *_: {"chance": "As before.", "early": "Only at first."})
        train_until(monkeypatch, RESUMED, tmp_path, Learner, "step", 8)  # in the third epoch of three steps
    assert capsys.readouterr().out.count("ALARM") == 2
    alarms = train(RESUMED, tmp_path).summary["alarms"]
    assert alarms["early"] == {"first_epoch": 1, "last_epoch": 2, "text": "Only at first."}
    assert (alarms["chance"]["first_epoch"], alarms["chance"]["last_epoch"]) == (1, 4)
    assert alarms["chance"]["text"].startswith("The loss is that of chance")
    assert "The loss is that of chance" not in capsys.readouterr().out  # it was said before the interruption


def test_an_alarm_is_kept_from_its_first_epoch_to_its_last_and_printed_once(tmp_path, capsys):
    run = Run.start(tmp_path, RunConfig(**TINY))
    record_alarms(run, {}, epochs=1)
    assert run.summary["alarms"] == {}
    for epochs, ringing in ((2, {"a": "first a"}), (3, {"b": "first b"}), (5, {"a": "last a", "b": "last b"})):
        record_alarms(run, ringing, epochs)
    assert run.summary["alarms"] == {
        "a": {"first_epoch": 2, "last_epoch": 5, "text": "last a"},
        "b": {"first_epoch": 3, "last_epoch": 5, "text": "last b"},
    }
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if "ALARM" in line] == [
        "ALARM after epoch 2: first a",
        "ALARM after epoch 3: first b",
    ]


def test_a_run_does_not_go_on_with_other_held_out_images(tmp_path, monkeypatch):
    write_folder(tmp_path / "cifar10/train", 160)
    config = RunConfig(**{**TINY, "limit_images": None, "dataset": "cifar10", "image_size": 8}, data_root=str(tmp_path))
    train_until(monkeypatch, config, tmp_path / "run", Learner, "step", 12)  # nine steps to an epoch
    write_folder(tmp_path / "cifar10/test", 160, seed=1)
    with pytest.raises(ValueError, match=r"images: .*another run_dir"):
        train(config, tmp_path / "run")


def test_a_test_split_that_cannot_be_read_at_all_is_refused(tmp_path):
    write_folder(tmp_path / "cifar10/train", 200)
    (tmp_path / "cifar10/test/a").mkdir(parents=True)
    (tmp_path / "cifar10/test/a/broken.png").write_bytes(b"no image")
    config = RunConfig(**{**TINY, "limit_images": None, "dataset": "cifar10", "image_size": 8}, data_root=str(tmp_path))
    with pytest.raises(ValueError, match=r"broken.png"):
        kept_out(config)
    write_folder(tmp_path / "cifar10/test", 20, seed=1)
    assert len(kept_out(config)[1]) == 20  # one of them is broken, the others are enough


def test_the_last_snapshot_is_the_trained_model(few, tmp_path):
    run = train(RunConfig(**{**TINY, "epochs": 3}), tmp_path)
    assert run.snapshots == [1, 2, 3]  # a quarter, half and three quarters of three epochs, rounded up, and the end
    assert same(run.load_weights(3), weights(run))
    assert not same(run.load_weights(1), weights(run))
