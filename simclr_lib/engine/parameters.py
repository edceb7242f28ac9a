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

INJECTED = "# Parameters\n"  # is how papermill's cell begins
KINDS = {  # the first that fits a default is what a value has to be
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
    given = injected_parameters(namespace)
    defaults = _defaults(cell for cell in namespace["In"] if not cell.startswith(INJECTED))
    require_known(given, fields | defaults.keys())
    for name in sorted(defaults.keys() - fields):
        kind = next(kind for kind, holds in KINDS.items() if holds(defaults[name]))
        remedy = "papermill takes a list by -y 'name: [0, 1]'" * isinstance(defaults[name], list)
        require(KINDS[kind](namespace[name]), name, kind, repr(namespace[name]), remedy)
    return {name: namespace[name] for name in defaults | given}


def injected_parameters(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> value of the cell that papermill has put after the parameters cell, if it has."""
    injected = [cell for cell in namespace.get("In", ()) if cell.startswith(INJECTED)]
    return _assigned(injected[-1]) if injected else {}


def require_known(
    names: Iterable[str], known: set[str], what: str = "a parameter of the notebook or a field of RunConfig"
) -> None:
    """Raise ValueError, with the nearest known name, at the first of `names` that is none of them."""
    for name in sorted(set(names) - known):
        (near,) = get_close_matches(name, sorted(known), n=1, cutoff=0)
        require(False, name, what, "another name", f"did you mean {near}?")


def _defaults(cells: Iterable[str]) -> dict[str, Any]:
    """Name -> default of the parameters cell: its names as last executed, each with its default as first executed."""
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
