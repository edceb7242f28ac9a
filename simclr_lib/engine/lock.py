"""One writer at a time: the lock of a directory, on this machine and across machines that share its disk.

`writer.json` in the directory says who writes. Its time of change is the writer's heartbeat: both that time and the
one that it is compared with are the disk's, as the clocks of two machines differ.
"""

import json
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from simclr_lib.engine.checks import require
from simclr_lib.engine.environment import utc_now
from simclr_lib.engine.interruption import interruption
from simclr_lib.engine.progress import say

FILE = "writer.json"
BEAT, SILENCE = 15, 120  # seconds: between two heartbeats; without one, until a writer on another machine is dead
TOKEN = "SIMCLR_WRITER"  # the environment variable that makes a process one writer with the one that started it
_held: dict[Path, str] = {}  # directory -> the token by which this process is its writer


class LockLostError(RuntimeError):
    """Another process has become the writer of a directory, while this one was suspended."""


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Be the one writer of `folder` (an absolute path) inside, also where a signal ends this process.

    A lock whose holder is dead is taken over, with a line that says so.

    Raises:
        ValueError: where another process, or another thread of this one, writes to it.
    """
    token = os.environ.get(TOKEN, "")
    if token and _token(folder) == token:  # that of the process that started this one
        _held[folder] = token
        with interruption.at_end(lambda: None):
            yield
        return
    token = _take(folder)
    done = threading.Event()

    def release() -> None:
        done.set()
        _held.pop(folder, None)
        if _token(folder) == token:
            (folder / FILE).unlink(missing_ok=True)

    _held[folder] = token
    threading.Thread(target=_beat, args=(folder, token, done), daemon=True).start()
    try:
        with interruption.at_end(release):
            yield
    finally:
        release()


def writer(folder: Path) -> dict | None:
    """Who writes to `folder`: its process, host and since when; None where nobody does, or where who did is dead."""
    try:
        beat = (folder / FILE).stat().st_mtime
        holder = json.loads((folder / FILE).read_text() or "{}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    if holder.get("place") == _place():
        return holder if _born(holder["process"]) == holder["born"] else None
    return holder if abs(_time_of_disk(folder) - beat) < SILENCE else None


def require_free(folder: Path) -> None:
    """Raise ValueError, naming process, host and since when, where a process writes to `folder`."""
    holder = writer(folder)
    if holder is not None:
        found = f"{folder}, where {_name(holder)} trains"
        require(False, "run_dir", "a directory in which nothing is trained", found, "wait, stop it, or give another")


def require_held(folder: Path) -> None:
    """Raise LockLostError where this process was the writer of `folder` and is no longer."""
    if folder in _held and _token(folder) != _held[folder]:
        now = f"is held by {_name(holder)}" if (holder := writer(folder)) else "is gone"
        found = f"expected to be the one writer of {folder}, but {FILE} there {now}: was this process suspended?"
        raise LockLostError(f"{found} It writes no more; the same call goes on where the other ends")


def token_of(folder: Path) -> str:
    """What the processes that this one starts are given as TOKEN, to be one writer of `folder` with it."""
    return _held.get(folder, "")


def _name(holder: dict) -> str:
    process, host, since = (holder.get(name, "unknown") for name in ("process", "host", "since"))
    return f"process {process} on {host}, since {since},"


def _take(folder: Path) -> str:
    """Take the lock, and return its token."""
    token = uuid.uuid4().hex
    own = {"token": token, "process": os.getpid(), "host": socket.gethostname(), "since": utc_now()}
    own |= {"place": _place(), "born": _born(os.getpid())}
    try:
        with open(folder / FILE, "x") as file:  # one of several that try succeeds
            json.dump(own, file)
        return token
    except FileExistsError:
        require_free(folder)
    claim = folder / f".{FILE}.{token}"
    claim.write_text(json.dumps(own))
    os.replace(claim, folder / FILE)
    time.sleep(0.2)  # of several that found the lock of a dead one, the last to rename has it; the others see it now
    if _token(folder) != token:
        require_free(folder)
    say(f"{folder}: took over the lock of a process that died")
    return token


def _beat(folder: Path, token: str, done: threading.Event) -> None:
    while not done.wait(BEAT):
        with suppress(OSError):
            if _token(folder) == token:
                os.utime(folder / FILE)


def _token(folder: Path) -> str | None:
    with suppress(OSError, ValueError):
        return json.loads((folder / FILE).read_text())["token"]
    return None


def _place() -> str:
    """This machine since it was started, and its process numbers: a container has its own."""
    marks = [socket.gethostname()]
    with suppress(OSError):  # they are Linux's
        marks += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(marks)


def _born(process: int) -> str | None:
    """When a process here began, as another one may have its number later; None where it has ended."""
    if not Path("/proc/self/stat").exists():
        return "" if psutil.pid_exists(process) else None
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]  # in ticks since the machine was started, whatever clocks do


def _time_of_disk(folder: Path) -> float:
    with suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime
    return time.time()  # it cannot be written
