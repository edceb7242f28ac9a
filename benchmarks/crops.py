"""Do random crops hold iteration 1 back on Caltech-101? The same training under milder crops.

    OMP_NUM_THREADS=1 python benchmarks/crops.py            # the table of the README, half an hour a row on one core
    python benchmarks/crops.py --areas 1 --epochs 1 --limit 600                                 # a look, in 2 minutes

The recipe of 01_alexnet_stl10 under heavy colour augmentation. The share of an image that a crop covers is drawn from
[area, 1], as far as the crop fits: the paper's area is 0.08; 1 means no crops, only the squashed image and its mirror
image. Crops alone differ. precision@5 and MAP@R of 4,000 images among themselves and the colour readings, mean and
deviation of three evaluation seeds.

The area is no field of RunConfig: it is set in this process, and only from here can such a run go on.
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
    images = config.limit_images or "all"
    run = train(config, root / f"area-{area:g}-{config.epochs}-epochs-{images}-images-seed-{config.seed}")
    run.add_to_summary(crop_area=augment.AREA)
    return run


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
