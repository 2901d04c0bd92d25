"""Move vectors between the lists of the plain faiss index and those that are searched; check ids that are new."""

from collections.abc import Iterable, Iterator
from typing import Any

import faiss
import numpy as np
from jaxtyping import Int32, Int64, Integer

from qinco_lit.search.index.bundle import Bundle
from qinco_lit.search.plain_scan import PlainScan
from qinco_lit.search.scan import AdditiveScan

_BLOCK_ROWS = 32_768
_LARGEST_ID = int(np.iinfo(np.int64).max)


def take_over(bundle: Bundle) -> AdditiveScan:
    """Move the lists of a bundle's index into a scan, list by list, so that they are in memory once."""
    bundle.is_taken = True
    index = bundle.index
    coarse = faiss.downcast_index(index.quantizer)
    scan = AdditiveScan(coarse, bundle.additive.codebooks, inner_product=bundle.metric != "l2")
    for list_ids, codes, ids in in_blocks(PlainScan(index).contents(empty=True)):
        scan.add(list_ids, codes, ids)
    index.ntotal = 0
    return scan


def in_blocks(
    lists: Iterable[tuple[Int32[np.ndarray, " _"], Integer[np.ndarray, "_ steps"], Int64[np.ndarray, " _"]]],
) -> Iterator[tuple[Int32[np.ndarray, " n"], Integer[np.ndarray, "n steps"], Int64[np.ndarray, " n"]]]:
    """Join (list_ids, codes, ids) of many short lists into blocks."""
    waiting: list[Any] = []
    size = 0
    for part in lists:
        waiting.append(part)
        size += len(part[2])
        if size >= _BLOCK_ROWS:
            list_ids, codes, ids = map(np.concatenate, zip(*waiting, strict=True))
            yield list_ids, codes, ids
            waiting, size = [], 0
    if waiting:
        list_ids, codes, ids = map(np.concatenate, zip(*waiting, strict=True))
        yield list_ids, codes, ids


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


def next_ids(number: int, known: Int64[np.ndarray, " known"]) -> Int64[np.ndarray, " n"]:
    """`number` ids that count on from the largest of the known ones, which are sorted.

    Raises:
        ValueError: so many are not left.
    """
    last = int(known[-1]) if len(known) else -1
    if last > _LARGEST_ID - number:
        raise ValueError(f"no {number} ids are left after {last}: give ids")
    return np.arange(1, number + 1, dtype=np.int64) + last


def checked_new_ids(ids: Any, number: int, known: Int64[np.ndarray, " known"]) -> Int64[np.ndarray, " n"]:
    """Ids of `number` vectors to add, as int64.

    Raises:
        ValueError: another number or no integers; an id that is negative, too large, given twice, or known.
    """
    given = np.asarray(ids)
    if given.shape != (number,) or (number and given.dtype.kind not in "iu"):
        raise ValueError(f"ids of shape {given.shape} and dtype {given.dtype}: expected ({number},) integers")
    new = as_ids(given)
    if number and new.min() < 0:
        raise ValueError(f"id {new.min()} is negative")
    ordered = np.sort(new)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    there = new[np.isin(new, known)]
    if len(twice) or len(there):
        bad, why = (there[0], "is in the index already") if len(there) else (twice[0], "is given twice")
        raise ValueError(f"id {bad} {why}: remove it first, or give another")
    return new
