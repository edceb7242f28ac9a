"""The command line: python -m simclr_lib train | resume | run | list."""

import argparse
import ast
import json

from simclr_lib.engine.launcher import ProcessFailedError
from simclr_lib.engine.paths import project_root, user_path
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
    resume.set_defaults(command=_train, config=None)

    run = commands.add_parser("run", help="execute a notebook and file its report in the run directory")
    run.add_argument("notebook")
    run.add_argument("-p", **given)
    run.add_argument("--run-dir", help="default: a new directory under runs/")
    run.set_defaults(command=_run)

    commands.add_parser("list", help="list the runs under runs/").set_defaults(command=_list)
    return parser


def _train(options: argparse.Namespace) -> None:
    """Train, or go on: the configuration of a run is in its directory."""
    from simclr_lib import RunConfig, train  # needs torch, which --help does without

    file = user_path(options.config or f"{options.run_dir}/config.json", "config")
    try:
        values = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"config: expected a json file with fields of RunConfig, got {file} ({error})") from error
    given = {name: _literal(value) for name, value in options.parameters}
    train(RunConfig.from_dict({**values, **given} if given else values), options.run_dir)


def _run(options: argparse.Namespace) -> None:
    from simclr_lib.log.report import run_notebook

    parameters = {name: _literal(value) for name, value in options.parameters}
    run_dir = run_notebook(options.notebook, parameters, options.run_dir)
    print(f"\nThe executed report: {run_dir / 'report.html'} (report.ipynb beside it opens in JupyterLab)")


def _list(options: argparse.Namespace) -> None:
    from simclr_lib.run import Run

    for file in sorted((project_root() / "runs").rglob("config.json")):
        try:
            run = Run.open(file.parent)
            config, epochs, state = run.config, run.metrics("epoch"), run.status.get("state", "unknown")
            loss = f"loss {epochs[-1]['loss']:.3f} (chance {config.chance_loss:.3f})" if epochs else "no epoch yet"
            line = f"{state:11} {config.dataset} {config.arch} {len(epochs)}/{config.epochs} epochs  {loss}"
        except Exception as error:  # a damaged file, the run of another version: the others are listed all the same
            line = f"cannot be read: {type(error).__name__}: {error}"
        say(f"{file.parent.relative_to(project_root())!s:48} {line}")


def _literal(text: str) -> object:
    """The value that `text` writes: a Python literal, true, false or null, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return {"true": True, "false": False, "null": None}.get(text, text)


if __name__ == "__main__":
    main()
