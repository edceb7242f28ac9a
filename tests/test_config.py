"""RunConfig: every refusal, every derived value, the way to json and back."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from simclr_lib import load_images, model
from simclr_lib.config import MACHINE_FIELDS, RunConfig
from simclr_lib.engine.checks import CHOICES, SPLITS, STEMMED
from simclr_lib.layers import batch_norms

ROOT = Path(__file__).parents[1]
NAN, INF = math.nan, math.inf
FIELDS = [field.name for field in dataclasses.fields(RunConfig)]
CHOSEN = {name: choices for name, choices in CHOICES.items() if name in FIELDS}
REFUSED = {
    **{name: ["", "elsewhere", None, 1] for name in CHOSEN},
    "stem": ["", "elsewhere", 1],
    "crop_area": [None, 0.5, "ab", [0.5], (0.1, 0.5, 1), [0, 1], (0.6, 0.5), (0.5, 1.1), (-1, 1), (0.5, NAN), ("a", 1)],
    **{name: [0, -1, 2.0, "8", True, None, NAN] for name in ("image_size", "projection_dim", "epochs", "processes")},
    **{name: [0, -1, 2.0, "8", True, NAN] for name in ("store_size", "limit_images", "num_workers")},
    **{
        name: [-0.1, NAN, INF, "0.1", True, None]
        for name in ("learning_rate", "weight_decay", "warmup_epochs", "color_strength")
    },
    "batch_size": [1, 0, -2, 256.0, True, None],
    "micro_batch_size": [0, -1, 2.0, "all", True, NAN],
    **{name: [-0.1, 1, 1.5, NAN, "0.9", True, None] for name in ("momentum", "test_share")},
    "checkpoint_minutes": [0, -1, NAN, INF, "10", True, None],
    "temperature": [0, -0.5, NAN, INF, "0.5", True],
    "seed": [-1, 0.0, 1.0, "0", True, False, None],
    "blur": ["yes", 1, 0, None],
    "compile": ["no", 1, 0, None],
    "split": ["", 1],
    "device": ["", None, 0],
    **{name: [1, b"data", ["data"]] for name in ("data_root", "init_from")},
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
    test_share=0.2,
    crop_area=(0.2, 0.9),
    color_strength=0.5,
    blur=False,
    arch="resnet18",
    stem="imagenet",
    norm="group",
    projection_dim=64,
    init_from="runs/parent",
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
    checkpoint_minutes=5,
    seed=11,
)


def test_every_field_is_tried_here():
    assert set(REFUSED) == set(EVERY_FIELD) == set(FIELDS)
    assert not [name for name in FIELDS if EVERY_FIELD[name] == getattr(RunConfig(), name)]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
def test_a_value_out_of_range_is_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected ") as error:
        RunConfig(**{name: value})
    found = tuple(value) if isinstance(value, list) and name == "crop_area" else value
    assert str(error.value).endswith(f", got {found!r}")


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, choice) for name, choices in CHOSEN.items() for choice in choices]
    + [("image_size", 1), ("batch_size", 2), ("momentum", 0), ("learning_rate", 0), ("color_strength", 0.0)]
    + [("crop_area", (1, 1)), ("crop_area", (1e-3, 1.0)), ("seed", 2**63 - 1)]
    + [("temperature", 1e-3), ("temperature", 2), ("store_size", None), ("seed", 2**40), ("weight_decay", 0)],
)
def test_a_value_at_the_edge_of_its_range_is_taken(name, value):
    assert getattr(RunConfig(**{name: value}), name) == value


def test_what_may_be_chosen_is_what_the_others_take(tmp_path):
    for arch in STEMMED:  # the others, and every norm: see below
        for stem in CHOICES["stem"]:
            model.build_encoder(arch, stem=stem, image_size=32)
    for name in ("arch", "stem", "norm"):
        with pytest.raises(ValueError, match=f"^{name}: .*{', '.join(CHOICES[name])}.*'other'"):
            model.build_encoder(**({"arch": "convnet"} | {name: "other"}))
    for name in ("resize", "unreadable"):
        for choice in CHOICES[name]:
            assert len(load_images("embedded", "test", **{name: choice}, limit=2)) == 2
        with pytest.raises(ValueError, match=f"^{name}: .*{', '.join(CHOICES[name])}.*'other'"):
            load_images("embedded", "test", **{name: "other"})
    assert CHOICES["dataset"] == tuple(SPLITS)
    for dataset, splits in SPLITS.items():
        with pytest.raises(ValueError, match=f"^split of {dataset}: .*{', '.join(splits).replace('+', '.')}"):
            load_images(dataset, "other", root=tmp_path)


@pytest.mark.parametrize(
    ("dataset", "split"),
    [("stl10", "unlabeled"), *((name, "train") for name in ("embedded", "cifar10", "caltech101", "folder"))],
)
def test_training_is_on_the_unlabelled_images_where_there_are_some(dataset, split):
    assert RunConfig(dataset=dataset).split == split
    assert RunConfig(dataset=dataset, split="test").split == "test"


@pytest.mark.parametrize(
    ("arch", "image_size", "stem"),
    [
        *((arch, 63, "cifar") for arch in STEMMED),
        *((arch, 64, "imagenet") for arch in STEMMED),
        *((arch, 32, "imagenet") for arch in ("alexnet", "vit_tiny", "vit_small")),  # which have no choice
    ],
)
def test_the_stem_follows_from_the_image_size_unless_given(arch, image_size, stem):
    assert RunConfig(arch=arch, image_size=image_size).stem == stem
    for given in CHOICES["stem"]:
        assert RunConfig(arch=arch, image_size=image_size, stem=given).stem == given


def test_what_a_rule_decides_is_recorded():
    config = RunConfig(dataset="stl10", image_size=96, crop_area=[0.5, 1])
    assert (config.split, config.stem, config.crop_area) == ("unlabeled", "imagenet", (0.5, 1))
    assert config == RunConfig(dataset="stl10", image_size=96, split="unlabeled", stem="imagenet", crop_area=(0.5, 1.0))
    assert {name: config.to_dict()[name] for name in ("split", "stem")} == {"split": "unlabeled", "stem": "imagenet"}
    assert RunConfig().differences(RunConfig(crop_area=[0.08, 1.0])) == {}
    assert RunConfig().differences(RunConfig(crop_area=[0.5, 1.0])) == {"crop_area": ((0.08, 1.0), (0.5, 1.0))}


NEWER = {"crop_area": [0.08, 1.0], "test_share": 0.0, "init_from": None, "checkpoint_minutes": 10.0}


@pytest.mark.parametrize("path", sorted(ROOT.glob("runs/**/config.json")), ids=lambda path: path.parent.name)
def test_a_configuration_of_an_older_version_opens_as_what_it_was(path):
    values = json.loads(path.read_text())
    config = RunConfig.from_dict(values)
    assert json.loads(json.dumps(config.to_dict())) == {**NEWER, **values}
    again = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert config.differences(again) == {}
    assert "epochs" in config.differences(dataclasses.replace(config, epochs=config.epochs + 1))


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
    expected = dict(image_size=128, resize="crop", unreadable="skip", num_workers=3, limit=500, seed=11, test_share=0.2)
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
    assert set(differences) == set(EVERY_FIELD) - set(MACHINE_FIELDS)
    machine = {"data_root", "device", "num_workers", "processes", "compile", "checkpoint_minutes"}
    assert set(MACHINE_FIELDS) == machine
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


def test_a_share_that_is_held_out_is_not_trained_on():
    with pytest.raises(ValueError, match=r"^split: expected train, with test_share, got 'all'$"):
        RunConfig(dataset="folder", split="all", test_share=0.2)
    assert RunConfig(dataset="folder", split="all").split == "all"


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


def kernel(*cells: str, **names: object) -> dict:
    """A kernel's namespace after these cells: what they assign, and `names` that others left."""
    namespace = {**names}
    for cell in cells:
        exec(cell, namespace)
    return {**namespace, "In": ["", *cells, "config = RunConfig.from_parameters(globals())"]}


