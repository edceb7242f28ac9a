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
held: dict[Path, str] = {}  # directory -> the token by which this process, and those it starts, are its writer


class LockLostError(Exception):
    """Another process has become the writer of a directory, while this one was suspended."""


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Be the one writer of `folder` (an absolute path) inside, also where a signal ends this process.

    A lock whose holder is dead is taken over, with a line that says so.

    Raises:
        ValueError: where another process, or another thread of this one, writes to it.
    """
    started_by_holder = os.environ.get(TOKEN) == _read(folder).get("token", "none")
    token, done = os.environ[TOKEN] if started_by_holder else os.urandom(16).hex(), threading.Event()

    def release() -> None:
        done.set()
        if held.get(folder) == token:
            del held[folder]
        if _read(folder).get("token") == token and not started_by_holder:
            (folder / FILE).unlink(missing_ok=True)

    try:
        if not started_by_holder:
            _take(folder, token)
        held[folder] = token
        threading.Thread(target=_beat, args=(folder, token, done), daemon=True).start()
        with interruption.at_end(release):
            yield
    finally:
        release()


def writer(folder: Path) -> dict | None:
    """Who writes to `folder`: its process, host and since when; None where nobody does, or where who did is dead."""
    holder = _read(folder)
    if holder.get("place") == _place():
        return holder if _born(holder["process"]) == holder["born"] else None
    with suppress(FileNotFoundError, NotADirectoryError):  # nobody does
        return holder if abs((folder / FILE).stat().st_mtime - _time_of_disk(folder)) < SILENCE else None
    return None


def require_free(folder: Path) -> None:
    """Raise ValueError, naming process, host and since when, where a process writes to `folder` that did not start
    this one."""
    holder = writer(folder)
    if holder is not None and holder.get("token") != os.environ.get(TOKEN, ""):
        found = f"{folder}, where {_name(holder)} trains"
        require(False, "run_dir", "a directory in which nothing is trained", found, "wait, stop it, or give another")


def require_held(folder: Path) -> None:
    """Raise LockLostError where this process was the writer of `folder` and is no longer."""
    if folder in held and _read(folder).get("token") != held[folder]:
        now = f"is held by {_name(holder)}" if (holder := writer(folder)) else "is gone"
        found = f"expected to be the one writer of {folder}, but {FILE} there {now}: was this process suspended?"
        raise LockLostError(f"{found} It writes no more; the same call goes on where the other ends")


def _name(holder: dict) -> str:
    process, host, since = (holder.get(name, "unknown") for name in ("process", "host", "since"))
    return f"process {process} on {host}, since {since},"


@contextmanager
def writing(folder: Path, name: str) -> Iterator[Path]:
    """The path of a file in `folder`, for its one writer; raises OSError, naming it, where it cannot be written."""
    require_held(folder)
    try:
        yield folder / name
    except (OSError, RuntimeError) as error:  # torch and safetensors have errors of their own for a full disk
        found = f"{folder / name} cannot be written ({error}); is the disk full?"
        raise OSError(f"{found} The same call goes on once it can") from error


@contextmanager
def rewriting(folder: Path, name: str) -> Iterator[Path]:
    """`writing`, but a temporary path, which then takes the place of the file: readers, and crashes, never see a part
    of it."""
    with writing(folder, name) as file:
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        file.parent.mkdir(exist_ok=True)
        try:
            yield temporary
            require_held(folder)  # a large file takes a while
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)


def _take(folder: Path, token: str) -> None:
    """Take the lock."""
    own = {"token": token, "process": os.getpid(), "host": socket.gethostname(), "since": utc_now()}
    own |= {"place": _place(), "born": _born(os.getpid())}
    try:
        with open(folder / FILE, "x") as file:  # one of several that try succeeds
            json.dump(own, file)
        return
    except FileExistsError:
        require_free(folder)
    except OSError as error:  # there is room for a name, but not for what is in it
        (folder / FILE).unlink(missing_ok=True)
        raise OSError(f"{folder}: expected a disk with room for a run, got {error}") from error
    claim = folder / f".{FILE}.{token}.tmp"
    claim.write_text(json.dumps(own))
    require_free(folder)  # once more: between the two, another may have taken it
    os.replace(claim, folder / FILE)
    time.sleep(0.2)  # of several that found the lock of a dead one, the last to rename has it; the others see it now
    if _read(folder).get("token") != token:
        require_free(folder)
    say(f"{folder}: took over the lock of a process that died")


def _beat(folder: Path, token: str, done: threading.Event) -> None:
    while not done.wait(BEAT):
        with suppress(OSError):
            if _read(folder).get("token") == token:
                os.utime(folder / FILE)


def _read(folder: Path) -> dict:
    with suppress(OSError, ValueError):  # there is none, or it is being written
        return json.loads((folder / FILE).read_text())
    return {}


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
    with suppress(OSError):  # it has
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]  # in ticks since the machine was started, whatever clocks do
    return None


def _time_of_disk(folder: Path) -> float:
    with suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime
    return time.time()  # it cannot be written
