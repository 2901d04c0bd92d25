"""An array in memory as a file of vectors, so that what streams files takes arrays, too."""

import os
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from qinco_lit.vectors.layout import Layout
from qinco_lit.vectors.vector_dtypes import check_vector_dtype
from qinco_lit.vectors.vector_file import VectorFile, open_vectors


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


def as_vectors_file(x: Any, name: str = "x") -> VectorFile:
    """What the user gives as vectors, as rows that are streamed: a `VectorFile`, a path, or an array in memory.

    Args:
        x: a VectorFile, what `open_vectors` opens, or (n, dim) numbers: numpy, a torch tensor on the CPU, or lists.
            An array is not copied: it must not change while it is in use.
        name: of the argument, for messages.

    Raises:
        FileNotFoundError: a missing file.
        ValueError: no file of vectors, or an array that is not (n, dim), is empty, or is of no dtype of vectors.
    """
    if isinstance(x, VectorFile):
        return x
    if isinstance(x, str | os.PathLike):
        return open_vectors(x)
    try:
        array = np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:  # tensors on a GPU, of bfloat16, or with gradients
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{name}: no array, file of vectors or tensor on the CPU ({reason})") from None
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}: give vectors (n, dim)")
    check_vector_dtype(array.dtype, name)
    layout = Layout(
        path=f"{name} (an array)", file="", file_bytes=array.nbytes, dtype=array.dtype, num_rows=len(array),
        dim=array.shape[1], offset=None, row_stride=array.shape[1] * array.dtype.itemsize,
    )  # fmt: skip
    return VectorFile(layout, ArrayRows(array.astype(array.dtype.newbyteorder("="), copy=False)), 0, len(array))
