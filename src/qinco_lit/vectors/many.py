"""Many files of vectors as one: a glob, a folder or a list of them, their rows one after the other."""

import glob
import json
import os
import re
import threading
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from qinco_lit.vectors.layout import (
    FILE_SUFFIXES,
    HDF5_SUFFIXES,
    TABLE_SUFFIXES,
    Groups,
    Layout,
    is_url,
    split_dataset,
)
from qinco_lit.vectors.remote import HIDDEN, named_urls
from qinco_lit.vectors.rows import RowSource

# Files that are open at a time; each may have some 64 MB of its mapping resident. Of tables, whose rows are decoded
# (32 MB) and which are slower to read than to open, they are those that threads read at a time, and one more.
_MAX_OPEN, _MAX_OPEN_TABLES = 8, 3
_WILDCARDS = re.compile(r"[*?[]")
_DIGITS = re.compile(r"(\d+)")


def named_files(path: str | os.PathLike[str]) -> list[str] | None:
    """The files of a glob (`emb/part-*.npy`, `**` for folders within) or of a folder, in natural order; urls as well.

    None: it names one file. Of a folder these are the files of the one format of vectors that it holds, but none whose
    name begins with `.` or `_` (an engine's own) and none of folders within; of HDF5 files a glob names the dataset as
    well (`emb/*.h5:vectors`), of tables the column, where there are several (`emb/*.parquet:embedding`).

    Raises:
        FileNotFoundError: no file is there.
        ValueError: a folder with files of several formats, or of HDF5.
    """
    text = os.fspath(path)
    file, dataset = split_dataset(text)
    if is_url(file):
        found = named_urls(file, FILE_SUFFIXES)
        if found is not None and not found:
            raise FileNotFoundError(f"{text}: no file of vectors is named like this")
        return found and _in_order(found, dataset)
    if Path(file).is_dir():
        return _of_folder(text, Path(file))
    if not _WILDCARDS.search(file) or Path(file).exists():
        return None
    pattern = _with_folders_as_they_are(file)
    # a link that leads nowhere is not passed over: its rows would be missing
    found = [name for name in glob.glob(pattern, recursive=True) if not Path(name).is_dir()]  # noqa: PTH207 (a pattern of the user's, absolute or not)
    if not found:
        raise FileNotFoundError(f"{text}: no file is named like this")
    return _in_order(found, dataset)


def _with_folders_as_they_are(pattern: str) -> str:
    """The pattern, in which the brackets of folders that are there, from the left on, are no wildcards."""
    folders, rest = Path(), list(Path(pattern).parts)
    while len(rest) > 1 and (folders / rest[0]).is_dir():
        folders /= rest.pop(0)
    return str(Path(glob.escape(str(folders)), *rest)) if folders.parts else pattern


def _in_order(found: list[str], dataset: str | None) -> list[str]:
    return [name if dataset is None else f"{name}:{dataset}" for name in in_natural_order(found)]


def in_natural_order(names: Iterable[str]) -> list[str]:
    """part-2 before part-10."""
    return sorted(names, key=_natural)


def _of_folder(text: str, folder: Path) -> list[str]:
    found = [file for file in folder.iterdir() if file.suffix in FILE_SUFFIXES and file.name[0] not in HIDDEN]
    found = [file for file in found if not file.is_dir()]
    suffixes = sorted({file.suffix for file in found})
    if not suffixes:
        within = sorted({file.suffix for file in folder.glob("*/**/*.*") if file.suffix in FILE_SUFFIXES})
        if within:
            raise FileNotFoundError(f"{text}: its files of vectors are in folders within: give {text}/**/*{within[0]}")
        raise FileNotFoundError(f"{text}: a folder without files of vectors ({' '.join(FILE_SUFFIXES)})")
    if len(suffixes) > 1:
        raise ValueError(f"{text}: a folder with files of {' and '.join(suffixes)}: say which, {text}/*{suffixes[0]}")
    if suffixes[0] in HDF5_SUFFIXES:
        raise ValueError(f"{text}: a folder of HDF5 files: name their dataset, {text}/*{suffixes[0]}:DATASET")
    return in_natural_order(map(str, found))


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in _DIGITS.split(name)]


