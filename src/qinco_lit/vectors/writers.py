"""Write files of vectors: all of the file, or nothing under its name."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from jaxtyping import Shaped
from numpy.typing import ArrayLike, DTypeLike

from qinco_lit.atomic import full_disk_code, put_in_place, temporary_name
from qinco_lit.vectors.layout import (
    BIN_DTYPES,
    HDF5_SUFFIXES,
    MAX_DIM,
    RECORD_DTYPES,
    WRITTEN_SUFFIXES,
    Target,
    numeric_dtype,
    split_path,
)
from qinco_lit.vectors.sinks import Sink, open_sink

# Bytes cast and handed to the file at once.
_BLOCK_BYTES = 16 << 20


class VectorWriter:
    """Stream batches into a file of vectors: `with VectorWriter(path, dim=128) as writer: writer.append(batch)`.

    `path` as in `open_vectors`; an existing file is replaced when the block ends without an exception, an existing
    HDF5 file keeps its other datasets. `dtype` is only needed for npy and HDF5, other suffixes fix it. With `num_rows`
    the count is checked at the end, and HDF5 data are contiguous (they can be memory-mapped) instead of chunked.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, dim: int, dtype: DTypeLike | None = None, num_rows: int | None = None
    ) -> None:
        self._target = split_path(path)
        if self._target.suffix not in WRITTEN_SUFFIXES:
            raise ValueError(f"{self._target.path}: vectors are not written as {self._target.suffix}; give .npy")
        self._dtype = _stored_dtype(self._target, dtype)
        if not 1 <= dim <= MAX_DIM:
            raise ValueError(f"{self._target.path}: cannot write dimension {dim}, not in 1..{MAX_DIM}")
        if num_rows is not None and num_rows < 1:
            raise ValueError(f"{self._target.path}: cannot write a file of {num_rows} vectors")
        self._dim, self._expected_rows = dim, num_rows
        self._temporary = temporary_name(self._target.file)
        self._sink: Sink | None = None
        self._num_rows = 0

    @property
    def num_rows(self) -> int:
        """Rows appended so far."""
        return self._num_rows

    def __enter__(self) -> "VectorWriter":
        _check_destination(self._target)
        try:
            with self._plain_disk_errors():
                self._sink = open_sink(self._target, self._temporary, self._dim, self._dtype, self._expected_rows)
        except BaseException:
            self._discard()
            raise
        return self

    def append(self, batch: ArrayLike) -> None:
        """Write a batch (n, dim); ValueError if its shape or a value does not fit the file."""
        path, rows = self._target.path, np.asarray(batch)
        if self._sink is None:
            raise ValueError(f"{path}: append inside a with block: with VectorWriter(...) as writer")
        if rows.ndim != 2 or rows.shape[1] != self._dim:
            raise ValueError(f"{path}: cannot append shape {rows.shape}; batches are (n, {self._dim})")
        self._check_count(self._num_rows + len(rows), complete=False)
        step = max(1, _BLOCK_BYTES // (self._dim * self._dtype.itemsize))
        with self._plain_disk_errors():
            for first in range(0, len(rows), step):
                self._sink.append(_cast(path, rows[first : first + step], self._dtype))
        self._num_rows += len(rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None and self._sink is not None:
                with self._plain_disk_errors():
                    self._commit(self._sink)
        finally:
            self._discard()

    def _commit(self, sink: Sink) -> None:
        if self._num_rows == 0:
            raise ValueError(f"{self._target.path}: no vectors to write")
        self._check_count(self._num_rows, complete=True)
        sink.finish(self._num_rows)
        sink.close()
        put_in_place(self._temporary, self._target.file)

    def _discard(self) -> None:
        """Close and remove the temporary file; after a commit there is none left."""
        if self._sink is not None:
            # The error that led here is the one to report.
            with suppress(OSError, RuntimeError):
                self._sink.close()
            self._sink = None
        self._temporary.unlink(missing_ok=True)

    def _check_count(self, num_rows: int, *, complete: bool) -> None:
        expected = self._expected_rows
        if expected is not None and (num_rows > expected or (complete and num_rows < expected)):
            raise ValueError(f"{self._target.path}: {num_rows} vectors appended, but num_rows says {expected}")

    @contextmanager
    def _plain_disk_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            code = full_disk_code(error)
            if code is None:
                raise
            raise OSError(
                code,
                f"{self._target.path}: {os.strerror(code)} after {self._num_rows} vectors of dimension {self._dim}; "
                "nothing was kept, free some space and write again",
            ) from None


def write_vectors(path: str | os.PathLike[str], vectors: Any) -> None:
    """Write a matrix (n, dim), a VectorFile, or an iterable of batches (n, dim) as one file of vectors.

    The suffix of `path` decides the format, as in `open_vectors`; npy and HDF5 keep the dtype of the (first) batch.
    Atomic: a temporary name in the same folder, fsync, rename. ValueError for casts that would lose information.
    """
    if hasattr(vectors, "shape") and hasattr(vectors, "dtype"):
        _write_matrix(path, vectors)
    else:
        _write_batches(path, vectors)


def _write_matrix(path: str | os.PathLike[str], vectors: Any) -> None:
    if len(vectors.shape) != 2 or 0 in vectors.shape:
        raise ValueError(f"{os.fspath(path)}: cannot write shape {tuple(vectors.shape)}; vectors are (rows, dim)")
    num_rows, dim = vectors.shape
    dtype = None if _fixed_dtype(split_path(path)) else np.asarray(vectors[:1]).dtype
    step = max(1, _BLOCK_BYTES // (dim * 8))
    with VectorWriter(path, dim=dim, dtype=dtype, num_rows=num_rows) as writer:
        for first in range(0, num_rows, step):
            writer.append(vectors[first : first + step])


def _write_batches(path: str | os.PathLike[str], batches: Iterable[ArrayLike]) -> None:
    remaining = iter(batches)
    first = np.asarray(next(remaining, np.empty((0, 0))))
    if first.ndim != 2 or 0 in first.shape:
        raise ValueError(f"{os.fspath(path)}: cannot write a first batch of shape {first.shape}; batches are (n, dim)")
    dtype = None if _fixed_dtype(split_path(path)) else first.dtype
    with VectorWriter(path, dim=first.shape[1], dtype=dtype) as writer:
        writer.append(first)
        for batch in remaining:
            writer.append(batch)


def _fixed_dtype(target: Target) -> np.dtype | None:
    return RECORD_DTYPES.get(target.suffix) or BIN_DTYPES.get(target.suffix)


def _stored_dtype(target: Target, dtype: DTypeLike | None) -> np.dtype:
    fixed = _fixed_dtype(target)
    if fixed is None:
        if dtype is None:
            raise ValueError(f"{target.path}: give dtype=, the suffix {target.suffix} does not fix it")
        return numeric_dtype(target.path, np.dtype(dtype)).newbyteorder("=")
    if dtype is not None and np.dtype(dtype) != fixed:
        raise ValueError(f"{target.path}: {target.suffix} holds {fixed.name}, not {np.dtype(dtype)}")
    return fixed


def _check_destination(target: Target) -> None:
    path, folder = target.path, target.file.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: the folder {folder} does not exist; make it first")
    if target.file.is_dir():
        raise ValueError(f"{path}: is a directory, not a file to write")
    if target.suffix in HDF5_SUFFIXES:
        if target.dataset is None:
            raise ValueError(f"{path}: name the dataset to write, {target.file}:DATASET")
        if target.file.exists() and not h5py.is_hdf5(target.file):
            raise ValueError(f"{path}: the existing file is not HDF5; remove it first")


def _cast(path: str, rows: Shaped[np.ndarray, "n dim"], dtype: np.dtype) -> Shaped[np.ndarray, "n dim"]:
    """Return rows in the stored dtype, C-contiguous, or raise ValueError where a value would change."""
    if not np.can_cast(rows.dtype, dtype, casting="safe"):
        if rows.dtype.kind not in "iu" or dtype.kind not in "iu":
            raise ValueError(f"{path}: {rows.dtype} does not fit {dtype.name} without loss; convert it first, .astype")
        low, high, limits = int(rows.min()), int(rows.max()), np.iinfo(dtype)
        if low < limits.min or high > limits.max:
            worst = low if low < limits.min else high
            raise ValueError(f"{path}: value {worst} does not fit {dtype.name} ({limits.min}..{limits.max})")
    return np.ascontiguousarray(rows, dtype=dtype)
