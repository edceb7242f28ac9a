"""An end that is asked for from outside: SIGTERM, Slurm's SIGUSR2, SIGINT. What was done is kept within seconds.

Python runs a signal's handler only between two instructions of the main thread, and one backward pass may take
minutes. So a thread of its own waits for the signal, and keeps what there is to keep while the main thread computes.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR2") if hasattr(signal, name)]


class Interruption:
    """The signals while it is entered, by the main thread; `interruption` is the only one.

    SIGTERM and SIGUSR2 end the process, and so does SIGINT in one that torchrun started; else SIGINT raises
    KeyboardInterrupt, as everywhere, once all is kept.
    """

    def __init__(self) -> None:
        self._to_keep: list[Callable[[], None]] = []
        self._active = self._in_change = False

    @contextmanager
    def at_end(self, release: Callable[[], None]) -> Iterator[None]:
        """Inside, a signal has kept what `keeping` names, and then, if the process ends, calls `release`."""
        if self._active or threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers
            return
        self._active, self._asked, self._changing, self._kept = True, 0, threading.Lock(), threading.Event()
        self._ending = SIGNALS if "TORCHELASTIC_RUN_ID" in os.environ else SIGNALS[1:]
        read, write = os.pipe()
        os.set_blocking(write, False)
        threading.Thread(target=self._wait_for_signals, args=(read, release), daemon=True).start()
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)  # first: the handler waits for the thread
        heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # under nohup, say
        before = {number: signal.signal(number, self._handle) for number in heeded}
        try:
            yield
        finally:
            self._active = False
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)
            signal.set_wakeup_fd(wakeup)
            os.close(write)

    @contextmanager
    def keeping(self, keep: Callable[[], None]) -> Iterator[None]:
        """Inside, a signal calls `keep`, in another thread; what was named last is called first."""
        self._to_keep.append(keep)
        try:
            yield
        finally:
            self._to_keep.remove(keep)

    def begin_change(self, *_: object) -> None:
        """From here to the end of `whole`, what is kept would be half one state, half the next: a signal waits."""
        if self._here and not self._in_change:
            self._in_change = True
            while not self._changing.acquire(timeout=0.1):
                if self._kept.is_set():  # the lock is never given again
                    self._in_change = False
                    self._handle(self._asked)

    @contextmanager
    def whole(self, changing: bool = False) -> Iterator[None]:
        """A step: a signal inside leaves no trace of it, or, after `begin_change`, waits until it is whole.

        changing: the change begins at once.
        """
        try:
            if changing:
                self.begin_change()
            yield
        finally:
            if self._here and self._in_change:
                self._changing.release()
                self._in_change = False  # after it, so that no handler waits in between for what waits for the lock
        if self._here and self._asked:
            self._handle(self._asked)

    @property
    def _here(self) -> bool:
        """Whether this is the thread that signals reach; what another one trains ends with the process."""
        return self._active and threading.current_thread() is threading.main_thread()

    def _wait_for_signals(self, pipe: int, release: Callable[[], None]) -> None:
        while received := os.read(pipe, 1):  # empty once the other end is closed
            number = received[0]
            if number in SIGNALS and not self._kept.is_set():
                self._changing.acquire()  # and never let go: no change begins any more
                self._keep()
                self._kept.set()
            if number in self._ending:
                release()
                flush = threading.Thread(target=sys.stdout.flush, daemon=True)
                flush.start(), flush.join(0.5)  # the main thread may stand in the middle of a print
                os._exit(128 + number)
        os.close(pipe)

    def _keep(self) -> None:
        for keep in reversed(self._to_keep):
            try:
                keep()
            except Exception:  # a full disk, say: what else can be kept is kept
                traceback.print_exc()

    def _handle(self, number: int, *_: object) -> None:
        """In the main thread, at the first instruction after the signal."""
        self._asked = number
        if self._active and not self._in_change:
            self._kept.wait()
            if number in self._ending:
                threading.Event().wait()  # until the other thread ends the process
            self._active = False  # a signal repeated does no more
            raise KeyboardInterrupt


interruption = Interruption()
