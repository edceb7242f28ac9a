"""Exact nearest neighbours, and what is read off them: kNN votes, precision@k, recall@k, MAP@R. Tensors in and out.

float32 finds candidates, float64 ranks them, and an error bound proves that none was missed.

Shapes: Q queries, N gallery rows, D their width, k neighbours, T queries in a tile, C candidates of each.
"""

import torch
from torch import Tensor

from simclr_lib.engine.checks import require, require_choice

TILE_BYTES = 64 * 2**20  # the most that one intermediate table takes, however many rows there are
FEW, MORE = 8, 64  # candidates beside k: few prove nearly every row, and more are ranked for those left open alone


@torch.no_grad()
def top_k_neighbors(
    queries: Tensor, gallery: Tensor | None = None, k: int = 5, similarity: str = "cosine", *, exact: bool = True
) -> tuple[Tensor, Tensor]:
    """The k most similar gallery rows of each query, exactly.

    queries (Q, D), gallery (N, D): any floating dtype, on a device that has float64. gallery None: the queries among
    themselves, each without itself (by position; its exact duplicates stay). Returns indices (Q, k) int64 and
    similarities (Q, k) float64, the precision that decides the order: descending, ties to the lowest index.
    similarity "cosine" lies in [-1, 1] up to rounding, and a zero row has 0 with every row; "dot" has no bounds.
    Memory: a float64 and a float32 copy of the inputs, and tables of 64 MB.

    exact=False: by one float64 matrix product, some thirty times as fast where k is in the hundreds and N in the
    thousands. Equal rows tie as well, but different rows whose similarities differ by less than the rounding of that
    product, some 1e-13, may come in either order.

    Raises ValueError on inputs that are not finite floating tables of one width, on another similarity, and on a k
    below 1 or above the number of rows to choose from.
    """
    queries, scale = _scaled("queries", queries, similarity)
    gallery, gallery_scale = (queries, scale) if gallery is None else _scaled("gallery", gallery, similarity)
    wanted, found = queries.shape[1], gallery.shape[1]
    require(found == wanted, "gallery", f"rows of the queries' width {wanted}", found)
    require_k(k, len(gallery) - (gallery is queries))
    gallery, rows = gallery.to(queries.device), torch.arange(len(queries), device=queries.device)
    search = _search if exact else _rank_all
    indices, similarities = search(rows, queries, gallery, k)
    return indices, similarities * scale * gallery_scale


def require_k(k: int, choice: int, name: str = "k") -> None:
    """Raise ValueError unless `k` neighbours can be had among `choice` rows; worth asking before training."""
    require(1 <= k <= choice, name, f"1 to {choice}, the rows to choose from", k, "choose another k or add rows")


def _scaled(name: str, rows: Tensor, similarity: str) -> tuple[Tensor, float]:
    """Rows in float64 with norms of at most 1, and the factor by which that shrinks a similarity.

    For dot products it is one power of two: dividing by it is exact, so that products which tie go on doing so.
    """
    fits = isinstance(rows, Tensor) and rows.is_floating_point() and rows.ndim == 2 and rows.numel() > 0
    require(fits, name, "a floating tensor (rows, width) with neither 0", _kind(rows), "pass one row a sample")
    require_choice(similarity=similarity)
    rows = rows.double().contiguous()
    norms = rows.square().sum(1, keepdim=True).sqrt()
    bad = (~norms.isfinite()).nonzero()[:, 0].tolist()
    require(not bad, name, "finite rows", f"NaN, infinity or an overflow in rows {bad[:3]}", "leave them out")
    if similarity == "cosine":
        return rows / norms.where(norms > 0, 1.0), 1.0
    scale = 2.0 ** norms.max().frexp().exponent.item()
    return rows / scale, scale


