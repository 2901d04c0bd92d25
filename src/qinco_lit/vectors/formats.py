"""From a path to the layout of its rows, after every check that costs O(1)."""

import io
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from qinco_lit.vectors import arrow_file, hdf5, parquet, remote
from qinco_lit.vectors.layout import (
    BIN_DTYPES,
    HDF5_SUFFIXES,
    MAX_DIM,
    PARQUET_SUFFIX,
    RECORD_DTYPES,
    TABLE_SUFFIXES,
    Layout,
    NoRowsError,
    Target,
    is_url,
    matrix_shape,
    numeric_dtype,
    split_dataset,
    split_path,
)

# Records of an fvecs, bvecs or ivecs file whose dimension is compared with the first one's.
_NUM_SAMPLED_RECORDS = 16
# Of an npy file at a url: its header is far shorter.
_HEAD_BYTES = 16 << 10


def read_layout(path: str | os.PathLike[str]) -> Layout:
    """Read the header of a file of vectors and check it against the file's size.

    Raises FileNotFoundError for a missing file and ValueError, one line each, for an unknown suffix, an empty or
    truncated file, disagreeing dimensions, and contents that are not a matrix of numbers; NoRowsError is one for a file
    of 0 vectors.
    """
    target = split_path(path)
    if is_url(target.path):
        return _layout_at_url(target)
    if not target.file.is_file():
        raise FileNotFoundError(f"{target.path}: no such file")
    file_bytes = target.file.stat().st_size
    if file_bytes == 0:
        raise ValueError(f"{target.path}: empty file (0 bytes)")
    if target.suffix in HDF5_SUFFIXES:
        return hdf5.read_layout(target, file_bytes)
    if target.suffix == PARQUET_SUFFIX:
        return parquet.read_layout(target, _absolute(target.file))
    if target.suffix in TABLE_SUFFIXES:
        return arrow_file.read_layout(target, _absolute(target.file))
    with target.file.open("rb") as stream:
        if target.suffix in RECORD_DTYPES:
            return _record_layout(target, stream, file_bytes)
        if target.suffix in BIN_DTYPES:
            return _bin_layout(target, stream, file_bytes)
        return _npy_layout(target, stream, file_bytes)


def _layout_at_url(target: Target) -> Layout:
    url, _ = split_dataset(target.path)
    if target.suffix == PARQUET_SUFFIX:
        return parquet.read_layout(target, url)
    if target.suffix != ".npy":
        raise ValueError(f"{target.path}: of urls only .npy and {PARQUET_SUFFIX} files are read, not {target.suffix}")
    file_bytes, _ = remote.facts(url)
    if file_bytes == 0:
        raise ValueError(f"{target.path}: empty file (0 bytes)")
    head = io.BytesIO(remote.read_range(url, 0, min(file_bytes, _HEAD_BYTES)))
    layout = _npy_layout(target, head, file_bytes)
    return replace(layout, file=url, groups=remote.ranges_of(layout.num_rows, layout.row_stride))


def _record_layout(target: Target, stream: BinaryIO, file_bytes: int) -> Layout:
    """fvecs, bvecs, ivecs: each vector is int32 dim, then dim numbers."""
    path, dtype = target.path, RECORD_DTYPES[target.suffix]
    if file_bytes < 4:
        raise ValueError(f"{path}: truncated, {file_bytes} bytes cannot hold the 4-byte dimension of a record")
    dim = _record_dim(stream, 0)
    _check_dim(path, dim, "first record", target.suffix)
    record_bytes = 4 + dim * dtype.itemsize
    num_rows, rest = divmod(file_bytes, record_bytes)
    sampled = {1, *(int(row) for row in np.linspace(0, num_rows - 1, _NUM_SAMPLED_RECORDS))} if num_rows > 1 else set()
    for row in sorted(sampled):
        found = _record_dim(stream, row * record_bytes)
        if found != dim:
            raise ValueError(
                f"{path}: record {row} says dimension {found}, record 0 says {dim}; "
                f"the file is corrupt or not {target.suffix}"
            )
    if rest:
        raise ValueError(
            f"{path}: truncated, {file_bytes} bytes are {num_rows} records of {record_bytes} bytes "
            f"(dimension {dim}) and {rest} bytes more"
        )
    return Layout(path, _absolute(target.file), file_bytes, dtype, num_rows, dim, 4, record_bytes)


def _record_dim(stream: BinaryIO, position: int) -> int:
    stream.seek(position)
    return int(struct.unpack("<i", stream.read(4))[0])


def _bin_layout(target: Target, stream: BinaryIO, file_bytes: int) -> Layout:
    """fbin, u8bin, i8bin, ibin (big-ann): uint32 rows, uint32 dim, the rows; ground truth appends float32 distances."""
    path, dtype = target.path, BIN_DTYPES[target.suffix]
    if file_bytes < 8:
        raise ValueError(f"{path}: truncated, {file_bytes} bytes cannot hold the 8-byte header")
    num_rows, dim = struct.unpack("<II", stream.read(8))
    _check_dim(path, dim, "header", target.suffix)
    if num_rows == 0:
        raise NoRowsError(f"{path}: no vectors, the header says 0 rows of dimension {dim}")
    row_bytes = dim * dtype.itemsize
    expected = [8 + num_rows * row_bytes]
    if target.suffix == ".ibin":
        expected.append(8 + 2 * num_rows * row_bytes)
    if file_bytes not in expected:
        raise ValueError(
            f"{path}: the header says {num_rows} x {dim} ({' or '.join(map(str, expected))} bytes), but the file has "
            f"{file_bytes} bytes, which fit {(file_bytes - 8) // row_bytes} rows; "
            "download it again or correct the header"
        )
    return Layout(path, _absolute(target.file), file_bytes, dtype, num_rows, dim, 8, row_bytes)


def _check_dim(path: str, dim: int, where: str, suffix: str) -> None:
    if not 1 <= dim <= MAX_DIM:
        raise ValueError(f"{path}: {where} says dimension {dim}, not in 1..{MAX_DIM}; is it really {suffix}?")


def _npy_layout(target: Target, stream: BinaryIO | io.BytesIO, file_bytes: int) -> Layout:
    path = target.path
    shape, fortran_order, dtype = _npy_header(path, stream)
    numeric_dtype(path, dtype)
    num_rows, dim = matrix_shape(path, shape)
    if fortran_order and 1 not in shape:
        raise ValueError(f"{path}: Fortran order, shape {shape}; save it again with np.ascontiguousarray")
    offset, row_bytes = stream.tell(), dim * dtype.itemsize
    if file_bytes < offset + num_rows * row_bytes:
        raise ValueError(
            f"{path}: truncated, shape {shape} of {dtype} needs {offset + num_rows * row_bytes} bytes, but the file "
            f"has {file_bytes} bytes, which fit {(file_bytes - offset) // row_bytes} rows"
        )
    return Layout(path, _absolute(target.file), file_bytes, dtype, num_rows, dim, offset, row_bytes)


def _npy_header(path: str, stream: BinaryIO | io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(stream)
        # Version 3 differs from 2 only in the encoding of field names, which no matrix of numbers has.
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(stream)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a .npy file ({' '.join(str(error).split())})") from None


def _absolute(file: Path) -> str:
    return str(file.absolute())
