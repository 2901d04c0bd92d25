"""How each format is written, rows at a time, into a file that still has a temporary name."""

import os
import shutil
import struct
from pathlib import Path
from typing import Protocol, runtime_checkable

import h5py
import numpy as np
from jaxtyping import Shaped

from qinco_lit.atomic import reserve
from qinco_lit.vectors.layout import BIN_DTYPES, HDF5_SUFFIXES, RECORD_DTYPES, Target

_MAX_BIN_ROWS = 2**32 - 1
_CHUNK_BYTES = 1 << 20
# Far above what a dataset's header, its group and, for each chunk, its index entry take in an HDF5 file.
_HEADER_BYTES = 256 << 10
_INDEX_ENTRY_BYTES = 1 << 10


@runtime_checkable
class Sink(Protocol):
    """A half-written file: `append` rows, then `finish` it; `close` alone abandons it."""

    def append(self, rows: Shaped[np.ndarray, "n dim"]) -> None:
        """Write C-contiguous rows that already have the stored dtype."""

    def finish(self, num_rows: int) -> None:
        """Complete the header with the number of rows written."""

    def close(self) -> None:
        """Release the file, complete or not."""


def open_sink(target: Target, temporary: Path, dim: int, dtype: np.dtype, num_rows: int | None) -> Sink:
    """Start a file of rows (dim,) of `dtype` under the name `temporary`; `num_rows` if known beforehand."""
    if target.suffix in HDF5_SUFFIXES:
        return _Hdf5Sink(target, temporary, dim, dtype, num_rows)
    if target.suffix in RECORD_DTYPES:
        return _RecordSink(temporary, dim)
    if target.suffix in BIN_DTYPES:
        return _BinSink(temporary, dim)
    return _NpySink(temporary, dim, dtype)


class _ByteSink:
    """Rows as raw bytes; unbuffered, so that a full disk shows at the write and not at the close."""

    def __init__(self, temporary: Path, dim: int) -> None:
        self._dim = dim
        self._stream = temporary.open("xb", buffering=0)

    def append(self, rows: Shaped[np.ndarray, "n dim"]) -> None:
        self._write(rows.data.cast("B"))

    def finish(self, num_rows: int) -> None:
        """Nothing to complete: the file's size tells the number of rows."""

    def close(self) -> None:
        self._stream.close()

    def _write(self, data: memoryview) -> None:
        while data.nbytes:
            data = data[self._stream.write(data) :]


class _RecordSink(_ByteSink):
    """fvecs, bvecs, ivecs: int32 dim before every row."""

    def append(self, rows: Shaped[np.ndarray, "n dim"]) -> None:
        records = np.empty((len(rows), 4 + rows.shape[1] * rows.itemsize), dtype=np.uint8)
        records[:, :4] = np.frombuffer(struct.pack("<i", self._dim), dtype=np.uint8)
        records[:, 4:] = rows.view(np.uint8)
        super().append(records)


class _BinSink(_ByteSink):
    """fbin, u8bin, i8bin, ibin: uint32 rows, uint32 dim, the rows."""

    def __init__(self, temporary: Path, dim: int) -> None:
        super().__init__(temporary, dim)
        self._write(memoryview(struct.pack("<II", 0, dim)))

    def finish(self, num_rows: int) -> None:
        if num_rows > _MAX_BIN_ROWS:
            raise ValueError(f"{num_rows} rows exceed the {_MAX_BIN_ROWS} that the header can count; write .npy")
        self._stream.seek(0)
        self._write(memoryview(struct.pack("<II", num_rows, self._dim)))


class _NpySink(_ByteSink):
    """npy version 1: numpy pads its header so that the row count can be rewritten in place."""

    def __init__(self, temporary: Path, dim: int, dtype: np.dtype) -> None:
        super().__init__(temporary, dim)
        self._dtype = dtype
        self._write_header(0)

    def finish(self, num_rows: int) -> None:
        self._stream.seek(0)
        self._write_header(num_rows)

    def _write_header(self, num_rows: int) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (num_rows, self._dim)}
        np.lib.format.write_array_header_1_0(self._stream, header)


class _Hdf5Sink:
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
