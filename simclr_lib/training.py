"""A training run: build the parts, loop over epochs and steps, record, resume."""

import contextlib
import ctypes
import math
import os
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from tqdm import tqdm

from simclr_lib.augment import Augment
from simclr_lib.config import RunConfig
from simclr_lib.datasets import ImageSet, load_images
from simclr_lib.environment import commit
from simclr_lib.lars import LARS, parameter_groups
from simclr_lib.model import SimCLR, build_encoder
from simclr_lib.progress import progress_bar
from simclr_lib.record import Run
from simclr_lib.schedule import warmup_cosine
from simclr_lib.step import simclr_step


def train(config: RunConfig, run_dir: str | os.PathLike) -> Run:
    """Train as `config` says, into `run_dir`; where that already holds a part of the same run, go on from there.

    The same configuration gives the same run: every random number comes from the seed and the place in training,
    so that a resumed run is the run that was never interrupted.

    Returns:
        The finished run, with checkpoint.pt and encoder.safetensors in it.

    Raises:
        ValueError: before training, for a configuration, data set or directory that cannot work.
        FloatingPointError: at the first loss or weight that is not finite; the last good checkpoint stays.
    """
    trainer = Trainer(config)
    run = Run.start(run_dir, config)
    with run.recording_status():
        images = load_training_images(config)
        run.save_arrays("image_ids", image_ids=images.ids.numpy())
        trainer.fit(images, run)
        run.save_encoder(trainer.model.encoder.state_dict())
    return run


class Trainer:
    """The parts of one run, built from its configuration, and the loop over them."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.device = choose_device(config.device)
        if self.device.type == "cpu":
            _keep_freed_memory()
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
        torch.manual_seed(self.config.seed + epoch)  # for dropout
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


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the GPU if there is one. Raises ValueError for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: expected one of this machine's (auto, cpu, cuda, ...), got {name!r}") from error
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"


def generator_at(seed: int, *place: int) -> torch.Generator:
    """The random numbers of one place in training, whatever was drawn before: the same when resumed."""
    state = np.random.SeedSequence((seed, *place)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def _keep_freed_memory() -> None:
    # glibc hands every large tensor back to the system and faults it in again, step after step. Seen on 2 cores:
    # 579 images/s as it comes, 1,120 with this. Elsewhere there is no mallopt, and nothing to do.
    m_trim_threshold, m_mmap_max = -1, -4
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def _require_a_batch(config: RunConfig, images: ImageSet) -> None:
    if len(images) < config.batch_size:
        raise ValueError(
            f"batch_size: expected at most the {len(images):,} images of {config.dataset} ({config.split}), "
            f"got {config.batch_size:,}; lower batch_size or give more images"
        )


def _require_finite(tensors: dict[str, Tensor], what: str) -> None:
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        raise FloatingPointError(
            f"expected finite numbers, but {what} is not ({', '.join(wrong[:3])}); the last good checkpoint is kept. "
            "Lower learning_rate, lengthen warmup_epochs, or use precision='float32', in a new run_dir"
        )