def joined_layout(path: str, layouts: Sequence[Layout]) -> Layout:
    """All files as one; raises ValueError for one whose dimension, dtype or column is not that of the first."""
    first = layouts[0]
    for each in layouts[1:]:
        are_tables = {each.suffix, first.suffix} <= {*TABLE_SUFFIXES}
        if are_tables and each.dataset != first.dataset and not split_dataset(each.path)[1]:  # nobody named it
            raise ValueError(
                f"{each.path}: vectors in column {each.dataset!r}, but {first.path} has column {first.dataset!r}: "
                "name the column"
            )
        if each.dim != first.dim:
            raise ValueError(f"{each.path}: dimension {each.dim}, but {first.path} has {first.dim}")
        if each.dtype != first.dtype:
            raise ValueError(f"{each.path}: dtype {each.dtype}, but {first.path} has {first.dtype}")
    return Layout(
        path=path, file=first.file, file_bytes=sum(each.file_bytes for each in layouts), dtype=first.dtype,
        num_rows=sum(each.num_rows for each in layouts), dim=first.dim, offset=None, row_stride=first.row_stride,
    )  # fmt: skip


class ManyRows:
    """Rows of many files, one file after the other; a file is opened when its rows are read, a few at a time.

    Args:
        layouts: of the files, in order.
        open_rows: makes the rows of one file; a function of a module, so that a pickle finds it.
    """

    def __init__(self, layouts: Sequence[Layout], open_rows: Callable[[Layout], RowSource]) -> None:
        self.layouts, self._open_rows = tuple(layouts), open_rows
        self._stops = list(accumulate(layout.num_rows for layout in layouts))
        self._open: OrderedDict[int, RowSource] = OrderedDict()
        self._opening = threading.Lock()

    def __getstate__(self) -> tuple[bytes, Any]:
        """Files differ by little more than a number in their names: some twenty bytes each remain."""
        columns = {name: [fact[name] for fact in map(_facts, self.layouts)] for name in _facts(self.layouts[0])}
        return zlib.compress(json.dumps(columns).encode(), 9), self._open_rows

    def __setstate__(self, state: tuple[bytes, Any]) -> None:
        columns = json.loads(zlib.decompress(state[0]))
        facts = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        layouts = [
            Layout(**{**fact, "dtype": np.dtype(fact["dtype"]), "groups": _groups(fact["groups"])}) for fact in facts
        ]
        self.__init__(layouts, state[1])  # type: ignore[misc]

    def block(self, start: int, stop: int) -> Shaped[np.ndarray, "n dim"]:
        """Rows start..stop, 0 <= start <= stop <= num_rows, as a fresh array (n, dim)."""
        parts = [self._rows(number).block(*rows) for number, rows in self._ranges(start, stop)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else self._rows(0).block(0, 0)

    def gather(self, ids: Int64[np.ndarray, " n"]) -> Shaped[np.ndarray, "n dim"]:
        """Rows `ids`, all in 0..num_rows - 1, as a fresh array (n, dim); each file is read once."""
        files = np.searchsorted(self._stops, ids, side="right")
        if not len(ids):
            return self._rows(0).gather(ids)
        first = self.layouts[0]
        out = np.empty((len(ids), first.dim), dtype=first.dtype.newbyteorder("="))
        order = np.argsort(files, kind="stable")
        for positions in np.split(order, np.flatnonzero(np.diff(files[order])) + 1):
            number = int(files[positions[0]])
            out[positions] = self._rows(number).gather(ids[positions] - self._first(number))
        return out

    def _first(self, number: int) -> int:
        """Row number of a file's first row."""
        return self._stops[number] - self.layouts[number].num_rows

    def _ranges(self, start: int, stop: int) -> Iterator[tuple[int, tuple[int, int]]]:
        number = bisect_right(self._stops, start)
        while start < stop:
            first, end = self._first(number), min(stop, self._stops[number])
            if start < end:
                yield number, (start - first, end - first)
            start, number = end, number + 1

    def _rows(self, number: int) -> RowSource:
        """A reader that is thrown out while another thread reads with it lives on until that has ended."""
        with self._opening:
            rows = self._open.pop(number, None)
            if rows is None:
                rows = self._open_rows(self.layouts[number])
            self._open[number] = rows
            if len(self._open) > (_MAX_OPEN if self.layouts[number].groups is None else _MAX_OPEN_TABLES):
                self._open.popitem(last=False)
            return rows


def _groups(pairs: list[list[int]] | None) -> Groups | None:
    """As they were before they were JSON."""
    return None if pairs is None else tuple((rows, number) for rows, number in pairs)


def _facts(layout: Layout) -> dict[str, Any]:
    return {**asdict(layout), "dtype": layout.dtype.str}
