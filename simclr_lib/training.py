"""A training run: build the parts, loop over epochs and steps, record, resume."""

import math
import os
import time
import zlib

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from tqdm import tqdm

from simclr_lib.augment import Augment
from simclr_lib.config import RunConfig
from simclr_lib.datasets import ImageSet, load_images
from simclr_lib.device import choose_device, device_name, keep_freed_memory
from simclr_lib.environment import commit
from simclr_lib.lars import LARS, parameter_groups
from simclr_lib.model import SimCLR, build_encoder
from simclr_lib.progress import progress_bar
from simclr_lib.record import Run
from simclr_lib.schedule import warmup_cosine
from simclr_lib.step import simclr_step


def train(config: RunConfig, run_dir: str | os.PathLike) -> Run:
    """Train as `config` says, into `run_dir`; where that already holds a part of the same run, go on from there.

    Every random number comes from the seed and the place in training, so that on a CPU the same configuration gives
    the same run, and a resumed run is the run that was never interrupted. A finished run is returned as it is.

    Returns:
        The finished run, with checkpoint.pt and encoder.safetensors in it.

    Raises:
        ValueError: before training, for a configuration, data set or directory that cannot work, and for a directory
            that holds another run, or a part of this one on other images.
        FloatingPointError: at the first loss or weight that is not finite; the last good checkpoint stays.
    """
    trainer = Trainer(config)
    run = Run.start(run_dir, config, device_name(trainer.device))
    if run.finished:
        return run
    with run.recording_status():
        images = load_training_images(config)
        _record_images(run, images)
        trainer.fit(images, run)
        run.save_encoder(trainer.model.encoder.state_dict())
    return run


