"""What an encoder has learned: embed a set, find neighbours, probe; beside the untrained encoder and raw pixels.

Evaluation sees images as they are, never an augmented view, and uses h, unless z is asked for.
N images, D embedding dimensions, Q queries, k neighbours.
"""

import math
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from simclr_lib.datasets import ImageSet, load_image
from simclr_lib.device import choose_device
from simclr_lib.embedding import embed
from simclr_lib.model import SimCLR, build_encoder
from simclr_lib.record import Run
from simclr_lib.retrieval import neighbor_hits, top_k_neighbors
from simclr_lib.scores import per_class

Embeddings = Mapping[str, Tensor]  # by name, (N, D) of the images at hand
PIXELS = 32  # the side at which raw pixels are compared: larger ones say no more about an image as a whole
INVERSE_REGULARIZATIONS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


def load_encoder(run: Run, trained: bool = True) -> nn.Module:
    """The encoder of `run`, in eval mode: trained, or as far as the last checkpoint of a run that has not finished;
    with `trained=False` as it was initialised from the seed.

    It is on the run's device, or, where this machine has no such device, on the best that it has.
    """
    encoder = _untrained(run).encoder
    if trained:
        encoder.load_state_dict(run.load_encoder_weights())
    return encoder.eval().to(_device(run))


def load_model(run: Run, epochs: int | None = None) -> SimCLR:
    """Encoder and projection head after so many epochs, in eval mode: 0, or one of `run.snapshots`; None: the last
    state that was kept."""
    model = _untrained(run)
    if epochs != 0:
        model.load_state_dict(run.load_weights() if epochs is None else run.load_snapshot(epochs))
    return model.eval().to(_device(run))


def _untrained(run: Run) -> SimCLR:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)  # as training builds it
        return SimCLR(build_encoder(**run.config.encoder_options), run.config.projection_dim)


def _device(run: Run) -> torch.device:
    try:
        return choose_device(run.config.device)
    except ValueError:
        return choose_device("auto")


def embed_as_trained(run: Run, encoder: nn.Module, images: Tensor, progress: bool = True) -> Tensor:
    """`embed`, with images (N, 3, S, S) brought to the side of the run's views as its configuration says."""
    config = run.config
    return embed(encoder, images, image_size=config.image_size, progress=progress, center=config.seen_center)


def embed_beside_baselines(run: Run, images: Tensor) -> dict[str, Tensor]:
    """The trained encoder's h of `images` (N, 3, S, S) beside what it must beat: name -> (N, D).

    Raw pixels are those of the image at a side of 32, where it is larger.
    """
    return {
        "raw pixels": raw_pixels(images),
        "untrained encoder": embed_as_trained(run, load_encoder(run, trained=False), images),
        "trained encoder": embed_as_trained(run, load_encoder(run), images),
    }


