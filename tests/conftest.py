"""Real images for the tests that want them; without the archive those tests skip, and say so."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

SHARED_DATA = Path(os.environ.get("SIMCLR_SHARED_DATA") or Path(__file__).parents[2] / "shared/data")


@pytest.fixture(scope="session")
def unpack_cifar10() -> Callable[[Path, str, int, int], None]:
    """A function: unpack(root, split, per_class, classes) puts JPEGs into root/cifar10/<split>/<class>."""
    archive = SHARED_DATA / "cifar10.tar.xz"
    if not archive.exists():
        pytest.skip(f"no {archive.name} in {SHARED_DATA} (set SIMCLR_SHARED_DATA to the folder that has it)")

    def unpack(root: Path, split: str, per_class: int, classes: int) -> None:
        counts = {}
        with tarfile.open(archive, "r|xz") as members:
            for member in members:
                if not member.isfile() or not member.name.startswith(split):
                    continue
                folder = os.path.dirname(member.name)
                counts[folder] = counts.get(folder, 0) + 1
                if len(counts) > classes:
                    return  # the archive is sorted: what comes is not wanted
                if counts[folder] <= per_class:
                    members.extract(member, root / "cifar10", filter="data")

    return unpack
