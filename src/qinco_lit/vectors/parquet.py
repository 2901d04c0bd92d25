"""Parquet files: the layout of a column from the footer alone, and its row groups decoded as a stream."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from qinco_lit.vectors.columns import (
    Batches,
    check_rows,
    check_unchanged,
    column_layout,
    column_of,
    fixed_length,
    matrix,
    pyarrow,
)
from qinco_lit.vectors.layout import Layout, Target, is_url, run_lengths, system_errors_of
from qinco_lit.vectors.remote import RangeFile

_BUFFER_BYTES = 1 << 20  # read at a time of a local file


class ParquetFile:
    """A Parquet file, open.

    Args:
        file: its name, or its url.
        path: as it was written, for messages.

    Raises:
        ValueError: it is none, or pyarrow is not installed.
    """

    def __init__(self, file: str, path: str) -> None:
        library = pyarrow(path)
        with nullcontext() if is_url(file) else system_errors_of(path):
            source = RangeFile(file) if is_url(file) else library.OSFile(file)
        self.file_bytes = int(source.size())
        try:
            # at a url all ranges of a row group are asked for together; of a local file a megabyte after the other
            self.content = library.parquet.ParquetFile(source, pre_buffer=is_url(file), buffer_size=_BUFFER_BYTES)
        except library.ArrowInvalid as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: no Parquet file, or a truncated one ({reason})") from None
        metadata = self.content.metadata
        sizes = {group: metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)}
        self.groups = {group: size for group, size in sizes.items() if size}

    def arrays(self, column: str, batch_rows: int, groups: list[int]) -> Iterator[Any]:
        """The rows of a column in these row groups, so many at a time."""
        batches = self.content.iter_batches(
            batch_size=batch_rows, row_groups=groups, columns=[column], use_threads=False
        )
        return (batch.column(column) for batch in batches)  # of `e` pyarrow gives `e.x`, too


def read_layout(target: Target, file: str) -> Layout:
    """Find the column of `file.parquet:column`, or the only one of vectors; reads the footer, and no data."""
    source = ParquetFile(file, target.path)
    check_rows(target.path, source.groups)
    field = column_of(target, source.content.schema_arrow)
    dim = fixed_length(field)
    if dim is None:
        dim = _length_of_lists(target, field, source)
    return column_layout(target, file, source.file_bytes, field, dim, list(source.groups.values()))


def _length_of_lists(target: Target, field: Any, source: ParquetFile) -> int:
    """Where the type of lists does not say how long they are: the footer counts the numbers of each row group."""
    metadata, schema = source.content.metadata, source.content.schema
    # columns named `e` and `e.x`: the leaf of the first, `e.list.element`, is that of the fewest names
    paths = {leaf: schema.column(leaf).path for leaf in range(len(schema)) if schema.column(leaf).max_repetition_level}
    leaf = min((each for each in paths if paths[each].startswith(f"{field.name}.")), key=lambda each: len(paths[each]))
    counts = [(metadata.row_group(group).column(leaf).num_values, size) for group, size in source.groups.items()]
    dim: int = counts[0][0] // counts[0][1]
    if any(count != size * dim for count, size in counts):  # some row is to blame: find it
        arrays, row = source.arrays(field.name, 1024, list(source.groups)), 0
        for array in arrays:
            dim = len(array[0]) if row == 0 and array[0].is_valid else dim
            matrix(array, max(dim, 1), target.path, row)
            row += len(array)
    return dim


def open_batches(layout: Layout) -> Batches:
    """Open the file for its column, once it is seen to be the same file as before."""
    source = ParquetFile(layout.file, layout.path)
    check_unchanged(layout, source.file_bytes, run_lengths(source.groups.values()))
    groups = list(source.groups)
    return lambda group, batch_rows: source.arrays(str(layout.dataset), batch_rows, [groups[group]])
