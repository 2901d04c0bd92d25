"""Re-ranking: order a shortlist by better reconstructions of its vectors."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Integer
from torch import Tensor

from qinco_lit.search.plain_scan import Candidates
from qinco_lit.vectors.code_packing import distinct_rows

# codes and list ids to reconstructions in raw space
Decode = Callable[[Integer[np.ndarray, "n steps"], Int32[np.ndarray, " n"]], Float32[np.ndarray, "n dim"]]

_GATHERED_BYTES = 16 << 20  # reconstructions next to their queries, at a time


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
    taken = candidates.ids >= 0
    codes, list_ids = candidates.codes[taken][:, :num_steps], candidates.list_ids[taken]
    first, place = distinct_rows(np.column_stack([list_ids, codes]))
    x_hat = torch.from_numpy(decode(codes[first], list_ids[first]))
    worst = -np.inf if inner_product else np.inf
    scores = np.full(candidates.ids.shape, worst, dtype=np.float32)
    scores[taken] = _scores(queries, x_hat, taken, place, inner_product=inner_product)
    scores[np.isnan(scores)] = worst  # an inner product with infinite terms of both signs
    # equal codes have equal scores: the smaller id first, so that the same vectors are the same result; an empty place
    # comes after any vector, however far that is
    order = np.lexsort((candidates.ids, -scores if inner_product else scores, ~taken), axis=1)[:, :size]
    return Candidates(
        np.take_along_axis(scores, order, 1),
        np.take_along_axis(candidates.ids, order, 1),
        np.take_along_axis(candidates.list_ids, order, 1),
        np.take_along_axis(candidates.codes, order[:, :, None], 1),
    )


def _scores(
    queries: Float[np.ndarray, "queries dim"],
    x_hat: Float[Tensor, "unique dim"],
    taken: np.ndarray,
    place: Integer[np.ndarray, " pairs"],
    *,
    inner_product: bool,
) -> Float32[np.ndarray, " pairs"]:
    """Scores of all pairs of a query and a candidate of its own, in the order of `taken`."""
    rows = torch.from_numpy(np.repeat(np.arange(len(queries)), taken.sum(1)))
    columns, q = torch.from_numpy(place), torch.from_numpy(queries)
    step = max(1, _GATHERED_BYTES // (4 * queries.shape[1]))
    scores = torch.empty(len(rows))
    for start in range(0, len(rows), step):
        pairs = slice(start, start + step)
        ours, theirs = q[rows[pairs]], x_hat[columns[pairs]]
        values = (ours * theirs) if inner_product else ours.sub_(theirs).square_()
        torch.sum(values, 1, out=scores[pairs])
    return scores.numpy()
