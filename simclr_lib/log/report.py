"""Executed notebooks as reports: papermill runs them into a run directory, nbconvert makes a page of them.

notebook.json of the directory says which notebook that is, and with which parameters, before it starts.
"""

import base64
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import nbformat

from simclr_lib.config import MACHINE_FIELDS, RunConfig
from simclr_lib.engine.checks import require
from simclr_lib.engine.environment import environment
from simclr_lib.engine.interruption import interruption
from simclr_lib.engine.launcher import ProcessFailedError
from simclr_lib.engine.lock import TOKEN, held, one_writer, rewriting
from simclr_lib.engine.parameters import require_known
from simclr_lib.engine.paths import new_run_dir, project_root, read_json, require_writable, user_path

RECORD = "notebook.json"
FILED = "SIMCLR_REPORT"  # the environment variable by which a notebook knows where its report will lie
NO_NETWORK = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; media-src data:; script-src"
SCRIPT = re.compile("<script[^>]*>(.*?)</script>", re.DOTALL)
EXPLORER = Path(__file__).with_name("templates") / "explorer.js"  # which stands in the frames of some reports


class NotebookFailedError(ProcessFailedError):
    """A cell failed: what it said, and where the report is."""


def run_notebook(
    notebook: str | Path, parameters: Mapping[str, object], run_dir: str | Path | None = None, changed: bool = False
) -> Path:
    """Execute `notebook` with papermill and file report.ipynb and report.html in its run directory.

    Args:
        notebook: a notebook with a cell tagged `parameters`, `run_dir` among them.
        parameters: what to set: name -> value, of that cell or any other field of RunConfig.
        run_dir: the run directory; None: the parameter of that name, else a new one under <root>/runs. One that holds
            a part of the run is resumed; its report stays as report.previous.ipynb.
        changed: whether to go on with a notebook that has changed since the run began.

    Returns:
        The run directory.

    Raises:
        ValueError: where there is no such notebook, it has no such parameter, another process writes to the run, or the
            directory is that of another notebook or of other parameters.
        NotebookFailedError: if a cell fails; the report then holds its traceback.
    """
    import papermill  # slow to import, and only executing needs it, as the next

    from simclr_lib.log.kernel import end_kernels

    notebook = user_path(notebook, "notebook")
    require(notebook.is_file(), "notebook", "a file", notebook, "the project's are in notebooks/")
    require_known(parameters, {*papermill.inspect_notebook(str(notebook)), *RunConfig().to_dict()})
    run_dir = require_writable(str(run_dir or parameters.get("run_dir") or new_run_dir(notebook.stem)))
    report = run_dir / "report.ipynb"
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it calls fields that the parameters cell lacks unknown
    with one_writer(run_dir), interruption.keeping(end_kernels):
        record_notebook(run_dir, notebook, parameters, changed)
        print(f"executing {notebook} into {run_dir} (to go on: resume {run_dir})", flush=True)
        os.environ[TOKEN] = held[run_dir]  # the kernel is one writer with this process
        os.environ[FILED] = str(run_dir)
        if report.exists():
            os.replace(report, run_dir / "report.previous.ipynb")
        given = {**parameters, "run_dir": str(run_dir)}
        try:
            papermill.execute_notebook(notebook, report, given, engine_name="simclr", progress_bar=False)
        except papermill.PapermillExecutionError as error:
            said = " ".join(f"{error.ename}: {error.evalue}".split())
            raise NotebookFailedError(f"{said} (cell {error.exec_count} of {report.with_suffix('.html')})") from error
        finally:
            write_page(report)  # of a failed run too: it shows where and why
    return run_dir


def resume_notebook(run_dir: Path, parameters: Mapping[str, object], changed: bool = False) -> Path:
    """Execute the notebook of a run again, with the parameters that it had and those that are given: `run_notebook`."""
    record = read_json(run_dir / RECORD)
    return run_notebook(project_root() / record["notebook"], {**record["parameters"], **parameters}, run_dir, changed)


