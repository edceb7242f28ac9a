"""Runs beside each other, each a row of a table: which are compared, in what they differ, and the paper's grid."""

import os
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import pandas as pd
from IPython.display import display
from ipywidgets import Dropdown, SelectMultiple, interactive_output

from simclr_lib.config import MACHINE_FIELDS, RunConfig
from simclr_lib.engine.checks import require


def choose(frame: pd.DataFrame, names: Sequence[str], columns: Sequence[str]) -> SelectMultiple | SimpleNamespace:
    """Show these `columns` of the chosen runs, in JupyterLab below a list in which others may be chosen.

    frame: a row a run, by name. names: those that are chosen at first; none: all.
    Returns the list, or what stands for it in an executed report: `value` has the names of the chosen runs. Raises
    ValueError at a name that is not in the table.
    """
    unknown = ", ".join(sorted(set(names) - set(frame.index)))
    require(not unknown, "compare", f"some of {', '.join(frame.index[:20])}", unknown, "see list")
    chosen = [*(names or frame.index)]
    if "JPY_SESSION_NAME" not in os.environ:  # no front end, which alone can show a widget
        display(frame.loc[chosen, columns])
        return SimpleNamespace(value=chosen)
    chooser = SelectMultiple(options=[*frame.index], value=chosen, rows=min(len(frame), 12), layout={"width": "auto"})
    display(chooser, interactive_output(lambda value: display(frame.loc[[*value], columns]), {"value": chooser}))
    return chooser


def choose_one(what: str, options: Mapping[str, str], value: str) -> Dropdown | SimpleNamespace:
    """In JupyterLab a list of `options`, name -> value, to choose one from; elsewhere what stands for it."""
    require(value in options.values(), what, f"one of {', '.join(options.values())}", repr(value))
    if "JPY_SESSION_NAME" not in os.environ:
        return SimpleNamespace(value=value)
    display(chooser := Dropdown(options=[*options.items()], value=value, description=what))
    return chooser


def differing(frame: pd.DataFrame) -> pd.DataFrame:
    """The parameters in which the runs of a table differ: a row each, a column a run; but those that say where and how
    fast a run computes."""
    fields = [name for name in RunConfig().to_dict() if name not in MACHINE_FIELDS]
    return frame[[name for name in fields if frame[name].map(repr).nunique() > 1]].T


def grid(frame: pd.DataFrame, rows: str, columns: str, metric: str, averaged: Sequence[str]) -> pd.DataFrame:
    """The paper's presentation of a grid of runs (appendix B.9): `metric` by two parameters, its mean over others.

    frame: a row a run, as `Run.list` gives it; of these, the runs that have the metric. averaged: the parameters over
    which the mean is taken, such as ["learning_rate", "seed"].
    Returns a row a value of `rows` and, for each value of `columns`, the mean, the standard deviation (NaN for a single
    run) and how many runs; NaN where there is none.
    Raises ValueError where no run has the metric or there is no such parameter, and where runs of one cell would differ
    in anything else.
    """
    require(metric in frame and frame[metric].notna().any(), "metric", "a column with scores", repr(metric))
    require({rows, columns} <= {*frame}, "rows, columns", "parameters of the runs", f"{rows}, {columns}")
    scored = frame[frame[metric].notna()]
    others = differing(scored).index.difference([rows, columns, *averaged])
    found = "; ".join(f"{name}: {', '.join(map(str, scored[name].unique()))}" for name in others)
    require(not found, "frame", f"runs that differ in {rows}, {columns} and what is averaged", found, "choose some")
    cells = scored.groupby([rows, columns], dropna=False)[metric].agg(["mean", "std", "count"])
    return cells.unstack().swaplevel(axis=1).sort_index(axis=1, level=0, sort_remaining=False)
