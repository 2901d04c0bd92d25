"""Codes next to the vectors: what a store in Parquet will be, asked before anything is encoded."""

from pathlib import Path
from typing import NamedTuple

from qinco_lit.vectors import VectorFile
from qinco_lit.vectors.code_tables import CODES, LIST_ID, Part, id_column, is_table_store, parts_of
from qinco_lit.vectors.columns import pyarrow


class Tables(NamedTuple):
    """The files of a store in Parquet, and the column of ids that they get."""

    parts: list[Part]
    id_name: str | None


def tables_for(output: Path | str, vectors: VectorFile, wanted: str | None, *, merge: bool) -> Tables | None:
    """Of a store in Parquet; None for one in HDF5. Raises ValueError for options that do not fit."""
    if not is_table_store(output):
        if wanted is not None:
            raise ValueError(f"id_column={wanted}: ids go into Parquet files, {output} is HDF5: give output=FOLDER/")
        return None
    if merge:
        raise ValueError(f"merge=true: a store in Parquet refers to no shards; output={output}.parquet is one file")
    pyarrow(f"output={output}")
    parts, name = parts_of(output, vectors), id_column(vectors, wanted)
    if name in (CODES, LIST_ID):
        raise ValueError(f"id_column={name}: a store of codes has a column of its own of this name")
    return Tables(parts, name)
