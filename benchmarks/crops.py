"""Do random crops keep iteration 1 from passing raw pixels on Caltech-101? The same training under milder crops.

    python benchmarks/crops.py                   # the table of the README: 3 trainings of 30 minutes on one core each
    python benchmarks/crops.py --areas 1 --epochs 1 --limit 600                               # a look, in 2 minutes

The recipe of 01_alexnet_stl10 under heavy colour augmentation. A crop covers a share of the image uniform in
[area, 1]: the paper's is 0.08; 1 means no crops, only the squashed image and its mirror image. Crops alone differ.
precision@5 of 4,000 images among themselves and the colour readings, mean and deviation of three evaluation seeds.
"""

import argparse
import os
import statistics
from pathlib import Path

import torch

from simclr_lib import Run, RunConfig, augment, evaluate, scoring, train
from simclr_lib.device import device_name
from simclr_lib.environment import processor

SEEDS, SAMPLE = (0, 1, 2), 4000


def recipe(options: argparse.Namespace) -> RunConfig:
    return RunConfig(
        dataset="caltech101",
        limit_images=options.limit,
        image_size=96,
        color_strength=1.0,
        blur=True,
        arch="alexnet",
        stem="imagenet",
        norm="batch",
        optimizer="sgd",
        learning_rate=0.1,
        lr_scaling="none",
        momentum=0.0,
        weight_decay=1e-4,
        warmup_epochs=0,
        temperature=0.5,
        batch_size=256,
        epochs=options.epochs,
        seed=options.seed,
    )


def contend(area: float, config: RunConfig, root: Path) -> Run:
    """The run under crops of at least this share; one that was broken off goes on."""
    augment.AREA = (area, 1.0)
    return train(config, root / f"crops-{area:g}")


def rows(run: Run) -> dict[str, str]:
    """Of the table, by encoder: the trained one, and what it is compared with."""
    gallery = scoring.load_gallery(run.config)
    h = evaluate.embed_beside_baselines(run, gallery.images)
    found = scoring.score_retrieval(run, gallery, h, seeds=SEEDS, sample=SAMPLE)["scores"]
    colors = scoring.score_color(run, gallery, h, SEEDS)["scores"]
    values = {
        encoder: [found[encoder]["precision@5"], found[encoder]["map@R"], *colors[encoder].values()] for encoder in h
    }
    return {encoder: " | ".join(map(spread, of)) for encoder, of in values.items()}


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.pstdev(values):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--areas", type=float, nargs="+", default=[0.08, 0.5, 1.0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--limit", type=int, default=None, help="train on so many images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, default=Path("runs/crops"), help="where the runs go")
    options = parser.parse_args()
    print(f"{processor()}, {os.cpu_count()} cores, {device_name(torch.device('cpu'))}; torch {torch.__version__}")
    print("| encoder | precision@5 | MAP@R | colour agreement | following colour | loss |\n|---|---|---|---|---|---|")
    for area in options.areas:
        run = contend(area, recipe(options), options.root)
        table = rows(run)
        trained = table.pop("trained encoder")
        if area == options.areas[0]:
            print("".join(f"| {encoder} | {row} | |\n" for encoder, row in table.items()), end="")
        print(f"| crops of at least {area:g} | {trained} | {run.metrics('epoch')[-1]['loss']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
