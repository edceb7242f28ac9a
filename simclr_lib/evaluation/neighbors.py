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

from simclr_lib import ImageSet, Run, RunConfig, top_k_neighbors
from simclr_lib.engine.checks import require
from simclr_lib.engine.lock import rewriting
from simclr_lib.engine.paths import read_json
from simclr_lib.engine.seeds import permutation
from simclr_lib.evaluation.embeddings import PIXELS, Embeddings, load_gallery, raw_pixels
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


def record_neighbors(run: Run, images: ImageSet, h: Tensor, k: int = SHOWN) -> tuple[Tensor, Tensor]:
    """Find the top-k neighbours of every image among the set itself, by cosine of `h` (N, D), and keep them.

    Writes neighbors.npz: ids (N,), neighbors (N, k) as ids, similarities (N, k).

    Returns:
        indices and similarities, each (N, k); an index is a position in `images`.
    """
    indices, similarities = top_k_neighbors(h, k=k)
    run.save_arrays("neighbors", ids=images.ids, neighbors=images.ids[indices], similarities=similarities)
    return indices, similarities


def record_queries(run: Run, images: ImageSet, embeddings: Embeddings, k: int = SHOWN) -> None:
    """Write queries.json: the fixed queries, and the k nearest of each by `embeddings`, name -> (N, D).

    It needs no data to be looked at, and has at most 300 KB, so that git may keep it: "dataset"; "queries", Q ids;
    "neighbors" and "similarities", name -> (Q, k); and of each of these images, by id, its class under "labels" (empty
    where it has none) and a JPEG as a data URL under "thumbnails".
    """
    queries = fixed_queries(run.config)
    found = {name: [_nearest(h, query, k) for query in queries] for name, h in embeddings.items()}
    rows = sorted({*queries, *(row for tables in found.values() for indices, _ in tables for row in indices)})
    ids, names = images.ids.tolist(), [*images.class_names, ""]  # of the label -1 the last
    content = {
        "dataset": run.config.dataset,
        "queries": [ids[row] for row in queries],
        "neighbors": {name: [[ids[row] for row in indices] for indices, _ in found[name]] for name in found},
        "similarities": {name: [near for _, near in found[name]] for name in found},
        "labels": {ids[row]: names[images.labels[row]] for row in rows},
    }
    for side in SIDES:
        text = json.dumps({**content, "thumbnails": _thumbnails(images, rows, side)})
        if len(text) <= MOST:
            break
    with rewriting(run.path, "queries.json") as temporary:
        temporary.write_text(text)


def recorded_queries(runs: Mapping[str, Run], encoder: str, queries: int = 6, k: int = SHOWN) -> dict[str, Any]:
    """What `record_queries` has kept of several runs on one data set, name -> run, as `figures.neighbor_grid` takes it.

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


def _nearest(h: Tensor, query: int, k: int) -> tuple[list[int], list[float]]:
    """Positions and similarities of the k nearest of the image at `query`, without itself."""
    indices, similarities = top_k_neighbors(h[query : query + 1], h, min(k + 1, len(h)))
    others = [(i, s) for i, s in zip(indices[0].tolist(), similarities[0].tolist(), strict=True) if i != query][:k]
    return [i for i, _ in others], [round(s, 4) for _, s in others]


def _thumbnails(images: ImageSet, rows: list[int], side: int) -> dict[int, str]:
    thumbnails = {}
    for row in rows:
        picture, file = Image.fromarray(images.images[row].permute(1, 2, 0).numpy()), BytesIO()
        picture.thumbnail((side, side))
        picture.save(file, "JPEG", quality=80)
        thumbnails[int(images.ids[row])] = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    return thumbnails


def _picture(url: str) -> np.ndarray:
    """One of `_thumbnails`, (3, S, S) uint8."""
    file = BytesIO(base64.b64decode(url.partition(",")[2]))
    return np.asarray(Image.open(file, formats=["JPEG"]).convert("RGB")).transpose(2, 0, 1)
