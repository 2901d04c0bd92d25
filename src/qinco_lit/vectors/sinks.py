"""How each format is written, rows at a time, into a file that still has a temporary name."""

import struct
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

from qinco_lit.vectors.hdf5_sink import Hdf5Sink
from qinco_lit.vectors.layout import BIN_DTYPES, HDF5_SUFFIXES, RECORD_DTYPES, Target

_MAX_BIN_ROWS = 2**32 - 1


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
        return Hdf5Sink(target, temporary, dim, dtype, num_rows)
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
