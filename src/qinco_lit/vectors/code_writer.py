"""Write files of codes: rows streamed into one HDF5 file, or shards joined as a virtual data set."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import h5py
import numpy as np

from qinco_lit.atomic import reserve
from qinco_lit.vectors.code_info import CodeInfo, StoredRows

# What any HDF5 since 1.10 (2016) reads; fixed, so that the same codes are the same bytes.
_LIBVER = ("v110", "v110")
# Large enough for sequential reading, small enough for single rows.
_CHUNK_BYTES = 64 << 10
# Far above what headers and attributes take in the file, and the index entry of a chunk.
_HEADER_BYTES = 64 << 10
_INDEX_ENTRY_BYTES = 64


class ShardRecord(NamedTuple):
    """A finished shard: size of its file, checksum of its rows (`RowsDigest`, hexadecimal)."""

    file_bytes: int
    sha256: str


class CodeWriter:
    """Stream rows into an HDF5 file: `with CodeWriter(path, info, num_rows) as writer: writer.append(rows)`.

    The file is made anew under `path`; give a temporary name. Data sets: `codes` (num_rows, columns) and, for codecs
    with lists, `list_ids` (num_rows,) int32. The space for all rows is taken at the start.

    Args:
        path: of the file.
        info: what the rows are.
        num_rows: that will be appended.
        shards: makes the file a store of its own: their checksums and the attributes of `info` go into it.

    Raises:
        OSError: no room on the disk.
    """

    def __init__(self, path: Path, info: CodeInfo, num_rows: int, shards: Sequence[ShardRecord] | None = None) -> None:
        self._path, self._num_rows, self._num_written = path, num_rows, 0
        # As many rows in each chunk as in the last one, or nearly: no space is wasted at the end.
        num_chunks = max(1, num_rows * info.bytes_per_vector // _CHUNK_BYTES)
        chunk_rows = -(-num_rows // num_chunks)
        with _in_memory() as empty:
            path.write_bytes(_content(empty))
        data_bytes = (num_rows + chunk_rows) * info.bytes_per_vector + 2 * num_chunks * _INDEX_ENTRY_BYTES
        reserve(path, _HEADER_BYTES + 64 * len(shards or ()) + data_bytes)
        self._file = h5py.File(path, "r+", libver=_LIBVER)
        shape, chunk = (num_rows, info.stored_columns), (chunk_rows, info.stored_columns)
        self._codes = self._file.create_dataset("codes", shape, info.stored_dtype, chunks=chunk)
        self._list_ids = None
        if info.num_lists is not None:
            self._list_ids = self._file.create_dataset("list_ids", (num_rows,), "<i4", chunks=(chunk_rows,))
        if shards is not None:
            _describe(self._file, info.to_values(), shards)

    def append(self, rows: StoredRows) -> None:
        """Write the next rows."""
        stop = self._num_written + len(rows.codes)
        self._codes[self._num_written : stop] = rows.codes
        if self._list_ids is not None:
            self._list_ids[self._num_written : stop] = rows.list_ids
        self._num_written = stop

    def __enter__(self) -> "CodeWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            assert self._num_written == self._num_rows
            self._file.flush()
            used_bytes = self._file.id.get_filesize()
        self._file.close()
        if error is None:
            os.truncate(self._path, used_bytes)


def virtual_store(info: CodeInfo, sources: Sequence[str], shards: Sequence[ShardRecord]) -> bytes:
    """Return the content of a store whose rows stay in the files of its shards.

    `sources` are their paths relative to the folder of the store.
    """
    with _in_memory() as file:
        _add_virtual(file, "codes", info, sources, (info.stored_columns,), info.stored_dtype)
        if info.num_lists is not None:
            _add_virtual(file, "list_ids", info, sources, (), np.dtype("<i4"))
        _describe(file, info.to_values(), shards)
        file["shard_bytes"] = np.array([shard.file_bytes for shard in shards], dtype="<i8")
        file.attrs["shard_folder"] = str(Path(sources[0]).parent)
        return _content(file)


def _add_virtual(
    file: h5py.File, name: str, info: CodeInfo, sources: Sequence[str], columns: tuple[int, ...], dtype: np.dtype
) -> None:
    """Add a virtual dataset; by the low-level interface, as the other one stores the time, and no two files agree."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    space = h5py.h5s.create_simple((info.num_rows, *columns))
    for shard, source in enumerate(sources):
        start, stop = info.shard_range(shard)
        space.select_hyperslab((start, *(0 for _ in columns)), (stop - start, *columns))
        there = h5py.h5s.create_simple((stop - start, *columns))
        properties.set_virtual(space, source.encode(), name.encode(), there)
    space.select_all()
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype), space, properties)


def _in_memory() -> h5py.File:
    return h5py.File("memory", "w", driver="core", backing_store=False, libver=_LIBVER)


def _content(file: h5py.File) -> bytes:
    file.flush()
    return bytes(file.id.get_file_image())


def _describe(file: h5py.File, values: Mapping[str, Any], shards: Sequence[ShardRecord]) -> None:
    for name, value in values.items():
        file.attrs[name] = value
    checksums = b"".join(bytes.fromhex(shard.sha256) for shard in shards)
    file["shard_sha256"] = np.frombuffer(checksums, dtype=np.uint8).reshape(len(shards), 32)
