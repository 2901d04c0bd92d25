"""Write one dataset of an HDF5 file whose disk may fill up."""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Shaped

from qinco_lit.vectors.disk_space import reserve
from qinco_lit.vectors.layout import Target

_CHUNK_BYTES = 1 << 20
# Far above what a dataset's header, its group and, for each chunk, its index entry take in the file.
_HEADER_BYTES = 256 << 10
_INDEX_ENTRY_BYTES = 1 << 10


class Hdf5Sink:
    """One dataset next to those the file already has: contiguous if the row count is known, else in chunks.

    The space on the disk is taken before the library needs it (`reserve`).
    """

    def __init__(self, target: Target, temporary: Path, dim: int, dtype: np.dtype, num_rows: int | None) -> None:
        self._temporary, self._num_written = temporary, 0
        if target.file.exists():
            shutil.copyfile(target.file, temporary)
        else:
            temporary.write_bytes(_empty_file())
        self._fixed_bytes = temporary.stat().st_size + _HEADER_BYTES
        row_bytes = dim * dtype.itemsize
        self._chunk_rows = max(1, _CHUNK_BYTES // row_bytes)
        self._chunk_bytes = self._chunk_rows * row_bytes + _INDEX_ENTRY_BYTES
        reserve(temporary, self._fixed_bytes + (num_rows or 0) * row_bytes)
        self._file = h5py.File(temporary, "r+")
        try:
            _make_room(target, self._file)
            self._dataset = self._create(str(target.dataset), dim, dtype, num_rows)
        except BaseException:
            self._file.close()
            raise

    def append(self, rows: Shaped[np.ndarray, "n dim"]) -> None:
        """Write C-contiguous rows that already have the stored dtype."""
        stop = self._num_written + len(rows)
        if self._dataset.chunks:
            reserve(self._temporary, self._fixed_bytes + -(-stop // self._chunk_rows) * self._chunk_bytes)
            self._dataset.resize(stop, axis=0)
        self._dataset[self._num_written : stop] = rows
        self._num_written = stop

    def finish(self, num_rows: int) -> None:
        """Write what the library still holds, and give back the space that was not needed."""
        assert self._dataset.shape[0] == num_rows
        self._file.flush()
        used_bytes = self._file.id.get_filesize()
        self._file.close()
        os.truncate(self._temporary, used_bytes)

    def close(self) -> None:
        """Release the file, complete or not."""
        self._file.close()

    def _create(self, name: str, dim: int, dtype: np.dtype, num_rows: int | None) -> h5py.Dataset:
        if num_rows is not None:
            return self._file.create_dataset(name, shape=(num_rows, dim), dtype=dtype)
        chunk = (self._chunk_rows, dim)
        return self._file.create_dataset(name, shape=(0, dim), maxshape=(None, dim), dtype=dtype, chunks=chunk)


def _empty_file() -> bytes:
    """An HDF5 file without datasets, made in memory."""
    with h5py.File("empty", "w", driver="core", backing_store=False) as file:
        file.flush()
        return bytes(file.id.get_file_image())


def _make_room(target: Target, file: h5py.File) -> None:
    """Remove the dataset of the same name; ValueError where the name would cost other datasets."""
    parts = str(target.dataset).split("/")
    for parent in ("/".join(parts[:depth]) for depth in range(1, len(parts))):
        if isinstance(file.get(parent), h5py.Dataset):
            raise ValueError(f"{target.path}: {parent!r} is a dataset, not a group; name another")
    if isinstance(file.get(target.dataset), h5py.Group):
        raise ValueError(f"{target.path}: {target.dataset!r} is a group of datasets; name another")
    if target.dataset in file:
        del file[target.dataset]
