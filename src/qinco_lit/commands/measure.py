"""Measure one quantizer on a database in one streaming pass: error, recall, entropy, speed."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer, Shaped

from qinco_lit.metrics import CodeCounts, NearestSoFar, SquaredError, recall_at
from qinco_lit.vectors import exact_neighbours
from qinco_lit.vectors.metric import Metric, comparison

RECALL_AT = (1, 10, 100)
_WARM_UP_ROWS = 256


@runtime_checkable
class Quantizer(Protocol):
    """What is measured: a codec, a baseline."""

    @property
    def num_steps(self) -> int:
        """Codes per vector."""

    @property
    def codebook_size(self) -> int:
        """Values a code can take."""

    def encode(self, x: Any) -> Any:
        """Codes (n, num_steps) of raw vectors (n, dim); what else decoding needs may come in columns before them."""

    def decode(self, codes: Any) -> Any:
        """Reconstructions (n, dim) in raw space."""

    def decode_steps(self, codes: Any) -> Iterator[Any]:
        """Reconstructions after 1..num_steps codes, or only the last one when a prefix of the codes means nothing."""


@runtime_checkable
class Rows(Protocol):
    """A matrix of vectors that is read by slices of rows: an ndarray, a VectorFile."""

    @property
    def shape(self) -> Any:
        """(rows, dim)."""

    def __getitem__(self, key: slice, /) -> Any:
        """Rows as an array (n, dim)."""


@dataclass(frozen=True)
class TestSet:
    """What is compressed and searched.

    database: (n, dim) raw vectors; queries: (nq, dim) or None; ground_truth: (nq, >= 1) ids in the database, nearest
    first, or None; metric: what nearest means. For cosine, database and queries have unit length.
    """

    __test__ = False  # not a test class for pytest

    database: Rows
    queries: Shaped[np.ndarray, "nq dim"] | None
    ground_truth: Integer[np.ndarray, "nq k"] | None
    metric: Metric = "l2"


def measure(
    quantizer: Quantizer, test_set: TestSet, *, batch_size: int, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Encode and decode the whole database once and return plain figures.

    Memory is bounded by `batch_size` rows whatever the size of the database, and figures other than speeds do not
    depend on it. Encoding and decoding are timed after a warm-up, without reading and without the other measurements;
    arrays come back in main memory, so that work on a GPU is waited for.

    Args:
        quantizer: numpy in, numpy out.
        test_set: the data.
        batch_size: database vectors at a time.
        advance: is told the number of vectors finished since the last call.

    Returns:
        `mse` (mean over vectors, sum over dimensions, raw space), `mse_per_step` (the same after 1..num_steps codes,
        None where prefixes cannot be decoded), `recall_at_1/10/100` (share of queries whose true neighbour is among the
        first k by exact search in the reconstructions, by squared L2 or, for ip and cosine, by inner product; None
        without queries), per step `entropy_bits` and the `unused_share` of codewords, `encode_vectors_per_s`,
        `decode_vectors_per_s`.

    Raises:
        ValueError: NaN or infinity in the database, or what the quantizer refuses.
    """
    counts = CodeCounts(quantizer.num_steps, quantizer.codebook_size)
    errors: list[SquaredError] = []
    queries = test_set.queries
    compared_by = comparison(test_set.metric)
    nearest = None
    if queries is not None:
        nearest = NearestSoFar(len(queries), max(RECALL_AT), largest=compared_by == "ip")
    num_rows = int(test_set.database.shape[0])
    encode_s = decode_s = 0.0
    for start in range(0, num_rows, batch_size):
        x = np.asarray(test_set.database[start : start + batch_size])
        _check_finite(x, start)
        if start == 0:
            quantizer.decode(quantizer.encode(x[:_WARM_UP_ROWS]))
        began = time.perf_counter()
        codes = quantizer.encode(x)
        encoded = time.perf_counter()
        x_hat = quantizer.decode(codes)
        decode_s += time.perf_counter() - encoded
        encode_s += encoded - began
        counts.add(codes[:, -quantizer.num_steps :])
        _add_errors(errors, x, quantizer.decode_steps(codes))
        if queries is not None and nearest is not None:
            scores, ids = exact_neighbours(queries, x_hat, min(max(RECALL_AT), len(x_hat)), metric=compared_by)
            nearest.add(scores, ids + start)
        advance(len(x))
    mse_per_step = [error.mean for error in errors]
    return {
        "mse": mse_per_step[-1],
        "mse_per_step": mse_per_step if len(mse_per_step) == quantizer.num_steps else None,
        **_recalls(nearest, test_set),
        "entropy_bits": counts.entropy_bits.tolist(),
        "unused_share": counts.unused_share.tolist(),
        "encode_vectors_per_s": num_rows / encode_s,
        "decode_vectors_per_s": num_rows / decode_s,
    }


def _check_finite(x: Shaped[np.ndarray, "n dim"], first_row: int) -> None:
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        # a quantizer would refuse it too, but knows only the row within the block
        raise ValueError(f"database vector {first_row + int(bad.argmax())} holds NaN or infinity")


def _add_errors(errors: list[SquaredError], x: Shaped[np.ndarray, "n dim"], steps: Iterator[Any]) -> None:
    for step, x_hat in enumerate(steps):
        if step == len(errors):
            errors.append(SquaredError())
        errors[step].add(x, x_hat)


def _recalls(nearest: NearestSoFar | None, test_set: TestSet) -> dict[str, float | None]:
    if nearest is None or test_set.ground_truth is None:
        return {f"recall_at_{k}": None for k in RECALL_AT}
    recalls = recall_at(nearest.ids, test_set.ground_truth, RECALL_AT)
    return {f"recall_at_{k}": recalls[k] for k in RECALL_AT}
