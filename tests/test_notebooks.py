"""The numbered notebooks: their anatomy, and that they do what they say, executed by papermill as a user does."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import nbformat
import numpy as np
import pytest
from PIL import Image

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
    assert list(without["alarms"]) == ["color"]
    assert with_color["alarms"] == {}  # a healthy run rings none
    assert "Colour is a shortcut" in outputs(project / "out.ipynb")
    for run in (Run.open(run_dir / name) for name in ("with_color", "without_color")):
        readings, epochs = ([record["seconds"] for record in run.metrics(kind)] for kind in ("health", "epoch"))
        # by the median: one reading that had to wait for another test says nothing of what health costs
        assert len(readings) * median(readings) < 0.05 * sum(epochs)
    figures = {path.stem for path in (run_dir / "figures").iterdir()}
    assert figures == {"loss", "precision", "neighbors_untrained", "neighbors_without_color", "neighbors_with_color"}


def test_cifar10_on_real_images_from_the_root_and_from_inside_notebooks(project, unpack_cifar10):
    unpack_cifar10(project / "data", "train", 60, 10)
    unpack_cifar10(project / "data", "test", 20, 10)
    small = ["-p", "arch", "convnet", "-p", "batch_size", "64", "-p", "epochs", "2"]
    papermill(project, "notebooks/03_cifar10.ipynb", "out.ipynb", *small)
    papermill(project / "notebooks", "03_cifar10.ipynb", "../inside.ipynb", *small, "-p", "limit_images", "300")
    run, limited = map(Run.open, sorted((project / "runs").iterdir()))
    assert run.config.actual_temperature == 0.5
    classes = run.summary["classification"]
    assert (classes["train_images"], classes["test_images"]) == (600, 200)
    assert limited.summary["classification"]["train_images"] == 300
    assert {"knn@20 top1", "knn@200 top1", "linear probe mean_per_class"} <= set(classes["scores"]["trained encoder"])
    neighbors = np.load(run.path / "neighbors.npz")
    assert neighbors["neighbors"].shape == (600, 10)
    assert not (neighbors["neighbors"] == neighbors["ids"][:, None]).any()  # no image is its own neighbour
    assert np.load(run.path / "embeddings.npy").shape == (600, 128)
    figures = {path.stem for path in run.path.glob("figures/*.png")}
    pictures = {"loss", "similarity", "health", "classification", "per_class", "neighbors", "neighbors_best_to_worst"}
    assert figures == pictures
    assert "kNN gain over the better baseline" in outputs(project / "out.ipynb")
    trained = run.metrics()

    papermill(project, "notebooks/03_cifar10.ipynb", "again.ipynb", *small, "-p", "run_dir", str(run.path))
    assert len(list((project / "runs").iterdir())) == 2  # resumed, not started anew
    assert len(trained) == len(Run.open(run.path).metrics()) == 18


def write_stl10(root: Path, folder: Path, parts: dict[str, int]) -> None:
    """The images of class folders as STL-10's binary files: columns first, labels from 1; parts: images a class."""
    names = sorted(path.name for path in folder.iterdir())
    (root / "stl10_binary").mkdir(parents=True)
    (root / "stl10_binary/class_names.txt").write_text("\n".join(names))
    start = 0
    for part, each in parts.items():
        files = [file for name in names for file in sorted((folder / name).iterdir())[start : start + each]]
        pixels = [np.asarray(Image.open(file).convert("RGB").resize((96, 96))) for file in files]
        np.stack(pixels).transpose(0, 3, 2, 1).tofile(root / f"stl10_binary/{part}_X.bin")
        if part != "unlabeled":
            np.repeat(np.arange(1, len(names) + 1, dtype=np.uint8), each).tofile(root / f"stl10_binary/{part}_y.bin")
        start += each


EVERY_PICTURE = {"loss", "similarity", "health", "retrieval", "per_class", "neighbors", "neighbors_best_to_worst"}
EVERY_PICTURE |= {"neighbors_over_training", "neighbors_by_layer", "map"}


