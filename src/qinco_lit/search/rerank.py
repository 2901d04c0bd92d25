"""Re-ranking: order a shortlist by better reconstructions of its vectors."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64, Integer
from torch import Tensor

from qinco_lit.search.plain_scan import Candidates
from qinco_lit.vectors.code_packing import distinct_rows

# codes and list ids to reconstructions in raw space
Decode = Callable[[Integer[np.ndarray, "n steps"], Int32[np.ndarray, " n"]], Float32[np.ndarray, "n dim"]]

_GATHERED_BYTES = 16 << 20  # reconstructions next to their queries, at a time


class Pairs:
    """Queries and candidates that are in the running: at first all places of the shortlists that hold a vector.

    Attributes:
        flat: places in the shortlists, row after row.
        queries: the query of each pair.
        place: the row of what is decoded that belongs to each.
    """

    def __init__(self, candidates: Candidates) -> None:
        self._candidates = candidates
        self.flat: Int64[np.ndarray, " pairs"] = np.flatnonzero(candidates.ids >= 0)
        self.queries = self.flat // max(1, candidates.ids.shape[1])
        self.place: Int64[np.ndarray, " pairs"] = self.flat

    def distinct(self, num_steps: int | None) -> tuple[Integer[np.ndarray, "n steps"], Int32[np.ndarray, " n"]]:
        """Codes and list ids of what has to be decoded; vectors of equal ones, and of several shortlists, are once."""
        codes = self._candidates.codes.reshape(-1, self._candidates.codes.shape[2])[self.flat, :num_steps]
        list_ids = self._candidates.list_ids.ravel()[self.flat]
        first, self.place = distinct_rows(np.column_stack([list_ids, codes]))
        return codes[first], list_ids[first]

    def keep(self, kept: np.ndarray) -> None:
        """Go on with these pairs only."""
        self.flat, self.queries, self.place = self.flat[kept], self.queries[kept], self.place[kept]

    def kth_smallest(self, values: Float32[np.ndarray, " pairs"], k: int) -> Float32[np.ndarray, " queries"]:
        """The k-th smallest value of each query's pairs; infinity where it has fewer."""
        every = np.full(self._candidates.ids.shape, np.inf, dtype=np.float32)
        every.reshape(-1)[self.flat] = values
        every.partition(k - 1, axis=1)
        return every[:, k - 1]

    def scores(
        self, queries: Float[Tensor, "queries dim"], x_hat: Float[Tensor, "n dim"], *, inner_product: bool
    ) -> Float32[np.ndarray, " pairs"]:
        """Squared L2 between queries and what was decoded, or inner products with it."""
        rows, columns = torch.from_numpy(self.queries), torch.from_numpy(self.place)
        step = max(1, _GATHERED_BYTES // (4 * queries.shape[1]))
        scores = torch.empty(len(rows))
        for start in range(0, len(rows), step):
            pairs = slice(start, start + step)
            ours, theirs = queries.index_select(0, rows[pairs]), x_hat.index_select(0, columns[pairs])
            values = (ours * theirs) if inner_product else ours.sub_(theirs).square_()
            torch.sum(values, 1, out=scores[pairs])
        return scores.numpy()

    def best(self, scores: Float32[np.ndarray, " pairs"], size: int, *, inner_product: bool) -> Candidates:
        """The `size` best candidates of each query by their scores; what is not in the running comes last."""
        candidates = self._candidates
        shape, worst = candidates.ids.shape, -np.inf if inner_product else np.inf
        every, out = np.full(shape, worst, dtype=np.float32), np.ones(shape, dtype=bool)
        every.reshape(-1)[self.flat], out.reshape(-1)[self.flat] = scores, False
        every[np.isnan(every)] = worst  # an inner product with infinite terms of both signs
        # equal codes have equal scores: the smaller id first, so that the same vectors are the same result; an empty
        # place comes after any vector, however far that is
        order = np.lexsort((candidates.ids, -every if inner_product else every, out), axis=1)[:, :size]
        rows = np.arange(shape[0])[:, None]
        return Candidates(
            every[rows, order], candidates.ids[rows, order], candidates.list_ids[rows, order],
            candidates.codes[rows, order],
        )  # fmt: skip


def rerank(
    queries: Float[np.ndarray, "queries dim"],
    candidates: Candidates,
    size: int,
    decode: Decode,
    *,
    inner_product: bool,
    num_steps: int | None = None,
) -> Candidates:
    """The `size` best candidates of each query by squared L2 to (or inner product with) what `decode` gives.

    Vectors of equal codes, and one that is on several shortlists of the batch, are decoded once. Scores are exact in
    float32: differences are squared, not expanded. Those that float32 cannot hold are infinite.

    Args:
        queries: raw space.
        candidates: places with id -1 stay last, with an infinite score.
        size: at least 1, at most that of the shortlists.
        decode: reconstructions of vectors by their codes and list ids.
        inner_product: whether larger is better.
        num_steps: codes that are decoded, the first ones; None: all.
    """
    pairs = Pairs(candidates)
    x_hat = torch.from_numpy(decode(*pairs.distinct(num_steps)))
    scores = pairs.scores(torch.from_numpy(queries), x_hat, inner_product=inner_product)
    return pairs.best(scores, size, inner_product=inner_product)
