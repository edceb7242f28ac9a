"""Neighbours of a run: which queries to show, the table of all, and the small file by which runs are compared.

N images, Q queries, D embedding dimensions, k neighbours.
"""

import base64
import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from torchvision.transforms.functional import resize

from simclr_lib import ImageSet, Run
from simclr_lib.data.decode import encode
from simclr_lib.engine.checks import require
from simclr_lib.engine.lock import rewriting
from simclr_lib.engine.paths import read_json
from simclr_lib.engine.seeds import permutation
from simclr_lib.evaluation.columns import Columns

SHOWN = 10  # neighbours of every image that are kept
SIDES, MOST = (64, 48, 32, 24), 300_000  # pixels of a thumbnail: the largest with which queries.json has no more bytes


def fixed_queries(images: ImageSet, count: int = 6) -> list[int]:
    """Positions of random images to show the neighbours of, the same for every run on a set: of different classes as
    far as there are so many, and labelled ones first."""
    order = permutation(len(images), seed=0)
    classes = pd.Series(images.labels[order].numpy())
    turn = classes.groupby(classes).cumcount().where(classes >= 0, len(images))  # within a class, in the order drawn
    return order[np.argsort(turn.to_numpy(), stable=True)[:count]].tolist()


def record_neighbors(run: Run) -> Columns:
    """Keep the neighbours by a run's last encoder, and of the fixed queries by the untrained one too; returns them all.

    neighbors.npz: ids (N,), neighbors (N, k) as ids, similarities (N, k), of every image by cosine of h, k at most 10.
    queries.json needs no data to be looked at, and has at most 300 KB, so that git may keep it: "dataset"; "queries", Q
    ids; "neighbors" and "similarities", "untrained encoder" and "trained encoder" -> (Q, k); and of each of these
    images, by id, its class under "labels" (empty where it has none) and a JPEG as a data URL under "thumbnails".
    """
    columns = Columns([run])
    images, (_, first, *_, last) = columns.images, columns.rows
    stages = {"untrained encoder": first, "trained encoder": last}
    found = {stage: tuple(part[:, :SHOWN] for part in columns.near(name)) for stage, name in stages.items()}
    indices, similarities = found["trained encoder"]
    run.save_arrays("neighbors", ids=images.ids, neighbors=images.ids[indices], similarities=similarities)
    queries = fixed_queries(images)
    rows = sorted({*queries, *(row for indices, _ in found.values() for row in indices[queries].flatten().tolist())})
    classes = [*images.class_names, ""]  # of the label -1 the last
    content = {
        "dataset": run.config.dataset,
        "queries": images.ids[queries].tolist(),
        "neighbors": {stage: images.ids[indices[queries]].tolist() for stage, (indices, _) in found.items()},
        "similarities": {stage: near[queries].numpy().round(4).tolist() for stage, (_, near) in found.items()},
        "labels": {int(images.ids[row]): classes[images.labels[row]] for row in rows},
    }
    for side in SIDES:
        text = json.dumps({**content, "thumbnails": _thumbnails(images, rows, side)})
        if len(text) <= MOST:
            break
    with rewriting(run.path, "queries.json") as temporary:
        temporary.write_text(text)
    return columns


def recorded_queries(runs: Mapping[str, Run], encoder: str, queries: int = 6, k: int = SHOWN) -> dict[str, Any]:
    """What `record_neighbors` has kept of several runs on one set, name -> run, as `figures.neighbor_grid` takes it.

    encoder: "trained encoder", or "untrained encoder". queries, k: at most so many, with so many neighbours each. It
    needs no data: the images are the thumbnails.
    Raises ValueError where a run has no queries.json, where they are of different queries, and for another encoder.
    """
    kept = {name: read_json(run.path / "queries.json") for name, run in runs.items()}
    missing = ", ".join(name for name in kept if not kept[name])
    require(not missing, "queries.json", "one in each run", f"none in {missing}", "python -m simclr_lib score RUN_DIR")
    asked = {(content["dataset"], *content["queries"]) for content in kept.values()}
    require(len(asked) == 1, "runs", "the same queries of one data set", f"{len(asked)} different", "compare others")
    known = set.intersection(*(set(content["neighbors"]) for content in kept.values()))
    require(encoder in known, "encoder", f"one of {', '.join(sorted(known))}", repr(encoder))
    classes = {int(row): name for content in kept.values() for row, name in content["labels"].items()}
    pictures = {int(row): _picture(url) for content in kept.values() for row, url in content["thumbnails"].items()}
    place, names = {row: n for n, row in enumerate(pictures)}, sorted({*classes.values()} - {""})
    label = {"": -1} | {name: n for n, name in enumerate(names)}
    images, labels = [*pictures.values()], np.array([label[classes[row]] for row in place])
    found = {}
    for name, content in kept.items():
        indices = [[place[row] for row in near[:k]] for near in content["neighbors"][encoder]]
        found[name] = np.array(indices), np.array(content["similarities"][encoder])[:, :k]  # (Q, k) each
    asked = [place[row] for row in content["queries"]]
    shown = {"images": [images[row] for row in asked], "labels": labels[asked], "class_names": names}
    return {**shown, "query_ids": range(len(asked))[:queries], "found": found, "gallery": (images, labels)}


def _thumbnails(images: ImageSet, rows: list[int], side: int) -> dict[int, str]:
    small = resize(images.images[rows], [min(side, images.images.shape[-1])] * 2).numpy()
    files = (base64.b64encode(encode(image, "JPEG")).decode() for image in small)
    return {id: f"data:image/jpeg;base64,{file}" for id, file in zip(images.ids[rows].tolist(), files, strict=True)}


def _picture(url: str) -> np.ndarray:
    """One of `_thumbnails`, (3, S, S) uint8."""
    file = BytesIO(base64.b64decode(url.partition(",")[2]))
    return np.asarray(Image.open(file, formats=["JPEG"]).convert("RGB")).transpose(2, 0, 1)
