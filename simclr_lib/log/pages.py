"""The log as pages that open by double click: index.html of a folder of runs, and pages/<run>.html for each of them.

assets/ holds what they share, and assets/runs/<run>.js what is drawn of a run: a script, as a page that is opened from
the disk may read no other file. All of it may be deleted, and is then written anew.

Curves are plotly's, the table is that of DataTables (within itables): both carry their script inside their Python
package, so that a page loads nothing from elsewhere.
"""

import json
import os
import re
import shlex
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from statistics import fmean, pstdev
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader
from joblib import Parallel, cpu_count, delayed

from simclr_lib.engine.checks import require
from simclr_lib.engine.paths import read_json
from simclr_lib.engine.progress import progress_bar
from simclr_lib.engine.records import unreadable_row
from simclr_lib.log.curves import curves, spark_line
from simclr_lib.log.listing import HEADLINES, kind_of, list_runs
from simclr_lib.log.report import RECORD, page_of, report_of
from simclr_lib.run import Run

SOURCE = Path(__file__).with_name("templates")
# Columns; others are chosen.
AT_FIRST = ("run", "state", "curve", "loss", *HEADLINES, "alarms", "dataset", "arch", "epochs_done", "started")
QUERIES = {"dataset", "queries", "neighbors", "similarities", "labels", "thumbnails"}
ASKED = re.compile(r"\*\*(Question|Prediction|Compared with)\.\*\*\s*(.+)")  # in the first cell of a notebook


def write_pages(folder: Path) -> Path:
    """Write the pages of a folder of runs, and anew only those of runs that have changed; returns the index.

    A run that is damaged has a page that says so. Raises ValueError where `folder` is none, or a single run's.
    """
    of_runs = folder.is_dir() and not (folder / "config.json").exists()
    require(of_runs, "runs", "a folder of runs", folder, "give the folder above the runs' own")
    rows, library = list_runs(folder), _changed(*SOURCE.iterdir(), *SOURCE.parent.glob("*.py"))
    if _changed(folder / "assets/pages.css") <= library:
        write_assets(folder / "assets")
    stale = [row for row in rows if not _is_fresh(folder, row, library)]
    jobs = cpu_count() if len(stale) > 50 else 1  # it takes a second to start others
    with progress_bar(len(stale), "pages", "runs", leave=False, show=bool(stale)) as bar:
        written = Parallel(jobs, return_as="generator")(delayed(_write_run)(folder, row) for row in stale)
        for row, damage in zip(stale, written, strict=True):
            row |= damage
            bar.update()
    rows = [{**row, "curve": None if "error" in row else "the loss"} for row in rows]
    columns = {name: kind_of(name) for name in (*AT_FIRST, *(name for row in rows for name in row))}
    numbers = {name for name in columns if all(isinstance(row.get(name), int | float | None) for row in rows)}
    alone = [file for file in sorted(folder.rglob("report.ipynb")) if not (file.parent / "config.json").exists()]
    texts = {row["run"]: {name: _text(row, name) for name in columns} for row in rows}
    shown = {"rows": rows, "columns": columns, "numbers": numbers, "at_first": AT_FIRST, "texts": texts}
    return render(folder, "index.html", "index.html", others=[*map(_page, alone)], now=datetime.now(UTC), **shown)


def _is_fresh(folder: Path, row: dict, library: float) -> bool:
    """Whether the page of a run is newer than all that it shows, and than the code, last changed at `library`."""
    run_dir = folder / row["run"]
    newest = max(library, _changed(*run_dir.iterdir(), run_dir.parent / "report.ipynb"))  # see `report_of`
    written = [folder / f"pages/{row['run']}.html", folder / f"assets/runs/{row['run']}.js"]
    # That a run has died changes no file.
    return row["state"] not in ("running", "died") and all(_changed(file) > newest for file in written)


