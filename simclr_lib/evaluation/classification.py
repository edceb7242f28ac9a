"""Classification by the field's protocols, one call each on a run: kNN and linear probe, with or without a test split.

The results also go into the run's summary.json under "classification". Nothing is selected on images that are scored.
N images, M of a test set, D embedding dimensions, y their labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from simclr_lib import ImageSet, Run, RunConfig, top_k_neighbors
from simclr_lib.data.sets import scored_split
from simclr_lib.engine.checks import require
from simclr_lib.engine.seeds import permutation
from simclr_lib.evaluation.embeddings import Embeddings, embed_beside_baselines, load_gallery
from simclr_lib.evaluation.neighbors import SHOWN
from simclr_lib.evaluation.scores import SEEDS, draw_samples, keep_scores
from simclr_lib.retrieval import chance_scores, require_k, vote

INVERSE_REGULARIZATIONS = {"logisticregression__C": (1e-3, 1e-2, 1e-1, 1.0, 10.0)}
KNN = (20, 200)  # neighbours that vote, as Wu et al. 2018 and SimSiam have it
TRAIN_PER_CLASS = 30  # labelled images of a class, where the data set has no test split: Caltech-101's protocol
SELECTED_ON = "the probe's regularisation on a held-out tenth of its training images; nothing on the test images"
SEEN = "where the encoder was trained on these images, it saw those of the test set too, without their labels"
CHOSEN = "linear probe inverse_regularization"
WIDEST = 2048  # dimensions that are probed: an encoder's; 3,072 raw pixels of 50,000 images would take an hour


class ProbeResult(NamedTuple):
    """Test accuracies in [0, 1], and the inverse regularisation that the held-out part of training chose."""

    top1: float
    mean_per_class: float
    inverse_regularization: float


def linear_probe(train_h: Tensor, train_y: Tensor, test_h: Tensor, test_y: Tensor) -> ProbeResult:
    """How well a linear classifier on frozen embeddings does: L2 logistic regression by L-BFGS (SimCLR, B.6 and B.8).

    The regularisation is the best of 1e-3 to 10 (scikit-learn's C, on standardised embeddings) on a held-out tenth of
    the training set, then the classifier is fitted again on all of it. Nothing is selected on test.

    Args:
        train_h, test_h: (N, D) and (M, D). train_y, test_y: (N,) and (M,), labels of at least 0.

    Raises:
        ValueError: if lengths differ, a label is missing (-1), or too few images or classes are there to fit.
    """
    from sklearn import linear_model, model_selection, pipeline, preprocessing  # slow to import

    for name, h, y in (("train", train_h, train_y), ("test", test_h, test_y)):
        labelled = len(h) == len(y) > 0 and y.min() >= 0
        require(labelled, f"{name}_y", f"a label of at least 0 for each of the {len(h)} embeddings", y)
    classifier = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression(max_iter=500))
    options = dict(cv=[hold_out(train_y)], error_score="raise")
    search = model_selection.GridSearchCV(classifier, INVERSE_REGULARIZATIONS, **options)
    with threadpool_limits(1):  # threads wait for one another longer than these products take: 5 s became 28 on 2 cores
        predicted = torch.from_numpy(search.fit(train_h.numpy(), train_y.numpy()).predict(test_h.numpy()))
    return ProbeResult(*accuracy(predicted, test_y), *search.best_params_.values())


def hold_out(labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Positions of nine tenths of `labels` (N,) to fit on, and of the tenth that the regularisation is chosen on.

    Raises ValueError where there are not two classes to fit; worth asking before training.
    """
    from sklearn.model_selection import train_test_split

    fit, held = train_test_split(np.arange(len(labels)), test_size=0.1, random_state=0)
    several = len(labels[fit].unique()) >= 2
    require(several, "labels", f"two classes in nine tenths of the {len(labels)} training images", "one", "add some")
    return fit, held


def accuracy(predicted: Tensor, labels: Tensor) -> tuple[float, float]:
    """Share of right predictions, and its mean over the classes that occur in `labels`; both (N,)."""
    right = pd.Series((predicted == labels).double().numpy(), index=labels.numpy())
    return right.mean().item(), right.groupby(level=0).mean().mean().item()


def score_classes(run: Run, gallery: ImageSet) -> pd.DataFrame:
    """kNN and linear probe on `gallery` for the trained encoder, the untrained one and raw pixels: trained on the
    labelled training split of the run's data set where it has one (`score_classification`), else on draws from the
    gallery itself (`score_draws`)."""
    h = embed_beside_baselines(run, gallery)
    if not scored_split(run.config.dataset, run.config.data_root, run.config.test_share):
        return score_draws(run, gallery, h)
    train = load_gallery(run.config, split="train")
    bank = embed_beside_baselines(run, train)
    return score_classification(run, train, gallery, {name: (bank[name], h[name]) for name in h})


def score_classification(run: Run, train: ImageSet, test: ImageSet, embeddings: Mapping[str, tuple]) -> pd.DataFrame:
    """kNN and linear probe where the data set has a test split, under "classification".

    embeddings: name -> those of the training images, the bank (N, D), and those of the test images (M, D). A class of
    the training images may be absent from the test images, and so from the mean per class.

    Raises:
        ValueError: where the test images have a class that the training images do not have.
    """
    labels = _as_in_training(train, test)
    facts = {"train_images": len(train), "test_images": len(test), "classes": str(len(train.class_names))}
    return _score(run, facts, {name: [(bank, train.labels, h, labels)] for name, (bank, h) in embeddings.items()})


def score_draws(run: Run, images: ImageSet, embeddings: Embeddings, draws: Sequence[int] = SEEDS) -> pd.DataFrame:
    """kNN and linear probe where the data set has no test split, under "classification": the protocol of Caltech-101.

    Each of `draws`, a seed, makes some images of each class the training set, and the rest the test set: see
    `draw_per_class`. A class that has no more than these is absent from the test set, and so from its mean per class.
    """
    y, splits = images.labels, [draw_per_class(images.labels, seed) for seed in draws]
    train, test = splits[0]  # every draw takes as many images of each class
    left_out = " (BACKGROUND_Google is left out)" if run.config.dataset == "caltech101" else ""
    facts = {"train_per_class": int(y[train].bincount().max()), "draws": list(draws)}
    sizes = {"train_images": [len(train)] * len(splits), "test_images": [len(test)] * len(splits)}
    told = {"classes": f"{len(images.class_names)}{left_out}", "seen": SEEN}
    drawn = {name: [(h[a], y[a], h[b], y[b]) for a, b in splits] for name, h in embeddings.items()}
    return _score(run, facts | sizes | told, drawn)


def draw_per_class(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of 30 random images of each class, or all that it has, and of the rest; -1 is in neither.

    Where no class has more than 30, half of the largest class takes their place.
    """
    order = permutation(len(labels), seed)
    classes = pd.Series(labels[order].numpy(), index=order.numpy())
    classes = classes[classes >= 0]
    rank = classes.groupby(classes).cumcount().sort_index()  # of an image within its class, from 0, in the order drawn
    count = TRAIN_PER_CLASS if rank.max() >= TRAIN_PER_CLASS else (rank.max() + 1) // 2
    return torch.tensor(rank.index[rank < count]), torch.tensor(rank.index[rank >= count])


def require_scorable(
    config: RunConfig, gallery: ImageSet, neighbors_k: int, evaluation_images: int | None, seeds: Sequence[int] = SEEDS
) -> None:
    """Raise a ValueError where scoring `gallery` would, or showing its neighbours, before the training they follow."""
    require(len(gallery) > SHOWN, "images", f"more than the {SHOWN} neighbours that are kept of each", len(gallery))
    require_k(neighbors_k, len(gallery) - 1, "neighbors_k")
    enough = evaluation_images is None or evaluation_images >= 2
    require(enough, "evaluation_images", "at least 2; more than there are means all", evaluation_images)
    for rows in draw_samples(gallery.labels >= 0, seeds, evaluation_images):
        chance_scores(gallery.labels[rows], neighbors_k)  # refuses what retrieval_scores would refuse
    if len(gallery.labels[gallery.labels >= 0].unique()) > 1:
        require_classes(config, gallery, seeds)


def require_classes(config: RunConfig, gallery: ImageSet, draws: Sequence[int]) -> None:
    """Raise a ValueError where `score_classes` on `gallery` would, before the training that it comes after."""
    if scored_split(config.dataset, config.data_root, config.test_share):
        train = load_gallery(config, split="train")
        _as_in_training(train, gallery)
        hold_out(train.labels)
    else:
        for rows, _ in [draw_per_class(gallery.labels, seed) for seed in draws]:
            hold_out(gallery.labels[rows])


def _as_in_training(train: ImageSet, test: ImageSet) -> Tensor:
    """The labels of `test` as positions among the classes of `train`: a class that is absent there shifts the rest."""
    trained, tested = ({part.class_names[label] for label in part.labels.unique()} for part in (train, test))
    new = ", ".join(sorted(tested - trained))
    require(not new, "test", "the classes of train", f"{new} too", "add training images of them")
    require((test.labels >= 0).all(), "test", "a label for every image", "some without", "use subset(labels >= 0)")
    return torch.tensor([train.class_names.index(name) for name in test.class_names])[test.labels]


def _score(run: Run, facts: dict[str, Any], splits: Mapping[str, list[tuple]]) -> pd.DataFrame:
    """Classify every split, encoder -> (train_h, train_y, test_h, test_y) of each draw; keep the scores beside chance,
    the facts, and what the probe selected."""
    scores = {encoder: pd.DataFrame([_classify(*split) for split in draws]) for encoder, draws in splits.items()}
    chosen = {encoder: table.pop(CHOSEN).tolist() for encoder, table in scores.items() if CHOSEN in table}
    _, train_y, _, test_y = next(iter(splits.values()))[0]
    scores["chance"] = [dict.fromkeys(pd.concat(scores.values()), 1 / len(train_y.unique()))]
    told = {"classes_tested": len(test_y.unique()), "selected_on": SELECTED_ON, "inverse_regularization": chosen}
    return keep_scores(run, "classification", scores, **facts, **told)


def _classify(train_h: Tensor, train_y: Tensor, test_h: Tensor, test_y: Tensor) -> dict[str, float]:
    """kNN at each k for which the training set suffices and, but for raw pixels, the linear probe and its choice."""
    scores, few = {}, len(train_h) <= 50 * max(KNN)  # of few rows, one product is the quicker way
    indices, similarities = top_k_neighbors(test_h, train_h, min(max(KNN), len(train_h)), exact=not few)
    for k in [k for k in KNN if k <= len(train_h)]:  # the nearest k are the first of the nearest of more
        predicted = vote(indices[:, :k], similarities[:, :k], train_y)
        scores[f"knn@{k} top1"], scores[f"knn@{k} mean_per_class"] = accuracy(predicted, test_y)
    if train_h.shape[1] <= WIDEST:
        probe = linear_probe(train_h, train_y, test_h, test_y)
        scores |= {f"linear probe {name}": value for name, value in probe._asdict().items()}
    return scores
