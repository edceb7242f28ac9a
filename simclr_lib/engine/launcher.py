"""Train in several processes from one: start PyTorch's elastic launcher (torchrun), and show here how it goes."""

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TextIO

from joblib import cpu_count

from simclr_lib.engine.interruption import interruption
from simclr_lib.engine.lock import TOKEN, held
from simclr_lib.engine.progress import CALLER, follow, progress_bar, say


class ProcessFailedError(RuntimeError):
    """A process of a run died; its traceback is in the message."""


def launch(run_dir: Path, processes: int, steps: int, done: int, batch_size: int) -> None:
    """Train the run of a directory in so many processes, to its end.

    The processes are those of `torchrun -m simclr_lib train` on the run's own config.json. The bar of the first moves
    here, what they print is printed here, their warnings at the end, and none outlives this call.

    Args:
        steps, done: of the whole run, and those that were taken before, each of batch_size images.

    Raises:
        ProcessFailedError: if one dies, with the traceback of each that left one; the others have been ended.
    """
    bar = progress_bar(steps * batch_size, "training", "images", initial=done * batch_size)
    with bar, tempfile.TemporaryFile("w+", errors="replace") as errors:
        launcher = _torchrun(run_dir, processes, errors)

        @cache  # torchrun ends its processes first, those that do not end by force; asked twice, it would leave them
        def end() -> None:
            launcher.terminate()
            with suppress(subprocess.TimeoutExpired):
                launcher.wait(30)  # seconds, for a large checkpoint; usually one is enough

        try:
            with interruption.keeping(end):
                follow(launcher.stdout, bar)
        finally:
            end()
            launcher.wait()
        errors.seek(0)
        report = errors.read()
    for line in report.splitlines():
        if "Warning: " in line:
            say(line)
    if launcher.returncode:
        _, _, failures = report.rpartition("ChildFailedError:")  # torchrun's list of them, the first cause at its end
        found = f"expected {processes} processes to finish training, but one died; {run_dir} keeps its last checkpoint"
        remedy = "if any, from which the same call goes on once the cause is mended"
        raise ProcessFailedError(f"{found}, {remedy}:\n{failures.strip()[-10_000:]}")


def _torchrun(run_dir: Path, processes: int, errors: TextIO) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "simclr_lib", "train", "--config", str(run_dir / "config.json"), "--run-dir", str(run_dir)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {"OMP_NUM_THREADS": str(max(1, cpu_count() // processes)), **os.environ, "PYTHONPATH": path}
    environment |= {CALLER: str(os.getpid()), TOKEN: held.get(run_dir, "")}
    environment |= {"PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2"}
    streams = dict(stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace")
    return subprocess.Popen(command, env=environment, **streams)
