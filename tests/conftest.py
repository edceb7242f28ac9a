"""Seeds for all tests, and real images for those that want them: without the archive these skip, and say so."""

import os
import random
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:  # workers of two threads each, on two cores, wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# In the background of a shell SIGINT is ignored, and so it would be in every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(os.environ.get("SIMCLR_SHARED_DATA") or Path(__file__).parents[2] / "shared/data")


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """The same inputs at every run, so that a test does not fail by chance; slow tests draw fresh ones."""
    seed = torch.seed() if "slow" in request.keywords else 0
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@pytest.fixture(autouse=True, scope="session")
def cache_of_one_session(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The stores of folders go to the user's cache, which is not the tests' to fill."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


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


@pytest.fixture(scope="session")
def unpack_caltech101() -> Callable[[Path, int, list[str]], Path]:
    """A function: unpack(root, per_class, classes) puts JPEGs where torchvision's Caltech-101 has them below root."""
    archive = SHARED_DATA / "caltech101.tar"
    if not archive.exists():
        pytest.skip(f"no {archive.name} in {SHARED_DATA} (set SIMCLR_SHARED_DATA to the folder that has it)")

    def unpack(root: Path, per_class: int, classes: list[str]) -> Path:
        with tarfile.open(archive) as members:
            for member in members:
                folder, name = os.path.split(member.name)
                wanted = os.path.basename(folder) in classes and member.isfile()
                if wanted and int(name.removeprefix("image_").removesuffix(".jpg")) <= per_class:
                    members.extract(member, root, filter="data")
        return root / "caltech101/101_ObjectCategories"

    return unpack
