"""What a run recorded, for reading: metrics, a JSON object a line, whole or the last alone; the scores of a summary."""

import json
from mmap import ACCESS_READ, mmap
from pathlib import Path
from statistics import fmean, pstdev

from simclr_lib.engine.checks import require


def read_records(file: Path) -> list[dict]:
    """The records of `file` in order of `step`, none where there is no file; of one that is there twice, the last.

    Raises ValueError, naming the file, where a line is damaged.
    """
    records = _parse(file, file.read_text() if file.exists() else "")
    last = {(record["kind"], record["step"]): record for record in records}  # older versions left some steps twice
    return sorted(last.values(), key=lambda record: record["step"])


def records_until(file: Path, epochs: int, steps: int) -> list[dict]:
    """The records of `epochs` whole epochs and of `steps` steps of the next. Raises ValueError where one is missing."""
    records = read_records(file)
    ends = [record["step"] + 1 for record in records if record["kind"] == "epoch" and record["epoch"] < epochs]
    done = max(ends, default=0) + steps
    bounds = {"step": ("step", done), "epoch": ("epoch", epochs), "health": ("epochs", epochs + 1)}
    kept = [record for record in records if record[bounds[record["kind"]][0]] < bounds[record["kind"]][1]]
    found, remedy = sum(record["kind"] == "step" for record in kept), "restore it, or give another run_dir"
    expected = f"every step of {epochs} epochs, and {steps} of the next, as the checkpoint has them"
    require(found == done and len(ends) == epochs, str(file), expected, f"{found} steps", remedy)
    return kept


def last_record(file: Path, kind: str) -> dict:
    """The last record of `kind` ("step", "epoch" or "health"), empty where there is none."""
    if not file.exists() or not file.stat().st_size:  # an empty file cannot be mapped
        return {}
    with open(file, "rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as text:
        start = len(text)
        while (start := text.rfind(b'{"kind": "%s"' % kind.encode(), 0, start)) >= 0:
            text.seek(start)
            if found := _parse(file, text.readline().decode(errors="replace")):
                return found[0]
    return {}


def flat_scores(summary: dict) -> dict:
    """The scores of a summary by column: "precision@5" of the trained encoder, a mean over seeds or draws; where there
    are several, "precision@5 deviation"; "precision@5 (raw pixels)"; and whatever else is a number or a text."""
    flat = {name: value for name, value in summary.items() if isinstance(value, bool | int | float | str)}
    tables = [table for table in summary.values() if isinstance(table, dict) and "scores" in table]
    flat.update(("scored_on", table["scored_on"]) for table in tables if "scored_on" in table)
    for encoder, metrics in (item for table in tables for item in table["scores"].items()):
        of = "" if encoder == "trained encoder" else f" ({encoder})"
        for metric, values in metrics.items():
            flat[f"{metric}{of}"] = fmean(values)
            if len(values) > 1 and not of:
                flat[f"{metric} deviation"] = pstdev(values)
    return flat


def unreadable_row(name: str, error: Exception) -> dict:
    """What stands in the place of the row of a run that cannot be read."""
    return {"run": name, "state": "cannot be read", "error": f"{type(error).__name__}: {error}"}


def _parse(file: Path, text: str) -> list[dict]:
    try:
        whole = [line for line in text.splitlines() if line.endswith("}")]  # a crash can cut a line short
        return json.loads(f"[{','.join(whole)}]")  # at once: line by line takes three times as long
    except ValueError as error:
        raise ValueError(f"{file}: expected json in every line, got {error}") from error
