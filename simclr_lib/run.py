"""A run directory: everything needed to say how a result came about, written once, read by all that comes later.

config.json  metrics.jsonl  status.json  summary.json  environment.json  images.npz
checkpoint.pt (+ checkpoint.previous.pt)  encoder.safetensors  snapshots/  embeddings/  neighbors.npz  figures/
"""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simclr_lib.config import RunConfig
from simclr_lib.engine.checks import require
from simclr_lib.engine.environment import environment, utc_now
from simclr_lib.engine.paths import replacing, require_writable

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")  # the last one, and the one before it
Weights = dict[str, Any]  # name -> tensor; torch is imported only where it is used, as listing runs needs none


@dataclass(frozen=True)
class Run:
    """One run directory. `Run.start` opens it for training, `Run.open` for reading."""

    path: Path
    config: RunConfig

    @classmethod
    def start(cls, path: str | Path, config: RunConfig) -> "Run":
        """Open `path` for training with `config`: a new directory, or one with a part of the same run.

        What a run without a checkpoint had recorded is deleted: it is all done again.

        Raises:
            ValueError: if `path` cannot be written, or already holds a run of another configuration.
        """
        run = cls(require_writable(path), config)
        if run.begun:
            changes = cls.open(path).config.differences(config).items()
            listed = ", ".join(f"{name} {before!r} -> {now!r}" for name, (before, now) in changes)
            expected = f"the configuration that {run.path} was trained with"
            require(not changes, "run_dir", expected, listed, "give another run_dir")
        else:
            recorded = "metrics.jsonl", "summary.json", "encoder.safetensors", "snapshots/*", "embeddings/*", "*.npz"
            for pattern in recorded:
                for file in run.path.glob(pattern):
                    file.unlink()
        if not run.finished:
            run._write("config.json", config.to_dict())
            run._end_cut_line()
        return run

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open an existing run directory for reading. Raises ValueError if `path` is none."""
        file = Path(path).absolute() / "config.json"
        require(file.is_file(), "run directory", "a folder with a config.json", file.parent, "runs lie under runs/")
        return cls(file.parent, RunConfig.from_dict(json.loads(file.read_text())))

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
        """Append one record of `kind` ("step", "epoch" or "health") to metrics.jsonl."""
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")

    def metrics(self, kind: str = "step") -> list[dict]:
        """The records of `kind`, in order of `step`; where a resumed run did a step again, its last record."""
        lines = self._text("metrics.jsonl").splitlines()
        records = [json.loads(line) for line in lines if line.endswith("}")]  # a crash can cut a line short
        last = {record["step"]: record for record in records if record["kind"] == kind}
        return [last[step] for step in sorted(last)]

    def _end_cut_line(self) -> None:
        if self._text("metrics.jsonl").rpartition("\n")[2]:  # what is appended next must begin a line of its own
            with open(self.path / "metrics.jsonl", "a") as file:
                file.write("\n")

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

    def _set_status(self, state: str, message: str = "") -> None:
        self._write("status.json", {"state": state, "message": message, "time": utc_now()})

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

    # Checkpoints: what training resumes from.

    def save_checkpoint(self, state: dict) -> None:
        """Write checkpoint.pt; the one before it stays as checkpoint.previous.pt."""
        import torch

        current, previous = (self.path / name for name in CHECKPOINTS)
        with replacing(current) as temporary:
            torch.save(state, temporary)
            if current.exists():
                os.replace(current, previous)

    def load_checkpoint(self) -> dict:
        """The last checkpoint that can be read, on the CPU. Raises ValueError where there is none."""
        import torch

        files = [self.path / name for name in CHECKPOINTS]
        for file in filter(Path.exists, files):
            try:
                return torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # whatever unpickling half a file raises
                warnings.warn(f"{file} cannot be read ({error})", stacklevel=2)
        remedy = "train the run; where there are damaged ones, delete them or give another run_dir"
        raise ValueError(f"checkpoint: expected one that can be read in {self.path}, got none; {remedy}")

    # Weights: of the encoder after training, and of encoder and projection head after some epochs (a snapshot).

    def save_weights(self, name: str, weights: Weights) -> None:
        """Write <name>.safetensors: "encoder", or what `snapshot` calls the model after some epochs."""
        from safetensors.torch import save_file

        with replacing(self.path / f"{name}.safetensors") as temporary:
            save_file({key: tensor.contiguous() for key, tensor in weights.items()}, temporary)

    @staticmethod
    def snapshot(epochs: int) -> str:
        """The name of the weights of encoder and projection head after so many epochs."""
        return f"snapshots/epoch-{epochs:04}"

    @property
    def snapshots(self) -> list[int]:
        """The numbers of epochs after which there is a snapshot."""
        return sorted(int(file.stem.removeprefix("epoch-")) for file in self.path.glob("snapshots/*.safetensors"))

    def load_encoder_weights(self) -> Weights:
        """The encoder's weights after training, or, before its end, at the last checkpoint."""
        if (self.path / "encoder.safetensors").exists():
            return self._load("encoder")
        weights = self.load_weights()
        return {name.removeprefix("encoder."): weights[name] for name in weights if name.startswith("encoder.")}

    def load_weights(self, epochs: int | None = None) -> Weights:
        """The weights of encoder and projection head after so many epochs; None: the last that were kept.

        Raises ValueError where there are none.
        """
        if epochs is None and self.config.epochs not in self.snapshots:
            return self.load_checkpoint()["model"]
        epochs = self.config.epochs if epochs is None else epochs
        require(epochs in self.snapshots, "epochs", f"one of the snapshots {self.snapshots} in {self.path}", epochs)
        return self._load(self.snapshot(epochs))

    def _load(self, name: str) -> Weights:
        from safetensors.torch import load_file

        return load_file(self.path / f"{name}.safetensors")

    # Arrays, figures, and how files are written and read.

    def save_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Write <name>.npz."""
        with replacing(self.path / f"{name}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    def load_arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of <name>.npz; none where there is no such file."""
        file = self.path / f"{name}.npz"
        return dict(np.load(file)) if file.exists() else {}

    def figure(self, name: str) -> Path:
        """The path of figures/<name>.png."""
        return self.path / "figures" / f"{name}.png"

    def _text(self, name: str) -> str:
        file = self.path / name
        return file.read_text() if file.exists() else ""

    def _read(self, name: str) -> dict:
        return json.loads(self._text(name) or "{}")

    def _write(self, name: str, values: dict) -> None:
        with replacing(self.path / name) as temporary:
            temporary.write_text(json.dumps(values, indent=1) + "\n")


class Follower(Run):
    """The run in every process but the first: it reads, and leaves all writing to the first."""

    def _leave_it_to_the_first(self, *args: Any, **values: Any) -> None: ...

    log = save_checkpoint = save_weights = save_arrays = _write = _leave_it_to_the_first
