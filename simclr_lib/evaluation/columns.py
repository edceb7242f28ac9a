"""What the images of a run are compared by: raw pixels, and its encoders from untrained to trained; a column each.

N images, D dimensions of a column, k neighbours.
"""

import zlib
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor

from simclr_lib import Run, top_k_neighbors
from simclr_lib.data.decode import Item, decode
from simclr_lib.engine.checks import CHOICES, require
from simclr_lib.engine.progress import progress_bar
from simclr_lib.engine.seeds import permutation
from simclr_lib.evaluation import embeddings

RAW = "raw pixels"
LANDMARKS = 2000  # images that t-SNE places on a map: it needs 5 s for these, and 12 s for 3,000
Tables = dict[str, tuple[Tensor, Tensor]]  # "h cosine", "z dot", ... -> indices and similarities


class Columns:
    """The images of one run, or of several runs on one set, and their k neighbours (at most N - 1) in each column.

    options: of `load_images`, such as split="train", for others than those that runs are scored on.
    images: as the first run has them. rows: by column, "h" (N, D) and, but for raw pixels and where no projection head
    is left, "z" (N, P). snapshots: the columns between untrained and trained. The columns of several runs have the
    run's name before theirs.
    Raises ValueError for no run and no other image, where the runs are not on one set of images, and where two have
    the same name.
    """

    def __init__(self, runs: Sequence[Run], k: int = 20, **options: object) -> None:
        require(runs, "runs", "at least one", "none", "see Run.open")
        galleries = [embeddings.load_gallery(run.config, **options) for run in runs]
        self.runs, self.images, self.k = runs, galleries[0], min(k, len(galleries[0]) - 1)
        require(self.k > 0, "images", "at least 2 to compare", len(self.images))
        found = ", ".join(f"{len(images)} of {run.config.dataset}" for run, images in zip(runs, galleries, strict=True))
        known = {(*one.class_names, *one.labels.tolist(), *one.ids.tolist(), *(one.paths or ())) for one in galleries}
        one_set = len({run.config.dataset for run in runs}) == len(known) == 1
        require(one_set, "runs", "runs on one set of images", found, "where it is at two places, give one as root")
        names = {run.path.name for run in runs}
        require(len(names) == len(runs), "runs", "directories of different names", ", ".join(names), "rename one")
        self._states = {RAW: (runs[0], 0)}
        self.rows = {RAW: {"h": embeddings.raw_pixels(self.images.images)}}
        for run, images in zip(runs, galleries, strict=True):
            for stage, epochs in embeddings.stages(run).items():
                name = f"{run.path.name}: {stage}" if len(runs) > 1 else stage
                self._states[name] = run, epochs
                self.rows[name] = self._layers(name, embeddings.embed_once(run, images, epochs))
        self.snapshots = {name for name, (_, epochs) in self._states.items() if epochs}

    def near(self, name: str, kind: str = "h cosine") -> tuple[Tensor, Tensor]:
        """The nearest of each image among the others, in one column: positions and similarities, each (N, k).

        kind: "h cosine", "h dot", "z cosine" or "z dot". The run keeps what was found, unless the column is the last
        checkpoint of a run that has not finished.
        """

        def search() -> dict[str, np.ndarray]:
            indices, similarities = top_k_neighbors(rows, k=self.k, similarity=similarity)
            return {"indices": indices.int().numpy(), "similarities": similarities.numpy()}

        (run, epochs), (layer, similarity) = self._states[name], kind.split()
        rows = self.rows[name][layer]
        file = f"embeddings/{self.k}-nearest-by-{similarity}-{_checksum(rows)}"
        found = run.kept_arrays(file, search) if epochs is not None or run.finished else search()
        return torch.from_numpy(found["indices"]).long(), torch.from_numpy(found["similarities"])

    @cached_property
    def nearest(self) -> dict[str, Tables]:
        """`near` of every column, in every way that it can be compared."""
        found = {}
        with progress_bar(len(self.rows), "neighbours", "columns", leave=False) as bar:
            for name, rows in self.rows.items():
                found[name] = {kind: self.near(name, kind) for kind in _kinds(name, rows)}
                bar.update()
        return found

    def nearest_to(self, item: Item) -> dict[str, Tables]:
        """The images that are nearest to one of your own, as `decode` takes it, by column: two tables (1, k)."""
        found = {}
        for name, (run, epochs) in self._states.items():
            pixels = torch.from_numpy(decode(item, run.config.actual_store_size, run.config.resize))[None]
            one, rows = {"h": embeddings.raw_pixels(pixels)}, self.rows[name]
            if name != RAW:
                encoder = embeddings.load_encoder(run, epochs)
                one = self._layers(name, embeddings.embed_as_trained(run.config, encoder, pixels))
            kinds = _kinds(name, rows)
            found[name] = {kind: top_k_neighbors(one[kind[0]], rows[kind[0]], self.k, kind[2:]) for kind in kinds}
        return found

    @cached_property
    def places(self) -> np.ndarray:
        """A map by h of the last column: a place in [0, 1] for each image, (N, 2), alike images near each other.

        t-SNE (van der Maaten and Hinton 2008) of 50 principal components of the l2-normalised h. Of more than LANDMARKS
        images, a random part of so many is placed, and each of the others among the five nearest of these. All are in
        one place where all h are one direction. The run keeps it.
        """
        h = [*self.rows.values()][-1]["h"]
        return self.runs[-1].kept_arrays(f"embeddings/map-{_checksum(h)}", lambda: {"places": _map(h)})["places"]

    def _layers(self, name: str, h: Tensor) -> dict[str, Tensor]:
        run, epochs = self._states[name]
        with suppress(ValueError):  # nothing of the projection head is left
            return {"h": h, "z": embeddings.project(run, h, epochs)}
        return {"h": h}


def _map(h: Tensor) -> np.ndarray:
    from sklearn import decomposition, manifold, neighbors  # slow to import

    unit, n = F.normalize(h).numpy(), min(len(h), LANDMARKS)
    if np.ptp(unit, axis=0).max() < 1e-6:  # a collapsed encoder
        return np.zeros((len(h), 2))
    parts = decomposition.PCA(min(50, *h.shape), random_state=0).fit_transform(unit)
    some = permutation(len(h), seed=0)[:n].numpy()
    method = manifold.TSNE(init="pca", random_state=0, max_iter=500, perplexity=min(30, (n - 1) / 3))
    with threadpool_limits(1):  # several are hardly faster, and beside other work wait for one another
        placed = method.fit_transform(parts[some])
    places = neighbors.KNeighborsRegressor(min(5, n), weights="distance").fit(parts[some], placed).predict(parts)
    return (places - places.min(0)) / np.ptp(places, axis=0).clip(min=1e-9)


def _kinds(name: str, layers: dict[str, Tensor]) -> list[str]:
    """How a column is compared: "h cosine", "z dot", ...; by raw pixels a dot product is a matter of brightness."""
    similarities = CHOICES["similarity"] if name != RAW else ["cosine"]
    return [f"{layer} {similarity}" for layer in layers for similarity in similarities]


def _checksum(rows: Tensor) -> str:
    return f"{zlib.crc32(rows.contiguous().numpy()):08x}"
