"""The explorer in a real JupyterLab, in Chromium: slow, as a server and kernels start."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
import torch
from PIL import Image

from simclr_lib import Run, RunConfig, train
from simclr_lib.evaluation.columns import Columns

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.child]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project with the notebooks, one run, and a picture of one's own."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    config = RunConfig(limit_images=64, batch_size=16, epochs=2, blur=False, device="cpu", norm="group")
    train(config, folder / "runs/mine")
    noise = torch.randint(256, (40, 50, 3), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(folder / "own.png")
    return folder


@pytest.fixture(scope="module")
def lab(project):
    """The address of a JupyterLab whose root is the project."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    options = ["--IdentityProvider.token=", f"--ServerApp.root_dir={project}", "--LabApp.news_url="]
    with open(project / "lab.log", "w") as log:
        server = subprocess.Popen([*command, *options], cwd=project, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{address}/api/status", timeout=5).close()
            break
        except OSError:
            time.sleep(0.5)
    yield address
    server.terminate()
    server.wait(30)


@pytest.fixture
def open_notebook(lab, browser):
    contexts = []

    def opened(name: str):
        contexts.append(browser.new_context(viewport={"width": 1500, "height": 1200}))
        page = contexts[-1].new_page()
        page.goto(f"{lab}/lab/tree/notebooks/{name}?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").wait_for(timeout=60_000)
        page.wait_for_timeout(4000)  # the session follows the kernel; before it, a command asks which kernel to take
        return page

    yield opened
    for context in contexts:
        context.close()


def choose(page, menu: str, item: str) -> None:
    page.locator(f"li.lm-MenuBar-item:has-text('{menu}')").first.click()
    page.locator(f"li.lm-Menu-item:has-text('{item}')").first.click()


def write_notebook(project: Path, name: str, *cells: str) -> None:
    kernel = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=kernel)
    nbformat.write(made, project / "notebooks" / name)


def ids(view, column: str) -> list[int]:
    shown = view.locator(f'[data-column="{column}"] [data-id]')
    return [int(id) for id in shown.evaluate_all("all => all.map(each => each.dataset.id)")]


def test_two_views_of_one_run_with_an_upload_and_a_selection(project, open_notebook):
    run = Run.open(project / "runs/mine")
    begin = "from simclr_lib import Run\nfrom simclr_lib.log.explorer import explore\n"
    first = f"{begin}run = Run.open('../runs/mine')\nview = explore(run)\nview"
    last = "import json\njson.dump([view.selected, other.selected], open('selected.json', 'w'))"
    write_notebook(project, "two.ipynb", first, "other = explore(run)\nother", last)
    page = open_notebook("two.ipynb")
    for command in ("Run All Cells", "Restart Kernel and Run All Cells"):
        choose(page, "Run" if command.startswith("Run") else "Kernel", command)
        if command.startswith("Restart"):
            page.locator(".jp-Dialog-button.jp-mod-accept").click()
            page.locator(".jp-OutputArea-output .explorer").first.wait_for(state="detached", timeout=60_000)
        page.locator(".explorer .wall canvas").nth(1).wait_for(timeout=120_000)
        page.wait_for_timeout(1000)
    one, other = (page.locator(".explorer").nth(n) for n in range(2))
    one.scroll_into_view_if_needed()
    columns = Columns([run], k=50)
    one.locator("#k").fill("50")
    one.locator("#own").set_input_files(project / "own.png")
    one.locator(".image:has-text('own.png')").wait_for(timeout=60_000)
    for name, of in columns.nearest_to(str(project / "own.png")).items():
        assert ids(one, name) == columns.images.ids[of["h cosine"][0][0]].tolist()
    (project / "bad.png").write_text("no image")
    one.locator("#own").set_input_files(project / "bad.png")
    one.locator("#told:has-text('expected an image that can be read, got bad.png')").wait_for(timeout=60_000)
    nearest = ids(one, "trained encoder")[:2]
    for id in nearest:
        one.locator(f'[data-column="trained encoder"] [data-id="{id}"]').click(modifiers=["Control"])
    other.scroll_into_view_if_needed()
    other.locator(".wall canvas").click(position={"x": 20, "y": 40})
    other.locator("[data-column]").first.wait_for()
    other.locator("#select").click()
    page.wait_for_timeout(1000)
    page.locator(".jp-CodeCell").nth(2).locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    page.wait_for_timeout(2000)
    assert json.loads((project / "notebooks/selected.json").read_text()) == [nearest, [0]]


def test_06_and_00_show_the_widget(project, open_notebook):
    for name, columns in (("06_explore_neighbors.ipynb", 4), ("00_quickstart.ipynb", 5)):
        source = nbformat.read(project / "notebooks" / name, as_version=4)
        for cell in source.cells:
            if name.startswith("00") and "parameters" in cell.metadata.get("tags", []):
                cell.source = cell.source.replace("epochs = 8", "epochs = 1\nlimit_images = 640")
        nbformat.write(source, project / "notebooks" / name)
        page = open_notebook(name)
        choose(page, "Run", "Run All Cells")
        view = page.locator(".explorer")
        for _ in range(120):  # cells out of sight are not drawn
            if view.count():
                break
            page.mouse.move(800, 600)
            page.mouse.wheel(0, 500)
            page.wait_for_timeout(1000)
        view.first.scroll_into_view_if_needed()
        view.first.locator(".wall canvas").click(position={"x": 20, "y": 40})
        view.first.locator("[data-column]").first.wait_for(timeout=60_000)
        assert view.first.locator("details input").count() == columns


def test_where_a_notebook_is_not_trusted_the_picture_shows(project, open_notebook):
    code = ["-m", "papermill", "--no-progress-bar", "notebooks/06_explore_neighbors.ipynb", "notebooks/out.ipynb"]
    subprocess.run([sys.executable, *code], cwd=project, check=True, capture_output=True)
    page = open_notebook("out.ipynb")
    picture = page.locator("img[alt^=Neighbours]")
    for _ in range(60):
        if picture.count():
            break
        page.mouse.move(800, 600)
        page.mouse.wheel(0, 500)
        page.wait_for_timeout(300)
    assert page.locator("iframe[srcdoc]").count() == 0
    picture.scroll_into_view_if_needed()
    assert picture.evaluate("each => each.complete && each.naturalWidth > 300")
    assert picture.is_visible()
