"""The command line: python -m simclr_lib train | resume | run | list."""

import argparse
import ast
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simclr_lib.launch import ProcessFailedError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors in what the user gave are one line, not a traceback; a process
    that died speaks for itself."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (ValueError, FileNotFoundError, FloatingPointError, ProcessFailedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m simclr_lib", description="Train SimCLR and look into it.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train from a configuration file, without a notebook")
    train.add_argument("--config", required=True, help="a json file with fields of RunConfig")
    train.add_argument("--run-dir", required=True, help="where to record the run; a part of the same run is resumed")
    train.set_defaults(command=_train)

    resume = commands.add_parser("resume", help="go on with the run of a run directory")
    resume.add_argument("run_dir")
    resume.set_defaults(command=_resume)

    run = commands.add_parser("run", help="execute a notebook and file its report in the run directory")
    run.add_argument("notebook")
    run.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument("--run-dir", help="default: a new directory under runs/")
    run.set_defaults(command=_run)

    listing = commands.add_parser("list", help="list the runs under runs/")
    listing.set_defaults(command=_list)
    return parser


def _train(options: argparse.Namespace) -> None:
    from simclr_lib import RunConfig

    _train_into(RunConfig.from_dict(_read_json(options.config)), options.run_dir)


def _resume(options: argparse.Namespace) -> None:
    from simclr_lib import Run

    run = Run.open(options.run_dir)
    _train_into(run.config, run.path)


def _train_into(config: Any, run_dir: str | Path) -> None:
    from simclr_lib import train
    from simclr_lib.distributed import launched

    run = train(config, run_dir)
    if not launched():  # else there are several, and torchrun was told the directory
        print(run.path)


def _run(options: argparse.Namespace) -> None:
    from simclr_lib.report import run_notebook

    parameters = {name: _literal(value) for name, value in options.parameters}
    run_dir = run_notebook(options.notebook, parameters, options.run_dir)
    print(f"\nThe executed report:\n  {run_dir / 'report.html'} (opens in a browser, offline)")
    print(f"  {run_dir / 'report.ipynb'} (opens in JupyterLab)")


def _list(options: argparse.Namespace) -> None:
    from simclr_lib.paths import project_root
    from simclr_lib.record import Run

    for file in sorted((project_root() / "runs").rglob("config.json")):
        try:
            run = Run.open(file.parent)
        except (ValueError, TypeError) as error:  # another version's run, say
            print(f"{file.parent}: {error}")
            continue
        config, epochs = run.config, run.metrics("epoch")
        loss = f"loss {epochs[-1]['loss']:.3f} (chance {config.chance_loss:.3f})" if epochs else "no epoch yet"
        name, state = file.parent.relative_to(project_root() / "runs"), run.status.get("state", "unknown")
        print(f"{name!s:48} {state:11} {config.dataset} {config.arch} {len(epochs)}/{config.epochs} epochs  {loss}")


def _read_json(path: str) -> dict:
    try:
        return json.loads(Path(path).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"config: expected a json file with fields of RunConfig, got {path} ({error})") from error


def _literal(text: str) -> Any:
    """The value that `text` writes: a Python literal, true, false or null, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "null": None}.get(text, text)


if __name__ == "__main__":
    sys.exit(main())
