"""A training run: start or resume it, alone or in several processes, on images that are recorded."""

import os
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from simclr_lib.config import MACHINE_FIELDS, RunConfig
from simclr_lib.datasets import SPLITS, ImageSet, load_images
from simclr_lib.device import choose_device, device_name
from simclr_lib.distributed import (
    end_with,
    from_first,
    launched,
    local_rank,
    one_after_the_other,
    process_group,
    rank,
    reporting,
    require_alike,
    wait_for_all,
)
from simclr_lib.environment import commit
from simclr_lib.launch import CALLER, launch
from simclr_lib.probe import Probe
from simclr_lib.record import Follower, Run
from simclr_lib.trainer import Trainer, generator_at, images_at_a_time, require_shared_norm

LEAST, MOST = 16, 256  # images of the probe: fewer say nothing, more take time from training


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
    if launched():
        if CALLER in os.environ and os.name == "posix":
            end_with(int(os.environ[CALLER]))
        return reporting(_train)(config, run_dir)
    return _train(config, run_dir) if config.processes == 1 else _train_in_processes(config, run_dir)


def _train(config: RunConfig, run_dir: str | os.PathLike) -> Run:
    device = choose_device(config.device, local_rank())
    with process_group(device):
        for name, value in config.to_dict().items():
            if name not in MACHINE_FIELDS:
                require_alike(name, value)
        trainer = Trainer(config)
        run = Run.start(run_dir, config) if rank() == 0 else Follower(Path(run_dir), config)
        if from_first(run.finished):
            return run
        with run.recording_status():
            run.add_session(device=device_name(device), **trainer.split)
            run.add_to_summary(exact_batch=trainer.exact_batch and run.summary.get("exact_batch", True))
            with one_after_the_other():
                images = load_training_images(config)
                rows, unseen = keep_out(config, images)
            _record_images(run, images, rows, unseen)
            probe = Probe(unseen.images, config) if rank() == 0 and len(unseen) >= LEAST else None
            trainer.fit(images, rows, run, probe)
            run.save_encoder(trainer.model.encoder.state_dict())
        wait_for_all()  # so that nobody looks for what the first has yet to write
        return run


def _train_in_processes(config: RunConfig, run_dir: str | os.PathLike) -> Run:
    device = choose_device(config.device, config.processes - 1)
    require_shared_norm(config, device, config.processes)
    run = Run.start(run_dir, config)
    if run.finished:
        return run
    with run.recording_status():
        rows, _ = keep_out(config, load_training_images(config))
        launch(run, config.epochs * config.steps_per_epoch(len(rows)))
    return run


def describe(config: RunConfig, images: ImageSet) -> str:
    """What follows from `config` and the images, for printing before training: a line each, with units."""
    n, unseen = map(len, keep_out(config, images))
    steps, warmup, version = config.steps_per_epoch(n), config.warmup_steps(n), commit()
    rows = {
        "images": f"{n:,} of {config.dataset} ({config.split}), kept at {images.images.shape[-1]} px",
        "health": f"read on {unseen} others" if unseen >= LEAST else f"not read: {unseen} others are too few",
        "views": f"{config.image_size} px, colour strength {config.color_strength}, blur {config.blur}",
        "encoder": f"{config.arch}, {config.stem} stem, {config.norm} norm",
        "steps": f"{steps:,} an epoch, {steps * config.epochs:,} in all, {warmup:,} of warm-up",
        "learning rate": f"{config.actual_learning_rate:g} ({config.optimizer}, scaling {config.lr_scaling})",
        "temperature": f"{config.actual_temperature:g}",
        "micro-batches": _micro_batches(config),
        "negatives": f"{config.negatives:,} per anchor (batch {config.batch_size:,})",
        "chance loss": f"{config.chance_loss:.3f} = ln(2 x {config.batch_size} - 1)",
        "device": f"{device_name(choose_device(config.device))}, {config.precision}",
        "commit": f"{version['commit']}{' and uncommitted changes' if version['dirty'] else ''}",
    }
    return "\n".join(f"{name:14} {value}" for name, value in rows.items())


def _micro_batches(config: RunConfig) -> str:
    each = config.batch_size // config.processes
    size = images_at_a_time(config, each, choose_device(config.device))
    share = f" in each of {config.processes} processes" if config.processes > 1 else ""
    return f"{f'{size:,}' if size else 'as many as fit'} of {each:,} images at a time{share}"


def load_training_images(config: RunConfig) -> ImageSet:
    """The images that `config` names; training takes those of them that `keep_out` leaves."""
    return load_images(config.dataset, config.split, config.data_root, **config.image_options)


def keep_out(config: RunConfig, images: ImageSet) -> tuple[Tensor, ImageSet]:
    """Which of `images` are trained on, by position, and at most 256 that training never sees, to read health on:
    images of the test split where there is one on disk, else a seeded twentieth of `images`, but at least 16, or, below
    160 images, a tenth.
    Reading health on a tenth, every epoch, would take more than 5% of the training time.

    Raises:
        ValueError: where those to train on do not fill one batch.
    """
    unseen, generator = _test_images(config), generator_at(config.seed, 3)
    if unseen is not None:
        rows = torch.arange(len(images))
        unseen = unseen.subset(torch.randperm(len(unseen), generator=generator)[:MOST].sort().values)
    else:
        order = torch.randperm(len(images), generator=generator)
        kept = min(MOST, max(len(images) // 20, min(LEAST, len(images) // 10)))
        rows, unseen = order[kept:].sort().values, images.subset(order[:kept].sort().values)
    _require_a_batch(config, len(rows))
    return rows, unseen


def _test_images(config: RunConfig) -> ImageSet | None:
    if "test" not in SPLITS[config.dataset] or config.split == "test":
        return None
    try:
        options = {**config.image_options, "limit": None, "unreadable": "skip"}  # none of these has to be there
        return load_images(config.dataset, "test", config.data_root, **options, download=False)
    except FileNotFoundError:
        return None
    except ValueError as error:
        warnings.warn(f"no test image can be read, health is read on a part kept out ({error})", stacklevel=2)
        return None


def _record_images(run: Run, images: ImageSet, rows: Tensor, probe: ImageSet) -> None:
    """Keep which images are trained on, by id and a checksum of a thousand of them; go on with no others."""
    sample = rows[torch.linspace(0, len(rows) - 1, min(len(rows), 1000)).long()]
    checksum = np.array(zlib.crc32(images.images[sample].numpy().tobytes()))
    now = {"ids": images.ids[rows].numpy(), "checksum": checksum, "probe_ids": probe.ids.numpy()}
    require_alike("images", (len(rows), int(checksum)))
    before = run.load_arrays("images")
    if run.begun and before and any(not np.array_equal(before[name], now[name]) for name in before):
        raise ValueError(
            f"images: expected the {len(before['ids']):,} that {run.path} was trained on, got {len(rows):,} others; "
            "restore them (see data_root), or give another run_dir for another run"
        )
    run.save_arrays("images", **now)


def _require_a_batch(config: RunConfig, n: int) -> None:
    if n < 2:
        raise ValueError(f"images: expected at least 2 to tell apart, got {n} of {config.dataset}; add some")
    if n < config.batch_size:
        raise ValueError(
            f"batch_size: expected at most the {n:,} images to train on of {config.dataset} ({config.split}), "
            f"got {config.batch_size:,}; lower batch_size or give more images"
        )
