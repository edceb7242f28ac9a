"""Classification by the field's protocols, one call each on a run: kNN and linear probe, with or without a test split.

What is compared comes as `embeddings`, by default the trained encoder, the untrained one and raw pixels; the results
go into the run's summary.json under "classification". Nothing is selected on images that are scored.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from simclr_lib.config import RunConfig
from simclr_lib.datasets import SPLITS, ImageSet, load_images
from simclr_lib.evaluate import Embeddings, accuracy, embed_beside_baselines, hold_out, linear_probe
from simclr_lib.record import Run
from simclr_lib.retrieval import top_k_neighbors, vote

KNN = (20, 200)  # neighbours that vote, as Wu et al. 2018 and SimSiam have it
SELECTED_ON = "the probe's regularisation on a held-out tenth of the training images"
WIDEST = 2048  # dimensions that are probed: an encoder's; 3,072 raw pixels of 50,000 images would take an hour
Classified = tuple[dict[str, float], float | None]  # metric -> score; the probe's inverse regularisation
FACES = ("Faces", "Faces_easy")  # of Caltech-101: the same photographs, whole and cut to the face


def score_classes(
    run: Run, gallery: ImageSet, embeddings: Embeddings, train_per_class: int = 30, draws: Sequence[int] = (0, 1, 2)
) -> dict:
    """kNN and linear probe on `gallery`: trained on the labelled training split of the run's data set where it has one
    (`score_classification`), else on draws from the gallery itself (`score_draws`).

    embeddings: of `embed_beside_baselines`, as the training split is embedded alike.
    """
    if "test" not in SPLITS[run.config.dataset]:
        return score_draws(run, gallery, embeddings, train_per_class, draws)
    train = load_labelled(run.config)
    bank = embed_beside_baselines(run, train.images)
    if embeddings.keys() != bank.keys():
        raise ValueError(
            f"embeddings: expected {', '.join(bank)}, got {', '.join(embeddings)}; give others to score_classification"
        )
    return score_classification(run, train, gallery, {name: (bank[name], embeddings[name]) for name in bank})


def load_labelled(config: RunConfig) -> ImageSet:
    """The labelled training split of a data set that has a test split."""
    return load_images(config.dataset, "train", config.data_root, **{**config.image_options, "limit": None})


def score_classification(
    run: Run, train: ImageSet, test: ImageSet, embeddings: Mapping[str, tuple[Tensor, Tensor]] | None = None
) -> dict:
    """kNN and linear probe where the data set has a test split, under "classification".

    embeddings: name -> those of the training images, the bank, and those of the test images. A class of the training
    images may be absent from the test images, and so from the mean per class.

    Raises:
        ValueError: where the test images have a class that the training images do not have.
    """
    test_labels = _as_in_training(train, test)
    if embeddings is None:
        bank, queries = embed_beside_baselines(run, train.images), embed_beside_baselines(run, test.images)
        embeddings = {encoder: (bank[encoder], queries[encoder]) for encoder in bank}
    tables = {
        encoder: [_classify(train_h, train.labels, test_h, test_labels)]
        for encoder, (train_h, test_h) in embeddings.items()
    }
    values = {
        "train_images": len(train),
        "test_images": len(test),
        "classes": str(len(train.class_names)),
        "classes_tested": len(test_labels.unique()),
        "selected_on": f"{SELECTED_ON}; nothing on the test images",
        **_scores(tables, len(train.labels.unique())),
    }
    run.add_to_summary(classification=values)
    return values


def score_draws(
    run: Run,
    images: ImageSet,
    embeddings: Embeddings | None = None,
    train_per_class: int = 30,
    draws: Sequence[int] = (0, 1, 2),
) -> dict:
    """kNN and linear probe where the data set has no test split, under "classification": the protocol of Caltech-101.

    Each of `draws`, a seed, makes `train_per_class` random images of each class the training set, and the rest the
    test set. A class that has no more than these is absent from the test set, and so from its mean per class.

    Raises:
        ValueError: where no class has more than `train_per_class` labelled images.
    """
    embeddings = embeddings or embed_beside_baselines(run, images.images)
    splits = [draw_per_class(images.labels, train_per_class, seed) for seed in draws]
    tables = {
        encoder: [_classify(rows[a], images.labels[a], rows[b], images.labels[b]) for a, b in splits]
        for encoder, rows in embeddings.items()
    }
    faces = [i for i, name in enumerate(images.class_names) if name in FACES]
    left_out = " (BACKGROUND_Google is left out)" if run.config.dataset == "caltech101" else ""
    tested = torch.cat([images.labels[test] for _, test in splits])
    values = {
        "train_per_class": train_per_class,
        "draws": list(draws),
        "train_images": [len(train) for train, _ in splits],
        "test_images": [len(test) for _, test in splits],
        "classes": f"{len(images.class_names)}{left_out}",
        "classes_tested": len(tested.unique()),
        "selected_on": f"{SELECTED_ON} of each draw; nothing on the test images",
        "seen": "where the encoder was trained on these images, it saw those of the test set too, without their labels",
        **_scores(tables, len(images.labels[splits[0][0]].unique())),
    }
    if len(faces) == len(FACES):
        share = torch.isin(tested, torch.tensor(faces)).double().mean().item()
        values["near_duplicates"] = f"Faces and Faces_easy, {share:.1%} of the test images, are the same photographs"
    run.add_to_summary(classification=values)
    return values


def draw_per_class(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of `count` random images of each class, or all that it has, and of the rest; -1 is in neither."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order] >= 0]
    rank = torch.zeros(len(labels), dtype=torch.long)  # of an image within its class, in the order drawn
    for label in labels[order].unique():
        mine = order[labels[order] == label]
        rank[mine] = torch.arange(len(mine))
    train, test = order[rank[order] < count].sort().values, order[rank[order] >= count].sort().values
    if len(test) == 0:
        raise ValueError(
            f"train_per_class: expected fewer than the images of some class, got {count}, which leaves no image to "
            "test on; lower it or label more images"
        )
    return train, test


def check_classification(config: RunConfig, gallery: ImageSet, train_per_class: int, draws: Sequence[int]) -> None:
    """Raise a ValueError where `score_classes` on `gallery` would, before the training that it comes after."""
    if "test" in SPLITS[config.dataset]:
        train = load_labelled(config)
        _as_in_training(train, gallery)
        hold_out(train.labels)
    else:
        for seed in draws:
            rows, _ = draw_per_class(gallery.labels, train_per_class, seed)
            hold_out(gallery.labels[rows])


def _as_in_training(train: ImageSet, test: ImageSet) -> Tensor:
    """The labels of `test` as positions among the classes of `train`: a class that is absent there shifts the rest."""
    new = sorted(set(test.class_names) - set(train.class_names))
    if new:
        raise ValueError(f"test: expected the classes of train, got {', '.join(new)} too; add training images of them")
    if len(test) == 0 or int(test.labels.min()) < 0:
        raise ValueError("test: expected a label for every image, got some without; use subset(labels >= 0)")
    return torch.tensor([train.class_names.index(name) for name in test.class_names])[test.labels]


def _classify(train_h: Tensor, train_y: Tensor, test_h: Tensor, test_y: Tensor) -> Classified:
    """kNN at each k that the training set has neighbours for, and the linear probe, but not of raw pixels."""
    ks = [k for k in KNN if k <= len(train_h)]
    near = top_k_neighbors(test_h, train_h, max(ks)) if ks else ()  # the nearest of the most are those of fewer
    found = {f"knn@{k}": accuracy(vote(*(table[:, :k] for table in near), train_y), test_y) for k in ks}
    probe = linear_probe(train_h, train_y, test_h, test_y) if train_h.shape[1] <= WIDEST else None
    if probe:
        found["linear probe"] = probe.top1, probe.mean_per_class
    named = {method: zip(("top1", "mean_per_class"), of, strict=True) for method, of in found.items()}
    scores = {f"{method} {name}": value for method, of in named.items() for name, value in of}
    return scores, probe and probe.inverse_regularization


def _scores(drawn: Mapping[str, list[Classified]], classes: int) -> dict:
    """What `_classify` found, one an encoder and draw -> "scores", chance beside them, and what the probe selected."""
    tables = {encoder: [table for table, _ in of] for encoder, of in drawn.items()}
    chosen = {encoder: [choice for _, choice in of] for encoder, of in drawn.items()}
    scores = {encoder: {m: [table[m] for table in of] for m in of[0]} for encoder, of in tables.items()}
    metrics = dict.fromkeys(metric for of in scores.values() for metric in of)
    scores["chance"] = {metric: [1 / classes] for metric in metrics}
    return {"scores": scores, "inverse_regularization": {e: of for e, of in chosen.items() if None not in of}}
