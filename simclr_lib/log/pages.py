"""The log as pages that open by double click: index.html of a folder of runs, and pages/<run>.html for each of them.

assets/ holds what they share, and assets/runs/<run>.js what is drawn of a run: a script, as a page that is opened from
the disk may read no other file. All of it may be deleted, and is then written anew.
"""

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

from joblib import Parallel, cpu_count, delayed

from simclr_lib.engine.checks import require
from simclr_lib.engine.paths import read_json
from simclr_lib.engine.progress import progress_bar
from simclr_lib.engine.records import unreadable_row
from simclr_lib.log.curves import curves, spark_line
from simclr_lib.log.listing import HEADLINES, kind_of, list_runs
from simclr_lib.log.report import RECORD, page_of, report_of
from simclr_lib.log.site import SOURCE, in_words, render, write, write_assets
from simclr_lib.run import Run

SCORED = (*HEADLINES, "alarms", "dataset", "arch", "epochs_done", "started")
AT_FIRST = ("run", "state", "curve", "loss", *SCORED)  # columns; others are chosen
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
    for row in rows:
        row["curve"] = None if "error" in row else "the loss"
    columns = {name: kind_of(name) for name in (*AT_FIRST, *(name for row in rows for name in row))}
    numbers = {name for name in columns if all(isinstance(row.get(name), int | float | None) for row in rows)}
    alone = [file for file in sorted(folder.rglob("report.ipynb")) if not (file.parent / "config.json").exists()]
    texts = {row["run"]: {name: _text(row, name) for name in columns} for row in rows}
    shown = {"rows": rows, "columns": columns, "numbers": numbers, "at_first": AT_FIRST, "texts": texts}
    return render(folder, "index.html", "index.html", others=[*map(_page, alone)], now=datetime.now(UTC), **shown)


def _is_fresh(folder: Path, row: dict, library: float) -> bool:
    """Whether the page of a run is newer than all that it shows, and than the code, last changed at `library`."""
    report, run_dir = report_of(folder / row["run"]), folder / row["run"]
    newest = max(library, _changed(*run_dir.iterdir()), _changed(report) if report else 0)
    settled = row["state"] not in ("running", "died")  # that a run has died changes no file
    written = [folder / f"pages/{row['run']}.html", folder / f"assets/runs/{row['run']}.js"]
    return settled and all(_changed(file) > newest for file in written)


def _write_run(folder: Path, row: dict) -> dict:
    """Write the page of a run, and what is drawn of it; returns what of its row is otherwise, where it is damaged."""
    name, run_dir = row["run"], folder / row["run"]
    page, report, drawing = f"pages/{name}.html", report_of(run_dir), folder / f"assets/runs/{name}.js"
    try:
        run, queries = Run.open(run_dir), read_json(run_dir / "queries.json")
        # A notebook may train several runs.
        place = next((place for place in (run_dir, run_dir.parent) if (place / RECORD).exists()), run_dir)
        record = read_json(place / RECORD)
        require(not queries or queries.keys() >= QUERIES, "queries.json", f"one with {sorted(QUERIES)}", [*queries])
        drawn = {"chance": run.config.chance_loss, "queries": queries, "curves": curves(run)}
        write(drawing, f"runs[{json.dumps(name)}] = {json.dumps(drawn)};")
        write(drawing.with_suffix(".svg"), spark_line(drawn["curves"][0]["y"].get("loss", [])))
        asked = ASKED.findall("".join(read_json(report)["cells"][0]["source"])) if report else []
        met = run.summary.get("prediction_met", {})
        told = {"record": record, "asked": asked, "met": met if isinstance(met, dict) else {"the prediction": met}}
        told |= {"place": place, "queries": queries, "report": report and page_of(report)}
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
