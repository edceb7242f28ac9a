"""The house: which room may import which, and how much code each may hold."""

import ast
import importlib
import io
import subprocess
import sys
import tokenize
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import simclr_lib

PACKAGE = Path(simclr_lib.__file__).parent
PAPER = {"config", "augment", "model", "loss", "lars", "schedule", "layers", "step", "retrieval"}
BELOW = {"engine", *PAPER}
MAY_IMPORT = {  # a room -> what it may import beside itself: rooms, modules of the paper, or a single module of a room
    "engine": set(),
    **{module: BELOW for module in PAPER},
    "data": {"engine"},
    "figures": {"engine"},
    "run": BELOW | {"evaluation.health"},
    "pretrained": BELOW | {"run"},
    "train": BELOW | {"data", "run", "pretrained", "evaluation.health"},
    "evaluation": BELOW | {"data", "run"},
    "log": BELOW | {"data", "run", "pretrained", "evaluation", "train", "figures"},
    "__main__": BELOW | {"data", "run", "evaluation", "train", "log"},
    "__init__": set(),
}
# Lines of code. These are fixed: where code outgrows one, something goes or is better said; the bound is never raised.
METHOD, FIGURES, FILE, WHOLE, PAGES, EXPLORER = 700, 600, 200, 3850, 200, 400
OWED = 166  # by which the log and the explorer stand above the whole: to be paid back by what comes later


def modules() -> dict[str, Path]:
    """Every module of the package by its name, such as "engine.checks"."""
    paths = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__") if "." in name else name: path for name, path in paths.items()}


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: import by the full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    known = modules()
    inside = {name.removeprefix("simclr_lib.") for name in names if name.startswith("simclr_lib.")}
    home = {public: module for public, module in simclr_lib._HOME.items() if public not in known}
    found = {next((part for part in (name, name.rpartition(".")[0], home.get(name)) if part in known), name)
             for name in inside}  # fmt: skip
    assert found <= known.keys(), f"{path}: {found - known.keys()}"
    return found


@pytest.mark.parametrize("name", modules())
def test_a_room_imports_what_it_may(name):
    room = name.split(".")[0]
    allowed = {room, *MAY_IMPORT[room]}
    wrong = {module for module in imported(modules()[name]) if not {module, module.split(".")[0]} & allowed}
    assert not wrong


def test_no_module_imports_upward():
    graph = {name: imported(path) - {name} for name, path in modules().items()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError where two wait for each other
    assert all(order.index(below) < order.index(name) for name in graph for below in graph[name])


def test_each_library_that_is_slow_to_import_has_one_home():
    for name, path in modules().items():
        text, room = path.read_text(), name.split(".")[0]
        draws = "import matplotlib" in text or "from matplotlib" in text
        assert not draws or room == "figures", name
        assert "import papermill" not in text or name == "log.report", name
        assert "from papermill" not in text or name == "log.kernel", name


def lines_of_code(path: Path) -> int:
    """Without blank lines, comments and docstrings."""
    source = path.read_text()
    documented = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            documented.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    return len({token.start[0] for token in tokens if token.type not in silent} - documented)


def test_the_house_stays_small():
    lines = {name: lines_of_code(path) for name, path in modules().items()}
    assert sum(lines[name] for name in PAPER - {"retrieval"}) <= METHOD, lines
    assert sum(count for name, count in lines.items() if name.startswith("figures")) <= FIGURES, lines
    assert max(lines.values()) <= FILE, lines
    assert sum(lines.values()) <= WHOLE + OWED, lines


def test_scripts_and_templates_stay_small():
    files = [file for file in (PACKAGE / "log/templates").iterdir() if file.suffix in (".html", ".js")]
    texts = {file.name: file.read_text().splitlines() for file in files}
    lines = {name: sum(line.strip()[:2] not in ("", "//") for line in text) for name, text in texts.items()}
    assert sum(lines.pop(name) for name in ("explorer.js", "explorer.html", "frame.html")) <= EXPLORER
    assert len(lines) == 4
    assert sum(lines.values()) <= PAGES
    assert max(len(line) for text in texts.values() for line in text) <= 120


def test_the_counter_counts_code_alone(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        '"""A docstring\nof two lines."""\n\n# a comment\nx = (\n    1,  # one\n)\n\n\ndef f():\n    """Doc."""\n'
    )
    assert lines_of_code(file) == 4


@pytest.mark.child
def test_help_and_listing_need_no_torch():
    code = (
        "import sys, simclr_lib.__main__ as m\n"
        "m.main(['list'])\n"
        "try: m.main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.child
def test_the_public_names_need_nothing_that_is_slow_to_import_and_used_later():
    code = "import sys; from simclr_lib import *; print({'sklearn', 'scipy', 'matplotlib', 'IPython'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_the_public_names_are_these():
    expected = """RunConfig load_images ImageSet Augment build_encoder SimCLR nt_xent LARS parameter_groups
                  warmup_cosine train Run embed top_k_neighbors knn_accuracy linear_probe"""
    assert set(simclr_lib.__all__) == set(expected.split())
    assert all(callable(getattr(simclr_lib, name)) for name in simclr_lib.__all__)


def test_the_function_train_is_not_replaced_by_its_module():
    assert importlib.import_module("simclr_lib.train").train is simclr_lib.train
