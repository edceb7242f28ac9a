"""The package as others install it: a wheel holds every room, template and script, and works away from the checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.child


@pytest.fixture
def installed(tmp_path) -> Path:
    """A folder with what the wheel installs, and nothing else; the libraries are those of this environment."""
    place = tmp_path / "wheel"
    source = place / "source"
    shutil.copytree(ROOT / "simclr_lib", source / "simclr_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(place), str(source)]
    subprocess.run(pip, check=True, capture_output=True, timeout=300)
    (wheel,) = place.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(place / "installed")
    return place / "installed"


def run(installed: Path, cwd: Path, *arguments: str) -> str:
    code = (
        f"import simclr_lib; assert simclr_lib.__file__.startswith({str(installed)!r}); import simclr_lib.__main__ as m"
    )
    command = [sys.executable, "-c", f"{code}; m.main({list(arguments)!r})"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_whole_and_lists_trains_scores_and_writes_pages_away_from_the_checkout(installed, tmp_path):
    files = [file.relative_to(ROOT) for file in (ROOT / "simclr_lib").rglob("*.*")]
    assert [file for file in files if "__pycache__" not in file.parts and not (installed / file).exists()] == []
    assert "pages" in run(installed, tmp_path, "--help")
    for number in range(48):
        file = tmp_path / f"photos/{'ab'[number % 2]}/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((16, 16), number + 1).save(file)
    config = {"dataset": "folder", "data_root": "photos", "image_size": 16, "epochs": 1, "batch_size": 16}
    (tmp_path / "config.json").write_text(json.dumps(config))
    run(installed, tmp_path, "train", "--config", "config.json", "--run-dir", "runs/a")
    assert "finished" in run(installed, tmp_path, "list")
    assert "precision@5" in run(installed, tmp_path, "score", "runs/a")
    run(installed, tmp_path, "pages")
    index = (tmp_path / "runs/index.html").read_text()
    assert 'data-run="a"' in index
    assert "precision@5" in index
    assert (tmp_path / "runs/assets/plotly.js").stat().st_size > 1e6
