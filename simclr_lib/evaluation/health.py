"""The health of a run: read after every epoch on held-out images, which training never sees.

M held-out images, S x S pixels of a view.
"""

import time

import torch
from torch import Tensor

from simclr_lib.augment import Augment
from simclr_lib.config import RunConfig
from simclr_lib.data.sets import ImageSet, load_images
from simclr_lib.engine.checks import SPLITS, require
from simclr_lib.engine.processes import rank
from simclr_lib.engine.progress import say
from simclr_lib.engine.seeds import generator_at
from simclr_lib.evaluation.embeddings import embed, embed_as_trained, load_gallery
from simclr_lib.evaluation.readings import alarms, palettes, reading
from simclr_lib.model import SimCLR
from simclr_lib.run import Run

LEAST, MOST = 16, 256  # held-out images: fewer say nothing, more take time from training


class HeldOut:
    """Images (M, 3, H, W) uint8, and two views of each, drawn once: any change of a reading is the model's."""

    def __init__(self, images: Tensor, config: RunConfig) -> None:
        self.images, self.palettes, self.config = images, palettes(images), config
        augment = Augment(**{**config.view_options, "compile": False})
        generator = torch.Generator().manual_seed(config.seed)
        self.views = [(augment(images, generator) * 255).round().byte() for _ in range(2)]  # a quarter of the memory

    def read(self, model: SimCLR) -> dict:
        """The numbers of `readings.reading`."""
        z_a, z_b = (embed(model, views) for views in self.views)
        h = embed_as_trained(self.config, model.encoder, self.images)
        return reading(z_a, z_b, h, self.palettes)

    def watch(self, model: SimCLR, run: Run, step: int, epochs: int, loss: float | None = None) -> None:
        """Log a reading after `step` steps and `epochs` epochs; past the warm-up, a tenth of them, record its alarms.

        loss: mean of the last epoch's; None before training.
        """
        start = time.perf_counter()
        values = self.read(model)
        run.log("health", step=step, epochs=epochs, **values, seconds=time.perf_counter() - start)
        if loss is not None and 10 * epochs >= self.config.epochs:
            record_alarms(run, alarms(values, loss, self.config), epochs)


def record_alarms(run: Run, ringing: dict[str, str], epochs: int) -> None:
    """Keep in the summary which alarms rang, from which epoch to which, with their last text; print each new one."""
    known = run.summary.get("alarms", {})
    for name, text in ringing.items():
        if name not in known and rank() == 0:
            say(f"ALARM after epoch {epochs}: {text}")
        known.setdefault(name, {"first_epoch": epochs}).update(last_epoch=epochs, text=text)
    run.add_to_summary(alarms=known)


def load_training_images(config: RunConfig) -> ImageSet:
    """The images that `config` names; training takes those of them that `keep_out` leaves."""
    return load_images(config.dataset, config.split, config.data_root, **config.image_options)


def keep_out(config: RunConfig, images: ImageSet) -> tuple[Tensor, ImageSet]:
    """Which of `images` are trained on, by position, and at most 256 held-out ones, on which health is read.

    The held-out images are of the test split where there is one on disk, else a seeded twentieth of `images`: at least
    16, or, below 160 images, a tenth. Of a tenth, a reading every epoch would take more than 5% of the training time.

    Raises:
        ValueError: where those to train on do not fill one batch, and where a test split is there but cannot be read.
    """
    source, kept = _test_images(config), MOST
    if source is None:
        source, kept = images, min(MOST, max(len(images) // 20, min(LEAST, len(images) // 10)))
    order = torch.randperm(len(source), generator=generator_at(config.seed, 3))
    rows = order[kept:].sort().values if source is images else torch.arange(len(images))
    n, size, where = len(rows), config.batch_size, f"{config.dataset} ({config.split})"
    require(n >= 2, "images", "at least 2 to tell apart", f"{n} of {where}", "add some")
    require(n >= size, "batch_size", f"at most the {n:,} images to train on of {where}", size, "lower it")
    return rows, source.subset(order[:kept].sort().values)


def _test_images(config: RunConfig) -> ImageSet | None:
    if "test" not in SPLITS[config.dataset] or config.split == "test":
        return None
    try:
        return load_gallery(config, unreadable="skip", download=False)  # none of these images has to be there
    except FileNotFoundError:
        return None
