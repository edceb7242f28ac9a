"""A run directory: everything needed to say how a result came about, written once, read by all that comes later.

config.json  metrics.jsonl  status.json  summary.json  environment.json  images.npz
checkpoint.pt (+ checkpoint.previous.pt)  encoder.safetensors  snapshots/  embeddings/  neighbors.npz  figures/
"""

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simclr_lib.config import RunConfig
from simclr_lib.engine.checks import require
from simclr_lib.engine.environment import environment, utc_now
from simclr_lib.engine.interruption import interruption
from simclr_lib.engine.lock import one_writer, rewriting, writer, writing
from simclr_lib.engine.paths import read_json, require_writable, user_path
from simclr_lib.engine.progress import say_once
from simclr_lib.engine.records import flat_scores, last_record, read_records, records_until, unreadable_row

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")  # the last one, and the one before it


@dataclass(frozen=True)
class Run:
    """One run directory. `Run.start` opens it for training, `Run.open` for reading."""

    path: Path
    config: RunConfig

    @classmethod
    @contextmanager
    def writing(cls, path: str | Path, config: RunConfig) -> Iterator["Run"]:
        """`start`, as the one writer of `path` inside. Raises ValueError, too, where another process trains in it."""
        with one_writer(require_writable(path)):
            yield cls.start(path, config)

    @classmethod
    def start(cls, path: str | Path, config: RunConfig) -> "Run":
        """Open `path` for training with `config`: a new directory, or one with a part of the same run.

        What a run without a checkpoint had recorded is deleted: it is all done again.

        Raises:
            ValueError: if `path` cannot be written, or already holds a run of another configuration.
        """
        run = cls(require_writable(path), config)
        if run.require_same():
            recorded = "metrics.jsonl", "summary.json", "encoder.safetensors", "snapshots/*", "embeddings/*", "*.npz"
            for pattern in (".*.tmp", "*/.*.tmp", *(() if run.begun else recorded)):  # what a killed process left half
                for file in run.path.glob(pattern):
                    file.unlink(missing_ok=True)
        if not run.finished:
            run._write("config.json", config.to_dict())
        return run

    def require_same(self) -> bool:
        """Whether there is a run already. Raises ValueError where it is one of another configuration."""
        there = (self.path / "config.json").exists()
        changes = Run.open(self.path).config.differences(self.config).items() if there else ()
        listed = ", ".join(f"{name} {before!r} -> {now!r}" for name, (before, now) in changes)
        require(not changes, "run_dir", f"the configuration of the run in {self.path}", listed, "give another run_dir")
        return there

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open an existing run directory for reading. Raises ValueError if `path` is none."""
        file = user_path(path, "run directory") / "config.json"
        require(file.is_file(), "run directory", "a folder with a config.json", file.parent, "runs lie under runs/")
        return cls(file.parent, RunConfig.from_dict(read_json(file)))

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
        with writing(self.path, "metrics.jsonl") as path, open(path, "a") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")

    def metrics(self, kind: str = "step") -> list[dict]:
        """The records of `kind`, in order of `step`."""
        return [record for record in read_records(self.path / "metrics.jsonl") if record["kind"] == kind]

    def cut_metrics(self, epochs: int, steps: int) -> None:
        """Leave in metrics.jsonl what `records_until` has. Raises ValueError where a step is missing."""
        kept = records_until(self.path / "metrics.jsonl", epochs, steps)
        with rewriting(self.path, "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))

    # Status, summary, environment.

    @property
    def status(self) -> dict:
        """state ("running", "died", "finished", "interrupted" or "failed"), message, time of the last change (UTC)."""
        status = read_json(self.path / "status.json")
        if status.get("state") == "running" and not writer(self.path):
            return {**status, "state": "died", "message": "its process was killed; the same call goes on"}
        return status

    @contextmanager
    def recording_status(self) -> Iterator[None]:
        """Keep status.json true around the work inside, also where a signal ends it."""
        try:
            with interruption.keeping(self._set_interrupted):
                self._set_status("running")
                yield
                self._set_status("finished")
        except KeyboardInterrupt:
            self._set_interrupted()
            raise
        except BaseException as error:
            with suppress(Exception):  # a full disk, a lost lock: what is wrong is `error`
                lines = f"{type(error).__name__}: {error}".splitlines()  # torchrun's end in one of = and -
                self._set_status("failed", [line for line in lines if line.strip("=- ")][-1])
            raise

    def _set_interrupted(self) -> None:
        if not self.finished:
            self._set_status("interrupted", "stopped from outside; the same call goes on")

    @interruption.whole(changing=True)  # a signal comes before it or after it
    def _set_status(self, state: str, message: str = "") -> None:
        status = {"state": state, "message": message, "time": utc_now()}
        try:
            self._write("status.json", status)
        except OSError:  # on a full disk there is room in the file that is there
            with open(self.path / "status.json", "r+") as file:
                file.write(json.dumps(status) + "\n")
                file.truncate()

    @property
    def summary(self) -> dict:
        """What the run came to: summary.json, empty before anything was scored."""
        return read_json(self.path / "summary.json")

    def add_to_summary(self, **values: Any) -> None:
        """Set `values` in summary.json, beside what it already holds."""
        self._write("summary.json", {**self.summary, **values})

    @property
    def environment(self) -> dict:
        """Where the run ran: {"sessions": [...]}, one entry for each time training was started or resumed."""
        return {"sessions": [], **read_json(self.path / "environment.json")}

    def add_session(self, **values: Any) -> None:
        """Add to the environment that training was started or resumed here and now, and `values`: how it is split."""
        self._write("environment.json", {"sessions": [*self.environment["sessions"], environment() | values]})

    # Checkpoints: what training resumes from.

    def save_checkpoint(self, state: dict) -> None:
        """Write checkpoint.pt; the one before it stays as checkpoint.previous.pt."""
        import torch

        current, previous = (self.path / name for name in CHECKPOINTS)
        with rewriting(self.path, current.name) as temporary:
            torch.save(state, temporary)
            with writing(self.path, "metrics.jsonl") as path, open(path, "a") as file:
                os.fsync(file.fileno())  # a power failure must not take a step that the checkpoint has
            if current.exists():
                os.replace(current, previous)

    def load_checkpoint(self) -> dict:
        """The last checkpoint that can be read, on the CPU. Raises ValueError where there is none."""
        import torch

        for file in filter(Path.exists, (self.path / name for name in CHECKPOINTS)):
            try:
                return torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # whatever unpickling half a file raises
                warnings.warn(f"{file} cannot be read ({error})", stacklevel=2)
        remedy = "train the run; where there are damaged ones, delete them or give another run_dir"
        raise ValueError(f"checkpoint: expected one that can be read in {self.path}, got none; {remedy}")

    # Weights, name -> tensor: of the encoder after training, and of encoder and projection head after some epochs (a
    # snapshot). Torch is imported only where it is used, as listing runs needs none.

    def save_weights(self, name: str, weights: dict[str, Any]) -> None:
        """Write <name>.safetensors: "encoder", or what `snapshot` calls the model after some epochs."""
        from safetensors.torch import save_file

        with rewriting(self.path, f"{name}.safetensors") as temporary:
            save_file({key: tensor.contiguous() for key, tensor in weights.items()}, temporary)

    @staticmethod
    def snapshot(epochs: int) -> str:
        """The name of the weights of encoder and projection head after so many epochs."""
        return f"snapshots/epoch-{epochs:04}"

    @property
    def snapshots(self) -> list[int]:
        """The numbers of epochs after which there is a snapshot."""
        return sorted(int(file.stem.removeprefix("epoch-")) for file in self.path.glob("snapshots/*.safetensors"))

    def load_encoder_weights(self) -> dict[str, Any]:
        """The encoder's weights after training, or, before its end, at the last checkpoint."""
        if (self.path / "encoder.safetensors").exists():
            return self._load("encoder")
        weights = self.load_weights()
        return {name.removeprefix("encoder."): weights[name] for name in weights if name.startswith("encoder.")}

    def load_weights(self, epochs: int | None = None) -> dict[str, Any]:
        """The weights of encoder and projection head after so many epochs; None: the last that were kept.

        Raises ValueError where there are none.
        """
        if epochs is None and self.config.epochs not in self.snapshots:
            return self.load_checkpoint()["model"]
        epochs = self.config.epochs if epochs is None else epochs
        require(epochs in self.snapshots, "epochs", f"one of the snapshots {self.snapshots} in {self.path}", epochs)
        return self._load(self.snapshot(epochs))

    def _load(self, name: str) -> dict[str, Any]:
        from safetensors.torch import load_file

        return load_file(self.path / f"{name}.safetensors")

    # Arrays, and how files are written and read.

    def save_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Write <name>.npz."""
        with rewriting(self.path, f"{name}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    def load_arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of <name>.npz; none where there is no such file."""
        file = self.path / f"{name}.npz"
        return dict(np.load(file)) if file.exists() else {}

    def kept_arrays(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays of <name>.npz; what `make` returns, which is kept, where there is no such file.

        Where it cannot be written, a line says so, and the arrays are returned all the same.
        """
        if kept := self.load_arrays(name):
            return kept
        made = make()
        try:
            self.save_arrays(name, **made)
        except OSError:  # a directory that may only be read, a full disk
            say_once(f"{self.path} cannot be written: what is computed of this run is not kept for the next time")
        return made

    def _write(self, name: str, values: dict) -> None:
        with rewriting(self.path, name) as temporary:
            temporary.write_text(json.dumps(values, indent=1) + "\n")

    # All runs in one table.

    def row(self) -> dict:
        """What the run is and came to, by column: run (its directory's name), state, started (UTC), epochs_done, loss
        of the last epoch, chance_loss, alarms; every field of its configuration; its scores: see `flat_scores`."""
        last, summary = last_record(self.path / "metrics.jsonl", "epoch"), self.summary
        sessions = self.environment["sessions"] or [{"started": None}]
        facts = {"run": self.path.name, "state": self.status.get("state", "unknown"), "started": sessions[0]["started"]}
        facts |= {"epochs_done": last.get("epoch", -1) + 1, "loss": last.get("loss")}
        facts |= {"chance_loss": self.config.chance_loss, "alarms": ", ".join(summary.get("alarms", {}))}
        return {**facts, **self.config.to_dict(), **flat_scores(summary)}

    @classmethod
    def rows(cls, folder: str | Path) -> list[dict]:
        """The `row` of every run at any depth below `folder`, or its `unreadable_row`; its name is its path there."""
        folder, rows = user_path(folder, "runs"), []
        for file in sorted(folder.rglob("config.json")):
            name = file.parent.relative_to(folder).as_posix()
            try:
                rows.append({**cls.open(file.parent).row(), "run": name})
            except Exception as error:  # a damaged file, the run of another version: the others are listed all the same
                rows.append(unreadable_row(name, error))
        return rows

    @classmethod
    def list(cls, folder: str | Path = "runs") -> Any:
        """The `rows` of a folder as a pandas.DataFrame: a row a run, a column each parameter and each score."""
        import pandas  # slow, and needed here alone

        return pandas.DataFrame(cls.rows(folder))


class Follower(Run):
    """The run in every process but the first: it reads, and leaves all writing to the first."""

    def _leave_it_to_the_first(self, *args: Any, **values: Any) -> None: ...

    log = cut_metrics = save_checkpoint = save_weights = save_arrays = _write = _leave_it_to_the_first

    @classmethod
    @contextmanager
    def writing(cls, path: str | Path, config: RunConfig) -> Iterator["Run"]:
        """The run of `path`, which the first process opens for training."""
        with interruption.at_end(lambda: None):
            yield cls(user_path(path, "run_dir"), config)

    def _set_interrupted(self) -> None:
        time.sleep(1)  # so that the first, which gets its signal soon, does not see this one gone before
