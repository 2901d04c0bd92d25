"""Squared error, recall, code entropy, Pareto fronts: pure functions, and accumulators for data in blocks."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, Integer, Shaped, UInt64

# The k of R@k that evaluations report.
RECALL_AT = (1, 10, 100)

_Item = TypeVar("_Item")


class SquaredError:
    """Running mean over vectors of the squared error summed over dimensions, float64.

    The unit is that of the vectors squared: give raw vectors for the papers' MSE.
    """

    def __init__(self) -> None:
        self._sum = 0.0
        self._num_vectors = 0

    def add(self, x: Shaped[np.ndarray, "n dim"], x_hat: Shaped[np.ndarray, "n dim"]) -> None:
        """Take in vectors of any real dtype and their reconstructions."""
        # float64 before the subtraction: uint8 would wrap around
        difference = np.subtract(x, x_hat, dtype=np.float64)
        self._sum += float(np.einsum("ij,ij->", difference, difference))
        self._num_vectors += len(x)

    @property
    def mean(self) -> float:
        """MSE of all vectors so far. ValueError if there were none."""
        if self._num_vectors == 0:
            raise ValueError("the squared error of 0 vectors is not defined")
        return self._sum / self._num_vectors


def mean_squared_error(x: Shaped[np.ndarray, "n dim"], x_hat: Shaped[np.ndarray, "n dim"]) -> float:
    """Mean over vectors of the SUM over dimensions of squared error, in the space the vectors are given in.

    Both are (n, dim) of any real dtype; sums are float64. The papers report it in raw space. ValueError for n = 0.
    """
    error = SquaredError()
    error.add(x, x_hat)
    return error.mean


def recall_at(
    ids: Integer[np.ndarray, "nq k"], ground_truth: Integer[np.ndarray, "nq _"], ks: Sequence[int]
) -> dict[int, float]:
    """R@k: share in 0..1 of queries whose true nearest neighbour is among the first k results, for every k of `ks`.

    `ids` are results, best first (-1 where there was none); the first column of `ground_truth` is the true neighbour.
    ValueError for no queries, or a k beyond the results.
    """
    num_queries, num_results = ids.shape
    if num_queries == 0:
        raise ValueError("the recall of 0 queries is not defined")
    for k in ks:
        if not 1 <= k <= num_results:
            raise ValueError(f"recall@{k} needs 1 <= k <= {num_results}, the number of results per query")
    hits = ids == ground_truth[:, :1]
    return {k: float(hits[:, :k].any(axis=1).mean()) for k in ks}


def entropy_bits(counts: Integer[np.ndarray, "num_steps codebook_size"]) -> Float64[np.ndarray, " num_steps"]:
    """Entropy of the codes of every step in bits, from how often each codeword was used; 0 for a step without codes."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # 0 log 0 = 0
    terms = np.where(share > 0, share * -np.log2(np.where(share > 0, share, 1.0)), 0.0)
    return np.asarray(terms.sum(axis=1), dtype=np.float64)


class CodeCounts:
    """How often every codeword of every step was used, and what follows from it.

    Args:
        num_steps: codes per vector.
        codebook_size: values a code can take.
    """

    def __init__(self, num_steps: int, codebook_size: int) -> None:
        self.counts: Int64[np.ndarray, "num_steps codebook_size"] = np.zeros((num_steps, codebook_size), dtype=np.int64)

    def add(self, codes: Integer[np.ndarray, "n num_steps"]) -> None:
        """Count codes (n, num_steps). ValueError for another number of steps or a code beyond the codebook."""
        num_steps, codebook_size = self.counts.shape
        if codes.shape[1] != num_steps:
            raise ValueError(f"codes have {codes.shape[1]} steps, expected {num_steps}")
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < codebook_size:
            raise ValueError(f"codes {codes.min()}..{codes.max()} are outside a codebook of {codebook_size} codewords")
        for step in range(num_steps):
            self.counts[step] += np.bincount(codes[:, step], minlength=codebook_size)

    @property
    def entropy_bits(self) -> Float64[np.ndarray, " num_steps"]:
        """Entropy of the codes of every step, bits; log2(codebook_size) when all codewords are used equally."""
        return entropy_bits(self.counts)

    @property
    def unused_share(self) -> Float64[np.ndarray, " num_steps"]:
        """Share in 0..1 of the codewords of every step that were never used."""
        return np.asarray((self.counts == 0).mean(axis=1), dtype=np.float64)


class NearestSoFar:
    """The k nearest database vectors of every query, over blocks of the database that arrive in order.

    `scores` (nq, k) float32, the nearest first: squared L2 ascending, inf where there is none yet; with `largest`
    inner products descending, -inf there. `ids` (nq, k) int64, -1 there. Of equal scores the earlier one comes first.
    Vectors of one key (above 0) are equal, whatever rounding says: they have the score of the earliest that is kept.
    """

    def __init__(self, num_queries: int, k: int, *, largest: bool = False) -> None:
        self._sign = np.float32(-1 if largest else 1)
        self.scores: Float32[np.ndarray, "nq k"] = np.full((num_queries, k), self._sign * np.inf, dtype=np.float32)
        self.ids: Int64[np.ndarray, "nq k"] = np.full((num_queries, k), -1, dtype=np.int64)
        self._keys: UInt64[np.ndarray, "nq k"] = np.zeros((num_queries, k), dtype=np.uint64)

    def add(
        self,
        scores: Float[np.ndarray, "nq n"],
        ids: Int64[np.ndarray, "nq n"],
        keys: UInt64[np.ndarray, "nq n"],
    ) -> None:
        """Take in the nearest of one block, the nearest first: their scores, ids in the whole database, and keys."""
        k = self.ids.shape[1]
        all_ids = np.concatenate([self.ids, ids], axis=1)
        all_keys = np.concatenate([self._keys, keys], axis=1)
        all_scores = _of_the_first(np.concatenate([self.scores, scores.astype(np.float32)], axis=1), all_keys)
        order = np.argsort(self._sign * all_scores, axis=1, kind="stable")[:, :k]
        self.scores = np.take_along_axis(all_scores, order, axis=1)
        self.ids = np.take_along_axis(all_ids, order, axis=1)
        self._keys = np.take_along_axis(all_keys, order, axis=1)


def _of_the_first(scores: Float32[np.ndarray, "nq n"], keys: UInt64[np.ndarray, "nq n"]) -> Float32[np.ndarray, "nq n"]:
    """Scores, but of those with one key that of the first."""
    order = np.argsort(keys, axis=1, kind="stable")
    ordered = np.take_along_axis(keys, order, axis=1)
    begins = np.ones(keys.shape, dtype=bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    begin = np.maximum.accumulate(np.where(begins, np.arange(keys.shape[1]), 0), axis=1)
    shared = np.empty_like(scores)
    firsts = np.take_along_axis(order, begin, axis=1)
    np.put_along_axis(shared, order, np.take_along_axis(scores, firsts, axis=1), axis=1)
    return shared


def undominated(items: Iterable[_Item], cost: Callable[[_Item], float], loss: Callable[[_Item], float]) -> list[_Item]:
    """Return what nothing else beats in one of two values and equals in the other, both the smaller the better.

    By rising cost. Of items equal in both the first is taken, one with a value that is infinite or NaN never.
    """
    valued = [(cost(each), loss(each), each) for each in items]
    known = [row for row in valued if row[0] < np.inf and row[1] < np.inf]
    front, lowest = [], np.inf
    for _, lost, each in sorted(known, key=lambda row: row[:2]):
        if lost < lowest:
            front.append(each)
            lowest = lost
    return front
