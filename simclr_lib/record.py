"""A run directory: everything needed to say how a result came about, written once, read by all that comes later.

config.json  metrics.jsonl  status.json  summary.json  environment.json  images.npz
checkpoint.pt (+ checkpoint.previous.pt)  encoder.safetensors  snapshots/  embeddings.npy  neighbors.npz  figures/
"""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simclr_lib.config import RunConfig
from simclr_lib.environment import environment, utc_now
from simclr_lib.paths import replacing, require_writable

if TYPE_CHECKING:  # listing runs needs no torch
    from torch import Tensor


CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")  # the last one, and the one before it


class Run:
    """One run directory. `Run.start` opens it for training, `Run.open` for reading."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config

    @classmethod
    def start(cls, path: str | Path, config: RunConfig) -> "Run":
        """Open `path` for training with `config`: a new directory, or one with a part of the same run.

        Raises:
            ValueError: if `path` cannot be written, or already holds a run of another configuration.
        """
        run = cls(require_writable(path), config)
        if run.begun:
            _require_same(run.path, cls.open(path).config, config)
        else:
            for file in (run.path / "metrics.jsonl", run.path / "summary.json", *run.path.glob("snapshots/*")):
                file.unlink(missing_ok=True)  # what came before any checkpoint is all done again
        if not run.finished:
            run._write("config.json", config.to_dict())
            run._end_cut_line()
        return run

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open an existing run directory for reading. Raises ValueError if `path` is none."""
        path = Path(path).absolute()
        if not (path / "config.json").is_file():
            raise ValueError(f"expected a run directory with a config.json, got {path}; runs are listed under runs/")
        return cls(path, RunConfig.from_dict(json.loads((path / "config.json").read_text())))

    @property
    def begun(self) -> bool:
        """Whether there is something to go on from, or to lose: a checkpoint, or a finished run's record."""
        return self.finished or any((self.path / name).exists() for name in CHECKPOINTS)

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        return self.status.get("state") == "finished"

    # Metrics: one JSON object a line, appended.

    def log(self, kind: str, **values: float) -> None:
        """Append one record of `kind` ("step" or "epoch") to metrics.jsonl."""
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")

    def metrics(self, kind: str = "step") -> list[dict]:
        """The records of `kind`, in order of `step`; where a resumed run did a step again, its last record.

        A line cut short by a crash is passed over; its step is done again on resuming.
        """
        records = {}
        for record in self._metric_lines():
            if record["kind"] == kind:
                records[record["step"]] = record
        return [records[step] for step in sorted(records)]

    def _end_cut_line(self) -> None:
        # A crash can cut the last line short; what is appended next must begin a line of its own.
        file = self.path / "metrics.jsonl"
        if file.exists() and not file.read_bytes().endswith(b"\n"):
            with open(file, "a") as appended:
                appended.write("\n")

    def _metric_lines(self) -> Iterator[dict]:
        file = self.path / "metrics.jsonl"
        for line in file.read_text().splitlines() if file.exists() else []:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue

    # Status, summary, environment.

    @property
    def status(self) -> dict:
        """state ("running", "finished", "interrupted" or "failed"), message, time of the last change (UTC)."""
        return self._read("status.json")

    @contextmanager
    def recording_status(self) -> Iterator[None]:
        """Keep status.json true around the work inside; a killed process leaves "running"."""
        self._set_status("running")
        try:
            yield
        except KeyboardInterrupt:
            self._set_status("interrupted", "stopped by the user; the same call resumes it")
            raise
        except BaseException as error:
            self._set_status("failed", f"{type(error).__name__}: {error}")
            raise
        self._set_status("finished")

    @property
    def summary(self) -> dict:
        """What the run came to: summary.json, empty before anything was scored."""
        return self._read("summary.json")

    def add_to_summary(self, **values: Any) -> None:
        """Set `values` in summary.json, beside what it already holds."""
        self._write("summary.json", {**self.summary, **values})

    @property
    def environment(self) -> dict:
        """Where the run ran: {"sessions": [...]}, one entry for each time training was started or resumed."""
        return self._read("environment.json")

    def add_session(self, **values: Any) -> None:
        """Add to the environment that training was started or resumed here and now, and `values`: how it is split."""
        sessions = self.environment.get("sessions", [])
        self._write("environment.json", {"sessions": [*sessions, {**environment(), **values}]})

    def _set_status(self, state: str, message: str = "") -> None:
        self._write("status.json", {"state": state, "message": message, "time": utc_now()})

    # Tensors.

    def save_checkpoint(self, state: dict) -> None:
        """Write checkpoint.pt; the one before it stays as checkpoint.previous.pt."""
        import torch

        current, previous = (self.path / name for name in CHECKPOINTS)
        with replacing(current) as temporary:
            torch.save(state, temporary)
            if current.exists():
                os.replace(current, previous)

    def load_checkpoint(self) -> dict | None:
        """The last checkpoint that can be read, on the CPU; None where there is none.

        Raises:
            ValueError: if there are checkpoints, but none that can be read.
        """
        import torch

        for file in (self.path / name for name in CHECKPOINTS):
            try:
                return torch.load(file, map_location="cpu", weights_only=True)
            except FileNotFoundError:
                continue
            except Exception as error:  # whatever unpickling half a file raises
                warnings.warn(f"{file} cannot be read ({error}); trying the one before it", stacklevel=2)
        if any((self.path / name).exists() for name in CHECKPOINTS):
            raise ValueError(
                f"expected a checkpoint that can be read in {self.path}, got none; repair or delete them, "
                "or give another run_dir"
            )
        return None

    def save_encoder(self, weights: dict[str, "Tensor"]) -> None:
        """Write encoder.safetensors."""
        self._save_weights("encoder.safetensors", weights)

    def save_snapshot(self, epochs: int, weights: dict[str, "Tensor"]) -> None:
        """Write snapshots/epoch-<epochs>.safetensors: encoder and projection head after so many epochs."""
        (self.path / "snapshots").mkdir(exist_ok=True)
        self._save_weights(f"snapshots/epoch-{epochs:04}.safetensors", weights)

    def _save_weights(self, name: str, weights: dict[str, "Tensor"]) -> None:
        from safetensors.torch import save_file

        with replacing(self.path / name) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in weights.items()}, temporary)

    @property
    def snapshots(self) -> list[int]:
        """The numbers of epochs after which there is a snapshot."""
        return sorted(int(file.stem.removeprefix("epoch-")) for file in self.path.glob("snapshots/*.safetensors"))

    def load_snapshot(self, epochs: int) -> dict[str, "Tensor"]:
        """The weights of encoder and projection head after `epochs`. Raises ValueError where none were kept then."""
        from safetensors.torch import load_file

        if epochs not in self.snapshots:
            kept = ", ".join(map(str, self.snapshots)) or "none (train again into another run_dir)"
            raise ValueError(f"epochs: expected one with a snapshot in {self.path}, got {epochs}; there are: {kept}")
        return load_file(self.path / f"snapshots/epoch-{epochs:04}.safetensors")

    def load_encoder_weights(self) -> dict[str, "Tensor"]:
        """The encoder's weights after training, or, before its end, at the last checkpoint."""
        from safetensors.torch import load_file

        file = self.path / "encoder.safetensors"
        if file.exists():
            return load_file(file)
        weights = self.load_weights()
        return {name.removeprefix("encoder."): weights[name] for name in weights if name.startswith("encoder.")}

    def load_weights(self) -> dict[str, "Tensor"]:
        """The weights of encoder and projection head after training, or of the last checkpoint.

        Raises ValueError where neither is there.
        """
        if self.config.epochs in self.snapshots:
            return self.load_snapshot(self.config.epochs)
        checkpoint = self.load_checkpoint()
        if checkpoint is None:
            raise ValueError(
                f"expected weights in {self.path}, got none: no epoch has been finished (resume the run), "
                "or they were not kept (train it again into another run_dir)"
            )
        return checkpoint["model"]

    def save_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Write <name>.npy for a single array of that name, <name>.npz for several."""
        single = list(arrays) == [name]
        with replacing(self.path / f"{name}.{'npy' if single else 'npz'}") as temporary, open(temporary, "wb") as file:
            np.save(file, arrays[name]) if single else np.savez_compressed(file, **arrays)

    def load_arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of <name>.npz; none where there is no such file."""
        file = self.path / f"{name}.npz"
        return dict(np.load(file)) if file.exists() else {}

    def figure(self, name: str) -> Path:
        """The path of figures/<name>.png."""
        return self.path / "figures" / f"{name}.png"

    def _read(self, name: str) -> dict:
        file = self.path / name
        return json.loads(file.read_text()) if file.exists() else {}

    def _write(self, name: str, values: dict) -> None:
        with replacing(self.path / name) as temporary:
            temporary.write_text(json.dumps(values, indent=1) + "\n")


class Follower(Run):
    """The run as processes other than the first have it: what they would write is written by the first."""

    def _leave_it_to_the_first(self, *args: Any, **values: Any) -> None: ...

    log = save_checkpoint = save_encoder = save_snapshot = save_arrays = _write = _leave_it_to_the_first


def _require_same(path: Path, before: RunConfig, now: RunConfig) -> None:
    differences = before.differences(now)
    if differences:
        listed = ", ".join(f"{name} {then!r} -> {new!r}" for name, (then, new) in differences.items())
        raise ValueError(
            f"run_dir: expected the configuration that {path} was trained with, got {listed}; "
            "give another run_dir for another run"
        )
