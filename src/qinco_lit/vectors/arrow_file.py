"""Arrow files (IPC, as files, streams or Feather version 2): where the record batches lie, and their columns."""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from qinco_lit.vectors.columns import (
    Batches,
    check_rows,
    check_unchanged,
    column_layout,
    column_of,
    fixed_length,
    pyarrow,
)
from qinco_lit.vectors.layout import Layout, Target, run_lengths, system_errors_of

_MAGIC = b"ARROW1"  # of a file; a stream has none
_FEATHER_1 = b"FEA1"


class _Record(NamedTuple):
    """A record batch: where its message begins, and its rows."""

    position: int
    num_rows: int


class ArrowFile:
    """An Arrow file, mapped; its record batches are found by their heads, no data are read.

    Args:
        file: its name.
        path: as it was written, for messages.

    Raises:
        ValueError: it is none, or pyarrow is not installed.
    """

    def __init__(self, file: str, path: str) -> None:
        self._library, self._path = pyarrow(path), path
        with system_errors_of(path):
            self._map = self._library.memory_map(file)
        self.file_bytes = int(self._map.size())
        head = self._map.read(len(_MAGIC))
        if head.startswith(_FEATHER_1):
            raise ValueError(
                f"{path}: Feather version 1; write it again with pyarrow.feather.write_feather, or as Parquet"
            )
        self.is_stream = head != _MAGIC
        try:
            self._map.seek(0)
            open_it = self._library.ipc.open_stream if self.is_stream else self._library.ipc.open_file
            self.schema = open_it(self._map).schema
            records, self.has_dictionaries = self._scan(0 if self.is_stream else 8)
        except (self._library.ArrowInvalid, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: no Arrow file, or a truncated one ({reason})") from None
        self.groups = {number: record for number, record in enumerate(records) if record.num_rows}

    def _scan(self, position: int) -> tuple[list[_Record], bool]:
        records: list[_Record] = []
        has_dictionaries = False
        self._map.seek(position)
        while True:
            position = self._map.tell()
            try:
                message = self._library.ipc.read_message(self._map)
            except EOFError:
                return records, has_dictionaries
            has_dictionaries |= message.type == "dictionary"
            if message.type == "record batch":
                records.append(_Record(position, _num_rows(message.metadata.to_pybytes())))

    def arrays(self, column: str, batch_rows: int, group: int) -> Iterator[Any]:
        """The rows of a column in a record batch, so many at a time; what is not compressed stays in the mapping."""
        ipc, index = self._library.ipc, self.schema.get_field_index(column)
        if not self.is_stream:
            options = ipc.IpcReadOptions(included_fields=[index], use_threads=False)
            array = ipc.open_file(self._map, options=options).get_batch(group).column(0)
        elif self.has_dictionaries:
            raise ValueError(f"{self._path}: an Arrow stream with columns of a dictionary: write it again as Parquet")
        else:
            self._map.seek(self.groups[group].position)
            array = ipc.read_record_batch(ipc.read_message(self._map), self.schema).column(index)
        return (array.slice(first, batch_rows) for first in range(0, len(array), batch_rows))


def read_layout(target: Target, file: str) -> Layout:
    """Find the column of `file.arrow:column`, or the only one of vectors."""
    source = ArrowFile(file, target.path)
    check_rows(target.path, source.groups)
    field = column_of(target, source.schema)
    dim = fixed_length(field)
    if dim is None:
        first = next(source.arrays(field.name, 1, next(iter(source.groups))))[0]
        dim = len(first) if first.is_valid else 1
    sizes = [record.num_rows for record in source.groups.values()]
    return column_layout(target, file, source.file_bytes, field, dim, sizes)


def open_batches(layout: Layout) -> Batches:
    """Open the file for its column, once it is seen to be the same file as before."""
    source = ArrowFile(layout.file, layout.path)
    check_unchanged(layout, source.file_bytes, run_lengths(record.num_rows for record in source.groups.values()))
    groups = list(source.groups)
    return lambda group, batch_rows: source.arrays(str(layout.dataset), batch_rows, groups[group])


def _num_rows(metadata: bytes) -> int:
    """Of the head of a record batch, a flatbuffer: Message.header, then RecordBatch.length."""
    (message,) = struct.unpack_from("<I", metadata)
    header = message + _field(metadata, message, 2)
    batch = header + struct.unpack_from("<I", metadata, header)[0]
    length = _field(metadata, batch, 0)
    return int(struct.unpack_from("<q", metadata, batch + length)[0]) if length else 0


def _field(metadata: bytes, table: int, number: int) -> int:
    """Offset of a field in a table; 0 where it has its default."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    return int(struct.unpack_from("<H", metadata, vtable + 4 + 2 * number)[0])
