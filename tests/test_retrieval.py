"""Neighbours beside a float64 sort of every pair; votes, precision and the scores beside plain loops and chance."""

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from simclr_lib import retrieval
from simclr_lib.retrieval import (
    chance_scores,
    knn_accuracy,
    neighbor_hits,
    retrieval_scores,
    top_k_neighbors,
)

K = 3  # of the scores


def random_rows(count, width=24, seed=0, dtype=torch.float64):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rows_with_ties(count, similarity="cosine", seed=0):
    """Float64 rows, a fifth of them copies of others, a fifth moved from another by a little.

    A cosine to a row moved by d falls by about d^2, a product by d: either way the gaps are of 1e-12 to 1e-8.
    """
    rows, fifth = random_rows(count, seed=seed), count // 5
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    sources, copies, moved = order[torch.arange(fifth) % (fifth // 4 + 1)], order[-fifth:], order[-2 * fifth : -fifth]
    distances = torch.logspace(*((-5.5, -4.5) if similarity == "cosine" else (-12, -9)), fifth, dtype=torch.float64)
    rows[copies] = rows[sources]
    rows[moved] = rows[sources] + distances[:, None] * random_rows(fifth, seed=seed + 1)
    return rows


def sorted_neighbors(queries, gallery, k, similarity, among_themselves):
    """The k best per query by sorting all pairs on (-similarity, id), in numpy's float64."""
    queries, gallery = np.asarray(queries, dtype=np.float64), np.asarray(gallery, dtype=np.float64)
    if similarity == "cosine":
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    ids = np.arange(len(gallery))
    indices, similarities = [], []
    for row, query in enumerate(queries):
        values = np.add.reduce(query * gallery, axis=1)
        order = np.lexsort((ids, -values))
        order = order[order != row] if among_themselves else order
        indices.append(order[:k])
        similarities.append(values[order[:k]])
    return np.stack(indices), np.stack(similarities)


def assert_exact(queries, gallery, k, similarity):
    among_themselves = gallery is None
    indices, similarities = top_k_neighbors(queries, gallery, k, similarity)
    expected = sorted_neighbors(queries, queries if among_themselves else gallery, k, similarity, among_themselves)
    np.testing.assert_array_equal(indices.numpy(), expected[0])
    np.testing.assert_allclose(similarities.numpy(), expected[1], rtol=0, atol=1e-12)
    assert indices.dtype == torch.int64
    assert similarities.dtype == torch.float64


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_5000_rows_with_copies_and_near_ties_match_a_float64_sort(similarity):
    assert_exact(rows_with_ties(5000, similarity), None, 20, similarity)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_ties_of_the_reference_are_below_float32_and_above_float64_resolution(similarity):
    rows = rows_with_ties(1000, similarity)
    _, similarities = sorted_neighbors(rows, rows, 20, similarity, True)
    gaps = -np.diff(similarities, axis=1)
    assert ((gaps > 1e-12) & (gaps < 1e-8)).sum() > 100
    assert (gaps == 0).sum() > 100
    assert gaps[gaps > 0].min() > 1e-14


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("k", [1, 7])
def test_a_separate_gallery_keeps_the_query_itself(similarity, k):
    rows = rows_with_ties(600, similarity)
    assert_exact(rows[:100], rows, k, similarity)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("copies", [2, 33, 34, 60, 199])
def test_copies_come_in_the_order_of_their_ids_however_many(copies, similarity):
    rows = random_rows(200)
    rows[torch.randperm(200, generator=torch.Generator().manual_seed(1))[:copies]] = rows[0].clone()
    assert_exact(rows, None, 3, similarity)


def test_more_near_ties_than_candidates_are_ordered_by_float64():
    rows = random_rows(300)
    rows[:250] = rows[0] + 1e-10 * random_rows(250, seed=1)
    assert_exact(rows[250:], rows, 10, "cosine")


def test_one_row_repeated_everywhere_is_searched_fast_and_never_finds_itself():
    indices, similarities = top_k_neighbors(torch.ones(2000, 16), k=3)
    assert indices[0].tolist() == [1, 2, 3]
    assert indices[1].tolist() == [0, 2, 3]
    assert indices[-1].tolist() == [0, 1, 2]
    torch.testing.assert_close(similarities, torch.ones(2000, 3, dtype=torch.float64))


def test_integer_dot_products_tie_exactly():
    rows = torch.randint(-3, 4, (400, 6), generator=torch.Generator().manual_seed(0)).float()
    assert_exact(rows, None, 12, "dot")


def test_integer_dot_products_are_returned_as_integers():
    rows = torch.randint(-3, 4, (50, 6), generator=torch.Generator().manual_seed(0)).double()
    indices, similarities = top_k_neighbors(rows, k=5, similarity="dot")
    torch.testing.assert_close(similarities, (rows @ rows.T).gather(1, indices), rtol=0, atol=0)


@pytest.mark.parametrize("count", [29, 30, 31, 61])
@pytest.mark.parametrize("table", ["scores", "candidates"])
def test_tile_boundaries(count, table, monkeypatch):
    rows = rows_with_ties(count)
    row_bytes = {"scores": 4 * count, "candidates": 8 * min(4 + 32, count - 1) * rows.shape[1]}[table]
    monkeypatch.setattr(retrieval, "TILE_BYTES", 10 * row_bytes)
    assert retrieval._rows_in_a_tile(row_bytes) == 10 < count
    assert_exact(rows, None, 4, "cosine")


@pytest.mark.parametrize("scale", [1e-100, 1e-30, 1e30, 1e140])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_scale_beyond_float32_changes_no_neighbor(scale, similarity):
    rows = rows_with_ties(300, similarity)
    plain, scaled = (top_k_neighbors(x, k=5, similarity=similarity)[0] for x in (rows, rows * scale))
    assert (plain == scaled).float().mean() > 0.99  # the product with the scale rounds, which may part a tie
    assert_exact(rows * 2.0**400, rows * 2.0**-400, 5, similarity)


def test_rows_of_very_different_norms():
    rows = random_rows(300) * torch.logspace(-45, 0, 300, dtype=torch.float64)[:, None]
    assert_exact(rows, None, 5, "cosine")
    indices, _ = top_k_neighbors(rows, k=5, similarity="dot")
    expected, _ = sorted_neighbors(rows, rows, 5, "dot", True)
    np.testing.assert_array_equal(indices.numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions_are_taken_at_their_exact_values(dtype):
    rows = random_rows(300).to(dtype)
    indices, similarities = top_k_neighbors(rows, k=5)
    expected = sorted_neighbors(rows.double(), rows.double(), 5, "cosine", True)
    np.testing.assert_array_equal(indices.numpy(), expected[0])
    np.testing.assert_allclose(similarities.numpy(), expected[1], rtol=0, atol=1e-12)


def test_float64_gaps_below_float32_resolution_decide_the_order():
    gallery = torch.tensor([[1.0, 3e-6], [1.0, 1e-6], [1.0, 2e-6]], dtype=torch.float64)  # cosines 1 - 5e-13 and so on
    indices, _ = top_k_neighbors(torch.tensor([[1.0, 0.0]], dtype=torch.float64), gallery, k=3)
    assert indices.tolist() == [[1, 2, 0]]


def test_reduced_matmul_precision_and_autocast_change_nothing(monkeypatch):
    rows = rows_with_ties(300)
    expected, _ = top_k_neighbors(rows, k=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(top_k_neighbors(rows, k=5)[0], expected)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert retrieval._search_precisions(rows.device) == [torch.float64]
    assert torch.equal(top_k_neighbors(rows, k=5)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_error_bound_holds_for_rows_made_to_strain_it(dtype):
    rows = torch.nn.functional.normalize(random_rows(400, width=2048).abs(), dim=1)  # one sign: no error cancels
    exact = torch.tensor([[math.fsum((a * b).tolist()) for b in rows[:8]] for a in rows[:8]], dtype=torch.float64)
    rough = (rows.to(dtype) @ rows.to(dtype).T)[:8, :8].double()
    assert ((rough - exact).abs() <= retrieval._error_bound(rows[:8], dtype)[:, None]).all()


def test_a_zero_row_has_cosine_0_with_everything():
    rows = random_rows(10)
    rows[4] = 0
    indices, similarities = top_k_neighbors(rows, k=9)
    assert indices[4].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert similarities[4].tolist() == [0.0] * 9
    assert similarities[0, indices[0] == 4].item() == 0


def test_non_contiguous_and_differentiable_inputs():
    rows = rows_with_ties(200)
    expected = top_k_neighbors(rows, k=5)
    found = top_k_neighbors(rows.T.contiguous().T.requires_grad_(), k=5)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert not found[1].requires_grad


class LargestTensor(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that any operation returned."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [x.numel() * x.element_size() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.largest = max([self.largest, *sizes])
        return result


@pytest.mark.parametrize("collapsed", [False, True])
def test_no_table_is_larger_than_a_tile_or_the_inputs(collapsed, monkeypatch):
    monkeypatch.setattr(retrieval, "TILE_BYTES", 2**18)
    rows = torch.ones(1000, 16) if collapsed else random_rows(1000, width=16)
    with LargestTensor() as memory:
        top_k_neighbors(rows, k=5)
    assert memory.largest <= 2**18  # all pairs would take 4 MB


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, r"k: .*1 to 9.*got 0"),
        ({"k": 10}, r"k: .*1 to 9.*got 10"),
        ({"k": 5, "gallery": torch.ones(4, 3)}, r"k: .*1 to 4.*got 5"),
        ({"gallery": torch.ones(9, 4)}, r"gallery: .*width 3, got 4"),
        ({"gallery": torch.ones(0, 3)}, r"gallery: .*\(rows, width\).*got .*\(0, 3\)"),
        ({"gallery": torch.full((9, 3), torch.nan)}, r"gallery: .*finite.*got .*rows \[0, 1, 2\]"),
        ({"queries": torch.ones(3)}, r"queries: .*\(rows, width\).*got .*\(3,\)"),
        ({"queries": torch.ones(0, 3)}, r"queries: .*\(rows, width\).*got .*\(0, 3\)"),
        ({"queries": torch.ones(1, 3)}, r"k: .*1 to 0"),
        ({"queries": torch.tensor([[1.0], [torch.inf]])}, r"queries: .*finite.*got .*rows \[1\]"),
        ({"queries": torch.full((2, 3), 1e200, dtype=torch.float64)}, r"overflow in rows \[0, 1\]"),
        ({"queries": torch.ones(10, 3, dtype=torch.int64)}, r"queries: .*floating.*got torch.int64"),
        ({"queries": np.ones((10, 3))}, r"queries: .*floating.*got ndarray"),
        ({"similarity": "euclidean"}, r"similarity: .*cosine, dot.*got 'euclidean'"),
    ],
)
def test_top_k_says_what_it_expects(arguments, message):
    with pytest.raises(ValueError, match=message):
        top_k_neighbors(**{"queries": torch.ones(10, 3), "k": 1} | arguments)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("tile_bytes", [64 * 2**20, 1000])
def test_the_ranking_of_all_is_the_exact_one_duplicates_included(monkeypatch, similarity, tile_bytes):
    monkeypatch.setattr(retrieval, "TILE_BYTES", tile_bytes)
    rows = torch.randn(40, 6)[torch.randint(40, (150,))]  # each some four times
    rows[3] = 0
    for k in (1, 20, 149):
        expected, _ = top_k_neighbors(rows, k=k, similarity=similarity)
        assert torch.equal(top_k_neighbors(rows, None, k, similarity, exact=False)[0], expected)
    queries, gallery = torch.randn(30, 6), rows[:70]
    (ids, values), (expected, exact) = (
        top_k_neighbors(queries, gallery, 60, similarity, exact=e) for e in (False, True)
    )
    assert torch.equal(ids, expected)
    torch.testing.assert_close(values, exact, rtol=0, atol=1e-12)
    collapsed = torch.ones(50, 4)
    assert torch.equal(top_k_neighbors(collapsed, k=3, exact=False)[0], top_k_neighbors(collapsed, k=3)[0])
    with pytest.raises(ValueError, match=r"k: .*1 to 149"):
        top_k_neighbors(rows, None, 150, similarity, exact=False)


# Votes and hits


def labelled_rows(count, classes=5, width=8, seed=0):
    labels = torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(seed))
    centres = random_rows(classes, width, seed=99)
    return centres[labels] + 1.5 * random_rows(count, width, seed=seed), labels


def voted_accuracy(train_h, train_y, test_h, test_y, k, temperature):
    """kNN accuracy by plain loops over test rows, neighbours and classes."""
    indices, similarities = sorted_neighbors(test_h, train_h, k, "cosine", False)
    right = 0
    for row in range(len(test_h)):
        votes = [0.0] * (int(train_y.max()) + 1)
        for index, similarity in zip(indices[row], similarities[row], strict=True):
            votes[train_y[index]] += math.exp(similarity / temperature)
        right += votes.index(max(votes)) == test_y[row]
    return int(right) / len(test_h)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 5.0), (200, 0.5)])
