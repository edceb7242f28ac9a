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

BORDER = " =-\n"  # of what is in the launcher's report
CALLER = "SIMCLR_CALLER"  # the environment variable that tells the processes who started them


class ProcessFailedError(RuntimeError):
    """A process of a run died; its traceback is in the message."""


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
            _follow(run, steps, output, errors, lambda: launcher.poll() is None)
        if launcher.returncode:
            raise ProcessFailedError(
                f"expected {run.config.processes} processes to finish training, but one died; {run.path} keeps its "
                f"last checkpoint, if any, from which the same call goes on once the cause is mended:\n"
                f"{_cause(errors.read_text(errors='replace'))}"
            )


def _cause(report: str) -> str:
    """The launcher's report of all failures, the one that it takes for the cause first: others often follow from it."""
    _, _, failures = report.rpartition("ChildFailedError:")
    others, _, first = failures.rpartition("Root Cause (first observed failure):")
    return f"{first.strip(BORDER)}\n\n{others.strip(BORDER)}".strip()[:10_000]


@contextmanager
def _launcher(run: Run, output: Path, errors: Path) -> Iterator[subprocess.Popen]:
    processes = run.config.processes
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "simclr_lib", "train", "--config", str(run.path / "config.json"), "--run-dir", str(run.path)]
    package = str(Path(__file__).parents[1])
    surroundings = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        CALLER: str(os.getpid()),
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


def _follow(run: Run, steps: int, output: Path, errors: Path, running: Callable[[], bool]) -> None:
    """While `running`, move a progress bar with the steps that are recorded; print what is printed, and warnings."""
    metrics, batch = run.path / "metrics.jsonl", run.config.batch_size
    recorded = _new_lines(metrics, metrics.stat().st_size if metrics.exists() else 0)
    printed, complaints = _new_lines(output), _new_lines(errors)
    done = max((record["step"] + 1 for record in run.metrics()), default=0)
    with progress_bar(steps * batch, "training", "images", initial=done * batch) as bar:
        going = True
        while going:
            going = running()  # asked first, so that the last words are read after the end
            for line in [*next(printed), *(line for line in next(complaints) if "Warning: " in line)]:
                bar.write(line)
            for record in map(json.loads, next(recorded)):
                if record["kind"] == "step":
                    bar.set_postfix(step=record["step"] + 1, loss=f"{record['loss']:.3f}", refresh=False)
                    bar.update((record["step"] + 1) * batch - bar.n)
            time.sleep(0.5 * going)


def _new_lines(file: Path, position: int = 0) -> Iterator[list[str]]:
    """Each time, the whole lines that came to `file` since the last time, at first from the byte `position` on; the
    file need not exist yet."""
    while True:
        text = b""
        if file.exists():
            with open(file, "rb") as opened:
                opened.seek(position)
                text = opened.read()
            text = text[: text.rfind(b"\n") + 1]
            position += len(text)
        yield text.decode(errors="replace").split("\n")[:-1]
