"""What follows from a configuration and its images, as a notebook prints it before training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr_lib import RunConfig
from simclr_lib.evaluation.health import load_training_images
from simclr_lib.log.sections import derived

TINY = dict(image_size=16, norm="group", blur=False, batch_size=16, epochs=1, device="cpu")


def write_folder(root: Path, count: int) -> Path:
    """Put so many images into two classes below `root`."""
    for i in range(count):
        file = root / "ab"[i % 2] / f"{i:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.randint(0, 256, (8, 8, 3), np.uint8)).save(file)
    return root


@pytest.mark.parametrize(("count", "unseen", "read"), [(19, 1, False), (159, 15, False), (160, 16, True)])
def test_it_is_told_whether_health_is_read_and_on_how_many_others(tmp_path, count, unseen, read):
    config = RunConfig(**{**TINY, "image_size": 8}, dataset="folder", data_root=str(write_folder(tmp_path, count)))
    facts = derived(config, load_training_images(config))
    assert facts["images"].startswith(f"{count - unseen} of folder")
    assert (f"read on {unseen} others" in facts["health"]) == read
    assert ("not read" in facts["health"]) != read


def test_of_a_data_set_with_a_test_split_all_images_are_trained_on():
    config = RunConfig(**TINY, limit_images=48)
    facts = derived(config, load_training_images(config))
    assert facts["images"].startswith("48 of embedded")
    assert "256" in facts["health"]
