"""How vectors are compared; exact nearest neighbours by brute force, in bounded memory."""

from collections.abc import Callable, Iterator
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32, Float64, Int64, Shaped

from qinco_lit.vectors.rows import Matrix

# l2: squared L2, smaller is nearer. ip: inner product, larger is nearer. cosine: the inner product of vectors that are
# normalised to unit length when they are read (`VectorFile.unit`).
Metric = Literal["l2", "ip", "cosine"]
METRICS: tuple[Metric, ...] = get_args(Metric)

_QUERY_ROWS = 1024
# Candidate pairs whose difference vectors are held at once.
_PAIR_ROWS = 1 << 14
_FLOAT32 = np.finfo(np.float32)


def comparison(metric: Metric) -> Literal["l2", "ip"]:
    """What is computed of the vectors as they are read: the inner product for cosine, too."""
    return "l2" if metric == "l2" else "ip"


def exact_neighbours(
    queries: Matrix,
    database: Matrix,
    k: int,
    *,
    metric: str = "l2",
    batch_rows: int = 16384,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Float32[np.ndarray, "nq k"], Int64[np.ndarray, "nq k"]]:
    """Return the squared L2, or the inner products, and the row ids of the k database vectors nearest to each query.

    The nearest comes first: `l2` is ascending, `ip` (the largest inner products) descending. `queries` (nq, dim) and
    `database` (n, dim) hold integers or floats; the database is streamed once, `batch_rows` rows at a time. Squared L2
    are summed in float64 from differences, inner products in float64, and equal ones are ordered by smaller id. The
    float32 matrix product only rules rows out, by more than its rounding error, so that the result is exact.
    `advance` is told the number of database rows after each block.
    ValueError for k not in 1..n, another dimension, another metric, NaN or infinity.
    """
    query_rows = np.asarray(queries[:])
    _check(query_rows, database, k, metric, batch_rows)
    ranking = _RANKINGS[metric]
    best = _Best.empty(len(query_rows), k)
    origin = None
    for start, block in _blocks(database, batch_rows):
        if origin is None:
            origin = ranking.origin(block)
        rows = _Moved(block, origin)
        for first in range(0, len(query_rows), _QUERY_ROWS):
            part = slice(first, first + _QUERY_ROWS)
            moved_queries = _Moved(query_rows[part], origin)
            _search_block(ranking, query_rows[part], moved_queries, block, rows, start, best.part(part))
        advance(len(block))
    with np.errstate(over="ignore"):
        return (ranking.sign * best.costs).astype(np.float32), best.ids


def _check(queries: np.ndarray, database: Matrix, k: int, metric: str, batch_rows: int) -> None:
    if queries.ndim != 2 or len(database.shape) != 2:
        raise ValueError(f"queries {queries.shape} and database {tuple(database.shape)} must be matrices (rows, dim)")
    if queries.shape[1] != database.shape[1]:
        raise ValueError(f"queries have dimension {queries.shape[1]}, the database has {database.shape[1]}")
    if not 1 <= k <= database.shape[0]:
        raise ValueError(f"k={k} is not in 1..{database.shape[0]}, the number of database vectors")
    if batch_rows < 1:
        raise ValueError(f"batch_rows must be at least 1, not {batch_rows}")
    if metric not in _RANKINGS:
        raise ValueError(f"metric={metric}: give l2, or ip (for cosine, of vectors of unit length)")
    _check_finite(queries, "query", 0)


def _check_finite(rows: np.ndarray, name: str, first_row: int) -> None:
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise ValueError(f"{name} {first_row + int(bad.argmax())} holds NaN or infinity; remove such vectors first")


def _blocks(database: Matrix, batch_rows: int) -> Iterator[tuple[int, Shaped[np.ndarray, "n dim"]]]:
    for start in range(0, database.shape[0], batch_rows):
        block = np.asarray(database[start : start + batch_rows])
        _check_finite(block, "database vector", start)
        yield start, block


class _Moved:
    """Vectors moved to a new origin in float32, and their squared norms."""

    def __init__(self, rows: Shaped[np.ndarray, "n dim"], origin: Float64[np.ndarray, " dim"]) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            self.rows = (rows - origin).astype(np.float32)
            self.norms: Float64[np.ndarray, " n"] = np.einsum("ij,ij->i", self.rows, self.rows, dtype=np.float64)


class _Best:
    """The k best of every query so far: costs (nq, k) float64 ascending, ids (nq, k)."""

    def __init__(self, costs: Float64[np.ndarray, "nq k"], ids: Int64[np.ndarray, "nq k"]) -> None:
        self.costs, self.ids = costs, ids

    @classmethod
    def empty(cls, num_queries: int, k: int) -> "_Best":
        return cls(np.full((num_queries, k), np.inf), np.full((num_queries, k), np.iinfo(np.int64).max))

    def part(self, queries: slice) -> "_Best":
        return _Best(self.costs[queries], self.ids[queries])

    def merge(
        self, query: Int64[np.ndarray, " n"], costs: Float64[np.ndarray, " n"], ids: Int64[np.ndarray, " n"]
    ) -> None:
        """Take in n pairs, given by ascending query."""
        k = self.ids.shape[1]
        touched = np.unique(query)
        owner = np.concatenate([np.repeat(touched, k), query])
        costs = np.concatenate([self.costs[touched].ravel(), costs])
        ids = np.concatenate([self.ids[touched].ravel(), ids])
        order = np.lexsort((ids, costs, owner))
        firsts = np.searchsorted(owner[order], touched)
        kept = order[firsts[:, None] + np.arange(k)]
        self.costs[touched], self.ids[touched] = costs[kept], ids[kept]


