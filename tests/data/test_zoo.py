"""A zoo of whole, odd and damaged files: each is read as what was put into it, or refused with a reason."""

import re
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from itertools import combinations
from pathlib import Path

import image_zoo
import numpy as np
import pytest
from image_zoo import SIDE, Animal
from PIL import EpsImagePlugin, Image

from simclr_lib.data.decode import decode_or_reason, readable_suffixes
from simclr_lib.data.store import open_store

MEMORY = 60  # MB above what is imported, for the whole zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> dict[str, Animal]:
    return image_zoo.write_zoo(str(tmp_path_factory.mktemp("zoo")))


def what_is_wrong(animal: Animal, got: np.ndarray | str) -> str:
    if animal.pixels is None:
        return "" if isinstance(got, str) and re.search(animal.reason, got) else f"not refused: {got}"
    if isinstance(got, str):
        return f"refused: {got}"
    apart = np.abs(got.transpose(1, 2, 0).astype(float) - animal.pixels).max()
    return "" if apart <= animal.tolerance else f"{apart} apart"


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_every_file_is_what_it_holds_or_refused_with_a_reason(zoo, resize):
    wrong = {animal.name: what_is_wrong(animal, decode_or_reason(path, SIDE, resize)) for path, animal in zoo.items()}
    assert {ascii(name): what for name, what in wrong.items() if what} == {}
    kinds = Counter("refused" if animal.pixels is None else "read" for animal in zoo.values())
    assert kinds["read"] >= 150
    assert kinds["refused"] >= 30


def test_tolerances_are_only_for_what_is_lossy_or_rounded(zoo):
    assert sum(animal.tolerance == 0 for animal in zoo.values()) > 0.6 * len(zoo)
    assert max(animal.tolerance for animal in zoo.values()) <= 20
    pixels = [animal.pixels for animal in zoo.values() if animal.pixels is not None]
    seen = {each.tobytes(): each.astype(float) for each in pixels}
    apart = [np.abs(a - b).max() for a, b in combinations(seen.values(), 2)]
    assert np.median(apart) > 100  # one taken for another would be seen


def test_a_store_has_what_can_be_read_in_order_and_why_the_others_cannot(zoo):
    images, missing = open_store(list(zoo), SIDE, "squash", workers=2)
    refused = [row for row, animal in enumerate(zoo.values()) if animal.pixels is None]
    assert sorted(missing) == refused
    assert all(missing.values())
    read = iter(images)
    assert not any(what_is_wrong(animal, next(read)) for animal in zoo.values() if animal.pixels is not None)


def test_no_file_starts_a_program(zoo, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "check_call", lambda *command, **_: started.append(command))
    monkeypatch.setattr(subprocess, "Popen", lambda *command, **_: started.append(command))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")  # as where Ghostscript is installed
    for path in zoo:
        decode_or_reason(path, SIDE, "squash")
    assert not started
    drawing = next(path for path in zoo if path.endswith(".eps"))
    with suppress(OSError), Image.open(drawing) as image:  # what it should have drawn is not there
        image.load()
    assert started  # Pillow alone would


def test_suffixes_of_the_zoo_are_listed(zoo):
    whole = {Path(path).suffix.lower() for path, animal in zoo.items() if animal.pixels is not None} - {""}
    assert whole <= readable_suffixes()
    assert len(whole) >= 20


MEASURE = """
import resource, sys, os, warnings
import numpy as np
from PIL import Image
from simclr_lib.data.decode import decode_or_reason
warnings.simplefilter("ignore")
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))
decode_or_reason(np.zeros((3, 300, 300), np.uint8), 224, "crop")
before = peak()
for name in os.listdir(sys.argv[1]):
    for resize in ("crop", "squash"):
        decode_or_reason(os.path.join(sys.argv[1], name), 224, resize)
print(peak() - before)
"""


@pytest.mark.child
def test_no_file_takes_more_memory_than_a_photograph(zoo):
    folder = str(Path(next(iter(zoo))).parent)
    done = subprocess.run([sys.executable, "-c", MEASURE, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < MEMORY  # 6,600 for the lines of 30,000 pixels, enlarged before they were cut