def record_notebook(run_dir: Path, notebook: Path, parameters: Mapping[str, object], changed: bool = False) -> None:
    """Write notebook.json: which notebook, with which parameters, and the versions at hand.

    Raises ValueError where it is there and of another notebook or of another run's parameters, or, unless `changed`, of
    another source.
    """
    path = os.path.relpath(notebook, project_root()) if notebook.is_relative_to(project_root()) else str(notebook)
    asked = json.loads(json.dumps({name: value for name, value in parameters.items() if name != "run_dir"}))
    cells = [(cell.cell_type, cell.source) for cell in nbformat.read(notebook, as_version=4).cells]
    record = {"notebook": path, "source": hashlib.sha256(json.dumps(cells).encode()).hexdigest(), "parameters": asked}
    before = read_json(run_dir / RECORD) or record
    then, now = ((r["notebook"], _choices(r["parameters"])) for r in (before, record))
    require(then == now, "run_dir", f"one of {now[0]} with {now[1]}", f"{then[0]} with {then[1]}", "give another")
    same = changed or before["source"] == record["source"]
    require(same, "notebook", "the cells that the run began with", f"others in {path}", "add --changed-notebook")
    with rewriting(run_dir, RECORD) as temporary:
        temporary.write_text(json.dumps({**record, "versions": environment()}, indent=1) + "\n")


def file_report(notebook: str | Path) -> Path:
    """File an executed notebook as the report of the run that it says it made; returns the run directory.

    Raises ValueError where the notebook tells of none.
    """
    notebook = user_path(notebook, "notebook")
    require(notebook.is_file(), "notebook", "an executed one", notebook)
    outputs = [out for cell in nbformat.read(notebook, 4).cells for out in cell.get("outputs", ()) if "text" in out]
    told = re.search(r"^run directory\s+(.+)", "".join(out.text for out in outputs), re.MULTILINE)
    require(told, "notebook", "one that was executed and printed its run directory", notebook, "execute it")
    run_dir = require_writable(project_root() / told[1].strip())
    with one_writer(run_dir):
        (run_dir / "report.ipynb").write_bytes(notebook.read_bytes())
        write_page(run_dir / "report.ipynb")
    return run_dir


def report_of(run_dir: Path) -> Path | None:
    """The executed notebook of a run, if it is filed: its own, or that of a notebook which trains several runs."""
    return next(filter(Path.exists, (run_dir / "report.ipynb", run_dir.parent / "report.ipynb")), None)


def page_of(report: Path) -> Path:
    """The page of an executed notebook, which is written unless there is one that is newer and begins as ours do."""
    page, (_, beginning) = report.with_suffix(".html"), _exporter()
    newer = page.exists() and page.stat().st_mtime >= report.stat().st_mtime
    ours = newer and page.read_text("utf-8", errors="replace").startswith(beginning)
    return page if ours else write_page(report)


def write_page(notebook: str | Path) -> Path:
    """Write an executed notebook as one .html beside it, pictures inside; returns that.

    It needs no network and may not use it, and runs no script but the exporter's and the explorer's: not those of the
    outputs.
    """
    notebook, (exporter, beginning) = user_path(notebook, "notebook"), _exporter()
    body, _ = exporter.from_filename(str(notebook))
    page = notebook.with_suffix(".html")
    page.write_text(beginning + body.partition("<head>")[2].replace('<script src=""></script>', ""), encoding="utf-8")
    return page


@cache
def _exporter() -> tuple[object, str]:
    """nbconvert's exporter, and how the pages begin: with the `policy` of its own scripts and the explorer."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(embed_images=True, mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="")
    empty, _ = exporter.from_notebook_node(nbformat.v4.new_notebook())
    before, allowed = empty.partition("<head>")[0], policy(*SCRIPT.findall(empty), EXPLORER.read_text("utf-8"))
    return exporter, f'{before}<head><meta http-equiv="Content-Security-Policy" content="{allowed}">'


def policy(*scripts: str) -> str:
    """What a page may do: nothing on the network, and of scripts to run these."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return NO_NETWORK + "".join(f" 'sha256-{digest}'" for digest in digests)


def _choices(parameters: Mapping[str, object]) -> dict:
    """Those that make another run; how a batch is split does so sometimes, and the run's configuration knows when."""
    fields = set(RunConfig().to_dict()) - {*MACHINE_FIELDS, "micro_batch_size"}
    return {name: parameters[name] for name in sorted(fields & parameters.keys())}
