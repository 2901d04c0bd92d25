"""Stores of codes as Parquet: one file, or a folder of a file for each file of the vectors, with their ids."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qinco_lit.vectors import arrow_file, parquet
from qinco_lit.vectors.code_info import CodeInfo, RowsDigest, StoredRows
from qinco_lit.vectors.code_writer import ShardRecord
from qinco_lit.vectors.columns import check_unchanged, pyarrow
from qinco_lit.vectors.layout import PARQUET_SUFFIX, TABLE_SUFFIXES, Layout, Target, is_url, run_lengths, split_dataset
from qinco_lit.vectors.many import ManyRows, in_natural_order
from qinco_lit.vectors.remote import appearing, named_urls, of_each
from qinco_lit.vectors.vector_file import VectorFile, rows_of

CODES, LIST_ID = "codes", "list_id"  # columns
DEFAULT_ID = "id"  # column of the vectors' files
_METADATA = b"qinco_lit codes"
_GROUP_ROWS = 1 << 17

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A file of a store in Parquet.

    Attributes:
        file: its path, or its url.
        start, stop: rows of the store in it.
        sources: the files of its vectors, and which of their rows they are, start..stop.
    """

    file: Path | str
    start: int
    stop: int
    sources: list[tuple[Layout, int, int]]


class MissingPartError(ValueError):
    """Not all files of a store are there."""


def is_table_store(place: Path | str) -> bool:
    """Whether a store of this name is one in Parquet: a file, or a folder, which has no suffix until it is there."""
    path = Path(place)
    return path.suffix == PARQUET_SUFFIX or path.suffix == "" or path.is_dir()


def parts_of(output: Path | str, vectors: VectorFile) -> list[Part]:
    """The files of a store: a Parquet file as named, or in a folder one for each file of the vectors, in its name.

    Where these names are not different, or not in the order of the rows, numbers come before them.
    """
    ranges = vectors.file_ranges()
    stops = np.cumsum([stop - start for _, start, stop in ranges]).tolist()
    starts = [0, *stops[:-1]]
    if Path(output).suffix == PARQUET_SUFFIX and not Path(output).is_dir():
        return [Part(output, 0, stops[-1], ranges)]
    names = [Path(layout.file).stem or "codes" for layout, _, _ in ranges]
    if len(set(names)) < len(names) or in_natural_order(names) != names:
        names = [f"{number:05d}-{name}" for number, name in enumerate(names)]
    files = [f"{name}{PARQUET_SUFFIX}" for name in names]
    return [
        Part(output / file if isinstance(output, Path) else f"{output}/{file}", first, stop, [source])
        for file, first, stop, source in zip(files, starts, stops, ranges, strict=True)
    ]


# --- ids --------------------------------------------------------------------------------------------------------------


def id_column(vectors: VectorFile, wanted: str | None) -> str | None:
    """The column of ids that goes into a store: the one that is wanted, or `id` where all files have one of one type.

    Raises:
        ValueError: a file lacks the column that is wanted, or has it in another type than the first.
    """
    name, first = wanted or DEFAULT_ID, None
    for layout, _, _ in vectors.file_ranges():
        schema = _open_table(layout).schema if layout.suffix in TABLE_SUFFIXES else None
        kind = schema.field(name).type if schema is not None and name in schema.names else None
        if kind is None or kind != (first or kind):
            found = "no column of this name" if kind is None else f"it as {kind}, the first file has it as {first}"
            file = split_dataset(layout.path)[0]
            if wanted is not None:
                raise ValueError(f"id_column={wanted}: {file} has {found}")
            if first is not None:
                _log.warning(f"the codes go without ids: of column {name}, {file} has {found}")
            return None
        first = kind
    return name


class _Table:
    """A table of vectors, open: its schema and the arrays of a column."""

    def __init__(self, schema: Any, arrays: Callable[[str], Iterator[Any]]) -> None:
        self.schema, self.arrays = schema, arrays


