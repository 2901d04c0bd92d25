"""Where the rows of one file of vectors lie, which suffix means what, and which dtypes are vectors."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Int64

# Stored dtype of the formats whose suffix fixes it; all of them are little-endian by convention.
RECORD_DTYPES: dict[str, np.dtype] = {".fvecs": np.dtype("<f4"), ".bvecs": np.dtype("u1"), ".ivecs": np.dtype("<i4")}
BIN_DTYPES: dict[str, np.dtype] = {
    ".fbin": np.dtype("<f4"),
    ".u8bin": np.dtype("u1"),
    ".i8bin": np.dtype("i1"),
    ".ibin": np.dtype("<i4"),
}
HDF5_SUFFIXES = (".hdf5", ".h5")
PARQUET_SUFFIX = ".parquet"
TABLE_SUFFIXES = (PARQUET_SUFFIX, ".arrow", ".feather")
WRITTEN_SUFFIXES = (*RECORD_DTYPES, *BIN_DTYPES, ".npy", *HDF5_SUFFIXES)
FILE_SUFFIXES = (*WRITTEN_SUFFIXES, *TABLE_SUFFIXES)
KNOWN_SUFFIXES = (
    *RECORD_DTYPES, *BIN_DTYPES, ".npy", *(f"{suffix}:DATASET" for suffix in HDF5_SUFFIXES), *TABLE_SUFFIXES,
)  # fmt: skip

# Dtypes of vectors, as numpy and torch call them. Wider integers are ids or codes; float32 would not hold all of them.
VECTOR_DTYPES = ("uint8", "int8", "float16", "float32", "float64")
# A garbage header read as a dimension is almost surely above this; real embeddings stay below 10^5.
MAX_DIM = 1 << 20

_PATH_WITHIN = re.compile(r"^(?P<file>.*\.(?:hdf5|h5|parquet|arrow|feather)):(?P<dataset>.*)$")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")

# Runs of rows that are read together: (rows, how many runs of so many follow each other), …
Groups = tuple[tuple[int, int], ...]


class NoRowsError(ValueError):
    """A well-formed file that holds no vectors; among many files it is passed over."""


@dataclass(frozen=True)
class Layout:
    """The place of (num_rows, dim) numbers inside a file.

    `path` is what the caller wrote (for messages), `file` the absolute path, or the url. Row i starts at byte
    `offset + i * row_stride`; `offset` is None for what only a library can read: HDF5 data in chunks, columns of
    tables. `dtype` is the stored one, byte order included; `dataset` that of an HDF5 file, or the column of a table.
    `groups` are runs of rows of which one costs about as much as all: row groups, record batches, ranges at a url.
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
    groups: Groups | None = None

    @property
    def suffix(self) -> str:
        """Of the file."""
        return os.path.splitext(self.file)[1]  # noqa: PTH122 (asked for at every opening of one of many files)


@dataclass(frozen=True)
class Target:
    """A path split into its parts: the text as written, the file, the suffix, and the dataset or column if any."""

    path: str
    file: Path
    suffix: str
    dataset: str | None = None


def split_path(path: str | os.PathLike[str]) -> Target:
    """Split `file.hdf5:name`, `file.parquet:column` or a plain path; ValueError for a suffix that no format has."""
    text = os.fspath(path)
    name, dataset = split_dataset(text)
    file = Path(name)
    if dataset is not None:
        return Target(text, file, file.suffix, dataset.strip("/") or None)
    if file.suffix not in FILE_SUFFIXES:
        raise ValueError(f"{text}: unknown suffix {file.suffix!r}; known: {' '.join(KNOWN_SUFFIXES)}")
    return Target(text, file, file.suffix)


def split_dataset(text: str) -> tuple[str, str | None]:
    """The file and the dataset or column of `file.hdf5:dataset`, `file.parquet:column`; None for other paths."""
    match = _PATH_WITHIN.match(text)
    return (match["file"], match["dataset"]) if match else (text, None)


def is_url(text: str) -> bool:
    """Whether a path is one of a file system that fsspec reads: `s3://bucket/file.npy`."""
    return _URL.match(text) is not None


@contextmanager
def system_errors_of(path: str) -> Iterator[None]:
    """Let what the system refuses to a library be said as Python says it: `Permission denied: 'file.parquet'`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), path) from None


def output_place(output: str | os.PathLike[str]) -> Path | str:
    """Where something is written, or was: a url as text, without the slash at its end, all else as a path."""
    text = os.fspath(output)
    return text.rstrip("/") if is_url(text) else Path(text)


def run_lengths(sizes: Iterable[int]) -> Groups:
    """Sizes of runs of rows, equal ones that follow each other counted."""
    return tuple((size, len(list(same))) for size, same in groupby(sizes))


def group_sizes(layout: Layout, default: int) -> Int64[np.ndarray, " groups"]:
    """Rows of each group of a file; of one without groups, runs of `default` rows."""
    groups = layout.groups
    if groups is None:
        full, rest = divmod(layout.num_rows, default)
        groups = ((default, full), (rest, int(rest > 0)))
    return np.repeat(*(np.array(each, dtype=np.int64) for each in zip(*groups, strict=True)))


def numeric_dtype(path: str, dtype: np.dtype) -> np.dtype:
    """Return `dtype` if it is a real number of at most 8 bytes, else raise ValueError."""
    if dtype.kind == "O":
        raise ValueError(f"{path}: object dtype; save it as numbers, for example array.astype(np.float32)")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ValueError(f"{path}: dtype {dtype} is not numeric; vectors are integers or floats of at most 8 bytes")
    return dtype


def matrix_shape(path: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return `shape` as (rows, dim) if it is a non-empty matrix, else raise ValueError; NoRowsError without rows."""
    if len(shape) != 2:
        raise ValueError(f"{path}: {len(shape)}-dimensional, shape {shape}; vectors are a matrix (rows, dim)")
    if 0 in shape:
        raise (NoRowsError if shape[0] == 0 else ValueError)(f"{path}: no vectors, shape {shape}")
    return shape


def check_vector_dtype(dtype: np.dtype, path: str | None = None) -> None:
    """Raise ValueError unless a dtype, of the file `path`, is one of vectors."""
    if dtype.name not in VECTOR_DTYPES:
        where = "" if path is None else f"{path}: "
        raise ValueError(f"{where}vectors of dtype {dtype.name} are not supported: give float32 or uint8")
