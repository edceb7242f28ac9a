"""How long do the pages of many runs take: to be written, written again when one run is new, and to be usable?

    python benchmarks/pages.py        # two minutes; the last figure needs Chromium and playwright

500 made-up runs of 1,000 epochs each, four steps an epoch, with a reading of health after every epoch, scores and the
neighbours of six queries. "Usable" is from opening index.html to a table that is sorted and can be filtered.
"""

import json
import math
import random
import shutil
import tempfile
import time
from pathlib import Path

from simclr_lib.config import RunConfig
from simclr_lib.engine.environment import processor
from simclr_lib.log.pages import write_pages
from simclr_lib.run import Run

RUNS, EPOCHS, STEPS = 500, 1000, 4
READINGS = [
    "positive_mean",
    "other_mean",
    "alignment",
    "uniformity",
    "deviation",
    "effective_rank_z",
    "effective_rank_h",
]
THUMBNAIL = "data:image/jpeg;base64," + "A" * 1500


def make_run(path: Path, seed: int) -> None:
    noise = random.Random(seed)
    run = Run.start(path, RunConfig(dataset="cifar10", epochs=EPOCHS, learning_rate=noise.random(), seed=seed))
    records = []
    for step in range(EPOCHS * STEPS):
        epoch, loss = step // STEPS, 2 + 4 * math.exp(-step / 500) + noise.random() / 10
        records.append({"kind": "step", "step": step, "epoch": epoch, "loss": loss, "learning_rate": 0.1})
        if step % STEPS == STEPS - 1:
            records.append({"kind": "epoch", "step": step, "epoch": epoch, "loss": loss, "seconds": 9.5})
            readings = {name: noise.random() for name in READINGS} | {"positives": [7] * 40, "others": [7] * 40}
            records.append({"kind": "health", "step": step + 1, "epochs": epoch + 1, "finite": True, **readings})
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    encoders = ("trained encoder", "untrained encoder", "raw pixels")
    scores = {name: {"precision@5": [noise.random() for _ in range(3)]} for name in encoders}
    run.add_to_summary(retrieval={"scores": scores}, training_seconds=9500.0)
    names, queries = ("untrained encoder", "trained encoder"), range(6)
    found = {name: [[noise.randrange(100) for _ in range(10)] for _ in queries] for name in names}
    near = {name: [[0.5] * 10 for _ in queries] for name in names}
    about = {"dataset": "cifar10", "queries": [*queries], "neighbors": found, "similarities": near}
    images = {"labels": dict.fromkeys(range(100), "cat"), "thumbnails": dict.fromkeys(range(100), THUMBNAIL)}
    (path / "queries.json").write_text(json.dumps(about | images))
    run._write("status.json", {"state": "finished", "message": "", "time": "2026-01-01T00:00:00Z"})


def seconds_to_write(folder: Path) -> float:
    start = time.perf_counter()
    write_pages(folder)
    return time.perf_counter() - start


def seconds_to_use(index: Path) -> float:
    """From opening the index to a table that can be filtered; the median of five."""
    from playwright.sync_api import sync_playwright

    taken = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(5):
            page, start = browser.new_page(), time.perf_counter()
            page.goto(index.as_uri())
            page.wait_for_function("() => document.querySelector('#runs.dataTable tbody tr')")
            taken.append(time.perf_counter() - start)
            page.close()
    return sorted(taken)[2]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number in range(RUNS):
            make_run(folder / f"run-{number:03}", number)
        print(f"{RUNS} runs of {EPOCHS:,} epochs and {EPOCHS * STEPS:,} steps, {processor()}\n")
        print("| what | measured |\n|---|---|")
        print(f"| written the first time | {seconds_to_write(folder):.1f} s |", flush=True)
        make_run(folder / "run-new", RUNS)
        print(f"| written again, one run new | {seconds_to_write(folder):.1f} s |", flush=True)
        print(f"| index.html | {(folder / 'index.html').stat().st_size / 1e6:.1f} MB |", flush=True)
        print(f"| usable in headless Chromium | {seconds_to_use(folder / 'index.html'):.1f} s |")
