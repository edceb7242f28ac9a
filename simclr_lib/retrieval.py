"""Exact nearest neighbours and the scores read off them: tensors in, tensors and numbers out.

Q queries, N gallery rows, D their width, k neighbours, C = k + 32 candidates, T queries in a tile.
"""

import math

import torch
from torch import Tensor

TILE_BYTES = 64 * 2**20  # the most that one intermediate table takes, however many rows there are
SPARE_CANDIDATES = 32  # a neighbour that float32 misplaces by this many ranks is still found at the first try


@torch.no_grad()
def top_k_neighbors(
    queries: Tensor, gallery: Tensor | None = None, k: int = 5, similarity: str = "cosine"
) -> tuple[Tensor, Tensor]:
    """The k most similar gallery rows of each query, exactly.

    queries (Q, D), gallery (N, D): any floating dtype, on a device that has float64. gallery None: the queries among
    themselves, each without itself (by position; its exact duplicates stay). Returns indices (Q, k) int64 and
    similarities (Q, k) float64, the precision that decides the order: descending, ties to the lowest index.
    similarity "cosine" lies in [-1, 1] up to rounding, and a zero row has 0 with every row; "dot" has no bounds.

    float32 finds k + 32 candidates and float64 ranks them; a query whose k-th neighbour is not clear of the last
    candidate by the error bound of a dot product is searched again in float64, then against whole rows.
    Memory: a float64 and a float32 copy of the inputs, and tables of 64 MB.

    Raises ValueError on inputs that are not finite floating tables of one width, on another similarity, and on a k
    below 1 or above the number of rows to choose from.
    """
    among_themselves = gallery is None
    _check_table("queries", queries)
    _check_table("gallery", queries if among_themselves else gallery, width=queries.shape[1])
    check_k(k, len(queries) - 1 if among_themselves else len(gallery))
    queries, query_scale = _scaled("queries", queries, similarity)
    gallery, gallery_scale = (queries, query_scale) if among_themselves else _scaled("gallery", gallery, similarity)
    indices, similarities = _search(queries, gallery.to(queries.device), k, among_themselves)
    return indices, similarities * query_scale * gallery_scale


@torch.no_grad()
def rank_among_themselves(rows: Tensor, k: int, similarity: str = "cosine") -> Tensor:
    """The indices (N, k) of `top_k_neighbors(rows, k=k)`, some thirty times as fast where k is in the hundreds.

    The same rules: no row is its own neighbour, equal rows tie, to the lowest index. But similarities are those of one
    float64 matrix product, so that different rows whose similarities differ by less than its rounding, some 1e-13,
    may come in either order. Memory: a float64 copy of the rows, the indices, and tables of 64 MB.
    """
    _check_table("rows", rows)
    check_k(k, len(rows) - 1)
    rows, _ = _scaled("rows", rows, similarity)
    distinct, group = rows.unique(dim=0, return_inverse=True)  # a product may round equal rows differently
    indices = []
    for own in torch.arange(len(rows), device=rows.device).split(_rows_in_a_tile(8 * len(rows))):
        scores = (rows[own] @ distinct.T)[:, group].scatter(1, own[:, None], -torch.inf)
        indices.append(scores.sort(dim=1, descending=True, stable=True).indices[:, :k])
    return torch.cat(indices)


def knn_accuracy(
    train_h: Tensor, train_y: Tensor, test_h: Tensor, test_y: Tensor, k: int = 20, temperature: float = 0.07
) -> float:
    """Share of the test rows, in [0, 1], that `knn_predict` gives their class test_y (Q,), integers from 0."""
    _check_labels("test_y", test_y, len(test_h))
    return (knn_predict(train_h, train_y, test_h, k, temperature) == test_y.cpu()).double().mean().item()


def knn_predict(train_h: Tensor, train_y: Tensor, test_h: Tensor, k: int = 20, temperature: float = 0.07) -> Tensor:
    """The class that wins the vote of each test row's k most cosine-similar training rows: (Q,) int64 on the CPU.

    train_h (N, D), test_h (Q, D) floating; train_y (N,) integers from 0.
    A neighbour's vote weighs exp(similarity / temperature); a tied vote goes to the lowest class.
    Raises ValueError on a label of -1 (unlabelled), on a temperature not above 0, and where top_k_neighbors does.
    Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4.
    """
    _check_labels("train_y", train_y, len(train_h))
    _check_temperature(temperature)
    return vote(*top_k_neighbors(test_h, train_h, k), train_y, temperature)


