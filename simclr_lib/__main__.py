"""The command line: python -m simclr_lib train | resume | run | score | file | list | best | pages | explore."""

import argparse
import ast
import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from simclr_lib import Run
from simclr_lib.engine.checks import require
from simclr_lib.engine.launcher import ProcessFailedError
from simclr_lib.engine.lock import one_writer
from simclr_lib.engine.paths import project_root, read_json, user_path
from simclr_lib.engine.progress import say
from simclr_lib.log import listing


def main(arguments: list[str] | None = None) -> None:
    """Run one command. What the user got wrong ends it with status 2 and one line, not a traceback; a process that died
    speaks for itself."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.command(options)
    except KeyboardInterrupt:
        parser.exit(130, "interrupted; python -m simclr_lib resume RUN_DIR goes on\n")
    except (ValueError, OSError, FloatingPointError, ProcessFailedError) as error:
        parser.exit(2, f"error: {error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m simclr_lib", description="Train SimCLR and look into it.")
    parser.set_defaults(config=None, parameters=[])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    given = dict(dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("--runs", help="a folder of runs; default: runs/")
    chosen.add_argument("--where", action="append", default=[], metavar="NAME=VALUE", help="only runs that have it")

    def add(name: str, command: Callable, help: str, **options: object) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, **options)
        added.set_defaults(command=command)
        return added

    train = add("train", _train, "train from a configuration file, without a notebook")
    train.add_argument("--config", required=True, help="a json file with fields of RunConfig")
    train.add_argument("--run-dir", required=True, help="where to record the run; a part of the same run is resumed")

    resume = add("resume", _resume, "go on with the run of a run directory")
    resume.add_argument("run_dir")
    resume.add_argument("-p", **given, help="where and how fast: device, data_root, num_workers, processes, ...")
    resume.add_argument("--changed-notebook", action="store_true", help="go on though the notebook has changed since")

    run = add("run", _run, "execute a notebook and file its report in the run directory")
    run.add_argument("notebook")
    run.add_argument("-p", **given)
    run.add_argument("--run-dir", help="default: a new directory under runs/")

    add("file", _file, "file an executed notebook as the report of its run").add_argument("notebook")
    add("score", _score, "score and draw a run, without a notebook").add_argument("run_dir")

    explore = add("explore", _explore, "write explore.html of a run: walk through the neighbours of its images")
    explore.add_argument("run_dir", nargs="+", help="a run, or several on one set of images, beside each other")
    explore.add_argument("--data-root", help="where the images are; default: where the run had them")
    explore.add_argument("--parquet", metavar="FILE", help="write this instead: a table for Embedding Atlas and others")

    listed = add("list", _list, "list the runs", parents=[chosen])
    listed.add_argument("--sort", default="run", metavar="COLUMN", help="a parameter or a score, the largest first")
    listed.add_argument("--json", action="store_true", help="every column of every run")

    best = add("best", _best, "name the run with the best score", parents=[chosen])
    best.add_argument("metric", help="a column of list --json, such as 'knn@20 top1'")

    pages = add("pages", _pages, "write pages of the runs, to browse and compare in a browser")
    pages.add_argument("runs", nargs="?", metavar="RUNS_DIR", help="a folder of runs; default: runs/")
    return parser


def _train(options: argparse.Namespace) -> None:
    """Train, or go on: the configuration of a run is in its directory."""
    from simclr_lib import RunConfig, train  # needs torch, which --help does without

    file = user_path(options.config or f"{options.run_dir}/config.json", "config")
    require(file.is_file(), "config", "a json file with fields of RunConfig", file)
    values, given = read_json(file), _parameters(options)
    train(RunConfig.from_dict({**values, **given} if given else values), options.run_dir)


def _resume(options: argparse.Namespace) -> None:
    """Go on with a run: with its notebook where it has one."""
    run_dir = user_path(options.run_dir, "run_dir")
    if not (run_dir / "notebook.json").exists():
        return _train(options)
    from simclr_lib.log.report import resume_notebook

    _execute(resume_notebook, run_dir, _parameters(options), options.changed_notebook)


def _run(options: argparse.Namespace) -> None:
    from simclr_lib.log.report import run_notebook

    _execute(run_notebook, options.notebook, _parameters(options), options.run_dir)


def _file(options: argparse.Namespace) -> None:
    from simclr_lib.log.report import file_report

    _execute(file_report, options.notebook)


def _score(options: argparse.Namespace) -> None:
    from simclr_lib.log.sections import show_all

    run = Run.open(options.run_dir)
    parameters = read_json(run.path / "notebook.json").get("parameters", {})  # as its notebook scores it, if it has one
    with one_writer(run.path):
        show_all(run, **{name: parameters[name] for name in ("neighbors_k", "evaluation_images") if name in parameters})
    print(f"\nThe pictures are in {run.path / 'figures'}, the scores in {run.path / 'summary.json'}")


def _explore(options: argparse.Namespace) -> None:
    from simclr_lib.evaluation.columns import Columns
    from simclr_lib.log.explorer import write_explorer, write_parquet

    runs, table = [Run.open(path) for path in options.run_dir], options.parquet
    installed, page = not table or find_spec("pyarrow"), f"{runs[0].path}/explore.html"
    require(installed, "--parquet", "pyarrow, which writes it", "none", "pip install 'simclr-lib[parquet]'")
    remedy = "copy the run, or write a table: --parquet FILE"
    require(table or os.access(runs[0].path, os.W_OK), page, "a folder that can be written", "another", remedy)
    columns = Columns(runs, **({"root": options.data_root} if options.data_root else {}))
    done = write_parquet(columns, table) if table else write_explorer(columns)
    say(f"The table was written to {done}" if table else f"To walk through the neighbours, open {done}")


def _execute(execute: Callable[..., Path], *arguments: object) -> None:
    """Execute a notebook, or file one, and write the pages of all runs, also where a cell failed: they show where."""
    try:
        run_dir = execute(*arguments)
        print(f"\nThe executed report: {run_dir / 'report.html'} (report.ipynb beside it opens in JupyterLab)")
    except (ProcessFailedError, KeyboardInterrupt):
        _pages(argparse.Namespace(runs=None))
        raise
    _pages(argparse.Namespace(runs=None))
    if not run_dir.is_relative_to(project_root() / "runs"):
        print(f"They are of runs/; for those of another folder: python -m simclr_lib pages {run_dir.parent}")


def _list(options: argparse.Namespace) -> None:
    rows = listing.list_runs(_folder(options), options.where, options.sort)
    rows = json.loads(json.dumps(rows), parse_constant=lambda name: None)  # NaN, which is no JSON
    say(json.dumps(rows, indent=1) if options.json else "\n".join(listing.lines(rows)))


def _best(options: argparse.Namespace) -> None:
    row, images = listing.best(listing.list_runs(_folder(options), options.where), options.metric)
    say(f"{row['run']}  {options.metric} {row[options.metric]:.4f}, selected on {images}")


def _pages(options: argparse.Namespace) -> None:
    from simclr_lib.log.pages import write_pages

    _folder(options).mkdir(exist_ok=True)  # before the first run, the page says how to make one
    print(f"To browse and compare all runs, open {write_pages(_folder(options))}")


def _folder(options: argparse.Namespace) -> Path:
    folder = user_path(options.runs or project_root() / "runs", "runs")
    require(folder.is_dir() or not options.runs, "runs", "a folder of runs", folder, "give the folder above the runs'")
    return folder


def _parameters(options: argparse.Namespace) -> dict[str, object]:
    return {name: _literal(value) for name, value in options.parameters}


def _literal(text: str) -> object:
    """The value that `text` writes: a Python literal, true, false or null, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return {"true": True, "false": False, "null": None}.get(text, text)


if __name__ == "__main__":
    main()
