"""Where things are when nobody says: the project's root and the folder of its data."""

import os
from pathlib import Path


def project_root() -> Path:
    """The nearest folder at or above the working directory that holds `notebooks/`, else the working directory."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "notebooks").is_dir()), here)


def data_root() -> Path:
    """The folder of data sets: `$SIMCLR_DATA` where it is set, else `<project root>/data`."""
    return Path(os.environ.get("SIMCLR_DATA") or project_root() / "data").expanduser()
