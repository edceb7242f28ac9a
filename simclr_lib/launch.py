"""Train in several processes from one: start PyTorch's elastic launcher (torchrun), and show here how it goes."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from simclr_lib.progress import progress_bar
from simclr_lib.record import Run


class ProcessFailedError(RuntimeError):
    """A process of a run died; the message ends with its traceback."""


def launch(run: Run, steps: int) -> None:
    """Train `run` in as many processes as its configuration says, to its end.

    The processes are those of `torchrun -m simclr_lib train` on the run's own config.json. Progress is read off the
    record that the first of them writes, what it prints is printed here, and none outlives this call.

    Args:
        steps: of the whole run, for the progress bar.

    Raises:
        ProcessFailedError: if one dies, with the traceback of each that left one; the others have been ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        with _launcher(run, output, errors) as launcher:
            _follow(run, steps, output, lambda: launcher.poll() is None)
        if launcher.returncode:
            raise ProcessFailedError(
                f"expected {run.config.processes} processes to finish training, but one died; {run.path} keeps its "
                f"last checkpoint, and the same call resumes it. What it left:\n{_cause(errors.read_text())}"
            )


def _cause(report: str) -> str:
    """Of the launcher's report: what it takes for the cause, unless that is only that a connection to another broke."""
    _, _, failures = report.rpartition("ChildFailedError:")
    _, _, first = failures.rpartition("Root Cause (first observed failure):")
    return (failures if "by peer" in first else first).strip(" =\n")[-10_000:]


@contextmanager
def _launcher(run: Run, output: Path, errors: Path) -> Iterator[subprocess.Popen]:
    processes = run.config.processes
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "simclr_lib", "train", "--config", str(run.path / "config.json"), "--run-dir", str(run.path)]
    package = str(Path(__file__).parents[1])
    surroundings = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // processes)),
    }
    with open(output, "w") as out, open(errors, "w") as err:
        launcher = subprocess.Popen(command, stdout=out, stderr=err, env=surroundings)
    try:
        yield launcher
        launcher.wait()
    finally:
        launcher.terminate()  # torchrun passes it on
        try:
            launcher.wait(timeout=60)
        except subprocess.TimeoutExpired:
            launcher.kill()


def _follow(run: Run, steps: int, output: Path, running: Callable[[], bool]) -> None:
    """Move a progress bar along with the steps in the run's record, and print what is printed, while `running`."""
    printed, recorded = _new_lines(output), _new_lines(run.path / "metrics.jsonl")
    batch = run.config.batch_size
    done = max((record["step"] + 1 for record in run.metrics()), default=0)
    with progress_bar(steps * batch, "training", "images", initial=done * batch) as bar:
        going = True
        while going:
            going = running()  # asked first, so that the last words are read after the end
            for line in next(printed):
                bar.write(line)
            for record in filter(_is_step, map(json.loads, next(recorded))):
                bar.set_postfix(step=record["step"] + 1, loss=f"{record['loss']:.3f}", refresh=False)
                bar.update((record["step"] + 1) * batch - bar.n)
            time.sleep(0.5 * going)


def _is_step(record: dict) -> bool:
    return record["kind"] == "step"


def _new_lines(file: Path) -> Iterator[list[str]]:
    """Each time, the whole lines that came to `file` since the last time; it need not exist yet."""
    position = 0
    while True:
        lines = []
        if file.exists():
            with open(file, "rb") as opened:
                opened.seek(position)
                lines = opened.read().splitlines(keepends=True)
            lines = [line for line in lines if line.endswith(b"\n")]
            position += sum(map(len, lines))
        yield [line.decode(errors="replace").rstrip("\n") for line in lines]
