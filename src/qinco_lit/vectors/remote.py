"""Files at urls (`s3://`, `gs://`, …) by way of fsspec: ranges of them are read, whole files are written."""

import io
import posixpath
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
from jaxtyping import Int64, Shaped

from qinco_lit.atomic import replacing, temporary_name
from qinco_lit.vectors.layout import Groups, Layout, is_url

# Of rows at a url: a range that costs about as much as any smaller one; what is skipped rather than asked for in two;
# ranges that are asked for at a time.
_RANGE_BYTES = 8 << 20
_GAP_BYTES = 256 << 10
_MAX_RANGES = 16
_READERS = 16  # headers and footers that are read at a time
HIDDEN = "._"  # first letters of files in a folder that are not its data: Spark and Hive write such

_Result = TypeVar("_Result")


@contextmanager
def in_one_line(url: str, done: str = "read") -> Iterator[None]:
    """Let what a file system raises inside the block name the url, in one line; `done` says what is done to it."""
    try:
        yield
    except Exception as error:  # of each file system its own
        if isinstance(error, FileNotFoundError) and done == "read":
            raise FileNotFoundError(f"{url}: no such file") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{url} cannot be {done}: {reason}") from None


def of_each(read: Callable[[str], _Result], files: Sequence[str]) -> list[_Result]:
    """What is read of each file; of files at urls some at a time, as each of them waits for a server."""
    if not any(map(is_url, files)):
        return [read(file) for file in files]
    with ThreadPoolExecutor(_READERS, thread_name_prefix="open-urls") as pool:
        return list(pool.map(read, files))


def _file_system(url: str) -> tuple[Any, str]:
    """The file system and the path in it. Asked for anew each time: fsspec keeps one for each process."""
    from fsspec.core import url_to_fs

    file_system, path = url_to_fs(url)
    return file_system, str(path)


