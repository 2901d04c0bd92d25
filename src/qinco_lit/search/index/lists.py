"""The lists of a faiss index, built from a store of codes: in parts made apart, merged in memory or on disk.

The same rows give the same lists, entry for entry, whatever the parts.
"""

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import faiss
import numpy as np
from jaxtyping import Int32, Int64, Integer

from qinco_lit.atomic import replacing
from qinco_lit.search.index.faiss_index import Index, Lists, append_codes

_BLOCK_ROWS = 1 << 18
_ALL_OF_A_RANGE = 0  # faiss.InvertedLists.SUBSET_TYPE_ID_RANGE, which its stubs lack
_ID_BYTES = 8  # of an entry, next to its code
_SPARE = 32  # a list grows by this part of it
_LIST_BYTES = 64  # what the file of a mapped index may take per list, above its entries


@runtime_checkable
class StoredCodes(Protocol):
    """Codes with the list of each vector, read by row range: `qinco_lit.vectors.CodeStore`."""

    def __len__(self) -> int:
        """Vectors."""

    def __getitem__(self, rows: slice, /) -> Integer[np.ndarray, "n steps"]:
        """Codes of a row range."""

    def list_ids(self, start: int, stop: int) -> Int32[np.ndarray, " n"]:
        """Lists of a row range."""


def list_populations(store: StoredCodes, num_lists: int, start: int, stop: int) -> Int64[np.ndarray, " lists"]:
    """Return how many of the rows start..stop each list has; flat memory, the codes are not read.

    Raises:
        ValueError: a list id out of range, named by row.
    """
    counts = np.zeros(num_lists, dtype=np.int64)
    for first, last in _blocks(start, stop):
        list_ids = store.list_ids(first, last)
        bad = (list_ids < 0) | (list_ids >= num_lists)
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(f"the list id of row {first + row} is {list_ids[row]}, the codec has {num_lists} lists")
        counts += np.bincount(list_ids, minlength=num_lists)
    return counts


