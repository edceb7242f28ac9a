"""Data flows one way: no module imports one that comes after it."""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import simclr_lib

PACKAGE = Path(simclr_lib.__file__).parent
MAY_IMPORT = {  # module -> what it may import from the package
    "paths": set(),
    "progress": set(),
    "config": set(),
    "embedded": set(),
    "augment": set(),
    "batch_norm": set(),
    "dropout": set(),
    "distributed": set(),
    "model": {"batch_norm", "dropout"},
    "tiled": set(),
    "loss": {"tiled"},
    "lars": set(),
    "schedule": set(),
    "retrieval": set(),
    "device": set(),
    "health": set(),
    "embedding": {"progress"},
    "environment": {"paths"},
    "image_store": {"progress"},
    "listing": {"embedded", "image_store"},
    "datasets": {"image_store", "listing", "paths"},
    "step": {"augment", "batch_norm", "distributed", "dropout", "loss"},
    "record": {"config", "environment", "paths"},
    "launch": {"progress", "record"},
    "probe": {"augment", "config", "embedding", "health", "model", "progress", "record"},
    "trainer": {
        "augment",
        "config",
        "datasets",
        "device",
        "distributed",
        "lars",
        "loss",
        "model",
        "probe",
        "progress",
        "record",
        "schedule",
        "step",
    },
    "training": {"config", "datasets", "device", "distributed", "environment", "launch", "probe", "record", "trainer"},
    "scores": {"retrieval"},
    "evaluate": {"datasets", "device", "embedding", "model", "record", "retrieval", "scores"},
    "classification": {"config", "datasets", "evaluate", "record", "retrieval"},
    "scoring": {"classification", "config", "datasets", "evaluate", "health", "record", "retrieval", "scores"},
    "canvas": set(),
    "plots": {"canvas"},
    "diagrams": {"canvas"},
    "histories": {"canvas"},
    "comparisons": {"canvas", "plots"},
    "pictures": {
        "canvas",
        "comparisons",
        "datasets",
        "evaluate",
        "histories",
        "plots",
        "record",
        "retrieval",
    },
    "report": {"paths"},
    "__main__": {"simclr_lib", "distributed", "launch", "paths", "record", "report"},
    "__init__": set(),
}


FIGURES = ("canvas", "plots", "diagrams", "histories", "comparisons", "pictures")


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "simclr_lib":
            found.add(node.module.removeprefix("simclr_lib.") if "." in node.module else "simclr_lib")
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("simclr_lib.") for a in node.names if a.name.startswith("simclr_lib")}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path.name}: import by the full name"
    return found


def test_no_module_imports_upward():
    actual = {path.stem: imported_modules(path) for path in PACKAGE.glob("*.py")}
    assert set(actual) == set(MAY_IMPORT), "a module came or went: say here what it may import"
    excess = {name: modules - MAY_IMPORT[name] for name, modules in actual.items() if modules - MAY_IMPORT[name]}
    assert not excess


def test_only_the_figures_draw_and_only_report_executes():
    for path in PACKAGE.glob("*.py"):
        text = path.read_text()
        draws = "import matplotlib" in text or "from matplotlib" in text
        assert draws == (path.stem in FIGURES), path.name
        assert ("papermill" in text and "import papermill" in text) == (path.stem == "report"), path.name


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


def test_the_package_stays_thin():
    lines = {path.name: lines_of_code(path) for path in PACKAGE.glob("*.py")}
    assert sum(lines.values()) <= 3700, lines
    assert max(lines.values()) <= 200, lines


def test_help_and_listing_need_no_torch():
    code = (
        "import sys, simclr_lib.__main__ as m\n"
        "m.main(['list'])\n"
        "try: m.main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_public_names_are_these():
    expected = """RunConfig load_images ImageSet Augment build_encoder SimCLR nt_xent LARS parameter_groups
                  warmup_cosine train Run embed top_k_neighbors knn_accuracy linear_probe"""
    assert set(simclr_lib.__all__) == set(expected.split())
    assert all(callable(getattr(simclr_lib, name)) for name in simclr_lib.__all__)
