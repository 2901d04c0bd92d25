"""Vectors wherever they lie: an array, or a file of them."""

import hashlib
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

_FINGERPRINT_BYTES = 64 << 20


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
