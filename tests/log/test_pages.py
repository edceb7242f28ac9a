"""The pages: what they hold is that of the runs, as text, whatever it is; in a browser, without a request elsewhere."""

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

from simclr_lib import Run, RunConfig
from simclr_lib.__main__ import main
from simclr_lib.log.curves import MOST, curves
from simclr_lib.log.pages import write_pages
from simclr_lib.log.report import write_page

ROOT = Path(__file__).parents[2]
HOSTILE = "<script>alert(1)</script>{{ 7 * 7 }}</table>'\"&$x$\u2028"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
NEIGHBORS = {"untrained encoder": [[3, 4, 5]], "trained encoder": [[4, 3, 6]]}


def make_run(path: Path, epochs: int = 4, text: str = "a word", **fields: object) -> Run:
    """A finished run of two steps an epoch, scored, with neighbours of one query; `text` stands wherever text may."""
    run = Run.start(path, RunConfig(dataset="cifar10", epochs=epochs, batch_size=8, **fields))
    for epoch, step in itertools.product(range(epochs), range(2)):
        step += 2 * epoch
        run.log("step", step=step, epoch=epoch, loss=3.0 - 0.1 * step, learning_rate=0.1 / (step + 1))
        if step % 2:
            run.log("epoch", step=step, epoch=epoch, loss=3.0 - 0.1 * step, seconds=10.0, images_per_second=1.0)
            run.log("health", step=step + 1, epochs=epoch + 1, finite=True, alignment=1.0 + epoch, positives=[1, 2])
    run.add_session(device=text, batch_per_process=8)
    scores = {"trained encoder": {"precision@5": [0.5, 0.7]}, "raw pixels": {"precision@5": [0.25, 0.35]}}
    stages = {"before training": {"precision@5": [0.1, 0.3]}, f"after {epochs} epochs": {"precision@5": [0.6]}}
    met = {text: True, "a second part": False}
    run.add_to_summary(retrieval={"scores": scores}, over_training={"scores": stages}, prediction_met=met, note=text)
    run.add_to_summary(alarms={"color": {"first_epoch": 1, "last_epoch": 3, "text": text}})
    labels = {"0": "cat", "3": "dog", "4": "cat", "5": text, "6": ""}
    about = {"dataset": "cifar10", "queries": [0], "neighbors": NEIGHBORS, "labels": labels}
    similar = {name: [[0.9, 0.8, 0.7]] for name in NEIGHBORS}
    content = {**about, "similarities": similar, "thumbnails": dict.fromkeys(labels, PIXEL)}
    (path / "queries.json").write_text(json.dumps(content))
    run._set_status("finished")
    return run


def write_report(run_dir: Path, text: str, html: str = "<b>html</b>") -> None:
    """An executed notebook, with `text` in its question, in what a cell printed, and in a traceback."""
    asked = nbformat.v4.new_markdown_cell(f"# 09 Title\n\n**Question.** Does it {text}\n\n**Prediction.** It does.")
    cell = nbformat.v4.new_code_cell("x")
    cell.outputs = [
        nbformat.v4.new_output("stream", text=f"printed {text}"),
        nbformat.v4.new_output("display_data", {"text/html": html}),
        nbformat.v4.new_output("error", ename="ValueError", evalue=text, traceback=[f"traceback {text}"]),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=[asked, cell]), run_dir / "report.ipynb")


def make_runs(folder: Path) -> Path:
    make_run(folder / "a", learning_rate=0.5)
    make_run(folder / "deep/b", seed=1)
    make_run(folder / "c", epochs=2)
    return folder


@pytest.fixture
def runs(tmp_path) -> Path:
    return make_runs(tmp_path / "runs")


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """The index of such runs, one of them with a report, for tests that change nothing."""
    folder = make_runs(tmp_path_factory.mktemp("project") / "runs")
    write_report(folder / "a", "fit?")
    return write_pages(folder)


def drawn(folder: Path, run: str) -> dict:
    """What assets/runs/<run>.js gives the page."""
    text = (folder / f"assets/runs/{run}.js").read_text()
    head, _, content = text.partition(" = ")
    assert head == f"runs[{json.dumps(run)}]"
    return json.loads(content.removesuffix(";"))


