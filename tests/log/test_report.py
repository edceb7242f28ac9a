"""Reports: executed by papermill, filed in the run directory, readable offline."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat
import papermill
import pytest

from simclr_lib.log.report import NotebookFailedError, file_report, resume_notebook, run_notebook, write_page

HOLD = """
import time
from pathlib import Path
from simclr_lib.engine.lock import one_writer
with one_writer(Path({folder!r})):
    print("held", flush=True)
    time.sleep(60)
"""


def write_notebook(root: Path) -> Path:
    cells = [
        nbformat.v4.new_markdown_cell("# A question"),
        nbformat.v4.new_code_cell('n = 1\nrun_dir = ""', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "from simclr_lib.figures.training import loss_curve\nprint('n is', n, type(n).__name__)\n"
            "loss_curve({'run': [{'step': 0, 'loss': 2.0}]}, batch_size=4)"
        ),
        nbformat.v4.new_code_cell("assert n != 13, 'an unlucky number'"),
    ]
    path = root / "notebooks" / "09_test.ipynb"
    path.parent.mkdir()
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=spec), path)
    return path


@pytest.fixture
def notebook(tmp_path):
    return write_notebook(tmp_path)


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> tuple[Path, Path, str]:
    """A notebook, the run directory that it was executed into, and what was printed meanwhile."""
    notebook, printed = write_notebook(tmp_path_factory.mktemp("project")), io.StringIO()
    with contextlib.chdir(notebook.parent), contextlib.redirect_stdout(printed):
        return notebook, run_notebook(notebook, {"n": 5, "batch_size": 32}), printed.getvalue()


@pytest.mark.child
def test_a_report_is_filed_in_a_new_run_directory_below_the_root(executed):
    notebook, run_dir, printed = executed
    assert run_dir.parent == notebook.parents[1] / "runs"
    assert run_dir.name.endswith("-09_test")
    assert {path.name for path in run_dir.iterdir()} == {"report.ipynb", "report.html", "notebook.json"}
    assert str(run_dir) in printed
    assert "n is 5 int" in printed  # while it ran
    report = nbformat.read(run_dir / "report.ipynb", as_version=4)
    injected = next(cell for cell in report.cells if "injected-parameters" in cell.metadata.tags)
    assert f'run_dir = "{run_dir}"' in injected.source
    assert "batch_size = 32" in injected.source  # a field of RunConfig that the notebook does not list


@pytest.mark.child
def test_the_page_needs_no_network(executed):
    page = (executed[1] / "report.html").read_text()
    assert "data:image/png;base64" in page
    assert "n is 5 int" in page
    assert not re.findall(r"<(?:script|img|iframe)[^>]+src=\"(?:https?:)?//[^\"]*", page)
    assert not re.findall(r"<link[^>]+href=\"(?:https?:)?//[^\"]*", page)
    assert not re.findall(r"(?:import|from|url)\s*\(?[\"']https?://[^\"']*", page)


@pytest.mark.child
def test_a_failing_cell_is_told_and_its_traceback_kept(notebook, tmp_path):
    with pytest.raises(NotebookFailedError, match=r"^AssertionError: an unlucky number \(cell 4 of .*report\.html\)$"):
        run_notebook(notebook, {"n": 13}, tmp_path / "run")
    assert "an unlucky number" in (tmp_path / "run" / "report.ipynb").read_text()
    assert "an unlucky number" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.child
def test_the_report_before_stays_and_that_of_another_process_is_not_touched(notebook, tmp_path):
    run_notebook(notebook, {"n": 3}, tmp_path / "run")
    before = (tmp_path / "run/report.ipynb").read_bytes()
    with pytest.raises(NotebookFailedError):
        run_notebook(notebook, {"n": 13}, tmp_path / "run")
    assert (tmp_path / "run/report.previous.ipynb").read_bytes() == before
    assert "an unlucky number" in (tmp_path / "run/report.ipynb").read_text()
    lock = subprocess.Popen([sys.executable, "-c", HOLD.format(folder=str(tmp_path / "run"))], stdout=subprocess.PIPE)
    lock.stdout.readline()
    kept = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(ValueError, match=f"process {lock.pid} "):
        run_notebook(notebook, {"n": 3}, tmp_path / "run")
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == kept
    lock.kill()
    lock.communicate()


@pytest.mark.parametrize(
    ("parameter", "option", "expected"),
    [("mine", None, "mine"), (2024, None, "2024"), ("", "given", "given"), ("mine", "given", "given")],
)
def test_the_run_directory_is_that_of_the_option_or_of_the_parameter(
    notebook, tmp_path, executing, parameter, option, expected
):
    assert run_notebook(notebook, {"run_dir": parameter, "n": 2}, option) == tmp_path / expected
    assert executing == [{"run_dir": str(tmp_path / expected), "n": 2}]
    assert {path.name for path in (tmp_path / expected).iterdir()} == {"report.ipynb", "report.html", "notebook.json"}


@pytest.fixture
def executing(monkeypatch, tmp_path) -> list[dict]:
    """The parameters of each execution, which copies the notebook."""
    taken = []

    def execute(source: str, report: str, parameters: dict, **options: object) -> None:
        assert (report.parent / "notebook.json").exists()  # before it starts
        taken.append(parameters)
        shutil.copy(source, report)

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    monkeypatch.chdir(tmp_path)
    return taken


def record(run_dir: Path) -> dict:
    return json.loads((run_dir / "notebook.json").read_text())


def test_what_is_executed_is_on_record(notebook, tmp_path, executing):
    run_notebook(notebook, {"n": 2, "crop_area": (0.5, 1)}, tmp_path / "run")
    found = record(tmp_path / "run")
    assert (found["notebook"], found["parameters"]) == ("notebooks/09_test.ipynb", {"n": 2, "crop_area": [0.5, 1]})
    assert found["versions"]["packages"]["torch"] == version("torch")
    executed = nbformat.read(notebook, as_version=4)
    executed.cells[1].outputs = [nbformat.v4.new_output("stream", text="a result")]
    executed.cells[1].execution_count = 3
    nbformat.write(executed, notebook)
    run_notebook(notebook, {}, tmp_path / "again")
    assert record(tmp_path / "again")["source"] == found["source"]  # of the cells, not of what came out of them


def test_a_run_goes_on_by_its_directory_alone_from_anywhere_in_the_project(notebook, tmp_path, executing, monkeypatch):
    run_notebook(notebook, {"n": 2, "epochs": 7}, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "notebooks")
    assert resume_notebook(tmp_path / "run", {"device": "cpu"}) == tmp_path / "run"
    assert executing[1] == {**executing[0], "device": "cpu"}
    assert record(tmp_path / "run")["parameters"] == {"n": 2, "epochs": 7, "device": "cpu"}


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"epochs": 8}, True),
        ({"seed": 1}, True),
        ({"device": "cpu"}, False),
        ({"n": 3}, False),  # not a choice of the training
        ({"micro_batch_size": 3}, False),  # which may be one, and is compared with the run's own configuration
    ],
)
def test_the_parameters_of_another_run_are_refused_before_the_report_is_touched(
    notebook, tmp_path, executing, change, refused
):
    run_notebook(notebook, {"n": 2, "epochs": 7}, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    if refused:
        with pytest.raises(ValueError, match=r"run_dir: expected .*, got .*'epochs': 7.*give another"):
            run_notebook(notebook, {"n": 2, "epochs": 7, **change}, tmp_path / "run")
        with pytest.raises(ValueError, match=r"run_dir: "):
            run_notebook(notebook, {"n": 2}, tmp_path / "run")
        assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    else:
        run_notebook(notebook, {"n": 2, "epochs": 7, **change}, tmp_path / "run")


def test_another_notebook_is_refused_and_a_changed_one_unless_asked_for(notebook, tmp_path, executing):
    run_notebook(notebook, {"n": 2}, tmp_path / "run")
    other = notebook.with_name("10_other.ipynb")
    shutil.copy(notebook, other)
    with pytest.raises(ValueError, match=r"run_dir: expected one of notebooks/10_other.*, got notebooks/09_test"):
        run_notebook(other, {"n": 2}, tmp_path / "run")
    changed = nbformat.read(notebook, as_version=4)
    changed.cells[2].source += "\nprint(n)"
    nbformat.write(changed, notebook)
    before = record(tmp_path / "run")["source"]
    with pytest.raises(ValueError, match=r"notebook: expected the cells that the run began with.*--changed-notebook"):
        resume_notebook(tmp_path / "run", {})
    resume_notebook(tmp_path / "run", {}, changed=True)
    assert record(tmp_path / "run")["source"] != before


def test_a_report_that_was_made_elsewhere_is_filed_with_its_run(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="notebook: expected one that was executed and printed its run directory"):
        file_report(notebook)
    executed = nbformat.read(notebook, as_version=4)
    text = "images         48\nrun directory  runs/a run of mine\n"
    executed.cells[1].outputs = [nbformat.v4.new_output("stream", text=text)]
    nbformat.write(executed, tmp_path / "out.ipynb")
    assert file_report("out.ipynb") == tmp_path / "runs/a run of mine"
    assert {path.name for path in (tmp_path / "runs/a run of mine").iterdir()} == {"report.ipynb", "report.html"}
    assert "a run of mine" in (tmp_path / "runs/a run of mine/report.html").read_text()


@pytest.mark.child
@pytest.mark.parametrize("count", [3, *[pytest.param(8, marks=pytest.mark.slow)] * 20])
def test_several_notebooks_at_once_do_not_clash(notebook, tmp_path, count):
    command = [sys.executable, "-m", "simclr_lib", "run", str(notebook), "-p", "n", "2", "--run-dir"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=tmp_path)
    processes = [subprocess.Popen([*command, str(tmp_path / f"run{n}")], **streams) for n in range(count)]
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count, printed
    assert all((tmp_path / f"run{n}/report.html").exists() for n in range(count))
    assert not list(tmp_path.glob("kernel-ipc*"))


def test_a_run_directory_that_cannot_be_written_is_refused(notebook, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="run_dir"):
        run_notebook(notebook, {}, tmp_path / "file" / "run")


def test_unknown_notebooks_and_parameters_are_refused_before_anything_runs(notebook, tmp_path):
    with pytest.raises(ValueError, match=r"notebook: .*none\.ipynb"):
        run_notebook(tmp_path / "none.ipynb", {})
    with pytest.raises(ValueError, match=r"epoch: .*did you mean epochs"):
        run_notebook(notebook, {"epoch": 3, "n": 2}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_page_can_be_made_of_any_executed_notebook(notebook):
    write_page(notebook)
    assert "A question" in notebook.with_suffix(".html").read_text()
