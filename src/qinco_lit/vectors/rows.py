"""Vectors wherever they lie: a matrix of rows, in memory or a file, or divided by their norms as they are read."""

import hashlib
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64, Shaped

# Of a block that is normalised at once: float64 of it stays in the cache of a core.
_BLOCK_ITEMS = 1 << 16
_FINGERPRINT_BYTES = 64 << 20


@runtime_checkable
class RowSource(Protocol):
    """Rows of one file: read in order, or by row numbers."""

    def block(self, start: int, stop: int) -> Shaped[np.ndarray, "n dim"]:
        """Rows start..stop, 0 <= start <= stop <= num_rows, as a fresh array (n, dim)."""

    def gather(self, ids: Int64[np.ndarray, " n"]) -> Shaped[np.ndarray, "n dim"]:
        """Rows `ids`, all in 0..num_rows - 1, as a fresh array (n, dim)."""


class ArrayRows:
    """Rows of an array that is not copied; `block` and `gather` return fresh arrays, as from a file."""

    def __init__(self, array: Shaped[np.ndarray, "rows dim"]) -> None:
        self._array = array

    def block(self, start: int, stop: int) -> Shaped[np.ndarray, "n dim"]:
        """Rows start..stop, 0 <= start <= stop <= num_rows, as a fresh array (n, dim)."""
        return np.array(self._array[start:stop], order="C")

    def gather(self, ids: Int64[np.ndarray, " n"]) -> Shaped[np.ndarray, "n dim"]:
        """Rows `ids`, all in 0..num_rows - 1, as a fresh array (n, dim)."""
        return np.ascontiguousarray(self._array[ids])


class UnitRows:
    """Rows of a source in float32, each divided by its L2 norm; holds no rows."""

    def __init__(self, source: RowSource) -> None:
        self.source = source

    def block(self, start: int, stop: int) -> Float32[np.ndarray, "n dim"]:
        """Rows start..stop, 0 <= start <= stop <= num_rows, as a fresh array (n, dim)."""
        return unit_rows(self.source.block(start, stop))

    def gather(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
        """Rows `ids`, all in 0..num_rows - 1, as a fresh array (n, dim)."""
        return unit_rows(self.source.gather(ids))


def unit_rows(rows: Shaped[np.ndarray, "n dim"]) -> Float32[np.ndarray, "n dim"]:
    """Return vectors (n, dim) of any real dtype divided by their L2 norms, as a new array.

    Norms are summed in float64 from float32 components, so that they neither overflow nor underflow, and each row's
    result depends on that row alone. Rows of zeros stay zero; rows that hold NaN or infinity as float32 hold NaN.
    """
    units: Float32[np.ndarray, "n dim"] = np.empty(rows.shape, dtype=np.float32)
    step = max(1, _BLOCK_ITEMS // max(1, rows.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(rows), step):
            some = rows[start : start + step].astype(np.float32).astype(np.float64)
            norms = np.sqrt(np.einsum("ij,ij->i", some, some))
            norms[norms == 0] = 1
            units[start : start + step] = some / norms[:, None]
    return units


@runtime_checkable
class Matrix(Protocol):
    """Rows that are read by slices or by row numbers: an ndarray, a VectorFile."""

    @property
    def shape(self) -> Any:
        """(rows, dim)."""

    def __getitem__(self, key: Any, /) -> Any:
        """Rows as an array (n, dim)."""


def spaced_rows(vectors: Matrix, max_rows: int) -> Shaped[np.ndarray, "n dim"]:
    """Return at most `max_rows` rows, evenly spaced: neighbours in a file resemble each other."""
    num_rows = int(vectors.shape[0])
    if num_rows <= max_rows:
        return np.asarray(vectors[:])
    return np.asarray(vectors[np.arange(max_rows) * num_rows // max_rows])


def fingerprint(vectors: Matrix) -> str:
    """Hash of all rows, their dtype and shape; read once, in blocks. Two names for the same vectors are the same."""
    digest = hashlib.blake2b(digest_size=16)
    num_rows, dim = (int(size) for size in vectors.shape)
    step = max(1, _FINGERPRINT_BYTES // (8 * dim))
    digest.update(f"{num_rows} {dim}".encode())
    for start in range(0, num_rows, step):
        rows = np.ascontiguousarray(vectors[start : start + step])
        digest.update(rows.dtype.str.encode())
        digest.update(rows.data)
    return digest.hexdigest()
