"""Training: the paper's algorithm 1 over epochs, from a configuration to a finished run.

`train` prepares and records, `fit` is the loop, a `Learner` takes the steps.
M images of the data set, N of them in a batch, n of those in this process, H x W pixels as they are kept.
"""

import copy
import math
import os
import time

import numpy as np
import torch
from torch import Tensor, nn

from simclr_lib.augment import Augment
from simclr_lib.config import RunConfig
from simclr_lib.data.sets import ImageSet
from simclr_lib.engine import processes
from simclr_lib.engine.checks import require
from simclr_lib.engine.device import choose_device, device_name, keep_freed_memory, largest_that_fits, say_what_slows
from simclr_lib.engine.interruption import interruption
from simclr_lib.engine.launcher import launch
from simclr_lib.engine.progress import progress_bar, say
from simclr_lib.engine.seeds import generator_at
from simclr_lib.evaluation.health import HeldOut, hold_out, keep_out, load_training_images, record_alarms
from simclr_lib.lars import build_optimizer
from simclr_lib.loss import nt_xent
from simclr_lib.model import SimCLR, build_encoder
from simclr_lib.pretrained import start_from
from simclr_lib.run import Follower, Run
from simclr_lib.schedule import warmup_cosine
from simclr_lib.step import simclr_step


def train(config: RunConfig, run_dir: str | os.PathLike) -> Run:
    """Train as `config` says, into `run_dir`; where that already holds a part of the same run, go on from there.

    Every random number comes from the seed and the place in training, so that on a CPU the same configuration gives
    the same run, and a resumed run is the run that was never interrupted. A finished run is returned as it is.
    With `processes` above 1 it starts them and follows; under torchrun it is one of them. They share each batch, see
    the views that one process would see, and the first of them writes.

    Returns:
        The finished run, with checkpoint.pt and encoder.safetensors in it.

    Raises:
        ValueError: before training, for a configuration, data set or directory that cannot work, and for a directory
            that holds another run, or a part of this one on other images.
        FloatingPointError: at the first loss or weight that is not finite; the last good checkpoint stays.
        ProcessFailedError: where one of the processes that it started dies, of whatever cause, with its traceback.
    """
    if processes.launched():
        return processes.as_launched(_train_here)(config, run_dir)
    return _train_here(config, run_dir) if config.processes == 1 else _train_in_processes(config, run_dir)


def _train_here(config: RunConfig, run_dir: str | os.PathLike) -> Run:
    """In this process: alone, or as one of several."""
    device = choose_device(config.device, processes.local_rank())
    with processes.process_group(device):
        processes.require_alike("configuration", config.differences(processes.from_first(config)))
        learner = Learner(config, device)
        with (Run if processes.rank() == 0 else Follower).writing(run_dir, config) as run:
            if not processes.from_first(run.finished):
                with run.recording_status():
                    _train(learner, run)
                processes.collect(None)  # wait for all: nobody is to look for what the first has yet to write
            return run


def _train(learner: "Learner", run: Run) -> None:
    _record_split(run, learner)
    learner.restore(run)
    with processes.one_after_the_other():
        images = load_training_images(run.config)
        rows, unseen = keep_out(run.config, images)
    _record_images(run, images, rows, unseen)
    try:
        fit(learner, images.images, rows, run, hold_out(run, images, unseen))
    except FloatingPointError as error:
        record_alarms(run, {"non-finite": str(error)}, learner.epochs_done)
        raise
    run.save_weights("encoder", learner.model.encoder.state_dict())


def _train_in_processes(config: RunConfig, run_dir: str | os.PathLike) -> Run:
    """In several processes, which this one starts and follows. It checks all that can be checked before."""
    require_shared_norm(config, choose_device(config.device, config.processes - 1), config.processes)
    with Run.writing(run_dir, config) as run:
        if not run.finished:
            with run.recording_status():
                rows, _ = keep_out(config, load_training_images(config))
                steps, done = config.epochs * config.steps_per_epoch(len(rows)), len(run.metrics())
                launch(run.path, config.processes, steps, done, config.batch_size)
        return run


