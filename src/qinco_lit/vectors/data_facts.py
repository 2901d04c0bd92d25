"""Where the vectors of a data set are, and what is known of them, with or without the files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qinco_lit.vectors.vector_file import VectorFile

# Bytes before the first row and bytes before every row, by suffix.
_HEADERS = {".bvecs": (0, 4), ".fvecs": (0, 4), ".ivecs": (0, 4), ".fbin": (8, 0), ".u8bin": (8, 0), ".npy": (128, 0)}
_ITEM_BYTES = {"uint8": 1, "float32": 4, "int32": 4}


@dataclass(frozen=True)
class DataFile:
    """One published file of a data set; None stands for what no source states.

    Attributes:
        path: below the folder of the set.
        url: where it was published; one that ends in .gz is unpacked, one in .tar.gz holds the file as `path`.
        dtype: of the rows, a name of numpy's.
        num_rows, dim: what the file must have.
    """

    path: str
    url: str
    dtype: str
    num_rows: int | None
    dim: int | None

    @property
    def size_bytes(self) -> int | None:
        """Size on disk after unpacking, from rows, dimension and format."""
        if self.num_rows is None or self.dim is None:
            return None
        file_header, row_header = _HEADERS[Path(self.path).suffix]
        return file_header + self.num_rows * (row_header + self.dim * _ITEM_BYTES[self.dtype])


@dataclass(frozen=True)
class DataFacts:
    """Size and type of a data set's vectors; None stands for what is not known.

    Attributes:
        name: of the data set.
        dim: of the vectors.
        dtype: of the vectors as they are read, a name of numpy's: uint8, float32.
        num_database: vectors to encode.
        num_train: vectors to train on.
        epoch_size: training vectors per epoch, at most `num_train`.
        database_bytes: size of the file of the database.
        rows: vectors of this set where a file of them is there, those to encode if possible.
    """

    name: str
    dim: int
    dtype: str
    num_database: int | None
    num_train: int | None
    epoch_size: int
    database_bytes: int | None
    rows: VectorFile | None


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where the vectors of a data set are: each is a path, a VectorFile or an array (`as_vectors_file`).

    Attributes:
        name: of the data set, for run folders and reports.
        train: vectors to train on.
        val: for validation; None: the last rows of `train`.
        database: to compress and search; None: the validation rows.
        queries: None: there are none, and no recall can be computed.
        ground_truth: file of the ids of the true neighbours (ivecs, ibin, npy), taken as they are; None: computed.
        prepare: makes the files that are not there, or does nothing.
    """

    name: str
    train: Any
    val: Any = None
    database: Any = None
    queries: Any = None
    ground_truth: str | None = None
    prepare: Callable[[], Any] = lambda: None
