"""Executed notebooks as reports: papermill runs them into a run directory, nbconvert makes a page of them."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from simclr_lib.config import RunConfig
from simclr_lib.engine.checks import require
from simclr_lib.engine.interruption import interruption
from simclr_lib.engine.lock import TOKEN, held, one_writer
from simclr_lib.engine.parameters import require_known
from simclr_lib.engine.paths import new_run_dir, require_writable, user_path


def run_notebook(notebook: str | Path, parameters: Mapping[str, object], run_dir: str | Path | None = None) -> Path:
    """Execute `notebook` with papermill and file report.ipynb and report.html in its run directory.

    Args:
        notebook: a notebook with a cell tagged `parameters`, `run_dir` among them.
        parameters: what to set: name -> value, of that cell or any other field of RunConfig.
        run_dir: the run directory; None: the parameter of that name, else a new one under <root>/runs. One that holds
            a part of the run is resumed; its report stays as report.previous.ipynb.

    Returns:
        The run directory.

    Raises:
        ValueError: where there is no such notebook, it has no such parameter, or another process writes to the run.
        papermill.PapermillExecutionError: if a cell fails; the report then holds its traceback.
    """
    import papermill  # slow to import, and only executing needs it

    notebook = user_path(notebook, "notebook")
    require(notebook.is_file(), "notebook", "a file", notebook, "the project's are in notebooks/")
    own = set(papermill.inspect_notebook(str(notebook)))
    require_known(parameters, own | set(RunConfig().to_dict()))
    run_dir = require_writable(str(run_dir or parameters.get("run_dir") or new_run_dir(notebook.stem)))
    report, parameters = run_dir / "report.ipynb", {**parameters, "run_dir": str(run_dir)}
    print(f"executing {notebook} into {run_dir} (give this as --run-dir to resume)", flush=True)
    with one_writer(run_dir), interruption.keeping(_end_kernel):
        os.environ[TOKEN] = held[run_dir]  # the kernel is one writer with this process
        if report.exists():
            os.replace(report, run_dir / "report.previous.ipynb")
        try:  # what the cells print is printed here too, as they print it: an epoch a line
            papermill.execute_notebook(notebook, report, parameters, progress_bar=False, stdout_file=sys.stdout)
        finally:
            write_page(report)  # of a failed run too: it shows where and why
    return run_dir


def _end_kernel() -> None:
    """Pass a signal on: a kernel has a session of its own, which none reaches."""
    kernels = psutil.Process().children()
    for kernel in kernels:
        kernel.terminate()
    psutil.wait_procs(kernels, timeout=30)


def write_page(notebook: str | Path) -> None:
    """Write an executed notebook as one .html beside it, pictures inside, which needs no network."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(embed_images=True, mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="")
    body, _ = exporter.from_filename(str(notebook))
    Path(notebook).with_suffix(".html").write_text(body, encoding="utf-8")
