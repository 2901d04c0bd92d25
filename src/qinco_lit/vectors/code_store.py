"""A store of codes as an array that stays on disk."""

import operator
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Int32, Integer

from qinco_lit.vectors.code_info import CodeInfo, RowsDigest, StoredRows
from qinco_lit.vectors.code_tables import TableRows, read_parts
from qinco_lit.vectors.code_writer import ShardRecord
from qinco_lit.vectors.layout import PARQUET_SUFFIX, output_place
from qinco_lit.vectors.vector_file import read_ahead

_MAX_OPEN_FILES = 32
_VERIFIED_BYTES = 8 << 20  # read at a time


class CodeStore:
    """Codes of a data set, array-like: `shape`, `dtype`, `len`, row ranges that are read from disk.

    `store[a:b]` is a fresh array (n, num_steps), uint8, or uint16 when codebook_size > 256, unpacked; `store[i]` is
    one row. `store.list_ids(a, b)` are the lists of codecs that have them, int32. `store.info` says what the codes
    belong to. Memory is O(1) in the store's size; a pickle holds no data, and every process opens the files itself.
    """

    ndim = 2

    def __init__(self, path: str, info: CodeInfo, shards: list[ShardRecord], rows: "CodeFiles | TableRows") -> None:
        self.path, self.info, self.shards = path, info, shards
        self._rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, num_steps)."""
        return (self.info.num_rows, self.info.num_steps)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the codes that reading gives."""
        return self.info.code_dtype

    @property
    def is_virtual(self) -> bool:
        """Whether the rows lie in files of shards next to the store, instead of in the store."""
        return isinstance(self._rows, CodeFiles) and self._rows.files != [str(Path(self.path).absolute())]

    @property
    def num_shards(self) -> int:
        """Ranges of rows that have a checksum each: the shards of the encoding, or the files of a store in Parquet."""
        return self.info.num_shards if isinstance(self._rows, CodeFiles) else len(self._rows.stops)

    def shard_range(self, shard: int) -> tuple[int, int]:
        """First row of a shard, and the row after its last."""
        if isinstance(self._rows, CodeFiles):
            return self.info.shard_range(shard)
        return (self._rows.stops[shard - 1] if shard else 0), self._rows.stops[shard]

    def __len__(self) -> int:
        return self.info.num_rows

    def __repr__(self) -> str:
        return f"CodeStore({self.path!r}, {self.shape[0]} rows of {self.shape[1]} codes)"

    def __getitem__(self, key: Any) -> Integer[np.ndarray, "..."]:
        if isinstance(key, slice) and key.step in (None, 1):
            rows = range(*key.indices(len(self)))
            return self.info.unstored(self._rows.read(rows.start, rows.start + len(rows)).codes)
        try:
            row = operator.index(key)
        except TypeError:
            raise IndexError(f"{self.path}: index rows by int or by a slice without step, not {key!r}") from None
        if not -len(self) <= row < len(self):
            raise IndexError(f"{self.path}: row {row} is out of range for {len(self)} rows")
        row %= len(self)
        one: Integer[np.ndarray, " steps"] = self.info.unstored(self._rows.read(row, row + 1).codes)[0]
        return one

    def list_ids(self, start: int = 0, stop: int | None = None) -> Int32[np.ndarray, " n"]:
        """The lists of rows start..stop; bounds as in a slice. Raises ValueError for a codec without lists."""
        if self.info.num_lists is None:
            raise ValueError(f"{self.path}: the codec of these codes has no lists")
        rows = range(*slice(start, stop).indices(len(self)))
        ids = self._rows.read(rows.start, rows.start + len(rows)).list_ids
        assert ids is not None
        return ids

    def iter_batches(self, batch_size: int) -> Iterator[Integer[np.ndarray, "batch steps"]]:
        """Yield the codes of all rows in order, (batch_size, num_steps), the last batch possibly shorter."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        for first in range(0, len(self), batch_size):
            yield self[first : first + batch_size]

    def coded_batches(
        self, start: int, stop: int, batch_size: int
    ) -> Iterator[tuple[Integer[np.ndarray, "batch steps"], Int32[np.ndarray, " batch"] | None]]:
        """Yield (codes, list_ids) of rows start..stop in order, `batch_size` at a time, the last ones possibly fewer.

        Bounds are as in a slice; `list_ids` is None for a codec without lists. The next batch is read and unpacked in a
        thread while the caller works with this one: three batches are in memory, whatever the size of the store.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        rows = range(*slice(start, stop).indices(len(self)))
        pieces = (rows[first : first + batch_size] for first in range(0, len(rows), batch_size))
        with closing(read_ahead(self._coded, pieces)) as batches:
            yield from batches

    def _coded(self, rows: range) -> tuple[Integer[np.ndarray, "batch steps"], Int32[np.ndarray, " batch"] | None]:
        stored = self._rows.read(rows.start, rows.stop)
        return self.info.unstored(stored.codes), stored.list_ids

    def stored(self, start: int, stop: int) -> StoredRows:
        """Rows start..stop as they lie in the file, 0 <= start <= stop."""
        return self._rows.read(start, stop)

    def stored_batches(self, start: int, stop: int) -> Iterator[StoredRows]:
        """Yield rows start..stop as they lie in the file, some megabytes at a time."""
        step = max(1, _VERIFIED_BYTES // self.info.bytes_per_vector)
        for first in range(start, stop, step):
            yield self._rows.read(first, min(first + step, stop))

    def checked_batches(self, shard: int, record: ShardRecord | None = None) -> Iterator[StoredRows]:
        """Yield the rows of a shard as they lie in the file, and compare them with its checksum, or another record's.

        Raises:
            ValueError: after the last rows, when they are damaged, or as soon as they cannot be read; names the file,
                the shard and its rows.
        """
        start, stop = self.shard_range(shard)
        digest, reason = RowsDigest(), ""
        try:
            for rows in self.stored_batches(start, stop):
                digest.add(rows)
                yield rows
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
        if not reason and digest.hexdigest() != (record or self.shards[shard]).sha256:
            reason = "its checksum is another"
        if reason:
            where = self._rows.files[shard if len(self._rows.files) > 1 else 0]
            raise ValueError(f"{where}: shard {shard} (rows {start}..{stop - 1}) is damaged: {reason}")

    def verify_shard(self, shard: int, record: ShardRecord | None = None) -> None:
        """Read a shard. Raises ValueError when it is damaged, as `checked_batches`."""
        for _ in self.checked_batches(shard, record):
            pass


def open_codes(path: str | os.PathLike[str]) -> CodeStore:
    """Open a store of codes, HDF5 or Parquet (a file, or a folder of them, also at a url), without reading its rows.

    Raises:
        FileNotFoundError: the file, or that of a shard, is missing.
        ValueError: the file is no store of codes, or a shard's file has not the size it was written with.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path is of type {type(path).__name__}: give the path of a store of codes")
    file = output_place(path)
    if isinstance(file, str) or file.is_dir() or (file.suffix == PARQUET_SUFFIX and file.is_file()):
        info, shards, files, stops = read_parts(file)
        return CodeStore(str(file), info, shards, TableRows(files, info, stops))
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        with h5py.File(file, "r") as content:
            info = CodeInfo.from_values(dict(content.attrs))
            checksums = content["shard_sha256"][:]
            folder = content.attrs.get("shard_folder")
            sizes = content["shard_bytes"][:] if folder is not None else np.full(len(checksums), file.stat().st_size)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{file}: no store of codes that this version reads ({' '.join(str(error).split())})"
        ) from None
    shards = [ShardRecord(int(size), row.tobytes().hex()) for size, row in zip(sizes, checksums, strict=True)]
    if folder is None:
        return CodeStore(str(file), info, shards, CodeFiles([str(file.absolute())], info))
    places = [file.absolute().parent / str(folder) / shard_name(shard) for shard in range(info.num_shards)]
    for place, record in zip(places, shards, strict=True):
        check_shard_file(place, record)
    return CodeStore(str(file), info, shards, CodeFiles([str(place) for place in places], info))


def shard_name(shard: int) -> str:
    """Name of a shard's file in its folder."""
    return f"shard-{shard:05d}.h5"


def check_shard_file(file: Path, record: ShardRecord) -> None:
    """Raise FileNotFoundError or ValueError unless the file of a shard is there and has its size."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: the file of this shard is missing")
    if (found := file.stat().st_size) != record.file_bytes:
        raise ValueError(f"{file}: {found} bytes, but the shard was written with {record.file_bytes}: it is damaged")


class CodeFiles:
    """Rows in HDF5 files, one of them, or one of each shard; a few files are open at a time."""

    def __init__(self, files: list[str], info: CodeInfo) -> None:
        self.files, self._info = files, info
        self._rows_per_file = info.shard_rows if len(files) > 1 else info.num_rows
        self._open: dict[int, h5py.File] = {}
        self._lock = threading.Lock()
        self._process_id = os.getpid()

    def __getstate__(self) -> tuple[list[str], CodeInfo]:
        return self.files, self._info

    def __setstate__(self, state: tuple[list[str], CodeInfo]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def read(self, start: int, stop: int) -> StoredRows:
        """Rows start..stop, 0 <= start <= stop."""
        parts: list[StoredRows] = []
        first = start
        while first < stop or not parts:
            index = min(first // self._rows_per_file, len(self.files) - 1)
            offset = index * self._rows_per_file
            last = min(stop, offset + self._rows_per_file)
            parts.append(self._read_file(index, first - offset, last - offset))
            first = last
        if len(parts) == 1:
            return parts[0]
        ids = [part.list_ids for part in parts if part.list_ids is not None]
        return StoredRows(np.concatenate([part.codes for part in parts]), np.concatenate(ids) if ids else None)

    def _read_file(self, index: int, start: int, stop: int) -> StoredRows:
        with self._lock:
            file = self._file(index)
            ids = file["list_ids"][start:stop].astype(np.int32, copy=False) if "list_ids" in file else None
            return StoredRows(file["codes"][start:stop], ids)

    def _file(self, index: int) -> h5py.File:
        if self._process_id != os.getpid():  # HDF5 handles must not be used after a fork
            self._open, self._process_id = {}, os.getpid()
        if index not in self._open:
            if len(self._open) == _MAX_OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            self._open[index] = h5py.File(self.files[index], "r")
        return self._open[index]
