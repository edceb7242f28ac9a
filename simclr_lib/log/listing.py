"""The runs of a folder: which there are, in what order, and which is best. Needs neither torch nor pandas."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from simclr_lib.config import RunConfig
from simclr_lib.engine.checks import SPLITS, require
from simclr_lib.engine.parameters import require_known
from simclr_lib.run import Run

FACTS = ("run", "state", "curve", "loss", "chance_loss", "alarms", "epochs_done", "started", "error", "exact_batch",
         "training_seconds", "final_loss", "scored_on")  # fmt: skip
HEADLINES = ("knn@20 top1", "precision@10", "precision@5")  # the first of these that a run has stands for it


def list_runs(folder: Path, where: Sequence[str] = (), sort: str = "run") -> list[dict]:
    """`Run.row` of every run at any depth below `folder`; of one that cannot be read its name and the "error".

    where: conditions such as "arch=resnet18", all of which hold. sort: a column, whose largest numbers come first.
    Raises ValueError for a column that no run has.
    """
    rows = Run.rows(folder)
    known = {name for row in rows for name in row}
    conditions = [condition.partition("=")[::2] for condition in where]
    require(all("=" in each for each in where), "where", "conditions such as arch=resnet18", " ".join(where))
    require_known({sort, *(name for name, _ in conditions)} if rows else (), known, "a column of list --json")
    chosen = [row for row in rows if all(name in row and _is(row[name], value) for name, value in conditions)]
    present = [row for row in chosen if row.get(sort) is not None]
    numbers = all(isinstance(row[sort], int | float) for row in present)
    ordered = sorted(present, key=lambda row: row[sort] if numbers else str(row[sort]), reverse=numbers)
    return ordered + [row for row in chosen if row.get(sort) is None]


def kind_of(column: str) -> str:
    """What a column tells of a run: a "fact", a "parameter", a "score", or a "detail": the score of a baseline or of a
    stage of training, or the deviation of several."""
    parameter, detail = column in RunConfig.__annotations__, column.endswith((")", " deviation"))
    return "fact" if column in FACTS else "parameter" if parameter else "detail" if detail else "score"


def best(rows: Sequence[dict], metric: str) -> tuple[dict, str]:
    """The row with the largest `metric` (the smallest loss), and on which images that was chosen.

    Raises ValueError where no run has it, and where they are on several data sets.
    """
    scored = [row for row in rows if isinstance(row.get(metric), int | float)]
    require(scored, "metric", "one that a run has", repr(metric), "see list --json")
    sets = sorted({row["dataset"] for row in scored})
    require(len(sets) == 1, "runs", "those on one data set", ", ".join(sets), "choose one: --where dataset=NAME")
    row = min(scored, key=lambda row: row[metric]) if "loss" in metric else max(scored, key=lambda row: row[metric])
    tested = "test" in SPLITS[row["dataset"]] and (row["dataset"] != "folder" or row["test_share"] > 0)
    images = "TEST IMAGES" if tested and "loss" not in metric else "the images that it was trained on"
    return row, row["scored_on"] if isinstance(row.get("scored_on"), str) else images


def lines(rows: Sequence[dict]) -> list[str]:
    """A line a run, under a heading: its state, what was trained on what, how far it came, its headline score."""
    cells = [("RUN", "STATE", "DATA", "ENCODER", "EPOCHS", "LOSS (CHANCE)", "SCORE", "AGE"), *map(_cells, rows)]
    widths = [max(len(row[column]) for row in cells if len(row) > 2) for column in range(8)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def _is(value: object, text: str) -> bool:
    try:
        return float(text) == value
    except ValueError:
        return str(value).lower() == text.lower()


def _cells(row: dict) -> tuple[str, ...]:
    if "error" in row:
        return row["run"], f"cannot be read: {row['error']}"
    score = next((f"{name} {row[name]:.3f}" for name in HEADLINES if name in row), "")
    loss = f"{row['loss']:.3f} ({row['chance_loss']:.3f})" if row["loss"] is not None else ""
    epochs = f"{row['epochs_done']}/{row['epochs']}"
    return row["run"], row["state"], row["dataset"], row["arch"], epochs, loss, score, _age(row["started"])


def _age(started: str | None) -> str:
    if started is None:
        return ""
    hours = (datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds() / 3600
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} d"
