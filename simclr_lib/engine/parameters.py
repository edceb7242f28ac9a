"""The parameters of a notebook, as its kernel has them.

Names are read from cells that the kernel has executed: the parameters cell, which is nothing but assignments, `run_dir`
among them, and the cell that papermill puts after it. So no variable of another cell is taken for a parameter.
"""

import ast
from collections.abc import Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

from simclr_lib.engine.checks import is_amount, is_count, is_whole, require

KINDS = {  # a value has to be of the first of these kinds that its default is of
    "a whole number of at least 1": is_count,
    "a whole number of at least 0": is_whole,
    "a number of at least 0": is_amount,
    "True or False": lambda value: isinstance(value, bool),
    "a text": lambda value: isinstance(value, str),
    "a list of whole numbers of at least 0": lambda value: isinstance(value, list) and all(map(is_whole, value)),
    "a list of numbers of at least 0": lambda value: isinstance(value, list) and all(map(is_amount, value)),
    "anything": lambda value: True,
}


def notebook_parameters(namespace: Mapping[str, Any], fields: set[str]) -> dict[str, Any]:
    """Name -> value of every parameter of the notebook whose `globals()` is given: fields of the configuration and the
    notebook's own. A dictionary that no kernel has filled is taken as it is.

    Raises:
        ValueError: where no parameters cell was executed; for a name that papermill gives and that is neither a field
            nor a parameter of the notebook, with the nearest one; for a parameter of the notebook's own that is of
            another kind than its default.
    """
    if "In" not in namespace:  # where IPython keeps the cells that it has executed
        return dict(namespace)
    injected = [cell for cell in namespace["In"] if cell.startswith("# Parameters")]  # as papermill's cells do
    given = _assigned(injected[-1]) if injected else {}
    defaults = _defaults(cell for cell in namespace["In"] if cell not in injected)
    for name in sorted(given.keys() - defaults.keys() - fields):
        (near,) = get_close_matches(name, [*fields, *defaults], n=1, cutoff=0)
        require(False, name, "a field of RunConfig or a parameter here", "neither", f"did you mean {near}?")
    for name in sorted(defaults.keys() - fields):
        kind = next(kind for kind, holds in KINDS.items() if holds(defaults[name]))
        remedy = "papermill takes a list by -y 'name: [0, 1]'" * isinstance(defaults[name], list)
        require(KINDS[kind](namespace[name]), name, kind, repr(namespace[name]), remedy)
    return {name: namespace[name] for name in defaults | given}


def _defaults(cells: Iterable[str]) -> dict[str, Any]:
    """Name -> default of the parameters cell: the names that it has now, each with the default that it had first."""
    editions = [found for found in map(_assigned, cells) if isinstance(found.get("run_dir"), str)]
    require(editions, "parameters", 'a cell of assignments, run_dir = "" among them', "none", "execute it before this")
    # a cell that sets little but run_dir is no edition of the parameters cell
    editions = [found for found in editions if 2 * len(found) > max(map(len, editions))]
    return {name: editions[0].get(name, default) for name, default in editions[-1].items()}


def _assigned(source: str) -> dict[str, Any]:
    """Name -> value of a cell that is nothing but assignments, None for what is no literal; of another cell nothing."""
    assigned = {}
    with suppress(SyntaxError):
        for statement in ast.parse(source).body:
            match statement:
                case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, ast.expr() as value):
                    assigned[name] = None
                    with suppress(ValueError):
                        assigned[name] = ast.literal_eval(value)
                case _:
                    return {}
    return assigned
