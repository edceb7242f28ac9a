"""The parts of a run, built from its configuration, and the loop over epochs and steps."""

import copy
import math
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from tqdm import tqdm

from simclr_lib.augment import Augment
from simclr_lib.config import RunConfig
from simclr_lib.datasets import ImageSet
from simclr_lib.device import choose_device, keep_freed_memory, largest_that_fits
from simclr_lib.distributed import collect, from_first, local_rank, own_part, rank, world_size
from simclr_lib.lars import LARS, parameter_groups
from simclr_lib.loss import nt_xent
from simclr_lib.model import SimCLR, build_encoder
from simclr_lib.probe import Probe, sound
from simclr_lib.progress import progress_bar, say
from simclr_lib.record import Run
from simclr_lib.schedule import warmup_cosine
from simclr_lib.step import simclr_step


class Trainer:
    """The parts of one run, built from its configuration, and the loop over them."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.device = choose_device(config.device, local_rank())
        require_shared_norm(config, self.device, world_size())
        torch.manual_seed(config.seed)
        model = SimCLR(build_encoder(**config.encoder_options), config.projection_dim)
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.model = model.to(self.device, self.dtype, memory_format=torch.channels_last)
        self.augment = Augment(config.image_size, config.color_strength, config.blur, compile=config.compile)
        self.own = own_part(config.batch_size)  # of each batch
        each = self.own.stop - self.own.start
        self.micro_batch_size = images_at_a_time(config, each, self.device) or self._largest_that_fits(each)
        if world_size() > 1:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.optimizer = build_optimizer(config, self.model)

    @property
    def split(self) -> dict[str, int]:
        """How a batch is split, in images: over how many processes, how many each, how many of them at a time."""
        each = self.own.stop - self.own.start
        return {"processes": world_size(), "batch_per_process": each, "micro_batch_size": self.micro_batch_size}

    @property
    def exact_batch(self) -> bool:
        """Whether each step has the gradient of its whole batch: False for BatchNorm under micro-batches."""
        return not self.config.has_batch_norm or self.micro_batch_size == self.split["batch_per_process"]

    @property
    def snapshot_epochs(self) -> set[int]:
        """A quarter, half and three quarters through, and the end: what evaluation shows of training."""
        return {math.ceil(self.config.epochs * quarters / 4) for quarters in (1, 2, 3, 4)}

    def fit(self, images: ImageSet, rows: Tensor, run: Run, probe: Probe | None = None) -> None:
        """Train on `rows` of `images` to the last epoch, from the last checkpoint of `run` on, with a checkpoint after
        every epoch, and a reading of health on `probe` before the first epoch and after every one."""
        first = self._restore(from_first(run.load_checkpoint() if rank() == 0 else None))
        batch, steps = self.config.batch_size, self.config.steps_per_epoch(len(rows))
        total, done = self.config.epochs * steps * batch, first * steps * batch
        bar = progress_bar(total, "training", "images", initial=done, show=rank() == 0)
        with bar, keep_freed_memory(self.device):
            for line in self._remarks():
                say(bar, line)
            if probe and first == 0:
                probe.watch(self.model, run, bar, step=0, epochs=0, loss=None)
            for epoch in range(first, self.config.epochs):
                try:
                    loss = self._run_epoch(epoch, images.images, rows, run, bar)
                    _require_finite(self.model.state_dict(), f"a weight after epoch {epoch + 1}")
                except FloatingPointError as error:
                    sound(run, bar, {"non-finite": str(error)}, epoch)
                    raise
                if probe:
                    probe.watch(self.model, run, bar, (epoch + 1) * steps, epoch + 1, loss)
                if epoch + 1 in self.snapshot_epochs:
                    run.save_snapshot(epoch + 1, self.model.state_dict())
                run.save_checkpoint(self._state(epoch + 1))

    def _run_epoch(self, epoch: int, images: Tensor, rows: Tensor, run: Run, bar: tqdm) -> float:
        order = rows[torch.randperm(len(rows), generator=generator_at(self.config.seed, 0, epoch))]
        steps = self.config.steps_per_epoch(len(rows))
        losses, start = [], time.perf_counter()
        for i, batch in enumerate(order.split(self.config.batch_size)[:steps]):
            step = epoch * steps + i
            rate = self._set_learning_rate(step, len(rows))
            loss = self._step(step, images[batch[self.own]].to(self.device))
            run.log("step", step=step, epoch=epoch, loss=loss, learning_rate=rate)
            losses.append(loss)
            bar.set_postfix(step=step + 1, loss=f"{loss:.3f}", refresh=False)
            bar.update(len(batch))
        return self._finish_epoch(epoch, step, losses, time.perf_counter() - start, run, bar)

    def _step(self, step: int, images: Tensor) -> float:
        """One optimizer step; its randomness follows from the seed and `step` alone."""
        images = images.double() / 255 if self.config.precision == "float64" else images
        generator = generator_at(self.config.seed, 1, step)
        loss = simclr_step(
            self.model,
            self.optimizer,
            self.augment,
            images,
            generator,
            self.config.actual_temperature,
            self.config.precision,
            self.micro_batch_size,
        )
        _require_finite({"loss": loss}, f"the loss at step {step}")
        return loss.item()

    def _set_learning_rate(self, step: int, images: int) -> float:
        total = self.config.epochs * self.config.steps_per_epoch(images)
        rate = self.config.actual_learning_rate * warmup_cosine(step, total, self.config.warmup_steps(images))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _finish_epoch(self, epoch: int, step: int, losses: list[float], seconds: float, run: Run, bar: tqdm) -> float:
        loss, speed = sum(losses) / len(losses), len(losses) * self.config.batch_size / seconds
        run.log("epoch", step=step, epoch=epoch, loss=loss, seconds=seconds, images_per_second=speed)
        epochs = self.config.epochs
        if (epoch + 1) % math.ceil(epochs / 20) == 0 or epoch + 1 == epochs:  # at most 20 lines in a report
            place = f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}"
            chance = self.config.chance_loss
            say(bar, f"{place}  loss {loss:.3f} (chance {chance:.3f})  {speed:,.0f} images/s  {seconds:,.0f} s")
        return loss

    def _largest_that_fits(self, each: int) -> int:
        return min(collect(largest_that_fits(each, self._try)))

    def _try(self, n: int) -> None:
        """Take n images through a model and an optimizer like these, as a step on its own does, and forget all."""
        model, side, each = copy.deepcopy(self.model), self.config.actual_store_size, self.own.stop - self.own.start
        optimizer, generator = build_optimizer(self.config, model), generator_at(self.config.seed, 2)
        batch = torch.randint(256, (each, 3, side, side), dtype=torch.uint8, device=self.device)  # stays while we try
        images = batch[:n]
        views = torch.cat([self.augment(images, generator), self.augment(images, generator)]).to(self.dtype)
        half = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            z_a, z_b = model(views).chunk(2)
        nt_xent(z_a, z_b).backward()
        optimizer.step()

    def _remarks(self) -> list[str]:
        """What a reader should know of how a batch is split, beyond what the configuration says."""
        remarks, split = [], self.split
        each, size = split["batch_per_process"], self.micro_batch_size
        if self.config.micro_batch_size == "auto":
            remarks.append(f"micro_batch_size auto: {size:,} of {each:,} images at a time")
        if not self.exact_batch:
            seen = size * world_size()
            remarks.append(
                f"norm='batch' under micro-batches is not exact: each BatchNorm sees {seen:,} images, not the "
                f"{self.config.batch_size:,} of the batch (exact_batch: false in the record); norm='group' is exact"
            )
        return remarks

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


def require_shared_norm(config: RunConfig, device: torch.device, processes: int) -> None:
    """Raises ValueError where a BatchNorm would see the images of one process only: PyTorch's SyncBatchNorm, which
    sees those of all, exists on GPUs only."""
    if config.has_batch_norm and processes > 1 and device.type != "cuda":
        raise ValueError(
            f"norm: expected 'group' with {processes} processes on a {device.type}, got 'batch', which would normalise "
            "over each process's images instead of the batch; set norm='group', or use GPUs"
        )


def images_at_a_time(config: RunConfig, each: int, device: torch.device) -> int | None:
    """The micro-batch of a process that has `each` images of a batch; None: as many as turn out to fit on its GPU."""
    if config.micro_batch_size == "auto":
        return None if device.type == "cuda" else min(64, each)  # a CPU does not tell what fits
    return min(config.micro_batch_size or each, each)


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


def _require_finite(tensors: dict[str, Tensor], what: str) -> None:
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        raise FloatingPointError(
            f"expected finite numbers, but {what} is not ({', '.join(wrong[:3])}). "
            "The last good checkpoint, if any, is kept. "
            "Lower learning_rate, lengthen warmup_epochs, or use precision='float32', in a new run_dir"
        )
