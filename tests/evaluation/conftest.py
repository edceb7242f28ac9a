"""A small run for all tests of this room; of a run directory, tests see a copy of their own."""

import shutil
from pathlib import Path

import pytest
import torch

from simclr_lib import ImageSet, Run, RunConfig, load_images, train


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The directory of a run of two epochs with BatchNorm; its held-out images are too few for health to be read."""
    config = RunConfig(split="test", limit_images=64, batch_size=16, epochs=2, blur=False, device="cpu", seed=4)
    return train(config, tmp_path_factory.mktemp("trained")).path


@pytest.fixture
def run(trained, tmp_path) -> Run:
    shutil.copytree(trained, tmp_path / "run")
    return Run.open(tmp_path / "run")  # as a later reader has it


@pytest.fixture
def gallery() -> ImageSet:
    return load_images("embedded", "test", limit=120, seed=int(torch.randint(1000, ())))  # ids are not positions here