def raw_pixels(images: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 -> (N, 3 P P) in [0, 1], P the side S, or 32 where that is less."""
    if images.shape[-1] <= PIXELS:
        return images.flatten(1).float() / 255
    small = [F.interpolate(part.float(), (PIXELS, PIXELS), mode="area").flatten(1) for part in images.split(256)]
    return torch.cat(small) / 255


def embed_over_training(run: Run, images: Tensor) -> dict[str, Tensor]:
    """h of `images` (N, 3, S, S) before training and at each snapshot: "before training", "after 5 epochs", ...

    Where there is no snapshot of the end yet, the last state that was kept comes last.
    """
    names = {0: "before training"} | {n: f"after {n} epoch{'s' if n > 1 else ''}" for n in run.snapshots}
    stages = {name: embed_as_trained(run, load_model(run, n).encoder, images) for n, name in names.items()}
    if run.config.epochs not in run.snapshots:
        last = "after training" if run.finished else "last checkpoint"
        stages[last] = embed_as_trained(run, load_encoder(run), images)
    return stages


def embed_layers(run: Run, images: Tensor) -> dict[str, Tensor]:
    """h, which evaluation uses, and z, which the loss sees, after training or at the last checkpoint: "h" (N, D) and
    "z" (N, P).

    Raises:
        ValueError: where neither snapshot nor checkpoint is left; encoder.safetensors has no projection head.
    """
    model = load_model(run)
    h = embed_as_trained(run, model.encoder, images)
    device = next(model.parameters()).device
    with torch.no_grad():
        return {"h": h, "z": torch.cat([model.projection_head(rows.to(device)).cpu() for rows in h.split(4096)])}


def choose_queries(rows: Tensor, labels: Tensor, count: int = 6, k: int = 10) -> list[int]:
    """Positions of `count` images of different classes to show the neighbours of: a third those with the best
    precision@k by `rows` (N, D), a third median ones, a third the worst; equals are in a random but fixed order.

    Without labels (-1) they are random ones.
    """
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
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
            if len(chosen) < math.ceil(count * third / 3):
                chosen.setdefault(int(labels[row]) if of_different_classes else row, row)
    return list(chosen.values())


def record_neighbors(run: Run, images: ImageSet, h: Tensor, k: int = 10) -> tuple[Tensor, Tensor]:
    """Find the top-k neighbours of every image among the set itself, by cosine of `h` (N, D), and keep them.

    Writes embeddings.npy (N, D) and neighbors.npz (ids (N,), neighbors (N, k) as ids, similarities (N, k)).

    Returns:
        indices and similarities, each (N, k); an index is a position in `images`.
    """
    indices, similarities = top_k_neighbors(h, k=k)
    run.save_arrays("embeddings", embeddings=h.numpy())
    run.save_arrays(
        "neighbors",
        ids=images.ids.numpy(),
        neighbors=images.ids[indices].numpy(),
        similarities=similarities.numpy(),
    )
    return indices, similarities


def neighbors_of_file(run: Run, path: str | os.PathLike, h: Tensor, k: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """The k nearest of the embeddings `h` (N, D) to an image file: the image (1, 3, S, S), indices and similarities
    (1, k). Where the file is in the set too, it is its own nearest. Raises what `load_image` does."""
    image = load_image(path, run.config.actual_store_size, run.config.resize)
    query = embed_as_trained(run, load_encoder(run), image, progress=False)
    return image, *top_k_neighbors(query, h, k=k)


def map_2d(rows: Tensor, seed: int = 0) -> Tensor:
    """Places (N, 2) at which rows (N, D) that are alike by cosine lie close: t-SNE of their 50 principal components.

    Rows that are all one, as those of a collapsed encoder, lie in one place.
    """
    unit = F.normalize(rows.double(), dim=1).numpy()
    if np.ptp(unit, axis=0).max() < 1e-9:  # t-SNE would take the whole process down
        return torch.zeros(len(unit), 2)
    components = PCA(min(50, *unit.shape), random_state=seed).fit_transform(unit)
    perplexity = min(30, (len(unit) - 1) / 3)
    return torch.from_numpy(TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(components))


class ProbeResult(NamedTuple):
    """Test accuracies in [0, 1], and the inverse regularisation that the held-out part of training chose."""

    top1: float
    mean_per_class: float
    inverse_regularization: float


def linear_probe(
    train_h: Tensor,
    train_y: Tensor,
    test_h: Tensor,
    test_y: Tensor,
) -> ProbeResult:
    """How well a linear classifier on frozen embeddings does: L2 logistic regression by L-BFGS (SimCLR, B.6 and B.8).

    The regularisation is the best of 1e-3 to 10 (scikit-learn's C, on standardised embeddings) on a held-out tenth of
    the training set, then the classifier is fitted again on all of it. Nothing is selected on test.

    Args:
        train_h, test_h: (N, D) and (M, D). train_y, test_y: (N,) and (M,), labels of at least 0.

    Raises:
        ValueError: if lengths differ, a label is missing (-1), or too few images or classes are there to fit.
    """
    for name, h, y in (("train", train_h, train_y), ("test", test_h, test_y)):
        if len(h) != len(y) or len(y) == 0 or y.min() < 0:
            raise ValueError(f"expected a label of at least 0 for each of the {len(h)} {name} embeddings, got {y}")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    choices = {"logisticregression__C": INVERSE_REGULARIZATIONS}
    search = GridSearchCV(classifier, choices, cv=[hold_out(train_y)], error_score="raise")
    predicted = torch.from_numpy(search.fit(train_h.numpy(), train_y.numpy()).predict(test_h.numpy()))
    return ProbeResult(*accuracy(predicted, test_y), *search.best_params_.values())


def hold_out(labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Positions of nine tenths of `labels` (N,) to fit on, and of the tenth that the regularisation is chosen on.

    Raises ValueError where there are not two classes to fit; worth asking before training.
    """
    if len(labels.unique()) < 2:
        raise ValueError(f"expected at least two classes to tell apart, got {len(labels.unique())}")
    fit, held = train_test_split(np.arange(len(labels)), test_size=0.1, random_state=0)
    if len(labels[fit].unique()) < 2:
        raise ValueError(f"expected two classes in nine tenths of the {len(labels)} training images, got one; add some")
    return fit, held


def accuracy(predicted: Tensor, labels: Tensor) -> tuple[float, float]:
    """Share of right predictions, and its mean over the classes that occur in `labels`; both (N,)."""
    right = (predicted == labels).double()
    return right.mean().item(), per_class(right, labels.long(), int(labels.max()) + 1).nanmean().item()
