"""One progress bar for a terminal, JupyterLab, an executed notebook and a log file."""

import io
import sys

from tqdm import tqdm


def progress_bar(total: int, desc: str, unit: str, initial: int = 0, leave: bool = True, show: bool = True) -> tqdm:
    """A tqdm bar over `total` units of work, `initial` of them done before, drawn the way the place at hand can
    show it; or, with show=False, none, in a process that is to be silent.

    A terminal gets the usual line; a notebook kernel one display that is updated in place, so that the executed
    notebook keeps only its last state; anything else (a log file) a line every half minute.
    """
    bar = dict(total=total, desc=desc, unit=" " + unit, initial=initial, leave=leave, disable=not show)
    if in_notebook():
        return _NotebookBar(**bar, ncols=120, mininterval=0.5, file=io.StringIO(), ascii=False)
    return tqdm(**bar, dynamic_ncols=True, mininterval=0.2 if sys.stderr.isatty() else 30.0)


def say(bar: tqdm, line: str) -> None:
    """Print a line above `bar`, unless that is not shown."""
    if not bar.disable:
        bar.write(line)


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel (JupyterLab's or papermill's)."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


class _NotebookBar(tqdm):
    # tqdm's own notebook bar is a widget, which an executed notebook or its html cannot show without a kernel;
    # carriage returns would pile up there line by line. A display with an id does neither.

    _handle = None

    def clear(self, nolock: bool = False) -> None:
        """Nothing to clear: what is printed meanwhile goes to another output."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        from IPython.display import display

        text = {"text/plain": str(self) if msg is None else msg}
        if self._handle is not None:
            self._handle.update(text, raw=True)
        elif text["text/plain"]:
            self._handle = display(text, raw=True, display_id=True)
