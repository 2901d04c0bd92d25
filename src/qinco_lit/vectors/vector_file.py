"""A file of vectors as an array that stays on disk; an array in memory as such a file."""

import operator
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import numpy as np
from jaxtyping import Int64, Shaped
from numpy.typing import DTypeLike

from qinco_lit.vectors import arrow_file, parquet
from qinco_lit.vectors.columns import ColumnRows
from qinco_lit.vectors.formats import read_layout
from qinco_lit.vectors.hdf5 import ChunkedRows
from qinco_lit.vectors.layout import (
    PARQUET_SUFFIX,
    TABLE_SUFFIXES,
    Layout,
    NoRowsError,
    check_vector_dtype,
    group_sizes,
    is_url,
)
from qinco_lit.vectors.many import ManyRows, joined_layout, named_files
from qinco_lit.vectors.mapped import MappedRows
from qinco_lit.vectors.remote import RangedRows, of_each
from qinco_lit.vectors.rows import ArrayRows, RowSource, UnitRows

# Of files whose rows can be read one by one, next to others that cannot.
_RUN_ROWS = 1024

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class VectorFile:
    """Rows of a file of vectors, or of many, array-like: `shape`, `dtype`, `len`, and indexing that reads from disk.

    `vectors[i]` is one row (dim,); `vectors[a:b:c]` and `vectors[ids]` are (n, dim). Each is a fresh, writable,
    C-contiguous array in the stored dtype (native byte order), with numpy's meaning of negative indices and steps.
    Memory is O(1) in the file's size, a pickle is below 1 KB (of many files some 20 bytes each more), and every process
    maps the file by itself.
    """

    ndim = 2

    def __init__(self, layout: Layout, rows: RowSource, start: int, stop: int) -> None:
        self._layout, self._rows, self._start, self._stop = layout, rows, start, stop

    @property
    def path(self) -> str:
        """The path as it was opened, `file.hdf5:dataset` or a glob included; those of a list, joined by commas."""
        return self._layout.path

    @property
    def name(self) -> str:
        """What runs and reports call these vectors: the name of the file, or of the folder of many files."""
        if len(self.files) == 1:
            return Path(self.path).name
        return Path(os.path.commonpath([Path(file).parent for file in self.files])).name or "files"

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the rows, by absolute path; none of an array in memory."""
        rows = self._stored_rows
        if isinstance(rows, ManyRows):
            return tuple(layout.file for layout in rows.layouts)
        return (self._layout.file,) if self._layout.file else ()

    def file_ranges(self) -> list[tuple[Layout, int, int]]:
        """Of each file with rows of these, its layout and which of its rows they are: start..stop."""
        rows, first, found = self._stored_rows, 0, []
        for layout in rows.layouts if isinstance(rows, ManyRows) else (self._layout,):
            start, stop = max(self._start - first, 0), min(self._stop - first, layout.num_rows)
            if start < stop:
                found.append((layout, start, stop))
            first += layout.num_rows
        return found

    def row_name(self, row: int) -> str:
        """Where the user finds a row: `emb/part-7.npy: vector 31`, which is its number in that file."""
        for layout, start, stop in self.file_ranges():
            if row < stop - start:
                return f"{layout.path}: vector {start + row}"
            row -= stop - start
        raise IndexError(f"{self.path}: no such row")

    @property
    def row_groups(self) -> Int64[np.ndarray, " groups"] | None:
        """Rows of each run of which one costs about as much to read as all; None: any rows are read by themselves.

        They are row groups of Parquet, record batches of Arrow, and ranges at a url.
        """
        rows = self._stored_rows
        layouts = rows.layouts if isinstance(rows, ManyRows) else (self._layout,)
        if all(layout.groups is None for layout in layouts):
            return None
        stops = np.cumsum(np.concatenate([group_sizes(layout, _RUN_ROWS) for layout in layouts]))
        inside = stops[(stops > self._start) & (stops < self._stop)]
        sizes: Int64[np.ndarray, " groups"] = np.diff(inside, prepend=self._start, append=self._stop)
        return sizes

    @property
    def file_bytes(self) -> int:
        """Size of the file, or of all files, when it was opened; of an array in memory, its own."""
        return self._layout.file_bytes

    @property
    def is_array(self) -> bool:
        """Whether the rows are an array in memory, of which no file knows (`as_vectors_file`)."""
        return not self._layout.file

    @property
    def is_unit(self) -> bool:
        """Whether rows are normalised as they are read: `unit()` made this object."""
        return isinstance(self._rows, UnitRows)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, dim)."""
        return (self._stop - self._start, self._layout.dim)

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the rows, in native byte order."""
        return np.dtype(np.float32) if self.is_unit else self._layout.dtype.newbyteorder("=")

    def __len__(self) -> int:
        return self._stop - self._start

    def __repr__(self) -> str:
        rows = f"{'unit ' if self.is_unit else ''}rows {self._start}..{self._stop}"
        return f"VectorFile({self.path!r}, {rows}, dim {self._layout.dim}, {self.dtype})"

    def __getitem__(self, key: Any) -> np.ndarray:
        if isinstance(key, slice):
            return self._take_slice(range(*key.indices(len(self))))
        if isinstance(key, (list, np.ndarray)) and np.ndim(key) > 0:
            return self._rows.gather(self._row_ids(np.asarray(key)))
        try:
            row = operator.index(key)
        except TypeError:
            raise IndexError(f"{self.path}: index rows by int, slice or 1-d array, not {type(key).__name__}") from None
        if not -len(self) <= row < len(self):
            raise IndexError(f"{self.path}: row {row} is out of range for {len(self)} rows")
        row = self._start + row % len(self)
        return self._rows.block(row, row + 1).reshape(-1)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(f"{self.path}: rows on disk become an array only by a copy")
        return self._take_slice(range(len(self))).astype(self.dtype if dtype is None else dtype, copy=False)

    def view(self, start: int, stop: int) -> "VectorFile":
        """Rows start..stop as a VectorFile over the same mapping; bounds as in a slice, nothing is read."""
        rows = range(*slice(start, stop).indices(len(self)))
        return VectorFile(self._layout, self._rows, self._start + rows.start, self._start + rows.start + len(rows))

    def unit(self) -> "VectorFile":
        """The same rows in float32, each divided by its L2 norm when it is read; rows of zeros stay zero."""
        return self if self.is_unit else VectorFile(self._layout, UnitRows(self._rows), self._start, self._stop)

    def as_stored(self) -> "VectorFile":
        """All rows of the file, or the files, as they are stored."""
        return VectorFile(self._layout, self._stored_rows, 0, self._layout.num_rows)

    @property
    def _stored_rows(self) -> RowSource:
        return self._rows.source if isinstance(self._rows, UnitRows) else self._rows

    def iter_batches(self, batch_size: int) -> Iterator[Shaped[np.ndarray, "batch dim"]]:
        """Yield all rows in order as fresh arrays (batch_size, dim), the last one possibly shorter; flat memory."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        for first in range(0, len(self), batch_size):
            yield self[first : first + batch_size]

    def _take_slice(self, rows: range) -> np.ndarray:
        if rows.step == 1:
            return self._rows.block(self._start + rows.start, self._start + rows.start + len(rows))
        return self._rows.gather(np.arange(rows.start, rows.stop, rows.step, dtype=np.int64) + self._start)

    def _row_ids(self, key: np.ndarray) -> Int64[np.ndarray, " n"]:
        """Positions in the file of an index array (n,) of integers, or of a mask (rows,) of booleans."""
        if key.ndim != 1 or (key.dtype.kind not in "iub" and key.size):
            raise IndexError(f"{self.path}: row indices must be a 1-d integer array, not {key.dtype} {key.shape}")
        if key.dtype.kind == "b":
            if len(key) != len(self):
                raise IndexError(f"{self.path}: mask of {len(key)} entries for {len(self)} rows")
            return np.flatnonzero(key) + self._start
        ids = key.astype(np.int64)
        outside = (ids < -len(self)) | (ids >= len(self))
        if outside.any():
            raise IndexError(f"{self.path}: row {ids[outside][0]} is out of range for {len(self)} rows")
        return np.where(ids < 0, ids + len(self), ids) + self._start


