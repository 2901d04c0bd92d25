"""Which rows of codes are equal: those have one reconstruction, and one distance to anything."""

import numpy as np
from jaxtyping import Int64, Integer, UInt64

_SEED = 0x51


def row_keys(rows: Integer[np.ndarray, "n columns"]) -> UInt64[np.ndarray, " n"]:
    """A number above 0 for each row: the same for equal rows, and all but surely another one for different ones."""
    factors = np.random.default_rng(_SEED).integers(1 << 63, size=(rows.shape[1],), dtype=np.uint64) * 2 + 1
    keys = np.zeros(len(rows), dtype=np.uint64)
    for column in range(rows.shape[1]):
        keys += rows[:, column].astype(np.uint64) * factors[column]
    return np.maximum(keys, 1)


def distinct_rows(
    rows: Integer[np.ndarray, "n columns"],
) -> tuple[Int64[np.ndarray, " distinct"], Int64[np.ndarray, " n"]]:
    """Where each different row comes first, and for every row which of those it is.

    What is computed of `rows[first]` and then taken at `place` is equal for equal rows bit for bit; a matrix product of
    all rows need not be, as its rounding may depend on a row's place and on the processor.
    """
    _, first, place = np.unique(row_keys(rows), return_index=True, return_inverse=True)
    if not np.array_equal(rows[first[place]], rows):  # two different rows of one key
        _, first, place = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, place.reshape(-1)