PARAMETERS = 'epochs = 3  # passes\nbatch_size = 64\nneighbors_k = 5\nrun_dir = ""'


def test_the_fields_among_a_notebook_s_parameters_become_the_configuration():
    config = RunConfig.from_parameters(kernel(PARAMETERS, momentum=0.5))
    assert config == RunConfig(epochs=3, batch_size=64)  # a name that is no parameter is not taken


def test_what_papermill_gives_beats_what_the_notebook_settles():
    given = '# Parameters\nepochs = 4\nunreadable = "skip"\n'
    settled = dict(dataset="cifar10", unreadable="refuse")
    assert RunConfig.from_parameters(kernel(PARAMETERS), **settled) == RunConfig(
        epochs=3, batch_size=64, dataset="cifar10", unreadable="refuse"
    )
    assert RunConfig.from_parameters(kernel(PARAMETERS, given), **settled) == RunConfig(
        epochs=4, batch_size=64, dataset="cifar10", unreadable="skip"
    )


@pytest.mark.parametrize(
    ("given", "name"),
    [("epocs = 4", "epocs"), ("epochs = 0", "epochs"), ("neighbors_k = 5.0", "neighbors_k"), ("norm = 3", "norm")],
)
def test_what_papermill_gives_is_checked_by_name(given, name):
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        RunConfig.from_parameters(kernel(PARAMETERS, f"# Parameters\n{given}\n"))


def test_the_globals_of_a_script_are_read_too():
    assert RunConfig.from_parameters({"epochs": 3, "json": json, "run_dir": ""}, blur=False) == RunConfig(
        epochs=3, blur=False
    )
