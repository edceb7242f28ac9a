"""The parameters of a notebook: plain dictionaries that imitate a kernel, then real kernels."""

import ast

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from papermill import PapermillExecutionError, execute_notebook

from simclr_lib.engine.parameters import notebook_parameters

FIELDS = {"epochs", "momentum", "learning_rate", "unreadable", "temperature", "seed"}
CELL = """\
epochs = 3  # passes over the images
learning_rate = 0.1 * 2
momentum = 0.9  # of "sgd" = 1
temperature = None
neighbors_k = 5  # neighbours that are scored
offset = 0
tolerance = 1e-4
similarity = "cosine"
verbose = False
query_ids = []
evaluation_seeds = [0, 1, 2]
temperatures = [0.1, 1]
compare_with = None
run_dir = ""
"""
CALL = "config = RunConfig.from_parameters(globals())\nrun_dir = announce(config, run_dir)"  # assignments too


def kernel(*cells: str) -> dict:
    """The namespace of a kernel that has executed these cells and is about to execute CALL."""
    namespace = {}
    for cell in cells:
        exec(cell, namespace)
    return {**namespace, "In": ["", *cells, CALL]}


def parameters(*cells: str) -> dict:
    return notebook_parameters(kernel(*cells), FIELDS)


def expected(**values: object) -> dict:
    """The parameters of CELL, but for `values`."""
    namespace = {}
    exec(CELL, {}, namespace)
    return namespace | values


def test_the_parameters_are_those_of_their_cell():
    assert parameters(CELL) == expected()
    assert expected()["learning_rate"] == 0.2


def test_annotations_comments_and_blank_lines_are_no_obstacle():
    cell = '# What the run is\n\nepochs: int = 3  # passes\n\nneighbors_k: "int" = 5\nrun_dir: str = ""  # new\n'
    assert parameters(cell) == {"epochs": 3, "neighbors_k": 5, "run_dir": ""}


def test_what_papermill_gives_counts_whether_the_parameters_cell_has_it_or_not():
    given = '# Parameters\nepochs = 4\nunreadable = "skip"\nmomentum = float("inf")\n'  # as it writes an infinity
    assert parameters(CELL, given) == expected(epochs=4, unreadable="skip", momentum=float("inf"))


@pytest.mark.parametrize(
    "cell",
    [
        "for seed in range(3):\n    pass",
        "for momentum in [0.1]:\n    unreadable = 'skip'",
        "seed = 7",
        "seed = 7\nunreadable = 'skip'",
        "import os\nrun_dir = 'elsewhere'\nseed = 7",
        "def f():\n    seed = 3",
        "seed = (",
        "seed, unreadable = 7, 'skip'",
        CALL,
    ],
)
def test_no_name_of_another_cell_is_taken(cell):
    namespace = {**kernel(CELL), "seed": 7, "unreadable": "skip"}
    namespace["In"] = ["", cell, CELL, cell, CALL, cell]
    assert notebook_parameters(namespace, FIELDS) == expected()


def test_a_cell_that_sets_little_but_the_run_directory_takes_nothing_away():
    few = 'run_dir = "runs/b"\nepochs = 7'
    assert parameters(CELL, 'run_dir = "runs/a"', few) == expected(run_dir="runs/b", epochs=7)
    assert parameters(few, CELL) == expected()


def test_the_parameters_cell_may_be_edited_and_executed_again():
    edited = CELL.replace("momentum = 0.9", "# momentum = 0.9").replace("epochs = 3", "epochs = 5") + "seed = 2\n"
    namespace = kernel(CELL, edited)
    namespace["In"].insert(2, CALL)
    assert namespace["momentum"] == 0.9
    without = {name: value for name, value in expected(epochs=5, seed=2).items() if name != "momentum"}
    assert notebook_parameters(namespace, FIELDS) == without


def test_a_value_is_the_kernel_s_and_not_the_cell_s():
    assert parameters(CELL, "epochs = 9", "neighbors_k += 2") == expected(epochs=9, neighbors_k=7)


def test_the_kind_of_a_parameter_is_that_of_its_first_default():
    with pytest.raises(ValueError, match=r"^query_ids: .*list.* got 3"):
        parameters(CELL, CELL.replace("query_ids = []", "query_ids = 3"))


