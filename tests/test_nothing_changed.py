"""What five short trainings and one evaluation gave before the library was laid out in rooms: the same numbers since.

`recorded.json` was written by `python tests/test_nothing_changed.py` at the commit that added it. Everything runs in
float64, so that the order in which a processor adds shows only far behind the digits that are compared.
"""

import json
from pathlib import Path

import pytest

from simclr_lib import Run, RunConfig, embed, load_images, train
from simclr_lib.evaluation.classification import score_classification
from simclr_lib.evaluation.embeddings import load_encoder, load_model, raw_pixels
from simclr_lib.evaluation.scores import score_color, score_retrieval

RECORDED = Path(__file__).parent / "recorded.json"
SHARED = dict(precision="float64", split="test", limit_images=60, epochs=2, seed=3, device="cpu")  # too few for health
TRAININGS = {
    "convnet, SGD": dict(arch="convnet", norm="group", optimizer="sgd", batch_size=16, blur=False),
    "ResNet-18, LARS, micro-batches": dict(
        arch="resnet18", norm="group", optimizer="lars", learning_rate=1.0, lr_scaling="linear", batch_size=16,
        micro_batch_size=6, warmup_epochs=1, color_strength=0.5, blur=False,
    ),
    "AlexNet, blur": dict(arch="alexnet", stem="imagenet", image_size=64, batch_size=24, momentum=0.0),
    "ViT, AdamW": dict(
        arch="vit_tiny", stem="imagenet", optimizer="adamw", learning_rate=3e-4, batch_size=16, temperature=0.2
    ),
    "ResNet-18, BatchNorm": dict(arch="resnet18", stem="imagenet", optimizer="sgd", batch_size=16, color_strength=0.5),
}  # fmt: skip


def losses(name: str, run_dir: Path) -> list[float]:
    return [record["loss"] for record in train(RunConfig(**SHARED, **TRAININGS[name]), run_dir).metrics()]


def evaluation(run: Run) -> dict:
    """The scores of the convnet, of its start and of raw pixels; models in float64 agree on every machine."""
    bank, gallery = load_images("embedded", limit=200, seed=1), load_images("embedded", "test", limit=120, seed=2)
    encoders = {"untrained": load_encoder(run, epochs=0).double(), "trained": load_encoder(run).double()}
    bank_h, h = (
        {"pixels": raw_pixels(of.images)}
        | {name: embed(encoder, of.images.double() / 255) for name, encoder in encoders.items()}
        for of in (bank, gallery)
    )
    z = embed(load_model(run).double(), gallery.images.double() / 255)
    some = dict(seeds=(0, 1), sample=80)
    score_retrieval(run, gallery, h, k=3, **some)
    both = {"h": h["trained"], "z": z}
    score_retrieval(run, gallery, both, k=3, similarities=("cosine", "dot"), name="layers", **some)
    score_color(run, gallery, h, **some)
    score_classification(run, bank, gallery, {name: (bank_h[name], h[name]) for name in h})
    return {name: run.summary[name] for name in ("retrieval", "layers", "color", "classification")}


@pytest.fixture(scope="module")
def recorded() -> dict:
    return json.loads(RECORDED.read_text())


# Those of larger encoders take a minute each: `make test-slow`, before a release and after a change to training.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith(("ResNet", "ViT"))) for name in TRAININGS]
)
def test_every_loss_of_a_short_training_is_the_recorded_one(name, recorded, tmp_path):
    assert losses(name, tmp_path) == pytest.approx(recorded["losses"][name], rel=1e-12, abs=0)


def test_the_scores_of_an_evaluation_are_the_recorded_ones(recorded, tmp_path):
    run = train(RunConfig(**SHARED, **TRAININGS["convnet, SGD"]), tmp_path)
    found = json.loads(json.dumps(evaluation(run)))
    assert found.keys() == recorded["evaluation"].keys()
    for name, values in recorded["evaluation"].items():
        assert numbers(found[name]) == pytest.approx(numbers(values), rel=1e-12, abs=1e-12, nan_ok=True)


def numbers(values: object, path: str = "") -> dict[str, float]:
    """Every number in nested dictionaries and lists, by its path."""
    if isinstance(values, dict | list):
        items = values.items() if isinstance(values, dict) else enumerate(values)
        return {key: number for name, value in items for key, number in numbers(value, f"{path}/{name}").items()}
    return {path: values} if isinstance(values, int | float) else {}


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        values = {"losses": {name: losses(name, Path(folder) / str(i)) for i, name in enumerate(TRAININGS)}}
        values["evaluation"] = evaluation(Run.open(Path(folder) / "0"))
    RECORDED.write_text(json.dumps(values, indent=1) + "\n")
