"""Columns of Parquet and Arrow files as vectors: which column it is, and its rows piece by piece."""

import os
import threading
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from qinco_lit.vectors.layout import (
    VECTOR_DTYPES,
    Groups,
    Layout,
    NoRowsError,
    Target,
    group_sizes,
    matrix_shape,
    run_lengths,
)

# Rows that a reader keeps decoded: a group, or so much of a larger one.
_PIECE_BYTES = 32 << 20
# Rows that are asked for together, from which on they go where they are wanted and no piece is made of them.
_STRAIGHT_BYTES = 1 << 20
# Of a batch, few enough that it stays in the cache of a core on its way.
_BATCH_BYTES = 256 << 10

# Opens a file for its columns: from the place of a group and a number of rows, the arrays of that group in order.
Batches = Callable[[int, int], Iterator[Any]]


def pyarrow(path: str) -> Any:
    """The library that reads and writes the file. Raises ValueError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path}: Parquet and Arrow files need pyarrow: pip install 'qinco_lit[parquet]'") from None
    return pyarrow


def column_of(target: Target, schema: Any) -> Any:
    """The field of the column that a path names, or of the only one that holds vectors; raises ValueError."""
    names = list(schema.names)
    if target.dataset is not None:
        if names.count(target.dataset) != 1:
            raise ValueError(f"{target.path}: no column {target.dataset!r}; columns there: {' '.join(names) or 'none'}")
        return schema.field(target.dataset)
    lists = [field for field in schema if _item_type(field.type) is not None]
    vectors = [field for field in lists if _name(_item_type(field.type)) in VECTOR_DTYPES] or lists
    if len(vectors) == 1:
        return vectors[0]
    if not vectors:
        raise ValueError(f"{target.path}: no column of vectors (lists of numbers); columns there: {' '.join(names)}")
    found = " ".join(field.name for field in vectors)
    raise ValueError(f"{target.path}: name a column, {target.path}:COLUMN; columns of vectors there: {found}")


def column_layout(target: Target, file: str, file_bytes: int, field: Any, dim: int | None, sizes: list[int]) -> Layout:
    """The layout of a column in groups of so many rows; `dim` where its type does not say it, raises ValueError."""
    kind = _storage(field.type)
    item = _item_type(kind) if is_list(kind) else kind
    name = None if item is None else _name(item)
    if name is None:
        raise ValueError(
            f"{target.path}: column {field.name} holds {field.type}; vectors are lists of numbers, ids integers"
        )
    dtype = np.dtype(name)
    length = 1 if not is_list(kind) else dim if (fixed := fixed_length(field)) is None else fixed
    shape = matrix_shape(target.path, (sum(sizes), length or 0))
    return Layout(
        target.path, file, file_bytes, dtype, *shape, None, shape[1] * dtype.itemsize, field.name,
        run_lengths(size for size in sizes if size),
    )  # fmt: skip


def fixed_length(field: Any) -> int | None:
    """Numbers in a row of a column, where its type says how many; 1 of plain numbers."""
    kind = _storage(field.type)
    if not is_list(kind):
        return 1
    return int(kind.list_size) if hasattr(kind, "list_size") else None


def matrix(array: Any, dim: int | None, where: str, first_row: int = 0) -> Shaped[np.ndarray, "n dim"]:
    """An Arrow array as rows (n, dim), where possible without a copy.

    Args:
        array: of lists of numbers, or of numbers.
        dim: numbers in a row; None: as many as in the first one.
        where: the array is found, for messages.
        first_row: its number there.

    Raises:
        ValueError: a row is null, holds null, or is of another length; it names the row.
    """
    array = array.storage if hasattr(array.type, "storage_type") else array
    if array.null_count:
        row = first_row + int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"{where}: row {row} is null: repair or remove it")
    values = array
    if dim is None:
        dim = len(array[0]) if len(array) and is_list(array.type) else 1
    if is_list(array.type):
        if not hasattr(array.type, "list_size"):
            lengths = np.diff(array.offsets.to_numpy())
            if (wrong := lengths != dim).any():
                row = int(wrong.argmax())
                raise ValueError(f"{where}: row {first_row + row} has {lengths[row]} numbers, {dim} were expected")
        values = array.flatten()
        if values.null_count:
            row = first_row + int(values.is_null().to_numpy(zero_copy_only=False).argmax()) // dim
            raise ValueError(f"{where}: row {row} holds null: repair or remove it")
    numbers: Shaped[np.ndarray, "n dim"] = values.to_numpy(zero_copy_only=False).reshape(len(array), dim)
    return numbers


def _storage(kind: Any) -> Any:
    return getattr(kind, "storage_type", kind)


def is_list(kind: Any) -> bool:
    """Whether a type of Arrow is one of lists, or stored as such."""
    return hasattr(_storage(kind), "value_type") and str(_storage(kind)).startswith(
        ("list<", "large_list<", "fixed_size_list<")
    )


def _item_type(kind: Any) -> Any:
    """Of the numbers of a list; None for other columns."""
    kind = _storage(kind)
    return kind.value_type if is_list(kind) and _name(kind.value_type) is not None else None


def _name(kind: Any) -> str | None:
    """What numpy calls a type of numbers; None for other types."""
    name = {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(kind), str(kind))
    return name if name.rstrip("1234568") in ("int", "uint", "float") else None


class ColumnRows:
    """Rows of a column, of which about 32 MB are decoded at a time; every process opens the file on first use.

    Going forward in a group decodes on where the last piece ended; going back decodes it from its start.

    Args:
        layout: of the column.
        open_batches: opens the file; a function of a module, so that a pickle finds it.
    """

    def __init__(self, layout: Layout, open_batches: Callable[[Layout], Batches]) -> None:
        self._layout, self._open_batches = layout, open_batches
        self._place = _Place(layout)
        self._straight_rows = max(1, _STRAIGHT_BYTES // (layout.dim * layout.dtype.itemsize))

    def __getstate__(self) -> tuple[Layout, Any]:
        return self._layout, self._open_batches

    def __setstate__(self, state: tuple[Layout, Any]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def block(self, start: int, stop: int) -> Shaped[np.ndarray, "n dim"]:
        """Rows start..stop, 0 <= start <= stop <= num_rows, as a fresh array (n, dim)."""
        out = np.empty((stop - start, self._layout.dim), dtype=self._layout.dtype)
        with self._own_place() as place:
            row = start
            while row < stop:
                if stop - row >= self._straight_rows:  # many rows need no piece on their way
                    row = place.fill(row, out[row - start :], self._open_batches)
                    continue
                first, piece = place.piece(row, self._open_batches)
                last = min(stop, first + len(piece))
                out[row - start : last - start] = piece[row - first : last - first]
                row = last
        return out

    def gather(self, ids: Int64[np.ndarray, " n"]) -> Shaped[np.ndarray, "n dim"]:
        """Rows `ids`, all in 0..num_rows - 1, as a fresh array (n, dim); each group is decoded once."""
        out = np.empty((len(ids), self._layout.dim), dtype=self._layout.dtype)
        order = np.argsort(ids, kind="stable")
        ascending, done = ids[order], 0
        with self._own_place() as place:
            while done < len(ids):
                first, piece = place.piece(int(ascending[done]), self._open_batches)
                end = int(np.searchsorted(ascending, first + len(piece)))
                out[order[done:end]] = piece[ascending[done:end] - first]
                done = end
        return out

    def _own_place(self) -> "_Place":
        """Of this process: after a fork neither the lock nor the open file of the parent serves."""
        if self._place.process_id != os.getpid():
            self._place = _Place(self._layout)
        return self._place


class _Place:
    """Where one reader is in a file: the piece that is decoded, and what follows it in its group. One thread enters."""

    def __init__(self, layout: Layout) -> None:
        self.process_id = os.getpid()
        self._layout, self._lock = layout, threading.Lock()
        self._stops = np.cumsum(group_sizes(layout, 1))
        row_bytes = layout.dim * layout.dtype.itemsize
        self._piece_rows = max(1, _PIECE_BYTES // row_bytes)
        self._batches: Batches | None = None
        self._following: Iterator[Any] = iter(())
        self._group, self._next_row = -1, 0
        self._first, self._piece = 0, np.empty((0, layout.dim), layout.dtype)

    def __enter__(self) -> "_Place":
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def piece(self, row: int, open_batches: Callable[[Layout], Batches]) -> tuple[int, Shaped[np.ndarray, "n dim"]]:
        """The first row of the piece that holds a row, and its rows; raises ValueError for what cannot be read."""
        if not self._first <= row < self._first + len(self._piece):
            with self._going_to(row, open_batches) as stop:
                self._decode(row, stop)
        return self._first, self._piece

    def fill(self, row: int, out: Shaped[np.ndarray, "n dim"], open_batches: Callable[[Layout], Batches]) -> int:
        """Decode rows from one on into an array, to its end or that of the group; the row after them."""
        if self._first <= row < self._first + len(self._piece):
            rows = self._piece[row - self._first :][: len(out)]
            out[: len(rows)] = rows
            return row + len(rows)
        with self._going_to(row, open_batches) as stop:
            self._piece, start = self._piece[:0], row
            stop = min(stop, row + len(out))
            while row < stop:
                first, array = self._next(row, stop)
                some = array[row - first : stop - first]
                out[row - start :][: len(some)] = self._matrix(some, row)
                row += len(some)
            if row < self._next_row:  # what the last batch has besides
                self._first, self._piece = row, self._matrix(array[row - first :], row)
        return row

    @contextmanager
    def _going_to(self, row: int, open_batches: Callable[[Layout], Batches]) -> Iterator[int]:
        """Make the next batches those up to a row; yields where its group ends, and names what cannot be read."""
        group = int(np.searchsorted(self._stops, row, side="right"))
        start, stop = int(self._stops[group - 1]) if group else 0, int(self._stops[group])
        try:
            if self._batches is None:
                self._batches = open_batches(self._layout)
            if group != self._group or row < self._next_row:
                self._group, self._next_row = group, start
                self._following = self._batches(group, self._batch_rows)
            yield stop
        except BaseException as error:
            self._group, self._piece = -1, self._piece[:0]
            is_arrows = type(error).__module__.startswith("pyarrow")
            if isinstance(error, OSError | ValueError) and (is_arrows or (type(error) is OSError and not error.errno)):
                raise ValueError(self._unreadable(start, stop, " ".join(str(error).split()))) from None
            raise

    def _next(self, row: int, stop: int) -> tuple[int, Any]:
        """The first row of the next batch that ends after a row, and the batch."""
        while True:
            array = next(self._following, None)
            if array is None:
                raise ValueError(self._unreadable(self._next_row, stop, "they are not there"))
            first, self._next_row = self._next_row, self._next_row + len(array)
            if row < self._next_row:
                return first, array

    def _decode(self, row: int, stop: int) -> None:
        """Decode from the batch that holds a row on: a piece, at most to the end of the group."""
        self._piece = self._piece[:0]  # the memory of the last one is free before there is another
        first, array = self._next(row, stop)
        out = np.empty((max(len(array), min(self._piece_rows, stop - first)), self._layout.dim), self._layout.dtype)
        self._first, done = first, 0
        while True:
            out[done : done + len(array)] = self._matrix(array, first)
            done += len(array)
            if done + self._batch_rows > len(out) or self._next_row >= stop:
                break
            first, array = self._next(self._next_row, stop)
        self._piece = out[:done]

    def _matrix(self, array: Any, first_row: int) -> Shaped[np.ndarray, "n dim"]:
        return matrix(array, self._layout.dim, self._layout.path, first_row)

    @property
    def _batch_rows(self) -> int:
        return max(1, _BATCH_BYTES // (self._layout.dim * self._layout.dtype.itemsize))

    def _unreadable(self, start: int, stop: int, reason: str) -> str:
        return f"{self._layout.path}: rows {start}..{stop - 1} cannot be read: {reason}"


def check_rows(path: str, groups: Sized) -> None:
    """Raise NoRowsError for a table whose groups hold no rows: what its columns are is not asked then."""
    if not groups:
        raise NoRowsError(f"{path}: no vectors, the table has 0 rows")


def check_unchanged(layout: Layout, file_bytes: int, groups: Groups | None = None) -> None:
    """Raise ValueError where a file is not what it was when it was opened."""
    if file_bytes != layout.file_bytes:
        raise ValueError(f"{layout.path}: {layout.file_bytes} bytes when opened, now {file_bytes}; reopen it")
    if groups is not None and groups != layout.groups:
        raise ValueError(f"{layout.path}: it is another file than when it was opened; reopen it")