def open_vectors(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> VectorFile:
    """Open vectors without reading them: fvecs, bvecs, ivecs, fbin, u8bin, i8bin, ibin, npy, file.hdf5:dataset.

    Of parquet, arrow and feather files it is the column of lists of numbers, file.parquet:column where there are more.
    Parquet and npy files may lie at urls (s3://bucket/file.npy, by way of fsspec), of which ranges are read.

    Many files of one dimension and dtype are opened as one: a glob (`emb/part-*.npy`, in natural order: part-2 before
    part-10), a folder of files of one format, or a list of files, of which each may be a glob. Of these, files without
    rows are passed over.

    `.ibin` may be big-ann ground truth (ids, then distances): the ids are what is opened. Errors: FileNotFoundError
    for a missing file, ValueError for anything that is not a well-formed file of vectors, each one line with numbers.
    """
    if _are_paths(path):
        names, text = list(path), ",".join(os.fspath(each) for each in path)
        files = [file for name in names for file in named_files(name) or [os.fspath(name)]]
    elif isinstance(path, str | os.PathLike):
        files, text = named_files(path) or [os.fspath(path)], os.fspath(path)
    else:
        raise ValueError(f"path is of type {type(path).__name__}: give the path of a file of vectors")
    if files == [text]:
        layout = read_layout(text)
        return VectorFile(layout, rows_of(layout), 0, layout.num_rows)
    layouts = _layouts(files)
    if not layouts:
        raise ValueError(f"{text}: no vectors, none of {len(files)} files has a row")
    layout = joined_layout(text, layouts)
    return VectorFile(layout, ManyRows(layouts, rows_of), 0, layout.num_rows)


def _are_paths(x: Any) -> TypeGuard[Sequence[str | os.PathLike[str]]]:
    return isinstance(x, list | tuple) and len(x) > 0 and all(isinstance(each, str | os.PathLike) for each in x)


def rows_of(layout: Layout) -> RowSource:
    """Of one file."""
    if layout.suffix in TABLE_SUFFIXES:
        return ColumnRows(layout, (parquet if layout.suffix == PARQUET_SUFFIX else arrow_file).open_batches)
    if is_url(layout.file):
        return RangedRows(layout)
    return ChunkedRows(layout) if layout.offset is None else MappedRows(layout)


def _layouts(files: Sequence[str]) -> list[Layout]:
    """Of those that have rows."""
    return [layout for layout in of_each(_layout_if_rows, files) if layout is not None]


def _layout_if_rows(file: str) -> Layout | None:
    """None: it is well-formed, and has no rows, as engines write the parts for which nothing was left."""
    try:
        return read_layout(file)
    except NoRowsError:
        return None


def as_vectors_file(x: Any, name: str = "x") -> VectorFile:
    """What the user gives as vectors, as rows that are streamed: a `VectorFile`, paths, or an array in memory.

    Args:
        x: a VectorFile, what `open_vectors` opens, or (n, dim) numbers: numpy, a torch tensor, or lists.
            An array is not copied, unless it is a tensor on a GPU or of bfloat16: it must not change while in use.
        name: of the argument, for messages.

    Raises:
        FileNotFoundError: a missing file.
        ValueError: no file of vectors, or an array that is not (n, dim), is empty, or is of no dtype of vectors.
    """
    if isinstance(x, VectorFile):
        return x
    if isinstance(x, str | os.PathLike) or _are_paths(x):
        return open_vectors(x)
    try:
        array = np.asarray(_without_gradient(x))
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{name}: no array, file of vectors or tensor ({reason})") from None
    if array.ndim == 0:
        raise ValueError(f"{name} is of type {type(x).__name__}: give vectors (n, dim), or a file of them")
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise ValueError(f"{name} has masked values: leave these rows out, and give {name}.data of the others")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}: give vectors (n, dim)")
    check_vector_dtype(array.dtype, name)
    layout = Layout(
        path=f"{name} (an array)", file="", file_bytes=array.nbytes, dtype=array.dtype, num_rows=len(array),
        dim=array.shape[1], offset=None, row_stride=array.shape[1] * array.dtype.itemsize,
    )  # fmt: skip
    return VectorFile(layout, ArrayRows(array.astype(array.dtype.newbyteorder("="), copy=False)), 0, len(array))


def _without_gradient(x: Any) -> Any:
    """A tensor, which this room does not import, as numpy takes it: on the CPU, and not of bfloat16, which it lacks."""
    if not hasattr(x, "detach"):
        return x
    x = x.detach().cpu()
    return x.float() if str(x.dtype) == "torch.bfloat16" else x


def read_ahead(read: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Generator[Result, None, None]:
    """Yield read(piece) in order, the next one being read in a thread while the caller works with this one.

    An exception inside `read` is raised here, at its place in the order. Closing the iterator waits for a read or two.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as pool:
        waiting: Future[Result] | None = None
        for piece in pieces:
            submitted = pool.submit(read, piece)
            if waiting is not None:
                yield waiting.result()
            waiting = submitted
        if waiting is not None:
            yield waiting.result()
