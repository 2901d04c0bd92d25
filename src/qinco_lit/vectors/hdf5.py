"""HDF5 datasets as vectors: where the rows lie, and reading those that cannot be mapped."""

import os
from typing import Any

import h5py
import numpy as np
from jaxtyping import Int64, Shaped

from qinco_lit.vectors.layout import Layout, Target, matrix_shape, numeric_dtype, system_errors_of

# Rows read at once where the file itself names no chunk.
_DEFAULT_CHUNK_ROWS = 4096


def read_layout(target: Target, file_bytes: int) -> Layout:
    """Find the dataset of `file.hdf5:dataset`; contiguous plain data get an offset to map, others offset None."""
    path = target.path
    with system_errors_of(path):
        is_hdf5 = h5py.is_hdf5(target.file)
    if not is_hdf5:
        raise ValueError(f"{path}: not an HDF5 file (bad signature)")
    try:
        with h5py.File(target.file, "r") as file:
            dataset = _find_dataset(target, file)
            dtype = numeric_dtype(path, dataset.dtype)
            num_rows, dim = matrix_shape(path, dataset.shape)
            offset = _mappable_offset(dataset)
            name = str(dataset.name)
    except OSError as error:
        raise ValueError(f"{path}: unreadable HDF5 file ({' '.join(str(error).split())})") from None
    row_bytes = dim * dtype.itemsize
    if offset is not None and offset + num_rows * row_bytes > file_bytes:
        raise ValueError(
            f"{path}: truncated, shape {(num_rows, dim)} of {dtype} needs {offset + num_rows * row_bytes} bytes, "
            f"but the file has {file_bytes} bytes, which fit {max(0, file_bytes - offset) // row_bytes} rows"
        )
    return Layout(path, str(target.file.absolute()), file_bytes, dtype, num_rows, dim, offset, row_bytes, name)


def _find_dataset(target: Target, file: Any) -> Any:
    if target.dataset is not None and isinstance(found := file.get(target.dataset), h5py.Dataset):
        return found
    there: list[str] = []
    file.visititems(lambda name, item: there.append(name) if isinstance(item, h5py.Dataset) else None)
    listed = " ".join(there) or "none"
    if target.dataset is None:
        raise ValueError(f"{target.path}: name a dataset, {target.file}:DATASET; datasets there: {listed}")
    raise ValueError(f"{target.path}: no dataset {target.dataset!r}; datasets there: {listed}")


def _mappable_offset(dataset: Any) -> int | None:
    """Byte offset of the data if the file holds them contiguous, unfiltered and in numpy's own representation."""
    properties = dataset.id.get_create_plist()
    if properties.get_layout() != h5py.h5d.CONTIGUOUS or properties.get_external_count():
        return None
    if not dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype)):
        return None
    offset = dataset.id.get_offset()
    return None if offset is None else int(offset)


class ChunkedRows:
    """Rows of a dataset that only h5py can decode; the file is opened once per process, on first use."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._dataset: Any = None
        self._process_id = -1

    def __getstate__(self) -> Layout:
        return self._layout

    def __setstate__(self, layout: Layout) -> None:
        self.__init__(layout)  # type: ignore[misc]

    def block(self, start: int, stop: int) -> Shaped[np.ndarray, "n dim"]:
        """Rows start..stop, 0 <= start <= stop <= num_rows, as a fresh array (n, dim)."""
        return np.ascontiguousarray(self._open()[start:stop], dtype=self._layout.dtype.newbyteorder("="))

    def gather(self, ids: Int64[np.ndarray, " n"]) -> Shaped[np.ndarray, "n dim"]:
        """Rows `ids`, all in 0..num_rows - 1, as a fresh array (n, dim); each chunk is decoded once."""
        dataset = self._open()
        chunk_rows = dataset.chunks[0] if dataset.chunks else _DEFAULT_CHUNK_ROWS
        out = np.empty((len(ids), self._layout.dim), dtype=self._layout.dtype.newbyteorder("="))
        order = np.argsort(ids, kind="stable")
        chunks = ids[order] // chunk_rows
        bounds = np.flatnonzero(np.diff(chunks)) + 1
        for positions in np.split(order, bounds) if len(ids) else ():
            first = int(ids[positions[0]]) // chunk_rows * chunk_rows
            out[positions] = dataset[first : first + chunk_rows][ids[positions] - first]
        return out

    def _open(self) -> Any:
        # HDF5 handles must not be used after a fork: each process opens its own.
        if self._process_id != os.getpid():
            self._dataset = h5py.File(self._layout.file, "r")[self._layout.dataset]
            self._process_id = os.getpid()
        return self._dataset
