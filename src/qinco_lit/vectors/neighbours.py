"""Exact nearest neighbours by brute force, in bounded memory."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int64, Shaped

_QUERY_ROWS = 1024
# Candidate pairs whose difference vectors are held at once.
_PAIR_ROWS = 1 << 14
_FLOAT32 = np.finfo(np.float32)


@runtime_checkable
class VectorRows(Protocol):
    """A matrix of vectors that is read by slices of rows: an ndarray, a VectorFile."""

    @property
    def shape(self) -> Any:
        """(rows, dim)."""

    def __getitem__(self, key: slice, /) -> Any:
        """Rows as an array (n, dim)."""


def exact_neighbours(
    queries: VectorRows, database: VectorRows, k: int, *, batch_rows: int = 16384
) -> tuple[Float32[np.ndarray, "nq k"], Int64[np.ndarray, "nq k"]]:
    """Return the squared L2 and the row ids of the k database vectors nearest to each query, nearest first.

    `queries` (nq, dim) and `database` (n, dim) hold integers or floats; the database is streamed once, `batch_rows`
    rows at a time. Squared L2 are summed in float64 from differences, and equal ones are ordered by smaller id. The
    float32 matrix product only rules rows out, by more than its rounding error, so that the result is exact.
    ValueError for k not in 1..n, another dimension, NaN or infinity.
    """
    query_rows = np.asarray(queries[:])
    _check(query_rows, database, k, batch_rows)
    best = _Best.empty(len(query_rows), k)
    origin = None
    for start, block in _blocks(database, batch_rows):
        if origin is None:
            # Distances do not depend on the origin, but their rounding error does: the mean keeps norms small.
            origin = block.mean(axis=0, dtype=np.float64)
        rows = _Centred(block, origin)
        for first in range(0, len(query_rows), _QUERY_ROWS):
            part = slice(first, first + _QUERY_ROWS)
            _search_block(query_rows[part], _Centred(query_rows[part], origin), block, rows, start, best.part(part))
    with np.errstate(over="ignore"):
        return best.squared_l2.astype(np.float32), best.ids


def _check(queries: np.ndarray, database: VectorRows, k: int, batch_rows: int) -> None:
    if queries.ndim != 2 or len(database.shape) != 2:
        raise ValueError(f"queries {queries.shape} and database {tuple(database.shape)} must be matrices (rows, dim)")
    if queries.shape[1] != database.shape[1]:
        raise ValueError(f"queries have dimension {queries.shape[1]}, the database has {database.shape[1]}")
    if not 1 <= k <= database.shape[0]:
        raise ValueError(f"k={k} is not in 1..{database.shape[0]}, the number of database vectors")
    if batch_rows < 1:
        raise ValueError(f"batch_rows must be at least 1, not {batch_rows}")
    _check_finite(queries, "query", 0)


def _check_finite(rows: np.ndarray, name: str, first_row: int) -> None:
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise ValueError(f"{name} {first_row + int(bad.argmax())} holds NaN or infinity; remove such vectors first")


def _blocks(database: VectorRows, batch_rows: int) -> Iterator[tuple[int, Shaped[np.ndarray, "n dim"]]]:
    for start in range(0, database.shape[0], batch_rows):
        block = np.asarray(database[start : start + batch_rows])
        _check_finite(block, "database vector", start)
        yield start, block


class _Centred:
    """Vectors moved to a new origin in float32, and their squared norms."""

    def __init__(self, rows: Shaped[np.ndarray, "n dim"], origin: Float64[np.ndarray, " dim"]) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            self.rows = (rows - origin).astype(np.float32)
            self.norms: Float64[np.ndarray, " n"] = np.einsum("ij,ij->i", self.rows, self.rows, dtype=np.float64)


class _Best:
    """The k best of every query so far: squared_l2 (nq, k) float64 ascending, ids (nq, k)."""

    def __init__(self, squared_l2: Float64[np.ndarray, "nq k"], ids: Int64[np.ndarray, "nq k"]) -> None:
        self.squared_l2, self.ids = squared_l2, ids

    @classmethod
    def empty(cls, num_queries: int, k: int) -> "_Best":
        return cls(np.full((num_queries, k), np.inf), np.full((num_queries, k), np.iinfo(np.int64).max))

    def part(self, queries: slice) -> "_Best":
        return _Best(self.squared_l2[queries], self.ids[queries])

    def merge(
        self, query: Int64[np.ndarray, " n"], squared_l2: Float64[np.ndarray, " n"], ids: Int64[np.ndarray, " n"]
    ) -> None:
        """Take in n pairs, given by ascending query."""
        k = self.ids.shape[1]
        touched = np.unique(query)
        owner = np.concatenate([np.repeat(touched, k), query])
        squared_l2 = np.concatenate([self.squared_l2[touched].ravel(), squared_l2])
        ids = np.concatenate([self.ids[touched].ravel(), ids])
        order = np.lexsort((ids, squared_l2, owner))
        firsts = np.searchsorted(owner[order], touched)
        kept = order[firsts[:, None] + np.arange(k)]
        self.squared_l2[touched], self.ids[touched] = squared_l2[kept], ids[kept]


def _search_block(
    queries: Shaped[np.ndarray, "nq dim"],
    centred_queries: _Centred,
    block: Shaped[np.ndarray, "n dim"],
    centred: _Centred,
    start: int,
    best: _Best,
) -> None:
    """Merge the rows of one block, ids from `start`, into the best of some queries."""
    k = best.ids.shape[1]
    # Ranking by |b|^2 - 2 q.b; the |q|^2 that is missing is the same for all rows.
    with np.errstate(over="ignore", invalid="ignore"):
        scores = centred_queries.rows @ (-2 * centred.rows).T
        scores += centred.norms.astype(np.float32)
        error = _score_error(centred_queries, centred, queries.shape[1])
        limit = best.squared_l2[:, -1] - centred_queries.norms + error
        if len(block) > k and np.isinf(best.squared_l2[:, -1]).any():
            limit = np.minimum(limit, np.partition(scores, k - 1, axis=1)[:, k - 1] + 2 * error)
        # Not (score > limit): a score that overflowed to NaN stays a candidate.
        query, row = np.nonzero(~(scores > np.nextafter(limit.astype(np.float32), np.float32(np.inf))[:, None]))
        for first in range(0, len(query), _PAIR_ROWS):
            some = slice(first, first + _PAIR_ROWS)
            differences = np.subtract(queries[query[some]], block[row[some]], dtype=np.float64)
            best.merge(query[some], np.einsum("ij,ij->i", differences, differences), row[some] + start)


def _score_error(queries: _Centred, rows: _Centred, dim: int) -> Float64[np.ndarray, " nq"]:
    """Bound on the rounding error of a float32 score, for any order of summation (Higham, gamma_n <= n eps).

    Infinite where float32 may overflow: nothing is ruled out then.
    """
    scale = (np.sqrt(queries.norms) + np.sqrt(rows.norms.max())) ** 2
    error = (dim + 8) * (_FLOAT32.eps * scale + _FLOAT32.tiny)
    return np.where(scale < _FLOAT32.max / 16, error, np.inf)