def facts(url: str) -> tuple[int, str]:
    """Size in bytes, and what tells this version of the file from others as far as the file system says it."""
    with in_one_line(url):
        file_system, path = _file_system(url)
        info = file_system.info(path)
        if info.get("type") == "directory":
            raise FileNotFoundError
        if info.get("size") is None:
            raise ValueError("the server does not say how long it is")
        version = next((info[key] for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified") if key in info), "")
        return int(info["size"]), str(version)


def read_range(url: str, start: int, stop: int) -> bytes:
    """Bytes start..stop, which must be there."""
    with in_one_line(url):
        file_system, path = _file_system(url)
        content: bytes = file_system.cat_file(path, start=start, end=stop)
        if len(content) != stop - start:
            raise ValueError(f"it ends before byte {stop}, shorter than when it was opened")
        return content


def named_urls(url: str, suffixes: tuple[str, ...]) -> list[str] | None:
    """The files of a glob, or those with these suffixes of a folder, in any order; None: the url names one file."""
    with in_one_line(url):
        file_system, path = _file_system(url)
        if any(letter in path for letter in "*?["):
            found = [str(name) for name in file_system.glob(path)]
        elif posixpath.splitext(path)[1] in suffixes or not file_system.isdir(path):
            return None
        else:
            inside = file_system.ls(path, detail=True)
            found = [str(each["name"]) for each in inside if each["type"] == "file"]
            found = [name for name in found if name.endswith(suffixes) and posixpath.basename(name)[0] not in HIDDEN]
        return [file_system.unstrip_protocol(name) for name in found]


# --- writing ----------------------------------------------------------------------------------------------------------


@contextmanager
def appearing(place: Path | str, scratch: Path) -> Iterator[Path]:
    """Give a local name to write to: after the block its content appears at the place, whole or not at all.

    Args:
        place: a path, whose folder is made when needed, or a url.
        scratch: a folder for what goes to a url.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(place, Path):
        place.parent.mkdir(exist_ok=True)
        with replacing(place) as temporary:
            yield temporary
        return
    temporary = temporary_name(scratch / posixpath.basename(place))
    try:
        yield temporary
        _upload(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def _upload(file: Path, url: str) -> None:
    """Object stores, which have no renaming of their own, show a file when all of it is there; elsewhere it is renamed.

    What is killed before that leaves a name that begins with a dot.
    """
    from fsspec.spec import AbstractFileSystem

    with in_one_line(url, "written"):
        file_system, path = _file_system(url)
        if type(file_system).mv is AbstractFileSystem.mv:
            file_system.put_file(str(file), path)
            return
        folder, name = posixpath.split(path)
        temporary = posixpath.join(folder, f".{name}.{uuid4().hex[:12]}.tmp")
        file_system.makedirs(folder, exist_ok=True)
        try:
            file_system.put_file(str(file), temporary)
            file_system.mv(temporary, path)
        except BaseException:
            if file_system.exists(temporary):
                file_system.rm(temporary)
            raise


def write_text(url: str, text: str) -> None:
    """Put a small file in one piece. Raises OSError where it cannot be written."""
    with tempfile.TemporaryDirectory() as folder, appearing(url, Path(folder)) as file:
        file.write_text(text, encoding="utf-8")


def read_text(url: str) -> str | None:
    """Of a small file; None where there is none. Raises OSError where it cannot be read."""
    try:
        size, _ = facts(url)
        return read_range(url, 0, size).decode(errors="replace")
    except FileNotFoundError:
        return None


# --- reading ----------------------------------------------------------------------------------------------------------


class RangeFile(io.RawIOBase):
    """A file at a url as pyarrow reads one: each read is one range."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url, self._position = url, 0
        self._size, _ = facts(url)

    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, all that are left by default; fewer at the end."""
        left = max(0, self._size - self._position)
        count = left if size is None or size < 0 else min(size, left)
        content = read_range(self._url, self._position, self._position + count) if count else b""
        self._position += count
        return content


def ranges_of(num_rows: int, row_bytes: int) -> Groups:
    """Rows at a url in runs that are worth a request."""
    run = max(1, _RANGE_BYTES // row_bytes)
    full, rest = divmod(num_rows, run)
    return tuple(group for group in ((run, full), (rest, 1)) if all(group))


class RangedRows:
    """Rows of an npy file at a url, read by ranges; holds no rows and no connection."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._is_checked = False

    def block(self, start: int, stop: int) -> Shaped[np.ndarray, "n dim"]:
        """Rows start..stop, 0 <= start <= stop <= num_rows, as a fresh array (n, dim)."""
        self._check()
        return self._as_numbers(read_range(self._layout.file, *self._bytes(start, stop)) if start < stop else b"")

    def gather(self, ids: Int64[np.ndarray, " n"]) -> Shaped[np.ndarray, "n dim"]:
        """Rows `ids`, all in 0..num_rows - 1, as a fresh array (n, dim); rows that lie close are one range."""
        self._check()
        layout = self._layout
        out = np.empty((len(ids), layout.dim), dtype=layout.dtype.newbyteorder("="))
        order = np.argsort(ids, kind="stable")
        apart = np.diff(ids[order]) * layout.row_stride > _GAP_BYTES
        far = np.diff(ids[order] * layout.row_stride // _RANGE_BYTES) > 0
        runs = np.split(order, np.flatnonzero(apart | far) + 1) if len(ids) else []
        for first in range(0, len(runs), _MAX_RANGES):
            some = runs[first : first + _MAX_RANGES]
            for positions, content in zip(some, self._ranges([ids[[run[0], run[-1]]] for run in some]), strict=True):
                out[positions] = self._as_numbers(content)[ids[positions] - ids[positions[0]]]
        return out

    def _ranges(self, bounds: list[Int64[np.ndarray, " 2"]]) -> list[bytes]:
        """The bytes from one row to another one, of all pairs at a time."""
        url = self._layout.file
        starts, stops = zip(*(self._bytes(int(first), int(last) + 1) for first, last in bounds), strict=True)
        with in_one_line(url):
            file_system, path = _file_system(url)
            found: list[bytes] = file_system.cat_ranges(
                [path] * len(starts), list(starts), list(stops), on_error="raise"
            )
        return found

    def _bytes(self, start: int, stop: int) -> tuple[int, int]:
        stride, offset = self._layout.row_stride, self._layout.offset or 0
        return offset + start * stride, offset + stop * stride

    def _as_numbers(self, content: bytes) -> Shaped[np.ndarray, "n dim"]:
        rows = np.frombuffer(content, dtype=self._layout.dtype).reshape(-1, self._layout.dim)
        return rows.astype(self._layout.dtype.newbyteorder("="))

    def _check(self) -> None:
        """See once that it is the file that was opened."""
        if not self._is_checked:
            found, _ = facts(self._layout.file)
            if found != self._layout.file_bytes:
                raise ValueError(
                    f"{self._layout.path}: {self._layout.file_bytes} bytes when opened, now {found}; reopen it"
                )
            self._is_checked = True