def fit(learner: "Learner", images: Tensor, rows: Tensor, run: Run, held_out: HeldOut | None = None) -> None:
    """Train on `images` (M, 3, H, W) at `rows`, from where the learner is to the last epoch.

    Health is read on `held_out` before the first epoch and after every one; a checkpoint follows every epoch, and
    comes when `checkpoint_minutes` have passed, and when a signal ends training: the step in flight leaves no trace.
    """
    config, size = learner.config, learner.config.batch_size
    steps, warmup = config.steps_per_epoch(len(rows)), config.warmup_steps(len(rows))
    total, done = config.epochs * steps, learner.epochs_done * steps + len(learner.losses)
    bar = progress_bar(total * size, "training", "images", initial=done * size, show=processes.rank() == 0)
    with bar, keep_freed_memory(learner.device), interruption.keeping(lambda: learner.save(run)):
        if held_out and done == 0:
            held_out.watch(learner.model, run, step=0, epochs=0)
        for epoch in range(learner.epochs_done, config.epochs):
            order = rows[torch.randperm(len(rows), generator=generator_at(config.seed, 0, epoch))]
            batches, end = order.split(size), (epoch + 1) * steps
            for step in range(epoch * steps + len(learner.losses), end):
                batch, start = batches[step - epoch * steps], time.perf_counter()
                rate = config.actual_learning_rate * warmup_cosine(step, total, warmup)
                with interruption.whole():
                    loss = learner.step(images[batch[learner.own]], step, rate)
                    run.log("step", step=step, epoch=epoch, loss=loss, learning_rate=rate)
                learner.seconds += time.perf_counter() - start
                bar.set_postfix(step=step + 1, loss=f"{loss:.3f}", refresh=False)
                bar.update(size)
                if step + 1 < end and time.monotonic() - learner.saved_at > 60 * config.checkpoint_minutes:
                    with interruption.whole(changing=True):
                        learner.save(run)
            require_finite(learner.model.state_dict(), f"a weight after epoch {epoch + 1}")
            loss = _record_epoch(run, epoch, end - 1, learner.losses, learner.seconds)
            if held_out:
                held_out.watch(learner.model, run, end, epoch + 1, loss)
            if epoch + 1 in snapshot_epochs(config.epochs):
                run.save_weights(run.snapshot(epoch + 1), learner.model.state_dict())
            with interruption.whole(changing=True):
                learner.epochs_done, learner.losses, learner.seconds = epoch + 1, [], 0.0
                learner.save(run)


class Learner:
    """The model, its optimizer and its views, as the configuration asks for them.

    Of each batch, this process has the rows `own`, and takes `micro_batch_size` of them at a time.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        require_shared_norm(config, device, processes.world_size())
        self.config, self.device, self.saved_at = config, device, time.monotonic()
        self.epochs_done, self.losses, self.seconds = 0, [], 0.0  # losses and seconds of the epoch under way
        self.buffers_before = {}  # of BatchNorm, while a step is under way
        self.own = processes.own_part(config.batch_size)
        self.batch_per_process = config.batch_size // processes.world_size()
        torch.manual_seed(config.seed)
        model = SimCLR(build_encoder(**config.encoder_options), config.projection_dim)
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.model = model.to(device, self.dtype, memory_format=torch.channels_last)
        rate, momentum, decay = config.actual_learning_rate, config.momentum, config.weight_decay
        self.optimizer = build_optimizer(config.optimizer, self.model, rate, momentum, decay)
        self.optimizer.register_step_pre_hook(interruption.begin_change)
        self.augment = Augment(**config.view_options)
        size = images_at_a_time(config, self.batch_per_process, device)
        self.micro_batch_size = size or min(processes.collect(largest_that_fits(self.batch_per_process, self._try)))
        if processes.world_size() > 1:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)  # the parameters stay the optimizer's

    def step(self, images: Tensor, step: int, rate: float) -> float:
        """One optimizer step on this process's part (n, 3, H, W) of a batch, at this learning rate -> its loss.

        Its randomness follows from the seed and `step` alone. Raises FloatingPointError at a loss that is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.buffers_before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        images, generator = images.to(self.device), generator_at(self.config.seed, 1, step)
        images = images.double() / 255 if self.dtype == torch.float64 else images
        trained = self.model, self.optimizer, self.augment
        temperature, precision = self.config.actual_temperature, self.config.precision
        loss = simclr_step(*trained, images, generator, temperature, precision, self.micro_batch_size)
        require_finite({"loss": loss}, f"the loss at step {step}")
        self.losses.append(loss.item())
        self.buffers_before = {}
        return self.losses[-1]

    def save(self, run: Run) -> None:
        """Write the checkpoint of `run` from which `restore` goes on; during a step, that of before it."""
        if self.epochs_done or self.losses:
            progress = {"epochs_done": self.epochs_done, "losses": self.losses, "seconds": self.seconds}
            model, optimizer = {**self.model.state_dict(), **self.buffers_before}, self.optimizer.state_dict()
            require_finite(model, f"a weight after epoch {self.epochs_done} and {len(self.losses)} steps")
            run.save_checkpoint({**progress, "model": model, "optimizer": optimizer})
            self.saved_at = time.monotonic()

    def restore(self, run: Run) -> None:
        """Take up the last checkpoint of `run`, in every process, if there is one; what was recorded later goes."""
        if state := processes.from_first(run.load_checkpoint() if processes.rank() == 0 and run.begun else None):
            self.epochs_done = state["epochs_done"]
            self.losses, self.seconds = state.get("losses", []), state.get("seconds", 0.0)  # older versions have none
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            run.cut_metrics(self.epochs_done, len(self.losses))
        elif self.config.init_from and not start_from(self.model, self.config.init_from):
            say(f"{self.config.init_from} has no projection head: the projection head starts at random")

    def _try(self, n: int) -> None:
        """Take n images through copies of the model and the optimizer, as a step on its own does, and forget all."""
        model, optimizer = copy.deepcopy((self.model, self.optimizer))  # together, so that one trains the other
        side, generator = self.config.actual_store_size, generator_at(self.config.seed, 2)
        # As training does, this holds the whole batch while a part of it passes through the model.
        batch = torch.randint(256, (self.batch_per_process, 3, side, side), dtype=torch.uint8, device=self.device)
        views = torch.cat([self.augment(batch[:n], generator) for _ in range(2)]).to(self.dtype)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            z_a, z_b = model(views).chunk(2)
        nt_xent(z_a, z_b).backward()
        optimizer.step()


