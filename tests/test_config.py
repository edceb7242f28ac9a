"""RunConfig: every refusal, every derived value, the way to json and back."""

import dataclasses
import json
import math

import pytest

from simclr_lib import model
from simclr_lib.batch_norm import batch_norms
from simclr_lib.config import CHOICES, MACHINE_FIELDS, RunConfig

NAN, INF = math.nan, math.inf
REFUSED = {
    **{name: ["", "elsewhere", None, 1] for name in CHOICES},
    **{name: [0, -1, 2.0, "8", True, None, NAN] for name in ("image_size", "projection_dim", "epochs", "processes")},
    **{name: [0, -1, 2.0, "8", True, NAN] for name in ("store_size", "limit_images", "num_workers")},
    **{
        name: [-0.1, NAN, INF, "0.1", True, None]
        for name in ("learning_rate", "weight_decay", "warmup_epochs", "color_strength")
    },
    "batch_size": [1, 0, -2, 256.0, True, None],
    "micro_batch_size": [0, -1, 2.0, "all", True, NAN],
    "momentum": [-0.1, 1, 1.5, NAN, "0.9", True, None],
    "temperature": [0, -0.5, NAN, INF, "0.5", True],
    "seed": [-1, 0.0, 1.0, "0", True, False, None],
    "blur": ["yes", 1, 0, None],
    "compile": ["no", 1, 0, None],
    "split": ["", None, 1],
    "device": ["", None, 0],
    "data_root": [1, b"data", ["data"]],
}
EVERY_FIELD = dict(  # a value other than the default for each
    dataset="folder",
    data_root="/data",
    split="test",
    image_size=96,
    store_size=128,
    resize="crop",
    unreadable="skip",
    limit_images=500,
    color_strength=0.5,
    blur=False,
    arch="resnet18",
    stem="imagenet",
    norm="group",
    projection_dim=64,
    optimizer="lars",
    learning_rate=0.3,
    lr_scaling="sqrt",
    weight_decay=1e-6,
    momentum=0.8,
    temperature=0.07,
    batch_size=512,
    micro_batch_size=64,
    epochs=1000,
    warmup_epochs=7.5,
    precision="bfloat16",
    compile=True,
    device="cuda",
    num_workers=3,
    processes=4,
    seed=11,
)


def test_every_field_is_tried_here():
    names = {field.name for field in dataclasses.fields(RunConfig)}
    assert set(REFUSED) == set(EVERY_FIELD) == names
    assert not [name for name in names if EVERY_FIELD[name] == getattr(RunConfig(), name)]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
def test_a_value_out_of_range_is_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected ") as error:
        RunConfig(**{name: value})
    assert str(error.value).endswith(f", got {value!r}")


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, choice) for name, choices in CHOICES.items() for choice in choices]
    + [("image_size", 1), ("batch_size", 2), ("momentum", 0), ("learning_rate", 0), ("color_strength", 0.0)]
    + [("temperature", 1e-3), ("temperature", 2), ("store_size", None), ("seed", 2**40), ("weight_decay", 0)],
)
def test_a_value_at_the_edge_of_its_range_is_taken(name, value):
    assert getattr(RunConfig(**{name: value}), name) == value


def test_the_choices_of_the_model_are_those_it_can_build():
    assert (CHOICES["arch"], CHOICES["stem"], CHOICES["norm"]) == (model.ARCHS, model.STEMS, model.NORMS)


def test_it_is_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().epochs = 3
    with pytest.raises(TypeError):
        RunConfig("cifar10")


@pytest.mark.parametrize(
    ("scaling", "batch", "expected"),
    [("none", 512, 0.3), ("linear", 512, 0.6), ("linear", 64, 0.075), ("linear", 256, 0.3), ("sqrt", 1024, 9.6)],
)
def test_the_learning_rate_is_scaled_to_the_batch(scaling, batch, expected):
    config = RunConfig(learning_rate=0.3, lr_scaling=scaling, batch_size=batch)
    assert config.actual_learning_rate == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("epochs", "expected"), [(1, 0.5), (299, 0.5), (300, 0.1), (1000, 0.1)])
def test_the_temperature_follows_the_rule_unless_given(epochs, expected):
    assert RunConfig(epochs=epochs).actual_temperature == expected
    assert RunConfig(epochs=epochs, temperature=0.2).actual_temperature == 0.2


