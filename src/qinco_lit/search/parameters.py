"""What a user gives a search: its parameters, cut to the size of the index; rows and ids of numpy, torch or lists."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from qinco_lit.arrays import as_vector_rows
from qinco_lit.options import unknown

_MIN_SHORTLIST = 100
_MIN_EF_SEARCH = 64
_REFINED = 10
_LARGEST_ID = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class SearchParameters:
    """What a search does, which buys recall with time. None takes the default; larger than of use counts as that.

    Attributes:
        nprobe: lists visited; None: a sixteenth of them, from 8 to 64.
        ef_search: breadth of the search for these lists in the HNSW graph; None: twice nprobe, at least 64.
        num_additive: vectors with the best additive distances that go on; None: 100, or what follows if larger.
        num_pairwise: of these, how many the pairwise decoder lets pass to the full decoder; 0: all of them
            (None: all, too). Each number is raised to that of the following stage, and to k.
        num_steps: codes of each of these that the full decoder reads, the first ones: fewer take less time and give
            distances to coarser reconstructions. None: all.
        num_refine: of the decoded vectors, how many the original ones rank anew where a search has these; None: 10, or
            k if larger; 0: none.
    """

    nprobe: int | None = None
    ef_search: int | None = None
    num_additive: int | None = None
    num_pairwise: int | None = None
    num_steps: int | None = None
    num_refine: int | None = None

    @classmethod
    def of(cls, values: Mapping[str, int | None]) -> "SearchParameters":
        """Those of these names. Raises ValueError for a name that none has."""
        for name in values:
            if name not in cls.names():
                raise unknown("parameter", name, cls.names())
        return cls(**values)

    @classmethod
    def names(cls) -> list[str]:
        """Of all parameters."""
        return [field.name for field in fields(cls)]

    @classmethod
    def least(cls, name: str) -> int:
        """The smallest value of a parameter."""
        return 0 if name in ("num_pairwise", "num_refine") else 1

    def resolved(
        self, k: int, *, num_vectors: int, num_lists: int, stored_steps: int, has_pairwise: bool, refines: bool = False
    ) -> "ResolvedParameters":
        """These parameters for `k` results of an index; `refines`: of original vectors, which the search has.

        Raises:
            ValueError: no whole number, or one that is too small; more steps than are stored; a pairwise stage of an
                index that has none; vectors to refine without the originals.
        """
        k = whole_number("k", k)
        given: dict[str, int | None] = {}
        for name in self.names():
            value = getattr(self, name)
            given[name] = None if value is None else whole_number(name, value, least=self.least(name))
        num_pairwise, num_steps = given["num_pairwise"] or 0, given["num_steps"] or stored_steps
        if num_steps > stored_steps:
            raise ValueError(f"num_steps={num_steps}: the index has {stored_steps} codes per vector")
        if num_pairwise and not has_pairwise:
            raise ValueError(f"num_pairwise={num_pairwise}: the index has no pairwise decoder (num_pairwise=0)")
        num_refine = given["num_refine"]
        if num_refine and not refines:
            raise ValueError(f"num_refine={num_refine}: give refine as well, the original vectors")
        if refines and num_refine != 0:
            k = max(num_refine or _REFINED, k)
        most = max(1, num_vectors)
        k = min(k, most)
        nprobe = min(given["nprobe"] or max(8, min(64, num_lists // 16)), num_lists)
        ef_search = min(given["ef_search"] or max(_MIN_EF_SEARCH, 2 * nprobe), max(_MIN_EF_SEARCH, num_lists))
        num_pairwise = min(max(num_pairwise, k), most) if num_pairwise else 0
        num_additive = min(max(given["num_additive"] or _MIN_SHORTLIST, num_pairwise, k), most)
        return ResolvedParameters(k, nprobe, ef_search, num_additive, num_pairwise, num_steps)


class ResolvedParameters(NamedTuple):
    """`SearchParameters` and the number of decoded results, none larger than of use; num_pairwise 0: no stage."""

    k: int
    nprobe: int
    ef_search: int
    num_additive: int
    num_pairwise: int
    num_steps: int


def whole_number(name: str, value: Any, *, least: int = 1) -> int:
    """Return an integer of any type as an int.

    Raises:
        ValueError: no integer, or one below the least.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
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


def as_ids(ids: Any) -> Int64[np.ndarray, " n"]:
    """One integer or a sequence of them (none: of any dtype), as int64.

    Raises:
        ValueError: anything else, or an integer that int64 does not hold.
    """
    given = np.atleast_1d(np.asarray(ids))
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise ValueError(f"ids of shape {given.shape} and dtype {given.dtype}: expected (n,) integers")
    if given.size and int(given.max()) > _LARGEST_ID:
        raise ValueError(f"id {given.max()} is beyond the largest, {_LARGEST_ID}")
    return given.astype(np.int64)


def next_ids(number: int, last: int) -> Int64[np.ndarray, " n"]:
    """`number` ids that count on from the largest of those that there are, -1 for none.

    Raises:
        ValueError: so many are not left.
    """
    if last > _LARGEST_ID - number:
        raise ValueError(f"no {number} ids are left after {last}: give ids")
    return np.arange(1, number + 1, dtype=np.int64) + last


def checked_new_ids(ids: Any, number: int) -> Int64[np.ndarray, " n"]:
    """Ids of `number` vectors to add, as int64.

    Raises:
        ValueError: another number or no integers; an id that is negative, too large, or given twice.
    """
    given = np.asarray(ids)
    if given.shape != (number,) or (number and given.dtype.kind not in "iu"):
        raise ValueError(f"ids of shape {given.shape} and dtype {given.dtype}: expected ({number},) integers")
    new = as_ids(given)
    if number and new.min() < 0:
        raise ValueError(f"id {new.min()} is negative")
    ordered = np.sort(new)
    if len(twice := ordered[1:][ordered[1:] == ordered[:-1]]):
        raise taken_id(int(twice[0]), "is given twice")
    return new


def taken_id(bad: int, why: str) -> ValueError:
    """The error of an id that cannot be added."""
    return ValueError(f"id {bad} {why}: remove it first, or give another")