def vote(indices: Tensor, similarities: Tensor, train_y: Tensor, temperature: float = 0.07) -> Tensor:
    """The class that wins the vote of these neighbours, (Q, k) as top_k_neighbors returns them: see `knn_predict`."""
    _check_temperature(temperature)
    # Votes are counted on the CPU, which adds equal weights in equal order, so that a tie comes out as one.
    indices, similarities, train_y = indices.cpu(), similarities.cpu(), train_y.long().cpu()
    weights = ((similarities - similarities[:, :1]) / temperature).exp()  # the nearest has 1: nothing overflows
    votes = weights.new_zeros(len(indices), int(train_y.max()) + 1).scatter_add(1, train_y[indices], weights)
    return votes.argmax(1)


def precision_at_k(indices: Tensor, query_labels: Tensor, gallery_labels: Tensor) -> float:
    """Mean share of the k neighbours that have their query's label, in [0, 1]; takes what neighbor_hits takes."""
    return neighbor_hits(indices, query_labels, gallery_labels).double().mean().item()


def neighbor_hits(indices: Tensor, query_labels: Tensor, gallery_labels: Tensor) -> Tensor:
    """Whether a neighbour has its query's label: (Q, k) bool.

    indices (Q, k) as top_k_neighbors returns them; query_labels (Q,), gallery_labels (N,) integers from 0.
    Among themselves, both labels are the same tensor.
    Raises ValueError on labels that do not fit the indices and on a label of -1 (unlabelled).
    """
    _check_labels("query_labels", query_labels, len(indices))
    _check_labels("gallery_labels", gallery_labels, len(gallery_labels))
    if indices.ndim != 2 or indices.numel() == 0:
        raise ValueError(f"indices: expected (Q, k) with neither 0, got {tuple(indices.shape)}; see top_k_neighbors")
    if int(indices.min()) < 0 or int(indices.max()) >= len(gallery_labels):
        raise ValueError(
            f"gallery_labels: expected a label for each index up to {int(indices.max())}, got {len(gallery_labels)}; "
            "pass the labels of the gallery that was searched"
        )
    indices, query_labels, gallery_labels = indices.cpu(), query_labels.cpu(), gallery_labels.cpu()
    return gallery_labels[indices] == query_labels[:, None]


def check_k(k: int, choice: int) -> None:
    """Raise a ValueError unless `k` neighbours can be had among `choice` rows; worth asking before training."""
    if not 1 <= k <= choice:
        raise ValueError(f"k: expected 1 to {choice}, the rows to choose from, got {k}; choose another k or add rows")


def check_similarity(similarity: str) -> None:
    """Raise a ValueError unless `similarity` is one that neighbours are found by; worth asking before training."""
    if similarity not in ("cosine", "dot"):
        raise ValueError(f'similarity: expected "cosine" or "dot", got {similarity!r}; choose one of the two')


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}; 0.07 is the usual one")


def _scaled(name: str, rows: Tensor, similarity: str) -> tuple[Tensor, float]:
    """Rows in float64 with norms of at most 1, and the factor by which that shrinks a similarity.

    For dot products it is one power of two: dividing by it is exact, so that products which tie go on doing so.
    """
    check_similarity(similarity)
    rows = rows.double().contiguous()
    norms = rows.square().sum(1, keepdim=True).sqrt()
    if not norms.isfinite().all():
        bad = int((~norms.isfinite()).squeeze(1).nonzero()[0])
        raise ValueError(f"{name}: expected finite rows, got NaN, infinity or an overflow in row {bad}; leave it out")
    if similarity == "cosine":
        return rows / norms.where(norms > 0, 1.0), 1.0
    scale = 2.0 ** math.frexp(norms.max().item())[1]
    return rows / scale, scale


def _search(queries: Tensor, gallery: Tensor, k: int, among_themselves: bool) -> tuple[Tensor, Tensor]:
    """Rows of norm at most 1 -> indices and similarities (Q, k). What one precision leaves open goes to the next."""
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    similarities = torch.empty(len(queries), k, dtype=torch.float64, device=queries.device)
    open_rows = torch.arange(len(queries), device=queries.device)
    for dtype in _search_precisions(queries.device):
        coarse, left_open = gallery.to(dtype), []
        for rows in open_rows.split(_rows_in_a_tile(len(coarse) * coarse.element_size())):
            own = rows if among_themselves else None
            indices[rows], similarities[rows], settled = _search_tile(queries[rows], gallery, coarse, k, own)
            left_open.append(rows[~settled])
        open_rows = torch.cat(left_open)
    if len(open_rows) > 0:
        indices[open_rows], similarities[open_rows] = _rank_whole(open_rows, queries, gallery, k, among_themselves)
    return indices, similarities


