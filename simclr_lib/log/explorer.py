"""Walk through the neighbours of a run, before and after training: a widget in JupyterLab, a frame in an executed
report, a file to open. All three are the one script explorer.js, and show what `collect` gathers.

N images, k neighbours of each in every column.
"""

import base64
import json
import os
import time
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import torch
from anywidget import AnyWidget
from IPython.display import HTML, display
from ipywidgets import FloatRangeSlider, FloatSlider, interactive
from torch import Tensor
from torchvision.transforms.functional import convert_image_dtype, resize
from torchvision.utils import make_grid
from traitlets import Dict, List

from simclr_lib import ImageSet, Run, RunConfig, figures
from simclr_lib.data.decode import decode, encode
from simclr_lib.engine.checks import require
from simclr_lib.engine.lock import rewriting
from simclr_lib.engine.paths import project_root, user_path
from simclr_lib.engine.progress import say
from simclr_lib.evaluation.columns import Columns
from simclr_lib.log.pages import TEMPLATES
from simclr_lib.log.report import EXPLORER, FILED, policy
from simclr_lib.log.sections import grid_of, view_pairs_of

SIDE, SHEET = 64, 1024  # pixels: of a picture at most, and of a sheet of pictures
IN_FILE, IN_WIDGET = 20, 50  # neighbours of every image
MOST = 6_000_000  # bytes by which a report may grow


class Explorer(AnyWidget):
    """The view in JupyterLab. `selected` has the ids of the images that are selected; it may be set, too."""

    _esm, _css = EXPLORER, EXPLORER.with_suffix(".css")
    shown = Dict().tag(sync=True)
    query = Dict().tag(sync=True)
    selected = List().tag(sync=True)

    def __init__(self, columns: Columns, image: object = None, table: pd.DataFrame | None = None) -> None:
        self.columns = columns
        super().__init__(**collect(columns, image, table))
        self.on_msg(self._ask_for)

    def ask(self, image: object, name: str = "your image") -> None:
        """Show the neighbours of an image of your own, as `explore` takes it."""
        self.query = _query(self.columns, image, name)

    def _ask_for(self, _: "Explorer", message: dict, buffers: list) -> None:
        """Answer the view, which sends what a file holds."""
        try:
            self.ask(bytes(buffers[0]), message["name"])
        except Exception as error:  # whatever is wrong with the file: the view says so
            why = f"expected an image that can be read, got {message['name']} ({type(error).__name__})"
            self.query = {"error": f"{why}; choose a JPEG or a PNG", "asked": time.time()}


def explore(*runs: Run, image: object = None, table: pd.DataFrame | None = None, **options: object) -> Explorer | HTML:
    """Walk through the neighbours of a run, or of several runs on one set of images.

    image: one of your own, to begin with: a file, what a file holds, or (3, H, W) uint8 or in [0, 1]. table: what else
    is known of the images, a row each by id, in whose columns they can be coloured. options: of `load_images`, such as
    split="train", for others than the images that the runs are scored on.
    Returns the widget where a front end can show it. Else, for a report, a frame with the page that `write_explorer`
    writes, or, where the report would grow by more than 6 MB, a picture and a link.
    """
    alive = "JPY_SESSION_NAME" in os.environ  # a front end
    columns = Columns(runs, IN_WIDGET if alive else IN_FILE, **options)
    if alive:
        return Explorer(columns, image, table)
    page, picture = write_explorer(columns, image, table), _picture(columns)._repr_mimebundle_()[0]
    ((kind, encoded),) = picture.items()
    shown = {"title": _title(columns), "kind": kind, "picture": encoded.strip()}
    shown["page"] = page.read_text("utf-8") if page.stat().st_size < MOST else ""
    shown["link"] = quote(os.path.relpath(page, os.environ.get(FILED, ".")))
    shown["places"] = [os.path.relpath(run.path, project_root()) for run in runs]
    view = HTML(TEMPLATES.get_template("frame.html").render(shown))
    view.columns, view.selected = columns, []  # as the widget has them
    return view


