"""The health of a run: read after every epoch on held-out images, which training never sees; alarms in plain words.

M held-out images, S x S pixels of a view.
"""

import math
import time
from contextlib import suppress

import torch
from torch import Tensor

from simclr_lib import Augment, ImageSet, Run, RunConfig, SimCLR, load_images
from simclr_lib.data.sets import scored_split
from simclr_lib.engine.checks import require
from simclr_lib.engine.processes import rank
from simclr_lib.engine.progress import say
from simclr_lib.engine.seeds import generator_at
from simclr_lib.evaluation.embeddings import embed, embed_as_trained, load_gallery
from simclr_lib.evaluation.readings import contrast, palettes, reading

LEAST, MOST = 16, 256  # held-out images: fewer say nothing, more take time from training
# Learning rates at batch 256, see `alarms` for other batches: Goyal et al. 2017, arXiv:1706.02677; SimCLR, section 2.2;
# Chen, Xie and He 2021, arXiv:2104.02057 (MoCo v3), section 4.
RATE_RULE = {"sgd": 0.1, "lars": 0.3, "adamw": 1.5e-4}
ALARMS = {
    "one colour": "Nearly all images are of one colour, such as black: the pixels of half of them deviate by less than "
    "2 of 255, or none reaches 32. Grey of 16 bits is read from 0 to 65,535: scale files of fewer bits first.",
    "chance": "The loss is that of chance: {loss:.3f}, where guessing has {config.chance_loss:.3f} and telling all "
    "apart {best:.2f}. Check that images and views differ; try another learning_rate, or a longer warm-up.",
    "collapse": "The projections collapsed: their spread is {deviation:.3f} of an even one, in {effective_rank_z:.1f} "
    "of their dimensions. Lower learning_rate or lengthen warmup_epochs; normalise (norm), or train larger batches.",
    "alike": "All similarities are alike: {positive_mean:.3f} between two views of an image, {other_mean:.3f} between "
    "different images. Nothing is told apart: weaken the augmentation, train longer, or lower temperature.",
    "color": "Colour is a shortcut: neighbours are {color_agreement:.0%} of the way from random images to the nearest "
    "by colour; similarity follows it, with rank correlation {color_following:.2f}. Raise color_strength (paper: 1).",
    "learning rate": "The learning rate is far from the rule: {rate:g}, where {config.optimizer} at batch "
    "{config.batch_size:,} has {rule:g} ({base:g} x {scale}). Set learning_rate, or lr_scaling.",
}


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
        """Log a reading after `step` steps and `epochs` epochs, and past the warm-up, a tenth of these, its alarms.

        loss: mean of the last epoch's; None before training.
        """
        start = time.perf_counter()
        values = self.read(model)
        run.log("health", step=step, epochs=epochs, **values, seconds=time.perf_counter() - start)
        warm = loss is not None and 10 * epochs >= self.config.epochs
        record_alarms(run, alarms(values, loss, self.config) if warm else {}, epochs)


def hold_out(run: Run, images: ImageSet, unseen: ImageSet) -> HeldOut | None:
    """What health is read on, by the first process, where enough images are `unseen`; records what these, or else the
    `images` that are trained on, ring by themselves."""
    some = unseen.images if len(unseen) else images.images[:MOST]
    if contrast(some) < 2 or some.max() < 32:
        record_alarms(run, {"one colour": ALARMS["one colour"]}, 0)
    return HeldOut(unseen.images, run.config) if rank() == 0 and len(unseen) >= LEAST else None


def alarms(reading: dict, loss: float, config: RunConfig) -> dict[str, str]:
    """What is wrong, in plain words with the figure and the likely remedy: name of the alarm -> its text.

    reading: of `reading`. loss: mean of the last epoch's. A network at its start may well ring some: call this once the
    warm-up is over.
    """
    if not reading["finite"] or not math.isfinite(loss):
        what = "The loss" if reading["finite"] else "An embedding"
        return {"non-finite": f"{what} is not finite. Lower learning_rate, or lengthen warmup_epochs."}
    chance, rate, base = config.chance_loss, config.actual_learning_rate, RATE_RULE[config.optimizer]
    best = math.log1p(config.negatives * math.exp(-1 / config.actual_temperature))  # positives at 1, all else at 0
    batches, scale = config.batch_size / 256, "batch / 256"
    if config.lr_scaling == "sqrt":  # SimCLR, appendix B.1, for small batches
        batches, scale = math.sqrt(batches), f"sqrt({scale})"
    rule = base * batches
    rings = {
        "chance": chance - loss < 0.02 * (chance - best),
        "collapse": reading["deviation"] < 0.1 or reading["effective_rank_z"] < 2,
        "alike": reading["positive_mean"] - reading["other_mean"] < 0.05,
        "color": reading["color_agreement"] > 0.5 and reading["color_following"] > 0.5,
        "learning rate": not rule / 10 <= rate <= rule * 10,
    }
    figures = reading | dict(config=config, loss=loss, best=best, rate=rate, rule=rule, base=base, scale=scale)
    return {name: ALARMS[name].format(**figures) for name in rings if rings[name]}


def record_alarms(run: Run, ringing: dict[str, str], epochs: int) -> None:
    """Keep in the summary which alarms rang, from which epoch to which, with their last text; print each new one."""
    known = run.summary.get("alarms", {})
    for name, text in ringing.items():
        if name not in known and rank() == 0:
            say(f"ALARM after epoch {epochs}: {text}")
        known.setdefault(name, {"first_epoch": epochs}).update(last_epoch=epochs, text=text)
    run.add_to_summary(alarms=known)


def load_training_images(config: RunConfig, **options: object) -> ImageSet:
    """The images that `config` names; training takes those of them that `keep_out` leaves.

    options: of `load_images`, in the place of the configuration's.
    """
    named = {"name": config.dataset, "split": config.split, "root": config.data_root}
    return load_images(**named | config.image_options | options)


def keep_out(config: RunConfig, images: ImageSet) -> tuple[Tensor, ImageSet]:
    """Which of `images` are trained on, by position, and at most 256 held-out ones, on which health is read.

    The held-out images are of the split that is scored where one is there, else a seeded part of `images`: a twentieth,
    but at least 16, and at most a tenth of fewer than 160 images. A tenth of many would make health cost more than 5%
    of the training time.

    Raises:
        ValueError: where those to train on do not fill one batch, and where a test split is there but cannot be read.
    """
    source, kept = images, min(MOST, max(len(images) // 20, min(LEAST, len(images) // 10)))
    if (own := scored_split(config.dataset, config.data_root, config.test_share)) and config.split not in (own, "all"):
        with suppress(FileNotFoundError):  # the test split need not be there
            source, kept = load_gallery(config, unreadable="skip", download=False), MOST
    order = torch.randperm(len(source), generator=generator_at(config.seed, 3))
    rows = order[kept:].sort().values if source is images else torch.arange(len(images))
    n, size, where = len(rows), config.batch_size, f"{config.dataset} ({config.split})"
    require(n >= 2, "images", "at least 2 to tell apart", f"{n} of {where}", "add some")
    require(n >= size, "batch_size", f"at most the {n:,} images to train on of {where}", size, "lower it")
    return rows, source.subset(order[:kept].sort().values)
