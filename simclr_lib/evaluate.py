"""What an encoder has learned: embed a set, find neighbours, probe; beside the untrained encoder and raw pixels.

Evaluation sees images as they are, never an augmented view, and uses h, never z.
N images, D embedding dimensions.
"""

from typing import NamedTuple

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from simclr_lib.datasets import ImageSet
from simclr_lib.device import choose_device
from simclr_lib.embedding import embed
from simclr_lib.model import build_encoder
from simclr_lib.record import Run
from simclr_lib.retrieval import top_k_neighbors


def load_encoder(run: Run, trained: bool = True) -> nn.Module:
    """The encoder of `run`, in eval mode; with `trained=False` as it was initialised from the seed.

    It is on the run's device, or, where this machine has no such device, on the best that it has.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)  # as training builds it: the encoder first
        encoder = build_encoder(**run.config.encoder_options)
    if trained:
        encoder.load_state_dict(run.load_encoder_weights())
    return encoder.eval().to(_device(run))


def _device(run: Run) -> torch.device:
    try:
        return choose_device(run.config.device)
    except ValueError:
        return choose_device("auto")


def embed_beside_baselines(run: Run, images: Tensor) -> dict[str, Tensor]:
    """The trained encoder's h of `images` (N, 3, S, S) beside what it must beat: name -> (N, D)."""
    size = run.config.image_size
    return {
        "raw pixels": images.flatten(1).float() / 255,
        "untrained encoder": embed(load_encoder(run, trained=False), images, image_size=size),
        "trained encoder": embed(load_encoder(run), images, image_size=size),
    }


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
    inverse_regularizations: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0),
    seed: int = 0,
) -> ProbeResult:
    """How well a linear classifier on frozen embeddings does: L2 logistic regression by L-BFGS (SimCLR, B.6 and B.8).

    The regularisation is the best of `inverse_regularizations` (scikit-learn's C, on standardised embeddings) on a
    held-out tenth of the training set, then the classifier is fitted again on all of it. Nothing is selected on test.

    Args:
        train_h, test_h: (N, D) and (M, D). train_y, test_y: (N,) and (M,), labels of at least 0.

    Raises:
        ValueError: if lengths differ, a label is missing (-1), or there are fewer than two classes.
    """
    for name, h, y in (("train", train_h, train_y), ("test", test_h, test_y)):
        if len(h) != len(y) or len(y) == 0 or y.min() < 0:
            raise ValueError(f"expected a label of at least 0 for each of the {len(h)} {name} embeddings, got {y}")
    if len(train_y.unique()) < 2:
        raise ValueError(f"expected at least two classes to tell apart, got {len(train_y.unique())}")
    x, y = train_h.numpy(), train_y.numpy()
    fit_x, held_x, fit_y, held_y = train_test_split(x, y, test_size=0.1, random_state=seed)
    held_out = {c: _classifier(c).fit(fit_x, fit_y).score(held_x, held_y) for c in inverse_regularizations}
    best = max(held_out, key=held_out.get)
    predicted = _classifier(best).fit(x, y).predict(test_h.numpy())
    return ProbeResult(
        float((predicted == test_y.numpy()).mean()),
        float(balanced_accuracy_score(test_y.numpy(), predicted)),
        best,
    )


def _classifier(inverse_regularization: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=inverse_regularization, max_iter=500))
