"""`python -m MODULE` without its imports: a process forked from one that has made them, and has done nothing else.

What the process starts in the same way is forked too, from it. Each has its own process id, session and signals, finds
the library not imported yet, and ends as any other does; only the libraries below it, which take seconds, are there.
"""

import inspect
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

LIBRARIES = ["simclr_lib.train", "torch.distributed.run"]  # with what they import


class Started:
    """A process of `python -m MODULE ARGUMENTS`, in a session of its own; what `subprocess.Popen` offers of it."""

    def __init__(self, module: str, *arguments: str, env: dict[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(LIBRARIES)
        handle, name = tempfile.mkstemp()
        os.close(handle)
        weakref.finalize(self, os.unlink, name)
        self._printed, where = Path(name), (os.getcwd(), env)
        self._process = context.Process(target=_begin, args=([module, *arguments], *where, name), daemon=True)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("python -m", timeout, self._printed.read_text())
        return self._printed.read_text(), None


def _begin(command: list[str], cwd: str, env: dict[str, str], printed: str) -> None:
    multiprocessing.current_process()._config["daemon"] = False  # it may start processes
    out = os.open(printed, os.O_WRONLY | os.O_APPEND)
    _become(command, cwd, env, (-1, out, out), True)


def _become(command: list[str], cwd: str | None, env: dict[str, str], streams: tuple, new_session: bool) -> None:
    """In the new process: be `python -m` of a command."""
    import torch

    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if new_session:
        os.setsid()
    for target, source in enumerate(streams):
        if source >= 0:
            os.dup2(source, target)
    os.closerange(3, 1024)
    os.chdir(cwd or ".")
    os.environ.clear()
    os.environ.update(env)
    torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
    for name in [name for name in sys.modules if name.split(".")[0] == "simclr_lib" or name == command[0]]:
        del sys.modules[name]
    subprocess.Popen._execute_child = _execute_child
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


_EXECUTE = subprocess.Popen._execute_child
_PARAMETERS = inspect.signature(_EXECUTE)


def _execute_child(self: subprocess.Popen, *arguments: object) -> None:
    """In place of that of Popen: fork where it would start `python -m`."""
    given = _PARAMETERS.bind(self, *arguments).arguments
    command = [word for word in given["args"] if word != "-u"]
    if command[:2] != [sys.executable, "-m"]:
        return _EXECUTE(self, *arguments)
    streams = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
    environment = dict(os.environ if given["env"] is None else given["env"])
    where = (given["cwd"], environment, streams, given["start_new_session"])
    process = multiprocessing.get_context("fork").Process(target=_become, args=(command[2:], *where))
    process.start()
    self._child_created, self.pid = True, process.pid
    pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
    self._close_pipe_fds(*[given[name] for name in pipes])