def _open_table(layout: Layout) -> _Table:
    if layout.suffix == PARQUET_SUFFIX:
        file = parquet.ParquetFile(layout.file, layout.path)
        check_unchanged(layout, file.file_bytes, run_lengths(file.groups.values()))
        groups = list(file.groups)
        return _Table(file.content.schema_arrow, lambda name: file.arrays(name, _GROUP_ROWS, groups))
    arrow = arrow_file.ArrowFile(layout.file, layout.path)
    check_unchanged(layout, arrow.file_bytes, run_lengths(record.num_rows for record in arrow.groups.values()))
    return _Table(
        arrow.schema, lambda name: (a for group in arrow.groups for a in arrow.arrays(name, _GROUP_ROWS, group))
    )


class _Ids:
    """The ids of a part, taken in order."""

    def __init__(self, part: Part, name: str) -> None:
        self._name, self._sources = name, part.sources
        self.field = _open_table(part.sources[0][0]).schema.field(name)
        self._arrays = self._all()
        self._rest: Any = None

    def _all(self) -> Iterator[Any]:
        for layout, start, stop in self._sources:
            row = 0
            for array in _open_table(layout).arrays(self._name):
                some = array[max(0, start - row) : max(0, stop - row)]
                row += len(array)
                if len(some):
                    yield some

    def take(self, number: int) -> list[Any]:
        """Arrays of the next ids, so many together."""
        taken: list[Any] = []
        while number:
            array = next(self._arrays) if self._rest is None else self._rest
            taken.append(array[:number])
            self._rest = array[number:] if len(array) > number else None
            number -= len(taken[-1])
        return taken


# --- writing ----------------------------------------------------------------------------------------------------------


def write_parts(
    parts: Sequence[Part], info: CodeInfo, read: Callable[[int, int], StoredRows], id_name: str | None, scratch: Path
) -> None:
    """Write the files of a store, each of them whole or not at all; what is written depends on nothing but its rows.

    Args:
        parts: all files.
        info: of the store.
        read: rows start..stop of the codes.
        id_name: column of the ids in the files of the vectors; None: there are none.
        scratch: a folder, where each file that goes to a url lies before.
    """
    for number, part in enumerate(parts):
        with appearing(part.file, scratch) as temporary:
            _write_part(temporary, part, number, len(parts), info, read, id_name)


def _write_part(
    path: Path,
    part: Part,
    number: int,
    num_parts: int,
    info: CodeInfo,
    read: Callable[[int, int], StoredRows],
    id_name: str | None,
) -> None:
    library = pyarrow(str(path))
    ids = None if id_name is None else _Ids(part, id_name)
    lists = [] if info.num_lists is None else [library.field(LIST_ID, library.int32(), nullable=False)]
    item = library.field("element", library.from_numpy_dtype(info.stored_dtype.newbyteorder("=")), nullable=False)
    codes = library.field(CODES, library.list_(item, info.stored_columns), nullable=False)
    schema = library.schema([*([] if ids is None else [ids.field]), *lists, codes])
    digest = RowsDigest()
    # of 256 values a dictionary takes a byte for each, as plain numbers they would take four
    with library.parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=True) as writer:
        for first in range(part.start, part.stop, _GROUP_ROWS):
            stop = min(first + _GROUP_ROWS, part.stop)
            rows = read(first, stop)
            digest.add(rows)
            arrays = [] if ids is None else [library.chunked_array(ids.take(stop - first), ids.field.type)]
            if rows.list_ids is not None:
                arrays.append(library.array(rows.list_ids, library.int32()))
            values = library.array(np.ascontiguousarray(rows.codes).reshape(-1))
            arrays.append(library.FixedSizeListArray.from_arrays(values, type=codes.type))
            writer.write_table(library.Table.from_arrays(arrays, schema=schema), row_group_size=_GROUP_ROWS)
        about = {"part": number, "num_parts": num_parts, "first_row": part.start, "sha256": digest.hexdigest()}
        writer.add_key_value_metadata({_METADATA: json.dumps({**info.to_values(), **about})})