def _search_tile(
    queries: Tensor, gallery: Tensor, coarse: Tensor, k: int, own: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(T, D) queries -> indices and similarities (T, k), and whether they are proven (T,). own: ids to leave out."""
    scores = queries.to(coarse.dtype) @ coarse.T  # (T, N)
    if own is not None:
        scores.scatter_(1, own[:, None], -torch.inf)
    choice = len(gallery) - (own is not None)
    coarse_best, candidates = scores.topk(min(k + SPARE_CANDIDATES, choice))
    candidates = candidates.sort(1).values  # in the order of ids, so that a stable sort gives ties to the lowest
    # Not a matrix product: that may round equal rows differently, depending on where they stand.
    parts = _rows_in_a_tile(8 * candidates.shape[1] * queries.shape[1])  # of (T, C, D), far wider than the scores
    pairs = zip(queries.split(parts), candidates.split(parts), strict=True)
    exact = torch.cat([(rows[:, None] * gallery[ids]).sum(-1) for rows, ids in pairs])  # (T, C)
    ranked, order = exact.sort(dim=1, descending=True, stable=True)
    cut = coarse_best[:, -1].double() + _error_bound(queries, coarse.dtype)
    settled = (ranked[:, k - 1] > cut) | (candidates.shape[1] == choice)
    return candidates.gather(1, order[:, :k]), ranked[:, :k], settled


def _error_bound(queries: Tensor, dtype: torch.dtype) -> Tensor:
    """How far a product of `queries` with a row of norm at most 1 may be off in `dtype`, in any order of adding (T,).

    Two roundings of the inputs and D of the sum give (D + 2) eps / 2 (Higham 2002, section 3.1); twice that covers
    its higher orders and the float64 side. The smallest normal number is there for underflow.
    """
    limits = torch.finfo(dtype)
    return (queries.shape[1] + 4) * (limits.eps * queries.square().sum(1).sqrt() + 4 * limits.tiny)


def _rank_whole(
    rows: Tensor, queries: Tensor, gallery: Tensor, k: int, among_themselves: bool
) -> tuple[Tensor, Tensor]:
    """Rank the whole gallery for each of these rows: for ties by the dozen, such as copies or a collapsed encoder.

    Equal gallery rows are multiplied once, or a collapsed encoder would cost minutes.
    """
    distinct, group = gallery.unique(dim=0, return_inverse=True)
    parts = distinct.split(_rows_in_a_tile(8 * gallery.shape[1]))
    ranked = []
    for row in rows.tolist():
        scores = torch.cat([(queries[row] * part).sum(1) for part in parts])[group]  # (N,)
        if among_themselves:
            scores[row] = -torch.inf
        ranked.append(_first_k(scores, k))
    indices, similarities = zip(*ranked, strict=True)
    return torch.stack(indices), torch.stack(similarities)


def _first_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(N,) -> the k best ids and their scores, ties to the lowest id, without sorting N."""
    least = scores.topk(k).values[-1]
    above = (scores > least).nonzero().squeeze(1)
    tied = (scores == least).nonzero().squeeze(1)[: k - len(above)]
    ids = torch.cat([above, tied])
    ranked, order = scores[ids].sort(descending=True, stable=True)
    return ids[order], ranked


def _rows_in_a_tile(row_bytes: int) -> int:
    return max(1, TILE_BYTES // row_bytes)


def _search_precisions(device: torch.device) -> list[torch.dtype]:
    """float32 first, unless autocast or TF32 would make less of it than the error bound assumes."""
    try:
        plain = torch.get_float32_matmul_precision() == "highest" and not torch.is_autocast_enabled(device.type)
    except RuntimeError:  # torch's newer per-backend switches are in use, which this reading refuses to sum up
        plain = False
    return [torch.float32, torch.float64] if plain else [torch.float64]


def _check_table(name: str, rows: Tensor, width: int | None = None) -> None:
    if not isinstance(rows, Tensor) or not rows.is_floating_point():
        got = rows.dtype if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(f"{name}: expected a floating tensor, got {got}; convert it, as by torch.as_tensor(x).float()")
    if rows.ndim != 2 or rows.numel() == 0:
        raise ValueError(
            f"{name}: expected (rows, width) with neither 0, got {tuple(rows.shape)}; pass one row a sample"
        )
    if width is not None and rows.shape[1] != width:
        raise ValueError(f"{name}: expected rows of the queries' width {width}, got {rows.shape[1]}; embed both alike")


def _check_labels(name: str, labels: Tensor, count: int) -> None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != (count,):
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"{name}: expected {count} integers, one a row, got {got}; pass the labels in the rows' order")
    if count > 0 and int(labels.min()) < 0:
        raise ValueError(f"{name}: expected labels from 0, got {int(labels.min())}; leave unlabelled rows out")
