"""Rows from the user, numpy, torch or lists, as tensors that are safe to compute with."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from qinco_lit.vectors.layout import VECTOR_DTYPES

# raw rows (rows, dim) of any dtype of vectors, on any device, to the list of each (rows,) of an IVF model, int64
AssignLists = Callable[[Tensor], Tensor]

_VECTOR_DTYPES = (*(getattr(torch, name) for name in VECTOR_DTYPES), torch.bfloat16)  # numpy has none of that name


@runtime_checkable
class ArrayLike(Protocol):
    """Rows to slice: a numpy array, a torch tensor, or vectors mapped from a file."""

    @property
    def shape(self) -> Sequence[int]:
        """(rows, columns)."""

    def __getitem__(self, rows: slice, /) -> Any:
        """A contiguous range of rows."""


Rows = ArrayLike | Sequence[Any]  # what users may give: also lists, of lists or numbers


def as_rows(rows: Rows, what: str) -> ArrayLike:
    """Rows to slice: nested sequences of numbers become an array, everything else is taken as it is.

    Raises:
        ValueError: sequences that are no array; the message says `what` they are.
    """
    if isinstance(rows, np.ndarray | Tensor | ArrayLike):  # the last alone would do, but is slow to look at
        return rows
    try:
        return np.asarray(rows)
    except (TypeError, ValueError):
        raise ValueError(f"{what} are no array of numbers: give an array, or lists of one length") from None


def as_vector_rows(rows: Rows, what: str) -> ArrayLike:
    """Vectors to slice; numbers in lists have no type of their own, so integers in them are float32.

    Raises:
        ValueError: as `as_rows`.
    """
    x = as_rows(rows, what)
    return x.astype(np.float32) if isinstance(x, np.ndarray) and x is not rows and x.dtype.kind == "i" else x


def as_vectors(rows: Rows, dim: int, *, least: int = 0) -> ArrayLike:
    """Vectors (n, dim) to slice; `least` is the smallest n, 0 or 1.

    Raises:
        ValueError: another shape.
    """
    x = as_vector_rows(rows, "vectors")
    if len(x.shape) != 2 or x.shape[1] != dim or x.shape[0] < least:
        expected = f"expected (n, {dim}){', n > 0' * least}"
        raise ValueError(f"vectors of shape {tuple(x.shape)} do not fit this codec: {expected}")
    return x


def as_list_ids(list_ids: Rows, what: str, shape: tuple[int, ...]) -> ArrayLike:
    """List ids to slice, one for each row of an array of this shape; `what` it is goes into the message.

    Raises:
        ValueError: another shape.
    """
    ids = as_rows(list_ids, "list_ids")
    if tuple(ids.shape) != shape[:1]:
        raise ValueError(f"list_ids of shape {tuple(ids.shape)} do not fit {what} of shape {shape}")
    return ids


def as_float32(rows: Any, device: torch.device, first_row: int) -> Tensor:
    """Vectors as float32 on the device.

    Raises:
        ValueError: a dtype that holds no vectors, or NaN or infinity, named by row (the first one is `first_row`).
    """
    tensor = rows if isinstance(rows, Tensor) else _as_tensor(rows)
    if tensor.dtype not in _VECTOR_DTYPES:
        raise ValueError(f"vectors of dtype {tensor.dtype} are not supported: give float32 or uint8")
    if tensor.is_floating_point():
        # where they are: to ask a GPU about rows from main memory would be to wait for all that it has to do
        finite = torch.isfinite(tensor.float()).all(dim=1)
        if not bool(finite.all()):
            row = first_row + int((~finite).nonzero()[0])
            raise ValueError(f"vector {row} holds NaN or infinity (after conversion to float32)")
    return tensor.to(device, non_blocking=True).float()


def as_int64(values: Any, device: torch.device, what: str, expected: str) -> Tensor:
    """Integers on the device.

    Raises:
        ValueError: another kind of number; the message says `what` they are and which dtype is `expected`.
    """
    tensor = values if isinstance(values, Tensor) else _as_tensor(values)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{what} of dtype {tensor.dtype} are refused: expected {expected}")
    return tensor.to(device).to(torch.int64)


def always_below(values: ArrayLike, limit: int) -> bool:
    """Whether their dtype has nothing out of range: any byte of 256 codes. To look at them would wait for a GPU."""
    return limit >= 256 and values[0:0].dtype in (np.uint8, torch.uint8)


def check_range(
    values: Int[Tensor, "..."], limit: int, *, word: str, option: str, first_row: int | None = None
) -> None:
    """Check that integers are from 0 to below the limit.

    Args:
        values: codes, or list ids; (rows, columns) where `first_row` is given.
        limit: the value of `option`.
        word: what one of the values is called.
        option: whose value the limit is.
        first_row: number of the first row, for the message; None: it names no row.

    Raises:
        ValueError: names the first value out of range, by row, and that of a code by step.
    """
    bad = (values < 0) | (values >= limit)
    if bool(bad.any()):
        if first_row is None:
            raise ValueError(f"{word} {int(values[bad][0])} is out of range: {option} is {limit}")
        row, column = (int(i) for i in bad.nonzero()[0])
        where = f"row {first_row + row}" + (f", step {column}" if word == "code" else "")
        raise ValueError(f"{word} {int(values[row, column])} at {where} is out of range: {option} is {limit}")


def _as_tensor(rows: Any) -> Tensor:
    array = np.asarray(rows)
    if array.dtype.kind not in "uif" or array.dtype.itemsize > 8:
        raise ValueError(
            f"arrays of dtype {array.dtype} are not supported: give float32 or uint8 (codes: uint8 or uint16)"
        )
    # a copy where torch would warn (read-only maps) or fail (foreign byte order, negative strides, a second name of C)
    native = np.dtype(f"{array.dtype.kind}{array.dtype.itemsize}")
    return torch.from_numpy(np.require(array, native, ["C", "W"]))
