"""Vectors and stores of codes."""

from pathlib import Path
from typing import TYPE_CHECKING

from qinco_lit.reports.facts.reading import Lines, read
from qinco_lit.reports.kit.texts import search_text, size_text, time_text

if TYPE_CHECKING:
    from qinco_lit.vectors import CodeStore, VectorFile
    from qinco_lit.vectors.code_info import CodeInfo


def rows_lines(path: str) -> tuple[str, Lines]:
    """A store of codes, or vectors."""
    from qinco_lit.vectors import open_codes, open_vectors
    from qinco_lit.vectors.layout import HDF5_SUFFIXES, PARQUET_SUFFIX, is_url

    place, wrong = Path(path), None
    if is_url(path) or place.is_dir() or (place.suffix in (*HDF5_SUFFIXES, PARQUET_SUFFIX) and place.is_file()):
        try:
            return _store(open_codes(path))
        except FileNotFoundError:
            if place.is_file() or any(place.glob(f"*{PARQUET_SUFFIX}")):
                raise  # a store, of which files are missing
        except ValueError as error:
            wrong = error
    try:
        return _vectors(open_vectors(path))
    except (ValueError, OSError) as error:
        if wrong is not None and place.suffix in HDF5_SUFFIXES:
            raise ValueError(f"{wrong}; nor are they vectors: {error}") from None
        raise


def _vectors(vectors: "VectorFile") -> tuple[str, Lines]:
    from qinco_lit.vectors.layout import VECTOR_DTYPES
    from qinco_lit.vectors.many import named_files

    num_rows, dim = vectors.shape
    lines = [("rows", f"{num_rows:,}"), ("dim", f"{dim:,}"), ("dtype", vectors.dtype.name)]
    if files := named_files(vectors.path):
        lines.append(("files", f"{len(files):,}, from {files[0]} to {files[-1]}"))
    lines.append(("size", size_text(vectors.file_bytes)))
    record = Path(f"{vectors.path}.json")
    if record.is_file() and read(record).get("format") == "qinco_lit centroids":
        lines.append(("train", f"qinco train coarse=ivf coarse.centroids={vectors.path}"))
        return "centroids of lists", lines
    if vectors.dtype.name in VECTOR_DTYPES and dim > 1:
        lines.append(("train", f"qinco train data=files data.train={_quoted(vectors.path)}"))
    return "vectors", lines


def _store(store: "CodeStore") -> tuple[str, Lines]:
    info = store.info
    record = Path(f"{store.path}.json")
    encoded = read(record) if record.is_file() else {}
    lines = _of_codes(info)
    lines.insert(1, ("size", f"{size_text(info.num_rows * info.bytes_per_vector)} of codes"))
    elsewhere = f" in {store.path}.shards, which belongs to it" if store.is_virtual else ""
    lines.append(("shards", f"{store.num_shards:,}{elsewhere}"))
    if {"codec", "seconds", "created"} <= encoded.keys():
        took = time_text(encoded["seconds"])
        lines.append(("encoded by", f"{encoded['codec'] or 'a codec in memory'} in {took}, {encoded['created'][:10]}"))
    lines.append(("check", f"qinco verify {store.path}"))
    return "store of codes", lines


def _of_codes(info: "CodeInfo") -> Lines:
    lists = "" if info.num_lists is None else f", {info.num_lists:,} lists"
    longer = "" if info.encoded_num_steps is None else f", the first of {info.encoded_num_steps}"
    packed = ", packed" if info.packed else ""
    unit = " at unit length" if info.input_unit else ""
    rate = f"{info.num_steps} codes of {info.codebook_size}{longer}{lists}"
    return [
        ("rows", f"{info.num_rows:,}"),
        ("rate", f"{rate}: {info.bytes_per_vector} bytes a vector{packed}"),
        ("codec", f"weights {info.codec_sha256[:12]}"),
        ("search", f"{search_text(vars(info))}, {info.precision}"),
        ("input", f"{info.input_path}: dim {info.dim:,}, {info.input_dtype}{unit}"),
    ]


def unfinished_store_lines(place: Path, shards: Path) -> tuple[str, Lines]:
    """A store that is being encoded, or whose encoding was stopped."""
    from qinco_lit.encoding.shards import ShardFolder

    folder = ShardFolder.open(place)
    if folder is None:
        raise ValueError(f"{shards} holds no shards of codes yet: the command that makes {place} has just begun")
    lines = _of_codes(folder.info)
    finished = folder.finished()
    done = f"{folder.num_rows(finished):,} rows in {len(finished):,} of {folder.info.num_shards:,} shards"
    return "store of codes, not complete", [
        *lines,
        ("finished", done),
        ("go on", f"the same `{folder.command}` again"),
    ]


def _quoted(path: str) -> str:
    return f"'{path}'" if any(each in path for each in "*?[ ") else path
