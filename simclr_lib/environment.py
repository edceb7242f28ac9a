"""Where a run ran: what a reader needs to repeat it, or to explain a difference."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from simclr_lib.paths import project_root

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "scikit-learn")


def environment() -> dict:
    """This process's surroundings: package versions, commit, processor, time."""
    return {
        "started": utc_now(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        **commit(),
    }


def commit() -> dict:
    """{"commit": hash, "dirty": whether tracked files differ from it}, of the project root; None where unknown.

    What runs/ holds came out of the code and is not counted: a committed report is not dirty for being made anew.
    """
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)runs")
        return {"commit": head, "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(project_root()), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def utc_now() -> str:
    """The time as 2026-01-31T12:00:00Z."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
