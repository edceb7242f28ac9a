"""The fixed probe: images that training never sees, on which the health of a model is read after every epoch.

N images of the probe, S x S pixels of a view.
"""

import time

import torch
from torch import Tensor
from tqdm import tqdm

from simclr_lib.augment import Augment
from simclr_lib.config import RunConfig
from simclr_lib.embedding import embed
from simclr_lib.health import alarms, palettes, reading, similarities
from simclr_lib.model import SimCLR
from simclr_lib.progress import say
from simclr_lib.record import Run

BINS = 40  # of the histograms of similarities, from -1 to 1


class Probe:
    """Images (N, 3, H, W) uint8, and two views of each, drawn once: any change of a reading is the model's."""

    def __init__(self, images: Tensor, config: RunConfig) -> None:
        self.images, self.config = images, config
        self.palettes = palettes(images)
        augment = Augment(config.image_size, config.color_strength, config.blur)
        generator = torch.Generator().manual_seed(config.seed)
        self.views = [(augment(images, generator) * 255).round().byte() for _ in range(2)]  # a quarter of the memory

    def read(self, model: SimCLR) -> dict:
        """The reading of `health`, and how many positive and other pairs lie in each bin of similarity."""
        z_a, z_b = (embed(model, views, progress=False) for views in self.views)
        size, center = self.config.image_size, self.config.seen_center
        h = embed(model.encoder, self.images, image_size=size, progress=False, center=center)
        values = reading(z_a, z_b, h, self.palettes)
        if values["finite"]:
            for name, pairs in zip(("positives", "others"), similarities(z_a, z_b), strict=True):
                values[name] = torch.histc(pairs.clamp(-1, 1), BINS, min=-1, max=1).int().tolist()
        return values

    def watch(self, model: SimCLR, run: Run, bar: tqdm, step: int, epochs: int, loss: float | None) -> None:
        """Log a reading after `step` steps and `epochs` epochs; past the warm-up, a tenth of them, sound the alarms.

        loss: mean of the last epoch's; None before training.
        """
        start = time.perf_counter()
        values = self.read(model)
        run.log("health", step=step, epochs=epochs, **values, seconds=time.perf_counter() - start)
        config = self.config
        if loss is not None and 10 * epochs >= config.epochs:
            ringing = alarms(
                values,
                loss=loss,
                batch_size=config.batch_size,
                temperature=config.actual_temperature,
                optimizer=config.optimizer,
                learning_rate=config.actual_learning_rate,
                lr_scaling=config.lr_scaling,
            )
            sound(run, bar, ringing, epochs)


def sound(run: Run, bar: tqdm, ringing: dict[str, str], epochs: int) -> None:
    """Keep in the summary which alarms rang, from which epoch to which, with their last text; say each new one."""
    known = run.summary.get("alarms", {})
    for name, text in ringing.items():
        if name not in known:
            say(bar, f"ALARM after epoch {epochs}: {text}")
        known[name] = {
            "first_epoch": known.get(name, {}).get("first_epoch", epochs),
            "last_epoch": epochs,
            "text": text,
        }
    run.add_to_summary(alarms=known)
