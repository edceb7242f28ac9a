"""Retrieval scores: against plain loops, by hand, and random orders against their expectation."""

import math

import numpy as np
import pytest
import torch

from simclr_lib.scores import chance_scores, per_class, retrieval_scores

K = 3


def fresh() -> int:
    return int(torch.randint(10**6, ()))


def slow_scores(rows: torch.Tensor, labels: list[int], k: int, similarity: str) -> dict[str, list[float]]:
    """Sort all others of each query, count; a query without another of its class has NaN."""
    rows = rows.double().numpy()
    scores = {f"precision@{k}": [], f"recall@{k}": [], "map@R": []}
    for q in range(len(rows)):
        scale = [np.linalg.norm(row) if similarity == "cosine" else 1.0 for row in rows]
        others = [j for j in range(len(rows)) if j != q]
        others.sort(key=lambda j: (-round(float(rows[q] @ rows[j]) / (scale[q] * scale[j]), 12), j))
        right = [labels[j] == labels[q] for j in others]
        r = sum(right)
        average = [sum(right[: i + 1]) / (i + 1) for i in range(r) if right[i]]
        scores[f"precision@{k}"].append(sum(right[:k]) / k if r else math.nan)
        scores[f"recall@{k}"].append(float(any(right[:k])) if r else math.nan)
        scores["map@R"].append(sum(average) / r if r else math.nan)
    return scores


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("copies", [1, 3], ids=["distinct", "duplicates"])
def test_every_score_is_that_of_a_plain_loop(similarity, copies):
    generator = torch.Generator().manual_seed(fresh())
    if similarity == "dot":  # of whole numbers, which tie often and exactly
        rows = torch.randint(-3, 4, (36 // copies, 4), generator=generator).float().repeat(copies, 1)
    else:  # whose cosines tie where rows are copies, and nowhere else up to rounding
        rows = torch.randn(36 // copies, 4, generator=generator).repeat(copies, 1)
    labels = torch.cat([torch.arange(5).repeat(3), torch.randint(0, 5, (21,), generator=generator)])
    labels = labels[torch.randperm(36, generator=generator)]
    labels[7] = 5  # alone in its class
    expected = slow_scores(rows, labels.tolist(), K, similarity)
    scores = retrieval_scores(rows, labels, K, similarity)
    assert list(scores) == list(expected)
    for name in expected:
        np.testing.assert_allclose(scores[name].numpy(), expected[name], rtol=1e-12, err_msg=name)
    assert scores["map@R"].isnan().nonzero().flatten().tolist() == [7]


def test_map_at_r_by_hand():
    # On a line of directions from query 0: ranks 1 to 4 are of the classes a b a a; R is 3.
    angles = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4])
    labels = torch.tensor([0, 0, 1, 0, 0])
    scores = retrieval_scores(torch.stack([angles.cos(), angles.sin()], 1), labels, k=2)
    assert scores["map@R"][0].item() == pytest.approx((1 / 1 + 0 + 2 / 3) / 3)
    assert scores["precision@2"][0].item() == 0.5
    assert scores["recall@2"][0].item() == 1.0
    assert scores["precision@2"][2].isnan()  # the only one of its class


def test_classes_that_lie_apart_have_full_scores_and_k_may_exceed_them():
    labels = torch.tensor([0, 0, 1, 1, 1])
    rows = torch.nn.functional.one_hot(labels).float()
    scores = retrieval_scores(rows, labels, k=4)
    assert scores["map@R"].tolist() == [1.0] * 5
    assert scores["precision@4"].tolist() == [0.25, 0.25, 0.5, 0.5, 0.5]


def test_chance_is_the_mean_over_random_orders():
    rng = np.random.default_rng(fresh())
    labels = [0] * 6 + [1] * 3 + [2] * 2 + [3]
    drawn = {name: np.zeros(12) for name in (f"precision@{K}", f"recall@{K}", "map@R")}
    trials = 4000
    for _ in range(trials):
        for q in range(12):
            right = [labels[j] == labels[q] for j in rng.permutation([j for j in range(12) if j != q])]
            r = sum(right)
            drawn[f"precision@{K}"][q] += sum(right[:K]) / K
            drawn[f"recall@{K}"][q] += any(right[:K])
            drawn["map@R"][q] += sum(sum(right[: i + 1]) / (i + 1) for i in range(r) if right[i]) / max(r, 1)
    expected = chance_scores(torch.tensor(labels), K)
    for name, totals in drawn.items():
        assert expected[name][-1].isnan()
        np.testing.assert_allclose(totals[:-1] / trials, expected[name][:-1].numpy(), atol=0.04, err_msg=name)
        for label in (0, 1, 2):  # averaged over a class, the noise is less
            mine = np.array(labels[:-1]) == label
            assert (totals[:-1][mine] / trials).mean() == pytest.approx(
                expected[name][:-1].numpy()[mine].mean(), abs=0.02
            )


def test_a_class_mean_leaves_out_what_has_no_value_and_an_absent_class_has_none():
    values = torch.tensor([1.0, 0.0, torch.nan, 0.5]).double()
    means = per_class(values, torch.tensor([0, 0, 1, 3]), 5)
    assert means[[0, 3]].tolist() == [0.5, 0.5]
    assert means[[1, 2, 4]].isnan().all()


@pytest.mark.parametrize("labels", [torch.tensor([0, -1, 1]), torch.tensor([0]), torch.tensor([]).long()])
@pytest.mark.parametrize("of", [chance_scores, lambda labels: retrieval_scores(torch.rand(len(labels), 2), labels)])
def test_sets_without_labels_or_others_are_refused(labels, of):
    with pytest.raises(ValueError, match="expected a label from 0 for each of at least 2 images, two of a class"):
        of(labels)
