"""Where a run ran: what a reader needs to repeat it, or to explain a difference."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from simclr_lib.engine.paths import project_root


def environment() -> dict:
    """This process's surroundings: package versions, commit, processor, time."""
    return {
        "started": utc_now(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("torch", "torchvision", "numpy", "pillow", "scikit-learn")},
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        **commit(),
    }


def commit() -> dict:
    """{"commit": hash, "dirty": whether tracked files differ from it}, of the project root; None where unknown.

    What runs/ holds came out of the code and is not counted: a committed report is not dirty for being made anew.
    """
    status = ["git", "-C", str(project_root()), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        done = subprocess.run([*status, "--", ".", ":(exclude)runs"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    head, *others = done.stdout.splitlines()  # "# branch.oid <hash>", more such headers, a line for each changed file
    return {"commit": head.split()[-1], "dirty": any(not line.startswith("#") for line in others)}


def utc_now() -> str:
    """The time as 2026-01-31T12:00:00Z."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def processor() -> str:
    """The processor's name, where the system tells it."""
    file = Path("/proc/cpuinfo")  # of Linux
    lines = file.read_text().splitlines() if file.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