def test_knn_accuracy_matches_plain_loops(k, temperature):
    train, test = labelled_rows(400), labelled_rows(150, seed=1)
    accuracy = knn_accuracy(*train, *test, k=k, temperature=temperature)
    assert accuracy == pytest.approx(voted_accuracy(*train, *test, k, temperature), abs=1e-12)
    assert 0.3 < accuracy < 1


def test_knn_accuracy_matches_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors", reason="scikit-learn's kNN is the peer here")
    train, test = labelled_rows(400), labelled_rows(150, seed=1)
    peer = neighbors.KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = peer.fit(*train).score(*test)
    assert knn_accuracy(*train, *test, k=20, temperature=0.07) == pytest.approx(expected, abs=1e-12)


def test_knn_accuracy_matches_lightly():
    peer = pytest.importorskip("lightly.utils.benchmarking", reason="lightly's kNN is the peer here")
    (train_h, train_y), (test_h, test_y) = labelled_rows(400), labelled_rows(150, seed=1)
    unit_train, unit_test = (torch.nn.functional.normalize(h, dim=1) for h in (train_h, test_h))
    ranked = peer.knn_predict(unit_test, unit_train.T, train_y, num_classes=5, knn_k=20, knn_t=0.07)
    expected = (ranked[:, 0] == test_y).double().mean().item()
    assert knn_accuracy(train_h, train_y, test_h, test_y, k=20, temperature=0.07) == pytest.approx(expected, abs=1e-12)