class Trainer:
    """The parts of one run, built from its configuration, and the loop over them."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.device = choose_device(config.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(config.seed)
        model = SimCLR(build_encoder(**config.encoder_options), config.projection_dim)
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.optimizer = build_optimizer(config, self.model)
        self.augment = Augment(config.image_size, config.color_strength, config.blur, compile=config.compile)

    def fit(self, images: ImageSet, run: Run) -> None:
        """Train to the last epoch, from the last checkpoint of `run` on, with a checkpoint after every epoch."""
        first = self._restore(run.load_checkpoint())
        batch, steps = self.config.batch_size, self.config.steps_per_epoch(len(images))
        total, done = self.config.epochs * steps * batch, first * steps * batch
        with progress_bar(total, "training", "images", initial=done) as bar:
            for epoch in range(first, self.config.epochs):
                self._run_epoch(epoch, images, run, bar)
                _require_finite(self.model.state_dict(), f"a weight after epoch {epoch + 1}")
                run.save_checkpoint(self._state(epoch + 1))

    def _run_epoch(self, epoch: int, images: ImageSet, run: Run, bar: tqdm) -> None:
        torch.manual_seed(generator_at(self.config.seed, 2, epoch).initial_seed())  # for dropout
        order = torch.randperm(len(images), generator=generator_at(self.config.seed, 0, epoch))
        steps = self.config.steps_per_epoch(len(images))
        losses, start = [], time.perf_counter()
        for i, batch in enumerate(order.split(self.config.batch_size)[:steps]):
            step = epoch * steps + i
            rate = self._set_learning_rate(step, len(images))
            loss = self._step(step, images.images[batch].to(self.device))
            run.log("step", step=step, epoch=epoch, loss=loss, learning_rate=rate)
            losses.append(loss)
            bar.set_postfix(step=step + 1, loss=f"{loss:.3f}", refresh=False)
            bar.update(len(batch))
        self._finish_epoch(epoch, step, losses, time.perf_counter() - start, run, bar)

    def _step(self, step: int, images: Tensor) -> float:
        """One optimizer step; its randomness follows from the seed and `step` alone."""
        generator = generator_at(self.config.seed, 1, step)
        temperature, precision = self.config.actual_temperature, self.config.precision
        loss = simclr_step(self.model, self.optimizer, self.augment, images, generator, temperature, precision)
        _require_finite({"loss": loss}, f"the loss at step {step}")
        return loss.item()

    def _set_learning_rate(self, step: int, images: int) -> float:
        total = self.config.epochs * self.config.steps_per_epoch(images)
        rate = self.config.actual_learning_rate * warmup_cosine(step, total, self.config.warmup_steps(images))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _finish_epoch(self, epoch: int, step: int, losses: list[float], seconds: float, run: Run, bar: tqdm) -> None:
        loss, speed = sum(losses) / len(losses), len(losses) * self.config.batch_size / seconds
        run.log("epoch", step=step, epoch=epoch, loss=loss, seconds=seconds, images_per_second=speed)
        epochs = self.config.epochs
        if (epoch + 1) % math.ceil(epochs / 20) == 0 or epoch + 1 == epochs:  # at most 20 lines in a report
            place = f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}"
            chance = self.config.chance_loss
            bar.write(f"{place}  loss {loss:.3f} (chance {chance:.3f})  {speed:,.0f} images/s  {seconds:,.0f} s")

    def _state(self, epochs_done: int) -> dict:
        return {
            "epochs_done": epochs_done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _restore(self, state: dict | None) -> int:
        """Take up `state`, if there is one; returns the number of epochs that are done."""
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        return state["epochs_done"]


def describe(config: RunConfig, images: ImageSet) -> str:
    """What follows from `config` and the images, for printing before training: a line each, with units."""
    _require_a_batch(config, images)
    steps, warmup, version = config.steps_per_epoch(len(images)), config.warmup_steps(len(images)), commit()
    rows = {
        "images": f"{len(images):,} of {config.dataset} ({config.split}), kept at {images.images.shape[-1]} px",
        "views": f"{config.image_size} px, colour strength {config.color_strength}, blur {config.blur}",
        "encoder": f"{config.arch}, {config.stem} stem, {config.norm} norm",
        "steps": f"{steps:,} an epoch, {steps * config.epochs:,} in all, {warmup:,} of warm-up",
        "learning rate": f"{config.actual_learning_rate:g} ({config.optimizer}, scaling {config.lr_scaling})",
        "temperature": f"{config.actual_temperature:g}",
        "negatives": f"{config.negatives:,} per anchor (batch {config.batch_size:,})",
        "chance loss": f"{config.chance_loss:.3f} = ln(2 x {config.batch_size} - 1)",
        "device": f"{device_name(choose_device(config.device))}, {config.precision}",
        "commit": f"{version['commit']}{' and uncommitted changes' if version['dirty'] else ''}",
    }
    return "\n".join(f"{name:14} {value}" for name, value in rows.items())


def load_training_images(config: RunConfig) -> ImageSet:
    """The images that `config` trains on. Raises ValueError where they do not fill one batch."""
    images = load_images(config.dataset, config.split, config.data_root, **config.image_options)
    _require_a_batch(config, images)
    return images


def build_optimizer(config: RunConfig, model: nn.Module) -> Optimizer:
    """SGD, LARS or AdamW over the same parameter groups: biases and normalisation are never decayed."""
    groups, lr, decay = parameter_groups(model), config.actual_learning_rate, config.weight_decay
    if config.optimizer == "lars":
        return LARS(groups, lr, momentum=config.momentum, weight_decay=decay)
    if config.optimizer == "adamw":
        return AdamW(groups, lr, weight_decay=decay)
    return SGD(groups, lr, momentum=config.momentum, weight_decay=decay)


def generator_at(seed: int, *place: int) -> torch.Generator:
    """The random numbers of one place in training, whatever was drawn before: the same when resumed."""
    state = np.random.SeedSequence((seed, *place)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def _record_images(run: Run, images: ImageSet) -> None:
    """Keep which images are trained on, by id and a checksum of a thousand of them; go on with no others."""
    sample = torch.linspace(0, len(images) - 1, min(len(images), 1000)).long()
    now = {"ids": images.ids.numpy(), "checksum": np.array(zlib.crc32(images.images[sample].numpy().tobytes()))}
    before = run.load_arrays("images")
    if run.begun and before and any(not np.array_equal(before[name], now[name]) for name in now):
        raise ValueError(
            f"images: expected the {len(before['ids']):,} that {run.path} was trained on, got {len(images):,} others; "
            "restore them (see data_root), or give another run_dir for another run"
        )
    run.save_arrays("images", **now)


def _require_a_batch(config: RunConfig, images: ImageSet) -> None:
    if len(images) < 2:
        raise ValueError(f"images: expected at least 2 to tell apart, got {len(images)} of {config.dataset}; add some")
    if len(images) < config.batch_size:
        raise ValueError(
            f"batch_size: expected at most the {len(images):,} images of {config.dataset} ({config.split}), "
            f"got {config.batch_size:,}; lower batch_size or give more images"
        )


def _require_finite(tensors: dict[str, Tensor], what: str) -> None:
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        raise FloatingPointError(
            f"expected finite numbers, but {what} is not ({', '.join(wrong[:3])}). "
            "The last good checkpoint, if any, is kept. "
            "Lower learning_rate, lengthen warmup_epochs, or use precision='float32', in a new run_dir"
        )
