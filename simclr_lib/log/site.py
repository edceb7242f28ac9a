"""How a page is written: from a template, which escapes all that it is given, beside scripts that all pages share.

These are plotly, for curves, and DataTables (within itables), for the table: both carry their script inside their
Python package, so that a page loads nothing from elsewhere.
"""

import os
import re
import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from statistics import fmean, pstdev
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader

from simclr_lib.engine.checks import require

SOURCE = Path(__file__).with_name("templates")


def render(folder: Path, page: str, template: str, **shown: object) -> Path:
    """Write a page of `folder` from a template, in which link(file) is the address of a file there; returns it."""
    root = "../" * page.count("/")
    links = {"root": root, "link": lambda file: root + quote(file.relative_to(folder).as_posix())}
    return write(folder / page, TEMPLATES.get_template(template).render(folder=folder, **links, **shown))


def write_assets(assets: Path) -> None:
    """Copy the libraries, and the script and the style of the pages."""
    write(assets / "plotly.js", (files("plotly") / "package_data/plotly.min.js").read_text("utf-8"))
    for kind in ("js", "css"):
        library = (files("itables") / f"html/dt_bundle.{kind}").read_text("utf-8")
        write(assets / f"datatables.{kind}", _as_script(library) if kind == "js" else library)
        write(assets / f"pages.{kind}", (SOURCE / f"pages.{kind}").read_text("utf-8"))


def write(file: Path, text: str) -> Path:
    """Write a file, whole or not at all, and the folders above it; returns it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    return temporary.replace(file)


def in_words(value: object) -> str:
    """A value as a cell shows it: numbers with four digits, nothing for None, what is in a dictionary by name."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {in_words(each)}" for name, each in value.items())
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def score(values: Sequence[float]) -> str:
    """The mean of some scores, and their deviation where there are several; nothing where there is none."""
    deviation = f" ± {pstdev(values):.4f}" if values and len(values) > 1 else ""
    return f"{fmean(values):.4f}{deviation}" if values else ""


def _as_script(module: str) -> str:
    """The module of DataTables as a script that sets DataTable: a page that is opened from the disk may not import."""
    body, _, names = module.partition("export{")
    default = re.match(r"[^}]*\b(\w+) as default", names)
    require(default, "itables", "a module of DataTables with a default export", "another", "install itables 2.9")
    return f'(() => {{"use strict";{body}window.DataTable = {default[1]};}})();'


TEMPLATES = Environment(loader=FileSystemLoader(SOURCE), autoescape=True, trim_blocks=True)
TEMPLATES.filters |= {"text": in_words, "score": score, "quoted": shlex.quote}
TEMPLATES.policies["json.dumps_kwargs"] = {"sort_keys": False}