def test_iteration_1_on_real_images_in_stl10_s_layout_beside_a_run_with_heavy_color(project, unpack_caltech101):
    folder = unpack_caltech101(project, 34, ["Leopards", "Motorbikes", "accordion", "bonsai"])
    write_stl10(project / "data", folder, {"train": 8, "test": 6, "unlabeled": 20})
    small = ["-p", "batch_size", "40", "-p", "epochs", "2", "-p", "evaluation_images", "20", "-p", "neighbors_k", "3"]
    papermill(project, "notebooks/01_alexnet_stl10.ipynb", "weak.ipynb", *small)
    (weak,) = map(Run.open, (project / "runs").iterdir())
    assert (weak.config.dataset, weak.config.split, weak.config.arch) == ("stl10", "unlabeled", "alexnet")
    assert (weak.config.optimizer, weak.config.learning_rate, weak.config.color_strength) == ("sgd", 0.1, 0.2)
    assert {path.stem for path in weak.path.glob("figures/*.png")} == EVERY_PICTURE
    summary = weak.summary
    assert summary["classification"]["train_images"] == 32
    assert summary["classification"]["test_images"] == 24
    assert len(weak.metrics("health")) == 3

    more = ["-p", "color_strength", "1.0", "-p", "arch", "vit_tiny", "-p", "optimizer", "lars"]
    more += ["-p", "learning_rate", "0.3", "-p", "lr_scaling", "linear", "-p", "momentum", "0.9"]
    more += ["-p", "warmup_epochs", "2", "-p", "compare_with", str(weak.path)]
    more += ["-p", "query_file", str(next((folder / "bonsai").iterdir())), "-p", "similarity", "dot"]
    papermill(project, "notebooks/01_alexnet_stl10.ipynb", "heavy.ipynb", *small, *more)
    (heavy,) = (run for run in map(Run.open, (project / "runs").iterdir()) if run.path != weak.path)
    figures = {path.stem for path in heavy.path.glob("figures/*.png")}
    assert figures == EVERY_PICTURE | {"neighbors_of_two_runs", "neighbors_of_file"}
    rang = len(heavy.summary["alarms"])
    assert f"{rang or 'no'} alarm{'' if rang == 1 else 's'} rang" in outputs(project / "heavy.ipynb")
    assert (heavy.config.arch, heavy.config.optimizer, heavy.config.lr_scaling) == ("vit_tiny", "lars", "linear")


def test_iteration_2_on_real_images_of_caltech101_and_of_a_folder_of_one_s_own(project, unpack_caltech101):
    folder = unpack_caltech101(project / "data", 40, ["Faces", "Faces_easy", "airplanes", "watch"])
    small = ["-p", "arch", "resnet18", "-p", "image_size", "48", "-p", "batch_size", "48", "-p", "epochs", "1"]
    small += ["-p", "evaluation_images", "100"]
    papermill(project / "notebooks", "02_resnet50_caltech101.ipynb", "../out.ipynb", *small)
    (run,) = map(Run.open, (project / "runs").iterdir())
    ids = np.load(run.path / "images.npz")
    assert (len(ids["ids"]), len(ids["probe_ids"])) == (144, 16)  # kept out, to read health on
    assert "50.0% of the test images" in run.summary["classification"]["near_duplicates"]
    assert run.summary["classification"]["classes"] == "4 (BACKGROUND_Google is left out)"
    assert len(run.summary["prediction_met"]) == 3

    own = ["-p", "store_size", "56", "-p", "resize", "crop", "-p", "optimizer", "lars", "-p", "learning_rate", "0.3"]
    own += ["-p", "lr_scaling", "linear", "-p", "warmup_epochs", "10"]
    own += ["-p", "dataset", "folder", "-p", "data_root", str(folder), "-p", "query_file", __file__]
    with pytest.raises(AssertionError, match=r"expected a file that Pillow can read"):  # before any training
        papermill(project, "notebooks/02_resnet50_caltech101.ipynb", "own.ipynb", *small, *own)
    assert len(list((project / "runs").iterdir())) == 1
    own[-1] = str(next((folder / "watch").iterdir()))
    papermill(project, "notebooks/02_resnet50_caltech101.ipynb", "own.ipynb", *small, *own)
    (second,) = (found for found in map(Run.open, (project / "runs").iterdir()) if found.path != run.path)
    assert second.figure("neighbors_of_file").exists()
    assert (second.config.optimizer, second.config.actual_store_size, second.config.resize) == ("lars", 56, "crop")


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