def _write_run(folder: Path, row: dict) -> dict:
    """Write the page of a run, and what is drawn of it; returns what of its row is otherwise, where it is damaged."""
    name, run_dir = row["run"], folder / row["run"]
    page, report, drawing = f"pages/{name}.html", report_of(run_dir), folder / f"assets/runs/{name}.js"
    try:
        run, queries = Run.open(run_dir), read_json(run_dir / "queries.json")
        # A notebook may train several runs.
        place = next((place for place in (run_dir, run_dir.parent) if (place / RECORD).exists()), run_dir)
        require(not queries or queries.keys() >= QUERIES, "queries.json", f"one with {sorted(QUERIES)}", [*queries])
        drawn = {"chance": run.config.chance_loss, "queries": queries, "curves": curves(run)}
        write(drawing, f"runs[{json.dumps(name)}] = {json.dumps(drawn)};")
        write(drawing.with_suffix(".svg"), spark_line(drawn["curves"][0]["y"].get("loss", [])))
        asked = ASKED.findall("".join(read_json(report)["cells"][0]["source"])) if report else []
        met = run.summary.get("prediction_met", {})
        told = {"asked": asked, "met": met if isinstance(met, dict) else {"the prediction": met}, "queries": queries}
        told |= {"place": place, "record": read_json(place / RECORD), "report": report and page_of(report)}
        told |= {"pictures": sorted(run_dir.glob("figures/*.png")), "texts": {name: {}}, "columns": {}}
        render(folder, page, "run.html", row=row, run=run, **told)
        return {}
    except Exception as error:  # whatever is damaged: the others have their pages all the same
        damage = unreadable_row(name, error)
        written = render(folder, page, "run.html", row=row | damage, texts={name: {}}, columns={})
        os.utime(written, (0, 0))  # so that it is written anew until it is mended
        return damage


def _page(report: Path) -> Path:
    """The page of an executed notebook, or, where that is damaged, the notebook."""
    try:
        return page_of(report)
    except Exception:  # whatever is damaged: the runs are shown all the same
        return report


def _text(row: dict, column: str) -> str:
    deviation = row.get(f"{column} deviation")
    return in_words(row.get(column)) + ("" if deviation is None else f" ± {in_words(deviation)}")


def _changed(*files: Path) -> float:
    """When the last of these files was changed, in seconds since 1970; 0 where none is there."""
    return max((file.stat().st_mtime for file in files if file.exists()), default=0)


# How a page is written: from a template, which escapes all that it is given.


def render(folder: Path, page: str, template: str, **shown: object) -> Path:
    """Write a page of `folder` from a template, in which link(file) is the address of a file there; returns it."""
    root = "../" * page.count("/")
    links = {"root": root, "link": lambda file: root + quote(file.relative_to(folder).as_posix())}
    return write(folder / page, TEMPLATES.get_template(template).render(folder=folder, **links, **shown))


def write_assets(assets: Path) -> None:
    """Copy the libraries, and the script and the style of the pages."""
    write(assets / "plotly.js", (files("plotly") / "package_data/plotly.min.js").read_text("utf-8"))
    for kind in ("js", "css"):
        library = (files("itables") / f"html/dt_bundle.{kind}").read_text("utf-8")
        write(assets / f"datatables.{kind}", _as_script(library) if kind == "js" else library)
        write(assets / f"pages.{kind}", (SOURCE / f"pages.{kind}").read_text("utf-8"))


def write(file: Path, text: str) -> Path:
    """Write a file, whole or not at all, and the folders above it; returns it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    return temporary.replace(file)


def in_words(value: object) -> str:
    """A value as a cell shows it: numbers with four digits, nothing for None, what is in a dictionary by name."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {in_words(each)}" for name, each in value.items())
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def score(values: list[float] | None) -> str:
    """The mean of some scores, and their deviation where there are several; nothing where there is none."""
    deviation = f" ± {pstdev(values):.4f}" if values and len(values) > 1 else ""
    return f"{fmean(values):.4f}{deviation}" if values else ""


def _as_script(module: str) -> str:
    """The module of DataTables as a script that sets DataTable: a page that is opened from the disk may not import."""
    body, _, names = module.partition("export{")
    default = re.match(r"[^}]*\b(\w+) as default", names)
    require(default, "itables", "a module of DataTables with a default export", "another", "install itables 2.9")
    return f'(() => {{"use strict";{body}window.DataTable = {default[1]};}})();'


TEMPLATES = Environment(loader=FileSystemLoader(SOURCE), autoescape=True, trim_blocks=True)
TEMPLATES.filters |= {"text": in_words, "score": score, "quoted": shlex.quote}
TEMPLATES.policies["json.dumps_kwargs"] = {"sort_keys": False}
