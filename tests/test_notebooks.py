"""The numbered notebooks: their anatomy, and that they do what they say, executed by papermill as a user does."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

from simclr_lib import Run

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAY_IMPORT_TOO = {"05_numerics": {"sys", "references"}}  # what it holds the library to, from tests/references.py


def cells(path: Path, kind: str) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_source_notebook_keeps_the_house_rules(path):
    code, prose = cells(path, "code"), cells(path, "markdown")
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "outputs belong to the run"
    assert prose[0].source.startswith(f"# {path.stem[:2]} ")
    assert all(word in prose[0].source for word in ("**Question.**", "**Prediction.**", "**Compared with.**"))
    assert [len([c for c in code if name in tags(c)]) for name in ("parameters", "checks")] == [1, 1]
    for cell in code:
        tree = ast.parse(cell.source)
        assert not any(isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Lambda) for n in ast.walk(tree))
        modules = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        modules += [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
        assert {module.split(".")[0] for module in modules} <= {"simclr_lib"} | MAY_IMPORT_TOO.get(path.stem, set())
        assert "parameters" in tags(cell) or len(cell.source.splitlines()) <= 13


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_parameters_are_flat_literals_with_run_dir_among_them(path):
    (cell,) = (cell for cell in cells(path, "code") if "parameters" in tags(cell))
    values = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(cell.source).body}
    assert values["run_dir"] == ""
    assert values["seed"] == 0


def test_stripping_outputs_keeps_the_parameters_tag(tmp_path):
    path = tmp_path / "copy.ipynb"
    shutil.copy(SOURCES[0], path)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="a result")]
    nbformat.write(notebook, path)
    subprocess.run([sys.executable, "-m", "nbstripout", str(path)], check=True)
    stripped = nbformat.read(path, as_version=4)
    assert not stripped.cells[1].outputs
    assert "parameters" in stripped.cells[1].metadata.tags


def papermill(where: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", *arguments]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def project(tmp_path) -> Path:
    """A project of its own, so that its runs and data are not this one's."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests/references.py", tmp_path / "tests")
    return tmp_path


def outputs(report: Path) -> str:
    return json.dumps([cell.outputs for cell in cells(report, "code")])


def test_the_quickstart_meets_its_prediction(project):
    papermill(project, "notebooks/00_quickstart.ipynb", "out.ipynb")
    assert "prediction met" in outputs(project / "out.ipynb")
    (run_dir,) = (project / "runs").iterdir()
    with_color, without = (Run.open(run_dir / name).summary for name in ("with_color", "without_color"))
    untrained = with_color["untrained_precision_at_5_class"]
    assert with_color["precision_at_5_class"] >= max(0.5, 1.5 * untrained)
    assert without["precision_at_5_class"] <= with_color["precision_at_5_class"] - 0.2
    assert without["precision_at_5_color"] > with_color["precision_at_5_color"]
    figures = {path.stem for path in (run_dir / "figures").iterdir()}
    assert figures == {"loss", "precision", "neighbors_untrained", "neighbors_without_color", "neighbors_with_color"}


def test_cifar10_on_real_images_from_the_root_and_from_inside_notebooks(project, unpack_cifar10):
    unpack_cifar10(project / "data", "train", 60, 10)
    unpack_cifar10(project / "data", "test", 20, 10)
    small = ["-p", "arch", "convnet", "-p", "batch_size", "64", "-p", "epochs", "2"]
    papermill(project, "notebooks/03_cifar10.ipynb", "out.ipynb", *small)
    papermill(project / "notebooks", "03_cifar10.ipynb", "../inside.ipynb", *small, "-p", "limit_images", "300")
    first, second = map(Run.open, sorted((project / "runs").iterdir()))
    assert first.config.actual_temperature == 0.5
    assert (first.summary["bank_images"], second.summary["bank_images"]) == (600, 300)
    assert first.summary["test_images"] == 200
    neighbors = np.load(first.path / "neighbors.npz")
    assert neighbors["neighbors"].shape == (600, 10)
    assert not (neighbors["neighbors"] == neighbors["ids"][:, None]).any()  # no image is its own neighbour
    assert np.load(first.path / "embeddings.npy").shape == (600, 128)
    assert {path.stem for path in first.path.glob("figures/*.png")} == {"loss", "scores", "neighbors"}
    assert "kNN accuracy" in outputs(project / "out.ipynb")

    papermill(project, "notebooks/03_cifar10.ipynb", "again.ipynb", *small, "-p", "run_dir", str(first.path))
    assert len(list((project / "runs").iterdir())) == 2  # resumed, not started anew
    assert len(Run.open(first.path).metrics()) == 18


def test_every_numeric_claim_holds_from_inside_notebooks(project):
    papermill(project / "notebooks", "05_numerics.ipynb", "../out.ipynb")
    (run_dir,) = (project / "runs").iterdir()
    claims = json.loads((run_dir / "summary.json").read_text())["claims"]
    assert len(claims) == 9
    shown = outputs(project / "out.ipynb")
    assert all(f"held   {claim}" in shown for claim in claims)
    figures = {path.stem for path in (run_dir / "figures").iterdir()}
    assert figures == {"one_gradient", "lars_drift", "norms", "schedule", "blur", "draws"}


def test_a_numeric_claim_that_does_not_hold_stops_the_notebook(project):
    with pytest.raises(AssertionError, match="AssertionError"):
        papermill(project, "notebooks/05_numerics.ipynb", "out.ipynb", "-p", "tolerance_float64", "0")
    assert "held   " not in outputs(project / "out.ipynb")
