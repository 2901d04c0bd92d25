"""Where the rows of one file of vectors lie, which suffix means what, and which dtypes are vectors."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Stored dtype of the formats whose suffix fixes it; all of them are little-endian by convention.
RECORD_DTYPES: dict[str, np.dtype] = {".fvecs": np.dtype("<f4"), ".bvecs": np.dtype("u1"), ".ivecs": np.dtype("<i4")}
BIN_DTYPES: dict[str, np.dtype] = {
    ".fbin": np.dtype("<f4"),
    ".u8bin": np.dtype("u1"),
    ".i8bin": np.dtype("i1"),
    ".ibin": np.dtype("<i4"),
}
HDF5_SUFFIXES = (".hdf5", ".h5")
FILE_SUFFIXES = (*RECORD_DTYPES, *BIN_DTYPES, ".npy", *HDF5_SUFFIXES)
KNOWN_SUFFIXES = (*RECORD_DTYPES, *BIN_DTYPES, ".npy", *(f"{suffix}:DATASET" for suffix in HDF5_SUFFIXES))

# Dtypes of vectors, as numpy and torch call them. Wider integers are ids or codes; float32 would not hold all of them.
VECTOR_DTYPES = ("uint8", "int8", "float16", "float32", "float64")
# A garbage header read as a dimension is almost surely above this; real embeddings stay below 10^5.
MAX_DIM = 1 << 20

_HDF5_PATH = re.compile(r"^(?P<file>.*\.(?:hdf5|h5)):(?P<dataset>.*)$")


@dataclass(frozen=True)
class Layout:
    """The place of (num_rows, dim) numbers inside a file.

    `path` is what the caller wrote (for messages), `file` the absolute path. Row i starts at byte
    `offset + i * row_stride`; `offset` is None for HDF5 data that only h5py can read (chunked, compressed).
    `dtype` is the stored one, byte order included.
    """

    path: str
    file: str
    file_bytes: int
    dtype: np.dtype
    num_rows: int
    dim: int
    offset: int | None
    row_stride: int
    dataset: str | None = None


@dataclass(frozen=True)
class Target:
    """A path split into its parts: the text as written, the file, the suffix, and the HDF5 dataset if any."""

    path: str
    file: Path
    suffix: str
    dataset: str | None = None


def split_path(path: str | os.PathLike[str]) -> Target:
    """Split `file.hdf5:name` or a plain path; ValueError for a suffix that no format has."""
    text = os.fspath(path)
    name, dataset = split_dataset(text)
    file = Path(name)
    if dataset is not None:
        return Target(text, file, file.suffix, dataset.strip("/") or None)
    if file.suffix not in FILE_SUFFIXES:
        raise ValueError(f"{text}: unknown suffix {file.suffix!r}; known: {' '.join(KNOWN_SUFFIXES)}")
    return Target(text, file, file.suffix)


def split_dataset(text: str) -> tuple[str, str | None]:
    """The file and the dataset of `file.hdf5:dataset`; None for other paths."""
    match = _HDF5_PATH.match(text)
    return (match["file"], match["dataset"]) if match else (text, None)


def numeric_dtype(path: str, dtype: np.dtype) -> np.dtype:
    """Return `dtype` if it is a real number of at most 8 bytes, else raise ValueError."""
    if dtype.kind == "O":
        raise ValueError(f"{path}: object dtype; save it as numbers, for example array.astype(np.float32)")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ValueError(f"{path}: dtype {dtype} is not numeric; vectors are integers or floats of at most 8 bytes")
    return dtype


def matrix_shape(path: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return `shape` as (rows, dim) if it is a non-empty matrix, else raise ValueError."""
    if len(shape) != 2:
        raise ValueError(f"{path}: {len(shape)}-dimensional, shape {shape}; vectors are a matrix (rows, dim)")
    if 0 in shape:
        raise ValueError(f"{path}: no vectors, shape {shape}")
    return shape


def check_vector_dtype(dtype: np.dtype, path: str | None = None) -> None:
    """Raise ValueError unless a dtype, of the file `path`, is one of vectors."""
    if dtype.name not in VECTOR_DTYPES:
        where = "" if path is None else f"{path}: "
        raise ValueError(f"{where}vectors of dtype {dtype.name} are not supported: give float32 or uint8")
