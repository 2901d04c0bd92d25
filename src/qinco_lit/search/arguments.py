"""What a user gives a search, checked and cut to the size of the index: numbers, and rows of numpy or torch."""

import operator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from qinco_lit.arrays import as_vector_rows

_MIN_SHORTLIST = 100
_MIN_EF_SEARCH = 64


class Parameters(NamedTuple):
    """Of a search; none is larger than the index has use for.

    Attributes:
        k: results per query.
        nprobe: lists visited.
        ef_search: breadth of the search for them.
        num_additive: candidates after the additive stage.
        num_pairwise: after the pairwise stage; 0: there is none.
        num_steps: codes of a candidate that the full decoder reads.
    """

    k: int
    nprobe: int
    ef_search: int
    num_additive: int
    num_pairwise: int
    num_steps: int

    @classmethod
    def of(
        cls,
        k: int,
        nprobe: int | None,
        ef_search: int | None,
        num_additive: int | None,
        num_pairwise: int | None,
        num_steps: int | None,
        *,
        num_vectors: int,
        num_lists: int,
        stored_steps: int,
    ) -> "Parameters":
        """Take what was given, None for the defaults.

        Raises:
            ValueError: no whole number, or one that is too small; more steps than are stored.
        """
        k = whole_number("k", k)
        nprobe = None if nprobe is None else whole_number("nprobe", nprobe)
        ef_search = None if ef_search is None else whole_number("ef_search", ef_search)
        num_additive = _MIN_SHORTLIST if num_additive is None else whole_number("num_additive", num_additive)
        num_pairwise = 0 if num_pairwise is None else whole_number("num_pairwise", num_pairwise, least=0)
        num_steps = stored_steps if num_steps is None else whole_number("num_steps", num_steps)
        if num_steps > stored_steps:
            raise ValueError(f"num_steps={num_steps}: the index has {stored_steps} codes per vector")
        most = max(1, num_vectors)
        k = min(k, most)
        nprobe = min(nprobe or max(8, min(64, num_lists // 16)), num_lists)
        ef_search = min(ef_search or max(_MIN_EF_SEARCH, 2 * nprobe), max(_MIN_EF_SEARCH, num_lists))
        num_pairwise = min(max(num_pairwise, k), most) if num_pairwise else 0
        num_additive = min(max(num_additive, num_pairwise, k), most)
        return cls(k, nprobe, ef_search, num_additive, num_pairwise, num_steps)


def whole_number(name: str, value: Any, *, least: int = 1) -> int:
    """Return an integer of any type as an int.

    Raises:
        ValueError: no integer, or one below the least.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r}: give a whole number") from None
    if number < least:
        raise ValueError(f"{name}={number}: give at least {least}")
    return number


def as_matrix(rows: Any, dim: int, *, what: str, owner: str) -> Shaped[np.ndarray, "n dim"]:
    """Rows (n, dim) of numbers as an array: numpy as it is, torch from any device, without its gradient.

    Args:
        rows: array, tensor or nested sequence.
        dim: of the vectors.
        what: what the rows are called in messages.
        owner: what they do not fit.

    Raises:
        ValueError: no real numbers, or another shape.
    """
    dtype: Any
    if isinstance(rows, Tensor):
        dtype, real = rows.dtype, not rows.is_complex() and rows.dtype != torch.bool
        # numpy has no bfloat16
        array = (rows.float() if rows.dtype == torch.bfloat16 else rows).detach().cpu().numpy() if real else None
    else:
        array = np.asarray(as_vector_rows(rows, what))
        dtype, real = array.dtype, array.dtype.kind in "fiu"
    if array is None or not real:
        raise ValueError(f"{what} of dtype {dtype} are not supported: give float32 or uint8")
    if array.ndim != 2 or array.shape[1] != dim:
        raise ValueError(f"{what} of shape {array.shape} do not fit this {owner}: expected (n, {dim})")
    return array