def fill_lists(
    index: Index,
    store: StoredCodes,
    start: int,
    stop: int,
    *,
    codebook_size: int,
    ids: Callable[[int, int], Int64[np.ndarray, " n"]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Replace the lists of the index by those of rows start..stop of a store, in one pass over their codes.

    Memory is that of the lists, which get their final size at once, and a block of rows.

    Args:
        index: any; its vectors are dropped.
        store: of codes.
        start, stop: rows.
        codebook_size: values that a code can have.
        ids: of a row range; None: the positions in the store.
        progress: is told the number of rows after each block.

    Raises:
        ValueError: a list id or a code out of range.
    """
    set_room(index, list_populations(store, index.nlist, start, stop))
    for first, last in _blocks(start, stop):
        codes = store[first:last]
        if codes.size and codes.max() >= codebook_size:
            row = int((codes.max(axis=1) >= codebook_size).argmax())
            raise ValueError(f"row {first + row} has code {codes[row].max()}, the codec has {codebook_size} codewords")
        block_ids = np.arange(first, last, dtype=np.int64) if ids is None else ids(first, last)
        append_codes(index, store.list_ids(first, last), codes, block_ids)
        if progress is not None:
            progress(last - first)


def reserved_lists(index: Index, populations: Int64[np.ndarray, " lists"]) -> Lists:
    """Return empty lists that have the memory for so many entries each, and will take no more while they are filled."""
    lists = faiss.ArrayInvertedLists(index.nlist, index.code_size)
    for number in np.flatnonzero(populations):
        lists.resize(int(number), int(populations[number]))
        lists.resize(int(number), 0)
    return lists


class ListRoom:
    """Room in lists that grow: a part of it more than they need, where a C++ vector would double.

    Args:
        lists: ArrayInvertedLists in memory, empty.
    """

    def __init__(self, lists: Lists) -> None:
        self._lists = lists
        self._room = np.zeros(lists.nlist, dtype=np.int64)

    def make(self, list_ids: Integer[np.ndarray, " n"]) -> None:
        """Let these lists take one more entry for each time that they are named; a list's first entries fit exactly."""
        for number, more in zip(*map(np.ndarray.tolist, np.unique(list_ids, return_counts=True)), strict=True):
            size = self._lists.list_size(number)
            if (needed := size + more) > self._room[number]:
                self._resize(number, size, needed + (needed // _SPARE + 1 if size else 0))

    def _resize(self, number: int, size: int, room: int) -> None:
        """An empty vector that is resized beyond its memory takes exactly what it needs."""
        lists, kept = self._lists, None
        if size:
            codes = faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size)
            kept = codes.copy(), faiss.rev_swig_ptr(lists.get_ids(number), size).copy()
        for length in (0, room, size):
            lists.resize(number, length)
        if kept is not None:
            codes, ids = kept
            lists.update_entries(number, 0, size, faiss.swig_ptr(ids), faiss.swig_ptr(codes))
        self._room[number] = room


def drop_lists(index: Index) -> None:
    """Leave the index without vectors and without the memory of its lists, which lists that are only emptied keep."""
    _set_lists(index, faiss.ArrayInvertedLists(index.nlist, index.code_size))
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc keeps for itself what is freed in small pieces
        trim(0)


def set_room(index: Index, populations: Int64[np.ndarray, " lists"]) -> None:
    """Replace the lists of the index by empty ones that have the memory for so many entries each."""
    _set_lists(index, reserved_lists(index, populations))


def write_lists(index: Index, path: Path) -> None:
    """Write the lists of the index, without the rest of it. Raises OSError when the disk is full."""
    with replacing(path) as temporary, faiss_file_errors(path):
        writer = faiss.FileIOWriter(str(temporary))
        faiss.write_InvertedLists(index.invlists, writer)
        del writer  # closes the file


def merge_in_memory(index: Index, parts: Sequence[Path]) -> None:
    """Replace the lists of the index by those of the parts, one after the other; memory: all lists and one part."""
    if len(parts) == 1:
        _set_lists(index, _read_lists(parts[0], mapped=False))
        return
    populations = np.zeros(index.nlist, dtype=np.int64)
    for part in parts:
        with _lists_of(part, mapped=True) as mapped:
            sizes = (mapped.list_size(number) for number in range(index.nlist))
            populations += np.fromiter(sizes, np.int64, index.nlist)
    lists = reserved_lists(index, populations)
    for part in parts:
        with _lists_of(part, mapped=False) as read:
            lists.merge_from(read, 0)
    _set_lists(index, lists)


def merge_on_disk(index: Index, parts: Sequence[Path], path: Path) -> None:
    """Replace the lists of the index by those of the parts, written to a file that the index maps; memory is flat.

    Raises:
        OSError: the disk has not room for all entries.
    """
    with ExitStack() as stack:
        mapped = [stack.enter_context(_lists_of(part, mapped=True)) for part in parts]
        needed = sum(lists.compute_ntotal() for lists in mapped) * (index.code_size + _ID_BYTES)
        if shutil.disk_usage(path.parent).free < needed + index.nlist * _LIST_BYTES:
            raise OSError(errno.ENOSPC, f"{path}: {os.strerror(errno.ENOSPC)}, the lists take {needed / 1e6:,.0f} MB")
        path.unlink(missing_ok=True)  # of a job that was killed; it may be linked to an index that is in use
        pointers = faiss.InvertedListsPtrVector()  # type: ignore[attr-defined]
        for lists in mapped:
            pointers.push_back(lists)
        merged: Lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(path.absolute()))
        with quiet_faiss(), faiss_file_errors(path):
            merged.merge_from_multiple(pointers.data(), pointers.size(), False)
    _set_lists(index, merged)


def copy_into_memory(index: Index) -> None:
    """Replace memory-mapped lists of the index by copies in memory, which can be changed."""
    lists = faiss.ArrayInvertedLists(index.nlist, index.code_size)
    index.invlists.copy_subset_to(lists, _ALL_OF_A_RANGE, 0, np.iinfo(np.int64).max)
    _set_lists(index, lists)


@contextmanager
def quiet_faiss() -> Iterator[None]:
    """Keep what faiss' C++ code prints to the standard output off the user's terminal."""
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    flush(None)
    terminal = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (the descriptor is what counts)
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        flush(None)  # of C's own buffer, while its text still goes nowhere
        os.dup2(terminal, 1)
        os.close(terminal)


@contextmanager
def faiss_file_errors(path: Path) -> Iterator[None]:
    """Turn faiss' RuntimeError over a file, many lines of C++, into one line: an OSError, ValueError for contents."""
    try:
        yield
    except RuntimeError as error:
        codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOENT, errno.EACCES)
        code = next((code for code in codes if os.strerror(code) in str(error)), None)
        if code is not None:
            raise OSError(code, f"{path}: {os.strerror(code)}") from None
        raise ValueError(f"{path}: faiss cannot read or write it ({' '.join(str(error).split())})") from None


def _read_lists(path: Path, *, mapped: bool) -> Lists:
    with faiss_file_errors(path):
        reader = faiss.FileIOReader(str(path))
        return faiss.downcast_InvertedLists(faiss.read_InvertedLists(reader, faiss.IO_FLAG_MMAP if mapped else 0))


@contextmanager
def _lists_of(path: Path, *, mapped: bool) -> Iterator[Lists]:
    """What was read, for the block.

    Nobody frees what faiss reads: SWIG takes it for somebody else's. Told otherwise (`own`), its count of references
    is one less than it should be, and the interpreter ends in a segmentation fault. So the destructor is called.
    """
    lists = _read_lists(path, mapped=mapped)
    try:
        yield lists
    finally:
        type(lists).__swig_destroy__(lists)


def _set_lists(index: Index, lists: Lists) -> None:
    """Give the lists to the index, which owns them from now on."""
    index.replace_invlists(lists, True)
    lists.this.disown()
    index.ntotal = lists.compute_ntotal()


def _blocks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    return ((first, min(first + _BLOCK_ROWS, stop)) for first in range(start, stop, _BLOCK_ROWS))