# --- reading ----------------------------------------------------------------------------------------------------------


class TableRows:
    """Codes in Parquet files, and the list of each; `stops` are the rows where the files end."""

    def __init__(self, files: Sequence[str], info: CodeInfo, stops: Sequence[int]) -> None:
        self.files, self.stops = list(files), list(stops)
        self._codes = _column(self.files, CODES)
        self._list_ids = None if info.num_lists is None else _column(self.files, LIST_ID)

    def read(self, start: int, stop: int) -> StoredRows:
        """Rows start..stop, 0 <= start <= stop."""
        codes = self._codes.block(start, stop)
        return StoredRows(codes, None if self._list_ids is None else self._list_ids.block(start, stop)[:, 0])


def _column(files: Sequence[str], name: str) -> ManyRows:
    def layout(file: str) -> Layout:
        return parquet.read_layout(Target(file, Path(file), PARQUET_SUFFIX, name), file)

    return ManyRows(of_each(layout, files), rows_of)


class _Footer(NamedTuple):
    """What a file says of itself: the part that it is, if of a store."""

    file: str
    about: dict[str, Any] | None
    num_rows: int
    file_bytes: int


def _footer(file: str) -> _Footer:
    table = parquet.ParquetFile(file, file)
    metadata = table.content.metadata
    about = (metadata.metadata or {}).get(_METADATA)
    return _Footer(file, None if about is None else json.loads(about), metadata.num_rows, table.file_bytes)


def _files_of(place: Path | str) -> list[str]:
    if isinstance(place, str):
        found = named_urls(place, (PARQUET_SUFFIX,))
        return [place] if found is None else sorted(found)
    if place.is_file():
        return [str(place)]
    return sorted(str(file) for file in place.glob(f"*{PARQUET_SUFFIX}") if file.name[0] != ".")


def read_parts(place: Path | str) -> tuple[CodeInfo, list[ShardRecord], list[str], list[int]]:
    """What a store in Parquet is, the checksums and files of its parts, and the rows where these end.

    Raises:
        FileNotFoundError: a folder without Parquet files.
        MissingPartError: a part is missing.
        ValueError: a file that is no part of the store.
    """
    files = _files_of(place)
    if not files:
        raise FileNotFoundError(f"{place}: a folder without codes in Parquet")
    parts: dict[int, _Footer] = {}
    for each in of_each(_footer, files):
        if each.about is None:
            raise ValueError(f"{each.file}: no codes that `qinco encode` wrote: name another folder")
        if (number := each.about["part"]) in parts:
            raise ValueError(f"{each.file}: the same part as {parts[number].file}: keep one of them")
        parts[number] = each
    first = next(iter(parts.values())).about or {}
    info, stop, stops = CodeInfo.from_values(first), 0, []
    for number in range(first["num_parts"]):
        if number not in parts:
            raise MissingPartError(
                f"{place}: part {number} is missing, its rows begin at {stop}: run the same `qinco encode`"
            )
        file, about, num_rows, _ = parts[number]
        if about is None or about["first_row"] != stop or CodeInfo.from_values(about) != info:
            raise ValueError(f"{file}: part {number} is of another store than the others in {place}")
        stop += num_rows
        stops.append(stop)
    if stop != info.num_rows:
        raise ValueError(f"{place}: {stop} rows, but the store has {info.num_rows}: it is damaged")
    ordered = [parts[number] for number in range(len(stops))]
    records = [ShardRecord(each.file_bytes, str((each.about or {})["sha256"])) for each in ordered]
    return (
        info,
        records,
        [each.file if is_url(each.file) else str(Path(each.file).absolute()) for each in ordered],
        stops,
    )
