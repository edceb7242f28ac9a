"""README, CONTRIBUTING and docs/: links lead somewhere, examples run, and the README stays short."""

import re
from pathlib import Path

import pytest
from torchvision.transforms.functional import to_pil_image

from simclr_lib import Run, load_images

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """A page without its code, in which brackets are no links."""
    return re.sub(r"`[^`]*`|^    .*$", "", FENCED.sub("", text), flags=re.MULTILINE)


def links(text: str) -> list[str]:
    """The targets of all links and images of a page, those of other sites aside."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(text)) + re.findall(r'src="([^"]+)"', prose(text))
    return [target for target in found if not target.startswith(("http://", "https://"))]


def anchors(text: str) -> set[str]:
    """What GitHub makes of a page's headings: lower case, spaces as hyphens, no other punctuation."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """The relative links of a page that lead to no file, or to no heading of one."""
    return [target for target in links(page.read_text()) if not leads_somewhere(page, target)]


def leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    return file.exists() and (not anchor or anchor in anchors(file.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page):
    assert links(page.read_text()), "no link was found: is the pattern right?"
    assert broken(page) == []


@pytest.mark.parametrize(
    "target", ["gone.md", "../gone.png", "other.md#no-such-heading", "#no-such-heading", "docs/other.md"]
)
@pytest.mark.parametrize("form", ["[a]({})", "![a]({})", '<img src="{}" width="9">', "[![a](other.md)]({})"])
def test_a_broken_link_is_found(tmp_path, target, form):
    (tmp_path / "other.md").write_text("# Other: a page, and more\n")
    page = tmp_path / "page.md"
    good = "# A page\n[a](other.md) [b](other.md#other-a-page-and-more) [c](#a-page) [d](https://example.org/gone)\n"
    page.write_text(f"{good}`[e](gone.md)`\n")
    assert broken(page) == []
    page.write_text(good + form.format(target))
    assert broken(page) == [target]


def test_the_readme_is_read_in_two_minutes():
    words = re.sub(r"[|`*_#\-]", " ", (ROOT / "README.md").read_text()).split()
    assert len(words) <= 800


def test_the_readme_links_every_page_of_docs():
    assert DOCS
    linked = {target.partition("#")[0] for target in links((ROOT / "README.md").read_text())}
    assert {f"docs/{page.name}" for page in DOCS} <= linked


def test_the_readme_lists_every_notebook():
    linked = {target for target in links((ROOT / "README.md").read_text()) if target.startswith("notebooks/")}
    assert linked == {f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_notebooks_and_scripts_that_are_named_exist(page):
    named = re.findall(r"\b(?:notebooks|benchmarks|tests)/\w[\w/]*\.(?:ipynb|py)\b", page.read_text())
    in_the_history = {"benchmarks/crops.py"}  # the log says so
    placeholders = {"notebooks/NAME.ipynb"}
    missing = {name for name in named if not (ROOT / name).exists()} - in_the_history - placeholders
    assert missing == set()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A working directory with the folder of images, and the image, that the examples speak of."""
    images = load_images("embedded")
    for label, name in enumerate(["kitchen", "garden"]):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for image in (images.labels == label).nonzero()[:80, 0].tolist():
            to_pil_image(images.images[image]).save(tmp_path / f"photos/{name}/{image}.png")
    to_pil_image(images.images[-1]).save(tmp_path / "my_photo.jpg")
    monkeypatch.chdir(tmp_path)


@pytest.mark.child  # takes as long as a notebook
def test_the_examples_run_one_after_the_other(photos):
    """Those of README, which train, and those of docs/, which look into that run; on a small network, for an epoch."""
    blocks = [block for page in PAGES for block in FENCED.findall(page.read_text())]
    code = "\n".join(code for language, code in blocks if language == "python")
    smaller = {
        'image_size=96, arch="resnet18", epochs=100': 'image_size=32, arch="convnet", epochs=1, batch_size=16',
        '"runs/..."': '"runs/photos"',
    }
    for written, run_here in smaller.items():
        assert written in code
        code = code.replace(written, run_here)
    exec(compile(code, "the examples", "exec"), {})
    run = Run.open("runs/photos")
    assert (run.path / "figures/neighbors.png").exists()
    assert {"retrieval", "classification", "color", "layers", "over_training"} <= run.summary.keys()