@pytest.mark.parametrize(("name", "near"), [("epocs", "epochs"), ("neighbours_k", "neighbors_k")])
@pytest.mark.parametrize("others", ["", "epochs = 4\n"])
def test_a_name_that_nobody_knows_is_refused_with_the_nearest(name, near, others):
    with pytest.raises(ValueError, match=rf"^{name}: .*did you mean {near}\?$"):
        parameters(CELL, f"# Parameters\n{others}{name} = 3\n")


REFUSED = {
    "neighbors_k": (["5.0", "'five'", "None", "0", "-1", "True", "[5]"], "whole number of at least 1"),
    "offset": (["0.5", "-1", "None", "'0'", "False"], "whole number of at least 0"),
    "tolerance": (["-0.1", "None", "'1e-4'", "float('nan')", "float('inf')"], "number of at least 0"),
    "similarity": (["3", "None", "['dot']"], "text"),
    "verbose": (["1", "'no'", "None"], "True or False"),
    "query_ids": (["3", "None", "'[3]'", "[0.5]", "[-1]", "['a']", "[None]", "[True]"], "list of whole numbers"),
    "evaluation_seeds": (["3", "[0.5]", "[-1]"], "list of whole numbers"),
    "temperatures": (["0.5", "[-0.5]", "['a']"], "list of numbers"),
    "run_dir": (["None", "3"], "text"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in REFUSED for value in REFUSED[name][0]])
def test_a_parameter_of_another_kind_is_refused_by_name_with_what_was_expected(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected .*{REFUSED[name][1]}") as error:
        parameters(CELL, f"# Parameters\n{name} = {value}\n")
    assert f", got {eval(value)!r}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("neighbors_k", 1),
        ("offset", 0),
        ("offset", 4),
        ("tolerance", 0),
        ("similarity", "dot"),
        ("verbose", True),
        ("query_ids", [0, 3]),
        ("evaluation_seeds", []),
        ("evaluation_seeds", [7]),
        ("temperatures", [1]),
        ("temperatures", [0.5, 2]),
        ("compare_with", "runs/a"),  # None as a default says nothing
    ],
)
def test_a_parameter_of_the_kind_of_its_default_is_taken(name, value):
    assert parameters(CELL, f"# Parameters\n{name} = {value!r}\n") == expected(**{name: value})


@pytest.mark.parametrize(
    "cells",
    [[], ["epochs = 3"], ["epochs = 3\nprint(epochs)\nrun_dir = ''"], ["# Parameters\nepochs = 3\nrun_dir = 'a'"]],
)
def test_without_a_parameters_cell_nothing_is_made_up(cells):
    with pytest.raises(ValueError, match=r"^parameters: expected .*run_dir"):
        parameters(*cells)


def test_a_dictionary_that_no_kernel_has_filled_is_taken_as_it_is():
    assert notebook_parameters({"epochs": 3, "epocs": 4}, FIELDS) == {"epochs": 3, "epocs": 4}


def test_an_ipython_shell_keeps_its_cells_where_they_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))  # else these cells would come into the user's history
    shell = InteractiveShell()
    for cell in (CELL, "%xmode Minimal", "for momentum in range(3): seed = momentum", "epochs ="):
        shell.run_cell(cell, store_history=True)
    shell.push({"parameters": notebook_parameters, "fields": FIELDS})
    for epochs in (3, 8):
        shell.run_cell("found = parameters(globals(), fields)\nrun_dir = str(found['run_dir'])", store_history=True)
        assert shell.user_ns["found"] == expected(epochs=epochs, momentum=2)  # a name of the cell, set by the loop
        shell.run_cell("epochs = 8", store_history=True)


@pytest.mark.child
def test_papermill_s_cell_is_found(tmp_path):
    ask = f"from simclr_lib.engine.parameters import notebook_parameters as read\nprint(read(globals(), {FIELDS}))"
    cells = [nbformat.v4.new_code_cell(source) for source in (CELL, "for seed in range(3): pass", ask)]
    cells[0].metadata.tags = ["parameters"]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "in.ipynb")
    given = {"epochs": 4, "unreadable": "skip", "query_ids": [3], "temperature": 0.5, "run_dir": "a"}
    done = execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", given, progress_bar=False)
    assert ast.literal_eval(done.cells[-1].outputs[0].text) == expected(**given)
    with pytest.raises(PapermillExecutionError, match=r"epocs: .*did you mean epochs\?"):
        execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", {"epocs": 4}, progress_bar=False)
