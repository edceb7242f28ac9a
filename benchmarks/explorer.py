"""How large explore.html is, how long it takes to build, to open and to answer a click: python benchmarks/explorer.py
RUN_DIR [OPTION=VALUE ...], for the images that the run is scored on, or others: options are those of load_images, such
as limit=4000, or name=folder root=... split=all.

Built twice: first with all neighbours searched and the map drawn, then from what the run has kept of them. Opened in
headless Chromium; a click is an image opened by its id until its columns stand.
"""

import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from simclr_lib import Run
from simclr_lib.engine.environment import processor
from simclr_lib.evaluation.columns import Columns
from simclr_lib.log.explorer import write_explorer

CLICK = "async id => { const start = performance.now(); await explorer.open(id); return performance.now() - start; }"
OPENED = "() => new Promise(seen => requestAnimationFrame(() => setTimeout(() => seen(performance.now()))))"


def main(run_dir: str, *given: str) -> None:
    parts = (each.partition("=") for each in given)
    options = {name: int(value) if value.isdecimal() else value for name, _, value in parts}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(run_dir, f"{folder}/run", ignore=shutil.ignore_patterns("*nearest*", "map*", "explore.html"))
        run = Run.open(f"{folder}/run")
        Columns([run], **options)  # the images are embedded, as after training
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            columns = Columns([run], **options)
            page = write_explorer(columns)
            seconds.append(time.perf_counter() - start)
        ids = random.Random(0).sample(columns.images.ids.tolist(), 50)
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            view = chromium.new_page(viewport={"width": 1400, "height": 900})
            view.goto(Path(page).as_uri())
            view.wait_for_function("() => window.explorer")
            opened = view.evaluate(OPENED) / 1000
            clicks = sorted(view.evaluate(CLICK, id) for id in ids)
            chromium.close()
        layers = ", ".join(columns.rows)
        print(f"{len(columns.images):,} images of {columns.images.images.shape[-1]} px on {processor()}; {layers}")
        print(f"{page.stat().st_size / 1e6:.1f} MB; built in {seconds[0]:.1f} s, again in {seconds[1]:.1f} s")
        print(f"first view {opened:.2f} s; a click {clicks[25]:.0f} ms (median of 50), {clicks[-1]:.0f} ms at most")


if __name__ == "__main__":
    main(*sys.argv[1:])
