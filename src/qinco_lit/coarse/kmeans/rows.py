"""Rows of k-means, read in blocks, and the threads that work on these, in order.

What is computed does not depend on how many threads there are: each block is computed by one.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int64

from qinco_lit.vectors.layout import check_vector_dtype
from qinco_lit.vectors.vector_file import read_ahead

Piece = TypeVar("Piece")
Result = TypeVar("Result")

# Rows that are assigned together, whatever reads them: the result depends on it through rounding only.
BLOCK_ROWS = 16_384
# Neighbours in a file resemble each other; this many of them are read at a time where not all rows are used.
_RUN_ROWS, _MIN_RUNS = 256, 16
_MEAN_ROWS = 4_096


@runtime_checkable
class VectorRows(Protocol):
    """A matrix of vectors that is read by slices and by row numbers: an ndarray, a VectorFile."""

    @property
    def shape(self) -> Any:
        """(rows, dim)."""

    @property
    def dtype(self) -> Any:
        """Dtype of the rows."""

    def __getitem__(self, key: Any, /) -> Any:
        """Rows as an array (n, dim)."""


class CentredRows:
    """At most so many rows of `vectors`, evenly spaced runs of them, numbered from 0, float32, minus `origin`.

    Raises:
        ValueError: a dtype that holds no vectors, or at reading a row with NaN or infinity, named by its place in
            `vectors`.
    """

    def __init__(
        self, vectors: VectorRows, max_rows: int, *, origin: Float32[np.ndarray, " dim"] | None = None
    ) -> None:
        check_vector_dtype(np.dtype(vectors.dtype), getattr(vectors, "path", None))
        self._vectors = vectors
        total, self.dim = (int(size) for size in vectors.shape)
        self.num_rows = min(max_rows, total)
        self._run_rows = max(1, min(_RUN_ROWS, self.num_rows // _MIN_RUNS))
        self._num_runs = -(-self.num_rows // self._run_rows)
        self._left_out = total - self.num_rows
        self.origin = self._mean() if origin is None else origin

    def fewer(self, max_rows: int) -> "CentredRows":
        """At most so many rows of the same vectors, minus the same origin."""
        return CentredRows(self._vectors, max_rows, origin=self.origin)

    @property
    def num_blocks(self) -> int:
        """Blocks of BLOCK_ROWS rows, the last one possibly shorter."""
        return -(-self.num_rows // BLOCK_ROWS)

    def blocks(self) -> Iterator[Float32[np.ndarray, "rows dim"]]:
        """All rows in order, a block at a time; the next one is read while the caller works with this one."""
        return read_ahead(self._block, range(self.num_blocks))

    def take(self, rows: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
        """Rows by their numbers."""
        places = self._place(rows)
        return self._finite(np.asarray(self._vectors[places]), places)

    def spread(self, num_rows: int) -> Float32[np.ndarray, "n dim"]:
        """At most so many rows, evenly spaced."""
        count = min(num_rows, self.num_rows)
        return self.take(np.arange(count, dtype=np.int64) * self.num_rows // count)

    def _block(self, block: int) -> Float32[np.ndarray, "rows dim"]:
        rows = np.arange(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, self.num_rows), dtype=np.int64)
        places = self._place(rows)
        ends = np.flatnonzero(np.diff(places) != 1) + 1
        parts = [
            np.asarray(self._vectors[int(run[0]) : int(run[-1]) + 1]) for run in np.split(places, ends) if len(run)
        ]
        return self._finite(parts[0] if len(parts) == 1 else np.concatenate(parts), places)

    def _place(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Places in `vectors`, ascending as the rows are."""
        return np.asarray(rows + rows // self._run_rows * self._left_out // max(1, self._num_runs - 1))

    def _finite(self, rows: np.ndarray, places: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
        with np.errstate(over="ignore"):
            found = rows.astype(np.float32)
        bad = ~np.isfinite(found).all(axis=1)
        if bad.any():
            row = int(places[int(bad.argmax())])
            raise ValueError(f"training vector {row} holds NaN or infinity (as float32): repair or remove it")
        found -= self.origin
        return np.asarray(found)

    def _mean(self) -> Float32[np.ndarray, " dim"]:
        """Mean of some rows: squared L2 do not depend on the origin, but their rounding error does."""
        self.origin = np.zeros(self.dim, np.float32)
        return np.asarray(self.spread(_MEAN_ROWS).mean(axis=0, dtype=np.float64), np.float32)


class Workers:
    """Threads that each compute with one core; while they exist, torch's own threads are one.

    On a GPU there is one worker: the products of a block fill the device.
    """

    def __init__(self, num_threads: int, device: torch.device) -> None:
        self.num_threads = num_threads if device.type == "cpu" else 1
        self.device = device

    def __str__(self) -> str:
        return f"{self.num_threads} threads" if self.device.type == "cpu" else str(self.device)

    def __enter__(self) -> "Workers":
        self._torch_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(
            self.num_threads, thread_name_prefix="k-means", initializer=torch.set_num_threads, initargs=(1,)
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._torch_threads)

    def in_order(self, work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Iterator[tuple[Piece, Result]]:
        """Yield each piece and work(piece), in order; few pieces more than there are threads are held."""
        waiting: deque[tuple[Piece, Future[Result]]] = deque()
        for piece in pieces:
            waiting.append((piece, self._pool.submit(work, piece)))
            if len(waiting) > self.num_threads:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