def test_a_tied_vote_goes_to_the_lowest_class():
    train_h, test_h = torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.tensor([[1.0, 0.0]])
    for train_y in (torch.tensor([3, 1]), torch.tensor([1, 3])):
        assert knn_accuracy(train_h, train_y, test_h, torch.tensor([1]), k=2) == 1.0


def test_knn_accuracy_survives_a_tiny_temperature():
    train = labelled_rows(100)
    assert knn_accuracy(*train, *train, k=5, temperature=1e-6) == 1.0  # each row's own vote outweighs all others


def test_a_test_class_that_training_never_saw_counts_as_missed():
    h = torch.eye(2)
    assert knn_accuracy(h, torch.tensor([0, 1]), h, torch.tensor([0, 7]), k=1) == 0.5


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train_y", torch.tensor([0, -1]), r"train_y: .*from 0, got -1"),
        ("test_y", torch.tensor([-1, 0]), r"test_y: .*from 0, got -1"),
        ("test_y", torch.tensor([0]), r"test_y: .*2 integers.*got torch.int64 \(1,\)"),
        ("train_y", torch.tensor([0.0, 1.0]), r"train_y: .*2 integers.*got torch.float32"),
        ("train_y", [0, 1], r"train_y: .*2 integers.*got list"),
        ("temperature", 0.0, r"temperature: .*got 0.0"),
        ("temperature", math.nan, r"temperature: .*got nan"),
        ("k", 3, r"k: .*1 to 2"),
    ],
)
def test_knn_accuracy_says_what_it_expects(name, value, message):
    labels = torch.tensor([0, 1])
    arguments = {"train_h": torch.eye(2), "train_y": labels, "test_h": torch.eye(2), "test_y": labels, "k": 1}
    with pytest.raises(ValueError, match=message):
        knn_accuracy(**arguments | {name: value})


