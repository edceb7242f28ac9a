"""The curves of a run as its page draws them: thinned to what a screen shows, along steps, epochs, images and time."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from simclr_lib import Run
from simclr_lib.engine.records import read_records

MOST = 300  # points of a curve; where there are more values, a point is the mean of several
PLACES = {"step", "epoch", "epochs", "seconds", "finite"}  # in a record, what is no reading


def curves(run: Run) -> list[dict]:
    """Of the steps, the readings of health and the scores of the snapshots, as far as there are any: "x", axis -> n
    values, and "y", quantity -> n values, None where one is not finite."""
    records = sorted(read_records(run.path / "metrics.jsonl"), key=lambda record: record["step"])
    steps, epochs, health = ([r for r in records if r["kind"] == kind] for kind in ("step", "epoch", "health"))
    ends = [0, *(record["step"] + 1 for record in epochs)]  # of the epochs, in steps
    seconds = np.cumsum([0, *(record["seconds"] for record in epochs)])
    stages = {**run.summary.get("over_training", {}).get("scores", {})}
    stages.pop("chance", None)
    at_end = dict.fromkeys(("trained encoder", "after training", "last checkpoint"), len(epochs))
    after = [int(re.sub(r"\D", "", name) or at_end.get(name, 0)) for name in stages]  # "after 20 epochs", "untrained"
    snapshots = [{metric: np.mean(values) for metric, values in scores.items()} for scores in stages.values()]
    places = [[r["step"] + 1 for r in steps], [r["step"] for r in health], np.interp(after, range(len(ends)), ends)]
    found = []
    for group, at in zip((steps, health, snapshots), places, strict=True):
        x = {"steps": at, "epochs": np.interp(at, ends, range(len(ends))), "seconds": np.interp(at, ends, seconds)}
        x["images"] = np.multiply(at, run.config.batch_size)
        fullest = max(group, key=len, default={})  # what was not finite lacks its readings
        names = [name for name, value in fullest.items() if isinstance(value, float) and name not in PLACES]
        y = {name: [record.get(name, np.nan) for record in group] for name in names}
        found.append({"x": _thinned(x), "y": _thinned(y)})
    return found


def _thinned(columns: Mapping[str, Sequence[float]]) -> dict[str, list[float | None]]:
    """Of each column of n values at most MOST means of as many values each, to six digits."""
    thinned, n = {}, len(next(iter(columns.values()), ()))
    starts = np.linspace(0, n, min(n, MOST), endpoint=False).astype(int)
    for name, values in columns.items():
        means = np.add.reduceat(np.array(values, float), starts) / np.diff([*starts, n]) if n else []
        thinned[name] = [float(f"{mean:.6g}") if abs(mean) < np.inf else None for mean in map(float, means)]
    return thinned


def spark_line(values: Iterable[float | None]) -> str:
    """A picture, in SVG, of how `values` go, as large as a word."""
    some = [value for value in values if value is not None] or [0]
    low, high = min(some), max(some)
    points = " ".join(f"{n},{24 - 20 * (value - low) / (high - low or 1):.1f}" for n, value in enumerate(some))
    box, look = f'viewBox="0 0 {len(some)} 26" preserveAspectRatio="none"', 'fill="none" stroke="#3b8fd4"'
    line = f'<polyline points="{points}" {look} vector-effect="non-scaling-stroke"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="90" height="26" {box}>{line}</svg>'
