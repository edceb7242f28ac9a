"""The explorer: what it shows in Chromium is what the run's own tables say, id by id; nothing leaves the page."""

import base64
import copy
import json
import random
import re
import shutil
import urllib.parse
from collections import Counter
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from simclr_lib import Run, RunConfig, train
from simclr_lib.__main__ import main
from simclr_lib.evaluation.columns import Columns
from simclr_lib.evaluation.neighbors import record_neighbors
from simclr_lib.log import explorer
from simclr_lib.log.explorer import Explorer, collect, explore, explore_views, write_explorer, write_parquet
from simclr_lib.log.report import write_page

CLASSES = ["<img SRC=x onerror=alert(1)>", 'a & "b"', "cats"]
OPENED = "document.querySelector('.image').innerText.split('\\n')"  # lines: the class, the number, the file
STAGES = ["untrained encoder", "after 1 epoch", "after 2 epochs", "trained encoder"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run on 90 files in classes with hostile names, none of them a test image."""
    folder = tmp_path_factory.mktemp("explored")
    draw = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / "data" / name).mkdir(parents=True)
        for n in range(30):
            pixels = draw.integers(0, 120, (20, 20, 3)) + 4 * (np.arange(3) == label)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "data" / name / f"{n:02}.png")
    config = RunConfig(dataset="folder", data_root=str(folder / "data"), image_size=16, batch_size=16, epochs=3,
                       norm="group", blur=False, device="cpu")  # fmt: skip
    return train(config, folder / "run")


@pytest.fixture(scope="module")
def columns(run) -> Columns:
    return Columns([run])


@pytest.fixture(scope="module")
def page(columns) -> Path:
    return write_explorer(columns)


WIDGET = """<!doctype html><meta charset="utf-8"><style>{style}</style><div id="cell" style="width: {width}px"></div>
<p id="below">the next cell</p><script id="values" type="application/json">{values}</script>
<script type="module">{script}
const values = JSON.parse(document.getElementById("values").textContent), none = () => null;
const model = {{ get: name => values[name], set: (name, value) => {{ values[name] = value; }}, save_changes: none,
  on: none, off: none, send: none }};
await render({{ model, el: document.getElementById("cell") }});
window.values = values;</script>"""


@pytest.fixture(scope="module")
def widget(columns, tmp_path_factory):
    """A function: widget(width) writes a page with the view as JupyterLab has it, in a cell so wide above another."""

    def write(width: int) -> Path:
        values = {**collect(columns), "selected": []}
        data = json.dumps(values, default=lambda part: base64.b64encode(part).decode()).replace("<", "\\u003c")
        style = explorer.EXPLORER.with_suffix(".css").read_text("utf-8")
        file = tmp_path_factory.mktemp("widget") / "cell.html"
        script = explorer.EXPLORER.read_text("utf-8")
        file.write_text(WIDGET.format(style=style, width=width, values=data, script=script), "utf-8")
        return file

    return write


def wait(view, expression: str) -> None:
    view.wait_for_function(f"() => {expression}", timeout=15_000)


def start(visit, page: Path, address: str = "", **options: object):
    view = visit(page, address, **options)
    wait(view, "window.explorer")
    return view


def column(view, name: str) -> list[int]:
    shown = view.locator(f'[data-column="{name}"] [data-id]')
    return [int(id) for id in shown.evaluate_all("all => all.map(each => each.dataset.id)")]


def open_image(view, id: int) -> None:
    view.evaluate("id => window.explorer.open(id)", id)


def address(view) -> dict:
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(view.url).fragment))


def expected(columns: Columns, name: str, id: int, k: int = 10, kind: str = "h cosine") -> list[int]:
    position = columns.images.ids.tolist().index(id)
    return columns.images.ids[columns.nearest[name][kind][0][position, :k]].tolist()


# The same ids in the same order.


@pytest.mark.child
def test_every_column_has_the_runs_own_neighbours_in_their_order(run, columns, page, visit):
    record_neighbors(run)
    kept = run.load_arrays("neighbors")
    view = start(visit, page)
    for id in random.sample(columns.images.ids.tolist(), 50):
        open_image(view, id)
        for name in columns.rows:
            assert column(view, name) == expected(columns, name, id)
        assert column(view, "trained encoder") == kept["neighbors"][kept["ids"].tolist().index(id)].tolist()


@pytest.mark.child
@pytest.mark.parametrize("kind", ["h cosine", "h dot", "z cosine", "z dot"])
def test_k_layer_and_similarity_are_chosen(columns, page, visit, kind):
    view = start(visit, page)
    open_image(view, 5)
    view.locator("#layer").select_option(kind[0])
    view.locator("#similarity").select_option(kind[2:])
    view.locator("#k").fill("20")
    wait(view, "document.querySelectorAll('[data-column=\"trained encoder\"] [data-id]').length === 20")
    assert column(view, "after 1 epoch") == expected(columns, "after 1 epoch", 5, 20, kind)
    assert column(view, "raw pixels") == expected(columns, "raw pixels", 5, 20)  # which have neither z nor dot
    names = [name.split("\n") for name in view.locator("h3").all_inner_texts()]
    assert names[0] == ["raw pixels", "by h, cosine"][: 1 + (kind != "h cosine")]
    assert [name for name, *_ in names] == [*columns.rows]
    assert all(len(name) == 1 for name in names[1:])
    told = view.locator('[data-column="trained encoder"] [data-id]').evaluate_all("all => all.map(e => e.ariaLabel)")
    similarities = columns.nearest["trained encoder"][kind][1][5]
    found = [float(re.search(r"similarity ([-+.e\d]+)", words)[1]) for words in told]
    scale = 1 if "cosine" in kind else columns.nearest["trained encoder"][kind][1].abs().max().item()
    np.testing.assert_allclose(found, similarities, atol=0.0006 * scale, rtol=0.005)


@pytest.mark.child
def test_twenty_steps_and_back(columns, page, visit):
    view = start(visit, page)
    open_image(view, 0)
    walked = [0]
    for step in range(20):
        near = column(view, "trained encoder")
        walked.append(next(id for id in near[step % 7 :] if id != walked[-1]))
        view.locator(f'[data-column="trained encoder"] [data-id="{walked[-1]}"]').click()
        wait(view, f"explorer.state.image === '{walked[-1]}'")
        assert column(view, "raw pixels") == expected(columns, "raw pixels", walked[-1])
    for id in walked[-2::-1]:
        view.locator("#back").click()
        wait(view, f"explorer.state.image === '{id}'")
        assert column(view, "raw pixels") == expected(columns, "raw pixels", id)
    assert view.locator("#back").is_disabled()


@pytest.mark.child
def test_the_browsers_back_and_the_button_go_the_same_way(columns, page, visit):
    view = start(visit, page, "#k=5")

    def at(id: int | None, back: bool) -> None:
        wait(view, f"explorer.state.image === {json.dumps(id and str(id))}")
        assert view.locator("#back").is_enabled() == back
        assert column(view, "raw pixels") == (expected(columns, "raw pixels", id, 5) if id else [])

    for id in (10, 20, 30, 40, 50):
        open_image(view, id)
    view.go_back()
    at(40, True)
    view.locator("#back").click()
    at(30, True)
    view.go_forward()
    at(40, True)
    view.locator("#select").click()  # what is chosen on the way is no step, and stays
    view.locator("#back").click()
    at(30, True)
    assert address(view)["selected"] == "40"
    open_image(view, 60)  # what lay ahead is gone
    view.locator("#back").click()
    at(30, True)
    view.evaluate("history.go(-2)")
    at(10, False)
    view.reload()
    wait(view, "window.explorer")
    at(10, False)
    view.go_forward()
    at(20, True)
    view.reload()
    wait(view, "window.explorer")
    view.locator("#back").click()
    at(10, False)
    view.go_back()
    at(None, False)
    view.evaluate("location.hash = '#image=70&k=5'")  # another address, by hand
    at(70, True)
    view.locator("#back").click()
    at(None, False)


@pytest.mark.child
def test_without_an_address_the_button_goes_back_alone(columns, widget, visit):
    view = visit(widget(1000))
    wait(view, "window.values")
    view.locator(".wall canvas").click(position={"x": 20, "y": 40})
    walked = [0]
    for _ in range(3):
        near = expected(columns, "raw pixels", walked[-1])
        walked.append(next(id for id in near if id not in walked))
        view.locator(f'[data-column="raw pixels"] [data-id="{walked[-1]}"]').click()
        wait(view, f"{OPENED}.includes('no. {walked[-1]}')")
    for id in walked[-2::-1]:
        view.locator("#back").click()
        wait(view, f"{OPENED}.includes('no. {id}')")
        assert column(view, "raw pixels") == expected(columns, "raw pixels", id)
    assert view.locator("#back").is_disabled()
    assert "#" not in view.url
    assert view.evaluate("history.length") == 2


@pytest.mark.child
def test_shared_gained_and_lost_are_told(columns, page, visit):
    view = start(visit, page)
    open_image(view, 31)
    names = list(columns.rows)
    sets = {name: set(expected(columns, name, 31)) for name in names}
    labels = dict(zip(columns.images.ids.tolist(), columns.images.labels.tolist(), strict=True))
    for before, name, after in zip([None, *names], names, [*names[1:], None], strict=False):
        part = view.locator(f'[data-column="{name}"]')
        shared = len(sets[name] & sets[before]) if before else 0
        counts = f"{shared} shared, {10 - shared} gained, {10 - shared} lost"
        assert (counts in part.locator("p").inner_text()) == (before is not None)
        assert f"{sum(labels[id] == labels[31] for id in sets[name])} of 10 hits" in part.locator("p").inner_text()
        for each in part.locator("[data-id]").all():
            id, words = int(each.get_attribute("data-id")), each.get_attribute("aria-label")
            assert (", hit," in words) == (labels[id] == labels[31]) != (", miss," in words)
            assert (", shared" in words) == (before is not None and id in sets[before])
            assert (", gained" in words) == (before is not None and id not in sets[before])
            assert ("lost in the next" in words) == (after is not None and id not in sets[after])


# What is chosen is in the address.


@pytest.mark.child
def test_the_address_keeps_what_is_chosen(columns, page, visit):
    view = start(visit, page)
    open_image(view, 40)
    for id, value in (("wall", "precision"), ("by", "raw pixels"), ("color", "hits"), ("layer", "z"), ("k", "7")):
        part = view.locator(f"#{id}")
        part.fill(value) if id == "k" else part.select_option(value)
        wait(view, f"new URLSearchParams(location.hash.slice(1)).get('{id}') === '{value}'")
    view.locator("summary").click()
    view.locator('input[value="after 1 epoch"]').uncheck()
    view.locator("#select").click()
    wait(view, "location.hash.includes('selected=40')")
    again = start(visit, page, "#" + urllib.parse.urlsplit(view.url).fragment)
    assert address(again) == address(view)
    assert again.locator("#by").input_value() == "raw pixels"
    assert column(again, "after 1 epoch") == []
    assert column(again, "trained encoder") == expected(columns, "trained encoder", 40, 7, "z cosine")
    assert again.locator("#select").inner_text() == "Unselect"
    open_image(view, 41)
    view.go_back()
    wait(view, "explorer.state.image === '40'")
    assert column(view, "trained encoder") == expected(columns, "trained encoder", 40, 7, "z cosine")


@pytest.mark.child
def test_an_address_of_something_else_shows_the_beginning(page, visit):
    view = start(visit, page, "#image=9999&k=-3&wall=door&by=nothing&of=77&layer=q&color=%3Cb%3E&selected=a.b")
    assert view.evaluate("[explorer.state.image, explorer.state.k, explorer.state.wall]") == [None, 10, "class"]
    open_image(view, 3)
    assert len(column(view, "trained encoder")) == 10
    view.locator("#select").click()
    wait(view, "explorer.state.selected === '3'")  # and not what the address had


# The wall.


def of_wall(view) -> list[int]:
    """The images of the wall, from first to last, as the keyboard walks through them."""
    view.locator(".wall canvas").focus()
    view.keyboard.press("Home")
    found = [view.locator("#told").inner_text()]
    while len(found) < 2 or found[-1] != found[-2]:
        view.keyboard.press("ArrowRight")
        found.append(view.locator("#told").inner_text())
    return [int(re.match(r"no\. (\d+),", words)[1]) for words in found[:-1]]


def assert_worst_first(view, columns: Columns, name: str) -> None:
    ids, labels, near = columns.images.ids.tolist(), columns.images.labels, columns.nearest[name]["h cosine"][0][:, :10]
    hits = dict(zip(ids, (labels[near] == labels[:, None]).sum(1).tolist(), strict=True))
    assert of_wall(view) == sorted(ids, key=lambda id: hits[id])


@pytest.mark.child
def test_the_wall_is_by_class_or_worst_first(columns, page, visit):
    view = start(visit, page, "#by=after+1+epoch")
    assert of_wall(view) == columns.images.ids.tolist()  # files lie class by class
    view.locator("#wall").select_option("precision")
    wait(view, "explorer.state.wall === 'precision'")
    assert_worst_first(view, columns, "after 1 epoch")


@pytest.mark.child
def test_a_cell_of_the_confusions_leads_to_the_images_behind_it(columns, page, visit):
    view = start(visit, page, "#wall=confusions&by=raw+pixels&k=5")
    labels, near = columns.images.labels, columns.nearest["raw pixels"]["h cosine"][0][:, :5]
    pairs = Counter(zip(labels.repeat_interleave(5).tolist(), labels[near.flatten()].tolist(), strict=True))
    for of in range(3):
        for among in range(3):
            cell = view.locator(f'[data-cell="{of},{among}"]')
            assert cell.count() == (pairs[of, among] > 0)
            if cell.count():
                assert abs(float(cell.inner_text().replace("<1", "0.3")) - pairs[of, among] / 1.5) <= 0.5
    of, among = max((pair for pair in pairs if pair[0] != pair[1]), key=pairs.get)
    view.locator(f'[data-cell="{of},{among}"]').click()
    wait(view, f"location.hash.includes('among={among}')")
    behind = ((labels == of) & (labels[near] == among).any(1)).nonzero()[:, 0]
    assert of_wall(view) == columns.images.ids[behind].tolist()
    again = start(visit, page, "#" + urllib.parse.urlsplit(view.url).fragment)
    assert of_wall(again) == columns.images.ids[behind].tolist()
    for leave, enter in ((view.locator("#whole").click, view.go_back), (view.go_back, view.go_forward)):
        leave()
        view.locator("table").wait_for()
        assert "among" not in address(view)
        assert not view.locator("#whole").is_visible()
        enter()
        view.locator("#whole").wait_for()


@pytest.mark.child
def test_a_cell_with_the_control_key_opens_beside(page, visit):
    view = start(visit, page, "#wall=confusions")
    with view.context.expect_page() as opened:
        view.locator('[data-cell="0,1"]').click(modifiers=["Control"])
    wait(opened.value, "window.explorer")
    assert address(opened.value)["among"] == "1"
    assert address(view) == {"wall": "confusions"}


@pytest.mark.child
@pytest.mark.parametrize("half", ["of=1", "among=1", "of=1&among=3", "of=&among=", "of=0.6&among=1"])
def test_half_a_cell_in_an_address_is_none(columns, page, visit, half):
    view = start(visit, page, f"#{half}")
    assert view.evaluate("[explorer.state.of, explorer.state.among]") == [None, None]
    assert view.locator("#select-all").inner_text() == "Select 90"


# What is unpacked while `hold` is true waits until late[...]() is called.
LATE = """() => { window.late = []; window.hold = true; window.unpack = Response.prototype.arrayBuffer;
Response.prototype.arrayBuffer = async function () {
  const unpacked = await unpack.call(this);
  if (hold) await new Promise(go => late.push(go));
  return unpacked; }; }"""


@pytest.mark.child
@pytest.mark.parametrize("wall", ["precision", "confusions"])
def test_a_table_that_comes_late_is_not_shown(columns, page, visit, wall):
    view = start(visit, page, f"#wall={wall}&image=5")
    view.evaluate(LATE)
    view.locator("#layer").select_option("z")  # whose tables are still packed
    wait(view, "late.length >= 2")
    view.evaluate("hold = false")
    view.locator("#layer").select_option("h")
    view.locator("#by").select_option("raw pixels")
    wait(view, "explorer.state.by === 'raw pixels'")
    view.evaluate("() => { late.forEach(go => go()); return new Promise(go => setTimeout(go, 200)); }")
    assert column(view, "trained encoder") == expected(columns, "trained encoder", 5)
    if wall == "precision":
        return assert_worst_first(view, columns, "raw pixels")
    near = columns.images.labels[columns.nearest["raw pixels"]["h cosine"][0][:, :10]]
    for of in range(3):
        shown = view.locator(f'[data-cell="{of},{of}"]').inner_text()
        assert abs(float(shown) - 100 * (near[columns.images.labels == of] == of).float().mean()) <= 0.5


@pytest.mark.child
def test_an_image_of_the_wall_and_of_the_map_opens_by_a_click(columns, page, visit):
    view = start(visit, page)
    view.locator(".wall canvas").click(position={"x": 20, "y": 40})  # the first of the first class
    wait(view, "explorer.state.image === '0'")
    view.locator("#wall").select_option("map")
    wait(view, "explorer.state.wall === 'map'")
    box = view.locator(".wall canvas").bounding_box()
    size = np.array([box["width"], box["height"]])
    x, y = (columns.places[7] * (size - 40) + 20 + 2).tolist()
    view.locator(".wall canvas").click(position={"x": x, "y": y})
    wait(view, "explorer.state.image !== '0'")
    opened = columns.images.ids.tolist().index(view.evaluate("Number(explorer.state.image)"))
    assert (np.abs(columns.places[opened] - columns.places[7]) < 8 / size).all()


def seen_on_wall(view) -> bool:
    """Whether the image that is open is in view: it has an orange frame."""
    pixels = np.asarray(Image.open(BytesIO(view.locator(".wall").screenshot())).convert("RGB"))
    return (pixels == [0xD5, 0x5E, 0]).all(2).sum() > 200


@pytest.mark.child
def test_the_wall_shows_the_image_that_is_open(columns, page, visit):
    narrow = {"viewport": {"width": 760, "height": 560}}
    scrolled = "document.querySelector('.wall').scrollTop"
    view = start(visit, page, **narrow)
    open_image(view, 3)
    assert view.evaluate(scrolled) == 0
    view.locator("#find").fill("89")
    view.keyboard.press("Enter")
    wait(view, f"explorer.state.image === '89' && {scrolled} > 100")
    wait(view, "document.querySelector('.image').innerText.includes('89')")
    assert seen_on_wall(view)
    view.locator("#back").click()
    wait(view, "explorer.state.image === '3'")
    wait(view, f"{scrolled} < 60")  # no further than must be
    view.locator(".wall").evaluate("each => each.scrollTo(0, 150)")
    before = view.evaluate(scrolled)
    assert before > 100
    view.locator("#k").fill("7")
    view.locator("#color").select_option("hits")
    view.locator("#select").click()
    wait(view, "explorer.state.selected === '3'")
    assert view.evaluate(scrolled) == before  # which move no image
    for id, value in (("by", "raw pixels"), ("wall", "precision")):
        view.locator(f"#{id}").select_option(value)
        wait(view, f"explorer.state.{id} === '{value}'")
        view.wait_for_timeout(50)
        assert seen_on_wall(view)
        view.locator(".wall").evaluate("each => each.scrollTo(0, 0)")
    again = start(visit, page, "#image=89", **narrow)
    assert seen_on_wall(again)
    none = start(visit, page, **narrow)
    none.locator(".wall").evaluate("each => each.scrollTo(0, 1000)")
    none.locator("#by").select_option("raw pixels")
    wait(none, f"{scrolled} === 0")


@pytest.mark.child
def test_the_keyboard_stays_in_view_on_the_map(columns, page, visit):
    view = start(visit, page, "#wall=map&by=raw+pixels")
    assert not view.locator("#by").is_visible()
    assert "Placed by h of trained encoder" in view.locator(".explorer").inner_text()
    assert "0 shows all" in view.locator(".wall canvas").get_attribute("aria-label")
    view.locator(".wall canvas").focus()
    whole = view.locator(".wall").screenshot()
    for key in ("+", "+", "+", "+", "+"):
        view.keyboard.press(key)
    for key in ("ArrowRight", "ArrowDown", "End", "Home"):
        view.keyboard.press(key)
        view.evaluate("() => new Promise(requestAnimationFrame)")
        pixels = np.asarray(Image.open(BytesIO(view.locator(".wall").screenshot())).convert("RGB"))
        assert (pixels == [0, 0x72, 0xB2]).all(2).sum() > 20  # the frame of the one where the keyboard is
    view.keyboard.press("0")
    view.evaluate("() => new Promise(requestAnimationFrame)")
    assert view.locator(".wall").screenshot() == whole
    view.mouse.move(300, 300)
    view.mouse.wheel(0, -500)
    view.evaluate("() => new Promise(requestAnimationFrame)")
    assert view.locator(".wall").screenshot() != whole
    box = view.locator(".wall").bounding_box()
    view.mouse.dblclick(box["x"] + 3, box["y"] + 3)
    view.evaluate("() => new Promise(requestAnimationFrame)")
    assert view.locator(".wall").screenshot() == whole


@pytest.mark.child
def test_all_and_none_are_selected(columns, page, visit):
    view = start(visit, page)
    open_image(view, 4)
    view.locator("#select-all").click()
    ids = columns.images.ids.tolist()
    wait(view, "explorer.state.selected.split('.').length === 90")
    assert address(view)["selected"] == ".".join(map(str, ids))
    assert view.locator(".near.marked").count() == view.locator(".near").count()
    assert view.locator("#select").inner_text() == "Unselect"
    view.locator("#select-none").click()
    wait(view, "explorer.state.selected === ''")
    assert view.locator(".near.marked").count() == 0
    assert view.locator("#select-none").is_disabled()


@pytest.mark.child
def test_it_is_all_done_by_keyboard(columns, page, visit):
    view = start(visit, page)
    view.locator(".wall canvas").focus()
    for key in ("ArrowRight", "ArrowRight", "s", "ArrowLeft", "Enter"):
        view.keyboard.press(key)
    wait(view, "explorer.state.image === '1' && explorer.state.selected === '2'")
    view.locator('[data-column="raw pixels"] [data-id]').first.focus()
    view.keyboard.press("Enter")
    first = expected(columns, "raw pixels", 1)[0]
    wait(view, f"explorer.state.image === '{first}'")
    view.locator(".wall canvas").focus()
    view.keyboard.press("Backspace")
    wait(view, "explorer.state.image === '1'")
    view.locator("#find").fill(CLASSES[2] + "/07.png")
    view.keyboard.press("Enter")
    wait(view, "explorer.state.image === '67'")
    assert address(view) == {"image": "67", "selected": "2"}


@pytest.mark.child
@pytest.mark.parametrize("keys", [False, True])
def test_the_focus_stays_at_its_rank_and_the_names_in_view(columns, page, visit, keys):
    view = start(visit, page, "#image=1&k=20", viewport={"width": 1400, "height": 500})
    near = view.locator('[data-column="untrained encoder"] [data-id]').nth(14)
    focused, scrolled = "each => each === document.activeElement", "document.querySelector('.columns').scrollTop"
    near.focus()  # which scrolls to it
    before = view.evaluate(scrolled)
    assert before > 100
    near.click(modifiers=["Control"])
    wait(view, "document.activeElement.matches('.marked')")
    assert near.evaluate(focused)
    assert view.evaluate(scrolled) == before
    tops = [each.bounding_box()["y"] for each in (view.locator(".columns"), *view.locator("h3").all())]
    assert tops == pytest.approx([tops[0]] * 6, abs=1)
    view.keyboard.press("Enter") if keys else near.click()
    wait(view, f"explorer.state.image === '{expected(columns, 'untrained encoder', 1, 20)[14]}'")
    wait(view, "!document.activeElement.matches('.marked, body')")
    assert near.evaluate(focused)
    if not keys:
        assert view.evaluate(scrolled) == 0
    else:
        head = view.locator(".column header").first.bounding_box()
        assert head["y"] + head["height"] <= near.bounding_box()["y"] < 500 - near.bounding_box()["height"]


@pytest.mark.child
def test_a_blank_finds_nothing_and_a_mistake_is_told(page, visit):
    view = start(visit, page, "#image=40")
    finds = {
        "no such file": "40",
        "": "40",
        "  ": "40",
        "41": "41",
        "CATS/03.P": "63",
        "img src=x onerror=alert(1)>/04": "4",
        "7": "7",
    }
    for sought, found in finds.items():  # an id, or else a part of a name
        view.locator("#find").fill(sought)
        view.keyboard.press("Enter")
        told = f"There is no image {sought}" if found == "40" else ""
        wait(view, f"explorer.state.image === '{found}' && document.querySelector('#told').textContent === '{told}'")


@pytest.mark.child
def test_a_screen_reader_is_told_all_by_name(columns, page, visit):
    view = start(visit, page, "#image=3&k=2&columns=trained+encoder&layer=z")
    view.locator("summary").click()
    spoken = [line.strip(" -'").rstrip(":") for line in view.locator("body").aria_snapshot().splitlines()]
    controls = {line for line in spoken if not re.match("(option|text|paragraph|list|status|button .\\d)", line)}
    checkboxes = {f'checkbox "{name}"{" [checked]" * (name == STAGES[-1])}' for name in columns.rows}
    map_keys = "Arrow keys move, Enter opens, s selects, + and - zoom the map, 0 shows all of it."
    assert controls == checkboxes | {
        'region "All images"', 'combobox "Images"', 'combobox "column"', 'combobox "colour"',
        'searchbox "Find an image"', 'button "Select 90"', 'button "Select none" [disabled]',
        f'application "90 images. {map_keys}"', 'region "Neighbours"', 'button "← Back" [disabled]', 'button "Select"',
        'slider "k": "2"', 'combobox "layer"', 'combobox "similarity"', "group",
        'region "trained encoder"', 'heading "trained encoder" [level=3]',
    }  # fmt: skip
    near = [line for line in spoken if re.match('button "\\d', line)]
    ids, similarities = (table[3, :2].tolist() for table in columns.nearest["trained encoder"]["z cosine"])
    assert len(near) == 2
    for rank, (id, similarity) in enumerate(zip(ids, similarities, strict=True)):
        kind = "hit" if columns.images.labels[id] == columns.images.labels[3] else "miss"
        assert re.match(f'button "{rank + 1}: no[.] {id}, .*, {kind}, similarity {similarity:.2f}', near[rank])
    view.locator("#wall").select_option("confusions")
    view.locator("table").wait_for()
    spoken = view.locator(".wall").aria_snapshot()
    assert 'table "Of the 2 neighbours of a class (a row), the percent that are of each class' in spoken
    for role in ("rowheader", "columnheader"):
        assert spoken.count(f"{role} ") == 3
    assert re.search("link .*% of the neighbours of cats are of cats", spoken)
    assert len(re.findall("- '?link ", spoken)) == view.locator("td a").count()


@pytest.mark.child
@pytest.mark.parametrize(("scheme", "width"), [("dark", 360), ("light", 360), ("dark", 1400)])
def test_it_fits_every_screen_and_theme(page, visit, scheme, width):
    view = start(visit, page, "#image=3", color_scheme=scheme, viewport={"width": width, "height": 800})
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.evaluate(CUT, [".explorer", ".wall, .columns"]) == []
    ink, paper = view.evaluate("(({ color, backgroundColor }) => [color, backgroundColor])"
                               "(getComputedStyle(document.querySelector('.explorer')))")  # fmt: skip
    light = [sum(map(int, re.findall(r"\d+", tone)[:3])) / 765 for tone in (ink, paper)]
    assert (light[0] > 0.8 and light[1] < 0.2) if scheme == "dark" else (light[0] < 0.2 and light[1] > 0.8)


# What reaches beyond the view, but for what can be scrolled, and what is cut off, but for the class of a neighbour.
CUT = """([view, scrolled]) => [...document.querySelectorAll(`${view} *`)].filter(each => {
  const whole = document.querySelector(view).getBoundingClientRect(), box = each.getBoundingClientRect();
  if (!box.width || each.parentElement.closest(".wall")) return false;
  const text = document.createRange();
  text.selectNodeContents(each.matches(".near span") ? each.lastChild : each);
  const cut = each.matches(".near span, .line, .line *, label, p, h3")
    && text.getBoundingClientRect().right > box.right + 1;
  return cut || (!each.parentElement.closest(scrolled)
    && (box.left < whole.left || box.right > whole.right || box.top < whole.top || box.bottom > whole.bottom));
}).map(each => each.outerHTML.slice(0, 80))"""


@pytest.mark.child
@pytest.mark.parametrize("width", [340, 600, 1000])
def test_the_widget_reaches_over_no_other_cell(widget, visit, width):
    view = visit(widget(width))
    wait(view, "window.values")
    view.locator(".wall canvas").click(position={"x": 20, "y": 40})
    view.locator('[data-column="trained encoder"] [data-id]').first.wait_for()
    view.locator("summary").click()
    assert view.evaluate(CUT, ["#cell", ".wall, .columns"]) == []
    for part in (".parts", ".columns"):
        box = view.locator(part).bounding_box()
        assert box["y"] + box["height"] <= view.locator("#below").bounding_box()["y"]
    if width < 720:  # one below the other, and all neighbours of a column without scrolling
        assert view.locator(".columns").evaluate("each => each.scrollHeight <= each.clientHeight + 20")


@pytest.mark.child
def test_names_are_text_whatever_is_in_them(page, visit):
    view = start(visit, page, "#image=3")
    assert view.locator(".explorer img").count() == 0
    assert view.locator(".image").inner_text().startswith(CLASSES[0])
    view.locator("#wall").select_option("confusions")
    wait(view, "document.querySelector('tbody th')")
    assert view.locator("tbody th").all_inner_texts() == CLASSES
    assert "</script" not in re.search(r'id="explorer-data">(.*?)</script>', page.read_text(), re.DOTALL)[1]


# Several runs, an image of one's own, what else is known.


@pytest.mark.child
def test_two_runs_an_own_image_and_a_table_are_shown_together(run, tmp_path, visit):
    shutil.copytree(run.path, tmp_path / "after all")  # a name with a word that names of snapshots have
    both = Columns([Run.open(tmp_path / "after all"), run])
    assert len(explorer._picture(both).axes) == 2 * (1 + 5 * 7)
    own = both.images.images[33].numpy()
    notes = pd.DataFrame({"<b>note": ["x", "y"], "when": pd.to_datetime(["2026-01-01", None])}, index=[3, 12345])
    view = start(visit, write_explorer(both, own, notes))
    wait(view, "document.querySelector('[data-column]')")
    names = ["raw pixels", *(f"{of}: {stage}" for of in ("after all", "run") for stage in (STAGES[0], STAGES[-1]))]
    shown = view.locator("[data-column]").evaluate_all("all => all.map(each => each.dataset.column)")
    assert shown == names  # the stages in between are there, but not chosen
    for name in names:
        indices = both.nearest_to(own)[name]["h cosine"][0][0, :10]
        assert column(view, name) == both.images.ids[indices].tolist()
        assert column(view, name)[0] == 33
    view.locator("#color").select_option("<b>note")
    wait(view, "document.body.innerText.includes('■ x')")
    assert "■ unknown" in view.locator(".explorer").inner_text()  # of all other images


@pytest.mark.child
def test_two_runs_of_different_sizes_stand_beside_each_other(run, tmp_path, visit):
    small = replace(run.config, image_size=8, store_size=10, epochs=1)
    both = Columns([run, train(small, tmp_path / "small")])
    view = start(visit, write_explorer(both), "#image=44")
    assert len(both.rows) == 7
    for name in both.rows:
        if name not in both.snapshots:
            assert column(view, name) == expected(both, name, 44)


def test_the_widget_answers_an_image_as_the_columns_do(run, tmp_path, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    view = explore(run)
    assert isinstance(view, Explorer)
    pixels = view.columns.images.images[50]
    file = BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "PNG")
    (tmp_path / "own.png").write_bytes(file.getvalue())
    for image in (
        pixels,
        pixels.numpy(),
        pixels / 255,
        file.getvalue(),
        str(tmp_path / "own.png"),
        tmp_path / "own.png",
    ):
        view.query = {}
        view.ask(image, "mine")
        assert view.query["name"] == "mine"
        for name, of in view.columns.nearest_to(pixels.numpy()).items():
            for kind, tables in of.items():
                assert view.query["found"][name][kind] == [table[0].tolist() for table in tables]
    view._handle_custom_msg({"name": "sent.png"}, [memoryview(file.getvalue())])
    assert view.query["name"] == "sent.png"
    view._handle_custom_msg({"name": "bad.png"}, [memoryview(b"no image")])
    assert view.query.pop("asked") > 0
    assert view.query == {"error": "expected an image that can be read, got bad.png (UnidentifiedImageError); "
                                   "choose a JPEG or a PNG"}  # fmt: skip
    assert view.shown["k"] == 50
    assert view.selected == []


def relabelled(columns: Columns, labels) -> Columns:
    """The same columns, as though the images had other labels: -1 where there is none."""
    other = copy.copy(columns)
    other.images = replace(columns.images, labels=torch.as_tensor(labels))
    return other


def headings(view) -> list[str]:
    """What is drawn above the groups of the wall."""
    return view.evaluate("""() => new Promise(done => {
        const drawn = [], fill = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (...of) { drawn.push(of[0]); fill.apply(this, of); };
        document.querySelector(".wall").dispatchEvent(new Event("scroll"));
        requestAnimationFrame(() => { CanvasRenderingContext2D.prototype.fillText = fill; done(drawn); });
    })""")


def options(view, id: str) -> list[str]:
    return view.locator(f"#{id} option").evaluate_all("all => all.map(each => each.value)")


@pytest.mark.child
def test_of_a_partly_labelled_set_labelled_images_alone_count(columns, visit, tmp_path, run):
    labels = columns.images.labels.clone()
    labels[torch.randperm(90)[:60]] = -1
    labels[labels == 2] = -1
    labels[71] = 2  # a class of one image
    some = relabelled(columns, labels)
    some.runs = [SimpleNamespace(path=tmp_path)]
    page, near = write_explorer(some), columns.nearest["trained encoder"]["h cosine"][0][:, :10]
    known, hit = labels[near] >= 0, (labels[near] == labels[:, None]) & (labels[near] >= 0)
    first = int((labels >= 0).nonzero()[0, 0])
    view = start(visit, page, f"#image={first}")
    expected = []
    for c, name in enumerate(CLASSES):
        of, count = labels == c, int((labels == c).sum())
        share = hit[of].sum() / known[of].sum()
        expected += [f"{name}, precision@10 {share:.2f}: {count} image{'s' * (count != 1)}"]
    assert headings(view) == [*expected, f"unlabelled: {int((labels < 0).sum())} images"]
    facts = view.locator('[data-column="trained encoder"] p').inner_text()
    assert f"{int(hit[first].sum())} of {int(known[first].sum())} hits" in facts
    wait(view, "document.body.innerText.includes('■ unknown')")
    view.locator("#wall").select_option("precision")
    wait(view, "explorer.state.wall === 'precision'")
    judged = (labels >= 0) & known.any(1)
    shares = torch.where(judged, hit.sum(1) / known.sum(1).clamp(min=1), 2.0)
    ids = of_wall(view)
    assert [float(shares[id]) for id in ids] == sorted(shares.tolist())
    assert headings(view)[-1] == f"without a label, or among such: {int((~judged).sum())} images"
    view.locator("#color").select_option("hits")
    view.locator("#wall").select_option("confusions")
    for of in (0, 1):
        cells = view.locator(f'[data-cell="{of},{of}"]')
        cells.wait_for()
        percent = 100 * hit[labels == of].sum() / known[labels == of].sum()
        assert cells.get_attribute("title").startswith(f"{percent:.1f}%")


@pytest.mark.child
@pytest.mark.parametrize("names", [[], CLASSES])
def test_a_set_without_labels_offers_nothing_that_needs_them(columns, visit, tmp_path, names):
    bare = relabelled(columns, [-1] * 90)
    bare.images = replace(bare.images, class_names=names)
    bare.runs = [SimpleNamespace(path=tmp_path)]
    view = start(visit, write_explorer(bare), "#wall=confusions&color=hits&image=3&of=0&among=0")
    assert options(view, "wall") == ["class", "map"]
    assert options(view, "color") == ["class"]
    assert headings(view) == ["unlabelled: 90 images"]
    assert column(view, "trained encoder") == expected(columns, "trained encoder", 3)
    assert "hits" not in view.locator(".columns").inner_text()
    assert not re.search("NaN|undefined|null", view.locator(".explorer").inner_text())


# In a report, in a file, for others.


@pytest.mark.child
@pytest.mark.parametrize("scripts", [True, False])
def test_in_a_report_the_view_is_alive_offline_and_a_picture_where_frames_are_stripped(run, tmp_path, browser, scripts):
    shown = explore(run).data
    cell = nbformat.v4.new_code_cell("explore(run)")
    bare = re.sub(r"<iframe.*?</iframe>", "", shown, flags=re.DOTALL)
    cell.outputs = [nbformat.v4.new_output("display_data", {"text/html": shown if scripts else bare})]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "report.ipynb")
    view = browser.new_context(offline=True).new_page()
    wrong = []
    view.on("console", lambda message: wrong.append(message.text))
    view.on("pageerror", lambda error: wrong.append(str(error)))
    view.on("requestfailed", lambda request: wrong.append(request.url))
    view.goto(write_page(tmp_path / "report.ipynb").as_uri())
    if scripts:
        frame = view.frame_locator("iframe")
        frame.locator(".wall canvas").click(position={"x": 20, "y": 40})
        frame.locator('[data-column="trained encoder"] [data-id]').nth(3).click()
        frame.locator("#back").click()
        assert frame.locator(".image").inner_text().startswith(CLASSES[0])
    else:
        picture = view.locator("img[alt^=Neighbours]")
        assert picture.evaluate("picture => picture.complete && picture.naturalWidth") > 300
        assert picture.is_visible()
    view.context.close()
    assert wrong == []


def test_where_a_report_would_grow_too_large_it_has_a_picture_and_a_link(run, tmp_path, monkeypatch):
    monkeypatch.setattr(explorer, "MOST", 1000)
    monkeypatch.setenv("SIMCLR_REPORT", str(run.path.parent / "elsewhere"))
    shown = explore(run).data
    assert "<iframe" not in shown
    assert '<img src="data:image/' in shown
    assert '<a href="../run/explore.html">' in shown
    assert (run.path / "explore.html").exists()


def test_the_command_line_writes_the_file_and_the_table(run, tmp_path, monkeypatch, capsys):
    shutil.copytree(run.path, tmp_path / "run")
    shutil.copytree(run.config.data_root, tmp_path / "moved")
    main(["explore", str(tmp_path / "run"), "--data-root", str(tmp_path / "moved")])
    assert str(tmp_path / "run/explore.html") in capsys.readouterr().out
    main(["explore", str(tmp_path / "run"), "--parquet", str(tmp_path / "table.parquet")])
    assert str(tmp_path / "table.parquet") in capsys.readouterr().out
    monkeypatch.setattr("simclr_lib.__main__.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["explore", str(tmp_path / "run"), "--parquet", str(tmp_path / "no.parquet")])
    assert "pip install 'simclr-lib[parquet]'" in capsys.readouterr().err


def test_the_table_for_other_tools_has_what_the_columns_have(columns, tmp_path):
    table = pd.read_parquet(write_parquet(columns, tmp_path / "table.parquet"))
    images = columns.images
    assert table["id"].tolist() == images.ids.tolist()
    assert table["file"].tolist() == images.paths
    assert table["label"].tolist() == [CLASSES[label] for label in images.labels]
    np.testing.assert_allclose(table[["projection_x", "projection_y"]], columns.places)
    pixels = np.asarray(Image.open(BytesIO(table["image"][8]["bytes"])))
    assert (pixels == images.images[8].permute(1, 2, 0).numpy()).all()
    for name in columns.rows:
        indices, similarities = columns.nearest[name]["h cosine"]
        near = table["neighbors" if name == "trained encoder" else f"neighbors by {name}"][8]
        assert near["ids"].tolist() == indices[8].tolist()
        np.testing.assert_allclose(near["distances"], 1 - similarities[8], atol=1e-6)


def test_numbers_are_packed_byte_by_byte():
    import zlib

    packed = zlib.decompress(explorer._packed(torch.tensor([1, 256, -1])))
    assert packed == bytes([1, 0, 255, 0, 1, 255, 0, 0, 255, 0, 0, 255])


def test_views_are_shown_with_the_numbers_that_make_them(columns, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(explorer, "display", shown.append)
    config = RunConfig(image_size=16, color_strength=0.3, crop_area=(0.2, 0.9), blur=False)
    explore_views(columns.images.subset(range(3)), config)
    assert capsys.readouterr().out.splitlines() == ["color_strength = 0.3", "crop_area = (0.2, 0.9)", "blur = False"]
    assert len(shown) == 1
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    explore_views(columns.images.subset(range(3)))
    view = shown[-1]
    sliders = {part.description: part for part in view.children[:-1]}
    assert [*sliders] == ["color_strength", "crop_area", "blur"]
    assert (sliders["color_strength"].value, sliders["crop_area"].value, sliders["blur"].value) == (1, (0.08, 1), True)
    sliders["color_strength"].value = 0.5
    assert "color_strength = 0.5" in json.dumps(view.out.outputs) + capsys.readouterr().out
