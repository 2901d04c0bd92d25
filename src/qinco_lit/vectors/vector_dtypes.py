"""Which dtypes are vectors: one answer for training, encoding, measuring and indexing."""

import numpy as np

# As numpy and torch call them. Wider integers are ids or codes, and float32 would not hold all of them.
VECTOR_DTYPES = ("uint8", "int8", "float16", "float32", "float64")


def check_vector_dtype(dtype: np.dtype, path: str | None = None) -> None:
    """Raise ValueError unless a dtype, of the file `path`, is one of vectors."""
    if dtype.name not in VECTOR_DTYPES:
        where = "" if path is None else f"{path}: "
        raise ValueError(f"{where}vectors of dtype {dtype.name} are not supported: give float32 or uint8")
