"""The numbered notebooks: their anatomy, and that they do what they say, executed by papermill as a user does."""

import ast
import colorsys
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from simclr_lib import Run, RunConfig, train
from simclr_lib.evaluation.columns import Columns

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAY_IMPORT = {"simclr_lib", "dataclasses", "pandas"}
MAY_IMPORT_TOO = {"05_numerics": {"sys", "references", "diagrams"}}  # what it holds the library to, and draws with


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
        assert not any(isinstance(n, ast.Expr) and isinstance(n.value, ast.IfExp) for n in ast.walk(tree))
        modules = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        modules += [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
        allowed = MAY_IMPORT | MAY_IMPORT_TOO.get(path.stem, set())
        assert {module.split(".")[0] for module in modules} <= allowed
        lines = [line for line in cell.source.splitlines() if line]
        assert "parameters" in tags(cell) or len(lines) <= 9, cell.source


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_parameters_are_at_most_fourteen_flat_literals_with_run_dir_among_them(path):
    (cell,) = (cell for cell in cells(path, "code") if "parameters" in tags(cell))
    values = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(cell.source).body}
    assert values["run_dir"] == ""
    draws = path.stem not in ("04_compare_runs", "06_explore_neighbors")
    assert values.get("seed") == (0 if draws else None)
    assert 10 <= len(values) <= 14
    repeated = set(values) & {
        keyword.arg
        for other in cells(path, "code")
        for call in ast.walk(ast.parse(other.source))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "RunConfig.from_parameters"
        for keyword in call.keywords
    }
    assert not repeated, "a parameter is named once"


def test_notebooks_share_only_single_calls():
    sources = Counter(source for path in SOURCES for source in {cell.source for cell in cells(path, "code")})
    shared = [source for source, count in sources.items() if count > 1]
    assert len(shared) <= 8
    assert all(len(source.splitlines()) <= 2 for source in shared)


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


def test_the_colours_of_00_are_the_hues_of_the_standard_library():
    (cell,) = (cell.source for cell in cells(ROOT / "notebooks/00_quickstart.ipynb", "code") if "hue = " in cell.source)
    lines = [line for line in cell.splitlines() if line.startswith(("red,", "hue =", "colors ="))]
    pure = torch.tensor([[255, 0, 0], [255, 255, 0], [0, 255, 0], [0, 255, 255], [0, 0, 255], [255, 0, 255]])
    drawn = torch.randint(0, 256, (300, 3), generator=torch.Generator().manual_seed(0))
    images = torch.cat([pure, drawn]).byte()[:, :, None, None].expand(-1, -1, 4, 4)
    namespace = {"images": SimpleNamespace(images=images)}
    exec("\n".join(lines), namespace)
    found = namespace["colors"].tolist()
    hues = [colorsys.rgb_to_hsv(*rgb)[0] for rgb in torch.cat([pure, drawn]).tolist()]
    assert found[:6] == [0, 1, 2, 3, 4, 5]
    # the two notions of hue differ a little between the six corners
    assert sum(round(6 * hue) % 6 == color for hue, color in zip(hues, found, strict=True)) >= 0.93 * len(found)


