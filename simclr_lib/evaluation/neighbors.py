"""Neighbours of a run: which queries to show, the table of all, and the small file by which runs are compared.

N images, Q queries, D embedding dimensions, k neighbours.
"""

import base64
import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import resize

from simclr_lib import ImageSet, Run, RunConfig, top_k_neighbors
from simclr_lib.data.decode import encode
from simclr_lib.engine.checks import require
from simclr_lib.engine.lock import rewriting
from simclr_lib.engine.paths import read_json
from simclr_lib.engine.seeds import permutation
from simclr_lib.evaluation.columns import Columns
from simclr_lib.evaluation.embeddings import PIXELS, load_gallery, raw_pixels
from simclr_lib.retrieval import neighbor_hits

SHOWN = 10  # neighbours of every image that are kept, and by which queries are chosen
SIDES, MOST = (64, 48, 32, 24), 300_000  # pixels of a thumbnail: the largest with which queries.json has no more bytes
CHOSEN: dict[int, list[int]] = {}  # by the checksum of a set: each section of a notebook asks for its queries


def fixed_queries(config: RunConfig) -> list[int]:
    """Positions in the gallery of six images to show the neighbours of: `choose_queries` by raw pixels at 32x32, the
    same for every run on a data set, whatever its encoder and the size of its images."""
    small = load_gallery(config, image_size=PIXELS, resize="squash")
    content = small.checksum(torch.arange(len(small)))
    if content not in CHOSEN:
        CHOSEN[content] = choose_queries(raw_pixels(small.images), small.labels)
    return CHOSEN[content]


def choose_queries(rows: Tensor, labels: Tensor, count: int = 6, k: int = SHOWN) -> list[int]:
    """Positions of `count` images of different classes to show the neighbours of: a third those with the best
    precision@k by `rows` (N, D), a third median ones, a third the worst; equals are in a random but fixed order.

    Without labels (-1) they are random ones.
    """
    order = permutation(len(rows), seed=0)
    known = order[labels[order] >= 0]
    if len(known) <= k:
        return order[:count].tolist()
    indices, _ = top_k_neighbors(rows[known], k=k)
    precision = neighbor_hits(indices, labels[known], labels[known]).double().mean(1)
    ranked = known[precision.sort(descending=True, stable=True).indices]
    from_the_middle = (torch.arange(len(ranked)) - len(ranked) // 2).abs().argsort(stable=True)
    of_different_classes = len(labels[known].unique()) >= count
    chosen = {}
    for third, candidates in enumerate([ranked, ranked[from_the_middle], ranked.flip(0)], start=1):
        for row in candidates.tolist():
            if 3 * len(chosen) < count * third:
                chosen.setdefault(int(labels[row]) if of_different_classes else row, row)
    return list(chosen.values())


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
    queries = fixed_queries(run.config)
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
