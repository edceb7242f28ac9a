"""The default places of data and runs, and the paths that a user gives."""

import json
import os
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from simclr_lib.engine.checks import require


def project_root() -> Path:
    """The nearest folder at or above the working directory that holds `notebooks/`, else the working directory."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "notebooks").is_dir()), here)


def data_root() -> Path:
    """The folder of data sets: `$SIMCLR_DATA` where it is set, else `<project root>/data`."""
    return Path(os.environ.get("SIMCLR_DATA") or project_root() / "data").expanduser()


def user_path(value: str | os.PathLike, name: str) -> Path:
    """The absolute path that a user gave as `name`, with ~ as a shell has it. Raises ValueError for what is no path."""
    require(isinstance(value, str | os.PathLike) and str(value), name, "a path as text", repr(value), "quote it")
    return Path(os.path.expanduser(value)).absolute()


def new_run_dir(notebook: str) -> Path:
    """Make <root>/runs/<utc time>-<notebook>, the directory of a new run, which no other run has."""
    while True:
        path = project_root() / "runs" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{notebook}"
        with suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
        time.sleep(0.05)  # a run that starts within the same second waits for the next


def require_writable(path: str | Path) -> Path:
    """`path` as an absolute directory that exists and can be written. Raises ValueError where that cannot be."""
    path = user_path(path, "run_dir")
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        got = f"{path} ({error.strerror}); give another run_dir"
        raise ValueError(f"run_dir: expected a directory that can be written, got {got}") from error
    return path


def read_json(file: Path) -> dict:
    """What a json file holds, nothing where there is none. Raises ValueError, naming it, where it is damaged."""
    try:
        return json.loads(file.read_text()) if file.exists() else {}
    except ValueError as error:
        raise ValueError(f"{file}: expected a json file, got {error}; restore it, or delete it if you can") from error