def papermill(where: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", *arguments]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def project(tmp_path) -> Path:
    """A project of its own, so that its runs and data are not this one's."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    (tmp_path / "tests/notebooks").mkdir(parents=True)
    for name in ("references.py", "diagrams.py"):
        shutil.copy(ROOT / "tests/notebooks" / name, tmp_path / "tests/notebooks")
    return tmp_path


def outputs(report: Path) -> str:
    return json.dumps([cell.outputs for cell in cells(report, "code")])


def figures(run: Run) -> set[str]:
    return {path.stem for path in run.path.glob("figures/*.png")}


HEALTH = {"loss", "similarity", "health"}
EVERY_PICTURE = HEALTH | {"neighbors"}


@pytest.mark.child
def test_the_quickstart_at_its_smallest(project):
    papermill(project, "notebooks/00_quickstart.ipynb", "out.ipynb", "-p", "epochs", "1", "-p", "limit_images", "640")
    (run_dir,) = (project / "runs").iterdir()
    for name in ("with_color", "without_color"):
        run = Run.open(run_dir / name)
        assert run.config.limit_images == 640  # no parameter of the notebook, and taken all the same
        assert {"neighbors", *HEALTH} <= figures(run)
        assert len(run.metrics("health")) == 2
        scores = run.summary["retrieval"]["scores"]
        assert [*scores] == ["raw pixels", "untrained encoder", "trained encoder", "chance"]
        assert all(0 < share < 1 for of in scores.values() for shares in of.values() for share in shares)
        assert len(run.summary["prediction_met"]) == 4
    assert "limit_images = 640" in outputs(project / "out.ipynb")


@pytest.mark.slow
@pytest.mark.child
def test_the_quickstart_meets_its_prediction(project):
    papermill(project, "notebooks/00_quickstart.ipynb", "out.ipynb")
    (run_dir,) = (project / "runs").iterdir()
    with_color, without = (Run.open(run_dir / name).summary for name in ("with_color", "without_color"))
    before = with_color["retrieval"]["scores"]["untrained encoder"]
    colored, plain = (summary["retrieval"]["scores"]["trained encoder"] for summary in (with_color, without))
    assert colored["precision@5"][0] >= max(0.5, 1.5 * before["precision@5"][0])
    assert plain["precision@5"][0] <= colored["precision@5"][0] - 0.2
    assert plain["precision@5 by colour"][0] > colored["precision@5 by colour"][0]
    assert all(with_color["prediction_met"].values())
    assert list(without["alarms"]) == ["color"]
    assert with_color["alarms"] == {}  # a healthy run rings none
    assert "Colour is a shortcut" in outputs(project / "out.ipynb")


@pytest.mark.child
@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("epocs", "3", "did you mean epochs?"),
        pytest.param("neighbors_k", "5.0", "neighbors_k", marks=pytest.mark.slow),
        pytest.param("neighbors_k", "five", "neighbors_k", marks=pytest.mark.slow),
        pytest.param("seed", "zero", "seed", marks=pytest.mark.slow),
    ],
)
def test_a_parameter_that_cannot_be_is_refused_before_anything_is_done(project, name, value, named):
    with pytest.raises(AssertionError, match=named.replace("?", r"\?")):
        papermill(project, "notebooks/03_cifar10.ipynb", "out.ipynb", "-p", name, value)
    assert not (project / "runs").exists()
    assert not (project / "data").exists()


@pytest.mark.child
def test_cifar10_on_real_images_from_inside_notebooks(project, unpack_cifar10):
    unpack_cifar10(project / "data", "train", 30, 10)
    unpack_cifar10(project / "data", "test", 10, 10)
    small = ["-p", "arch", "convnet", "-p", "batch_size", "64", "-p", "epochs", "2", "-p", "neighbors_k", "5"]
    papermill(project / "notebooks", "03_cifar10.ipynb", "../out.ipynb", *small)
    (run,) = map(Run.open, (project / "runs").iterdir())
    assert run.config.actual_temperature == 0.5
    classes = run.summary["classification"]
    assert (classes["train_images"], classes["test_images"]) == (300, 100)
    assert {"knn@20 top1", "knn@200 top1", "linear probe mean_per_class"} <= set(classes["scores"]["trained encoder"])
    neighbors = np.load(run.path / "neighbors.npz")
    assert neighbors["neighbors"].shape == (100, 10)
    assert not (neighbors["neighbors"] == neighbors["ids"][:, None]).any()  # no image is its own neighbour
    assert figures(run) == EVERY_PICTURE
    shown = outputs(project / "out.ipynb")
    assert "kNN gain over the better baseline" in shown
    assert all(f"{name} 30" in shown for name in ("airplane", "truck"))  # the classes with their sizes


@pytest.mark.slow
@pytest.mark.child
def test_a_notebook_on_a_finished_run_trains_and_embeds_nothing(project, unpack_cifar10):
    unpack_cifar10(project / "data", "train", 30, 10)
    unpack_cifar10(project / "data", "test", 10, 10)
    small = ["-p", "arch", "convnet", "-p", "batch_size", "64", "-p", "epochs", "2", "-p", "neighbors_k", "5"]
    papermill(project, "notebooks/03_cifar10.ipynb", "out.ipynb", *small)
    (run,) = map(Run.open, (project / "runs").iterdir())
    trained, kept = run.metrics(), sorted((run.path / "embeddings").iterdir())
    times = [file.stat().st_mtime_ns for file in kept]
    papermill(project, "notebooks/03_cifar10.ipynb", "again.ipynb", *small, "-p", "run_dir", str(run.path))
    assert len(list((project / "runs").iterdir())) == 1  # resumed, not started anew
    assert Run.open(run.path).metrics() == trained
    assert [file.stat().st_mtime_ns for file in sorted((run.path / "embeddings").iterdir())] == times  # read, not made


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


@pytest.mark.child
def test_iteration_1_on_real_images_in_stl10_s_layout(project, unpack_caltech101):
    folder = unpack_caltech101(project, 34, ["Leopards", "Motorbikes", "accordion", "bonsai"])
    write_stl10(project / "data", folder, {"train": 8, "test": 6, "unlabeled": 20})
    small = ["-p", "batch_size", "40", "-p", "epochs", "2", "-p", "evaluation_images", "20", "-p", "neighbors_k", "3"]
    papermill(project, "notebooks/01_alexnet_stl10.ipynb", "out.ipynb", *small, "-y", "crop_area: [0.2, 0.9]")
    (run,) = map(Run.open, (project / "runs").iterdir())
    config = run.config
    assert (config.dataset, config.split, config.arch, config.stem) == ("stl10", "unlabeled", "alexnet", "imagenet")
    assert (config.optimizer, config.learning_rate, config.color_strength) == ("sgd", 0.1, 0.2)
    assert (config.momentum, config.crop_area) == (0.0, (0.2, 0.9))
    assert figures(run) == EVERY_PICTURE
    assert run.summary["classification"]["train_images"] == 32
    assert run.summary["classification"]["test_images"] == 24
    assert {"retrieval", "color", "layers", "over_training", "training_seconds", "final_loss"} <= set(run.summary)
    assert len(run.metrics("health")) == 3


@pytest.mark.slow
@pytest.mark.child
def test_iteration_1_with_a_vit_and_lars(project, unpack_caltech101):
    folder = unpack_caltech101(project, 34, ["Leopards", "Motorbikes", "accordion", "bonsai"])
    write_stl10(project / "data", folder, {"train": 8, "test": 6, "unlabeled": 20})
    small = ["-p", "batch_size", "40", "-p", "epochs", "2", "-p", "evaluation_images", "20", "-p", "neighbors_k", "3"]
    more = ["-p", "color_strength", "1.0", "-p", "arch", "vit_tiny", "-p", "optimizer", "lars"]
    more += ["-p", "learning_rate", "0.3", "-p", "lr_scaling", "linear", "-p", "momentum", "0.9"]
    papermill(project, "notebooks/01_alexnet_stl10.ipynb", "out.ipynb", *small, *more, "-p", "warmup_epochs", "2")
    (run,) = map(Run.open, (project / "runs").iterdir())
    assert (run.config.arch, run.config.optimizer, run.config.lr_scaling) == ("vit_tiny", "lars", "linear")
    assert f"alarms that rang: {len(run.summary['alarms'])}" in outputs(project / "out.ipynb")


@pytest.mark.child
def test_iteration_2_on_real_images_of_caltech101(project, unpack_caltech101):
    unpack_caltech101(project / "data", 40, ["Faces", "Faces_easy", "airplanes", "watch"])
    small = ["-p", "arch", "resnet18", "-p", "image_size", "48", "-p", "batch_size", "48", "-p", "epochs", "1"]
    papermill(project, "notebooks/02_resnet50_caltech101.ipynb", "out.ipynb", *small)
    (run,) = map(Run.open, (project / "runs").iterdir())
    ids = np.load(run.path / "images.npz")
    assert (len(ids["ids"]), len(ids["held_out_ids"])) == (144, 16)
    assert run.summary["classification"]["classes"] == "4 (BACKGROUND_Google is left out)"
    assert len(run.summary["prediction_met"]) == 3
    assert figures(run) == EVERY_PICTURE


@pytest.mark.child
def test_06_walks_through_a_run_beside_another_with_a_picture_and_a_table(project):
    for name in ("one", "other"):
        train(RunConfig(limit_images=64, batch_size=16, epochs=1, norm="group", device="cpu"), project / "runs" / name)
    Image.new("RGB", (40, 30), "red").save(project / "own.png")
    (project / "notes.csv").write_text("id,note\n3,odd\n")
    given = {"run": "one", "beside": "other", "picture": "../own.png", "table": "../notes.csv", "limit_images": "300"}
    arguments = [word for name, value in {**given, "run_dir": "../runs/look"}.items() for word in ("-p", name, value)]
    papermill(project / "notebooks", "06_explore_neighbors.ipynb", "../out.ipynb", *arguments)
    shown = outputs(project / "out.ipynb")
    assert "srcdoc" in shown
    assert "other: trained encoder" in shown
    looked = pd.read_csv(project / "runs/look/images.csv", index_col=0)
    assert len(looked) == 300
    columns = Columns([Run.open(project / "runs/one"), Run.open(project / "runs/other")], limit=300)
    labels = columns.images.labels
    for name, of in columns.nearest.items():
        hits = (labels[of["h cosine"][0][:, :10]] == labels[:, None]).sum(1)
        assert looked[name].tolist() == hits.tolist()
    raw, after = looked["raw pixels"], looked["other: trained encoder"]
    met = json.loads((project / "runs/look/summary.json").read_text())["prediction_met"]
    assert [*met.values()] == [(after[raw == 0] > 0).mean() >= 0.5, (after[raw >= 5] == 0).mean() <= 0.05]
    shutil.rmtree(project / "runs")
    Run.start(project / "runs/bare", RunConfig())
    with pytest.raises(AssertionError, match="whose weights are there"):
        papermill(project / "notebooks", "06_explore_neighbors.ipynb", "../out.ipynb")


@pytest.mark.child
def test_04_compares_the_committed_runs_without_data_or_weights(project):
    for name in ("with_color", "without_color"):
        kept = ROOT / "runs/00_quickstart" / name
        for file in ("config.json", "metrics.jsonl", "status.json", "summary.json", "environment.json", "queries.json"):
            (project / "runs/00_quickstart" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(kept / file, project / "runs/00_quickstart" / name)
    papermill(project, "notebooks/04_compare_runs.ipynb", "out.ipynb", "-p", "run_dir", "runs/compared")
    shown, kept = outputs(project / "out.ipynb"), project / "runs/compared"
    summary = json.loads((kept / "summary.json").read_text())
    assert summary["runs"] == ["00_quickstart/without_color", "00_quickstart/with_color"]
    assert [*summary["prediction_met"].values()] == [True, False]  # ahead by 0.2, of one seed each
    assert "not shown" not in shown
    assert "selected on the images that it was trained on" in shown
    assert {path.name for path in kept.iterdir()} == {"figures", "notebook.json", "runs.csv", "summary.json"}
    assert len((kept / "runs.csv").read_text().splitlines()) == 3
    with pytest.raises(AssertionError, match=r"epochs: .*parameter of the notebook"):
        papermill(project, "notebooks/04_compare_runs.ipynb", "out.ipynb", "-p", "epochs", "3")


@pytest.mark.slow
@pytest.mark.child
def test_iteration_2_on_a_folder_of_one_s_own_with_the_resnet_s_scaling(project, unpack_caltech101):
    folder = unpack_caltech101(project, 40, ["Faces", "Faces_easy", "airplanes", "watch"])
    small = ["-p", "arch", "resnet18", "-p", "image_size", "48", "-p", "batch_size", "48", "-p", "epochs", "1"]
    small += ["-p", "store_size", "56", "-p", "resize", "crop", "-p", "optimizer", "lars", "-p", "learning_rate", "0.3"]
    small += ["-p", "lr_scaling", "linear", "-p", "warmup_epochs", "10", "-p", "unreadable", "skip"]
    (folder / "watch/broken.jpg").write_bytes(b"no image")
    own = ["-p", "dataset", "folder", "-p", "data_root", str(folder)]
    papermill(project, "notebooks/02_resnet50_caltech101.ipynb", "out.ipynb", *small, *own)
    (run,) = map(Run.open, (project / "runs").iterdir())
    assert (run.config.optimizer, run.config.actual_store_size, run.config.resize) == ("lars", 56, "crop")
    assert "unreadable = 'skip'" in outputs(project / "out.ipynb")


@pytest.mark.child
def test_every_numeric_claim_holds_from_inside_notebooks(project):
    papermill(project / "notebooks", "05_numerics.ipynb", "../out.ipynb")
    (run_dir,) = (project / "runs").iterdir()
    claims = json.loads((run_dir / "summary.json").read_text())["claims"]
    assert len(claims) == 9
    shown = outputs(project / "out.ipynb")
    assert all(f"held   {claim}" in shown for claim in claims)
    drawn = {path.stem for path in (run_dir / "figures").iterdir()}
    assert drawn == {"one_gradient", "lars_drift", "norms", "schedule", "blur", "draws"}


@pytest.mark.slow
@pytest.mark.child
def test_a_numeric_claim_that_does_not_hold_stops_the_notebook(project):
    with pytest.raises(AssertionError, match="AssertionError"):
        papermill(project, "notebooks/05_numerics.ipynb", "out.ipynb", "-p", "tolerance_float64", "0")
    assert "held   " not in outputs(project / "out.ipynb")
