"""The command line: python -m simclr_lib train | resume | run | score | file | list | best | pages."""

import argparse
import ast
import json
from collections.abc import Callable
from pathlib import Path

from simclr_lib.engine.launcher import ProcessFailedError
from simclr_lib.engine.paths import project_root, read_json, user_path
from simclr_lib.engine.progress import say


def main(arguments: list[str] | None = None) -> None:
    """Run one command. What the user got wrong ends it with status 2 and one line, not a traceback; a process that died
    speaks for itself."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.command(options)
    except KeyboardInterrupt:
        parser.exit(130, "interrupted; the same command goes on\n")
    except (ValueError, OSError, FloatingPointError, ProcessFailedError) as error:
        parser.exit(2, f"error: {error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m simclr_lib", description="Train SimCLR and look into it.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    given = dict(dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))

    train = commands.add_parser("train", help="train from a configuration file, without a notebook")
    train.add_argument("--config", required=True, help="a json file with fields of RunConfig")
    train.add_argument("--run-dir", required=True, help="where to record the run; a part of the same run is resumed")
    train.set_defaults(command=_train, parameters=[])

    resume = commands.add_parser("resume", help="go on with the run of a run directory")
    resume.add_argument("run_dir")
    resume.add_argument("-p", **given, help="where and how fast: device, data_root, num_workers, processes, ...")
    resume.add_argument("--changed-notebook", action="store_true", help="go on though the notebook has changed since")
    resume.set_defaults(command=_resume, config=None)

    run = commands.add_parser("run", help="execute a notebook and file its report in the run directory")
    run.add_argument("notebook")
    run.add_argument("-p", **given)
    run.add_argument("--run-dir", help="default: a new directory under runs/")
    run.set_defaults(command=_run)

    file = commands.add_parser("file", help="file an executed notebook as the report of its run")
    file.add_argument("notebook")
    file.set_defaults(command=_file)

    score = commands.add_parser("score", help="score and draw a run, without a notebook")
    score.add_argument("run_dir")
    score.set_defaults(command=_score)

    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("--runs", help="a folder of runs; default: runs/")
    chosen.add_argument("--where", action="append", default=[], metavar="NAME=VALUE", help="only runs that have it")
    listed = commands.add_parser("list", parents=[chosen], help="list the runs")
    listed.add_argument("--sort", default="run", metavar="COLUMN", help="a parameter or a score, the largest first")
    listed.add_argument("--json", action="store_true", help="every column of every run")
    listed.set_defaults(command=_list)

    best = commands.add_parser("best", parents=[chosen], help="name the run with the best score")
    best.add_argument("metric", help="a column of list --json, such as 'knn@20 top1'")
    best.set_defaults(command=_best)

    pages = commands.add_parser("pages", help="write pages of the runs, to browse and compare in a browser")
    pages.add_argument("runs", nargs="?", metavar="RUNS_DIR", help="a folder of runs; default: runs/")
    pages.set_defaults(command=_pages)
    return parser


def _train(options: argparse.Namespace) -> None:
    """Train, or go on: the configuration of a run is in its directory."""
    from simclr_lib import RunConfig, train  # needs torch, which --help does without

    file = user_path(options.config or f"{options.run_dir}/config.json", "config")
    try:
        values = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"config: expected a json file with fields of RunConfig, got {file} ({error})") from error
    given = _parameters(options)
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
    from simclr_lib import Run
    from simclr_lib.engine.lock import one_writer
    from simclr_lib.log.sections import show_all

    run = Run.open(options.run_dir)
    parameters = read_json(run.path / "notebook.json").get("parameters", {})  # as its notebook scores it, if it has one
    with one_writer(run.path):
        show_all(run, **{name: parameters[name] for name in ("neighbors_k", "evaluation_images") if name in parameters})
    print(f"\nThe pictures are in {run.path / 'figures'}, the scores in {run.path / 'summary.json'}")


def _execute(execute: Callable[..., Path], *arguments: object) -> None:
    """Execute a notebook, or file one, and write the pages of all runs, also where a cell failed: they show where."""
    try:
        run_dir = execute(*arguments)
        print(f"\nThe executed report: {run_dir / 'report.html'} (report.ipynb beside it opens in JupyterLab)")
    except ProcessFailedError:
        _pages(argparse.Namespace(runs=None))
        raise
    _pages(argparse.Namespace(runs=None))


def _list(options: argparse.Namespace) -> None:
    from simclr_lib.log.listing import lines, list_runs

    rows = list_runs(_folder(options), options.where, options.sort)
    say(json.dumps(rows, indent=1) if options.json else "\n".join(lines(rows)))


def _best(options: argparse.Namespace) -> None:
    from simclr_lib.log.listing import best, list_runs

    row, images = best(list_runs(_folder(options), options.where), options.metric)
    say(f"{row['run']}  {options.metric} {row[options.metric]:.4f}, selected on {images}")


def _pages(options: argparse.Namespace) -> None:
    from simclr_lib.log.pages import write_pages

    if not options.runs:
        _folder(options).mkdir(exist_ok=True)  # before the first run, the page says how to make one
    print(f"To browse and compare all runs, open {write_pages(_folder(options))}")


def _folder(options: argparse.Namespace) -> Path:
    return user_path(options.runs or project_root() / "runs", "runs")


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
