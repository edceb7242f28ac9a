"""What the images of a run are compared by: raw pixels, and its encoders from untrained to trained; a column each.

N images, D dimensions of a column.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsRegressor
from torch import Tensor

from simclr_lib import Run, top_k_neighbors
from simclr_lib.data.decode import Item, decode
from simclr_lib.engine.checks import CHOICES, require
from simclr_lib.engine.progress import progress_bar
from simclr_lib.engine.seeds import permutation
from simclr_lib.evaluation import embeddings

RAW = "raw pixels"
Tables = dict[str, tuple[Tensor, Tensor]]  # "h cosine", "z dot", ... -> indices and similarities, (N, k) each
LANDMARKS = 3000  # images that t-SNE places on a map: it needs 10 s for these, and a minute for four times as many


class Columns:
    """The images of one run, or of several runs on one set, and what they are in each column.

    options: of `load_images`, such as split="train", for others than those that runs are scored on.
    images: as the first run has them. rows: by column, "h" (N, D) and, but for raw pixels and where no projection head
    is left, "z" (N, P). The columns of several runs have the run's name before theirs.
    Raises ValueError where the runs are not on one set of images.
    """

    def __init__(self, runs: Sequence[Run], **options: object) -> None:
        galleries = [embeddings.load_gallery(run.config, **options) for run in runs]
        self.runs, self.images, self._states = runs, galleries[0], {RAW: (runs[0], None)}
        found = ", ".join(f"{len(images)} of {run.config.dataset}" for run, images in zip(runs, galleries, strict=True))
        one_set = len({run.config.dataset for run in runs}) == 1
        same = one_set and all(torch.equal(images.ids, self.images.ids) for images in galleries)
        require(same, "runs", "runs on one set of images", found)
        self._found, self._searched = {}, 0
        self.rows = {RAW: {"h": embeddings.raw_pixels(self.images.images)}}
        for run, images in zip(runs, galleries, strict=True):
            kept = {f"after {n} epoch{'s' * (n > 1)}": n for n in run.snapshots if n != run.config.epochs}
            for stage, epochs in {"untrained encoder": 0, **kept, "trained encoder": None}.items():
                name = f"{run.path.name}: {stage}" if len(runs) > 1 else stage
                self._states[name] = run, epochs
                self.rows[name] = self._layers(name, embeddings.embed_once(run, images, epochs))

    def nearest(self, k: int) -> dict[str, Tables]:
        """The k nearest of each image among the others, by column; searched once for the largest k."""
        if k > self._searched:
            with progress_bar(len(self.rows), "neighbours", "columns", leave=False) as bar:
                for name, rows in self.rows.items():
                    self._found[name] = _nearest(name, rows, None, k)
                    bar.update()
            self._searched = k
        return {name: {kind: (i[:, :k], s[:, :k]) for kind, (i, s) in of.items()} for name, of in self._found.items()}

    def nearest_to(self, item: Item, k: int) -> dict[str, Tables]:
        """The k images that are nearest to one of your own, as `decode` takes it, by column."""
        found = {}
        for name, (run, epochs) in self._states.items():
            pixels = torch.from_numpy(decode(item, run.config.actual_store_size, run.config.resize))[None]
            if name == RAW:
                one = {"h": embeddings.raw_pixels(pixels)}
            else:
                encoder = embeddings.load_encoder(run, epochs)
                one = self._layers(name, embeddings.embed_as_trained(run.config, encoder, pixels))
            found[name] = _nearest(name, one, self.rows[name], k)
        return found

    def places(self) -> np.ndarray:
        """A map by h of the last column: a place in [0, 1] for each image, (N, 2), alike images near each other.

        t-SNE (van der Maaten and Hinton 2008) of 50 principal components of the l2-normalised h. Of more than LANDMARKS
        images, a random part of so many is placed, and each of the others among the five nearest of these.
        """
        h = torch.nn.functional.normalize(self.rows[list(self.rows)[-1]]["h"]).numpy()
        parts = PCA(min(50, *h.shape), random_state=0).fit_transform(h)
        some = permutation(len(h), seed=0)[:LANDMARKS].numpy()
        perplexity = min(30, (len(some) - 1) / 3)
        placed = TSNE(init="pca", random_state=0, max_iter=500, perplexity=perplexity).fit_transform(parts[some])
        nearest = KNeighborsRegressor(min(5, len(some)), weights="distance").fit(parts[some], placed)
        places = nearest.predict(parts)
        return (places - places.min(0)) / np.ptp(places, axis=0)

    def _layers(self, name: str, h: Tensor) -> dict[str, Tensor]:
        run, epochs = self._states[name]
        with suppress(ValueError):  # nothing of the projection head is left
            return {"h": h, "z": embeddings.project(run, h, epochs)}
        return {"h": h}


def _nearest(name: str, rows: Mapping[str, Tensor], gallery: Mapping[str, Tensor] | None, k: int) -> Tables:
    """By every layer and similarity; by raw pixels, cosine alone, as dot products are a matter of brightness."""
    similarities = CHOICES["similarity"] if name != RAW else ["cosine"]
    return {
        f"{layer} {similarity}": top_k_neighbors(rows[layer], gallery and gallery[layer], k, similarity)
        for layer in rows
        for similarity in similarities
    }