def images_at_a_time(config: RunConfig, each: int, device: torch.device) -> int | None:
    """The micro-batch of a process that has `each` images of a batch; None: as many as turn out to fit on its GPU."""
    if config.micro_batch_size == "auto":
        return None if device.type == "cuda" else min(64, each)  # a CPU does not tell what fits
    return min(config.micro_batch_size or each, each)


def snapshot_epochs(epochs: int) -> set[int]:
    """A quarter, half and three quarters through, and the end: what evaluation shows of training."""
    return {math.ceil(epochs * quarters / 4) for quarters in (1, 2, 3, 4)}


def require_shared_norm(config: RunConfig, device: torch.device, world_size: int) -> None:
    """Raises ValueError where a BatchNorm would see the images of one process only: PyTorch's SyncBatchNorm, which
    sees those of all, exists on GPUs only."""
    shared = not config.has_batch_norm or world_size == 1 or device.type == "cuda"
    found = "'batch', which would normalise over each process's images instead of the batch"
    require(shared, "norm", f"'group' with {world_size} processes on a {device.type}", found, "or use GPUs")


def require_finite(tensors: dict[str, Tensor], what: str) -> None:
    """Raises FloatingPointError where one of the floating `tensors` has a number that is not finite."""
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        found = f"expected finite numbers, but {what} is not ({', '.join(wrong[:3])})"
        remedy = "Lower learning_rate, lengthen warmup_epochs, or use precision='float32', in a new run_dir"
        raise FloatingPointError(f"{found}. The last good checkpoint, if any, is kept. {remedy}")


def _record_split(run: Run, learner: Learner) -> None:
    """Record how a batch is split, and whether a step has its exact gradient; print what the configuration alone does
    not tell."""
    config, each, size = learner.config, learner.batch_per_process, learner.micro_batch_size
    exact = size == each or not config.has_batch_norm
    split = {"processes": processes.world_size(), "batch_per_process": each, "micro_batch_size": size}
    run.add_session(device=device_name(learner.device), **split)
    run.add_to_summary(exact_batch=exact and run.summary.get("exact_batch", True))
    say_what_slows(learner.device, config.precision, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    if config.micro_batch_size == "auto":
        say(f"micro_batch_size auto: {size:,} of {each:,} images at a time")
    if not exact:
        seen = f"{size * processes.world_size():,} of the {config.batch_size:,} images (exact_batch: false)"
        say(f"norm='batch' under micro-batches is not exact: each BatchNorm sees {seen}; norm='group' is exact")


def _record_images(run: Run, images: ImageSet, rows: Tensor, held_out: ImageSet) -> None:
    """Record which images are trained on and which are held out, by id and a checksum; go on with no others."""
    now = {"ids": images.ids[rows].numpy(), "checksum": images.checksum(rows), "held_out_ids": held_out.ids.numpy()}
    processes.require_alike("images", (len(rows), now["checksum"]))
    before = run.load_arrays("images") if run.begun else {}
    # An older version called the held-out ones probe_ids, and the first one recorded none.
    same = all(np.array_equal(now[name.replace("probe", "held_out")], before[name]) for name in before)
    expected, remedy = f"those that {run.path} was trained on", "restore them (see data_root), or give another run_dir"
    require(same, "images", expected, "others", remedy)
    run.save_arrays("images", **now)


def _record_epoch(run: Run, epoch: int, step: int, losses: list[float], seconds: float) -> float:
    """Log the mean loss of an epoch, and print it, though at most 20 lines in all; returns it."""
    config, loss = run.config, sum(losses) / len(losses)
    speed = len(losses) * config.batch_size / seconds
    run.log("epoch", step=step, epoch=epoch, loss=loss, seconds=seconds, images_per_second=speed)
    if epoch + 1 == config.epochs or (epoch + 1) % math.ceil(config.epochs / 20) == 0:
        place = f"epoch {epoch + 1:>{len(str(config.epochs))}}/{config.epochs}"
        say(f"{place}  loss {loss:.3f} (chance {config.chance_loss:.3f})  {speed:,.0f} images/s  {seconds:,.0f} s")
    return loss