def test_precision_by_hand():
    labels = torch.tensor([0, 0, 1, 1, 2])
    indices = torch.tensor([[1, 2], [0, 4], [3, 0], [0, 1], [2, 3]])
    hits = neighbor_hits(indices, labels, labels)
    assert hits.tolist() == [[True, False], [True, False], [True, False], [False, False], [False, False]]
    assert hits.double().mean().item() == pytest.approx(3 / 10)


def test_precision_against_a_separate_gallery():
    indices = torch.tensor([[0, 1, 2]])
    assert neighbor_hits(indices, torch.tensor([4]), torch.tensor([4, 5, 4])).tolist() == [[True, False, True]]


@pytest.mark.parametrize(
    ("indices", "query_labels", "gallery_labels", "message"),
    [
        (torch.tensor([[0]]), torch.tensor([-1]), torch.tensor([0]), r"query_labels: .*from 0, got -1"),
        (torch.tensor([[0]]), torch.tensor([0]), torch.tensor([-1]), r"gallery_labels: .*from 0, got -1"),
        (torch.tensor([[0]]), torch.tensor([0, 1]), torch.tensor([0]), r"query_labels: .*1 integers"),
        (torch.tensor([[5]]), torch.tensor([0]), torch.tensor([0]), r"indices: .*1 gallery_labels, got .*up to 5"),
        (torch.tensor([[-1, 0]]), torch.tensor([0]), torch.tensor([0]), r"indices: .*gallery_labels"),
        (torch.tensor([0]), torch.tensor([0]), torch.tensor([0]), r"indices: .*\(Q, k\).*got \(1,\)"),
        (torch.zeros(1, 0, dtype=torch.int64), torch.tensor([0]), torch.tensor([0]), r"indices: .*\(Q, k\)"),
    ],
)
def test_neighbor_hits_says_what_it_expects(indices, query_labels, gallery_labels, message):
    with pytest.raises(ValueError, match=message):
        neighbor_hits(indices, query_labels, gallery_labels)


# Scores of a set


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
    if similarity == "dot":  # of whole numbers, which tie often and exactly
        rows = torch.randint(-3, 4, (36 // copies, 4)).float().repeat(copies, 1)
    else:  # whose cosines tie where rows are copies, and nowhere else up to rounding
        rows = torch.randn(36 // copies, 4).repeat(copies, 1)
    labels = torch.cat([torch.arange(5).repeat(3), torch.randint(0, 5, (21,))])
    labels = labels[torch.randperm(36)]
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
    rng = np.random.default_rng(0)
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


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, -1, 1], "labels: .*from 0, got -1"), ([0], "labels: .*two images of one class, got 1"), ([], "got 0 images")],
)
@pytest.mark.parametrize("of", [chance_scores, lambda labels: retrieval_scores(torch.rand(len(labels), 2), labels)])
def test_sets_without_labels_or_others_are_refused(of, labels, message):
    with pytest.raises(ValueError, match=message):
        of(torch.tensor(labels, dtype=torch.int64))