class _SquaredL2:
    """Costs are squared L2."""

    sign = 1.0

    def origin(self, block: Shaped[np.ndarray, "n dim"]) -> Float64[np.ndarray, " dim"]:
        """Squared L2 do not depend on the origin, but their rounding error does: the mean keeps norms small."""
        return np.asarray(block.mean(axis=0, dtype=np.float64))

    def scores(self, queries: _Moved, rows: _Moved) -> Float32[np.ndarray, "nq n"]:
        """Costs but for `missing`, the same for all rows: |b|^2 - 2 q.b lacks |q|^2."""
        scores: Float32[np.ndarray, "nq n"] = queries.rows @ (-2 * rows.rows).T
        scores += rows.norms.astype(np.float32)
        return scores

    def missing(self, queries: _Moved) -> Float64[np.ndarray, " nq"]:
        return queries.norms

    def error(self, queries: _Moved, rows: _Moved, dim: int) -> Float64[np.ndarray, " nq"]:
        """Bound on the rounding error of a float32 score, for any order of summation (Higham, gamma_n <= n eps).

        Infinite where float32 may overflow: nothing is ruled out then.
        """
        scale = (np.sqrt(queries.norms) + np.sqrt(rows.norms.max())) ** 2
        error = (dim + 8) * (_FLOAT32.eps * scale + _FLOAT32.tiny)
        return np.where(scale < _FLOAT32.max / 16, error, np.inf)

    def costs(
        self, queries: Shaped[np.ndarray, "n dim"], rows: Shaped[np.ndarray, "n dim"]
    ) -> Float64[np.ndarray, " n"]:
        differences = np.subtract(queries, rows, dtype=np.float64)
        return np.asarray(np.einsum("ij,ij->i", differences, differences))


class _InnerProduct:
    """Costs are inner products, negated."""

    sign = -1.0

    def origin(self, block: Shaped[np.ndarray, "n dim"]) -> Float64[np.ndarray, " dim"]:
        return np.zeros(block.shape[1])

    def scores(self, queries: _Moved, rows: _Moved) -> Float32[np.ndarray, "nq n"]:
        scores: Float32[np.ndarray, "nq n"] = queries.rows @ (-rows.rows).T
        return scores

    def missing(self, queries: _Moved) -> Float64[np.ndarray, " nq"]:
        return np.zeros(len(queries.norms))

    def error(self, queries: _Moved, rows: _Moved, dim: int) -> Float64[np.ndarray, " nq"]:
        """As for squared L2; components that underflow as float32 are off by `tiny` times those of the other vector."""
        query_norms, row_norm = np.sqrt(queries.norms), np.sqrt(rows.norms.max())
        scale = query_norms * row_norm
        error = (dim + 8) * (_FLOAT32.eps * scale + _FLOAT32.tiny * (1 + query_norms + row_norm))
        return np.where(scale < _FLOAT32.max / 16, error, np.inf)

    def costs(
        self, queries: Shaped[np.ndarray, "n dim"], rows: Shaped[np.ndarray, "n dim"]
    ) -> Float64[np.ndarray, " n"]:
        # float64 before einsum, which would convert in pieces that cut rows, and equal rows could differ by rounding
        return np.asarray(-np.einsum("ij,ij->i", queries.astype(np.float64), rows.astype(np.float64)))


_RANKINGS: dict[str, _SquaredL2 | _InnerProduct] = {"l2": _SquaredL2(), "ip": _InnerProduct()}


def _search_block(
    ranking: _SquaredL2 | _InnerProduct,
    queries: Shaped[np.ndarray, "nq dim"],
    moved_queries: _Moved,
    block: Shaped[np.ndarray, "n dim"],
    moved: _Moved,
    start: int,
    best: _Best,
) -> None:
    """Merge the rows of one block, ids from `start`, into the best of some queries."""
    k = best.ids.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        scores = ranking.scores(moved_queries, moved)
        error = ranking.error(moved_queries, moved, queries.shape[1])
        limit = best.costs[:, -1] - ranking.missing(moved_queries) + error
        if len(block) > k and np.isinf(best.costs[:, -1]).any():
            limit = np.minimum(limit, np.partition(scores, k - 1, axis=1)[:, k - 1] + 2 * error)
        # Not (score > limit): a score that overflowed to NaN stays a candidate.
        query, row = np.nonzero(~(scores > np.nextafter(limit.astype(np.float32), np.float32(np.inf))[:, None]))
        for first in range(0, len(query), _PAIR_ROWS):
            some = slice(first, first + _PAIR_ROWS)
            best.merge(query[some], ranking.costs(queries[query[some]], block[row[some]]), row[some] + start)