@pytest.mark.parametrize(
    ("epochs", "warmup_epochs", "images", "expected"),
    [
        (100, 10, 1000, 100),  # ten steps an epoch; exactly a tenth
        (100, 5, 1000, 50),
        (100, 30, 1000, 100),  # capped
        (1, 10, 1000, 1),
        (1, 10, 999, 0),  # nine steps in all
        (7, 10, 9000, 63),  # a tenth of 630 in whole steps, although 7 / 10 * 90 < 63 in floating point
        (20, 0.5, 1050, 5),
        (20, 0, 1000, 0),
    ],
)
def test_the_warm_up_is_capped_at_a_tenth_of_the_steps(epochs, warmup_epochs, images, expected):
    config = RunConfig(epochs=epochs, warmup_epochs=warmup_epochs, batch_size=100)
    assert config.warmup_steps(images) == expected


@pytest.mark.parametrize(("images", "steps"), [(99, 0), (100, 1), (199, 1), (200, 2)])
def test_only_whole_batches_are_steps(images, steps):
    assert RunConfig(batch_size=100).steps_per_epoch(images) == steps


@pytest.mark.parametrize(("batch", "negatives", "chance"), [(2, 2, 1.0986122886681098), (256, 510, 6.236369590203704)])
def test_negatives_and_chance_loss_follow_from_the_batch(batch, negatives, chance):
    config = RunConfig(batch_size=batch)
    assert config.negatives == negatives
    assert config.chance_loss == pytest.approx(chance, rel=1e-12)  # ln 3, ln 511


def test_images_are_kept_at_the_side_of_a_view_unless_given():
    assert RunConfig(image_size=96).actual_store_size == 96
    assert RunConfig(image_size=96, store_size=128).actual_store_size == 128
    expected = dict(image_size=128, resize="crop", unreadable="skip", num_workers=3, limit=500, seed=11)
    assert RunConfig(**EVERY_FIELD).image_options == expected


def test_the_encoder_options_build_an_encoder():
    config = RunConfig(**EVERY_FIELD)
    assert config.encoder_options == dict(arch="resnet18", stem="imagenet", norm="group", image_size=96)
    assert model.build_encoder(**config.encoder_options).embedding_dim == 512


@pytest.mark.parametrize("values", [{}, EVERY_FIELD])
def test_it_survives_json(values):
    config = RunConfig(**values)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False))) == config
    assert RunConfig.from_dict(config.to_dict()) == config
    assert set(config.to_dict()) == set(EVERY_FIELD)


def test_unknown_fields_are_refused_and_listed():
    with pytest.raises(ValueError, match=r"fields arch, batch_size, .*got 'batchsize, lr'"):
        RunConfig.from_dict({"lr": 0.1, "epochs": 3, "batchsize": 64})


@pytest.mark.parametrize("value", [[], None, "cifar10"])
def test_what_has_no_names_is_refused(value):
    with pytest.raises(ValueError, match=r"^configuration: expected an object of names and values, got "):
        RunConfig.from_dict(value)


def test_a_bad_value_from_a_file_is_refused():
    with pytest.raises(ValueError, match=r"^epochs: expected"):
        RunConfig.from_dict({"epochs": 2.0})


def test_differences_are_those_that_make_another_run():
    default, other = RunConfig(), RunConfig(**EVERY_FIELD)
    differences = default.differences(other)
    assert set(differences) == set(EVERY_FIELD) - {"data_root", "device", "num_workers", "processes", "compile"}
    assert set(MACHINE_FIELDS) == {"data_root", "device", "num_workers", "processes", "compile"}
    assert differences["epochs"] == (20, 1000)
    assert other.differences(default)["epochs"] == (1000, 20)
    assert default.differences(RunConfig()) == {}


@pytest.mark.parametrize("size", [8, "auto"])
def test_micro_batches_make_another_run_only_where_they_change_the_gradient(size):
    for norm, arch, differ in (("batch", "resnet18", True), ("group", "resnet18", False), ("batch", "alexnet", False)):
        whole = RunConfig(norm=norm, arch=arch)
        parts = dataclasses.replace(whole, micro_batch_size=size)
        assert bool(whole.differences(parts)) == differ
        assert bool(parts.differences(dataclasses.replace(parts, processes=2))) == differ
        assert not whole.differences(dataclasses.replace(whole, processes=2))


def test_a_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"^batch_size: expected a multiple of the 3 processes, got 256$"):
        RunConfig(processes=3)
    assert RunConfig(processes=3, batch_size=258, micro_batch_size=300).processes == 3


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("arch", CHOICES["arch"])
def test_which_encoders_normalise_over_the_batch(arch, norm):
    size = 64 if arch == "alexnet" else 32
    encoder = model.build_encoder(arch, norm=norm, image_size=size)
    assert RunConfig(arch=arch, norm=norm).has_batch_norm == bool(batch_norms(encoder))