# What is written.


def test_every_run_has_a_line_in_the_index_and_a_page(runs):
    index = write_pages(runs).read_text()
    assert re.findall(r'<tr data-run="([^"]+)"', index) == ["a", "c", "deep/b"]
    assert re.findall(r'data-compare="([^"]+)"', index) == ["a", "c", "deep/b"]
    assert {"run", "state", "loss", "arch", "precision@5"} <= set(re.findall(r'th data-column="([^"]+)"', index))
    for run in ("a", "c", "deep/b"):
        assert f'href="pages/{run}.html"' in index
        page = (runs / f"pages/{run}.html").read_text()
        root = re.search(r'data-root="([^"]*)"', page)[1]
        assert (runs / "pages" / run / ".." / root / "assets/pages.js").resolve() == runs / "assets/pages.js"
        assert "0.6000 ± 0.1000" in page  # the mean and the deviation of 0.5 and 0.7
        assert "0.3000 ± 0.0500" in page


def test_curves_are_what_the_run_recorded_along_all_axes(runs):
    steps, health, snapshots = curves(Run.open(runs / "a"))
    assert steps["x"]["steps"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert steps["x"]["images"] == [8 * step for step in steps["x"]["steps"]]
    assert steps["x"]["epochs"] == [0.5 * step for step in steps["x"]["steps"]]  # two steps an epoch
    assert steps["x"]["seconds"] == [5 * step for step in steps["x"]["steps"]]  # of ten seconds
    np.testing.assert_allclose(steps["y"]["loss"], [3.0 - 0.1 * step for step in range(8)])
    assert set(steps["y"]) == {"loss", "learning_rate"}
    assert health["x"]["epochs"] == [1, 2, 3, 4]
    assert health["y"] == {"alignment": [1, 2, 3, 4]}
    assert snapshots["x"] == {"steps": [0, 8], "epochs": [0, 4], "images": [0, 64], "seconds": [0, 40]}
    assert snapshots["y"] == {"precision@5": [0.2, 0.6]}


@pytest.mark.parametrize(("stage", "epochs"), [("after training", 4), ("last checkpoint", 4), ("before training", 0)])
def test_a_stage_without_a_number_stands_at_the_beginning_or_the_end(runs, stage, epochs):
    run = Run.open(runs / "a")
    run.add_to_summary(over_training={"scores": {"after 2 epochs": {"p": [0.1]}, stage: {"p": [0.2]}}})
    assert curves(run)[2]["x"]["epochs"] == [2, epochs]


def test_a_long_curve_is_thinned_to_means_and_gaps_stay_gaps(tmp_path):
    run = Run.start(tmp_path / "long", RunConfig(epochs=1000))
    losses = np.random.default_rng(0).random(4 * MOST).round(4)
    for step, loss in enumerate(losses.tolist()):
        run.log("step", step=step, epoch=0, loss=loss, learning_rate=0.1)
    run.log("health", step=0, epochs=0, finite=False)
    run.log("health", step=9, epochs=1, finite=True, alignment=0.5)
    steps, health, snapshots = curves(run)
    np.testing.assert_allclose(steps["y"]["loss"], losses.reshape(-1, 4).mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(steps["x"]["steps"], 2.5 + 4 * np.arange(MOST))
    assert health["y"] == {"alignment": [None, 0.5]}
    assert snapshots == {"x": {axis: [] for axis in steps["x"]}, "y": {}}


def test_only_what_has_changed_is_written_anew(runs):
    write_pages(runs)
    for file in runs.rglob("*"):  # as if all were older
        os.utime(file, (1e9, 1e9 + (file.suffix in (".html", ".css"))))
    library = max(file.stat().st_mtime for file in (ROOT / "simclr_lib/log").rglob("*.*"))
    for file in [runs / "assets/pages.css", *runs.glob("assets/runs/**/*.js"), *runs.glob("pages/**/*.html")]:
        os.utime(file, (library + 10, library + 10))
    (runs / "assets/runs/a.js").unlink()
    before = {file: file.stat().st_mtime for file in runs.glob("pages/**/*.html")}
    Run.open(runs / "c").add_to_summary(more="known")
    os.utime(runs / "c/summary.json", (library + 20, library + 20))
    write_pages(runs)
    changed = {file.relative_to(runs).as_posix() for file in before if file.stat().st_mtime != before[file]}
    assert changed == {"pages/a.html", "pages/c.html"}
    assert (runs / "assets/runs/a.js").exists()
    assert "known" in (runs / "index.html").read_text()


@pytest.mark.parametrize("damage", ["config.json", "metrics.jsonl", "summary.json", "queries.json", "report.ipynb"])
def test_a_damaged_run_has_a_page_that_says_so_until_it_is_mended(runs, damage):
    whole = (runs / "a" / damage).read_text() if (runs / "a" / damage).exists() else None
    (runs / "a" / damage).write_text('{"x": }\n')
    index = write_pages(runs).read_text()
    assert damage in (runs / "pages/a.html").read_text()
    assert "cannot be read" in index
    assert "0.6000 ± 0.1000" in (runs / "pages/c.html").read_text()
    (runs / "a" / damage).write_text(whole) if whole else (runs / "a" / damage).unlink()
    assert "cannot be read" not in write_pages(runs).read_text()
    assert "0.6000 ± 0.1000" in (runs / "pages/a.html").read_text()


def test_an_empty_folder_says_how_to_begin(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["pages"])
    assert str(tmp_path / "runs/index.html") in capsys.readouterr().out
    assert "python -m simclr_lib run notebooks/00_quickstart.ipynb" in (tmp_path / "runs/index.html").read_text()


@pytest.mark.parametrize("folder", ["runs/a", "nothing"])
def test_what_is_no_folder_of_runs_is_refused(runs, folder, monkeypatch, capsys):
    monkeypatch.chdir(runs.parent)
    with pytest.raises(SystemExit, match="2"):
        main(["pages", folder])
    assert re.search(f"expected a folder of runs, got .*{folder}; give the folder above", capsys.readouterr().err)
    assert not list(runs.rglob("index.html"))


def test_a_page_says_what_to_do_next(runs):
    run = Run.open(runs / "a")
    run._set_status("failed", "ValueError: no luck")
    (runs / "a/queries.json").unlink()
    write_pages(runs)
    page = (runs / "pages/a.html").read_text()
    assert "ValueError: no luck" in page
    for command in (f"resume {run.path}", f"score {run.path}", "file OUT.ipynb"):
        assert f"python -m simclr_lib {command}" in page


def test_the_command_that_repeats_a_run_is_that_of_its_notebook(runs):
    parameters = {"epochs": 4, "data_root": "/with space", "crop_area": [0.2, 1.0]}
    (runs / "a/notebook.json").write_text(json.dumps({"notebook": "notebooks/x.ipynb", "parameters": parameters}))
    write_pages(runs)
    page = re.sub(r"\s+", " ", (runs / "pages/a.html").read_text()).replace("&#39;", "'")
    command = "run notebooks/x.ipynb -p epochs 4 -p data_root '/with space' -p crop_area '[0.2, 1.0]'"
    assert f"python -m simclr_lib {command}</code>" in page
    assert re.search("train --config .*/c/config.json --run-dir NEW", (runs / "pages/c.html").read_text())


def test_the_report_is_on_the_page_and_may_do_nothing(runs):
    write_report(runs / "a", "work?")
    write_pages(runs)
    page = (runs / "pages/a.html").read_text()
    assert re.search(r'<iframe sandbox="allow-scripts" src="../a/report.html"', page)
    assert "Does it work?" in page
    report = (runs / "a/report.html").read_text()
    assert "default-src 'none'" in report[:1000]
    assert "connect-src" not in report[:1000]


@pytest.mark.parametrize("planted", ["<html><head>", "<!-- {policy} --><script>alert(1)</script>", "{beginning} "])
def test_a_report_html_that_came_with_a_run_is_not_shown_unless_it_begins_as_ours_do(runs, planted):
    write_report(runs / "a", "work?")
    ours = write_page(runs / "a/report.ipynb").read_text()
    policy = re.search("<meta http-equiv[^>]+>", ours)[0]
    beginning = ours[: ours.index(policy)]  # all of it but the policy
    (runs / "a/report.html").write_text(planted.format(policy=policy, beginning=beginning))
    write_pages(runs)
    assert (runs / "a/report.html").read_text() == ours
    trusted = ours.replace("printed work?", "printed before")
    (runs / "a/report.html").write_text(trusted)
    (runs / "pages/a.html").unlink()
    write_pages(runs)
    assert (runs / "a/report.html").read_text() == trusted  # it is not made anew for nothing


def test_a_run_of_a_notebook_that_trains_several_names_the_command_of_that_notebook(runs):
    notebook = {"notebook": "notebooks/x.ipynb", "parameters": {"seed": 7}}
    (runs / "deep/notebook.json").write_text(json.dumps(notebook))
    Run.open(runs / "deep/b")._set_status("interrupted", "stopped from outside")
    write_pages(runs)
    page = re.sub(r"\s+", " ", (runs / "pages/deep/b.html").read_text())
    assert f"stopped from outside. To go on: <code>python -m simclr_lib resume {runs / 'deep'}</code>" in page
    assert "run notebooks/x.ipynb -p seed 7</code>" in page


def test_a_notebook_of_several_runs_and_one_without_any_are_found(runs):
    write_report(runs / "deep", "count?")
    (runs / "d").mkdir()
    write_report(runs / "d", "fail?")
    (runs / "e").mkdir()
    (runs / "e/report.ipynb").write_text("{")
    index = write_pages(runs).read_text()
    assert '<a href="e/report.ipynb">' in index  # it is damaged
    assert 'src="../../deep/report.html"' in (runs / "pages/deep/b.html").read_text()
    assert re.findall(r'<a href="([^"]+)/report.html"', index) == ["d", "deep"]


def test_the_committed_runs_have_pages(tmp_path):
    for run in (ROOT / "runs").glob("0*"):
        if (run / "report.ipynb").exists() and not run.name.startswith("00"):
            shutil.copytree(run, tmp_path / run.name, ignore=shutil.ignore_patterns("*.ipynb", "*.html"))
    index = write_pages(tmp_path).read_text()
    assert "cannot be read" not in index
    assert len(re.findall("<tr data-run", index)) == 4


def test_hostile_text_is_text(tmp_path):
    folder = tmp_path / "runs"
    make_run(folder / "a<b>&'x", text=HOSTILE)
    write_report(folder / "a<b>&'x", HOSTILE)
    pages = [write_pages(folder).read_text(), *(file.read_text() for file in folder.glob("pages/**/*.html"))]
    for page in pages:
        assert "<script>alert" not in page
        assert "49</table>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}" in pages[1]


@pytest.mark.child
@pytest.mark.parametrize(("n", "state"), [(1, "finished"), (13, "failed")])
def test_every_run_writes_the_pages_at_its_end_a_failed_one_too(tmp_path, monkeypatch, capsys, n, state):
    cells = [
        nbformat.v4.new_markdown_cell("# A question"),
        nbformat.v4.new_code_cell('n = 1\nrun_dir = ""', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("assert n != 13, 'an unlucky number'"),
    ]
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=spec), tmp_path / "notebooks/09_test.ipynb")
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(SystemExit):
        main(["run", "notebooks/09_test.ipynb", "-p", "n", str(n), "--run-dir", "runs/x"])
    captured = capsys.readouterr()
    assert ("an unlucky number" in captured.err) == (state == "failed")
    assert str(tmp_path / "runs/index.html") in captured.out
    assert '<a href="x/report.html">' in (tmp_path / "runs/index.html").read_text()


# In a browser.


def order(page) -> list[str]:
    return page.eval_on_selector_all("#runs tbody tr", "rows => rows.map(row => row.dataset.run)")


def wait(page, expression: str) -> None:
    page.wait_for_function(f"() => {expression}", timeout=15_000)


@pytest.mark.child
def test_the_table_sorts_and_filters_and_the_address_keeps_it(index, visit):
    page = visit(index)
    wait(page, "document.querySelector('#runs.dataTable')")
    for direction, first in (("asc", "a"), ("desc", "c")):  # four epochs reach 2.3, two reach 2.7
        page.locator('th[data-column="loss"]').click()
        wait(page, f"document.querySelector('#runs tbody tr').dataset.run === '{first}'")
        assert f"order=loss%7C{direction}" in page.url
    page.fill("#filter", "deep")
    assert order(page) == ["deep/b"]
    again = visit(index, page.url[page.url.index("#") :])
    wait(again, "document.querySelector('#runs.dataTable')")
    assert order(again) == ["deep/b"]
    again.fill("#filter", "")
    assert order(again)[0] == "c"


@pytest.mark.child
def test_only_the_columns_that_differ_can_be_shown(index, visit):
    page = visit(index)
    page.get_by_text("Only what differs").click()
    shown = page.eval_on_selector_all("#runs th[data-column]", "heads => heads.map(head => head.dataset.column)")
    assert {"run", "learning_rate", "seed", "epochs"} <= set(shown)
    assert not {"arch", "dataset", "batch_size"} & set(shown)


@pytest.mark.child
def test_runs_are_compared(index, visit):
    page = visit(index)
    page.check('[data-compare="a"]')
    page.check('[data-compare="deep/b"]')
    wait(page, "document.querySelectorAll('#curves svg.main-svg').length > 3")
    ids = "images => images.map(image => image.dataset.id)"
    wait(page, "document.querySelectorAll('#comparison [data-query=\"0\"] [data-id]').length == 6")
    assert page.eval_on_selector_all("#comparison [data-query] [data-id]", ids) == ["4", "3", "6"] * 2
    kinds = page.eval_on_selector_all("[data-of=a] [data-id]", "images => images.map(image => image.className)")
    assert kinds == ["hit", "miss", ""]  # a cat, a dog, and one without a class
    tables = page.inner_text("#tables")
    assert re.search(r"learning_rate\s+0.5\s+0.1", tables)
    assert re.search(r"seed\s+0\s+1", tables)
    assert "arch" not in tables
    traces = "[...document.querySelectorAll('#curves .js-plotly-plot')].map(plot => plot.data.map(trace => trace.y))"
    loss = page.evaluate(traces)[0]
    np.testing.assert_allclose(loss[0], [3.0 - 0.1 * step for step in range(8)])
    np.testing.assert_allclose(loss[1], RunConfig(batch_size=8).chance_loss)
    page.select_option("[data-choice=along]", "seconds")
    page.check("[data-choice=before]")
    wait(page, "document.querySelectorAll('#comparison [data-id]').length == 12")
    again = visit(index, page.url[page.url.index("#") :])
    wait(again, "document.querySelectorAll('#comparison [data-id]').length == 12")
    assert again.is_checked('[data-compare="a"]')
    assert again.input_value("[data-choice=along]") == "seconds"
    again.uncheck('[data-compare="a"]')
    wait(again, "document.querySelectorAll('#comparison [data-id]').length == 6")
    gone = visit(index, "#compare=a&compare=gone")
    wait(gone, "document.querySelector('#said').textContent.includes('There is no run gone here')")
    gone.get_by_text("Only what differs").click()
    gone.get_by_text("Usual columns").click()
    assert gone.locator("#runs th[data-column=arch]").count() == 1


@pytest.mark.child
def test_a_damaged_run_hides_no_other_in_a_comparison(tmp_path, visit):
    runs = make_runs(tmp_path / "runs")
    (runs / "a/queries.json").write_text('{"queries": 3}')
    (runs / "c/queries.json").unlink()
    index = write_pages(runs)
    page = visit(index, "#compare=a&compare=deep/b&compare=c")
    wait(page, "document.querySelectorAll('#curves svg.main-svg').length > 3")
    assert page.inner_text("#said") == "There is no run a here. c has no neighbours to show."
    assert page.inner_text("#legend").split() == ["deep/b", "c"]
    assert page.locator('[data-compare="a"]').count() == 0
    damaged = visit(runs / "pages/a.html")
    assert "queries.json: expected one with" in damaged.inner_text(".alarm")
    assert not damaged.is_visible("#comparison")


@pytest.mark.child
def test_five_runs_are_told_apart(tmp_path, visit):
    for number in range(5):
        make_run(tmp_path / f"runs/run-{number}", seed=number)
    page = visit(write_pages(tmp_path / "runs"), "#" + "&".join(f"compare=run-{number}" for number in range(5)))
    wait(page, "document.querySelectorAll('#comparison [data-query] [data-id]').length == 15")
    assert page.inner_text("#legend").split() == [f"run-{number}" for number in range(5)]
    looks = page.evaluate("document.querySelector('.js-plotly-plot').data.map(({ line }) => line.color + line.dash)")
    assert len(looks) == 10  # of each run its loss, and that of chance
    assert len(set(looks)) == 5
    of = page.eval_on_selector_all("#comparison [data-of]", "lines => lines.map(line => line.dataset.of)")
    assert of == [f"run-{number}" for number in range(5)]


@pytest.mark.child
def test_it_is_all_done_by_keyboard(index, visit):
    page = visit(index)
    wait(page, "document.querySelector('#runs.dataTable')")
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = "document.activeElement"
        seen.add(page.evaluate(f"{focused}.id || {focused}.dataset.compare || {focused}.className || ''"))
        if page.evaluate(f"{focused}.dataset.compare") == "c":
            page.keyboard.press("Space")
            break
    wait(page, "!document.querySelector('#comparison').hidden")
    assert "filter" in seen
    assert any("order" in name for name in seen)  # the headers, by which it is sorted
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


# The texts with a contrast below 4.5 to what is behind them, as WCAG 2.1 defines it.
FAINT = """() => {
  const parse = (color) => color.match(/[0-9.]+/g).map(Number);
  const linear = (value) => (value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0.99) return color;
    }
  };
  const texts = [...document.querySelectorAll("body, body *")].filter((element) => element.checkVisibility()
    && !element.closest("svg, button, select, script") && [...element.childNodes].some((n) => n.nodeType === 3
    && n.data.trim()));
  const contrast = (element) => {
    const both = [parse(getComputedStyle(element).color), behind(element)].map(luminance);
    const [dark, light] = both.sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  return texts.filter((element) => contrast(element) < 4.5).map((element) => element.outerHTML.slice(0, 100));
}"""


@pytest.mark.child
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_it_fits_every_screen_and_theme(index, visit, scheme, width):
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    for page in (visit(index, "#compare=a&compare=c", **options), visit(index.parent / "pages/a.html", **options)):
        wait(page, "document.querySelectorAll('#curves svg.main-svg').length > 3")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") == (scheme == "light")
        assert page.evaluate(FAINT) == []
    page.emulate_media(media="print")  # in black on white, whatever the screen's theme
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"


@pytest.mark.child
def test_hostile_text_does_nothing_in_a_browser(tmp_path, visit):
    folder, name = tmp_path / "runs", "a<b>&'x$y$"
    make_run(folder / name, text=HOSTILE)
    make_run(folder / "b", text=HOSTILE, seed=1)
    write_report(folder / name, HOSTILE)
    page = visit(write_pages(folder))
    page.on("dialog", lambda dialog: pytest.fail("a script of the run was executed"))
    for box in page.locator("[data-compare]").all():
        box.check()
    wait(page, "document.querySelectorAll('#curves svg.main-svg').length > 3")
    assert name in page.inner_text("#legend")
    for file in folder.glob("pages/*.html"):
        run = visit(file)
        run.on("dialog", lambda dialog: pytest.fail("a script of the run was executed"))
        wait(run, "document.querySelectorAll('#curves svg.main-svg').length > 3")
        assert "<script>alert(1)</script>{{ 7 * 7 }}" in run.inner_text("body")


@pytest.mark.child
def test_the_report_shows_in_its_frame_and_its_outputs_run_no_script(runs, browser):
    write_report(runs / "a", "show?", "<b>html</b><script>document.title = 'hacked'</script>")
    write_pages(runs)
    page = browser.new_page()
    page.goto((runs / "pages/a.html").as_uri())
    page.locator("iframe").scroll_into_view_if_needed()
    frame = page.frame_locator("iframe")
    frame.get_by_text("printed show?").wait_for()
    assert frame.locator("b", has_text="html").is_visible()
    assert page.frames[1].title() != "hacked"
    page.close()


@pytest.mark.child
def test_writing_pages_needs_no_torch(runs):
    write = f"from simclr_lib.__main__ import main; main(['pages', {str(runs)!r}])"
    code = f"import sys; {write}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