def write_explorer(columns: Columns, image: object = None, table: pd.DataFrame | None = None) -> Path:
    """Write explore.html in the directory of the first run: all of the view in a file, which opens from the disk."""
    script, run_dir = EXPLORER.read_text("utf-8"), columns.runs[0].path
    values = collect(columns, image, table)
    data = json.dumps(values, default=lambda part: base64.b64encode(part).decode()).replace("<", "\\u003c")
    shown = {"policy": policy(script), "title": _title(columns), "data": data, "script": script}
    shown["style"] = EXPLORER.with_suffix(".css").read_text("utf-8")
    with rewriting(run_dir, "explore.html") as temporary:
        temporary.write_text(TEMPLATES.get_template("explorer.html").render(**shown), "utf-8")
    return run_dir / "explore.html"


def write_parquet(columns: Columns, file: str | Path) -> Path:
    """Write a table for other tools, a row an image, in Embedding Atlas's conventions; returns the path.

    id, file and label; "image", a dictionary with the bytes of a PNG; projection_x and projection_y, its place on the
    map; and by the last column "neighbors", by the others "neighbors by <column>": a dictionary with "ids", which are
    rows of this table from 0, the nearest first, and "distances", 1 - cosine similarity. It needs pyarrow.
    """
    file, images, places = user_path(file, "parquet"), columns.images, columns.places
    names = images.paths or [f"{id}.png" for id in images.ids.tolist()]
    labels = [[*images.class_names, None][label] for label in images.labels.tolist()]
    table = {"id": images.ids.numpy(), "file": names, "label": labels}
    table |= {"image": [{"bytes": encode(image, "PNG")} for image in images.images.numpy()]}
    table |= {f"projection_{axis}": places[:, place] for place, axis in enumerate("xy")}
    for name, tables in columns.nearest.items():
        near = zip(tables["h cosine"][0].tolist(), (1 - tables["h cosine"][1]).float().numpy(), strict=True)
        table[f"neighbors by {name}"] = [{"ids": ids, "distances": distances} for ids, distances in near]
    table["neighbors"] = table.pop(f"neighbors by {name}")
    pd.DataFrame(table).to_parquet(file)
    return file


def collect(columns: Columns, image: object = None, table: pd.DataFrame | None = None) -> dict[str, dict]:
    """What the script shows: under "shown" pictures, classes, names, a map, and the k nearest of every image in every
    column; under "query" the image of one's own."""
    images, known = columns.images, {} if table is None else _known(columns.images, table)
    shown = {
        "k": columns.k,
        "side": min(SIDE, images.images.shape[-1]),
        "sheets": _sheets(images.images),
        "classes": images.class_names,
        "names": images.paths and ["/".join(Path(path).parts[-2:]) for path in images.paths],
        "ids": _packed(images.ids),
        "labels": _packed(images.labels),
        "places": _packed(columns.places * 65535),
        "columns": [_column(columns, name) for name in columns.nearest],
        "table": known,
    }
    return {"shown": shown, "query": {} if image is None else _query(columns, image)}


def explore_views(images: ImageSet, config: RunConfig | None = None) -> None:
    """View pairs of some images, and the numbers of the parameters cell that make such; in JupyterLab under sliders.

    config: where the sliders begin, and how large views are; None: the defaults at the images' own size.
    """
    config = config or RunConfig(image_size=images.images.shape[-1])

    def show(**chosen: object) -> None:
        display(view_pairs_of(images, replace(config, **chosen), "View pairs, as the encoder meets them"))
        print("\n".join(f"{name} = {value}" for name, value in chosen.items()))

    first = {name: getattr(config, name) for name in ("color_strength", "crop_area", "blur")}
    if "JPY_SESSION_NAME" not in os.environ:
        return show(**first)
    options = dict(continuous_update=False, style={"description_width": "initial"})
    color = FloatSlider(config.color_strength, min=0, max=2, step=0.1, **options)
    crop = FloatRangeSlider(value=config.crop_area, min=0.02, max=1, step=0.02, **options)
    display(interactive(show, **first | {"color_strength": color, "crop_area": crop}))