def _search(open_rows: Tensor, queries: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Rows of norm at most 1 -> indices and similarities (Q, k) of all queries, those at `open_rows` (Q,).

    Where gallery and queries are one tensor, a query is not its own neighbour. What few candidates cannot prove is
    searched with more, then in the next precision, and in the end among all rows.
    """
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    similarities = torch.empty(len(queries), k, dtype=torch.float64, device=queries.device)
    precisions = _search_precisions(queries.device)
    for dtype, spare in [(precisions[0], FEW), *((dtype, MORE) for dtype in precisions)]:
        coarse, left_open = gallery.to(dtype), []
        for rows in open_rows.split(_rows_in_a_tile(len(coarse) * coarse.element_size())):
            indices[rows], similarities[rows], proven = _search_tile(rows, queries, gallery, coarse, k, spare)
            left_open.append(rows[~proven])
        open_rows = torch.cat(left_open)
    if len(open_rows) > 0:  # ties by the dozen, such as copies or a collapsed encoder
        indices[open_rows], similarities[open_rows] = _rank_all(open_rows, queries, gallery, k, exact=True)
    return indices, similarities


def _search_precisions(device: torch.device) -> list[torch.dtype]:
    """float32 first, unless autocast or TF32 would make less of it than the error bound assumes."""
    try:
        plain = torch.get_float32_matmul_precision() == "highest" and not torch.is_autocast_enabled(device.type)
    except RuntimeError:  # torch's newer per-backend switches are in use, which this reading refuses to sum up
        plain = False
    return [torch.float32, torch.float64] if plain else [torch.float64]


def _search_tile(
    rows: Tensor, queries: Tensor, gallery: Tensor, coarse: Tensor, k: int, spare: int
) -> tuple[Tensor, Tensor, Tensor]:
    """For the queries at `rows` (T,): indices and similarities (T, k), and whether these are proven (T,).

    k + spare candidates come from `coarse`, the gallery in some precision. Proven means that the k-th similarity is
    above that of the last candidate by more than the error bound, so that no other row can reach it.
    """
    queries, themselves = queries[rows], queries is gallery
    scores = queries.to(coarse.dtype) @ coarse.T  # (T, N)
    if themselves:
        scores.scatter_(1, rows[:, None], -torch.inf)
    choice = len(gallery) - themselves
    coarse_best, candidates = scores.topk(min(k + spare, choice))
    candidates = candidates.sort(1).values  # in the order of ids, so that a stable sort gives ties to the lowest
    # Not a matrix product: that may round equal rows differently, depending on where they stand.
    parts = _rows_in_a_tile(8 * candidates.shape[1] * queries.shape[1])  # of (T, C, D), far wider than the scores
    pairs = zip(queries.split(parts), candidates.split(parts), strict=True)
    exact = torch.cat([(part[:, None] * gallery[ids]).sum(-1) for part, ids in pairs])  # (T, C)
    ranked, order = exact.sort(dim=1, descending=True, stable=True)
    cut = coarse_best[:, -1].double() + _error_bound(queries, coarse.dtype)
    proven = (ranked[:, k - 1] > cut) | (candidates.shape[1] == choice)
    return candidates.gather(1, order[:, :k]), ranked[:, :k], proven


def _error_bound(queries: Tensor, dtype: torch.dtype) -> Tensor:
    """How far a product of `queries` with a row of norm at most 1 may be off in `dtype`, in any order of adding (T,).

    Two roundings of the inputs and D of the sum give (D + 2) eps / 2 (Higham 2002, section 3.1); twice that covers
    its higher orders and the float64 side. The smallest normal number is there for underflow.
    """
    limits = torch.finfo(dtype)
    return (queries.shape[1] + 4) * (limits.eps * queries.square().sum(1).sqrt() + 4 * limits.tiny)


def _rank_all(rows: Tensor, queries: Tensor, gallery: Tensor, k: int, exact: bool = False) -> tuple[Tensor, Tensor]:
    """For the queries at `rows`: indices and similarities (len(rows), k), by their products with the whole gallery.

    Only its distinct rows are multiplied, so that equal rows tie, and so that a collapsed encoder costs little.
    """
    multiply = _row_by_row if exact else torch.matmul
    distinct, group = gallery.unique(dim=0, return_inverse=True)
    ranked = []
    for tile in rows.split(_rows_in_a_tile(8 * len(gallery))):
        scores = multiply(queries[tile], distinct.T)[:, group]  # (T, N)
        if queries is gallery:
            scores.scatter_(1, tile[:, None], -torch.inf)
        ranked.append(_first_k(scores, k))
    return tuple(map(torch.cat, zip(*ranked, strict=True)))


def _first_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(T, N) -> the ids and the scores of the k best, (T, k), ties to the lowest id, without sorting N."""
    least = scores.topk(k).values[:, -1:]
    above, tied = scores > least, scores == least
    chosen = above | tied & (tied.cumsum(1) <= k - above.sum(1, keepdim=True))
    ids = chosen.nonzero()[:, 1].view(-1, k)
    ranked, order = scores.gather(1, ids).sort(dim=1, descending=True, stable=True)
    return ids.gather(1, order), ranked


def _row_by_row(queries: Tensor, columns: Tensor) -> Tensor:
    """(T, D) by (D, N) -> (T, N), each product summed over D by itself, so that it does not depend on the others."""
    parts = columns.T.split(_rows_in_a_tile(8 * len(columns)))
    return torch.stack([torch.cat([(query * part).sum(1) for part in parts]) for query in queries])


def _rows_in_a_tile(row_bytes: int) -> int:
    return max(1, TILE_BYTES // row_bytes)


# What is read off neighbours


def knn_accuracy(
    train_h: Tensor, train_y: Tensor, test_h: Tensor, test_y: Tensor, k: int = 20, temperature: float = 0.07
) -> float:
    """Share of the test rows, in [0, 1], whose class wins the vote of their k most cosine-similar training rows.

    train_h (N, D), test_h (Q, D) floating; train_y (N,), test_y (Q,) integers from 0.
    Raises ValueError on a label of -1 (unlabelled), on a temperature not above 0, and where top_k_neighbors does.
    """
    _check_labels("train_y", train_y, len(train_h))
    _check_labels("test_y", test_y, len(test_h))
    winners = vote(*top_k_neighbors(test_h, train_h, k), train_y, temperature)
    return (winners == test_y.cpu()).double().mean().item()


def vote(indices: Tensor, similarities: Tensor, train_y: Tensor, temperature: float = 0.07) -> Tensor:
    """The class that wins the vote of these neighbours, (Q, k) as top_k_neighbors returns them: (Q,) int64, on the CPU.

    A neighbour's vote weighs exp(similarity / temperature); a tied vote goes to the lowest class.
    Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4.
    """
    require(temperature > 0, "temperature", "a number above 0", temperature, "0.07 is the usual one")
    # Votes are counted on the CPU, which adds equal weights in equal order, so that a tie comes out as one.
    indices, similarities, train_y = indices.cpu(), similarities.cpu(), train_y.long().cpu()
    weights = ((similarities - similarities[:, :1]) / temperature).exp()  # the nearest has 1: nothing overflows
    votes = weights.new_zeros(len(indices), int(train_y.max()) + 1).scatter_add(1, train_y[indices], weights)
    return votes.argmax(1)


def neighbor_hits(indices: Tensor, query_labels: Tensor, gallery_labels: Tensor) -> Tensor:
    """Whether a neighbour has its query's label: (Q, k) bool.

    indices (Q, k) as top_k_neighbors returns them; query_labels (Q,), gallery_labels (N,) integers from 0. Among
    themselves, both labels are the same tensor.
    Raises ValueError on labels that do not fit the indices and on a label of -1 (unlabelled).
    """
    _check_labels("query_labels", query_labels, len(indices))
    _check_labels("gallery_labels", gallery_labels, len(gallery_labels))
    last, remedy = int(indices.max()) if indices.numel() else -1, "pass the labels of the gallery that was searched"
    fits = indices.ndim == 2 and 0 <= last < len(gallery_labels) and indices.min() >= 0
    expected = f"(Q, k) of rows of the {len(gallery_labels)} gallery_labels"
    require(fits, "indices", expected, f"{tuple(indices.shape)} up to {last}", remedy)
    return gallery_labels.cpu()[indices.cpu()] == query_labels.cpu()[:, None]


def retrieval_scores(rows: Tensor, labels: Tensor, k: int = 5, similarity: str = "cosine") -> dict[str, Tensor]:
    """Scores of every image of a set, each (N,) float64 in [0, 1]: embeddings (N, D), labels (N,) from 0.

    precision@k: share of the k neighbours that are of the class. recall@k: whether one of them is, as metric learning
    counts it (Musgrave et al. 2020, section 2). map@R, with R the number of other images of the class: mean over ranks
    i to R of precision@i where the i-th is of the class, else 0 (the same, section 4.3.1). All are NaN where R is 0.
    Memory: some 30 bytes for each of N times the largest class.

    Raises:
        ValueError: as top_k_neighbors and neighbor_hits do, and where no two images are of one class.
    """
    relevant = _others_of_the_class(labels)
    indices, _ = top_k_neighbors(rows, None, max(k, int(relevant.max())), similarity, exact=False)
    hits = neighbor_hits(indices, labels, labels)
    ranks = torch.arange(1, hits.shape[1] + 1).double()
    counted = hits & (ranks <= relevant[:, None])
    average = (hits.cumsum(1) / ranks * counted).sum(1) / relevant
    return _named(k, relevant, hits[:, :k].double().mean(1), hits[:, :k].any(1).double(), average)


def chance_scores(labels: Tensor, k: int = 5) -> dict[str, Tensor]:
    """What `retrieval_scores` of a random order are in expectation, each (N,); labels (N,) from 0."""
    others, relevant = len(labels) - 1, _others_of_the_class(labels)
    require_k(k, others)
    wrong, drawn = others - relevant, torch.arange(k).double()
    missed = ((wrong[:, None] - drawn).clamp(min=0) / (others - drawn)).prod(1)  # hypergeometric: no hit in k draws
    # P(hit at rank i) = R / others; given that, each of the i - 1 ranks before it has (R - 1) / (others - 1).
    share, before = relevant.double() / others, (relevant - 1).double() / max(others - 1, 1)
    harmonic = (1 / torch.arange(1, int(relevant.max()) + 1).double()).cumsum(0)
    inverse_ranks = torch.cat([harmonic.new_zeros(1), harmonic])[relevant]  # sum over i to R of 1 / i
    average = share * (inverse_ranks + before * (relevant - inverse_ranks)) / relevant
    return _named(k, relevant, share, 1 - missed, average)


def _others_of_the_class(labels: Tensor) -> Tensor:
    """R of each image, (N,)."""
    _check_labels("labels", labels, len(labels))
    relevant = labels.bincount()[labels] - 1
    require(relevant.any(), "labels", "two images of one class", f"{len(labels)} images of as many classes")
    return relevant


def _named(k: int, relevant: Tensor, *scores: Tensor) -> dict[str, Tensor]:
    names = (f"precision@{k}", f"recall@{k}", "map@R")
    return {name: each.where(relevant > 0, torch.nan) for name, each in zip(names, scores, strict=True)}


def _check_labels(name: str, labels: Tensor, count: int) -> None:
    fits = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.shape == (count,)
    require(fits, name, f"{count} integers, one a row", _kind(labels), "pass the labels in the rows' order")
    least = int(labels.min()) if count else 0
    require(least >= 0, name, "labels from 0", least, "leave unlabelled rows out")


def _kind(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
