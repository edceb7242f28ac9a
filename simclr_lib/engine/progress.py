"""One progress bar for a terminal, JupyterLab, an executed notebook, a log file, and across processes."""

import functools
import io
import os
import sys
from collections.abc import Iterable

from tqdm import tqdm

CALLER = "SIMCLR_CALLER"  # the environment variable by which a process knows the one that launched it
TOLD = "[bar]"  # begins a line that tells of a bar


def progress_bar(total: int, desc: str, unit: str, initial: int = 0, leave: bool = True, show: bool = True) -> tqdm:
    """A tqdm bar over `total` units of work, `initial` of them done before, drawn as the place at hand can show it;
    with show=False none, in a process that is to be silent.

    A terminal gets the usual line; a notebook kernel one display that is updated in place, so that the executed
    notebook keeps only its last state; a log file a line every half minute; a launched process tells its caller.
    """
    bar = dict(total=total, desc=desc, unit=" " + unit, initial=initial, leave=leave, disable=not show)
    if CALLER in os.environ:
        return _ToldBar(**bar, mininterval=0.5, file=io.StringIO())
    if in_notebook():
        return _NotebookBar(**bar, mininterval=0.5, file=io.StringIO(), ncols=120, ascii=False)
    return tqdm(**bar, dynamic_ncols=True, mininterval=0.2 if sys.stderr.isatty() else 30.0)


def say(line: str) -> None:
    """Print a line above whatever bar is shown, by the first of several processes alone; of a file's name, what is no
    text is escaped."""
    if os.environ.get("RANK", "0") == "0":
        tqdm.write(line.encode(errors="backslashreplace").decode())


say_once = functools.cache(say)  # no line twice in a process


def follow(lines: Iterable[str], bar: tqdm) -> None:
    """Print the lines of launched processes, but move `bar` as its namesake among their bars moves."""
    for line in lines:
        if not line.startswith(TOLD):
            bar.write(line, end="")
        elif line.startswith(f"{TOLD}\t{bar.desc}\t"):
            *_, done, postfix = line.rstrip("\n").split("\t")
            bar.set_postfix_str(postfix, refresh=False)
            bar.update(int(done) - bar.n)


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel (JupyterLab's or papermill's)."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


class _ToldBar(tqdm):
    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        # in one write, so that the line stays whole among those of other processes
        print(f"{TOLD}\t{self.desc}\t{self.n}\t{self.postfix or ''}\n", end="", flush=True)


class _NotebookBar(tqdm):
    # tqdm's own notebook bar is a widget, which an executed notebook or its html cannot show without a kernel;
    # carriage returns would pile up there line by line. A display with an id does neither.

    _handle = None

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        from IPython.display import display

        text = {"text/plain": str(self) if msg is None else msg}
        if self._handle is not None:
            self._handle.update(text, raw=True)
        elif text["text/plain"]:
            self._handle = display(text, raw=True, display_id=True)
