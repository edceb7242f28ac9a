"""Reports: executed by papermill, filed in the run directory, readable offline."""

import re

import nbformat
import pytest

from simclr_lib.report import run_notebook, write_page


@pytest.fixture
def notebook(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# A question"),
        nbformat.v4.new_code_cell('n = 1\nrun_dir = ""', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "from simclr_lib.histories import loss_curve\nprint('n is', n, type(n).__name__)\n"
            "loss_curve({'run': [{'step': 0, 'loss': 2.0}]}, batch_size=4)"
        ),
        nbformat.v4.new_code_cell("assert n != 13, 'an unlucky number'"),
    ]
    path = tmp_path / "notebooks" / "09_test.ipynb"
    path.parent.mkdir()
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=spec), path)
    return path


def test_a_report_is_filed_in_a_new_run_directory_below_the_root(notebook, monkeypatch, capfd):
    monkeypatch.chdir(notebook.parent)
    run_dir = run_notebook(notebook, {"n": 5})
    assert run_dir.parent == notebook.parents[1] / "runs"
    assert run_dir.name.endswith("-09_test")
    assert {path.name for path in run_dir.iterdir()} == {"report.ipynb", "report.html"}
    assert "n is 5 int" in capfd.readouterr().out  # printed while it ran
    executed = nbformat.read(run_dir / "report.ipynb", as_version=4)
    injected = next(cell for cell in executed.cells if "injected-parameters" in cell.metadata.tags)
    assert f'run_dir = "{run_dir}"' in injected.source


def test_a_run_directory_may_be_named_by_a_number(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_notebook(notebook, {"run_dir": 2024}) == tmp_path / "2024"


def test_a_run_directory_given_as_a_parameter_is_the_one_that_is_used(notebook, tmp_path):
    assert run_notebook(notebook, {"run_dir": str(tmp_path / "mine")}) == tmp_path / "mine"


def test_a_run_directory_that_cannot_be_written_is_refused(notebook, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="can be written"):
        run_notebook(notebook, {}, tmp_path / "file" / "run")


def test_the_page_needs_no_network(notebook, tmp_path):
    page = (run_notebook(notebook, {}, tmp_path / "run") / "report.html").read_text()
    assert "data:image/png;base64" in page
    assert "n is 1 int" in page
    assert not re.findall(r"<(?:script|img|iframe)[^>]+src=\"(?:https?:)?//[^\"]*", page)
    assert not re.findall(r"<link[^>]+href=\"(?:https?:)?//[^\"]*", page)
    assert not re.findall(r"(?:import|from|url)\s*\(?[\"']https?://[^\"']*", page)


def test_a_failing_cell_is_told_and_its_traceback_kept(notebook, tmp_path):
    with pytest.raises(Exception, match="an unlucky number"):
        run_notebook(notebook, {"n": 13}, tmp_path / "run")
    assert "an unlucky number" in (tmp_path / "run" / "report.ipynb").read_text()
    assert "an unlucky number" in (tmp_path / "run" / "report.html").read_text()


def test_unknown_notebooks_and_parameters_are_refused_before_anything_runs(notebook, tmp_path):
    with pytest.raises(ValueError, match="expected a file"):
        run_notebook(tmp_path / "none.ipynb", {})
    with pytest.raises(ValueError, match=r"expected some of n, run_dir, got epoch"):
        run_notebook(notebook, {"epoch": 3}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_page_can_be_made_of_any_executed_notebook(notebook):
    assert write_page(notebook) == notebook.with_suffix(".html")
    assert "A question" in notebook.with_suffix(".html").read_text()