def _title(columns: Columns) -> str:
    return f"Neighbours by {', '.join(run.path.name for run in columns.runs)}"


def _query(columns: Columns, image: object, name: str = "your image") -> dict[str, Any]:
    """The neighbours of an image of one's own, by position, in every column; and a picture of it."""
    if isinstance(image, np.ndarray | Tensor):
        image = torch.as_tensor(image)
        within = image.is_floating_point() and ((image >= 0) & (image <= 1)).all()
        fits = image.ndim == 3 and len(image) == 3 and image.numel() and (image.dtype == torch.uint8 or within)
        require(fits, "image", "(3, H, W) uint8, or floating in [0, 1]", f"{tuple(image.shape)} {image.dtype}")
        image = convert_image_dtype(image, torch.uint8).numpy()
    item = BytesIO(image) if isinstance(image, bytes) else image
    found = columns.nearest_to(item)
    picture = torch.from_numpy(decode(item, min(SIDE, columns.images.images.shape[-1]), "squash"))[None]
    lists = {name: {kind: [table[0].tolist() for table in of[kind]] for kind in of} for name, of in found.items()}
    return {"name": name, "found": lists, "picture": _sheets(picture)[0], "asked": time.time()}  # anew each time


def _picture(columns: Columns) -> figures.InlineFigure:
    """What stands for the view where no script runs: neighbours before and after training, of two images."""
    names, labels = [name for name in columns.rows if name not in columns.snapshots], columns.images.labels
    before, after = (columns.near(name)[0][:, :7] for name in (names[0], names[-1]))
    gained = ((labels[after] == labels[:, None]).sum(1) - (labels[before] == labels[:, None]).sum(1)) * (labels >= 0)
    queries = gained.argsort(stable=True)[[-1, 0]]
    title = f"{_title(columns)}: where training gained most, and where it lost most"
    return grid_of(columns, names, queries, title)


def _sheets(images: Tensor) -> list[bytes]:
    """Pictures of images (N, 3, S, S), in rows as long as a sheet is wide; a WebP each."""
    side = min(SIDE, images.shape[-1])
    parts = images.split((SHEET // side) ** 2)
    return [encode(make_grid(resize(part, [side, side]), SHEET // side, padding=0).numpy(), "WEBP") for part in parts]


def _known(images: ImageSet, table: pd.DataFrame) -> dict[str, list]:
    """What a table knows of each image, by column; None where it knows nothing of an image."""
    fits, known = table.index.is_unique and table.index.dtype.kind in "iu", table.index.isin(images.ids.numpy()).sum()
    require(fits, "table", "ids of the images as its index, each once", table.index[:5].tolist(), "see set_index")
    say(f"the table knows {known:,} of the {len(images):,} images")
    own = table.reindex(images.ids.numpy()).rename(columns={name: f"{name} (table)" for name in ("class", "hits")})
    return {name: [*values.values()] for name, values in json.loads(own.to_json(date_format="iso")).items()}


def _column(columns: Columns, name: str) -> dict[str, Any]:
    """Neighbours by position, and their similarities as steps down from the rank before, a thousandth of the scale."""
    tables = {}
    for kind, (indices, similarities) in columns.nearest[name].items():
        step = (1.0 if kind.endswith("cosine") else similarities.abs().max().item() or 1.0) / 1000
        rounded = np.rint(similarities.numpy() / step)
        steps = np.hstack([rounded[:, :1], -np.diff(rounded)])  # from 0 up, which compresses best
        tables[kind] = {"near": _packed(indices), "steps": _packed(steps), "step": step}
    return {"name": name, "snapshot": name in columns.snapshots, "tables": tables}


def _packed(numbers: Any) -> bytes:
    """Whole numbers of 32 bits as they compress best: all their lowest bytes, then all of the next, and so on."""
    flat = np.asarray(numbers).round().astype("<i4").reshape(-1, 1)
    return zlib.compress(np.ascontiguousarray(flat.view(np.uint8).T).tobytes())
