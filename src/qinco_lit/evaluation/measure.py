"""Measure quantizers on a database in one streaming pass: error, recall, entropy, speed."""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer, Shaped

from qinco_lit.metrics import RECALL_AT, CodeCounts, NearestSoFar, SquaredError, recall_at
from qinco_lit.vectors import exact_neighbours
from qinco_lit.vectors.code_packing import distinct_rows, row_keys
from qinco_lit.vectors.neighbours import Metric, comparison
from qinco_lit.vectors.rows import Matrix

_WARM_UP_ROWS = 256


@runtime_checkable
class Measurable(Protocol):
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


@dataclass(frozen=True)
class TestSet:
    """What is compressed and searched.

    database: (n, dim) raw vectors; queries: (nq, dim) or None; ground_truth: (nq, >= 1) ids in the database, nearest
    first, or None; metric: what nearest means. For cosine, database and queries have unit length.
    """

    __test__ = False  # not a test class for pytest

    database: Matrix
    queries: Shaped[np.ndarray, "nq dim"] | None
    ground_truth: Integer[np.ndarray, "nq k"] | None
    metric: Metric = "l2"


def measure(
    quantizer: Measurable, test_set: TestSet, *, batch_size: int, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Encode and decode the whole database once and return plain figures.

    Memory is bounded by `batch_size` rows whatever the size of the database, and figures other than speeds do not
    depend on it.

    Args:
        quantizer: numpy in, numpy out.
        test_set: the data.
        batch_size: database vectors at a time.
        advance: is told the number of vectors finished since the last call.

    Returns:
        `Meter.figures`.

    Raises:
        ValueError: NaN or infinity in the database, or what the quantizer refuses.
    """
    meter = Meter(quantizer, test_set)
    for start, x in blocks(test_set.database, batch_size):
        meter.add(x, start)
        advance(len(x))
    return meter.figures()


def blocks(database: Matrix, batch_size: int) -> Iterator[tuple[int, Shaped[np.ndarray, "n dim"]]]:
    """Yield (first row, rows) of the whole database in order. Raises ValueError for NaN or infinity."""
    for start in range(0, int(database.shape[0]), batch_size):
        x = np.asarray(database[start : start + batch_size])
        bad = ~np.isfinite(x).all(axis=1)
        if bad.any():
            # a quantizer would refuse it too, but knows only the row within the block
            raise ValueError(f"database vector {start + int(bad.argmax())} holds NaN or infinity")
        yield start, x


class Meter:
    """Measures one quantizer on a database that arrives in blocks, in order, in memory that does not grow with it.

    Encoding and decoding are timed after a warm-up, without reading and without the other measurements; arrays come
    back in main memory, so that work on a GPU is waited for.

    Args:
        quantizer: numpy in, numpy out.
        test_set: what is searched for.
        prefixes: numbers of codes, fewer than the quantizer's: their reconstructions are searched, too.
    """

    def __init__(self, quantizer: Measurable, test_set: TestSet, *, prefixes: Collection[int] = ()) -> None:
        self._quantizer, self._test_set = quantizer, test_set
        self._counts = CodeCounts(quantizer.num_steps, quantizer.codebook_size)
        self._errors: list[SquaredError] = []
        self._num_rows, self._encode_s, self._decode_s = 0, 0.0, 0.0
        self._compared_by = comparison(test_set.metric)
        self._nearest: dict[int, NearestSoFar] = {}
        if test_set.queries is not None:
            for num_steps in {*prefixes, quantizer.num_steps}:
                nearest = NearestSoFar(len(test_set.queries), max(RECALL_AT), largest=self._compared_by == "ip")
                self._nearest[num_steps] = nearest

    def add(self, x: Shaped[np.ndarray, "n dim"], start: int) -> None:
        """Encode, decode and search the next rows of the database, of which `start` is the first."""
        if not self._num_rows:
            self._quantizer.decode(self._quantizer.encode(x[:_WARM_UP_ROWS]))
        began = time.perf_counter()
        codes = self._quantizer.encode(x)
        encoded = time.perf_counter()
        x_hat = self._quantizer.decode(codes)
        self._decode_s += time.perf_counter() - encoded
        self._encode_s += encoded - began
        self._num_rows += len(x)
        self._counts.add(codes[:, -self._quantizer.num_steps :])
        self._search(self._quantizer.num_steps, codes, x_hat, start)
        for place, prefix in enumerate(self._quantizer.decode_steps(codes)):
            if place == len(self._errors):
                self._errors.append(SquaredError())
            self._errors[place].add(x, prefix)
            if place + 1 < self._quantizer.num_steps:
                self._search(place + 1, codes, prefix, start)

    def figures(self) -> dict[str, Any]:
        """Figures of all rows so far, at all codes.

        `mse` (mean over vectors, sum over dimensions, raw space), `mse_per_step` (the same after 1..num_steps codes,
        None where prefixes cannot be decoded), `recall_at_1/10/100` (share of queries whose true neighbour is among the
        first k by exact search in the reconstructions, by squared L2 or, for ip and cosine, by inner product; equal
        codes are equally near, and of equally near vectors the earlier counts as nearer; None without queries), per
        step `entropy_bits` and the `unused_share` of codewords, `encode_vectors_per_s`, `decode_vectors_per_s`.
        """
        mse_per_step = [error.mean for error in self._errors]
        num_steps = self._quantizer.num_steps
        return {
            "mse": mse_per_step[-1],
            "mse_per_step": mse_per_step if len(mse_per_step) == num_steps else None,
            **self._recalls(num_steps),
            "entropy_bits": self._counts.entropy_bits.tolist(),
            "unused_share": self._counts.unused_share.tolist(),
            "encode_vectors_per_s": self._num_rows / self._encode_s,
            "decode_vectors_per_s": self._num_rows / self._decode_s,
        }

    def prefix_figures(self, num_steps: int) -> dict[str, float | None]:
        """`mse` and `recall_at_1/10/100` of the first `num_steps` codes, one of `prefixes`, of the same encoding."""
        return {"mse": self._errors[num_steps - 1].mean, **self._recalls(num_steps)}

    def _search(
        self,
        num_steps: int,
        codes: Integer[np.ndarray, "n columns"],
        x_hat: Shaped[np.ndarray, "n dim"],
        start: int,
    ) -> None:
        queries, nearest = self._test_set.queries, self._nearest.get(num_steps)
        if queries is not None and nearest is not None:
            read = codes[:, : codes.shape[1] - self._quantizer.num_steps + num_steps]
            first, place = distinct_rows(read)
            num_found = min(max(RECALL_AT), len(x_hat))
            scores, ids = exact_neighbours(queries, x_hat[first[place]], num_found, metric=self._compared_by)
            nearest.add(scores, ids + start, row_keys(read)[ids])

    def _recalls(self, num_steps: int) -> dict[str, float | None]:
        nearest, truth = self._nearest.get(num_steps), self._test_set.ground_truth
        if nearest is None or truth is None:
            return {f"recall_at_{k}": None for k in RECALL_AT}
        recalls = recall_at(nearest.ids, truth, RECALL_AT)
        return {f"recall_at_{k}": recalls[k] for k in RECALL_AT}
